"""stages/networks/shuffle_decoder.py."""

from __future__ import annotations

import pytest
import torch

from stages.networks.shuffle_decoder import ShuffleDecoder


def test_its_logits_have_the_size_of_the_picture() -> None:
    for stride, doublings in ((4, 2), (8, 3), (16, 4)):
        decoder = ShuffleDecoder(6, 5, stride)
        assert len(decoder.doublings) == doublings
        assert decoder({"high": torch.rand(2, 6, 3, 4)}).shape == (2, 5, 3 * stride, 4 * stride)


def test_a_new_decoder_is_constant_in_a_cell() -> None:
    """ICNR: no checkerboard before training."""
    torch.manual_seed(0)
    high = torch.rand(2, 6, 3, 4)
    logits = ShuffleDecoder(6, 5, 8)({"high": high})
    cells = logits[..., ::8, ::8]
    torch.testing.assert_close(logits, cells.repeat_interleave(8, 2).repeat_interleave(8, 3))
    assert cells.std() > 0


def test_the_sub_pixels_of_a_cell_are_learned_apart() -> None:
    decoder = ShuffleDecoder(1, 2, 2)
    with torch.no_grad():
        decoder.classes.weight.copy_(torch.tensor([1.0, 2.0]).view(2, 1, 1, 1))
        decoder.doublings[0].weight.zero_()
        decoder.doublings[0].bias.copy_(torch.arange(8.0))
    expected = torch.tensor([[[0.0, 1.0], [2.0, 3.0]], [[4.0, 5.0], [6.0, 7.0]]])
    assert torch.equal(decoder({"high": torch.rand(1, 1, 1, 1)})[0], expected)


@pytest.mark.parametrize("stride", [1, 14, 24])
def test_other_strides_are_refused(stride: int) -> None:
    with pytest.raises(ValueError, match=f"stride {stride} is no power of two"):
        ShuffleDecoder(6, 5, stride)
