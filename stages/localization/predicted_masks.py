"""Predictions as an input of classifiers (`CamNetwork.needs_masks`) and of what improves them. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from artifacts.dataset import Dataset
from artifacts.errors import DataError
from artifacts.item_shapes import Classes
from artifacts.store import Artifact
from stages.data.images import Images
from stages.engine.streams import MaskFolder


def masks_of(artifact: Artifact, dataset: Dataset, ids: Sequence[str] = ()) -> MaskFolder:
    """The masks of an artifact. DataError if it has none, lacks some of `ids`, or is of other classes."""
    folder = artifact.path / "masks"
    if not folder.is_dir():
        raise DataError(f"{artifact.name} has no masks", "make it with masks (predict --output masks)")
    if (artifact.path / "classes.json").is_file():
        found = artifact.json("classes.json", Classes).class_names
        if tuple(found) != tuple(dataset.class_names):
            raise DataError(
                f"the masks of {artifact.name} are of the classes {', '.join(found)}; "
                f"the data set has {', '.join(dataset.class_names)}",
                "use artifacts that were made from the same data set",
            )
    masks = MaskFolder(folder, dataset.num_classes)
    if missing := masks.missing(ids):
        raise DataError(
            f"{artifact.name} has no masks of {len(missing)} of {len(ids)} images, e.g. {missing[0]}",
            "predict all splits that are used here (predict --split train,weak), or import masks of all of them",
        )
    return masks


def ignored_labels(predictions: Artifact) -> str | None:
    """A message about leaving absent classes out of predictions that ignore the image-level labels; else None."""
    if predictions.manifest.config.get("image_labels") != "ignore":
        return None
    return (
        "the predictions ignore the image-level labels: absent classes are left out here, and objects that were taken "
        "for them become background; to avoid this, predict with image_labels=share"
    )


def fitting_mask(masks: MaskFolder, images: Images, image_id: str) -> np.ndarray:
    """The mask of an image, uint8 (H, W). DataError if it has not the size of the image."""
    mask, (height, width) = masks.mask(image_id), images.size(image_id)
    if mask.shape != (height, width):
        raise DataError(
            f"the predicted mask of {image_id} is {mask.shape[1]}x{mask.shape[0]} pixels, its image {width}x{height}",
            "a mask has the size of its image: rerun the stage that made it",
        )
    return mask


def stacked(masks: MaskFolder, images: Images, ids: Sequence[str], size: tuple[int, int]) -> np.ndarray:
    """The masks of images that are seen at one size (H, W), uint8 (B, H, W), nearest neighbour."""
    read = (Image.fromarray(fitting_mask(masks, images, image_id)) for image_id in ids)
    return np.stack([np.asarray(mask.resize(size[::-1], Image.Resampling.NEAREST)) for mask in read])
