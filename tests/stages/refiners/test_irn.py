"""stages/refiners/irn.py: the loss by hand and by plain loops, labels by numpy alone, boundaries of mirrored images."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydensecrf import densecrf

from artifacts.errors import ConfigError
from artifacts.score_maps import ScoreMap
from stages.config import build
from stages.engine.known import Known
from stages.localization.boundary_labels import boundary_labels
from stages.localization.config import CrfConfig
from stages.localization.pair_learning import affinity_losses
from stages.localization.pairs import class_boundary_affinity, line_between, offsets
from stages.localization.random_walk import boundary_affinities, walk, walk_between_boundaries
from stages.networks import normalise
from stages.networks.boundary import build_boundary_network
from stages.networks.config import ClassifierConfig
from stages.refiners import load_refiner
from stages.refiners.irn import Irn, IrnTraining
from stages.refiners.refiner import Means
from stages.refiners.settings import TrainRefinerConfig
from stages.refiners.settings.irn import IrnSettings
from tests.stages.refiners.small_refinement import blurred_scores, draw

ROOT = Path(__file__).parents[3]
CRF = CrfConfig(parameters="irn")


def by_loops(boundary: np.ndarray, labels: np.ndarray, radius: int) -> dict[str, float]:
    """The loss pair by pair."""
    terms: dict[str, list[float]] = {"background": [], "foreground": [], "different": []}
    height, width = labels.shape[1:]
    rim = radius - 1
    for image in range(len(labels)):
        for y in range(height - rim):
            for x in range(rim, width - rim):
                for dy, dx in offsets(radius):
                    one, two = labels[image, y, x], labels[image, y + dy, x + dx]
                    if 255 in (one, two):
                        continue
                    a = 1 - max(boundary[image, y + j, x + i] for j, i in line_between((dy, dx)))
                    if one != two:
                        terms["different"].append(-math.log(1 + 1e-5 - a) / 2)
                    else:
                        terms["foreground" if one else "background"].append(-math.log(a + 1e-5) / 4)
    return {name: float(np.mean(values)) if values else 0.0 for name, values in terms.items()}


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), radius=st.integers(2, 4))
def test_the_loss_is_the_mean_over_pairs(seed, radius):
    rng = np.random.default_rng(seed)
    height, width = radius + rng.integers(0, 4), 2 * radius - 1 + rng.integers(0, 4)
    boundary = rng.random((2, height, width))
    labels = rng.choice([0, 1, 2, 255], p=[0.4, 0.3, 0.1, 0.2], size=(2, height, width))
    affinity = class_boundary_affinity(torch.from_numpy(boundary), radius)
    found = affinity_losses(affinity, torch.from_numpy(labels), radius)
    for name, expected in by_loops(boundary, labels, radius).items():
        assert float(found[name]) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_the_loss_by_hand():
    """Radius 2, one row of sources: cell (0, 1) with its partners (0, 2), (1, 0), (1, 1) and (1, 2)."""
    boundary = torch.tensor([[[0.9, 0.2, 0.5], [0.1, 0.4, 0.3]]])
    labels = torch.tensor([[[255, 1, 1], [1, 0, 255]]])
    # alike, foreground: (0, 2): highest .5; (1, 0): its square holds .9. Different: (1, 1): .4. Unknown: (1, 2).
    found = affinity_losses(class_boundary_affinity(boundary, 2), labels, 2)
    assert float(found["foreground"]) == pytest.approx(-(math.log(0.5 + 1e-5) + math.log(0.1 + 1e-5)) / 2 / 4, rel=1e-5)
    assert float(found["different"]) == pytest.approx(-math.log(0.4 + 1e-5) / 2, rel=1e-5)
    assert float(found["background"]) == 0


def known(index: int = 0) -> Known:
    image, mask = draw(index)
    scores, classes = blurred_scores(mask, index)
    maps = ScoreMap("x", scores.astype(np.float32), classes, mask.shape, 4, "cam")
    return Known("x", image, tuple(classes.tolist()), maps)


def test_labels_are_sure_or_unknown():
    """Against pydensecrf called by itself; what the field calls conf_fg .30 and conf_bg .05."""
    image = known()
    full = torch.nn.functional.interpolate(  # cell i on pixel 4 i
        torch.from_numpy(image.scores.scores)[None], size=(18 * 4 - 3, 23 * 4 - 3), mode="bilinear", align_corners=True
    )[0].numpy()
    height, width = image.image.shape[:2]
    full = np.pad(full, ((0, 0), (0, 8), (0, 8)), mode="edge")[:, :height, :width]

    def after_crf(threshold: float) -> np.ndarray:
        labels = (full[0] > threshold).astype(int)
        unary = np.where(np.arange(2)[:, None] == labels.ravel(), -np.log(0.7), -np.log(0.3)).astype(np.float32)
        crf = densecrf.DenseCRF2D(width, height, 2)
        crf.setUnaryEnergy(np.ascontiguousarray(unary))
        crf.addPairwiseGaussian(sxy=3, compat=3)
        crf.addPairwiseBilateral(sxy=50, srgb=5, rgbim=np.ascontiguousarray(image.image), compat=10)
        return np.argmax(np.array(crf.inference(10)), 0).reshape(height, width)

    high, low = after_crf(0.3), after_crf(0.05)
    expected = np.full((height, width), 255)
    expected[high == 1] = 1
    expected[(high == 0) & (low == 0)] = 0
    found = boundary_labels(image, 0.3, 0.05, CRF)
    assert np.array_equal(found, expected)
    assert set(np.unique(found)) == {0, 1, 255}


def test_an_image_without_classes_is_background():
    image = known(5)
    assert (boundary_labels(image, 0.3, 0.05, CRF) == 0).all()
    refined = walk_between_boundaries(image.scores, np.zeros((16, 21), np.float32), 5, 10, 8)
    assert refined.scores.shape == (0, 16, 21)


def test_refined_maps_are_walks_of_the_scores_outside_boundaries():
    rng = np.random.default_rng(3)
    scores = ScoreMap("x", rng.random((2, 9, 11)).astype(np.float32), np.array([1, 4]), (36, 44), 4, "cam")
    boundary = rng.random((9, 11)).astype(np.float32) ** 3
    found = walk_between_boundaries(scores, boundary, 3, 10, 4)
    expected = walk(scores.scores * (1 - boundary), boundary_affinities(boundary, 3), 10, 4)
    assert np.allclose(found.scores, expected / expected.max())
    assert found.scores.max() == 1
    assert (found.meaning, found.size, found.stride) == ("refined", (36, 44), 4)


def boundaries_of(width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The boundaries of an image and of its mirror image, and those without any mirroring."""
    network = build_boundary_network(ClassifierConfig.model_validate("tiny"), seed=0)
    refiner = Irn(IrnSettings(), network.eval(), Means(torch.device("cpu")))
    image = np.random.default_rng(0).integers(0, 256, (64, width, 3)).astype(np.uint8)
    both = [Known("x", pixels, (), None) for pixels in (image, np.ascontiguousarray(image[:, ::-1]))]
    pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
    with torch.inference_mode():
        plain = network(normalise(pixels)).sigmoid()[0].numpy()
    return (*refiner.boundaries(both).numpy(), plain)


def test_boundaries_of_the_mirror_image_are_mirrored():
    first, second, plain = boundaries_of(89)
    assert np.abs(second[:, ::-1] - first).max() < 1e-5
    assert np.abs(first - plain).max() > 1e-3


@pytest.mark.parametrize("width", [90, 91, 92])
def test_boundaries_stay_in_place_at_widths_whose_mirror_image_has_other_cells(width):
    first, _, plain = boundaries_of(width)
    assert first.shape == plain.shape
    moved = [np.roll(plain, shift, axis=1) for shift in (-1, 1)]
    assert np.corrcoef(first.ravel(), plain.ravel())[0, 1] > 0.6
    assert all(np.corrcoef(first.ravel(), other.ravel())[0, 1] < 0.4 for other in moved)


def test_labels_are_made_by_a_function_that_loads_no_torch():
    code = (
        f"import pickle, sys; pickle.loads({pickle.dumps(IrnTraining.prepare)!r});"
        "from stages.refiners.settings.irn import IrnTrainingSettings; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_crop_without_pairs_is_refused():
    with pytest.raises(ConfigError, match=r"crop_size 64 is too small for irn with these settings"):
        build(TrainRefinerConfig, {"crop_size": 64}, "test")
    assert build(TrainRefinerConfig, {"crop_size": 73}, "test").crop_size == 73
    assert build(TrainRefinerConfig, {"crop_size": 64, "method": {"radius": 8}}, "test").method.radius == 8


def test_an_unknown_refiner_is_named():
    with pytest.raises(ConfigError, match="there is no refiner 'irm'"):
        load_refiner("irm")
