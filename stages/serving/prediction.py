"""What a segmenter predicts for one image."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from artifacts.dataset import first_label
from artifacts.disk_errors import disk_errors
from artifacts.errors import UsageError
from artifacts.masks import write_mask
from stages.config import build
from stages.data.overlays import OPACITY, draw_overlay, overlay
from stages.localization.config import CrfConfig
from stages.localization.dense_crf import crf_labels, present
from stages.localization.grid import reduced_size, resize_maps

TAKES_PART = 0.2  # probability from which a class that wins no pixel takes part in the CRF, as in `semiseg crf`


@dataclass(frozen=True, eq=False)
class Prediction:
    """The classes of the pixels of an image.

    Attributes:
        mask: uint8 (H, W), the class of each pixel; 255 where it is below `min_confidence`.
        names: the class of each value; background first, if there is one.
        palette: uint8 (256, 3), RGB of each value: `palette[mask]` is the mask in colours.
        image: uint8 (H, W, 3), RGB as the network saw it: turned by EXIF, transparent parts white.
    """

    mask: np.ndarray
    names: tuple[str, ...]
    palette: np.ndarray = field(repr=False)
    image: np.ndarray = field(repr=False)
    scores: np.ndarray | None = field(repr=False)

    @property
    def probabilities(self) -> np.ndarray:
        """float32 (C, H, W). UsageError if they were not kept."""
        if self.scores is None:
            raise UsageError("the probabilities were not kept", "predict with probabilities=True")
        return self.scores

    def refined(self, **settings: Any) -> Prediction:
        """The prediction with a mask that follows the edges of the image, by the dense CRF, as `semiseg crf` makes it.

        settings: those of the parameters of the CRF (`semiseg config crf`): parameters="deeplab-v2", scale=2. Classes
        that win a pixel or reach a probability of 0.2 take part; the probabilities stay the network's. ConfigError
        for a wrong setting; UsageError if the probabilities were not kept.
        """
        config = build(CrfConfig, settings, "Prediction.refined")
        size = self.image.shape[:2]
        scores = resize_maps(self.probabilities, size, 1, reduced_size(size, config.max_pixels))
        background = np.arange(len(scores)) < first_label(self.names)
        classes = np.flatnonzero(present(scores, TAKES_PART) | background)
        best, _ = crf_labels(self.image, scores[classes], config.resolve(), config.max_pixels)
        return replace(self, mask=classes.astype(np.uint8)[best])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the mask as an index PNG, byte for byte as `semiseg predict` does; a file of that name is replaced."""
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise UsageError(f"{path} is not a PNG: only that keeps the classes of a mask", "give it the suffix .png")
        if not path.parent.is_dir():
            raise UsageError(f"there is no folder {path.parent}", "make it, or give the path of a file elsewhere")
        with disk_errors(path):
            write_mask(path, self.mask, self.palette.tobytes())

    def overlay(self, opacity: float = OPACITY, legend: bool = False) -> Image.Image:
        """The image with its classes in their colours, outlines opaque; the background stays, 255 is hatched.

        legend: as `semiseg predict --overlays` draws it, with the names of the classes below, and at most 2,048 pixels
        a side; else of the size of the image.
        """
        if not 0 <= opacity <= 1:
            raise UsageError(f"opacity={opacity}", "0 (the image alone) to 1 (the colours alone)")
        palette = self.palette.tobytes()
        if legend:
            return draw_overlay(self.image, self.mask, self.names, palette, opacity)
        return Image.fromarray(overlay(self.image, self.mask, palette, first_label(self.names) == 1, opacity))
