"""`pseudo-labels`: the pixels of predicted masks that are kept as labels, class by class.

    semiseg predict --split weak --output masks --set confidence=true --set image_labels=share --name guesses
    semiseg pseudo-labels --predictions guesses --set share=0.4

Of each predicted class the same share of pixels is kept, the most confident ones over all images, so that rare and
hard classes are not lost to one threshold (Zou et al., ECCV 2018; DMT: Feng et al., 2022). The others become 255.
The result has `masks/<id>.png`, the confidences, `confidence/<id>.png` (see artifacts.confidence), and the predictions'
`classes.json`.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from artifacts.confidence import lowest_index, probability_of_index
from artifacts.errors import ArtifactError
from artifacts.item_shapes import predicted
from artifacts.masks import IGNORE, read_mask, write_mask
from artifacts.store import Artifact, Writer
from stages.config import Config
from stages.contract import Execution, Input, Inputs, Stage
from stages.parallel.each_image import for_each_image
from stages.parallel.meeting import of_all_ranks
from stages.parallel.share import counted, share_of


class PseudoLabelsConfig(Config):
    """Which pixels are kept."""

    share: float = Field(
        1.0, gt=0, le=1, description="Share of each class's pixels that is kept, the most confident (DMT: .2 to 1)."
    )
    class_balanced: bool = Field(True, description="A threshold for each class; false: one for all classes.")
    min_confidence: float = Field(0.0, ge=0, lt=1, description="Pixels below this confidence are never kept.")


@dataclass(frozen=True)
class Selection:
    """What a process needs to select the pixels of an image; travels to it once."""

    masks: Path
    confidences: Path
    thresholds: np.ndarray  # uint8 (256,): the lowest index of a confidence that is kept, by class
    writer: Writer


def histogram(task: tuple[Path, Path, int], image_id: str) -> np.ndarray:
    """int64 (256, 256): pixels of each class and index of a confidence in one image."""
    masks, confidences, num_classes = task
    mask = read_mask(masks / f"{image_id}.png", num_classes)
    confidence = read_mask(confidences / f"{image_id}.png", size=(mask.shape[1], mask.shape[0]))
    return np.bincount(mask.ravel().astype(np.int64) * 256 + confidence.ravel(), minlength=65536).reshape(256, 256)


def thresholds(counts: np.ndarray, config: PseudoLabelsConfig) -> np.ndarray:
    """The lowest index of a confidence (0..255) that is kept, for each of 256 classes.

    counts: int64 (256, 256), pixels by class and index; row 255 is ignored. At least the share is kept: all pixels of
    the last index that is needed. With share 1 all are.
    """
    counts = counts.copy()
    counts[IGNORE] = 0
    if not config.class_balanced:
        counts[:] = counts.sum(0)
    from_top = counts[:, ::-1].cumsum(1)  # column k: pixels of confidence 255 - k and more
    needed = np.ceil(config.share * from_top[:, -1:] - 1e-9)
    lowest = 255 - (from_top >= needed).argmax(1)
    return np.maximum(lowest, lowest_index(config.min_confidence)).astype(np.uint8)


def select_pixels(task: Selection, image_id: str) -> tuple[int, int]:
    """Writes the mask and the confidences of one image; returns (pixels kept, pixels labelled before)."""
    mask = read_mask(task.masks / f"{image_id}.png")
    confidence = read_mask(task.confidences / f"{image_id}.png", size=(mask.shape[1], mask.shape[0]))
    known = mask != IGNORE
    kept = np.where(confidence >= task.thresholds[mask], mask, IGNORE).astype(np.uint8)
    with task.writer.item(f"confidence/{image_id}.png") as temporary:
        shutil.copyfile(task.confidences / f"{image_id}.png", temporary)
    with task.writer.item(f"masks/{image_id}.png") as temporary:
        write_mask(temporary, kept)
    return int((kept != IGNORE).sum()), int(known.sum())


@dataclass(frozen=True)
class PseudoLabelsInputs(Inputs):
    predictions: Annotated[
        Artifact,
        Input(("predictions", "masks"), "predicted masks with confidences", default=("predictions", "predict")),
    ]


def check(config: PseudoLabelsConfig, inputs: PseudoLabelsInputs) -> None:
    predictions = inputs.predictions
    for folder in ("masks", "confidence"):
        if not (predictions.path / folder).is_dir():
            raise ArtifactError(
                f"artifact {predictions.name!r} holds no {folder}",
                "predict with output=masks and confidence=true",
            )
    predicted(predictions)


def run(config: PseudoLabelsConfig, inputs: PseudoLabelsInputs, writer: Writer, execution: Execution) -> dict[str, Any]:
    """Two passes over the masks; under torchrun each rank its share of the images."""
    predictions = inputs.predictions
    masks, confidences = predictions.path / "masks", predictions.path / "confidence"
    classes = predicted(predictions)
    ids = sorted(classes.ids)
    task = (masks, confidences, len(classes.class_names))
    counts = np.zeros((256, 256), np.int64)
    share = share_of(ids, execution, made=lambda image_id: False)
    with counted(writer, execution, "pseudo-labels", share, share) as advance:
        for _, found in for_each_image(histogram, task, share.own, execution.own_workers):
            counts += found
            advance()
        counts = np.sum(of_all_ranks(counts.tolist()), axis=0, dtype=np.int64)
        limits = thresholds(counts, config)
        kept = known = 0
        selection = Selection(masks, confidences, limits, writer)
        for _, (left, before) in for_each_image(select_pixels, selection, share.own, execution.own_workers):
            kept, known = kept + left, known + before
            advance()
    kept, known = map(sum, zip(*of_all_ranks([kept, known]), strict=True))
    if execution.rank != 0:
        return {}
    with writer.item("classes.json") as temporary:
        shutil.copyfile(predictions.file("classes.json"), temporary)
    lowest = probability_of_index(limits.astype(np.float64))
    return {
        "images": len(ids),
        "kept_share": kept / known if known else 0.0,
        "thresholds": {
            name: round(float(lowest[c]), 5) for c, name in enumerate(classes.class_names) if counts[c].any()
        },
    }


STAGE = Stage(
    name="pseudo-labels",
    version=2,
    summary="Keep the most confident pixels of predicted masks as labels, class by class.",
    config=PseudoLabelsConfig,
    inputs=PseudoLabelsInputs,
    output="masks",
    run=run,
    check=check,
)
