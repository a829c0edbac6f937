"""The stage import-masks: masks made elsewhere in every guise, what is refused, and who takes the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import stages.import_masks as module
from artifacts.errors import ArtifactError, ConfigError, DataError
from artifacts.masks import IGNORE, read_mask, voc_palette, write_mask
from artifacts.score_maps import ScoreMapWriter
from stages.contract import PlainProgress

TRAINING = {"iterations": 2, "batch_size": 2, "crop_size": 32, "network": "tiny", "augmentation": {"scale": [1.0, 1.0]}}
PALETTE = np.frombuffer(voc_palette(), np.uint8).reshape(256, 3)


@pytest.fixture(scope="module")
def drawn(bench) -> dict[str, np.ndarray]:
    """A mask of each weak image, of its labels, with some 255."""
    rng = np.random.default_rng(0)
    masks = {}
    for image_id in bench.dataset.ids("weak"):
        values = [*bench.dataset.possible_classes(image_id), IGNORE]
        masks[image_id] = rng.choice(np.array(values, np.uint8), bench.dataset.size(image_id))
    return masks


def write_all(folder: Path, masks: dict[str, np.ndarray]) -> Path:
    folder.mkdir()
    for image_id, mask in masks.items():
        write_mask(folder / f"{image_id}.png", mask.astype(np.uint8))
    return folder


def imported(artifact) -> dict[str, np.ndarray]:
    return {path.stem: read_mask(path) for path in sorted((artifact.path / "masks").glob("*.png"))}


def bring(bench, name: str, folder: Path, values: dict[str, Any] | None = None, **options: Any) -> Any:
    return bench.run("import-masks", name, {"folder": str(folder), **(values or {})}, None, **options)


def save_grey(path: Path, mask: np.ndarray) -> None:
    Image.fromarray(mask).save(path)


def save_painted(path: Path, mask: np.ndarray) -> None:
    Image.fromarray(PALETTE[mask]).save(path)


def save_bitmap(path: Path, mask: np.ndarray) -> None:
    Image.fromarray(PALETTE[mask]).save(path.with_suffix(".bmp"))


@pytest.mark.parametrize("save", [write_mask, save_grey, save_painted, save_bitmap])
@pytest.mark.parametrize("workers", [1, 2])
def test_masks_are_read_whatever_their_guise(bench, drawn, tmp_path, save, workers):
    for image_id, mask in drawn.items():
        save(tmp_path / f"{image_id}.png", mask)
    made = bring(bench, "guise", tmp_path, workers=workers)
    found = imported(made)
    assert found.keys() == drawn.keys()
    for image_id, mask in drawn.items():
        np.testing.assert_array_equal(found[image_id], mask)
    assert json.loads(made.file("classes.json").read_text()) == {
        "class_names": list(bench.dataset.class_names),
        "ids": sorted(drawn),
        "splits": ["weak"],
    }
    assert made.kind == "masks"
    assert made.summary["mask_format"] == ("colours" if save in (save_painted, save_bitmap) else "ids")
    assert made.summary["masks_with_classes_that_are_no_label"] == 0
    unknown = np.mean([(mask == IGNORE).mean() for mask in drawn.values()])
    assert made.summary["unknown_share"] == pytest.approx(unknown, abs=1e-6)


def test_a_class_table_says_other_ids_colours_and_classes(bench, drawn, tmp_path):
    names = bench.dataset.class_names
    order = [*reversed(names[1:]), "unicorn"]  # ids 10, 11, ... in the masks
    (tmp_path / "table.txt").write_text("9 background\n" + "".join(f"{10 + i} {n}\n" for i, n in enumerate(order)))
    there = {0: 9, IGNORE: IGNORE} | {names.index(name): 10 + i for i, name in enumerate(order[:-1])}
    masks = {i: np.vectorize(there.__getitem__)(mask).astype(np.uint8) for i, mask in drawn.items()}
    first = min(masks)
    masks[first][0, 0] = 10 + len(order) - 1  # a unicorn
    folder, table = write_all(tmp_path / "masks", masks), {"class_table": str(tmp_path / "table.txt")}
    for others, value in (("ignore", IGNORE), ("background", 0)):
        found = imported(bring(bench, "table", folder, {**table, "other_classes": others}))
        expected = {image_id: mask.copy() for image_id, mask in drawn.items()}
        expected[first][0, 0] = value
        for image_id, mask in expected.items():
            np.testing.assert_array_equal(found[image_id], mask)
    (tmp_path / "table.txt").write_text("0 background\n1 unicorn\n")
    with pytest.raises(DataError, match=r"table.txt lacks \d classes of the data set: "):
        bring(bench, "x", folder, table)


def test_masks_that_are_missing_or_too_many_are_counted_and_named(bench, drawn, tmp_path, capsys):
    ids = sorted(drawn)
    folder = write_all(tmp_path / "masks", {i: drawn[i] for i in ids[1:]})
    (other,) = bench.dataset.ids("val")[:1]
    write_mask(folder / f"{other}.png", bench.dataset.mask(other))
    write_mask(folder / "stranger.png", np.zeros((3, 3), np.uint8))
    (folder / "notes.txt").write_text("no mask")
    with pytest.raises(DataError, match=rf"1 of 5 images of weak have no mask in \S+: {ids[0]}\n") as caught:
        bring(bench, "x", folder)
    assert "allow_missing=true" in (caught.value.hint or "")
    made = bring(bench, "some", folder, {"allow_missing": True}, progress=PlainProgress())
    assert sorted(imported(made)) == json.loads(made.file("classes.json").read_text())["ids"] == ids[1:]
    assert made.summary["missing"] == 1
    err = capsys.readouterr().err
    assert "not used: 1 mask of images that are not in the data set: stranger" in err
    assert f"not used: 1 mask of images of other splits: {other}" in err
    assert f"1 of 5 images of weak have no mask in {folder}: {ids[0]}" in err
    assert "notes.txt (no mask)" in err
    with pytest.raises(DataError, match="has no mask of the 4 images of train"):
        bring(bench, "x", folder, {"splits": ["train"], "allow_missing": True})


def test_masks_that_cannot_be_used_are_named_together(bench, drawn, tmp_path):
    ids, masks = sorted(drawn), dict(drawn)
    masks[ids[0]] = masks[ids[0]][1:]
    masks[ids[1]] = np.full_like(masks[ids[1]], 99)
    folder = write_all(tmp_path / "masks", masks)
    (folder / f"{ids[2]}.png").write_bytes((folder / f"{ids[2]}.png").read_bytes()[:60])
    with pytest.raises(DataError, match="3 images cannot be used") as caught:
        bring(bench, "x", folder, {"mask_format": "ids"}, workers=2)
    height, width = drawn[ids[0]].shape
    for words in (
        f"is {width}x{height - 1} (width x height), its image {width}x{height}",
        "not a class: 99",
        "damaged",
    ):
        assert words in caught.value.message
    for image_id, mask in drawn.items():
        Image.fromarray(mask).save(folder / f"{image_id}.jpg")
        (folder / f"{image_id}.png").unlink()
    with pytest.raises(DataError, match=r"5 masks in .* are JPEG"):
        bring(bench, "x", folder)
    with pytest.raises(ConfigError, match="no folder of masks is given"):
        bench.run("import-masks", "x", {"folder": ""})
    (tmp_path / "table.txt").write_text("background\n")
    with pytest.raises(DataError, match=r"table\.txt is not a folder"):
        bring(bench, "x", tmp_path / "table.txt")


def test_settings_of_other_stages_are_not_named(bench, drawn, tmp_path):
    folder = write_all(tmp_path / "masks", {})
    for image_id, mask in drawn.items():
        Image.fromarray(np.dstack([mask, mask, mask // 2])).save(folder / f"{image_id}.png")
    with pytest.raises(DataError) as caught:
        bring(bench, "x", folder, {"mask_format": "ids"})
    assert "--set mask_format=colours" in (caught.value.hint or "")


@pytest.mark.parametrize(("shift", "words"), [(1, "one too high"), (-1, "one too low")])
def test_ids_that_are_shifted_by_one_are_told_from_the_image_level_labels(bench, drawn, tmp_path, shift, words):
    """Below, no value is outside the classes: the masks would be taken for good ones of other classes."""

    def moved(mask: np.ndarray) -> np.ndarray:
        values = mask.astype(int) + shift
        return np.where((mask == IGNORE) | (values < 0), IGNORE, values).astype(np.uint8)

    folder = write_all(tmp_path / "masks", {i: moved(mask) for i, mask in drawn.items()})
    with pytest.raises(DataError, match="have other class ids than the data set") as caught:
        bring(bench, "x", folder)
    assert words in caught.value.message
    lines = [f"{index + shift} {name}" for index, name in enumerate(bench.dataset.class_names) if index + shift >= 0]
    assert f"`{lines[0]}`, `{lines[1]}`, ..." in (caught.value.hint or "")
    (tmp_path / "table.txt").write_text("\n".join(lines) + "\n")
    found = imported(bring(bench, "pinned", folder, {"class_table": str(tmp_path / "table.txt")}))
    for image_id, mask in drawn.items():
        expected = mask if shift == 1 else np.where(mask == 0, IGNORE, mask)
        np.testing.assert_array_equal(found[image_id], expected)


def test_masks_of_other_classes_than_the_labels_are_counted(bench, drawn, tmp_path, capsys):
    masks = dict(drawn)
    first = min(masks)
    foreign = next(c for c in range(1, bench.dataset.num_classes) if c not in bench.dataset.tags(first))
    masks[first] = np.full_like(masks[first], foreign)
    made = bring(bench, "odd", write_all(tmp_path / "masks", masks), progress=PlainProgress())
    assert made.summary["masks_with_classes_that_are_no_label"] == 1
    assert "1 of 5 masks show a class that is no image-level label of their image" in capsys.readouterr().err


def test_the_content_of_the_folder_decides_and_a_run_that_was_cut_off_is_continued(bench, drawn, tmp_path, monkeypatch):
    folder = write_all(tmp_path / "masks", drawn)
    whole = bring(bench, "whole", folder)
    assert not bench.outcome("import-masks", "whole", {"folder": str(folder)}).ran
    moved = folder.rename(tmp_path / "moved")
    assert not bench.outcome("import-masks", "whole", {"folder": str(moved)}).ran
    bring_one, done = module.import_mask, []

    def counted(task, image_id):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(image_id)
        return bring_one(task, image_id)

    monkeypatch.setattr(module, "import_mask", counted)
    with pytest.raises(KeyboardInterrupt):
        bring(bench, "cut", moved)
    written = {path.name: path.stat().st_mtime_ns for path in bench.workspace.path.glob(".cut.*/masks/*.png")}
    assert len(written) == 2
    done[:] = [*done, "past"]
    continued = bring(bench, "cut", moved)
    assert continued.manifest.resumed == 1
    assert continued.manifest.content == whole.manifest.content
    kept = {name: (continued.path / "masks" / name).stat().st_mtime_ns for name in written}
    assert kept == written  # read for the summary, not written again
    write_mask(moved / f"{min(drawn)}.png", np.zeros_like(drawn[min(drawn)]))
    assert bench.outcome("import-masks", "whole", {"folder": str(moved)}).ran


# --- any masks anywhere ---


@pytest.fixture(scope="module")
def makers(bench, drawn, tmp_path_factory) -> tuple[str, ...]:
    """Masks of the weak images of every kind, made by whatever makes it; the seeds are sparse."""

    def write_maps(writer):
        ids = bench.dataset.ids("weak")
        with ScoreMapWriter(writer, class_names=bench.dataset.class_names) as scores:
            scores.plan(ids)
            for image_id in ids:
                height, width = size = bench.dataset.size(image_id)
                classes = bench.dataset.tags(image_id)
                maps = np.random.default_rng(0).random((len(classes), -(-height // 4), -(-width // 4)))
                scores.add(image_id, maps, classes, size=size, stride=4)
        for image_id, mask in drawn.items():
            with writer.item(f"masks/{image_id}.png") as temporary:
                write_mask(temporary, mask)
        classes = {"class_names": list(bench.dataset.class_names), "ids": list(bench.dataset.ids("weak"))}
        writer.write_json("classes.json", {**classes, "splits": ["weak"]})

    bench.publish("some-seeds", "seeds", write_maps)
    bench.publish("some-refined", "refined", write_maps)
    bench.run("predict", "some-predictions", {"splits": ["weak"], "output": "both"})
    crf = {"parameters": "dsrg-train", "background_score": 0.3}
    bench.run("crf", "some-crf", crf, {"predictions": "some-seeds"})
    bring(bench, "some-import", write_all(tmp_path_factory.mktemp("elsewhere") / "masks", drawn))
    return "some-seeds", "some-refined", "some-predictions", "some-crf", "some-import"


def test_train_takes_masks_whatever_made_them(bench, makers):
    for name in makers:
        values = {**TRAINING, "method": {"name": "dual-branch"}}
        made = bench.run("train", f"trained-on-{name}", values, {"weak_labels": name})
        assert made.summary["images"]["weak"] == 5


def test_retrain_takes_masks_whatever_made_them(bench, makers):
    for name in makers:
        inputs = {"segmenter": None, "weak_labels": name}
        made = bench.run("retrain", f"retrained-on-{name}", {"labels": "estimated", "training": TRAINING}, inputs)
        assert made.summary["labelled"] == 5
        assert not [item for item in made.manifest.items if item.startswith("masks/")]


def test_evaluate_takes_masks_whatever_made_them(bench, tmp_path):
    """Of val, whose true masks are known; those of seeds and refine are scored elsewhere."""
    masks = {image_id: bench.dataset.mask(image_id) for image_id in bench.dataset.ids("val")}

    def write(writer):
        for image_id, mask in masks.items():
            with writer.item(f"masks/{image_id}.png") as temporary:
                write_mask(temporary, mask)

    bring(bench, "import-of-val", write_all(tmp_path / "masks", masks), {"splits": ["val"]})
    for kind in ("seeds", "refined", "predictions", "masks"):
        bench.publish(f"{kind}-of-val", kind, write)
    for name in ("import-of-val", "seeds-of-val", "refined-of-val", "predictions-of-val", "masks-of-val"):
        made = bench.run("evaluate", f"scores-of-{name}", {}, {"predictions": name})
        assert made.summary["mean_iou"] == 1


def test_retrain_refuses_what_has_no_effect_on_masks_that_are_given(bench, makers):
    given = {"segmenter": None, "weak_labels": "some-import"}
    with pytest.raises(ConfigError, match="crf, min_confidence: no effect on masks that are given"):
        bench.run("retrain", "x", {"crf": None, "min_confidence": 0.5}, given)
    with pytest.raises(ConfigError, match="the input segmenter: no effect"):
        bench.run("retrain", "x", {}, given | {"segmenter": "segmenter"})
    with pytest.raises(ArtifactError, match="needs the input 'segmenter'"):
        bench.run("retrain", "x", {"start": "segmenter"}, given)
    with pytest.raises(DataError, match="4 of 9 images have no label map"):
        bench.run("retrain", "x", {"labels": "estimated", "splits": ["train", "weak"], "training": TRAINING}, given)
    bench.run("predict", "scores-alone", {"splits": ["weak"], "output": "probabilities"})
    with pytest.raises(ArtifactError, match="holds no masks"):
        bench.run("retrain", "x", {}, given | {"weak_labels": "scores-alone"})
