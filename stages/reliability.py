"""`reliability`: ranks unlabelled images by the agreement of a training's snapshots (ST++).

    semiseg train --method supervised --set snapshots=3 --name teacher
    semiseg reliability --segmenter teacher

An image whose mask changed little while the network trained is likely to have a good one (Yang et al., CVPR 2022).
The result, `reliability.json`, holds the score of every image, and the ids of the reliable and of the
unreliable part; `predict` takes it as `selection`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from artifacts.dataset import Dataset, Split
from artifacts.errors import ArtifactError, ConfigError
from artifacts.item_shapes import some
from artifacts.store import SCRATCH, Artifact, Writer
from stages.contract import Execution, Input, Inputs, Stage, has_snapshots
from stages.data.images import images_of_splits
from stages.engine.config import IMAGE_LABELS, ImageLabels, InferenceConfig
from stages.parallel.share import record_pieces

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

PART = 200  # images between two records: what a killed run predicts again


class ReliabilityConfig(InferenceConfig):
    """Which images are ranked, and how many of them count as reliable."""

    splits: tuple[Split, ...] = Field(
        ("weak", "unlabelled"), min_length=1, description="Splits whose images are ranked."
    )
    snapshots: int = Field(
        3,
        ge=2,
        description="How many of the training's weights are compared, evenly spaced, the last among them (ST++: 3).",
    )
    share: float = Field(
        0.5, gt=0, lt=1, description="Share of the images that count as reliable, rounded down (ST++: 0.5)."
    )
    image_labels: ImageLabels = Field("ignore", description=f"{IMAGE_LABELS}\nAs predict makes the masks.")


@dataclass(frozen=True)
class ReliabilityInputs(Inputs):
    data: Annotated[Artifact, Input(("dataset",), "the data set", default=("data",))]
    segmenter: Annotated[
        Artifact, Input(("segmenter",), "a segmenter trained with --set snapshots=10", fits=has_snapshots)
    ]


def check(config: ReliabilityConfig, inputs: ReliabilityInputs) -> None:
    from stages.networks.loading import check_classes, snapshots_of

    dataset, _ = images_of_splits(inputs.data, config.splits)
    segmenter = inputs.segmenter
    if not snapshots_of(segmenter):
        raise ConfigError(
            f"artifact {segmenter.name!r} holds its last weights alone: nothing to compare",
            "train it with --set snapshots=3",
        )
    check_classes(segmenter, dataset.class_names)


def reliable_count(share: float, images: int) -> int:
    """How many images are reliable: the share rounded down, n // 2 for a half as in the authors' code."""
    return math.floor(share * images + 1e-9)  # .29 of 100 must give 29, but floating point gives 28.999999999999996


def evenly_spaced(files: Sequence[str], count: int) -> list[str]:
    """`count` of the files, or all where there are fewer: at 1/count, 2/count, ... of the way, the last included."""
    if len(files) <= count:
        return list(files)
    return [files[round(len(files) * part / count) - 1] for part in range(1, count + 1)]


def agreement(first: Tensor, second: Tensor, num_classes: int) -> Tensor:
    """Mean IoU of two class maps (B, H, W), image by image, over the classes that occur in either: (B,)."""
    import torch

    pairs = (first * num_classes + second).flatten(1)  # (B, pixels)
    offset = torch.arange(len(pairs), device=pairs.device)[:, None] * num_classes**2
    counts = torch.bincount((pairs + offset).flatten(), minlength=len(pairs) * num_classes**2)
    table = counts.view(len(pairs), num_classes, num_classes).double()
    common = table.diagonal(dim1=1, dim2=2)
    either = table.sum(1) + table.sum(2) - common
    occurs = either > 0
    return (common / either.clamp(min=1)).sum(1) / occurs.sum(1)


def run(config: ReliabilityConfig, inputs: ReliabilityInputs, writer: Writer, execution: Execution) -> dict[str, Any]:
    """Scores what is still missing; under torchrun each rank its share of the images."""
    from stages.engine.device import autocast_dtype, select_device
    from stages.engine.label_sharing import unknown_labels
    from stages.networks import load_network
    from stages.networks.folding import for_inference
    from stages.networks.loading import snapshots_of

    dataset, ids = images_of_splits(inputs.data, config.splits)
    segmenter = inputs.segmenter
    if execution.rank == 0 and (remark := unknown_labels(dataset, ids, config.image_labels)):
        execution.progress.note(remark)
    device = select_device(execution.device)
    files = evenly_spaced([*snapshots_of(segmenter).values(), "weights.pt"], config.snapshots)
    dtype = autocast_dtype(config.precision, device)
    networks = [for_inference(load_network(segmenter, file), device, dtype) for file in files]

    def look(own: Sequence[str], advance: Callable[..., None]) -> dict[str, float]:
        found = _scores(networks, dataset, own, config, device, execution)
        advance(len(own))
        return found

    records = record_pieces(writer, execution, "reliability", ids, PART, look)
    if execution.rank != 0:
        return {}
    scores: dict[str, float] = {}
    for record in records:
        scores |= writer.read_json(record, dict[str, float])
    if missing := sorted(set(ids) - scores.keys()):
        raise ArtifactError(
            f"{writer.path / SCRATCH} holds no scores of {some(missing)}", "delete it and run the same command again"
        )
    ranked = sorted(ids, key=lambda image_id: (-scores[image_id], image_id))
    count = reliable_count(config.share, len(ids))
    writer.write_json(
        "reliability.json",
        {"scores": scores, "reliable": sorted(ranked[:count]), "unreliable": sorted(ranked[count:])},
    )
    values = np.array([scores[image_id] for image_id in ranked])
    return {
        "images": len(ids),
        "reliable": count,
        "snapshots": len(files),
        "median_score": float(np.median(values)),
        "least_reliable_score": float(values[count - 1]) if count else None,
    }


def _scores(
    networks: Sequence[nn.Module],
    dataset: Dataset,
    ids: Sequence[str],
    config: ReliabilityConfig,
    device: torch.device,
    execution: Execution,
) -> dict[str, float]:
    """id -> mean over the earlier networks of the agreement with the last one."""
    from stages.engine.inference import large_images, predict_probabilities
    from stages.engine.label_sharing import respect_in_place, tags_of

    if remark := large_images(dataset, ids, config):
        execution.progress.note(remark)
    totals = dict.fromkeys(ids, 0.0)
    # all networks get the images in the same order and batches
    walks = [
        predict_probabilities(network, dataset, ids, config, device, workers=execution.own_workers)
        for network in networks
    ]
    for views in zip(*walks, strict=True):
        names, last = views[-1]
        for _, probabilities in views:
            respect_in_place(probabilities, tags_of(dataset, names), config.image_labels)
        final = last.argmax(1)
        for _, probabilities in views[:-1]:
            found = agreement(probabilities.argmax(1), final, dataset.num_classes)
            for name, value in zip(names, found.tolist(), strict=True):
                totals[name] += value / (len(networks) - 1)
    return totals


STAGE = Stage(
    name="reliability",
    version=3,
    summary="Rank unlabelled images by how little their masks changed while a network trained (ST++).",
    config=ReliabilityConfig,
    inputs=ReliabilityInputs,
    output="reliability",
    run=run,
    check=check,
)
