"""Score maps at every background threshold, against sixty separate evaluations and by hand."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from artifacts.errors import ConfigError, DataError
from artifacts.masks import IGNORE
from artifacts.score_maps import ScoreMaps, ScoreMapWriter
from stages.contract import PlainProgress
from stages.evaluate import Thresholds
from stages.evaluation.confusion import ConfusionMatrix
from stages.evaluation.threshold_sweep import ThresholdSweep, count_pixels, judge
from stages.localization.grid import resize_maps
from stages.localization.seed_labels import dense_labels
from stages.localization.swept_maps import sweep_maps

SIXTY = Thresholds().values()


@pytest.fixture(scope="module")
def maps(bench) -> str:
    """Random maps of the labels of every image, at stride 4; one image has none. Steps of 1/64, so that many are equal
    to a threshold or to each other."""

    def write(writer):
        rng = np.random.default_rng(0)
        ids = [image_id for split in ("train", "weak", "val") for image_id in bench.dataset.ids(split)]
        with ScoreMapWriter(writer, class_names=bench.dataset.class_names) as scores:
            scores.plan(ids)
            for number, image_id in enumerate(sorted(ids)):
                height, width = bench.dataset.size(image_id)
                classes = sorted(rng.permutation(np.arange(1, bench.dataset.num_classes))[: number % 4])
                values = rng.integers(0, 65, (len(classes), -(-height // 4), -(-width // 4))) / 64 * rng.random()
                scores.add(image_id, values, classes, size=(height, width), stride=4)

    bench.publish("random-maps", "seeds", write)
    return "random-maps"


def test_the_thresholds_are_those_of_seam():
    assert list(SIXTY) == [index / 100 for index in range(60)]
    assert Thresholds(start=0.1, stop=0.3, step=0.1).values() == (0.1, 0.2, 0.3)
    assert Thresholds(start=0.2, stop=0.2).values() == (0.2,)
    with pytest.raises(ValueError, match=r"stop 0\.1 is below start 0\.2"):
        Thresholds(start=0.2, stop=0.1)


@pytest.mark.parametrize("workers", [1, 2])
def test_one_pass_equals_sixty_separate_evaluations(bench, maps, workers):
    read, ids = ScoreMaps(bench.workspace.artifact(maps)), bench.dataset.ids("val")
    (sweep,) = sweep_maps(bench.dataset, read, [ids], SIXTY, workers)
    assert sweep.images == len(ids)
    for threshold, found in zip(SIXTY, sweep.matrices(), strict=True):
        separate = ConfusionMatrix(bench.dataset.num_classes)
        for image_id in ids:
            one = read[image_id]
            labels = dense_labels(resize_maps(one.scores, one.size, one.stride), one.classes, threshold)
            separate.add(labels, bench.dataset.mask(image_id))
        np.testing.assert_array_equal(found.counts, separate.counts)
        assert (found.ignored, found.images, found.blank) == (separate.ignored, separate.images, separate.blank)


def test_a_score_equal_to_the_threshold_is_background():
    """0.29 and 0.3 are no binary fractions: scores are float32, and compared with the nearest float32."""
    thresholds = (0.25, 0.29, 0.3)
    highest = np.array([[0.25, np.nextafter(np.float32(0.25), np.float32(1)), 0.29, 0.3, 0.31]], np.float32)
    counted = count_pixels(np.zeros((1, 5), int), highest, np.ones((1, 5), np.uint8), 1, thresholds, 2)
    sweep = ThresholdSweep(2, thresholds)
    sweep.add(np.array([1]), counted)
    # of the five pixels of class 1, those above .25, .29 and .3
    assert [matrix.counts[1, 1] for matrix in sweep.matrices()] == [4, 2, 1]
    assert [matrix.counts[1, 0] for matrix in sweep.matrices()] == [1, 3, 4]


def test_a_background_of_one_minus_the_score_to_a_power_is_a_threshold_in_other_words():
    """AffinityNet's rule: x = (1 - x)^alpha has one solution, above which the object wins."""
    scores = np.random.default_rng(1).random((2, 40, 40)).astype(np.float32)
    for alpha, threshold in ((1, 0.5), (4, 0.275508), (16, 0.122833), (32, 0.076998)):
        assert threshold == pytest.approx((1 - threshold) ** alpha, abs=1e-5)
        np.testing.assert_array_equal(
            dense_labels(scores, np.array([1, 2]), alpha=alpha), dense_labels(scores, np.array([1, 2]), threshold)
        )


def sweep_of(
    truth: list[int], winner: list[int], highest: list[float], thresholds: tuple[float, ...]
) -> ThresholdSweep:
    """Of an image of one row, whose maps are of the classes 1 and 2."""
    sweep = ThresholdSweep(3, thresholds)
    row = (np.array([winner]), np.array([highest], np.float32), np.array([truth], np.uint8))
    sweep.add(np.array([1, 2]), count_pixels(*row, 2, thresholds, 3))
    return sweep


def test_a_judgement_worked_by_hand():
    thresholds = (0.1, 0.5, 0.9)
    scoring = sweep_of([0, 0, 1, 1, 2, IGNORE], [0, 0, 0, 0, 1, 0], [0.3, 0.05, 0.6, 0.8, 0.95, 1], thresholds)
    choosing = sweep_of([0, 1, 2], [0, 0, 1], [0.05, 0.4, 0.4], thresholds)
    names = ("background", "cat", "dog")
    judged = judge(choosing, scoring, 0, names)
    # at .1 one background pixel is called cat; at .5 all is right; at .9 both cats are missed
    background, cat, dog = judged.curve[0].iou, judged.curve[1].iou, judged.curve[2].iou
    np.testing.assert_allclose([background, cat, dog], [[1 / 2, 2 / 3, 1], [1, 1, 1], [2 / 4, 0, 1]])
    assert judged.choosing[0] == 1  # .1 is best where it is chosen, though .5 is best where it is scored
    assert (judged.thresholds[judged.chosen], judged.remark) == (0.1, "")
    metrics = judged.to_json(["holdout"])
    assert metrics["mean_iou"] == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)
    assert metrics["sweep"]["best"] == {"threshold": 0.5, "mean_iou": 1.0}
    assert metrics["sweep"]["mean_iou"] == pytest.approx([(1 / 2 + 2 / 3 + 1) / 3, 1, (2 / 4 + 0 + 1) / 3])
    # of two background pixels one is covered by an object, of the objects every pixel; 4 of all 5
    assert [metrics["classes"][name]["coverage"] for name in names] == [0.5, 1, 1]
    assert metrics["coverage"] == 0.8
    assert metrics["sweep"]["coverage"] == pytest.approx([4 / 5, 3 / 5, 1 / 5])
    assert metrics["sweep"]["mean_recall"] == pytest.approx([(1 / 2 + 1 + 1) / 3, 1, (1 + 0 + 1) / 3])


def test_a_curve_of_nothing_is_refused():
    blank = sweep_of([IGNORE, IGNORE], [0, 1], [0.3, 0.4], (0.1, 0.2))
    with pytest.raises(DataError, match="1 images show none of the classes, or their ground truth is 255 everywhere"):
        judge(blank, blank, 1, ("background", "cat", "dog"))


# --- the stage ---


def test_the_threshold_is_chosen_on_one_split_and_the_other_scored(bench, maps, capsys):
    values = {"splits": ["val"], "choose_on": ["train"], "classes": []}
    inputs = {"predictions": None, "maps": maps}
    made = bench.run("evaluate", "swept", values, inputs, progress=PlainProgress())
    metrics = json.loads(made.file("metrics.json").read_text())
    read, ids = ScoreMaps(bench.workspace.artifact(maps)), bench.dataset.ids("train")
    means = []
    for threshold in SIXTY:
        matrix = ConfusionMatrix(bench.dataset.num_classes)
        for image_id in ids:
            one = read[image_id]
            scores = resize_maps(one.scores, one.size, one.stride)
            matrix.add(dense_labels(scores, one.classes, threshold), bench.dataset.mask(image_id))
        means.append(matrix.scores().mean_iou)
    assert metrics["sweep"]["mean_iou_where_chosen"] == pytest.approx(means)
    assert metrics["sweep"]["threshold"] == SIXTY[int(np.argmax(means))] == made.summary["threshold"]
    assert metrics["mean_iou"] == metrics["sweep"]["mean_iou"][int(np.argmax(means))] == made.summary["mean_iou"]
    assert metrics["sweep"]["chosen_on"] == ["train"]
    assert metrics["sweep"]["remark"] is None
    assert metrics["images"] == 6
    err = capsys.readouterr().err
    assert f"on the {len(ids)} images it was chosen on" in err
    assert "flatters" not in err


def test_a_threshold_chosen_on_the_scored_images_is_said_to_flatter(bench, maps, capsys):
    flatters = "the threshold was chosen on the scored images: the figure flatters"
    inputs = {"predictions": None, "maps": maps}
    made = bench.run("evaluate", "flattered", {"splits": ["train"]}, inputs, progress=PlainProgress())
    assert made.summary["remark"] == json.loads(made.file("metrics.json").read_text())["sweep"]["remark"] == flatters
    assert flatters in capsys.readouterr().err
    both = {"splits": ["val", "train"], "choose_on": ["train"]}
    made = bench.run("evaluate", "partly", both, inputs)
    assert made.summary["remark"] == flatters
    both = {"splits": ["train"], "choose_on": ["train", "val"]}
    made = bench.run("evaluate", "partly", both, inputs)
    assert made.summary["remark"] == "4 of the 10 images the threshold was chosen on are scored: the figure flatters"
    given = {"splits": ["train"], "thresholds": {"start": 0.2, "stop": 0.2}}
    made = bench.run("evaluate", "given", given, inputs)
    assert made.summary["remark"] is None
    assert (made.summary["threshold"], made.summary["chosen_on"]) == (0.2, None)


def test_maps_that_are_not_there_and_settings_without_effect_are_refused(bench, maps):
    run: Callable[..., object] = lambda values, **inputs: bench.run("evaluate", "x", values, inputs)  # noqa: E731
    with pytest.raises(ConfigError, match="predictions and maps are both given"):
        run({}, predictions=maps, maps=maps)
    with pytest.raises(ConfigError, match="choose_on: no effect on masks"):
        run({"choose_on": ["train"]}, predictions=maps)
    with pytest.raises(ConfigError, match="thresholds: no effect on masks"):
        run({"thresholds": {"stop": 0.3}}, predictions=maps)
    with pytest.raises(DataError, match="the splits holdout of 'shapes' are empty"):
        run({"choose_on": ["holdout"]}, predictions=None, maps=maps)

    def write(writer):
        ids, names = bench.dataset.ids("train"), bench.dataset.class_names
        with ScoreMapWriter(writer, class_names=names) as scores:
            scores.plan(ids)
            for number, image_id in enumerate(ids):
                size = bench.dataset.size(image_id) if number else (8, 8)
                cells = (1, -(-size[0] // 4), -(-size[1] // 4))
                scores.add(image_id, np.ones(cells), [1], size=size, stride=4)

    bench.publish("of-train", "seeds", write)
    with pytest.raises(DataError, match="of-train has no score maps of 6 of 6 images") as caught:
        run({}, predictions=None, maps="of-train")
    assert "name splits it has (train)" in (caught.value.hint or "")
    with pytest.raises(DataError, match=r"are of 8x8 pixels \(width x height\), its image has"):
        run({"splits": ["train"]}, predictions=None, maps="of-train")


def test_maps_that_score_the_background_have_no_threshold(bench):
    """Those of psa: the background would be taken for an object."""

    def write(writer):
        with ScoreMapWriter(writer, class_names=bench.dataset.class_names, meaning="refined") as scores:
            scores.plan(bench.dataset.ids("val"))
            for image_id in bench.dataset.ids("val"):
                height, width = bench.dataset.size(image_id)
                values = np.ones((2, -(-height // 8), -(-width // 8)))
                scores.add(image_id, values, [0, 2], size=(height, width), stride=8)
        ids, names = bench.dataset.ids("val"), list(bench.dataset.class_names)
        writer.write_json("classes.json", {"class_names": names, "ids": sorted(ids), "splits": ["val"]})

    bench.publish("with-background", "refined", write)
    with pytest.raises(DataError, match="score the background, too") as caught:
        bench.run("evaluate", "x", {}, {"data": "data", "maps": "with-background"})
    assert "--predictions with-background" in str(caught.value.hint)
