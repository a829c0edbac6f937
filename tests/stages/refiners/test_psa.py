"""stages/refiners/psa.py: labels by pydensecrf and block means, the walk by a dense matrix, odd images."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pydensecrf import densecrf

from artifacts.errors import ConfigError
from artifacts.score_maps import ScoreMap
from stages.config import build
from stages.engine.known import Known
from stages.localization.affinity_labels import CELL, affinity_labels
from stages.localization.config import CrfConfig
from stages.localization.grid import resize_maps
from stages.localization.random_walk import walk_with_background
from stages.networks import normalise
from stages.networks.affinity import STRIDE, build_affinity_network
from stages.networks.config import ClassifierConfig
from stages.refiners.psa import Psa, PsaTraining
from stages.refiners.refiner import Means
from stages.refiners.settings import TrainRefinerConfig
from stages.refiners.settings.psa import PsaSettings
from tests.stages.refiners.small_refinement import blurred_scores, draw

ROOT = Path(__file__).parents[3]
CRF = CrfConfig(parameters="psa", scale=5)


def known(index: int = 0) -> Known:
    image, mask = draw(index)
    scores, classes = blurred_scores(mask, index)
    maps = ScoreMap("x", scores.astype(np.float32), classes, mask.shape, 4, "cam")
    return Known("x", image, tuple(classes.tolist()), maps)


def test_labels_are_confident_or_unknown():
    """As the field makes la and ha: two CRFs, means over blocks of 8 x 8 pixels around the cells, then the highest."""
    image = known()
    height, width = image.image.shape[:2]
    cams = resize_maps(image.scores.scores, (height, width), 4)

    def after_crf(alpha: float) -> np.ndarray:
        scores = np.concatenate([(1 - cams.max(0, keepdims=True)) ** alpha, cams])
        crf = densecrf.DenseCRF2D(width, height, 2)
        crf.setUnaryEnergy(np.ascontiguousarray(-np.log(np.clip(scores, 1e-5, 1)).reshape(2, -1)))
        crf.addPairwiseGaussian(sxy=3 / 5, compat=3)
        crf.addPairwiseBilateral(sxy=80 / 5, srgb=13, rgbim=np.ascontiguousarray(image.image), compat=10)
        marginals = np.array(crf.inference(10)).reshape(2, height, width)
        means = [
            [marginals[:, max(y - 4, 0) : y + 4, max(x - 4, 0) : x + 4].mean((1, 2)) for x in range(0, width, 8)]
            for y in range(0, height, 8)
        ]
        return np.array(means).argmax(-1)

    low, high = after_crf(4), after_crf(32)
    expected = np.where(low == 0, 255, low)
    expected[high == 0] = 0
    found = affinity_labels(image, 4, 32, CRF)
    assert found.shape == (height, width)
    assert np.array_equal(found[::8, ::8], expected)
    assert set(np.unique(expected)) == {0, 1, 255}
    assert CELL == STRIDE


def test_a_cell_has_the_label_of_the_8_pixels_around_it_and_confident_background_comes_first():
    """Without a step of the CRF the scores stand, as shares: the class has .40 where it scores .23, with alpha 4."""
    scores = np.full((1, 16, 24), 0.23, np.float32)
    scores[:, :, :12] = 1
    image = Known("x", np.zeros((16, 24, 3), np.uint8), (3,), ScoreMap("x", scores, np.array([3]), (16, 24), 1, "cam"))
    plain = CrfConfig(parameters="psa", iterations=0)
    # so it wins where at least 2 of the columns c - 4 to c + 3 are of the first 12: (2 + 6 * .40) / 8 > .5
    expected = np.where(np.arange(24) <= 14, 3, 255)
    assert np.array_equal(affinity_labels(image, 4, 32, plain), np.tile(expected, (16, 1)))
    # a low alpha above the high one: what is a class in the first and background in the second is background
    scores[:] = 0.3
    assert (affinity_labels(image, 32, 4, plain) == 3).all()
    assert (affinity_labels(image, 32, 1, plain) == 0).all()


def test_a_higher_alpha_leaves_less_background():
    shares = [(affinity_labels(known(), 4, high, CRF) == 0).mean() for high in (8, 32)]
    assert shares[0] > shares[1] > 0


def test_an_image_without_classes_is_background():
    image = known(5)
    assert (affinity_labels(image, 4, 32, CRF) == 0).all()
    (refined,) = refiner(radius=3).refine([[image]])
    assert refined.classes.tolist() == [0]
    assert np.allclose(refined.scores, 1, atol=1e-6)


def test_an_image_of_one_pixel_is_refined():
    scores = ScoreMap("x", np.ones((2, 1, 1), np.float32), np.array([2, 5]), (1, 1), 4, "cam")
    image = Known("x", np.full((1, 1, 3), 80, np.uint8), (2, 5), scores)
    (refined,) = refiner().refine([[image]])
    assert np.allclose(refined.scores.ravel(), [0, 1, 1], atol=1e-6)
    assert affinity_labels(image, 4, 32, CRF).tolist() == [[2]]


def test_labels_of_a_large_image_are_made_on_a_copy():
    """About the same labels, at the image's size."""
    image = known()
    whole, copied = (
        affinity_labels(image, 4, 32, CRF.model_copy(update={"max_pixels": pixels})) for pixels in (10_000, 3_000)
    )
    assert copied.shape == whole.shape == image.scores.size
    assert 0.9 < (copied == whole).mean() < 1


def refiner(**settings: int) -> Psa:
    network = build_affinity_network(ClassifierConfig.model_validate("tiny"), seed=0)
    return Psa(PsaSettings(**settings), network.eval(), Means(torch.device("cpu")))


def test_scores_and_their_background_walk_by_the_dense_matrix_of_features():
    image, walker = known(), refiner(radius=3, doublings=4, beta=3)
    (found,) = walker.refine([[image]])
    pixels = torch.from_numpy(image.image.transpose(2, 0, 1).copy())[None]
    with torch.inference_mode():
        features = walker.network(normalise(pixels))[0].numpy().astype(np.float64)  # (448, 9, 12)
    height, width = features.shape[1:]
    cells = [(y, x) for y in range(height) for x in range(width)]
    matrix = np.array(
        [
            [
                np.exp(-np.abs(features[:, a, b] - features[:, c, d]).mean()) ** 3 * ((a - c) ** 2 + (b - d) ** 2 < 9)
                for c, d in cells
            ]
            for a, b in cells
        ]
    )
    matrix = np.linalg.matrix_power(matrix / matrix.sum(0), 16)
    cams = resize_maps(image.scores.scores, image.scores.size, 4)
    full = np.concatenate([(1 - cams.max(0, keepdims=True)) ** 16, cams])
    # each cell has the pixels nearest to it: 4 before, 3 behind; the last ones all that follow
    rows, columns = (np.minimum((np.arange(length) + 4) // 8, count - 1) for length, count in ((72, 9), (90, 12)))
    start = [full[:, rows == y][:, :, columns == x].mean((1, 2)) for y, x in cells]
    expected = (np.array(start).T @ matrix).reshape(2, height, width)
    assert np.allclose(found.scores, expected, atol=1e-5)
    assert np.array_equal(found.scores.argmax(0), expected.argmax(0))
    assert (found.classes.tolist(), found.size, found.stride, found.meaning) == ([0, 1], (72, 90), 8, "refined")


def test_an_image_cannot_walk_beyond_what_is_alike():
    """Two halves without a pair between them keep their scores apart."""
    scores = np.zeros((1, 18, 24), np.float32)
    scores[0, 8, 4] = 1
    affinities = {(0, 1): np.ones((9, 11), np.float32), (1, 0): np.ones((8, 12), np.float32)}
    affinities[0, 1][:, 5] = 0
    found = walk_with_background(ScoreMap("x", scores, np.array([7]), (72, 96), 4, "cam"), affinities, 8, 16, 8, 8)
    assert found.scores[1, :, 6:].max() == 0
    assert found.scores[1, :, :6].min() > 0
    assert np.allclose(found.scores[0, :, 6:], 1)


def test_bf16_changes_the_affinities_a_little():
    exact = refiner(radius=3)
    close = Psa(exact.settings, exact.network, Means(torch.device("cpu"), torch.bfloat16))
    for offset, expected in exact.affinities([known()]).items():
        found = close.affinities([known()])[offset]
        assert 0 < (found - expected).abs().max() < 0.02


def test_labels_are_made_by_a_function_that_loads_no_torch():
    code = (
        f"import pickle, sys; pickle.loads({pickle.dumps(PsaTraining.prepare)!r});"
        f"pickle.loads({pickle.dumps(walk_with_background)!r}); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_crop_without_pairs_is_refused():
    with pytest.raises(ConfigError, match=r"crop_size 64 is too small for psa with these settings"):
        build(TrainRefinerConfig, {"crop_size": 64, "method": "psa"}, "test")
    assert build(TrainRefinerConfig, {"crop_size": 65, "method": "psa"}, "test").crop_size == 65
