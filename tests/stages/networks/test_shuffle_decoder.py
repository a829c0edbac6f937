"""stages/networks/shuffle_decoder.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.networks.blocks import upsample
from stages.networks.shuffle_decoder import ShuffleDecoder


def test_its_logits_have_the_size_of_the_image() -> None:
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
    blocks = cells.repeat_interleave(8, 2).repeat_interleave(8, 3)
    torch.testing.assert_close(logits[..., 4:-4, 4:-4], blocks[..., 8:, 8:])
    assert cells.std() > 0


@pytest.mark.parametrize("size", [(33, 41), (32, 40), (30, 37)])
def test_a_cell_lies_where_the_heads_of_the_segmenters_have_it(size: tuple[int, int]) -> None:
    """A new decoder's cells, each on the pixels nearest to its centre, which is pixel 8 i as `upsample` has it.

    With sub-pixels from 8 i on, as before, the map lay 3.5 pixels to the right of and below what it is compared with.
    """
    torch.manual_seed(0)
    decoder = ShuffleDecoder(6, 5, 8)
    rows, columns = (-(-side // 8) for side in size)
    high = torch.rand(1, 6, rows, columns)
    found = decoder({"high": high})[..., : size[0], : size[1]]
    assert found.shape[-2:] == size
    cells = found[..., ::8, ::8]
    torch.testing.assert_close(upsample(cells, size, 8)[..., ::8, ::8], cells)
    for column in range(columns):
        alone = decoder({"high": high[..., column : column + 1]})[..., : size[0], :1]
        torch.testing.assert_close(cells[..., column : column + 1], alone[..., ::8, :])
    for y, x in np.ndindex(*size):
        row, column = (
            np.abs(8 * np.arange(count) - place - 0.1).argmin() for count, place in ((rows, y), (columns, x))
        )
        torch.testing.assert_close(found[..., y, x], cells[..., row, column])


def test_the_sub_pixels_of_a_cell_are_learned_apart() -> None:
    decoder = ShuffleDecoder(1, 2, 2)
    with torch.no_grad():
        decoder.classes.weight.copy_(torch.tensor([1.0, 2.0]).view(2, 1, 1, 1))
        decoder.doublings[0].weight.zero_()
        decoder.doublings[0].bias.copy_(torch.arange(8.0))
    above = torch.tensor([[[0.0, 1.0], [2.0, 3.0]], [[4.0, 5.0], [6.0, 7.0]]])
    found = decoder({"high": torch.rand(1, 1, 2, 2)})[0]
    assert torch.equal(found[:, 1:3, 1:3], above)  # those of the cell whose centre is pixel (2, 2)
    assert torch.equal(found[:, 0, 0], above[:, 1, 1])  # the last one of the cell on pixel (0, 0)


@pytest.mark.parametrize("stride", [1, 14, 24])
def test_other_strides_are_refused(stride: int) -> None:
    with pytest.raises(ValueError, match=f"stride {stride} is not a power of two"):
        ShuffleDecoder(6, 5, stride)
