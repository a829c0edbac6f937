"""The quality of the masks of a folder, for every split with ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artifacts.dataset import Dataset
from artifacts.masks import read_mask
from stages.contract import Execution
from stages.evaluation.label_quality import count_labels, label_quality
from stages.parallel.processes import map_in_processes


def quality_of_masks(dataset: Dataset, masks: Path, splits: Sequence[str], execution: Execution) -> dict[str, Any]:
    """Per split: `label_quality` of masks/<id>.png over the images with ground truth, and their number."""
    quality: dict[str, Any] = {}
    for split in splits:
        ids = dataset.ids(split)
        scored = [image_id for image_id in ids if dataset.has_mask(image_id)]
        if scored:
            counts = np.zeros((dataset.num_classes, dataset.num_classes + 1), np.int64)
            with execution.progress.track(len(scored), f"scoring masks of {split}") as tracker:
                for _, found in map_in_processes(_count, (dataset, masks), scored, execution.workers):
                    counts += found
                    tracker.advance()
            figures = label_quality(counts, dataset.class_names)
            quality[split] = {"images": len(scored), "of": len(ids), **figures}
    return quality


def _count(task: tuple[Dataset, Path], image_id: str) -> NDArray[np.int64]:
    dataset, masks = task
    return count_labels(read_mask(masks / f"{image_id}.png"), dataset.mask(image_id), dataset.num_classes)
