"""The data of one training image for methods. Loads no torch: label maps are prepared in other processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from numpy.typing import NDArray

if TYPE_CHECKING:
    from artifacts.score_maps import ScoreMap


@dataclass(frozen=True)
class Known:
    """A training image with its image-level labels and the score maps made from them.

    Attributes:
        image: RGB, uint8 (H, W, 3).
        classes: the image-level labels as class ids, ascending, without background; of an image without known labels
            the classes that have a score map.
        scores: its score maps.
        mask: the true mask, uint8 (H, W), only of images whose masks may be used for training.
        saliency: float32 (H, W), 0..1, where the score maps came with one.
        labelled: whether its image-level labels are known.
    """

    image_id: str
    image: NDArray
    classes: Sequence[int]
    scores: ScoreMap
    mask: NDArray | None = None
    saliency: NDArray | None = None
    labelled: bool = True
