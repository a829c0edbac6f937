"""Scenes: which images belong together, and draws that keep them together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from artifacts.dataset import Dataset
from artifacts.errors import DataError
from artifacts.store import Workspace
from stages.config import build
from stages.contract import Execution
from stages.data.lists.id_lists import Names
from stages.data.lists.scenes import find_scenes, read_scenes, whole_scenes
from stages.data.lists.splits import set_aside
from stages.data.preparation_config import PrepareDataConfig
from stages.pipeline.run_stage import run_stage
from stages.prepare_data import STAGE
from tests.stages.data.conftest import Notes


def scenery(seed: int) -> Image.Image:
    """A drawn photo: a sky, a ground, and a dozen blocks of random place, size and colour."""
    rng = np.random.default_rng(seed)
    pixels = np.full((120, 160, 3), rng.integers(150, 256, 3), np.uint8)
    pixels[rng.integers(40, 90) :] = rng.integers(0, 120, 3)
    for _ in range(12):
        top, left = rng.integers(0, 100), rng.integers(0, 140)
        pixels[top : top + rng.integers(8, 40), left : left + rng.integers(8, 40)] = rng.integers(0, 256, 3)
    return Image.fromarray(pixels)


def scenes_of(folder: Path, **images: Image.Image) -> dict[str, str]:
    for name, image in images.items():
        image.save(folder / f"{name}.png")
    return find_scenes({name: folder / f"{name}.png" for name in images}, workers=1)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "smaller": lambda image: image.resize((80, 60)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "grey": lambda image: ImageOps.grayscale(image),
    "mirrored": ImageOps.mirror,
    "moved": lambda image: image.crop((5, 4, 160, 120)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_of_the_same_scene_and_others_are_not(tmp_path: Path, change: str) -> None:
    others = {f"other{seed}": scenery(seed) for seed in range(1, 12)}
    found = scenes_of(tmp_path, a=scenery(0), z=CHANGES[change](scenery(0)), **others)
    assert found == {"a": "a", "z": "a"} | {name: name for name in others}


def test_lossy_copies_are_of_the_same_scene(tmp_path: Path) -> None:
    scenery(3).save(tmp_path / "a.png")
    scenery(3).save(tmp_path / "b.jpg", quality=30)
    assert set(find_scenes({"a": tmp_path / "a.png", "b": tmp_path / "b.jpg"}, 1).values()) == {"a"}


def test_scenes_are_transitive_and_the_same_in_any_number_of_processes(tmp_path: Path) -> None:
    images = {
        "c": scenery(5),
        "b": CHANGES["mirrored"](scenery(5)),
        "a": CHANGES["smaller"](scenery(5)),
        "d": scenery(6),
    }
    alone = scenes_of(tmp_path, **images)
    assert alone == {"a": "a", "b": "a", "c": "a", "d": "d"}
    assert find_scenes({name: tmp_path / f"{name}.png" for name in images}, workers=2) == alone


def test_equal_images_of_one_colour_are_one_scene(tmp_path: Path) -> None:
    white, black = (Image.new("RGB", (40, 30), colour) for colour in ("white", "black"))
    assert scenes_of(tmp_path, a=white, b=white, c=black) == {"a": "a", "b": "a", "c": "c"}


def test_photos_of_one_camera_within_ten_seconds_are_a_series(tmp_path: Path) -> None:
    def shot(name: str, seed: int, model: str, time: str) -> None:
        exif = Image.Exif()
        exif[0x0110] = model
        exif.get_ifd(0x8769)[0x9003] = f"2024:05:01 {time}"
        scenery(seed).save(tmp_path / f"{name}.jpg", exif=exif)

    shot("a", 1, "One", "12:00:00")
    shot("b", 2, "One", "12:00:09")
    shot("c", 3, "One", "12:00:19")
    shot("d", 4, "One", "12:00:30")
    shot("e", 5, "Two", "12:00:05")
    files = {name: tmp_path / f"{name}.jpg" for name in "abcde"}
    assert find_scenes(files, 1) == {"a": "a", "b": "a", "c": "a", "d": "d", "e": "e"}


def test_an_unreadable_image_is_a_scene_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    scenery(0).save(tmp_path / "a.png")
    assert find_scenes({"a": tmp_path / "a.png", "broken": tmp_path / "broken.jpg"}, 1) == {
        "a": "a",
        "broken": "broken",
    }


# ------------------------------------------------------------------------------------------------- files


def test_a_file_of_scenes_names_images_in_any_way_that_lists_do(tmp_path: Path) -> None:
    path = tmp_path / "scenes.csv"
    path.write_text("a.jpg, kitchen\nphotos/b.jpg;kitchen\nphoto 2.jpg\tthe garden\n", encoding="utf-8")
    assert read_scenes(path, Names(["a", "b", "photo 2", "c"])) == {
        "a": "kitchen",
        "b": "kitchen",
        "photo 2": "the garden",
    }


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("a.jpg\n", "line 1: expected an image"),
        ("x,kitchen\n", "line 1: expected an image"),
        ("a,1\na,2\n", "line 2: a is"),
    ],
)
def test_wrong_lines_are_told(tmp_path: Path, text: str, wrong: str) -> None:
    (tmp_path / "scenes.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=wrong):
        read_scenes(tmp_path / "scenes.csv", Names(["a", "b"]))


# ------------------------------------------------------------------------------------------------- draws


@given(st.lists(st.integers(0, 8), min_size=2, max_size=30), st.data())
def test_draws_take_scenes_whole_and_never_too_many(numbers: list[int], data: st.DataObject) -> None:
    scene_of = {f"i{index:02}": f"s{number}" for index, number in enumerate(numbers)}
    count = data.draw(st.integers(max(numbers.count(n) for n in numbers), len(numbers)))
    taken = whole_scenes(list(scene_of), count, scene_of)
    assert 0 < len(taken) <= count
    rest = set(scene_of) - set(taken)
    assert not {scene_of[i] for i in taken} & {scene_of[i] for i in rest}
    assert all(len(taken) + numbers.count(int(scene_of[i][1:])) > count for i in rest)  # no scene more would fit


@given(st.sets(st.text("abc", min_size=1), min_size=1), st.integers(0, 9))
def test_without_scenes_a_draw_is_the_first_ids(ids: set[str], count: int) -> None:
    ranked = sorted(ids)
    assert whole_scenes(ranked, count, {}) == ranked[:count]


def test_one_scene_cannot_be_drawn_in_part() -> None:
    with pytest.raises(DataError, match="smallest scene has 20 images"):
        set_aside([f"i{n}" for n in range(20)], 5, scene_of={f"i{n}": "s" for n in range(20)})


def test_a_data_set_keeps_scenes_together(tmp_path: Path) -> None:
    """Twelve scenes of two images with masks and one without: none is both trained on and scored."""
    photos, masks = tmp_path / "photos", tmp_path / "masks"
    photos.mkdir(), masks.mkdir()
    for seed in range(12):
        copies = (scenery(seed), CHANGES["brighter"](scenery(seed)), CHANGES["mirrored"](scenery(seed)))
        for name, image in zip("abc", copies, strict=True):
            image.save(photos / f"{seed:02}{name}.png")
            if name != "c":
                mask = np.zeros((120, 160), np.uint8)
                mask[:30, : 10 + seed] = 255
                Image.fromarray(mask).save(masks / f"{seed:02}{name}.png")
    folder = {"name": "folder", "images": str(photos), "masks": str(masks), "val": 0.25, "scenes": "similar"}
    config = build(PrepareDataConfig, {"dataset": folder, "holdout": 0.25}, "a test")
    notes = Notes()
    made = run_stage(STAGE, config, Workspace(tmp_path / "ws"), "data", {}, Execution(progress=notes))
    splits = Dataset(made.artifact).splits
    scenes = {split: sorted({image_id[:2] for image_id in ids}) for split, ids in splits.items() if ids}
    assert [len(splits[split]) for split in ("val", "holdout")] == [6, 4]
    assert [len(scenes[split]) for split in ("val", "holdout")] == [3, 2]
    assert not set(scenes["train"]) & {*scenes["val"], *scenes["holdout"]}
    assert scenes["test"] == sorted([*scenes["val"], *scenes["holdout"]])  # their copies without a mask
    assert scenes["unlabelled"] == scenes["train"]
    assert "scenes: 36 images are near-duplicates or of series, 12 scenes" in notes.said
