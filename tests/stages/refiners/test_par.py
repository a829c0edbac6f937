"""stages/refiners/par.py and stages/localization/pixel_adaptive.py: against a plain loop, and what must hold."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch

from artifacts.errors import ArtifactError, ConfigError
from artifacts.masks import read_mask
from artifacts.score_maps import ScoreMap, ScoreMaps
from artifacts.store import Workspace
from stages.engine.known import Known
from stages.localization.pixel_adaptive import Neighbourhood, affinities, refined_maps
from stages.refiners.par import Par
from stages.refiners.refiner import Means
from stages.refiners.settings.par import ParSettings
from tests.stages.data.conftest import Notes
from tests.stages.refiners.small_refinement import SPLITS, blurred_scores, draw, fill, run, train_and_refine

IDS = sorted(image_id for members in SPLITS.values() for image_id in members)
SMALL = Neighbourhood(dilations=(1, 3))


def random_image(*shape):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).double()


def test_one_iteration_by_a_plain_loop():
    """Ru et al., 8: neighbours beyond the border are the pixels of the border."""
    height, width = 5, 7
    image, maps = random_image(1, 3, height, width), random_image(1, 2, height, width) / 255
    found = refined_maps(image, maps, SMALL, 1)
    steps = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    offsets = [(d * y, d * x) for d in (1, 3) for y, x in steps]
    far = [math.hypot(*offset) for offset in offsets]
    near = [math.exp(-((d / (0.3 * statistics.stdev(far))) ** 2)) for d in far]
    for row in range(height):
        for column in range(width):
            places = [(min(max(row + y, 0), height - 1), min(max(column + x, 0), width - 1)) for y, x in offsets]
            unlike = [0.0] * len(places)
            for channel in image[0].tolist():
                colours = [channel[r][c] for r, c in places]
                deviation = statistics.stdev(colours) + 1e-8
                for number, colour in enumerate(colours):
                    unlike[number] += ((colour - channel[row][column]) / (0.3 * deviation)) ** 2 / 3
            alike = [math.exp(-value) for value in unlike]
            weights = [(a / sum(alike) + 0.01 * n / sum(near)) / 1.01 for a, n in zip(alike, near, strict=True)]
            for k, scores in enumerate(maps[0].tolist()):
                expected = sum(w * scores[r][c] for w, (r, c) in zip(weights, places, strict=True))
                assert found[0, k, row, column] == pytest.approx(expected, abs=1e-10)


def test_weights_sum_to_1_also_where_all_colours_are_equal():
    image = random_image(2, 3, 9, 11)
    image[0] = 80
    weights = affinities(image, SMALL)
    assert torch.allclose(weights.sum(1), torch.ones(2, 9, 11, dtype=torch.float64))
    assert weights.min() >= 0


def test_a_constant_map_stays_and_maps_do_not_mix():
    image, maps = random_image(1, 3, 20, 30), random_image(1, 3, 20, 30) / 255
    maps[0, 1] = 0.3
    found = refined_maps(image, maps, SMALL, 20)
    assert torch.allclose(found[0, 1], torch.full((20, 30), 0.3, dtype=torch.float64))
    assert torch.allclose(found[:, 2:], refined_maps(image, maps[:, 2:], SMALL, 20))


def test_scores_stop_at_an_edge_of_colours():
    """A blob across the edge of a box: its part inside spreads over the box, its part outside is diluted."""
    image, maps = torch.full((1, 3, 40, 40), 60.0), torch.zeros(1, 1, 40, 40)
    image[..., 10:30, 10:30] = 200
    maps[..., 15:25, 15:33] = 1
    found = refined_maps(image, maps, Neighbourhood(), 20)[0, 0]
    assert (found[10:30, 10:30] > 0.3).all()
    outside = found.clone()
    outside[10:30, 10:30] = 0
    assert outside.max() < 0.3


def known_of(image, scores, classes=(1,), meaning="cam", stride=1):
    scores = np.asarray(scores, np.float32)
    found = ScoreMap("a", scores, np.array(classes, np.uint8), image.shape[:2], stride, meaning)
    return Known("a", image, (1, 2), found)


def refine(known, **settings):
    return next(Par(ParSettings(**settings), None, Means(torch.device("cpu"))).refine([[known]]))


def test_of_probabilities_background_and_image_labels_are_kept_and_a_label_without_a_map_gets_zeros():
    image, mask = draw(0)
    scores = np.random.default_rng(0).random((3, *mask.shape))
    found = refine(known_of(image, scores, classes=(0, 1, 3), meaning="probability"))
    assert found.classes.tolist() == [0, 1, 2]
    assert not found.scores[2].any()
    alone = refine(known_of(image, scores[:2], classes=(0, 1), meaning="refined"))
    assert np.array_equal(found.scores[:2], alone.scores)


@pytest.mark.parametrize("most", [2000, 300])
def test_a_large_image_is_refined_on_a_copy(most):
    image, mask = draw(0)
    known = known_of(image, blurred_scores(mask, 0)[0], stride=4)
    whole, copied = refine(known), refine(known, max_pixels=most)
    assert copied.size == whole.size
    assert copied.scores.shape[1:] == tuple(-(-side // copied.stride) for side in copied.size)
    difference = np.abs(copied.scores - whole.scores[:, :: copied.stride, :: copied.stride])
    assert difference.mean() < 0.08


def test_scale_divides_the_distances_and_equal_ones_count_once():
    image, mask = draw(0)
    known = known_of(image, blurred_scores(mask, 0)[0], stride=4)
    smaller = refine(known, scale=5.2).scores
    assert np.array_equal(smaller, refine(known, dilations=(1, 2, 5)).scores)
    assert np.array_equal(smaller, refine(known, dilations=(1, 2, 2, 5)).scores)


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    return fill(Workspace(tmp_path_factory.mktemp("par") / "runs"))


def par_of(space, seeds, name):
    return run(space, "refine", name, {"method": {"name": "par", "scale": 5}}, {"data": "data", "seeds": seeds})


def test_maps_with_a_background_of_their_own_keep_it(space):
    finer = par_of(space, train_and_refine(space, "psa", "whole").name, "finer")
    maps = ScoreMaps(finer)
    assert all(maps[image_id].classes[0] == 0 for image_id in IDS)
    assert any(read_mask(finer.file(f"masks/{image_id}.png")).any() for image_id in IDS)
    found = maps["t0"]
    expected = found.classes[found.scores.argmax(0)]
    assert (read_mask(finer.file("masks/t0.png")) == expected).mean() > 0.999


def test_probabilities_of_predict_are_refined(space):
    values = {"splits": ["train", "weak"], "output": "both"}
    run(space, "predict", "predictions", values, {"data": "data", "segmenter": "segmenter"})
    found = ScoreMaps(par_of(space, "predictions", "of-predictions"))
    assert list(found.ids) == IDS
    assert found["w3"].classes.tolist() == [0]  # no image label
    assert found["t0"].classes.tolist() == [0, 1]


def test_probabilities_that_ignore_the_image_labels_are_told(space):
    values = {"splits": ["weak"], "output": "probabilities"}
    for name, how, told in (("plain", "ignore", True), ("shared", "share", False)):
        run(space, "predict", name, values | {"image_labels": how}, {"data": "data", "segmenter": "segmenter"})
        progress = Notes()
        run(space, "refine", f"par-{name}", {"method": "par"}, {"data": "data", "seeds": name}, progress=progress)
        assert any("predict with image_labels=share" in note for note in progress.said) == told


def test_masks_alone_are_refused(space):
    values = {"splits": ["train", "weak"], "output": "masks"}
    run(space, "predict", "masks-alone", values, {"data": "data", "segmenter": "segmenter"})
    with pytest.raises(ArtifactError, match="masks only"):
        par_of(space, "masks-alone", "nothing")


def test_a_refiner_of_activation_maps_refuses_those_with_a_background(space):
    run(space, "refine", "first", {"method": "par"}, {"data": "data", "seeds": "seeds"})
    values, inputs = {"method": "label-noise"}, {"data": "data", "seeds": "first", "segmenter": "segmenter"}
    with pytest.raises(ConfigError, match="label-noise refines class-activation maps alone; 'first' has refined"):
        run(space, "refine", "second", values, inputs)


def test_an_image_of_one_pixel_and_one_without_a_class():
    one = np.full((1, 1, 3), 7, np.uint8)
    assert refine(known_of(one, [[[0.5]]])).scores == pytest.approx(0.5, abs=1e-5)
    assert refine(known_of(one, np.zeros((0, 1, 1)), classes=())).scores.shape == (0, 1, 1)
