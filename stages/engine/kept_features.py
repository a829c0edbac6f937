"""Features of a frozen encoder that are kept: made of all views of an image, and checked before a training reads them.

Whatever decides the values is compared by name and value, the weights by their digest.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from artifacts.errors import ConfigError, DataError
from artifacts.feature_maps import FeatureMaps
from artifacts.store import Artifact
from stages.engine.augmentation import cut_image, fixed_view, valid_area
from stages.engine.batch import as_seen
from stages.engine.config import AugmentationConfig
from stages.engine.device import autocast_dtype, sent
from stages.networks.blocks import Backbone
from stages.networks.freezing import encode, weights_digest


def made_with(
    backbone: Backbone,
    name: str,
    crop_size: int,
    augmentation: AugmentationConfig,
    precision: str,
    device: torch.device,
) -> dict[str, Any]:
    """All that features depend on, by the names of the settings; the device does not count, beyond its arithmetic."""
    dtype = autocast_dtype(precision, device)
    idle = {"scale", "scales"} if augmentation.mode == "resize" else {"scale"} if augmentation.scales else set()
    views = augmentation.model_dump(mode="json", exclude=idle)
    return {
        "network.backbone": name,
        "network.output_stride": backbone.stride,
        "network.weights": weights_digest(backbone),
        "cells": "patches" if backbone.patches else "centred",
        "precision": "fp32" if dtype is None else str(dtype).removeprefix("torch."),
        "crop_size": crop_size,
        **{f"augmentation.{key}": value for key, value in views.items()},
    }


def features_of(
    backbone: Backbone,
    image: NDArray[np.uint8],
    image_id: str,
    crop_size: int,
    augmentation: AugmentationConfig,
    dtype: torch.dtype | None,
) -> dict[str, Tensor]:
    """The maps (views, C, h, w) of all views of an image (H, W, 3), as a training computes them; fp32, on the CPU."""
    device = next(backbone.parameters()).device
    views = [
        fixed_view(augmentation, image_id, number, image.shape[:2], crop_size)
        for number in range(augmentation.views or 0)
    ]
    pixels = torch.from_numpy(np.stack([cut_image(image, view.geometry, crop_size) for view in views]))
    valid = torch.from_numpy(np.stack([valid_area(view.geometry, crop_size) for view in views]))
    colour = torch.from_numpy(np.stack([view.colour for view in views]))
    _, seen = as_seen(sent(pixels, device).permute(0, 3, 1, 2), sent(valid, device), colour)
    with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype is not None):
        features = encode(backbone, seen)
    return {name: maps.float().cpu().contiguous() for name, maps in features.items()}


def open_features(
    artifact: Artifact, reads: Collection[str], wanted: Mapping[str, Any], ids: Collection[str]
) -> FeatureMaps:
    """The maps `reads` of these images; one error for all that differs from `wanted` (`made_with`)."""
    maps = FeatureMaps(artifact, reads)
    found = maps.record.made_with
    different = [
        f"{key}: other values" if key == "network.weights" else f"{key}: {found.get(key)}, here {value}"
        for key, value in wanted.items()
        if found.get(key) != value
    ]
    if different:
        raise ConfigError(
            f"the features {artifact.name!r} are not those of this training:\n  " + "\n  ".join(different),
            "make them with the settings of this training (semiseg features), or leave --features out",
        )
    if missing := sorted(set(ids) - set(maps.record.ids)):
        raise DataError(
            f"{len(missing)} of {len(ids)} images have no features in {artifact.name!r}: "
            f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}",
            "make them for all splits that the method trains on: semiseg features --set splits=[train,weak]",
        )
    return maps
