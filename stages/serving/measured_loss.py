"""What a smaller ONNX file loses: its masks against those of the fp32 file, and both against the true masks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from artifacts.dataset import Dataset
from stages.evaluation.confusion import ConfusionMatrix
from stages.serving.trained_segmenter import Segmenter


def measured_loss(before: Path, after: Path, dataset: Dataset, ids: Sequence[str]) -> dict[str, Any]:
    """Figures of two ONNX files on images of a data set, on the CPU.

    agreement: share of the pixels of which both predict the same class. mean_iou_before, mean_iou_after: on the images
    that have a mask; None without any. ms_before, ms_after: median time of an image, reading it left out.
    bytes_before, bytes_after: of the files.
    """
    segmenters = [Segmenter.load(path, device="cpu") for path in (before, after)]
    matrices = [ConfusionMatrix(dataset.num_classes) for _ in segmenters]
    times: list[list[float]] = [[], []]
    equal = pixels = 0
    for image_id in ids:
        image, masks = dataset.image(image_id), []
        for segmenter, matrix, seconds in zip(segmenters, matrices, times, strict=True):
            started = time.perf_counter()
            masks.append(segmenter(image, probabilities=False).mask)
            seconds.append(time.perf_counter() - started)
            if dataset.has_mask(image_id):
                matrix.add(masks[-1], dataset.mask(image_id))
        equal, pixels = equal + int((masks[0] == masks[1]).sum()), pixels + masks[0].size
    scores = [matrix.scores(dataset.class_names).mean_iou if matrix.images else None for matrix in matrices]
    return {
        "images": len(ids),
        "agreement": equal / pixels,
        "mean_iou_before": scores[0],
        "mean_iou_after": scores[1],
        "ms_before": 1000 * float(np.median(times[0])),
        "ms_after": 1000 * float(np.median(times[1])),
        "bytes_before": before.stat().st_size,
        "bytes_after": after.stat().st_size,
    }
