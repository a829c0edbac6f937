"""Contact sheets of what stages made: tiles against a plain loop and scikit-learn, and what is missing or damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import jaccard_score

from artifacts.dataset import Dataset
from artifacts.errors import ArtifactError, DataError
from artifacts.image_segments import document_of, item_of
from artifacts.masks import voc_palette, write_mask
from artifacts.score_maps import ScoreMapWriter
from artifacts.store import Work, Workspace, Writer
from stages.config import build
from stages.contract import Execution, load_stage
from stages.data.images import ImageFolder
from stages.pipeline.run_stage import run_stage
from stages.report.page.shown_images import choose_fixed, choose_worst
from stages.report.sheet import TILE, draw_sheet
from stages.report.sheet_rows import (
    Given,
    Made,
    common_ids,
    given_images,
    heated,
    images_of,
    iou_of,
    row_of,
)

DOING = Execution("cpu", 1)


def publish(workspace: Workspace, name: str, kind: str, write: Callable[[Writer], None], **inputs: str) -> Made:
    sources = {key: workspace.artifact(source).manifest for key, source in inputs.items()}
    records = {key: {"artifact": inputs[key], "content": made.content} for key, made in sources.items()}
    work = Work("by hand", 1, kind, name.ljust(64, "0"), {}, records, {})  # type: ignore[arg-type]
    with workspace.writing(name, work) as writer:
        write(writer)
        return Made(workspace.publish(name, writer, work, {}))


def masks(dataset: Dataset, ids: Any, wrong: int) -> Callable[[Writer], None]:
    """True masks with a corner of class 1, larger for each further image."""

    def write(writer: Writer) -> None:
        for number, image_id in enumerate(ids):
            mask = dataset.mask(image_id).copy()
            mask[: 4 * (number + wrong), : 4 * (number + wrong)] = 1
            with writer.item(f"masks/{image_id}.png") as file:
                write_mask(file, mask)
        classes = {"class_names": list(dataset.class_names), "ids": sorted(ids), "splits": []}
        writer.write_json("classes.json", classes)

    return write


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Data, maps and masks of training images, masks of val, what was kept of these, and segments."""
    made = Workspace(tmp_path_factory.mktemp("sheet") / "runs")
    config = {"dataset": {"name": "shapes", "train": 5, "weak": 4, "val": 6, "long_side": 64}}
    record = load_stage("prepare-data")
    run_stage(record, build(record.config, config, "test"), made, "data", {}, DOING)
    dataset = Dataset(made.artifact("data"))
    training = (*dataset.ids("train"), *dataset.ids("weak"))

    def write_maps(writer: Writer) -> None:
        with ScoreMapWriter(writer, class_names=dataset.class_names) as maps:
            maps.plan(training)
            for image_id in training:
                (height, width), labels = dataset.size(image_id), dataset.tags(image_id)
                grid = (len(labels), -(-height // 8), -(-width // 8))
                scores = np.random.default_rng(len(image_id)).random(grid)
                maps.add(image_id, scores, labels, size=(height, width), stride=8)
        masks(dataset, dataset.ids("train"), 1)(writer)

    def write_segments(writer: Writer) -> None:
        for image_id in dataset.ids("train"):
            half = np.zeros(dataset.size(image_id), bool)
            half[:, :20] = True
            writer.write_json(item_of(image_id), document_of([half, ~half, half & (np.arange(len(half)) > 9)[:, None]]))

    publish(made, "seeds", "seeds", write_maps, data="data")
    publish(made, "val", "predictions", masks(dataset, dataset.ids("val"), 1), data="data")
    publish(made, "kept", "masks", masks(dataset, dataset.ids("val"), 3), predictions="val")
    publish(made, "segments", "segments", write_segments, data="data")
    return made


def look(workspace: Workspace, *names: str) -> tuple[Given, list[Made], Dataset]:
    made = [Made(workspace.artifact(name)) for name in names]
    images = images_of(made[0].artifact, workspace)
    assert isinstance(images, Dataset)
    return given_images(images, made), made, images


def test_a_row_has_the_image_a_map_of_each_label_the_masks_with_their_iou_and_the_truth(workspace: Workspace) -> None:
    given, made, dataset = look(workspace, "seeds", "segments")
    image_id = max(dataset.ids("train"), key=lambda one: (len(dataset.tags(one)), one))
    labels = [dataset.class_names[label] for label in dataset.tags(image_id)]
    assert len(labels) > 1
    row = row_of(given, made, image_id, (TILE, TILE))
    assert row.labels == tuple(labels)
    maps = made[0].maps
    assert maps is not None
    highest = maps[image_id].scores.max((1, 2))
    truth, mask = dataset.mask(image_id), np.asarray(Image.open(made[0].mask_path(image_id)))
    scored = truth != 255
    present = np.union1d(truth[scored], mask[scored])
    iou = jaccard_score(truth[scored], mask[scored], labels=present, average="macro")
    assert [tile.caption for tile in row.tiles] == [
        "image",
        *(f"seeds: {name}, up to {score:.2f}" for name, score in zip(labels, highest, strict=True)),
        f"seeds, IoU {100 * iou:.1f} %",
        "segments: 3 segments",
        "truth",
    ]
    height, width = dataset.size(image_id)
    scale = TILE / max(height, width)
    assert {tile.pixels.shape for tile in row.tiles if tile.pixels is not None} == {
        (round(height * scale), round(width * scale), 3)
    }
    assert row.values >= set(dataset.tags(image_id)) | set(np.unique(truth))


def test_a_heat_map_is_the_map_between_its_cells(workspace: Workspace) -> None:
    """Against bilinear interpolation written out, at the size of the image."""
    given, made, dataset = look(workspace, "seeds")
    image_id = next(i for i in dataset.ids("weak") if dataset.tags(i))
    height, width = dataset.size(image_id)
    row = row_of(given, made, image_id, (width, height))
    found = made[0].maps[image_id]  # type: ignore[index]
    grey = np.asarray(Image.fromarray(dataset.image(image_id)).convert("L")).astype(np.float32)
    stops = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], float)
    pixels = row.tiles[1].pixels
    assert pixels is not None
    for y, x in np.ndindex(height, width):
        v, u = min(y / 8, found.scores.shape[1] - 1), min(x / 8, found.scores.shape[2] - 1)
        a, b = int(v), int(u)
        below, right = min(a + 1, found.scores.shape[1] - 1), min(b + 1, found.scores.shape[2] - 1)
        top = (1 - (u - b)) * found.scores[0, a, b] + (u - b) * found.scores[0, a, right]
        bottom = (1 - (u - b)) * found.scores[0, below, b] + (u - b) * found.scores[0, below, right]
        score = (1 - (v - a)) * top + (v - a) * bottom
        stop = min(int(4 * score), 3)
        colour = stops[stop] + (4 * score - stop) * (stops[stop + 1] - stops[stop])
        assert np.abs(pixels[y, x] - (0.35 * grey[y, x] + 0.65 * colour)).max() < 0.6


def test_heat_goes_from_dark_to_bright() -> None:
    colours = heated(np.full((1, 101, 1), 128.0), np.linspace(0, 1, 101)[None])
    light = colours[0].astype(float) @ (0.299, 0.587, 0.114)
    assert (np.diff(light) >= 0).all()
    assert light[-1] - light[0] > 120


def test_masks_without_a_data_set_of_their_own_are_drawn_on_that_of_the_predictions(workspace: Workspace) -> None:
    given, made, dataset = look(workspace, "kept", "val")
    ids = common_ids(made, given)
    assert ids == sorted(dataset.ids("val"))
    row = row_of(given, made, ids[0], (64, 64))
    assert [tile.column for tile in row.tiles] == ["image", "kept: masks", "val: masks", "truth"]


def test_the_same_images_are_chosen_for_all_stages_and_the_worst_by_their_iou(workspace: Workspace) -> None:
    given, made, dataset = look(workspace, "val")
    _, others, _ = look(workspace, "kept")
    assert choose_fixed(common_ids(made, given), 3) == choose_fixed(common_ids(others, given), 3)
    iou = iou_of(made[0], given, common_ids(made, given), DOING)
    for image_id, value in iou.items():
        truth, mask = dataset.mask(image_id), np.asarray(Image.open(made[0].mask_path(image_id)))
        scored = truth != 255
        present = np.union1d(truth[scored], mask[scored])
        assert value == pytest.approx(
            jaccard_score(truth[scored], mask[scored], labels=present, average="macro"), abs=1e-9
        )
    worst = choose_worst(iou, 3)
    assert [iou[one] for one in worst] == sorted(value for value in iou.values() if value is not None)[:3]


def test_rows_share_their_columns_and_a_sheet_has_every_image(workspace: Workspace) -> None:
    given, made, _ = look(workspace, "seeds")
    ids = common_ids(made, given)
    sheet = draw_sheet(given, made, ids, "a note")
    most = max(len(row_of(given, made, image_id, (TILE, TILE)).tiles) for image_id in ids)
    assert sheet.width >= most * TILE
    one = draw_sheet(given, made, ids[:1])
    assert one.height < sheet.height
    assert len(np.unique(np.asarray(one).reshape(-1, 3), axis=0)) > 1000


def test_an_image_without_truth_or_labels_is_drawn_with_its_highest_maps(workspace: Workspace, tmp_path: Path) -> None:
    """A folder of photos, 200 classes: the four highest maps but the background's, and the number of the others."""
    names = ("background", *(f"class {number}" for number in range(1, 200)))
    Image.fromarray(np.full((1, 90, 3), 99, np.uint8)).save(tmp_path / "row.png")
    Image.fromarray(np.full((40, 30), 9, np.uint16) * 1000).save(tmp_path / "deep.png")
    folder, classes = ImageFolder(tmp_path), [0, 5, 60, 70, 80, 199]

    def write(writer: Writer) -> None:
        with ScoreMapWriter(writer, class_names=names, meaning="probability") as maps:
            maps.plan(folder.ids)
            for image_id in folder.ids:
                height, width = folder.size(image_id)
                scores = np.array([0.3, 0.05, 0.1, 0.3, 0.2, 0.01])[:, None, None]
                scores = np.broadcast_to(scores, (6, height, width))
                maps.add(image_id, scores, classes, size=(height, width), stride=1)
        writer.write_json("classes.json", {"class_names": list(names), "ids": sorted(folder.ids), "splits": []})

    made = publish(workspace, "many", "predictions", write)
    given = given_images(folder, [made])
    assert given.palette == voc_palette()
    row = row_of(given, [made], "row", (TILE, TILE))
    assert row.labels is None
    assert [tile.caption for tile in row.tiles[1:]] == [
        "many: class 70, up to 0.30",
        "many: class 80, up to 0.20",
        "many: class 60, up to 0.10",
        "many: class 5, up to 0.05 (+1 map)",
    ]
    assert row.tiles[0].pixels is not None
    assert row.tiles[0].pixels.shape == (2, TILE, 3)
    draw_sheet(given, [made], list(folder.ids))
    with pytest.raises(ArtifactError, match="many' holds no masks"):
        iou_of(made, given, folder.ids, DOING)
    workspace.remove("many")


def test_what_cannot_be_read_says_so_in_its_place_and_the_others_are_drawn(workspace: Workspace) -> None:
    given, made, dataset = look(workspace, "val")
    ids = common_ids(made, given)
    path, content = made[0].mask_path(ids[0]), made[0].mask_path(ids[0]).read_bytes()
    image, pixels = dataset.image_path(ids[1]), dataset.image_path(ids[1]).read_bytes()
    try:
        path.write_bytes(content[:50])
        image.write_bytes(b"")
        row = row_of(given, made, ids[0], (64, 64))
        assert "is damaged" in row.tiles[1].problem
        assert [tile.problem for tile in row.tiles[::2]] == ["", ""]
        assert "cannot be read" in row_of(given, made, ids[1], (64, 64)).tiles[0].problem
        draw_sheet(given, made, ids[:2])
        with pytest.raises(DataError, match="none of 1 images can be read"):
            draw_sheet(given, made, ids[1:2])
    finally:
        path.write_bytes(content)
        image.write_bytes(pixels)


def test_what_cannot_be_drawn_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    given, made, dataset = look(workspace, "val")
    with pytest.raises(ArtifactError, match="data' is a data set"):
        Made(workspace.artifact("data"))
    with pytest.raises(ArtifactError, match="has no maps, masks or segments"):
        publish(workspace, "scores", "metrics", lambda writer: writer.write_json("metrics.json", {}), data="data")
    with pytest.raises(DataError, match="no image is in 'val' and 'seeds'"):
        common_ids([*made, Made(workspace.artifact("seeds"))], given)
    with pytest.raises(DataError, match="no image of this split"):
        common_ids(made, given, dataset.ids("train"))
    stranger = publish(workspace, "stranger", "masks", masks(dataset, dataset.ids("val"), 1))
    with pytest.raises(ArtifactError, match="not here any more, or were prepared anew"):
        images_of(stranger.artifact, workspace)

    def write(writer: Writer) -> None:
        writer.write_json("classes.json", {"class_names": ["background", "cat"], "ids": [], "splits": []})
        writer.write_bytes("masks/a.png", b"x")

    other = publish(workspace, "other", "masks", write)
    with pytest.raises(ArtifactError, match="other' has the classes background, cat"):
        given_images(dataset, [other])
