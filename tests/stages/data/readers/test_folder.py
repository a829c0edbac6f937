"""Data sets of one's own: folders written with Pillow and json, and every mask compared with what was drawn."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from artifacts.dataset import Dataset
from artifacts.errors import ConfigError, DataError
from artifacts.store import Artifact, Workspace
from semiseg_cli.main import main
from stages.config import build
from stages.contract import Execution
from stages.data.annotations.brush_runs import pack_brush
from stages.data.preparation_config import PrepareDataConfig
from stages.pipeline.run_stage import run_stage
from stages.prepare_data import STAGE
from tests.fuzz.palettes import indexed_png
from tests.stages.data.conftest import Notes

WIDTH, HEIGHT = 24, 18
VOC_COLOURS = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 255: (224, 224, 192)}  # VOClabelcolormap


@dataclass
class Result:
    dataset: Dataset
    artifact: Artifact
    notes: list[str]
    ran: bool = True

    @property
    def splits(self) -> dict[str, tuple[str, ...]]:
        return {split: ids for split, ids in self.dataset.splits.items() if ids}

    def said(self, *words: str) -> bool:
        return any(all(word in note for word in words) for note in self.notes)


@dataclass
class Photos:
    """A folder of images named p00, p01, ... and what people put beside it."""

    root: Path

    @property
    def images(self) -> Path:
        return self.root / "photos"

    @property
    def masks(self) -> Path:
        return self.root / "masks"

    def add(self, *names: str, folder: str = "photos") -> None:
        (self.root / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
            pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
            Image.fromarray(pixels).save(self.root / folder / name)

    def write(self, name: str, text: str) -> str:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text, encoding="utf-8", newline="")
        return str(self.root / name)

    def write_masks(self, drawn: Mapping[str, np.ndarray], mode: str = "P", ending: str = ".png") -> None:
        self.masks.mkdir(exist_ok=True)
        for name, values in drawn.items():
            image = Image.fromarray(values)
            if mode == "P":
                image.putpalette([value for i in range(256) for value in (i, 255 - i, i // 2)])
            image.save(self.masks / f"{name}{ending}")

    def paint(self, drawn: Mapping[str, np.ndarray], colours: Mapping[int, Sequence[int]], mode: str = "RGB") -> None:
        self.masks.mkdir(exist_ok=True)
        for name, values in drawn.items():
            pixels = np.zeros((*values.shape, 3), np.uint8)
            for value, colour in colours.items():
                pixels[values == value] = colour
            image = Image.fromarray(pixels).convert(mode) if mode != "P" else Image.fromarray(pixels).quantize()
            image.save(self.masks / f"{name}.png")

    def prepare(self, name: str = "data", workers: int = 1, **settings: Any) -> Result:
        """settings: those of the data set; `classes`, `labelled`, ... go where they belong."""
        outer = {key: settings.pop(key) for key in list(settings) if key in PrepareDataConfig.model_fields}
        if "unlabelled" in outer:  # a folder, in these tests
            settings["unlabelled"] = outer.pop("unlabelled")
        settings.setdefault("images", str(self.images))
        if self.masks.is_dir():
            settings.setdefault("masks", str(self.masks))
        config = build(PrepareDataConfig, {"dataset": {"name": "folder", **settings}, **outer}, "test")
        progress = Notes()
        execution = Execution(workers=workers, progress=progress)
        outcome = run_stage(STAGE, config, Workspace(self.root / "ws"), name, {}, execution)
        return Result(Dataset(outcome.artifact), outcome.artifact, progress.said, outcome.ran)


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    """Ten images, p0.png ... p9.png."""
    photos = Photos(tmp_path)
    photos.add(*(f"p{number}.png" for number in range(10)))
    return photos


def random_masks(names: Iterable[str], values: Sequence[int], seed: int = 0) -> dict[str, np.ndarray]:
    """Masks in which every value occurs."""
    rng = np.random.default_rng(seed)
    drawn = {name: rng.choice(np.array(values, np.uint8), (HEIGHT, WIDTH)) for name in names}
    for values_of in drawn.values():
        values_of[0, : len(values)] = values
    return drawn


def names(count: int) -> list[str]:
    return [f"p{number}" for number in range(count)]


def assert_masks(dataset: Dataset, expected: Mapping[str, np.ndarray]) -> None:
    have = {i for ids in dataset.splits.values() for i in ids if dataset.has_mask(i)}
    assert have == set(expected)
    for image_id, mask in expected.items():
        np.testing.assert_array_equal(dataset.mask(image_id), mask, err_msg=image_id)


def renumbered(drawn: Mapping[str, np.ndarray], ids: Mapping[int, int]) -> dict[str, np.ndarray]:
    """A plain loop over the pixels."""
    return {
        name: np.array([[ids[int(value)] for value in row] for row in mask], np.uint8) for name, mask in drawn.items()
    }


# ------------------------------------------------------------------------------------------------- ids


@pytest.mark.parametrize("mode", ["P", "L"])
def test_ids_without_a_class_table(photos, mode):
    drawn = random_masks(names(10), [0, 1, 2, 255])
    photos.write_masks(drawn, mode)
    result = photos.prepare()
    assert result.dataset.class_names == ("background", "class_1", "class_2")
    assert_masks(result.dataset, drawn)
    assert len(result.splits["val"]) == 2
    assert sorted([*result.splits["train"], *result.splits["val"]]) == names(10)
    assert result.said("values 0..2, 255, read as class ids and ignore (255)")
    assert result.said("classes: background, class_1, class_2", "--classes FILE")
    assert result.said("10 images with masks, 0 with image-level labels alone, 0 with neither")


def test_ids_with_the_palette_of_voc(photos):
    drawn = random_masks(names(4), [0, 3, 255])
    photos.masks.mkdir()
    for name, values in drawn.items():
        image = Image.fromarray(values)
        image.putpalette([c for value in range(256) for c in VOC_COLOURS.get(value, (1, 2, 3))])
        image.save(photos.masks / f"{name}.png")
    result = photos.prepare()
    assert result.dataset.num_classes == 21
    assert result.dataset.class_names[3] == "bird"
    assert result.said("palette is VOC's, but the classes may differ")
    assert_masks(result.dataset, drawn)


def test_ids_with_a_table_of_names(photos):
    drawn = random_masks(names(10), [0, 1, 2, 255])
    photos.write_masks(drawn)
    result = photos.prepare(class_table=photos.write("classes.txt", "background\ncat\ntraffic light\nnever seen\n"))
    assert result.dataset.class_names == ("background", "cat", "traffic light", "never seen")
    assert_masks(result.dataset, drawn)
    assert result.dataset.tags("p0") == (1, 2)
    assert result.said("read as ids", "--set dataset.mask_format=ids pins it")
    pinned = photos.prepare("pinned", class_table=str(photos.root / "classes.txt"), mask_format="ids")
    assert not pinned.said("pins it)", "mask_format")
    assert_masks(pinned.dataset, drawn)


def test_ids_with_a_table_of_ids_and_without_background(photos):
    drawn = random_masks(names(5), [7, 8, 30, 200])
    photos.write_masks(drawn)
    table = photos.write("classes.txt", "8 pavement\n7 road\n200 sky\n30 __ignore__\n")
    result = photos.prepare(class_table=table)
    assert result.dataset.class_names == ("road", "pavement", "sky")
    assert not result.dataset.has_background
    assert_masks(result.dataset, renumbered(drawn, {7: 0, 8: 1, 200: 2, 30: 255}))
    assert result.dataset.tags("p0") == (0, 1, 2)
    assert result.said("has no background: every pixel has one of its classes, or 255")


def test_background_comes_first_whatever_its_id(photos):
    drawn = random_masks(names(5), [0, 4, 9, 255])
    photos.write_masks(drawn)
    result = photos.prepare(class_table=photos.write("classes.txt", "0 road\n4 background\n9 car\n"))
    assert result.dataset.class_names == ("background", "road", "car")
    assert_masks(result.dataset, renumbered(drawn, {0: 1, 4: 0, 9: 2, 255: 255}))


@pytest.mark.parametrize("suffix", [".bmp", ".tif", ".TIFF"])
@pytest.mark.parametrize("palette", [False, True])
def test_ids_in_other_formats(photos, suffix, palette):
    drawn = random_masks(names(5), [0, 1, 2])
    photos.write_masks(drawn, "P" if palette else "L", suffix)
    result = photos.prepare(mask_format="ids")
    assert result.dataset.num_classes == 3
    assert_masks(result.dataset, drawn)


def test_the_values_of_a_palette_that_looks_like_other_values(photos):
    """Pinned as ids: a BMP whose value 1 is white is not a mask of 0 and 255."""
    drawn = random_masks(names(5), [0, 1])
    photos.masks.mkdir()
    for name, values in drawn.items():
        image = Image.fromarray(values)
        image.putpalette([0, 0, 0, 255, 255, 255, 1, 2, 3])
        image.save(photos.masks / f"{name}.bmp")
    table = photos.write("classes.txt", "background\nobject\n")
    assert_masks(photos.prepare(mask_format="ids", class_table=table).dataset, drawn)
    assert_masks(photos.prepare("guessed", class_table=table).dataset, drawn)
    for name, values in drawn.items():
        image = Image.fromarray(values)
        image.putpalette([0, 0, 0, 255, 255, 255])  # Pillow reads this file wrongly
        image.save(photos.masks / f"{name}.bmp")
    with pytest.raises(DataError, match=r"p0\.bmp is a BMP file of 8 bits"):
        photos.prepare(class_table=table)
    for name, values in drawn.items():
        Image.fromarray(values * 255).convert("1").save(photos.masks / f"{name}.bmp")
    assert_masks(photos.prepare("one_bit", class_table=table).dataset, drawn)


# ------------------------------------------------------------------------------------------------- colours

COLOURS = {0: (0, 0, 0), 1: (70, 130, 180), 2: (220, 20, 60), 3: (70, 130, 181)}
TABLE = "background 0 0 0\nsky 70 130 180\nperson 220 20 60\n__ignore__ 70 130 181\n"


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours(photos, mode):
    drawn = random_masks(names(6), [0, 1, 2, 3])
    photos.paint(drawn, COLOURS, mode)
    result = photos.prepare(class_table=photos.write("classes.txt", TABLE))
    assert result.dataset.class_names == ("background", "sky", "person")
    assert_masks(result.dataset, renumbered(drawn, {0: 0, 1: 1, 2: 2, 3: 255}))
    assert result.said("read as colours", "--set dataset.mask_format=colours pins it")
    assert result.dataset.facts["mask_format"] == "colours"


def test_the_class_table_of_the_error_works(photos):
    drawn = random_masks(names(6), [0, 1, 2])
    photos.paint(drawn, COLOURS)
    with pytest.raises(
        DataError, match=r"the class of each value or colour in .*masks is not known: .*3 colours"
    ) as caught:
        photos.prepare()
    assert caught.value.hint is not None
    lines = [line.strip() for line in caught.value.hint.splitlines() if line.startswith("    ")]
    assert len(lines) == 3
    result = photos.prepare(class_table=photos.write("classes.txt", "\n".join(lines)))
    colours = {tuple(map(int, line.split()[1:])): number for number, line in enumerate(lines)}
    assert lines[0].startswith("background")
    assert_masks(result.dataset, renumbered(drawn, {value: colours[COLOURS[value]] for value in range(3)}))


def test_the_class_table_of_the_error_has_no_classes_of_voc_that_do_not_occur(photos):
    photos.paint(random_masks(names(4), [0, 1, 2]), {0: (0, 0, 0), 1: (64, 0, 0), 2: (224, 224, 192)})
    with pytest.raises(DataError) as caught:
        photos.prepare()
    lines = [line.strip() for line in str(caught.value.hint).splitlines() if line.startswith("    ")]
    assert lines == ["background 0 0 0", "cat 64 0 0", "__ignore__ 224 224 192"]


def test_masks_with_very_many_unknown_colours_are_not_said_to_lack_classes(photos):
    """A mask with smoothed edges was answered with the advice to add a hundred colours to the class table."""
    photos.paint(random_masks(names(4), [0, 1]), COLOURS)
    mixed = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    mixed[..., 1] = 200  # far from every class
    mixed[..., 2] = (np.arange(HEIGHT * WIDTH) % 70).reshape(HEIGHT, WIDTH)
    Image.fromarray(mixed).save(photos.masks / "p1.png")
    with pytest.raises(DataError) as caught:
        photos.prepare(class_table=photos.write("classes.txt", TABLE))
    assert "export the masks again" in str(caught.value.hint)


def test_masks_of_ids_with_a_table_that_has_colours_too(photos):
    drawn = random_masks(names(6), [0, 1, 2, 255])
    photos.write_masks(drawn, "L")
    table = photos.write("classes.txt", "0 background 0 0 0\n1 sky 70 130 180\n2 person 220 20 60\n")
    result = photos.prepare(class_table=table)
    assert_masks(result.dataset, drawn)
    assert result.said("read as ids", "mask_format=ids pins it")
    pinned = photos.prepare("pinned", class_table=table, mask_format="ids")
    assert_masks(pinned.dataset, drawn)


def test_a_single_painted_mask_is_enough_for_colours(photos):
    """The palette of index PNGs is looked up where the table has colours, even if its order differs from the values."""
    drawn = random_masks(names(6), [0, 1, 2])
    photos.masks.mkdir()
    for name, values in drawn.items():
        image = Image.fromarray(values)
        image.putpalette([c for value in (2, 0, 1) for c in COLOURS[value]])
        image.save(photos.masks / f"{name}.png")
    result = photos.prepare(class_table=photos.write("classes.txt", TABLE))
    assert_masks(result.dataset, renumbered(drawn, {0: 2, 1: 0, 2: 1}))


def test_colours_that_are_in_no_table(photos):
    drawn = random_masks(names(6), [0, 1, 2])
    photos.paint(drawn, COLOURS)
    with pytest.raises(DataError, match=r"colours that are not a class: \(220, 20, 60\)"):
        photos.prepare(class_table=photos.write("classes.txt", "background 0 0 0\nsky 70 130 180\n"))
    with pytest.raises(DataError, match="painted in colours, and the class table has none"):
        photos.prepare(class_table=photos.write("names.txt", "background\nsky\nperson\n"))


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA"])
@pytest.mark.parametrize(
    ("lines", "ids"),
    [
        ("255 background\n128 disc\n0 cup\n", {255: 0, 0: 1, 128: 2}),
        ("0 background\n100 disc\n200 cup\n", {0: 0, 100: 1, 200: 2}),
        ("Pixel Value, Class\n0, background\n85, disc\n170, cup\n", {0: 0, 85: 1, 170: 2, 255: 255}),
        ("0 background\n255 object\n", {0: 0, 255: 1}),
        ("0 background\n1 object\n255 __ignore__\n", {0: 0, 255: 255}),
        ("".join(f"{'background' if i == 0 else f'c{i}'}\n" for i in range(101)), {0: 0, 50: 50, 100: 100, 255: 255}),
        ('{"0": "background", "100": "disc"}', {0: 0, 100: 1, 255: 255}),
    ],
)
def test_a_class_table_that_has_the_values_wins_over_what_masks_look_like(photos, mode, lines, ids):
    """Shades, black and white, and three equal channels in a PNG were taken for colours."""
    drawn = random_masks(names(6), list(ids))
    photos.masks.mkdir()
    for name, values in drawn.items():
        image = Image.fromarray(values)
        if mode == "P":
            image.putpalette([value for i in range(256) for value in (i, i, i)])
        (image if mode in "LP" else image.convert(mode)).save(photos.masks / f"{name}.png")
    result = photos.prepare(class_table=photos.write("classes.txt", lines))
    assert_masks(result.dataset, renumbered(drawn, ids))
    assert result.said("read as ids", "--set dataset.mask_format=ids pins it")


def test_black_and_white_masks_are_no_ids_where_the_table_has_0_and_1(photos):
    drawn = random_masks(names(4), [0, 255])
    photos.write_masks(drawn, "L")
    for number, lines in enumerate(("0 background\n1 weed\n", "background\nweed\n")):
        result = photos.prepare(f"d{number}", class_table=photos.write("classes.txt", lines))
        assert_masks(result.dataset, renumbered(drawn, {0: 0, 255: 1}))
        assert result.said("read as binary")


@pytest.mark.parametrize("lines", ["0 object\n255 background\n", "object 0 0 0\nbackground 255 255 255\n"])
@pytest.mark.parametrize("said", ["auto", "binary"])
def test_black_may_be_the_object_if_the_table_says_so(photos, lines, said):
    drawn = random_masks(names(4), [0, 255])
    photos.write_masks(drawn, "L")
    result = photos.prepare(class_table=photos.write("classes.txt", lines), mask_format=said)
    assert result.dataset.class_names == ("background", "object")
    assert_masks(result.dataset, renumbered(drawn, {0: 1, 255: 0}))


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_grey_colours_of_a_class_table_are_colours(photos, mode):
    """Three equal channels may be ids; a table whose colours they are says what is meant."""
    drawn = random_masks(names(4), [0, 128, 255])
    photos.masks.mkdir()
    for name, values in drawn.items():
        Image.fromarray(values).convert(mode).save(photos.masks / f"{name}.png")
    table = photos.write("classes.txt", "0 background 0 0 0\n1 cup 255 255 255\n2 disc 128 128 128\n")
    result = photos.prepare(class_table=table)
    assert_masks(result.dataset, renumbered(drawn, {0: 0, 255: 1, 128: 2}))
    assert result.said("read as colours")


def test_values_that_a_table_of_ids_lacks_are_named_whatever_they_look_like(photos):
    photos.write_masks(random_masks(names(4), [0, 100, 200]), "L")
    table = photos.write("classes.txt", "0 background\n100 disc\n")
    with pytest.raises(DataError, match=r"values that are not a class: 200 \(\d+ px\); the table has 0, 100, 255"):
        photos.prepare(class_table=table)


def test_ids_that_are_pinned_are_ids_without_a_table_too(photos):
    drawn = random_masks(names(4), [0, 20, 100])
    photos.write_masks(drawn, "L")
    with pytest.raises(DataError, match="look like shades, not like ids"):
        photos.prepare()
    result = photos.prepare(mask_format="ids")
    assert_masks(result.dataset, drawn)
    assert result.dataset.class_names[100] == "class_100"


def test_ignore_beyond_the_palette_never_becomes_background(photos):
    """21 colours of VOC, and 255 on the borders: each program that looks it up shows black."""
    drawn = random_masks(names(4), [0, 1, 2, 255])
    photos.masks.mkdir()
    colours = [VOC_COLOURS[value] for value in range(3)]
    for name, values in drawn.items():
        indexed_png(photos.masks / f"{name}.png", values, colours)
    table = photos.write("classes.txt", "background 0 0 0\ncat 128 0 0\ndog 0 128 0\n")
    with pytest.raises(DataError, match=r"p0\.png has a palette of 3 colours, .* beyond it: 255 \(\d+ px\)"):
        photos.prepare(class_table=table)
    pinned = photos.prepare(class_table=table, mask_format="ids")
    assert_masks(pinned.dataset, drawn)
    assert_masks(photos.prepare("n", class_table=photos.write("n.txt", "background\ncat\ndog\n")).dataset, drawn)
    with_ids = photos.write("ids.txt", "0 background 0 0 0\n1 cat 128 0 0\n2 dog 0 128 0\n")
    assert_masks(photos.prepare("ids", class_table=with_ids).dataset, drawn)


def test_values_of_one_colour_are_told(photos):
    drawn = random_masks(names(7), [0, 1, 2])
    photos.masks.mkdir()
    for name, values in drawn.items():
        indexed_png(photos.masks / f"{name}.png", values, [(0, 0, 0), (128, 0, 0), (128, 0, 0)])
    result = photos.prepare(class_table=photos.write("classes.txt", "background 0 0 0\ncat 128 0 0\n"))
    assert_masks(result.dataset, renumbered(drawn, {0: 0, 1: 1, 2: 1}))
    assert result.said("p0.png: the values 1, 2 have one colour, (128, 0, 0), and become one class")
    assert result.said("and 2 more remarks of this kind")


@pytest.mark.parametrize("count", [256, 257, 300])
def test_more_classes_than_a_mask_holds_are_refused_at_once(photos, count):
    photos.add(*(f"q{number}.png" for number in range(count)))
    labels = photos.write("labels.csv", "".join(f"q{number}.png,c{number}\n" for number in range(count)))
    with pytest.raises(DataError, match=rf"labels.csv: {count + 1} classes: an 8-bit mask holds 255"):
        photos.prepare(labels=labels)
    shapes = [{"label": f"c{n}", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon"} for n in range(count)]
    content = {"imagePath": "p0.png", "imageWidth": WIDTH, "imageHeight": HEIGHT, "shapes": shapes}
    photos.write("masks/p0.json", json.dumps(content))
    with pytest.raises(DataError, match=rf"masks: {count + 1} classes: an 8-bit mask holds 255"):
        photos.prepare()


def test_names_that_cannot_be_shown_are_no_classes(photos):
    labels = photos.write("labels.csv", "p0.png,cat\np1.png,\x1b[31mdog\n")
    with pytest.raises(
        DataError, match=r"labels.csv: '\\x1b\[31mdog' cannot be a class name: it has control"
    ) as caught:
        photos.prepare(labels=labels)
    assert "\x1b" not in caught.value.message
    with pytest.raises(DataError, match=r"labels.csv, line 2, cell 2: '\\x1b\[31mdog' is not a class"):
        photos.prepare(labels=labels, class_table=photos.write("classes.txt", "background\ncat\n"))


# ------------------------------------------------------------------------------------------------- black and white


@pytest.mark.parametrize("mode", ["L", "1", "RGB"])
def test_black_and_white(photos, mode):
    drawn = random_masks(names(6), [0, 255])
    photos.masks.mkdir()
    for name, values in drawn.items():
        Image.fromarray(values).convert(mode).save(photos.masks / f"{name}.png")
    expected = renumbered(drawn, {0: 0, 255: 1})
    result = photos.prepare()
    assert result.dataset.class_names == ("background", "object")
    assert_masks(result.dataset, expected)
    assert result.dataset.tags("p0") == (1,)
    assert result.said("White (255) is read as the object, not as ignore")
    assert result.said("mask_format=binary", "class table pin it")
    named = photos.prepare("named", class_table=photos.write("classes.txt", "background\nweed\n"))
    assert named.dataset.class_names == ("background", "weed")
    assert_masks(named.dataset, expected)
    assert named.said("read as binary")
    pinned = photos.prepare("pinned", class_table=str(photos.root / "classes.txt"), mask_format="binary")
    assert_masks(pinned.dataset, expected)


def test_ids_of_which_only_0_and_255_occur_can_be_pinned(photos):
    drawn = random_masks(names(6), [0, 255])
    photos.write_masks(drawn, "L")
    table = photos.write("classes.txt", "background\ncat\ndog\n")
    with pytest.raises(DataError, match="two classes, the class table has 3") as caught:
        photos.prepare(class_table=table)
    assert "mask_format=ids" in (caught.value.hint or "")
    assert_masks(photos.prepare(class_table=table, mask_format="ids").dataset, drawn)


def test_greys_between_black_and_white_are_refused(photos):
    drawn = random_masks(names(3), [0, 255])
    drawn["p1"][3, 3] = 254
    photos.write_masks(drawn, "L")
    with pytest.raises(DataError, match=r"p1\.png has colours that are not a class: \(254, 254, 254\) 1 px"):
        photos.prepare(mask_format="binary", class_table=photos.write("classes.txt", "background\nweed\n"))


# ------------------------------------------------------------------------------------------------- outlines


def labelme(shapes: Iterable[tuple[str, str, Any]], image: str) -> str:
    return json.dumps(
        {
            "version": "5.4.1",
            "imagePath": image,
            "imageHeight": HEIGHT,
            "imageWidth": WIDTH,
            "shapes": [{"label": label, "shape_type": kind, "points": points} for label, kind, points in shapes],
        }
    )


def boxed(*boxes: tuple[int, int, int, int, int], ground: int = 0) -> np.ndarray:
    """(left, top, right, bottom, value): pixels whose centre lies inside, for whole numbers those of a slice."""
    mask = np.full((HEIGHT, WIDTH), ground, np.uint8)
    for left, top, right, bottom, value in boxes:
        mask[top:bottom, left:right] = value
    return mask


LABELME = {
    "p0": [("dog", "rectangle", [[2, 3], [10, 9]]), ("cat", "polygon", [[5, 5], [15, 5], [15, 12], [5, 12]])],
    "p1": [("cat", "rectangle", [[20, 16], [4, 2]]), ("__ignore__", "rectangle", [[6, 4], [8, 6]])],
    "p2": [("cat", "rectangle", [[0, 0], [24, 18]]), ("_background_", "rectangle", [[1, 1], [3, 3]])],
    "p3": [("dog", "point", [[3, 3]])],
    "p4": [],
}
LABELME_MASKS = {  # background, cat, dog
    "p0": boxed((2, 3, 10, 9, 2), (5, 5, 15, 12, 1)),
    "p1": boxed((4, 2, 20, 16, 1), (6, 4, 8, 6, 255)),
    "p2": boxed((0, 0, 24, 18, 1), (1, 1, 3, 3, 0)),
    "p3": boxed(),
    "p4": boxed(),
}


@pytest.mark.parametrize("where", ["photos", "json"])
@pytest.mark.parametrize("pinned", [False, True])
def test_labelme_beside_the_images_and_in_a_folder(photos, where, pinned):
    for name, shapes in LABELME.items():
        photos.write(f"{where}/{name}.json", labelme(shapes, f"{name}.png"))
    more = {"class_table": photos.write("c.txt", "background\ncat\ndog\n"), "mask_format": "labelme"} if pinned else {}
    result = photos.prepare(masks=str(photos.root / where), **more)
    assert result.dataset.class_names == ("background", "cat", "dog")
    assert_masks(result.dataset, LABELME_MASKS)
    assert result.splits["unlabelled"] == ("p5", "p6", "p7", "p8", "p9")
    assert result.said("left out: 1 shape without area", "p3.json")
    assert result.said("classes: background, cat, dog", "--classes FILE") is not pinned


def test_labelme_without_background_leaves_what_nobody_drew_unknown(photos):
    for name, shapes in LABELME.items():
        photos.write(f"json/{name}.json", labelme(shapes, f"{name}.png"))
    table = photos.write("classes.txt", "0 cat\n1 dog\n")
    result = photos.prepare(masks=str(photos.root / "json"), class_table=table)
    assert result.dataset.class_names == ("cat", "dog")
    assert_masks(result.dataset, renumbered(LABELME_MASKS, {0: 255, 1: 0, 2: 1, 255: 255}))


def test_labelme_mask_shapes(photos):
    inside = np.random.default_rng(0).integers(0, 2, (5, 7)).astype(bool)
    buffer = io.BytesIO()
    Image.fromarray(inside).save(buffer, format="PNG")
    shape = {
        "label": "cat",
        "shape_type": "mask",
        "points": [[3, 4], [9, 8]],
        "mask": base64.b64encode(buffer.getvalue()).decode(),
    }
    text = json.dumps({"imageHeight": HEIGHT, "imageWidth": WIDTH, "shapes": [shape]})
    for name in ("p0", "p1"):
        photos.write(f"photos/{name}.json", text)
    expected = boxed()
    expected[4:9, 3:10] = inside
    result = photos.prepare(masks=str(photos.images))
    assert_masks(result.dataset, {"p0": expected, "p1": expected})


def test_every_label_that_is_no_class_is_told_at_once(photos):
    for name, shapes in LABELME.items():
        photos.write(f"json/{name}.json", labelme(shapes, f"{name}.png"))
    with pytest.raises(DataError, match=r"2 labels are not a class: 'cat' .*p0\.json.* and 2 more\); 'dog'"):
        photos.prepare(masks=str(photos.root / "json"), class_table=photos.write("classes.txt", "background\nhorse\n"))


def coco(annotations: Sequence[Mapping[str, Any]], images: Sequence[str] = ("p0", "p1", "p2")) -> dict[str, Any]:
    return {
        "images": [
            {"id": 10 + number, "file_name": f"sub/{name}.png", "height": HEIGHT, "width": WIDTH}
            for number, name in enumerate(images)
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [{"id": number, **entry} for number, entry in enumerate(annotations)],
    }


def polygon(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


ANNOTATIONS = [
    {"image_id": 10, "category_id": 3, "segmentation": polygon(5, 5, 7, 7)},
    {"image_id": 10, "category_id": 7, "segmentation": polygon(2, 3, 10, 9)},  # larger: lies below
    {
        "image_id": 11,
        "category_id": 3,
        "iscrowd": 1,
        "segmentation": {"size": [HEIGHT, WIDTH], "counts": [2 * HEIGHT, 3 * HEIGHT, 19 * HEIGHT]},
    },
]
COCO_MASKS = {  # background, cat (3), dog (7)
    "p0": boxed((2, 3, 10, 9, 2), (5, 5, 7, 7, 1)),
    "p1": boxed((2, 0, 5, HEIGHT, 255)),
    "p2": boxed(),
}


def test_coco(photos):
    path = photos.write("instances.json", json.dumps(coco(ANNOTATIONS)))
    result = photos.prepare(masks=path)
    assert result.dataset.class_names == ("background", "cat", "dog")
    assert_masks(result.dataset, COCO_MASKS)
    assert result.splits["unlabelled"] == tuple(f"p{n}" for n in range(3, 10))
    assert result.said("classes: background, cat, dog", "--classes FILE")
    assert result.said("1 image of", "without an annotation", "background", "p2")
    table = photos.write("classes.txt", "background\ndog\nmouse\ncat\n")
    named = photos.prepare("named", masks=path, class_table=table, mask_format="coco")
    assert named.dataset.class_names == ("background", "dog", "mouse", "cat")
    assert_masks(named.dataset, renumbered(COCO_MASKS, {0: 0, 1: 3, 2: 1, 255: 255}))


def test_coco_that_does_not_fit(photos):
    path = photos.write("instances.json", json.dumps(coco(ANNOTATIONS, ("p0", "p1", "q2", "P3"))))
    with pytest.raises(DataError, match=r"not in .*photos: 2 images of .*instances\.json: P3, q2") as caught:
        photos.prepare(masks=path)
    assert "did you mean p3 for P3" in (caught.value.hint or "")
    photos.write("instances.json", json.dumps(coco(ANNOTATIONS)))
    with pytest.raises(DataError, match="categories that are not a class: dog"):
        photos.prepare(masks=path, class_table=photos.write("classes.txt", "background\ncat\n"))
    with pytest.raises(DataError, match="masks of the format labelme are a folder"):
        photos.prepare(masks=path, mask_format="labelme")
    with pytest.raises(DataError, match="masks of the format coco are one file"):
        photos.prepare(masks=str(photos.images), mask_format="coco")


def cvat(shapes_of: Mapping[str, str]) -> str:
    """A CVAT file: the shapes by image."""
    images = "".join(
        f'<image id="{number}" name="sub/{name}.png" width="{WIDTH}" height="{HEIGHT}">{shapes}</image>'
        for number, (name, shapes) in enumerate(shapes_of.items())
    )
    labels = "".join(f"<label><name>{name}</name></label>" for name in ("dog", "cat", "cow"))
    return f"<annotations><meta><task><labels>{labels}</labels></task></meta>{images}</annotations>"


CVAT = {
    "p0": '<box label="cat" xtl="2" ytl="3" xbr="10" ybr="9" z_order="1"/>'
    '<polygon label="dog" points="0,0;5,0;5,18;0,18" z_order="0"/><polyline label="cat" points="0,0;9,9"/>',
    "p1": '<mask label="dog" rle="1,2,1" left="20" top="17" width="4" height="1"/>',
    "p2": "",
    "p3": '<tag label="background"/>',
}
CVAT_MASKS = {  # background, dog, cat, cow
    "p0": boxed((0, 0, 5, 18, 1), (2, 3, 10, 9, 2)),
    "p1": boxed((21, 17, 23, 18, 1)),
    "p3": boxed(),
}


def test_cvat(photos):
    path = photos.write("annotations.xml", cvat(CVAT))
    result = photos.prepare(masks=path)
    assert result.dataset.class_names == ("background", "dog", "cat", "cow")
    assert_masks(result.dataset, CVAT_MASKS)
    assert "p2" in result.splits["unlabelled"]
    assert result.said("without a shape, which counts as not annotated: 1 image of", ": p2")
    assert result.said("left out: 1 shape without area", "polyline")
    assert result.said("1 class has no shape: cow")
    two = photos.prepare("two", workers=2, masks=path, mask_format="cvat")
    assert two.artifact.manifest.content == result.artifact.manifest.content


def supervisely(photos: Photos, objects: Mapping[str, Any]) -> str:
    """The folder ann of a Supervisely project."""
    for name, found in objects.items():
        content = {"size": {"height": HEIGHT, "width": WIDTH}, "tags": [], "objects": found}
        photos.write(f"project/ds0/ann/{name}.png.json", json.dumps(content))
    classes = [{"title": title, "shape": "polygon"} for title in ("dog", "cat")]
    photos.write("project/meta.json", json.dumps({"classes": classes, "tags": []}))
    return str(photos.root / "project" / "ds0" / "ann")


def square_of(label: str, left: int, top: int, right: int, bottom: int, *holes: Any) -> dict[str, Any]:
    corners = [[left, top], [right - 1, top], [right - 1, bottom - 1], [left, bottom - 1]]
    return {"classTitle": label, "geometryType": "polygon", "points": {"exterior": corners, "interior": list(holes)}}


@pytest.mark.parametrize("pinned", [False, True])
def test_supervisely(photos, pinned):
    hole = [[4, 4], [5, 4], [5, 5], [4, 5]]
    objects = {"p0": [square_of("cat", 2, 3, 10, 9, hole)], "p1": [square_of("dog", 0, 0, 24, 18)], "p2": []}
    place = supervisely(photos, objects)
    result = photos.prepare(masks=place, **({"mask_format": "supervisely"} if pinned else {}))
    assert result.dataset.class_names == ("background", "dog", "cat")
    expected = {"p0": boxed((2, 3, 10, 9, 2), (4, 4, 6, 6, 0)), "p1": boxed((0, 0, 24, 18, 1))}
    assert_masks(result.dataset, expected)
    assert result.said("counts as not annotated: 1 image of", ": p2")
    photos.write("project/meta.json", json.dumps({"classes": [{"title": "cat"}, {"title": "dog"}]}))
    again = photos.prepare(masks=place, **({"mask_format": "supervisely"} if pinned else {}))
    assert (again.ran, again.dataset.class_names) == (True, ("background", "cat", "dog"))


def test_two_annotation_files_of_one_image_are_named(photos):
    place = supervisely(photos, {"p0": []})
    photos.write("project/ds0/ann/p0.jpg.json", "{}")
    with pytest.raises(DataError, match=r"two masks of 'p0': p0\.jpg\.json and p0\.png\.json"):
        photos.prepare(masks=place)


def both_say(photos: Photos, capsys: pytest.CaptureFixture[str], *words: str, **settings: str) -> None:
    """prepare-data and check-data refuse this in the same words."""
    options = ["--images", str(photos.images), "--workspace", str(photos.root / "said")]
    options += [word for key, value in settings.items() for word in (f"--{key}", value)]
    for command in ("prepare-data", "check-data"):
        capsys.readouterr()
        assert main([command, *options]) == 3, command
        captured = capsys.readouterr()
        said = " ".join((captured.out + captured.err).replace("\n", " ").split())
        for word in words:
            assert word in said, (command, said)
        assert "Traceback" not in said


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("own/a.xml", "<annotation><object><bndbox/></object></annotation>", ["a Pascal VOC file of boxes"]),
        ("own/a.json", json.dumps(coco(ANNOTATIONS)), ["is a COCO file", "name the file itself"]),
        ("own/a.json", '{"_via_img_metadata": {}}', ["a VGG Image Annotator (VIA) project"]),
        ("own/ann/a.json", "{}", ["a Supervisely data set", "--masks"]),
        ("own/meta.json", '{"classes": [{"title": "a", "shape": "any"}]}', ["Supervisely's list of classes"]),
        ("own/annotations.xml", cvat({"p0": ""}), ["a CVAT file", "name the file itself"]),
    ],
)
def test_a_folder_of_what_is_not_read_is_called_what_it_is(photos, capsys, name, text, words):
    photos.write(name, text)
    both_say(photos, capsys, *words, masks=str(photos.root / "own"))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.zip", "PK\x03\x04", ["a ZIP archive", "extract it"]),
        ("a.xml", "<annotations><track/></annotations>", ["CVAT for video", "CVAT for images 1.1"]),
        ("a.json", json.dumps(coco([])).replace(str(HEIGHT), "1e999"), ["a.json (sub/p0.png) has the size"]),
        ("a.json", json.dumps(coco([])).replace(str(HEIGHT), "99"), ["is for an image of 24x99", "has 24x18"]),
        ("a.xml", cvat({"p0": '<tag label="x"/>'}).replace("18", "1e9"), ["a.xml (sub/p0.png) has the size"]),
    ],
)
def test_a_file_that_cannot_be_the_masks_is_called_what_it_is(photos, capsys, name, text, words):
    both_say(photos, capsys, *words, masks=photos.write(name, text))


def test_all_annotation_files_that_cannot_be_used_are_named_at_once(photos, capsys):
    for name in ("p0", "p1", "p2"):
        photos.write(f"json/{name}.json", labelme(LABELME[name], f"{name}.png"))
    photos.write("json/p1.json", labelme(LABELME["p1"], "p1.png").replace('"imageWidth": 24', '"imageWidth": 1000000'))
    photos.write("json/p2.json", "{")
    words = ["2 annotation files", "p1.json", "is for an image of 1000000x18", "p2.json is damaged"]
    both_say(photos, capsys, *words, masks=str(photos.root / "json"))


def test_a_coco_file_of_300_categories_is_refused_before_any_mask_is_drawn(photos, capsys):
    content = coco(
        [{"image_id": 10, "category_id": number, "segmentation": polygon(0, 0, 9, 9)} for number in (0, 299)]
    )
    content["categories"] = [{"id": number, "name": f"c{number}"} for number in range(300)]
    words = ["a.json: 301 classes: an 8-bit mask holds 255"]
    both_say(photos, capsys, *words, masks=photos.write("a.json", json.dumps(content)))


def test_a_project_in_which_nobody_drew_anything_yet_is_refused(photos, capsys):
    words = ["no image of", "has a shape", "annotate some"]
    both_say(photos, capsys, *words, masks=photos.write("a.xml", cvat({"p0": "", "p1": ""})))
    both_say(photos, capsys, *words, masks=supervisely(photos, {"p0": [], "p1": []}))


def test_a_coco_file_of_lines_alone_is_refused(photos, capsys):
    lines = [{"image_id": 10, "category_id": 3, "segmentation": [[0, 0, 4, 4]]}]
    path = photos.write("a.json", json.dumps(coco(lines)))
    both_say(photos, capsys, "covers anything: 1 are left out", "it has 2 points", masks=path)


def test_a_coco_file_with_one_line_among_outlines_is_read_and_says_so(photos):
    lines = [{"image_id": 10, "category_id": 3, "segmentation": [[0, 0, 4, 4]]}]
    result = photos.prepare(masks=photos.write("a.json", json.dumps(coco([*ANNOTATIONS, *lines]))))
    assert_masks(result.dataset, COCO_MASKS)
    assert result.said("left out: 1 shape without area", "p0.png: annotation 3: it has 2 points")


def test_old_labelme_files_without_a_size_take_that_of_their_image(photos):
    photos.write("json/p0.json", json.dumps({"shapes": [{"label": 3, "points": [[2, 3], [10, 3], [10, 9], [2, 9]]}]}))
    photos.write("json/p1.json", json.dumps({"shapes": [], "imageHeight": None, "imageWidth": 0}))
    result = photos.prepare(masks=str(photos.root / "json"))
    assert result.dataset.class_names == ("background", "3")
    assert_masks(result.dataset, {"p0": boxed((2, 3, 10, 9, 1)), "p1": boxed()})


# ------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("ending", ["_mask", "-label", "_gt", ".seg"])
def test_masks_with_an_ending(photos, ending):
    drawn = random_masks(names(5), [0, 1])
    photos.write_masks(drawn, "P", f"{ending}.png")
    result = photos.prepare()
    assert_masks(result.dataset, drawn)
    assert result.said("named after their images", f"{ending!r} appended")


def test_masks_without_an_image_are_all_named(photos):
    photos.write_masks(random_masks(["p0", "p1", "P2", "q1", "p03"], [0, 1]))
    with pytest.raises(DataError, match=r"3 of 5 masks in .*masks have no image.*: P2\.png, p03\.png, q1\.png") as e:
        photos.prepare()
    assert "did you mean p2 for P2?" in (e.value.hint or "")


def test_two_masks_of_one_image(photos):
    drawn = random_masks(names(3), [0, 1])
    photos.write_masks(drawn)
    shutil.copy(photos.masks / "p0.png", photos.masks / "p0.PNG")
    with pytest.raises(DataError, match=r"two masks of 'p0': p0\.PNG and p0\.png"):
        photos.prepare()
    (photos.masks / "p0.PNG").unlink()
    photos.write_masks({"p1": drawn["p1"]}, "P", ".tif")
    with pytest.raises(DataError, match=r"two masks of 'p1': p1\.png and p1\.tif"):
        photos.prepare()


def test_hidden_files_and_folders_among_the_masks(photos):
    drawn = random_masks(names(3), [0, 1])
    photos.write_masks(drawn)
    shutil.copy(photos.masks / "p0.png", photos.masks / "._p0.png")  # left by macOS on other disks
    (photos.masks / "old.png").mkdir()
    assert_masks(photos.prepare().dataset, drawn)


def test_masks_that_are_jpegs_are_not_passed_over(photos):
    drawn = random_masks(names(3), [0, 1])
    photos.write_masks(drawn)
    photos.write_masks({"p4": drawn["p0"]}, "L", ".jpg")
    with pytest.raises(DataError, match=r"p4\.jpg") as caught:
        photos.prepare()
    assert "PNG" in str(caught.value) + str(caught.value.hint)
    for name in names(3):
        (photos.masks / f"{name}.png").unlink()
    with pytest.raises(DataError, match=r"p4\.jpg"):
        photos.prepare()


def test_images_are_not_taken_for_their_own_masks(photos):
    with pytest.raises(DataError, match="masks and images are the same folder"):
        photos.prepare(masks=str(photos.images))
    with pytest.raises(DataError, match="masks and images are the same folder"):
        photos.prepare(masks=str(photos.images), mask_format="ids")


# ------------------------------------------------------------------------------------------------- labels

TABLES = {
    "names": "p0.png,cat,dog\np5.png,dog\np6.png,\np7.png,cat\n",
    "one cell": "p0.png,cat dog\np5.png,dog\np6.png,\np7.png,cat\n",
    "text": "p0 cat dog\np5 dog\np6\np7 cat\n",
    "first without": "p6\np0 cat dog\np5 dog\np7 cat\n",
    "first without, tabs": "p6\t\np0\tcat\tdog\np5\tdog\np7\tcat\n",
    "header": "image,labels\np0.png,cat;dog\np5.png,dog\np6.png,\np7.png,cat\n",
    "excel": "\ufefffilename;labels\r\np0.png;cat|dog\r\np5.png;dog\r\np6.png;\r\np7.png;cat\r\n",
    "excel with commas": '\ufefffilename;labels\r\np0.png;"cat,dog"\r\np5.png;dog\r\np6.png;\r\np7.png;cat\r\n',
    "no header, semicolons within": "p0.png,cat;dog\np5.png,dog\np6.png,\np7.png,cat\n",
    "quoted": 'image,labels\n"p0.png","cat;dog"\n"p5.png","dog"\n"p6.png",""\n"p7.png","cat"\n',
    "0 and 1": "image,cat,dog\np0.png,1,1\np5.png,0,1\np6.png,0,0\np7.png,1,0\n",
    "pandas": ",cat,dog\np0,True,True\np5,False,True\np6,False,False\np7,True,False\n",
    "another header": "my images;cat;dog\np0;1;1\np5;;1\np6;;\np7;1;\n",
    "floats": "id,cat,dog\np0,1.0,1.0\np5,0.0,1.0\np6,0.0,0.0\np7,1.0,0.0\n",
    "folders": "photos/p0.png\tcat\tdog\nphotos/p5.png\tdog\nphotos/p6.png\nphotos/p7.png\tcat\n",
}


@pytest.mark.parametrize("text", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("masked", [False, True])
def test_labels_of_every_kind(photos, text, masked):
    drawn = random_masks(names(5), [0, 1])
    if masked:
        photos.write_masks(drawn)
    table = {"class_table": photos.write("classes.txt", "background\ncat\ndog\n")} if masked else {}
    result = photos.prepare(labels=photos.write("labels.csv", text), **table)
    assert result.dataset.class_names == ("background", "cat", "dog")
    expected = {"p0": (1, 2), "p5": (2,), "p6": (), "p7": (1,)}
    assert result.splits["weak"] == (("p5", "p6", "p7") if masked else ("p0", "p5", "p6", "p7"))
    assert result.splits["unlabelled"] == (("p8", "p9") if masked else ("p1", "p2", "p3", "p4", "p8", "p9"))
    assert {i: result.dataset.tags(i) for i in expected} == expected
    if masked:  # images with a mask and without a row have the labels of the mask
        assert {i: result.dataset.tags(i) for i in names(5)[1:]} == dict.fromkeys(names(5)[1:], (1,))
        assert result.dataset.facts["images_with_labels_their_mask_does_not_show"] == 1
        assert_masks(result.dataset, drawn)
    else:
        assert result.said("classes: background, cat, dog", "--classes FILE")


def test_labels_name_files_of_all_kinds(photos):
    photos.add("q.tif", "r.webp", "x_leftImg8bit.png")
    text = "image,label\nq.tif,cat\nr.webp,dog\nx_leftImg8bit.png,cat\n"
    result = photos.prepare(labels=photos.write("labels.csv", text))
    assert {i: result.dataset.tags(i) for i in result.splits["weak"]} == {
        "q": (1,),
        "r": (2,),
        "x_leftImg8bit": (1,),
    }


def test_labels_of_classes_with_several_words(photos):
    drawn = random_masks(names(2), [0, 1])
    photos.write_masks(drawn)
    table = photos.write("classes.txt", "background\ntraffic light\nred car\n")
    result = photos.prepare(
        class_table=table, labels=photos.write("l.csv", "p5.png,traffic light;red car\np6.png,red car\n")
    )
    assert (result.dataset.tags("p5"), result.dataset.tags("p6")) == ((1, 2), (2,))


def test_labels_of_classes_with_a_comma(photos):
    photos.write_masks(random_masks(names(2), [0, 1]))
    table = photos.write("classes.txt", "background\ncat, tabby\ndog\n")
    text = 'file,label\np5.png,"cat, tabby"\np6.png,"dog; cat, tabby"\np7.png,"cat, tabby",dog\n'
    data = photos.prepare(class_table=table, labels=photos.write("l.csv", text)).dataset
    assert (data.tags("p5"), data.tags("p6"), data.tags("p7")) == ((1,), (1, 2), (1, 2))


def test_a_label_of_an_image_that_was_left_out_says_so(photos):
    (photos.images / "p8.png").unlink()
    (photos.images / "p8.png").symlink_to("nowhere.png")
    with pytest.raises(DataError, match=r"have no image: p8\n9 of 10 files .*p8\.png \(a broken link\)"):
        photos.prepare(labels=photos.write("l.csv", "p7.png,cat\np8.png,cat\n"))


def test_a_link_to_itself_is_left_out_as_other_broken_links_are(photos):
    (photos.images / "loop.png").symlink_to("loop.png")
    result = photos.prepare(labels=photos.write("l.csv", "p7.png,cat\n"))
    assert result.said("10 of 11 files", "loop.png (a broken link)")


def test_a_class_that_no_labelled_image_shows_is_named(photos):
    photos.write_masks(random_masks(names(4), [0, 1]))
    table = photos.write("classes.txt", "background\ncat\ndog\n")
    assert photos.prepare(class_table=table).said("labelled: ", ", none of dog")
    assert photos.prepare("alone", class_table=photos.write("two.txt", "background\ncat\n")).said("labelled: ")
    assert not photos.prepare("again", class_table=photos.write("2.txt", "background\ncat\n")).said("none of ")


def test_labels_that_do_not_fit(photos):
    photos.write_masks(random_masks(names(2), [0, 1]))
    table = photos.write("classes.txt", "background\ncat\n")
    with pytest.raises(DataError, match=r"1 of 2 ids in .*l\.csv have no image: P5") as caught:
        photos.prepare(class_table=table, labels=photos.write("l.csv", "P5,cat\np6,cat\n"))
    assert "did you mean p5 for P5" in (caught.value.hint or "")
    with pytest.raises(
        DataError, match=r"line 1, cell 2: 'Cat' is not a class\n.*line 2, cell 2: 'dog' is not a class"
    ) as caught:
        photos.prepare(class_table=table, labels=photos.write("l.csv", "p5,Cat\np6,dog\n"))
    assert "did you mean cat for Cat" in (caught.value.hint or "")


def test_the_same_image_in_two_rows_has_the_labels_of_both(photos):
    photos.add("q.tif")
    result = photos.prepare(labels=photos.write("l.csv", "q.tif,cat\nq,dog\np5.png,cat\n"))
    assert {i: result.dataset.tags(i) for i in ("p5", "q")} == {"p5": (1,), "q": (1, 2)}
    assert result.said("l.csv: 1 row names an image of an earlier row", "joined: q")


# ------------------------------------------------------------------------------------------------- splits


def test_further_images_without_labels(photos):
    photos.write_masks(random_masks(names(5), [0, 1]))
    photos.add("u1.jpg", "u2.png", folder="more/of them")
    result = photos.prepare(unlabelled=str(photos.root / "more" / "of them"))
    assert result.splits["unlabelled"] == ("p5", "p6", "p7", "p8", "p9", "u1", "u2")
    stored = np.asarray(Image.open(photos.root / "more" / "of them" / "u1.jpg").convert("RGB"))
    np.testing.assert_array_equal(result.dataset.image("u1"), stored)
    assert result.said("5 images with masks, 0 with image-level labels alone, 7 with neither")
    photos.add("p3.jpg", folder="more/of them")
    with pytest.raises(DataError, match=r"1 images of .*of them have the name of one of .*photos: p3"):
        photos.prepare(unlabelled=str(photos.root / "more" / "of them"))


def drawn_order(ids: Iterable[str], seed: int) -> list[str]:
    """The order of `--val` and `--labelled` as the documentation states it: SHA-256 of "seed:id"."""
    return sorted(ids, key=lambda image_id: hashlib.sha256(f"{seed}:{image_id}".encode()).digest())


@pytest.mark.parametrize(
    ("val", "count"), [("0.2", 2), ("1/4", 2), (0.5, 4), ("3", 3), (1, 1), ("7", 7), ("0.01", 1), ("", 0)]
)
def test_val_as_number_and_fraction(photos, val, count):
    masked = names(8)
    photos.write_masks(random_masks(masked, [0, 1]))
    result = photos.prepare(val=val, val_seed=5)
    expected = sorted(drawn_order(masked, 5)[:count])
    assert list(result.splits.get("val", ())) == expected
    assert list(result.splits["train"]) == sorted(set(masked) - set(expected))
    assert result.splits["unlabelled"] == ("p8", "p9")


def test_draws_of_one_seed_are_nested_and_those_of_another_differ(photos):
    photos.write_masks(random_masks(names(10), [0, 1]))
    draws = [set(photos.prepare(f"d{n}", val=n, val_seed=1).splits["val"]) for n in (2, 4, 6, 8)]
    assert all(small < large for small, large in itertools.pairwise(draws))
    assert draws[1] != set(photos.prepare("other", val=4, val_seed=2).splits["val"])


def test_val_as_list(photos):
    photos.write_masks(random_masks(names(8), [0, 1]))
    result = photos.prepare(val=photos.write("val.txt", "photos/p3.png masks/p3.png\r\np0.png\r\n"))
    assert result.splits["val"] == ("p0", "p3")
    assert result.splits["train"] == ("p1", "p2", "p4", "p5", "p6", "p7")
    with pytest.raises(DataError, match=r"1 id of the list .*val\.txt is not in the images with masks: p9"):
        photos.prepare(val=photos.write("val.txt", "p9\np0\n"))
    photos.add("q.tif")
    photos.write_masks(random_masks(["q"], [0, 1]))
    assert photos.prepare(val=photos.write("val.txt", "q.tif\n")).splits["val"] == ("q",)


def test_lists_of_names_with_spaces_name_those_images_and_no_others(photos):
    """`photo 1` was read as the image photo, with a number behind it."""
    spaced = ["photo", *(f"photo {number}" for number in range(1, 7)), "IMG", "IMG (1)", "red,green"]
    photos.add(*(f"{name}.jpg" for name in spaced))
    photos.write_masks(random_masks(spaced[:7], [0, 1]))
    table = photos.write("classes.txt", "background\ncat\n")
    labels = photos.write("l.csv", 'file,cat\nIMG (1).jpg,yes\nIMG.jpg,no\n"red,green.jpg",yes\n')
    result = photos.prepare(
        class_table=table,
        labels=labels,
        val=photos.write("val.txt", "photo 1\n'photo 2'\n"),
        labelled=photos.write("labelled.txt", 'photo 3.jpg\nphoto 4\n"photo"\n'),
        holdout=photos.write("holdout.txt", "photo 4\n"),
        exif="ignore",
    )
    assert result.splits["val"] == ("photo 1", "photo 2")
    assert result.splits["train"] == ("photo", "photo 3")
    assert result.splits["holdout"] == ("photo 4",)
    assert result.splits["weak"] == ("IMG", "IMG (1)", "photo 5", "photo 6", "red,green")
    assert [result.dataset.tags(name) for name in ("IMG", "IMG (1)", "red,green")] == [(), (1,), (1,)]
    with pytest.raises(DataError, match=r"val\.txt, line 1: 'photo 9' may be one unknown id"):
        photos.prepare("b", class_table=table, val=photos.write("val.txt", "photo 9\n"))


def test_a_holdout_list_does_not_take_a_labelled_image_for_one_that_is_not(photos):
    photos.add("photo.png", "photo 1.png")
    photos.write_masks(random_masks(["photo", "photo 1", "p0"], [0, 1]))
    listed = photos.write("holdout.txt", "photo 1\n")
    labelled = photos.write("labelled.txt", "photo\np0\n")
    with pytest.raises(DataError, match=r"1 id of the holdout list .* is not in the labelled images: photo 1"):
        photos.prepare(labelled=labelled, holdout=listed, val="", class_table=photos.write("c.txt", "background\nx\n"))


def test_uncertain_labels_become_what_is_said(photos):
    text = "file,cat,dog\np0,1,0\np1,-1,1\n"
    with pytest.raises(DataError, match="line 3, column 'cat': '-1' is uncertain"):
        photos.prepare(labels=photos.write("l.csv", text))
    tags = {}
    for meant in ("absent", "present"):
        result = photos.prepare(meant, labels=photos.write("l.csv", text), uncertain_labels=meant)
        tags[meant] = result.dataset.tags("p1")
        assert result.said(f"read as {meant}: 1 uncertain label")
    assert tags == {"absent": (2,), "present": (1, 2)}


def test_val_may_be_all_masks_where_labels_are_left_to_train_on(photos):
    photos.write_masks(random_masks(names(2), [0, 1]))
    table = photos.write("classes.txt", "background\ncat\n")
    labels = photos.write("labels.csv", "p5,cat\np6,\n")
    listed = photos.write("val.txt", "p0\np1\n")
    result = photos.prepare(class_table=table, labels=labels, val=listed)
    assert result.splits == {
        "weak": ("p5", "p6"),
        "unlabelled": ("p2", "p3", "p4", "p7", "p8", "p9"),
        "val": ("p0", "p1"),
    }
    with pytest.raises(DataError, match="none is left to train on"):
        photos.prepare(class_table=table, val=listed)


def test_ids_that_differ_in_case_alone(photos):
    photos.add("IMG.png", "Img.jpg", "img.png")
    with pytest.raises(DataError, match=r"differ only in case: 'IMG' and 'Img' and 'img'"):
        photos.prepare(class_table=photos.write("classes.txt", "background\ncat\n"))
    photos.add("P1.png", folder="more")
    for name in ("IMG.png", "Img.jpg"):
        (photos.images / name).unlink()
    with pytest.raises(DataError, match=r"differ only in case: 'p1' and 'P1'"):
        photos.prepare(class_table=str(photos.root / "classes.txt"), unlabelled=str(photos.root / "more"))


def test_accents_as_macos_writes_them(photos):
    """An accent is a character of its own in file names from macOS, and not in those from elsewhere."""
    apart, together = "Ba\u0308r", "B\u00e4r"
    photos.add(f"{together}.png")
    drawn = random_masks(["p0", "p1", apart], [0, 1])
    photos.write_masks(drawn)
    result = photos.prepare(
        class_table=photos.write("classes.txt", "background\ncat\n"),
        labels=photos.write("labels.csv", f"{apart}.png,cat\np5.png,cat\n"),
        val=photos.write("val.txt", f"{apart}\n"),
    )
    assert result.splits["val"] == (together,)
    np.testing.assert_array_equal(result.dataset.mask(together), drawn[apart])


def test_file_names_with_two_suffixes_or_spaces(photos):
    photos.add("a.jpg.png", "b c.png", "d.v2.tif")
    drawn = random_masks(["p0", "a.jpg", "b c", "d.v2"], [0, 1])
    photos.write_masks(drawn)
    result = photos.prepare(
        class_table=photos.write("classes.txt", "background\ncat\n"),
        labels=photos.write("labels.csv", "b c.png,cat\nd.v2.tif,cat\n"),
        val=photos.write("val.txt", "d.v2.tif\n"),
    )
    assert result.splits["val"] == ("d.v2",)
    assert_masks(result.dataset, drawn)


@pytest.mark.parametrize("val", ["2", "5", "1.0", "0.9"])
def test_some_masks_are_left_to_train_on(photos, val):
    photos.write_masks(random_masks(names(2), [0, 1]))
    with pytest.raises(DataError, match=r"val asks for \d of the 2 images with masks: none is left to train on"):
        photos.prepare(val=val)


@pytest.mark.parametrize("val", ["0", "-1", "3/2", "0.0", "1/0"])
def test_a_val_that_cannot_be_meant_is_called_val(photos, val):
    photos.write_masks(random_masks(names(5), [0, 1]))
    with pytest.raises(ConfigError, match=r"\bval is ") as caught:
        photos.prepare(val=val)
    assert "labelled" not in str(caught.value)


def test_a_list_of_val_without_masks(photos):
    with pytest.raises(DataError, match="not in the images with masks: p0"):
        photos.prepare(labels=photos.write("labels.csv", "p5,cat\n"), val=photos.write("val.txt", "p0\n"))


def test_labelled_chooses_among_the_masks_and_the_rest_is_weak(photos):
    drawn = random_masks(names(8), [0, 1])
    photos.write_masks(drawn)
    result = photos.prepare(val=2, labelled=3, others="unlabelled")
    rest = sorted(set(names(8)) - set(result.splits["val"]))
    assert list(result.splits["train"]) == sorted(drawn_order(rest, 0)[:3])
    assert set(result.splits["unlabelled"]) == {*rest, "p8", "p9"} - set(result.splits["train"])
    with pytest.raises(DataError, match="1 id of train has no mask: p5"):
        photos.prepare(
            masks="", labels=photos.write("l.csv", "p5,cat\n"), labelled=photos.write("labelled.txt", "p5\n")
        )


def test_classes_to_keep_by_name(photos):
    drawn = random_masks(names(5), [0, 1, 2, 3, 255])
    photos.write_masks(drawn)
    table = photos.write("classes.txt", "background\ncat\ndog\ncow\n")
    result = photos.prepare(class_table=table, classes=["cow", "cat"])
    assert result.dataset.class_names == ("background", "cow", "cat")
    assert_masks(result.dataset, renumbered(drawn, {0: 0, 1: 2, 2: 255, 3: 1, 255: 255}))
    other = photos.prepare("other", class_table=table, classes="cow,cat", other_classes="background")
    assert_masks(other.dataset, renumbered(drawn, {0: 0, 1: 2, 2: 0, 3: 1, 255: 255}))
    with pytest.raises(ConfigError, match="'cta' is not a class of photos, did you mean 'cat'"):
        photos.prepare(class_table=table, classes=["cta"])


def test_nothing_but_images(photos):
    with pytest.raises(DataError, match="no masks, no labels and no class table"):
        photos.prepare()
    result = photos.prepare(class_table=photos.write("classes.txt", "background\ncat\n"))
    assert result.splits == {"unlabelled": tuple(names(10))}


# ------------------------------------------------------------------------------------------------- freshness


def test_what_lies_in_the_folders_decides_whether_the_result_is_fresh(photos):
    drawn = random_masks(names(5), [0, 1])
    photos.write_masks(drawn)
    photos.add("u1.png", folder="more")
    table = photos.write("classes.txt", "background\ncat\n")

    def again() -> Result:
        return photos.prepare(class_table=table, unlabelled=str(photos.root / "more"))

    assert again().ran
    assert not again().ran
    drawn["p0"][5, 5] = 1 - drawn["p0"][5, 5]
    photos.write_masks(drawn)  # a corrected mask of the same name
    corrected = again()
    assert corrected.ran
    assert_masks(corrected.dataset, drawn)
    photos.add("p99.png")
    assert "p99" in again().splits["unlabelled"]
    photos.add("u2.png", folder="more")
    assert "u2" in again().splits["unlabelled"]
    assert not again().ran


def test_a_broken_off_run_does_not_keep_masks_that_were_corrected_meanwhile(photos):
    drawn = random_masks(names(5), [0, 1])
    table = photos.write("classes.txt", "background\ncat\n")
    photos.write_masks(drawn)
    bad = photos.masks / "p4.png"
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(DataError, match=r"p4\.png is damaged"):
        photos.prepare(class_table=table)
    drawn["p0"] = 1 - drawn["p0"]
    photos.write_masks(drawn)
    assert_masks(photos.prepare(class_table=table).dataset, drawn)


def test_content_depends_neither_on_place_nor_on_processes(photos, tmp_path):
    photos.write_masks(random_masks(names(5), [0, 1]))
    first = photos.prepare("first").artifact.manifest.content
    second = photos.prepare("second", workers=2).artifact.manifest.content
    shutil.copytree(photos.images, tmp_path / "elsewhere" / "photos")
    third = photos.prepare("third", images=str(tmp_path / "elsewhere" / "photos")).artifact.manifest.content
    assert first == second == third


def test_outlines_travel_to_other_processes(photos):
    path = photos.write("instances.json", json.dumps(coco(ANNOTATIONS)))
    assert_masks(photos.prepare(masks=path, workers=2).dataset, COCO_MASKS)
    for name, shapes in LABELME.items():
        photos.write(f"json/{name}.json", labelme(shapes, f"{name}.png"))
    assert_masks(photos.prepare(masks=str(photos.root / "json"), workers=2).dataset, LABELME_MASKS)


# ------------------------------------------------------------------------------------------------- command line


def test_the_whole_chain_from_the_command_line(photos, capsys):
    photos.add(*(f"p{number}.jpg" for number in range(10, 20)))
    drawn = {f"p{n}": boxed((3, 4, 14, 12, n % 2 + 1)) for n in range(12)}
    photos.write_masks(drawn)
    table = photos.write("classes.txt", "background\nsquare\nblock\n")
    labels = photos.write("labels.csv", "image,label\n" + "".join(f"p{n}.jpg,square\n" for n in range(12, 16)))
    place = ["--workspace", str(photos.root / "ws"), "--workers", "1"]
    own = ["--images", str(photos.images), "--masks", str(photos.masks), "--classes", table, "--labels", labels]
    assert main(["prepare-data", *own, "--val", "1/3", *place]) == 0
    dataset = Dataset(photos.root / "ws" / "data")
    assert dataset.class_names == ("background", "square", "block")
    assert [len(dataset.ids(split)) for split in ("train", "weak", "unlabelled", "val")] == [8, 4, 4, 4]
    assert_masks(dataset, drawn)
    manifest = json.loads((photos.root / "ws" / "data" / "manifest.json").read_text())
    assert manifest["config"]["dataset"]["name"] == "folder"
    assert manifest["config"]["dataset"]["class_table"] == table
    assert manifest["config"]["classes"] == []

    short = ["--network", "tiny", "--iterations", "2", "--batch-size", "2"]
    assert main(["train", "--method", "supervised", *short, *place, "--device", "cpu"]) == 0
    assert main(["predict", *place, "--device", "cpu"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "--json", *place]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["images"] == 4
    assert 0 <= metrics["mean_iou"] <= 1


def test_classes_and_dataset_on_the_command_line(photos):
    photos.write_masks(random_masks(names(5), [0, 1, 2]))
    table = photos.write("classes.txt", "background\ncat\ndog\n")
    own = [
        "--images",
        str(photos.images),
        "--masks",
        str(photos.masks),
        "--workspace",
        str(photos.root / "ws"),
        "--workers",
        "1",
    ]
    assert main(["prepare-data", "--dataset", "folder", *own, "--classes", table, "--name", "a"]) == 0
    assert main(["prepare-data", *own, "--set", f"dataset.class_table={table}", "--classes", "dog", "--name", "b"]) == 0
    assert Dataset(photos.root / "ws" / "a").class_names == ("background", "cat", "dog")
    assert Dataset(photos.root / "ws" / "b").class_names == ("background", "dog")
    assert main(["prepare-data", *own, "--classes", str(photos.root / "gone.txt"), "--name", "c"]) == 3
    assert not (photos.root / "ws" / "c").exists()


# ------------------------------------------------------------------------------------------------- left out


def test_files_beside_images_and_masks_were_passed_over_in_silence(photos):
    photos.write_masks(random_masks(names(3), range(3)))
    image = Image.fromarray(random_masks(["p3"], range(3))["p3"])
    image.save(photos.masks / "p3.pgm")
    (photos.masks / "p4.txt").write_text("none")
    (photos.images / "p11.heic").write_bytes(b"none")
    photos.add("p12.gif")
    photos.add("p13.png", "p14.png", folder="photos/more")
    classes = photos.write("photos/classes.txt", "background\ncat\ndog\n")
    result = photos.prepare(class_table=classes, val="1", mask_format="ids")
    assert result.said(
        "11 of 12 files of", "p11.heic (needs the package pillow-heif: pip install pillow-heif)", "more/ with 2 images"
    )
    assert result.said("4 of 5 files of", "are used as masks; not used: p4.txt (no mask)")
    assert not result.said("classes.txt (")
    np.testing.assert_array_equal(result.dataset.mask("p3"), np.asarray(image))
    assert "p12" in result.dataset.splits["unlabelled"]
    assert main(["check-data", "--images", str(photos.images), "--masks", str(photos.masks), "--classes", classes]) == 0


def test_a_gif_mask_among_png_ones_was_passed_over_in_silence(photos):
    drawn = random_masks(names(3), range(3))
    photos.paint(drawn, VOC_COLOURS)
    with Image.open(photos.masks / "p2.png") as image:
        image.quantize(4).save(photos.masks / "p2.gif")
    (photos.masks / "p2.png").unlink()
    table = photos.write("classes.txt", "background 0 0 0\ncat 128 0 0\ndog 0 128 0\n")
    assert_masks(photos.prepare(class_table=table, val="").dataset, drawn)


def test_check_data_names_what_is_left_out_as_prepare_data_does(photos, capsys):
    photos.write_masks(random_masks(names(3), range(3)))
    (photos.images / "notes.txt").write_text("none")
    deep = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH)
    Image.fromarray(deep).save(photos.images / "deep.png")
    assert main(["check-data", "--images", str(photos.images), "--masks", str(photos.masks)]) == 0
    said = capsys.readouterr().out
    result = photos.prepare()
    assert result.said("notes.txt (no image)")
    assert "notes.txt (no image)" in said
    assert result.said("deep.png (0..431 of 0..65535, 2 grey levels)")
    assert "0..431 of 0..65535, 2 grey levels" in said
    expected = np.repeat((deep // 2).astype(np.uint8)[..., None], 3, axis=2)
    np.testing.assert_array_equal(photos.prepare("said", white=511).dataset.image("deep"), expected)


def test_a_mask_without_its_image_is_told_with_what_is_left_out(photos):
    photos.write_masks(random_masks(["p0", "p1", "p77"], range(3)))
    (photos.images / "p77.heic").write_bytes(b"none")
    with pytest.raises(DataError, match=r"(?s)no image of that name: p77\.png.*p77\.heic \(needs the package"):
        photos.prepare()


def test_values_of_a_grey_mask_that_pillow_would_stretch_are_refused(photos):
    drawn = random_masks(names(2), range(3))
    photos.write_masks(drawn, mode="L", ending=".pgm")
    assert_masks(photos.prepare().dataset, drawn)
    data = (photos.masks / "p1.pgm").read_bytes()
    (photos.masks / "p1.pgm").write_bytes(data.replace(b"\n255\n", b"\n20\n"))
    with pytest.raises(DataError, match=r"p1\.pgm says that 20 is white"):
        photos.prepare("again")


# ------------------------------------------------------------------------------------------------- Label Studio, YOLO


def brush_task(image: str, mask: np.ndarray, label: str, **more: Any) -> dict[str, Any]:
    value = {"format": "rle", "rle": list(pack_brush(mask)), "brushlabels": [label]}
    result = {"type": "brushlabels", "value": value, "original_width": mask.shape[1], "original_height": mask.shape[0]}
    return {"data": {"image": image}, "annotations": [{"result": [result]}]} | more


def test_a_label_studio_export_is_found_by_its_content(photos):
    rng = np.random.default_rng(0)
    photos.add("IMG (1).png")
    drawn = {image_id: rng.random((HEIGHT, WIDTH)) < 0.5 for image_id in ("p0", "p1", "IMG (1)")}
    tasks = [
        brush_task("/data/upload/1/0a1b2c3d-p0.png", drawn["p0"], "cat"),
        brush_task("/data/local-files/?d=photos/p1.png", drawn["p1"], "dog", predictions=[{"result": []}]),
        brush_task("/data/upload/1/0a1b2c3d-IMG_1.png", drawn["IMG (1)"], "cat"),
        brush_task("p2.png", drawn["p0"], "cat", annotations=[{"result": []}]),
        brush_task("p3.png", drawn["p0"], "cat", annotations=[]),
    ]
    result = photos.prepare(masks=photos.write("export.json", json.dumps(tasks)), val="")
    assert result.dataset.class_names == ("background", "cat", "dog")
    expected = {name: mask.astype(np.uint8) * (1 + (name == "p1")) for name, mask in drawn.items()}
    assert_masks(result.dataset, expected | {"p2": np.zeros((HEIGHT, WIDTH), np.uint8)})
    assert result.said("a Label Studio file", "mask_format=label-studio")
    assert result.said("predictions of 1 image are not read: p1")
    assert result.said("without a shape, which counts as not annotated: 1 image of", ": p3")
    assert result.said("without an annotation, so all background: 1 image of", ": p2")


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ([brush_task("/data/upload/1/0a1b2c3d-P1.png", np.ones((HEIGHT, WIDTH), bool), "cat")], ["did you mean p1"]),
        ([brush_task("p1.png", np.ones((3, 3), bool), "cat")], ["is for an image of 3x3", "has 24x18"]),
        ([brush_task("p1.png", np.ones((HEIGHT, WIDTH), bool), "")], ["p1: result 1: it has no label"]),
        ([brush_task("p1.png", np.ones((2, 2), bool), "cat", annotations=[])], ["no image of", "has a shape"]),
        ([{"data": {"image": "p1.png"}, "annotations": 7}], ["has a shape", "without a region"]),
    ],
)
def test_a_label_studio_export_that_cannot_be_used(photos, capsys, tasks, words):
    both_say(photos, capsys, *words, masks=photos.write("export.json", json.dumps(tasks)))


SQUARE = "0.26 0.26 0.74 0.26 0.74 0.74 0.26 0.74"


def yolo_square(value: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for row, column in itertools.product(range(HEIGHT), range(WIDTH)):
        if 0.26 < (row + 0.5) / HEIGHT < 0.74 and 0.26 < (column + 0.5) / WIDTH < 0.74:
            mask[row, column] = value
    return mask


@pytest.mark.parametrize("folder", ["labels/train", "photos"])
def test_yolo_s_files_are_found_by_their_content(photos, folder):
    photos.write(f"{folder}/p0.txt", f"0 {SQUARE}\n")
    photos.write(f"{folder}/p1.txt", f"1 {SQUARE}\n")
    photos.write(f"{folder}/p2.txt", "")
    photos.write(f"{folder}/README.txt", "made in May\n")
    photos.write("photos/classes.txt" if folder == "photos" else "classes.txt", "cat\ndog\n")
    result = photos.prepare(masks=str(photos.root / folder), val="")
    assert result.dataset.class_names == ("background", "cat", "dog")
    assert_masks(result.dataset, {"p0": yolo_square(1), "p1": yolo_square(2), "p2": yolo_square(0)})
    assert result.said("masks: 3 YOLO files", "mask_format=yolo")
    assert result.said("without an annotation, so all background: 1 image of", ": p2")
    assert result.said("README.txt")


def test_yolo_s_names_count_for_what_is_up_to_date(photos):
    photos.write("labels/p0.txt", f"0 {SQUARE}\n")
    photos.write("data.yaml", "names: [cat, dog]\n")
    first = photos.prepare(masks=str(photos.root / "labels"), val="")
    assert not photos.prepare(masks=str(photos.root / "labels"), val="").ran
    photos.write("data.yaml", "names: [cow, dog]\n")
    second = photos.prepare(masks=str(photos.root / "labels"), val="")
    assert second.ran
    assert (first.dataset.class_names[1], second.dataset.class_names[1]) == ("cat", "cow")


def test_a_class_table_numbers_the_classes_of_yolo_by_name(photos):
    photos.write("labels/p0.txt", f"0 {SQUARE}\n")
    photos.write("data.yaml", "names: [cat, dog]\n")
    table = photos.write("table.txt", "background\ndog\ncat\n")
    result = photos.prepare(masks=str(photos.root / "labels"), class_table=table, val="")
    assert_masks(result.dataset, {"p0": yolo_square(2)})


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"p0.txt": "0 0.5 0.5 0.2 0.2\n"}, ["p0.txt: line 1: it is a box, which is not a mask"]),
        ({"p0.txt": f"7 {SQUARE}"}, ["p0.txt: line 1: its class is 7, there are 2: cat, dog"]),
        ({"p0.txt": f"0 {SQUARE} 0.9"}, ["is the last a confidence?"]),
        ({"q0.txt": f"0 {SQUARE}"}, ["have no image of that name: q0.txt"]),
        ({"p0.txt": f"0 {SQUARE}", "p1.txt": "hello\n"}, ["p1.txt: line 1: it begins with 'hello'"]),
        ({"p0.txt": f"0 {SQUARE}", "../data.yaml": ""}, ["holds no list of classes"]),
    ],
)
def test_yolo_s_files_that_cannot_be_used(photos, capsys, files, words):
    photos.write("data.yaml", "names: [cat, dog]\n")
    for name, text in files.items():
        photos.write(f"labels/{name}", text)
    both_say(photos, capsys, *words, masks=str(photos.root / "labels"))
