"""stages/refiners/drs_refinement.py: the loss by hand and by a plain loop, learning of maps, inference over scales."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from artifacts.score_maps import ScoreMap
from stages.engine.known import Known
from stages.networks import normalise
from stages.networks.config import ClassifierConfig
from stages.networks.suppression import build_suppressed
from stages.refiners.drs_refinement import DrsRefinement, regression
from stages.refiners.refiner import Means
from stages.refiners.settings.drs_refinement import DrsRefinementSettings

NOTHING = ScoreMap("a", np.zeros((0, 1, 1), np.float32), np.zeros(0, np.uint8), (1, 1), 4, "cam")


def test_the_loss_by_hand():
    """Two classes, three cells: (.2, .8), (.5, .5), (0, 0); of the first only .8 is a target; the third is padding."""
    scores = torch.tensor([[[[0.2, 0.5, 0.0]], [[0.8, 0.5, 0.0]]]])
    maps = torch.tensor([[[[0.1, 0.5, 7.0]], [[0.5, 0.0, 7.0]]]])
    known = torch.tensor([[[[True, True, False]]]])
    expected = (0.1**2 + 0.3**2 + 0.0 + 0.5**2) / 4
    assert float(regression(maps, scores, known)) == pytest.approx(expected)


def test_the_loss_against_a_loop():
    rng = np.random.default_rng(0)
    maps, scores = rng.random((2, 3, 4, 5)), np.round(rng.random((2, 3, 4, 5)), 1)  # rounded: ties
    known = rng.random((2, 1, 4, 5)) < 0.7
    terms = []
    for image, y, x in np.argwhere(known[:, 0]):
        cell = scores[image, :, y, x]
        terms += [(maps[image, k, y, x] - (cell[k] if cell[k] == cell.max() else 0)) ** 2 for k in range(3)]
    found = regression(*(torch.from_numpy(values) for values in (maps, scores, known)))
    assert float(found) == pytest.approx(np.mean(terms))


def refiner(**settings) -> DrsRefinement:
    network = build_suppressed(ClassifierConfig.model_validate("tiny"), 3, 0, None)
    torch.nn.init.normal_(network.scores.weight, std=1.0)
    return DrsRefinement(DrsRefinementSettings(**settings), network, Means(torch.device("cpu")))


def known(classes, height=24, width=36, seed=0) -> Known:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Known("a", image, classes, NOTHING)


def test_maps_of_one_scale_are_those_of_the_network_between_0_and_1():
    one, image = refiner(scales=(1.0,)), known([1, 3], 25, 33)
    (found,) = one.refine([[image]])
    raw = one.network.activation_maps(normalise(torch.from_numpy(image.image.transpose(2, 0, 1).copy())[None]))
    expected = raw[0].clamp(0, None).detach().numpy()[[0, 2]]  # cells on pixels 0, 8, ...
    np.testing.assert_allclose(found.scores[:, ::2, ::2], expected.clip(0, 1), atol=1e-5)
    assert (found.scores > 0).any()
    assert (tuple(found.classes), found.size, found.stride, found.meaning) == ((1, 3), (25, 33), 4, "refined")


def test_of_scales_and_mirrors_the_highest_counts():
    image = known([1, 2, 3])
    alone = [next(refiner_of((s,)).refine([[image]])).scores for s in (0.8, 1.0, 1.2)]
    (together,) = refiner_of((0.8, 1.0, 1.2)).refine([[image]])
    np.testing.assert_allclose(together.scores, np.max(alone, axis=0), atol=1e-6)
    (mirrored,) = refiner_of((1.0,), flip=True).refine([[image]])
    assert (mirrored.scores >= alone[1] - 1e-6).all()
    assert not np.allclose(mirrored.scores, alone[1])


def refiner_of(scales, flip=False) -> DrsRefinement:
    torch.manual_seed(0)
    return refiner(scales=scales, flip=flip)


@pytest.mark.parametrize(("classes", "size"), [([], (20, 20)), ([1, 2, 3], (1, 1)), ([2], (1, 300))])
def test_images_without_labels_and_of_one_pixel_have_maps(classes, size):
    (found,) = refiner().refine([[known(classes, *size)]])
    assert found.scores.shape == (len(classes), -(-size[0] // 4), -(-size[1] // 4))
    assert np.isfinite(found.scores).all()


def test_the_network_learns_maps_that_follow_the_colours():
    """A red and a green half, whose maps are 1 there: after some steps the maps say so of the mirror image, too."""
    torch.manual_seed(0)
    network = build_suppressed(ClassifierConfig.model_validate("tiny"), 2, 0, None)
    image = np.zeros((1, 3, 32, 32), np.uint8)
    image[:, 0, :, :16], image[:, 1, :, 16:] = 220, 220
    scores = torch.zeros(1, 2, 4, 4)
    scores[:, 0, :, :2], scores[:, 1, :, 2:] = 1, 1
    images, everywhere = normalise(torch.from_numpy(image)), torch.ones(1, 1, 4, 4, dtype=torch.bool)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = regression(network.activation_maps(images), scores, everywhere)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02
