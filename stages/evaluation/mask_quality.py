"""The quality of the masks of a folder, for every split with ground truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artifacts.dataset import Dataset
from artifacts.masks import read_mask
from artifacts.store import Writer
from stages.contract import Execution
from stages.evaluation.confusion import ConfusionMatrix
from stages.evaluation.label_quality import count_labels, label_quality
from stages.evaluation.pixel_counts import CountsRecord, record_of
from stages.parallel.processes import map_in_processes
from stages.parallel.share import PART, record_pieces


def quality_of_masks(dataset: Dataset, writer: Writer, splits: Sequence[str], execution: Execution) -> dict[str, Any]:
    """Per split: `label_quality` of masks/<id>.png over the images with ground truth, and their number.

    Under torchrun every rank calls this, when the masks of all are there; each has its share of the images.
    """

    def count(own: Sequence[str], advance: Callable[..., None]) -> dict[str, Any]:
        total = ConfusionMatrix(dataset.num_classes)
        for _, found in map_in_processes(_count, (dataset, writer.path / "masks"), own, execution.own_workers):
            total.counts += found
            advance()
        return record_of(total)

    quality: dict[str, Any] = {}
    for split in splits:
        ids = dataset.ids(split)
        scored = [image_id for image_id in ids if dataset.has_mask(image_id)]
        if scored:
            total = ConfusionMatrix(dataset.num_classes)
            for record in record_pieces(writer, execution, f"scoring masks of {split}", scored, PART, count):
                writer.read_json(record, CountsRecord).add_to(total, writer.path / record)
            figures = label_quality(total.counts, dataset.class_names)
            quality[split] = {"images": len(scored), "of": len(ids), **figures}
    return quality


def _count(task: tuple[Dataset, Path], image_id: str) -> NDArray[np.int64]:
    dataset, masks = task
    return count_labels(read_mask(masks / f"{image_id}.png"), dataset.mask(image_id), dataset.num_classes)
