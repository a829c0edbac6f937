"""stages/methods/puzzle_cam.py: tiles by hand, the loss against a plain loop over tiles, the ramp, bad crops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from artifacts.errors import ConfigError
from stages.methods.puzzle_cam import cut_into_tiles, merge_tiles


def test_tiles_by_hand():
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    tiles = cut_into_tiles(image, 2)
    assert tiles[:, 0].tolist() == [[[0, 1], [4, 5]], [[2, 3], [6, 7]], [[8, 9], [12, 13]], [[10, 11], [14, 15]]]


@pytest.mark.parametrize("tiles", [2, 3, 4])
def test_tiles_put_together_are_the_image(tiles):
    images = torch.randn(3, 2, 12, 24)
    cut = cut_into_tiles(images, tiles)
    assert cut.shape == (3 * tiles**2, 2, 12 // tiles, 24 // tiles)
    assert torch.equal(merge_tiles(cut, tiles), images)


def test_the_loss_is_that_of_a_plain_loop_over_the_tiles(case):
    made = case("puzzle-cam", weight=3.0, ramp=0.0, network={"preset": "tiny", "dropout": 0.0})
    batch, network = made.batch["labelled"], made.method.predictor
    side = batch.image.shape[-1]
    with torch.no_grad():
        whole = network.activation_maps(batch.image)
        merged = torch.zeros_like(whole)
        cells = whole.shape[-1] // 2
        for row in range(2):
            for column in range(2):
                part = batch.image[..., row * side // 2 :, column * side // 2 :][..., : side // 2, : side // 2]
                maps = network.activation_maps(part)
                merged[..., row * cells :, column * cells :][..., :cells, :cells] = maps
        losses = made.losses()
    total, count = 0.0, 0
    for maps, others, tags in zip(whole.numpy(), merged.numpy(), batch.tags.numpy(), strict=True):
        for k, present in enumerate(tags):
            total += present * np.abs(maps[k] - others[k]).sum()
            count += maps[k].size
    assert losses["reconstruction"].item() == pytest.approx(3 * total / count, rel=1e-5)
    for term, maps in (("whole", whole), ("tiles", merged)):
        expected = F.multilabel_soft_margin_loss(maps.mean((2, 3)), batch.tags)
        torch.testing.assert_close(losses[term], expected)


def test_the_reconstruction_comes_in_linearly(case):
    method = case("puzzle-cam", weight=4.0, ramp=0.5).method
    half = method.setup.iterations // 2
    assert [method.weight(step) for step in (0, half // 2, half, 2 * half)] == pytest.approx(
        [0, 4 * (half // 2) / half, 4, 4]
    )


def test_a_crop_that_is_not_whole_tiles_of_whole_cells_is_refused(case):
    made = case("puzzle-cam")
    batch = made.batch["labelled"]
    made.batch["labelled"] = batch.replace(image=F.pad(batch.image, (0, 8, 0, 8)))
    with pytest.raises(ConfigError, match="crop_size 40 is not 2 tiles of whole cells, of 8 pixels each") as caught:
        made.losses()
    assert "crop_size 32" in caught.value.hint
