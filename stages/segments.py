"""`segments`: parts of the images without a class, kept for the vote on estimated masks.

    semiseg segments
    semiseg segments --source sam --weights sam_vit_h_4b8939.pth
    semiseg vote --masks crf --segments segments

Of superpixels, or what SAM finds (Kirillov et al., ICCV 2023). The result has `segments/<id>.json`, COCO's run lengths.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from artifacts.canonical import canonical_json
from artifacts.dataset import Dataset
from artifacts.errors import ConfigError
from artifacts.image_segments import document_of, item_of
from artifacts.store import Artifact, Writer
from stages.contract import Execution, Input, Inputs, Stage
from stages.data.images import images_of_splits
from stages.localization.segments_config import NO_WEIGHTS, SamSource, SegmentsConfig, SuperpixelSource
from stages.networks.config import SAM_INSTALL, SAM_WEIGHTS
from stages.parallel.each_image import for_each_image
from stages.parallel.share import counted, share_of


@dataclass(frozen=True)
class SegmentsInputs(Inputs):
    data: Annotated[Artifact, Input(("dataset",), "the data set with the images", default=("data",))]


def check(config: SegmentsConfig, inputs: SegmentsInputs) -> None:
    images_of_splits(inputs.data, config.splits)
    if isinstance(config.source, SamSource):
        if not config.source.weights:
            raise ConfigError("source: sam has no weights", SAM_WEIGHTS)
        if importlib.util.find_spec("transformers") is None:
            raise ConfigError("source: sam needs transformers, which is not installed", SAM_INSTALL)


@dataclass(frozen=True)
class Task:
    """What a process needs to merge superpixels; travels to it once."""

    dataset: Dataset
    source: SuperpixelSource


def regions(task: Task, image_id: str) -> dict[str, Any]:
    """The regions of an image, as they are stored."""
    from stages.localization.segment_layers import NONE, region_layers

    layers = region_layers(task.dataset.image(image_id), task.source.regions)
    return document_of(layer == number for layer in layers for number in np.unique(layer[layer != NONE]))


def run(config: SegmentsConfig, inputs: SegmentsInputs, writer: Writer, execution: Execution) -> dict[str, Any]:
    """Makes what is still missing; under torchrun each rank its share of the images."""
    dataset, ids = images_of_splits(inputs.data, config.splits)
    share = share_of(ids, execution, made=lambda image_id: writer.has(item_of(image_id)))
    with counted(writer, execution, "segments", share) as advance:
        for image_id, document in _found(config, dataset, share.left, execution):
            writer.write_bytes(item_of(image_id), canonical_json(document))
            advance()
    return {"images": len(ids)}


def _found(
    config: SegmentsConfig, dataset: Dataset, ids: Sequence[str], execution: Execution
) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(config.source, SuperpixelSource):
        return for_each_image(regions, Task(dataset, config.source), ids, execution.own_workers)
    from stages.engine.device import select_device
    from stages.localization.sam_segments import sam_segments

    if config.source.weights == NO_WEIGHTS:
        execution.progress.note(
            "source.weights is none: a small network with random weights, whose segments mean nothing"
        )
    return sam_segments(config.source, dataset, ids, select_device(execution.device))


STAGE = Stage(
    name="segments",
    version=1,
    summary="Segments of the images, for the vote: superpixels, or those of SAM.",
    config=SegmentsConfig,
    inputs=SegmentsInputs,
    output="segments",
    run=run,
    check=check,
)
