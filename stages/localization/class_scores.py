"""A classifier's logits, and its average precision."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from artifacts.dataset import Dataset
from stages.contract import Execution
from stages.data.decoding import decoded_ahead
from stages.data.images import Images
from stages.engine.device import select_device, sent
from stages.engine.streams import MaskFolder
from stages.engine.to_host import Transfer, received
from stages.evaluation.average_precision import average_precision
from stages.localization.grid import square
from stages.localization.predicted_masks import stacked
from stages.networks import normalise

BATCH = 32


@torch.inference_mode()
def class_scores(
    network: nn.Module,
    images: Images,
    ids: Sequence[str],
    size: int,
    device: torch.device,
    workers: int,
    masks: MaskFolder | None = None,
) -> np.ndarray:
    """Logits float32 (N, K) of images resized to `size` x `size`. masks: for a network that needs them."""
    network.eval()
    batches = [list(ids[first : first + BATCH]) for first in range(0, len(ids), BATCH)]

    def computed() -> Iterator[tuple[None, Transfer]]:
        for members, pixels in decoded_ahead(images, batches, workers, lambda image: square(image, size)):
            seen = [normalise(sent(pixels, device).permute(0, 3, 1, 2))]
            if masks is not None:
                seen.append(sent(stacked(masks, images, members, (size, size)), device))
            yield None, Transfer(scores=network(*seen).float())

    return np.concatenate([found["scores"] for _, found in received(computed())])


def scored(
    network: nn.Module,
    dataset: Dataset,
    split: str,
    size: int,
    execution: Execution,
    masks: MaskFolder | None = None,
) -> dict[str, Any]:
    """Average precision on the labelled images of a split, for the summary of a training; {} without such images.

    masks: for a network that needs them; an image without one is left out, and that is said.
    """
    ids = [image_id for image_id in dataset.ids(split) if dataset.has_tags(image_id)]
    if masks is not None and (missing := set(masks.missing(ids))):
        execution.progress.note(
            f"{split}: {len(missing)} of {len(ids)} images have no predicted mask; their average precision is not "
            "measured"
        )
        ids = [image_id for image_id in ids if image_id not in missing]
    if not ids:
        return {}
    device = select_device(execution.device)
    precision = precision_of_classes(network.to(device), dataset, ids, size, device, execution.workers, masks)
    known = [value for value in precision.values() if value is not None]
    return {
        "average_precision": precision,
        "mean_average_precision": sum(known) / len(known) if known else None,
        "score_split": split,
    }


def precision_of_classes(
    network: nn.Module,
    dataset: Dataset,
    ids: Sequence[str],
    size: int,
    device: torch.device,
    workers: int,
    masks: MaskFolder | None = None,
) -> dict[str, float | None]:
    """Average precision by class name over the images `ids`; None for a class that none of them has."""
    scores = class_scores(network, dataset, ids, size, device, workers, masks)
    present = np.stack([dataset.tags_vector(image_id) for image_id in ids]) > 0
    return {name: average_precision(scores[:, k], present[:, k]) for k, name in enumerate(dataset.label_names)}
