"""stages/engine/training_images.py: what is drawn of a training, and that nothing else depends on it."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from stages.contract import Execution
from stages.engine.batch import Batch
from stages.engine.streams import Entry, Order, Stream
from stages.engine.training_images import steps_to_draw
from stages.engine.training_sheet import Example, Section, Tile, draw_sheet
from stages.engine.training_tiles import batch_sections
from stages.engine.watching import Lesson
from stages.networks import normalise
from stages.pipeline.run_stage import run_stage
from stages.train import STAGE
from stages.train_classifier import STAGE as CLASSIFIER_STAGE
from tests.stages.drawn_training import CLASSES, StopAt

PALETTE = bytes([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255]) + bytes(756)


def made(training, name, stage, config, progress=None):
    execution = Execution("cpu", 1, progress=progress or StopAt(None))
    run_stage(stage, config, training.space, name, training.inputs(config), execution)
    return training.space.artifact(name)


def drawn_files(artifact):
    return sorted(path.name for path in (artifact.path / "local" / "batches").iterdir())


def test_the_first_and_the_last_step_are_drawn_and_the_others_evenly_between():
    assert steps_to_draw(1000, 3) == {0, 500, 999}
    assert steps_to_draw(9, 5) == {0, 2, 4, 6, 8}
    assert steps_to_draw(10, 1) == {0}
    assert steps_to_draw(1, 3) == {0}
    assert steps_to_draw(2, 9) == {0, 1}


def test_tensorboard_shows_the_files(training):
    """Read by TensorBoard's own reader; batches and val, at the steps of the files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    artifact = made(training, "boarded", STAGE, training.config("fixmatch", log_images=3))
    assert drawn_files(artifact) == [f"{kind}-{step}.jpg" for kind in ("batch", "val") for step in (1, 3, 6)]
    board = EventAccumulator(str(artifact.path / "local" / "tensorboard"), {"images": 0})
    board.Reload()
    for kind in ("batch", "val"):
        events = board.Images(kind)
        assert [event.step for event in events] == [1, 3, 6]
        for event in events:
            content = (artifact.path / "local" / "batches" / f"{kind}-{event.step}.jpg").read_bytes()
            assert event.encoded_image_string == content
            assert Image.open(io.BytesIO(content)).size == (event.width, event.height)


def test_a_classifier_has_batches_and_no_predictions_and_none_is_drawn_where_none_is_wanted(training):
    artifact = made(training, "classified", CLASSIFIER_STAGE, training.config("cam", log_images=2))
    assert drawn_files(artifact) == ["batch-1.jpg", "batch-6.jpg"]
    artifact = made(training, "undrawn", CLASSIFIER_STAGE, training.config("cam", log_images=0))
    assert not (artifact.path / "local" / "batches").exists()


def test_a_val_image_that_cannot_be_read_is_a_note_and_the_training_goes_on(own_training):
    space = own_training.space
    for image_id in own_training.dataset.ids("val"):
        (space.path / "data" / "images" / f"{image_id}.png").write_bytes(b"no image")
    progress = StopAt(None)
    artifact = made(own_training, "made", STAGE, own_training.config("supervised", log_images=2), progress)
    notes = [note for note in progress.notes if "val" in note]
    assert len(notes) == 1
    assert notes[0].startswith("no images of val are drawn: ")
    assert drawn_files(artifact) == ["batch-1.jpg", "batch-6.jpg"]


def test_without_val_images_only_batches_are_drawn(tmp_path):
    from artifacts.store import Workspace
    from tests.stages.drawn_training import SPLITS, Training, publish_dataset

    space = Workspace(tmp_path / "runs")
    publish_dataset(space, splits={"train": SPLITS["train"]})
    training = Training(space)
    config = training.config({"name": "supervised"}, log_images=1, iterations=1)
    assert drawn_files(made(training, "made", STAGE, config)) == ["batch-1.jpg"]


# --- what is on a sheet


def samples_of(ids, pixels, label, tags):
    pixels = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    valid = torch.ones(len(ids), *pixels.shape[2:]).bool()
    return Batch(list(ids), normalise(pixels), pixels, torch.from_numpy(np.stack(label)).long(), valid, tags)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3)).astype(np.uint8)


def order(name, sources, apart=()):
    stream = Stream([Entry(i, s) for i, s in sources.items()], len(sources), group=1 + len(apart), apart=apart)
    return Order(name, stream, 0)


def test_a_sheet_has_images_as_they_were_drawn_and_seen_and_what_they_are_taught(pixels):
    """b is changed, and taught labels of its own with a confidence; a learns its mask and has no further tile."""
    label = np.zeros((2, 20, 30), np.uint8)
    label[0, :, :10], label[1] = 2, 255
    tags = torch.tensor([[0.0, 1.0, 0.0], [torch.nan] * 3])
    batch = samples_of("ab", pixels[:2], label, tags)
    changed = batch.replace(
        image=torch.cat([batch.image[:1], normalise(torch.from_numpy(pixels[2:]).permute(0, 3, 1, 2))])
    )
    target, weight = batch.label.clone(), torch.ones(2, 20, 30)
    target[1], weight[1, :5] = 3, 0
    weight[1, 5:9] = 0.5
    lesson = Lesson(("some_term",), [(changed, 1)], target[1:], weight[1:])
    own = Lesson(("mask",), [(batch, 0)], batch.label[:1], None)
    orders = {"all": order("all", {"a": "masks", "b": None})}
    (section,) = batch_sections({"all": batch}, [own, lesson], orders, CLASSES)
    assert section.title == "all: 2 of 2 images"
    first, second = section.examples
    assert (first.image_id, first.classes, second.classes) == ("a", (2,), None)
    assert [tile.title for tile in first.tiles] == ["image", "mask"]
    assert [tile.title for tile in second.tiles] == ["image", "shown: some term", "taught: some term", "confidence"]
    assert np.array_equal(first.tiles[0].image, pixels[0])
    assert np.array_equal(first.tiles[1].labels, label[0])
    assert np.array_equal(second.tiles[1].image, pixels[2])
    expected = np.full((20, 30), 3, np.uint8)
    expected[:5] = 255
    assert np.array_equal(second.tiles[2].labels, expected)
    assert np.unique(second.tiles[3].scores).tolist() == [0, 127, 255]


def test_an_image_that_is_in_a_batch_twice_has_the_lessons_of_its_own_crop(pixels):
    batch = samples_of("aa", pixels[:2], np.full((2, 20, 30), 255, np.uint8), torch.zeros(2, 3))
    target = torch.stack([torch.full((20, 30), 1), torch.full((20, 30), 2)])
    lesson = Lesson(("t",), [(batch, 1), (batch, 0)], target, None)
    (section,) = batch_sections({"all": batch}, [lesson], {"all": order("all", {"a": None})}, CLASSES)
    assert [np.unique(example.tiles[1].labels).tolist() for example in section.examples] == [[2], [1]]


def test_partners_stand_beside_the_first_images_and_regions_are_no_classes(pixels):
    regions = np.arange(600).reshape(1, 20, 30).astype(np.uint8)
    first = samples_of("a", pixels[:1], regions, torch.zeros(1, 3))
    second = samples_of("b", pixels[1:2], regions, torch.zeros(1, 3))
    stream = Stream([Entry("a", "regions"), Entry("b", "regions")], 1, group=2, apart=("partner",))
    (section,) = batch_sections({"all": first, "partner": second}, [], {"all": Order("all", stream, 0)}, CLASSES)
    assert [tile.title for tile in section.examples[0].tiles] == ["image", "partner"]
    assert np.array_equal(section.examples[0].tiles[1].image, pixels[1])


def test_large_crops_become_as_small_as_tiles(pixels):
    large = np.repeat(np.repeat(pixels[:1], 30, axis=1), 30, axis=2)  # 600 x 900
    batch = samples_of("a", large, np.zeros((1, 600, 900), np.uint8), torch.zeros(1, 3))
    (section,) = batch_sections({"all": batch}, [], {"all": order("all", {"a": "masks"})}, CLASSES)
    assert section.examples[0].tiles[0].image.shape == (139, 208, 3)
    assert section.examples[0].tiles[1].labels.shape == (139, 208)


def test_colours_stand_in_the_legend_and_ignored_pixels_are_hatched():
    """Where nothing is taught the image is grey with stripes of 110; a class has its colour at its outline."""
    labels = np.full((208, 208), 255, np.uint8)
    labels[:100] = 1
    tile = Tile("mask", np.full((208, 208, 3), 255, np.uint8), labels)
    sheet = np.asarray(draw_sheet("step 1", [Section("all", [Example("a", (1, 2), [tile])])], CLASSES, PALETTE))
    colours, counts = np.unique(sheet.reshape(-1, 3), axis=0, return_counts=True)
    found = dict(zip(map(tuple, colours.tolist()), counts.tolist(), strict=True))
    assert found[(110, 110, 110)] > 208 * 108 // 7  # two of seven diagonals
    assert found[(255, 0, 0)] > 200  # swatches of class 1, its outline
    assert found[(0, 255, 0)] > 50  # class 2 stands in the legend and the caption only


@pytest.mark.parametrize(("tiles", "width", "height"), [(7, 1540, 1), (8, 898, 2), (10, 1112, 2), (15, 1112, 3)])
def test_many_tiles_of_an_image_stand_in_lines_of_equal_length(tiles, width, height):
    """A tile and the space beside it: 214 pixels; margins: 24 each. Below its title: 226."""
    example = Example("a", (), [Tile("t", np.zeros((9, 9, 3), np.uint8))] * tiles)
    one = Example("a", (), [Tile("t", np.zeros((9, 9, 3), np.uint8))])
    sheet, least = (draw_sheet("step 1", [Section("s", [e])], CLASSES, PALETTE) for e in (example, one))
    assert sheet.width == width
    assert sheet.height == least.height + (height - 1) * 226


@pytest.mark.parametrize("count", [0, 1, 40])
def test_names_of_any_length_and_many_classes_fit(count):
    names = ("background", *(f"a class with a long name, number {number}" for number in range(count)))
    example = Example(
        "an-id-" * 40, tuple(range(1, count + 1)), [Tile("taught: " + "term, " * 30, scores=np.zeros((1, 9), np.uint8))]
    )
    sheet = draw_sheet("step 1 of 1", [Section("all", [example] * 3)], names, bytes(768))
    assert sheet.width <= 1600
    assert sheet.height < 1200


def test_the_settings_are_recorded_and_json(training):
    artifact = made(training, "recorded", STAGE, training.config("supervised", log_images=1, iterations=1))
    assert json.loads(json.dumps(artifact.manifest.config))["log_images"] == 1
