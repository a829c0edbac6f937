"""What the benchmarks work on: drawn images of VOC's size, and class scores that look like a network's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from artifacts.canonical import digest
from artifacts.dataset import write_dataset
from artifacts.masks import IGNORE, encode_mask
from artifacts.store import Artifact, Work, Workspace, Writer
from stages.config import build
from stages.contract import Execution, load_stage
from stages.data.annotations.image_labels import tags_of_mask
from stages.data.config import VOC_CLASS_NAMES, ShapesConfig
from stages.data.drawn_classes import CLASS_NAMES
from stages.data.readers.shapes import draw
from stages.pipeline.run_stage import run_stage

VOC_SIZE = (375, 500)  # the most frequent size in VOC 2012, rows and columns
NUM_CLASSES = 21


class Quiet:
    """Progress that says nothing."""

    def track(self, total: int, description: str, unit: str = "images", done: int = 0) -> Quiet:
        return self

    def __enter__(self) -> Quiet:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def advance(self, count: int = 1, **fields: Any) -> None:
        return None

    def note(self, text: str) -> None:
        return None


def execution(**changes: Any) -> Execution:
    return Execution(progress=Quiet(), **changes)


def stage(
    workspace: Workspace,
    name: str,
    output: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str | None] | None = None,
    force: bool = False,
    **how: Any,
) -> Artifact:
    """Runs one stage, as the command line would."""
    record = load_stage(name)
    made = run_stage(
        record, build(record.config, config, name), workspace, output, inputs or {}, execution(**how), force
    )
    return made.artifact


def hand_made(workspace: Workspace, name: str, kind: str, fill: Callable[[Writer], None]) -> Artifact:
    """An artifact that `fill` writes, instead of a stage."""
    work = Work("benchmark", 1, kind, digest({"name": name}), {}, {}, {})
    with workspace.writing(name, work) as writer:
        fill(writer)
        return workspace.publish(name, writer, work, {})


def images(workspace: Workspace, count: int, size: tuple[int, int]) -> tuple[Artifact, Sequence[str]]:
    """A data set `data` of `count` drawn images in VOC's 21 classes, all in the split val."""
    ids = [f"image-{number}" for number in range(count)]

    def fill(writer: Writer) -> None:
        masks = {}
        for number, image_id in enumerate(ids):
            image, masks[image_id] = drawn_image(number, size)
            with writer.item(f"images/{image_id}.jpg") as temporary:
                Image.fromarray(image).save(temporary, format="JPEG", quality=92)
            writer.write_bytes(f"masks/{image_id}.png", encode_mask(masks[image_id]))
        write_dataset(
            writer,
            name="benchmark",
            class_names=VOC_CLASS_NAMES,
            splits={"val": ids},
            tags={image_id: tags_of_mask(mask) for image_id, mask in masks.items()},
            tag_source="masks",
            mask_ids=ids,
            image_pattern="images/{id}.jpg",
        )

    return hand_made(workspace, "data", "dataset", fill), ids


@lru_cache(maxsize=64)
def drawn_image(number: int, size: tuple[int, int] = VOC_SIZE) -> tuple[np.ndarray, np.ndarray]:
    """A drawn image uint8 (H, W, 3) and its mask uint8 (H, W) in VOC's class ids, 255 on outlines.

    One or two objects an image, so that about 1.4 classes are present, as in VOC (1.5).
    `size` has three rows to four columns, as the data set `shapes` draws them.
    """
    height, width = size
    config = ShapesConfig(long_side=width, shortest_side=height / width, border=2, most_objects=2)
    drawing = draw(config, f"image-{number}")
    image, mask = drawing.image, drawing.mask
    if image.shape[0] > image.shape[1]:
        image, mask = image.transpose(1, 0, 2), mask.T
    rng = np.random.default_rng(number)
    ids = np.arange(256, dtype=np.uint8)
    ids[1 : len(CLASS_NAMES)] = 1 + rng.permutation(NUM_CLASSES - 1)[: len(CLASS_NAMES) - 1]
    return np.ascontiguousarray(image[:height, :width]), ids[mask[:height, :width]]


def class_probabilities(mask: np.ndarray, seed: int, stride: int = 4, num_classes: int = NUM_CLASSES) -> np.ndarray:
    """Softmax of 21 classes as a network would give it for this truth: float32 (C, ceil(H / s), ceil(W / s)).

    The truth, moved and blurred over the cells of a head of stride 8, plus smooth noise in all classes: classes that
    are not there keep a little probability, one of them up to about half at some place.
    """
    rng = np.random.default_rng(seed)
    truth = np.where(mask == IGNORE, 0, mask)
    truth = np.roll(truth, tuple(rng.integers(-6, 7, 2)), axis=(0, 1))[::stride, ::stride]
    logits = np.empty((num_classes, *truth.shape), np.float32)
    blur = 8 / stride
    for label in range(num_classes):
        evidence = ndimage.gaussian_filter((truth == label).astype(np.float32), blur)
        noise = ndimage.gaussian_filter(rng.normal(size=truth.shape).astype(np.float32), 4 * blur)
        there = bool((truth == label).any())
        logits[label] = 9 * evidence + (1.2 if there else 0.6) * noise / noise.std() - (0 if there else 1)
    exponent = np.exp(logits - logits.max(axis=0))
    return exponent / exponent.sum(axis=0)
