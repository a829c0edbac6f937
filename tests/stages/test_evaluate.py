"""The stage evaluate and the scoring of plain folders, against scikit-learn and by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import jaccard_score

from artifacts.errors import ArtifactError, ConfigError, DataError
from artifacts.masks import read_mask, write_mask
from stages import evaluate as module
from stages.contract import PlainProgress
from stages.evaluate import evaluate_folders
from stages.evaluation import pixel_counts, scoring
from stages.evaluation.confusion import ConfusionMatrix, remarks
from stages.evaluation.image_scores import IMAGE_IOU


@pytest.fixture(scope="module")
def predictions(bench):
    return bench.run("predict", "to-score", {"splits": ["val"], "output": "masks"})


def test_scores_of_a_split_equal_scikit_learn(bench, predictions):
    artifact = bench.run("evaluate", "metrics", {}, {"predictions": "to-score"})
    truth = np.concatenate([bench.dataset.mask(i).ravel() for i in bench.dataset.ids("val")])
    found = np.concatenate([read_mask(predictions.file(f"masks/{i}.png")).ravel() for i in bench.dataset.ids("val")])
    known = truth != 255
    occurs = np.union1d(truth[known], found[known])
    expected = jaccard_score(truth[known], found[known], labels=occurs, average=None)
    metrics = json.loads(artifact.file("metrics.json").read_text())
    names = bench.dataset.class_names
    np.testing.assert_allclose([metrics["classes"][names[c]]["iou"] for c in occurs], expected)
    assert metrics["mean_iou"] == pytest.approx(expected.mean())
    assert metrics["pixel_accuracy"] == pytest.approx((truth == found)[known].mean())
    assert metrics["pixels"]["ignored"] == (~known).sum() > 0
    assert metrics["images"] == len(bench.dataset.ids("val")) == 6
    assert metrics["class_names"] == list(names)
    assert np.array(metrics["confusion_matrix"]).shape == (len(names), len(names) + 1)
    assert artifact.summary["mean_iou"] == metrics["mean_iou"]


def test_the_number_of_processes_changes_nothing(bench, predictions):
    one = bench.run("evaluate", "metrics", {}, {"predictions": "to-score"})
    two = bench.outcome("evaluate", "metrics-2", {}, {"predictions": "to-score"}, workers=2)
    assert two.ran
    assert two.artifact.manifest.content == one.manifest.content


def test_a_run_that_was_cut_off_is_continued_to_the_same_bytes(bench, predictions, monkeypatch):
    whole = bench.run("evaluate", "whole", {"bootstrap": 20}, {"predictions": "to-score"})
    monkeypatch.setattr(module, "PART", 4)
    reads = []

    def cut_off(path, *given, **named):
        reads.append(path)
        if len(reads) == 10:  # eight of the first four images
            raise KeyboardInterrupt
        return read_mask(path, *given, **named)

    monkeypatch.setattr(scoring, "read_mask", cut_off)
    with pytest.raises(KeyboardInterrupt):
        bench.run("evaluate", "cut", {"bootstrap": 20}, {"predictions": "to-score"})
    continued = bench.run("evaluate", "cut", {"bootstrap": 20}, {"predictions": "to-score"})
    assert len(reads) == 10 + 2 * 2  # the record of the first four was kept
    assert continued.manifest.resumed == 1
    assert continued.manifest.content == whole.manifest.content
    assert continued.summary == whole.summary
    assert continued.file(IMAGE_IOU).read_bytes() == whole.file(IMAGE_IOU).read_bytes()


def test_a_record_of_counts_is_exact_or_damaged(tmp_path):
    matrix, total = ConfusionMatrix(3), ConfusionMatrix(3)
    matrix.add(np.array([[0, 1, 2, 255]], np.uint8), np.array([[0, 0, 255, 1]], np.uint8))
    record = pixel_counts.CountsRecord(**json.loads(json.dumps(pixel_counts.record_of(matrix))))
    for _ in range(2):
        record.add_to(total, tmp_path / "record.json")
    assert (total.counts == 2 * matrix.counts).all()
    assert (total.ignored, total.images, total.blank) == (2, 2, 0)
    for text in ("", "no base64", pixel_counts.packed(np.zeros((2, 3), np.int64)), record.counts[:-8]):
        with pytest.raises(ArtifactError, match=r"record\.json is damaged"):
            record.model_copy(update={"counts": text}).add_to(total, tmp_path / "record.json")


def test_mean_over_named_classes(bench, predictions):
    names = ["background", bench.dataset.class_names[2]]
    artifact = bench.run("evaluate", "subset", {"classes": names}, {"predictions": "to-score"})
    metrics = json.loads(artifact.file("metrics.json").read_text())
    ious = [metrics["classes"][name]["iou"] for name in names]
    assert metrics["mean_iou"] == pytest.approx(np.mean([v for v in ious if v is not None]))
    assert set(artifact.summary["iou"]) == set(names)
    with pytest.raises(ConfigError, match="unicorn is not a class here"):
        bench.run("evaluate", "x", {"classes": ["unicorn"]}, {"predictions": "to-score"})


@pytest.mark.parametrize(("found", "said"), [([0, 0], True), ([0, 1], False), ([2, 2], True)])
def test_one_class_everywhere_is_said(bench, found, said, capsys):
    """A network that has not learned yet has a mean IoU, too."""

    def write(writer):
        for number, image_id in enumerate(bench.dataset.ids("val")):
            with writer.item(f"masks/{image_id}.png") as temporary:
                write_mask(temporary, np.full(bench.dataset.size(image_id), found[number % 2], np.uint8))

    name = f"all-{found[0]}-{found[1]}"
    bench.publish(name, "predictions", write)
    bench.run("evaluate", f"scores-{name}", {}, {"predictions": name}, progress=PlainProgress())
    expected = f"every pixel is predicted as {bench.dataset.class_names[found[0]]}, though"
    assert (expected in capsys.readouterr().err) is said


def test_missing_predictions_are_listed(bench, predictions):
    ids = bench.dataset.ids("val")

    def write(writer):
        for image_id in ids[2:]:
            writer.write_bytes(f"masks/{image_id}.png", predictions.file(f"masks/{image_id}.png").read_bytes())

    bench.publish("incomplete", "masks", write)
    with pytest.raises(DataError, match=rf"no mask for 2 of 6 images of val: {ids[0]}, {ids[1]}\n"):
        bench.run("evaluate", "x", {}, {"predictions": "incomplete"})
    bench.publish("empty", "seeds", lambda writer: writer.write_json("notes.json", {}))
    with pytest.raises(ArtifactError, match="holds no masks"):
        bench.run("evaluate", "x", {}, {"predictions": "empty"})


def folders(root: Path, found: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> tuple[Path, Path]:
    for folder, masks in (("found", found), ("truth", truth)):
        (root / folder).mkdir()
        for name, mask in masks.items():
            write_mask(root / folder / f"{name}.png", np.array(mask, np.uint8))
    return root / "found", root / "truth"


def test_plain_folders_worked_by_hand(tmp_path):
    found, truth = folders(tmp_path, {"a": [[0, 1], [1, 255]], "b": [[2, 2]]}, {"a": [[0, 0], [1, 1]], "b": [[2, 255]]})
    scores = evaluate_folders(found, truth, 3, workers=1)
    # background: 1 of {0, 0}, nothing else called so; class 1: 1 right, 1 too many, 1 unanswered; class 2: 1 right
    assert [scores["classes"][name]["iou"] for name in ("0", "1", "2")] == pytest.approx([1 / 2, 1 / 3, 1])
    assert scores["pixels"] == {"scored": 5, "ignored": 1, "unanswered": 1, "unanswered_share": 1 / 5}
    assert scores["images"] == 2
    named = evaluate_folders(found, truth, 3, class_names=("background", "cat", "dog"), classes=("cat",), workers=2)
    assert named["mean_iou"] == pytest.approx(1 / 3)


def test_names_that_lie_in_one_folder_only_are_listed(tmp_path):
    mask = [[0, 1]]
    found, truth = folders(tmp_path, {"a": mask, "b": mask, "x": mask}, {"a": mask, "c": mask, "d": mask})
    with pytest.raises(DataError) as caught:
        evaluate_folders(found, truth, 2)
    assert "2 without a prediction in" in caught.value.message
    assert "c, d" in caught.value.message
    assert "2 without a ground truth in" in caught.value.message
    assert "b, x" in caught.value.message
    assert evaluate_folders(found, truth, 2, common_only=True, workers=1)["images"] == 1


def test_every_file_that_cannot_be_scored_is_listed(tmp_path):
    fine = [[0, 1], [1, 0]]
    found, truth = folders(
        tmp_path,
        {"a-fine": fine, "b-size": [[0, 1, 1]], "c-value": [[0, 9], [1, 0]], "d-colour": fine, "e-cut": fine},
        dict.fromkeys(("a-fine", "b-size", "c-value", "d-colour", "e-cut"), fine),
    )
    Image.new("RGB", (2, 2)).save(found / "d-colour.png")
    (found / "e-cut.png").write_bytes((found / "e-cut.png").read_bytes()[:60])
    with pytest.raises(DataError) as caught:
        evaluate_folders(found, truth, 2, workers=2)
    message = caught.value.message
    assert message.startswith("4 of 5 images cannot be scored")
    for part in ("b-size.png is 3x1", "9 (1 px)", "has mode RGB: a colour image", "e-cut.png is damaged"):
        assert part in message


def test_folders_that_are_none_are_named(tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        evaluate_folders(tmp_path / "nowhere", tmp_path, 2)
    with pytest.raises(DataError, match="holds no PNG"):
        evaluate_folders(tmp_path, tmp_path, 2)


# --- ground truth that says little ---

OBJECT = [[0, 0, 255, 255], [0, 0, 255, 0]]
FOUND = [[0, 1, 1, 1], [0, 0, 0, 0]]


def test_truth_of_0_and_255_alone_is_refused_unless_it_is_said_what_255_is(tmp_path):
    """It was `mean IoU 93.49`, with the object left out as ignored."""
    found, truth = folders(tmp_path, {"a": FOUND, "b": FOUND}, {"a": OBJECT, "b": OBJECT})
    with pytest.raises(DataError, match=r"truth holds 0 and 255 alone, as black-and-white masks do") as caught:
        evaluate_folders(found, truth, 2, workers=1)
    assert "--mask-format binary" in (caught.value.hint or "")
    assert "--mask-format ids" in (caught.value.hint or "")
    notes: list[str] = []
    ignoring = evaluate_folders(found, truth, 2, workers=1, mask_format="ids", note=notes.append)
    assert ignoring["pixels"]["ignored"] == 6
    assert notes == ["the ground truth holds 0 and 255 alone: 255 is ignored, and 0 the only class that is scored"]


@pytest.mark.parametrize("mode", ["L", "1", "RGB", "P"])
def test_white_is_the_object_if_masks_are_black_and_white(tmp_path, mode):
    found, truth = folders(tmp_path, {"a": FOUND}, {})
    image = Image.fromarray(np.array(OBJECT, np.uint8))
    if mode == "P":
        image.putpalette([value for index in range(256) for value in (index, index, index)])
    (image if mode == "P" else image.convert(mode)).save(truth / "a.png")
    scores = evaluate_folders(found, truth, 2, workers=1, mask_format="binary")
    # object: 2 of {3 true, 3 found}; background: 4 right, 1 found too many, 1 missed
    assert [scores["classes"][name]["iou"] for name in ("0", "1")] == pytest.approx([4 / 6, 2 / 4])
    Image.fromarray(np.array(FOUND, np.uint8) * 255).convert("1").save(found / "a.png")
    assert evaluate_folders(found, truth, 2, workers=1, mask_format="binary") == scores


def test_black_and_white_means_two_classes_and_two_colours(tmp_path):
    found, truth = folders(tmp_path, {"a": FOUND}, {"a": [[0, 1, 0, 0], [255, 0, 0, 0]]})
    with pytest.raises(ConfigError, match="black-and-white masks have two classes, num_classes is 3"):
        evaluate_folders(found, truth, 3, mask_format="binary")
    with pytest.raises(DataError, match=r"values outside the classes: 255 \(1 px\); expected 0..1"):
        evaluate_folders(found, truth, 2, workers=1, mask_format="binary")
    assert (
        evaluate_folders(found, truth, 2, workers=1)["pixels"]["ignored"] == 1
    )  # a class 1 is there, so 255 is ignore


def test_nothing_is_scored_where_all_truth_is_255(tmp_path):
    found, truth = folders(tmp_path, {"a": FOUND, "b": FOUND}, {"a": np.full((2, 4), 255), "b": np.full((2, 4), 255)})
    with pytest.raises(DataError, match=r"all 2 images is 255 \(ignore\) everywhere: nothing is scored"):
        evaluate_folders(found, truth, 2, workers=1)


def test_classes_that_occur_in_no_truth_and_blank_images_are_told(tmp_path):
    truth_masks = {"a": [[0, 1], [1, 1]], "b": [[255, 255], [255, 255]]}
    found, truth = folders(tmp_path, {"a": [[0, 3], [1, 1]], "b": [[0, 0], [0, 0]]}, truth_masks)
    notes: list[str] = []
    evaluate_folders(found, truth, 4, workers=1, note=notes.append)
    assert notes == [
        "2 of 4 classes occur in no ground truth: 2, 3; those that are predicted have IoU 0, the others are left out "
        "of the mean",
        "the ground truth of 1 of 2 images is 255 everywhere",
    ]


def test_what_is_left_out_of_a_score_is_counted(tmp_path):
    mask = [[0, 1]]
    found, truth = folders(tmp_path, dict.fromkeys("abx", mask), dict.fromkeys("acde", mask))
    (truth / "b.tif").touch()
    (truth / "more").mkdir()
    notes: list[str] = []
    evaluate_folders(found, truth, 2, common_only=True, workers=1, note=notes.append)
    assert notes == [
        f"{truth}: 2 files or folders are not PNG files and not used: b.tif, more",
        f"left out of the score: 3 without a prediction in {found}",
        f"left out of the score: 2 without a ground truth in {truth}",
    ]
    (found / "a.PNG").write_bytes((found / "a.png").read_bytes())
    with pytest.raises(DataError, match=r"found has two masks: a.PNG and a.png"):
        evaluate_folders(found, truth, 2, common_only=True)
    for path in found.iterdir():
        path.rename(path.with_suffix(".tif"))
    with pytest.raises(DataError, match=r"found holds no PNG, but 3 other files or folders: a\.tif, b\.tif"):
        evaluate_folders(found, truth, 2)


def test_truth_of_0_and_255_alone_is_told_of_a_data_set(bench, capsys):
    """Whoever prepared it was asked what 255 is; a score of background alone is told all the same."""
    ids = bench.dataset.ids("val")
    matrix = ConfusionMatrix(bench.dataset.num_classes)
    for image_id in ids:
        truth = bench.dataset.mask(image_id)
        matrix.add(np.zeros_like(truth), np.where(truth > 0, 255, 0).astype(np.uint8))
    scores = matrix.scores(bench.dataset.class_names)
    assert remarks(scores) == [
        "the ground truth holds 0 and 255 alone: 255 is ignored, and background the only class that is scored"
    ]


def test_black_and_white_predictions_are_told(tmp_path):
    found, truth = folders(tmp_path, {"a": [[0, 255, 255, 0]]}, {"a": [[0, 1, 1, 1]]})
    notes: list[str] = []
    assert evaluate_folders(found, truth, 2, workers=1, note=notes.append)["classes"]["1"]["iou"] == 0
    assert notes == ["the predictions hold 0 and 255 alone, as black-and-white masks do: 255 counts as no prediction"]
    Image.fromarray(np.array([[0, 255, 255, 0]], np.uint8)).save(found / "a.png")
    scores = evaluate_folders(found, truth, 2, workers=1, mask_format="binary")
    assert [scores["classes"][name]["iou"] for name in ("0", "1")] == pytest.approx([1 / 2, 2 / 3])
