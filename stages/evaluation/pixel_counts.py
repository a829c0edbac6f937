"""Counts of pixels of some images, as records that are added up: those of all ranks, and of a run that was cut off."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artifacts.errors import ArtifactError
from artifacts.json_items import Count, Shape
from stages.evaluation.confusion import ConfusionMatrix
from stages.evaluation.threshold_sweep import ThresholdSweep


class CountsRecord(Shape):
    """The attributes of a `ConfusionMatrix` or a `ThresholdSweep`."""

    counts: str
    ignored: Count
    images: Count
    blank: Count

    def add_to(self, total: ConfusionMatrix | ThresholdSweep, file: Path) -> None:
        """ArtifactError for a record of different classes or thresholds. file: where it was read."""
        total.counts += unpacked(self.counts, total.counts.shape, file)
        total.ignored += self.ignored
        total.images += self.images
        total.blank += self.blank


def record_of(total: ConfusionMatrix | ThresholdSweep) -> dict[str, Any]:
    """The record of these counts, as JSON."""
    return {"counts": packed(total.counts), **{key: getattr(total, key) for key in ("ignored", "images", "blank")}}


def packed(counts: NDArray[np.int64]) -> str:
    """Counts as text: those of 60 thresholds and 150 classes are 1.4 million numbers, most of them 0."""
    return base64.b64encode(zlib.compress(counts.astype("<i8").tobytes(), 1)).decode()


def unpacked(text: str, shape: tuple[int, ...], file: Path) -> NDArray[np.int64]:
    """What was packed. ArtifactError where it has a different shape. file: where it was read."""
    try:
        return np.frombuffer(zlib.decompress(base64.b64decode(text)), "<i8").reshape(shape)
    except (ValueError, zlib.error):
        raise ArtifactError(f"{file} is damaged", "delete it and run the same command again") from None
