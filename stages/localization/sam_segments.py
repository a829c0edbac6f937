"""Segments of images by SAM.

for image_id, document in sam_segments(source, dataset, ids, device):      # what `artifacts.image_segments` stores
    ...
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from artifacts.dataset import Dataset
from artifacts.image_segments import document_of
from stages.localization.grid import reduced_size
from stages.localization.segments_config import SamSource
from stages.networks.sam import mask_generator

NARROWEST = 100  # a longer image is seen stretched: the shorter side would vanish when SAM's network resizes it


def sam_segments(
    source: SamSource, dataset: Dataset, ids: Sequence[str], device: torch.device
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The segments of each image, the best rated first. The weights are read before the first image."""
    generate = mask_generator(source.weights, device)
    for image_id in ids:
        masks, ratings = segments_of(generate, dataset.image(image_id), source)
        yield image_id, document_of(masks, ({"predicted_iou": round(rating, 6)} for rating in ratings))


def segments_of(
    generate: Any, image: NDArray[np.uint8], source: SamSource
) -> tuple[list[NDArray[np.bool_]], list[float]]:
    """Masks of the size of an image, and SAM's rating of each, by the pipeline `generate`."""
    height, width = reduced_size((image.shape[0], image.shape[1]), source.max_pixels)
    height, width = max(height, width // NARROWEST), max(width, height // NARROWEST)
    seen = Image.fromarray(image)
    found = generate(
        seen if seen.size == (width, height) else seen.resize((width, height)),
        points_per_crop=source.points,
        points_per_batch=source.points_at_once,
        pred_iou_thresh=source.predicted_iou,
        stability_score_thresh=source.stability,
        crops_nms_thresh=source.overlap,
    )
    rows = np.arange(image.shape[0]) * height // image.shape[0]
    columns = np.arange(image.shape[1]) * width // image.shape[1]
    pairs = [
        (mask.cpu().numpy(), rating) for mask, rating in zip(found["masks"], found["scores"].tolist(), strict=True)
    ]
    kept = [(mask[np.ix_(rows, columns)], rating) for mask, rating in pairs if mask.mean() <= source.largest]
    return [mask for mask, _ in kept], [rating for _, rating in kept]
