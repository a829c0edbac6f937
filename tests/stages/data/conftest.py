"""A tiny VOC devkit with SBD, written with Pillow and scipy alone, and the stage run on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from PIL import Image

from artifacts.dataset import Dataset
from artifacts.store import Artifact, Workspace
from stages.config import build
from stages.contract import Execution, PlainProgress
from stages.data.preparation_config import PrepareDataConfig
from stages.pipeline.run_stage import run_stage
from stages.prepare_data import STAGE

CAT, DOG, PERSON, SHEEP = 8, 12, 15, 17  # VOC class ids
NAMES = {CAT: "cat", DOG: "dog", PERSON: "person", SHEEP: "sheep"}
WIDTH, HEIGHT = 24, 18


@dataclass(frozen=True)
class Notes(PlainProgress):
    """Progress that keeps what was said."""

    said: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.said.append(text)


def image_mask(classes: Sequence[int], border: bool = True) -> np.ndarray:
    """One upright bar per class, each with a 255 column on its left."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for place, class_id in enumerate(classes):
        left = 3 + 7 * place
        mask[4:14, left : left + 5] = class_id
        if border:
            mask[4:14, left] = 255
    return mask


def save_index_png(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    image.putpalette([value for i in range(256) for value in (i, 255 - i, i // 2)])
    image.save(path)


@dataclass
class Kit:
    """The folders of a tiny VOC 2012 and SBD."""

    root: Path
    sbd: Path

    @property
    def lists(self) -> Path:
        return self.root / "ImageSets" / "Segmentation"

    def write_list(self, name: str, lines: Iterable[str]) -> None:
        self.lists.mkdir(parents=True, exist_ok=True)
        (self.lists / name).write_text("".join(f"{line}\n" for line in lines))

    def add_image(self, image_id: str, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
        folder = self.root / "JPEGImages"
        folder.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(len(image_id)).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{image_id}.jpg")

    def add_voc_mask(self, image_id: str, classes: Sequence[int]) -> None:
        save_index_png(self.root / "SegmentationClass" / f"{image_id}.png", image_mask(classes))

    def add_sbd_mask(self, image_id: str, classes: Sequence[int]) -> None:
        folder = self.sbd / "dataset" / "cls"
        folder.mkdir(parents=True, exist_ok=True)
        content = {"Segmentation": image_mask(classes, border=False), "CategoriesPresent": np.array(classes)}
        scipy.io.savemat(folder / f"{image_id}.mat", {"GTcls": content})

    def add_xml(self, image_id: str, classes: Sequence[int]) -> None:
        folder = self.root / "Annotations"
        folder.mkdir(parents=True, exist_ok=True)
        objects = "".join(
            f"<object><name>{NAMES[c]}</name><difficult>1</difficult><part><name>head</name></part></object>"
            for c in classes
        )
        (folder / f"{image_id}.xml").write_text(f"<annotation><folder>VOC2012</folder>{objects}</annotation>")


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return tiny_devkit(tmp_path)


def tiny_devkit(folder: Path) -> Kit:
    """train t1..t4 (VOC masks), SBD train s1 s2 t1 v1, SBD val s3 s4 v2, val v1 v2. t1, v1, v2 are in both."""
    kit = Kit(folder / "VOCdevkit" / "VOC2012", folder / "benchmark_RELEASE")
    voc = {"t1": [CAT], "t2": [DOG], "t3": [CAT, DOG], "t4": [PERSON], "v1": [CAT], "v2": [DOG, PERSON]}
    sbd = {"s1": [CAT], "s2": [DOG, SHEEP], "s3": [PERSON], "s4": [CAT, PERSON]}
    for image_id, classes in (voc | sbd).items():
        kit.add_image(image_id)
        kit.add_xml(image_id, classes)
    for image_id, classes in voc.items():
        kit.add_voc_mask(image_id, classes)
    for image_id, classes in (sbd | {"t1": [DOG], "v1": [DOG], "v2": [CAT]}).items():
        kit.add_sbd_mask(image_id, classes)
    kit.write_list("train.txt", ["t1", "t2", "t3", "t4"])
    kit.write_list("val.txt", ["v1", "v2"])
    (kit.sbd / "dataset" / "train.txt").write_text("s2\ns1\nt1\nv1")
    (kit.sbd / "dataset" / "val.txt").write_text("s4\ns3\nv2\n")
    return kit


@dataclass
class Result:
    """A prepared data set, its artifact and what was said meanwhile."""

    dataset: Dataset
    artifact: Artifact

    @property
    def summary(self) -> dict[str, Any]:
        return self.artifact.summary


@pytest.fixture
def prepare(kit: Kit, tmp_path: Path) -> Callable[..., Result]:
    """prepare(classes=..., labelled=...) runs the stage on the tiny devkit and SBD, subsets allowed."""

    def run(name: str = "data", workers: int = 1, with_sbd: bool = True, **settings: Any) -> Result:
        own = {"source": str(kit.root)} | ({"sbd": str(kit.sbd)} if with_sbd else {})
        own |= {key: settings.pop(key) for key in ("source", "sbd") if key in settings}
        values = {"dataset": {"name": "voc-aug", **own}, "allow_subset": True} | settings
        config = build(PrepareDataConfig, values, "test")
        outcome = run_stage(STAGE, config, Workspace(tmp_path / "ws"), name, {}, Execution(workers=workers))
        return Result(Dataset(outcome.artifact), outcome.artifact)

    return run
