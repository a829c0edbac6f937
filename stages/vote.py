"""`vote`: estimated masks improved by segments of their images, which have no class.

    semiseg vote --masks crf
    semiseg vote --masks predictions --segments segments      # SAM's, by the stage of that name
    semiseg vote --masks predictions --folder DIR             # made elsewhere

Segments are regions of the image, merged from superpixels, those of the stage `segments`, or those of a folder. Each
joins the class that it agrees with; a class has the outlines of its segments (SEPL, Chen et al., 2023). The masks are
those of any stage; the result has `masks/<id>.png` and `classes.json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from artifacts.dataset import SPLITS, Dataset, Split
from artifacts.errors import ConfigError, DataError
from artifacts.masks import encode_mask, read_mask
from artifacts.store import Artifact, Writer
from artifacts.text import amount
from stages.config import Config, ExternalFile
from stages.contract import Execution, Input, Inputs, Stage
from stages.data.images import ids_of
from stages.engine.config import Share
from stages.localization.segments_config import RegionCounts
from stages.parallel.each_image import for_each_image
from stages.parallel.share import counted, share_of


class VoteConfig(Config):
    """Which segments vote, and when one joins a class."""

    segments: ExternalFile = Field(
        "",
        description="Folder of segments made elsewhere: <image id>.png, a label map (0: none); or, of some that cover\n"
        "others, <image id>.npz with `masks`, bool (n, H, W), or <image id>.json, COCO's run lengths (SAM's\n"
        "coco_rle). Empty: the input segments, or regions of each image.",
    )
    regions: RegionCounts = Field(
        (100,),
        min_length=1,
        description="Without segments: regions of these numbers, merged from superpixels; each is a segment (ours).",
    )
    inside: Share = Field(
        0.5, description="A segment joins a class that has more than this share of the segment (published: .5)."
    )
    covers: Share = Field(
        0.85, description="Or a class of whose pixels the segment has at least this share (published: .85)."
    )
    splits: tuple[Split, ...] = Field(
        (), description="Only the images of these splits of the data set; empty: every image that has a mask."
    )


@dataclass(frozen=True)
class VoteInputs(Inputs):
    data: Annotated[Artifact, Input(("dataset",), "the data set with the images", default=("data",))]
    masks: Annotated[
        Artifact,
        Input(
            ("masks", "predictions", "refined", "seeds"),
            "the masks to improve",
            default=("crf", "masks"),
            fits=lambda artifact: artifact.kind == "masks",
        ),
    ]
    segments: Annotated[Artifact | None, Input(("segments",), "segments of the images, of the stage segments")]


def check(config: VoteConfig, inputs: VoteInputs) -> None:
    """Checks that the masks are of the data set, and that every image has its segments."""
    dataset, _, ids = _open(config, inputs)
    dataset.require_background("the vote of segments")
    from stages.localization.segment_layers import check_folder, check_stored

    if config.segments and inputs.segments is not None:
        raise ConfigError("vote has two sources of segments, an artifact and a folder", "leave one of them out")
    if config.segments:
        check_folder(config.segments, ids, "segments")
    if inputs.segments is not None:
        check_stored(inputs.segments, ids)


def _open(config: VoteConfig, inputs: VoteInputs) -> tuple[Dataset, Path, list[str]]:
    """The data set, the folder of the masks and the sorted ids of those that are improved."""
    from stages.localization.predicted_masks import masks_of

    dataset = Dataset(inputs.data)
    if config.splits:
        ids = ids_of(dataset, config.splits)
        return dataset, masks_of(inputs.masks, dataset, ids).folder, ids
    masks = masks_of(inputs.masks, dataset).folder
    ids = sorted(path.stem for path in masks.glob("*.png"))
    known = {image_id for own in dataset.splits.values() for image_id in own}
    if foreign := [image_id for image_id in ids if image_id not in known]:
        raise DataError(
            f"the data set lacks {amount(len(foreign), 'image')} with masks, e.g. {foreign[0]}",
            "give the data set that the masks were made from",
        )
    if not ids:
        raise DataError(f"{inputs.masks.name} has no masks", "give an artifact with masks")
    return dataset, masks, ids


@dataclass(frozen=True)
class Task:
    """What a process needs to vote; travels to it once."""

    dataset: Dataset
    masks: Path
    segments: Artifact | None
    config: VoteConfig
    writer: Writer


def improve(task: Task, image_id: str) -> None:
    """Writes the mask of an image after the vote."""
    from stages.localization.segment_layers import file_of, read_layers, region_layers, stored_layers
    from stages.localization.segment_vote import vote

    config, (height, width) = task.config, task.dataset.size(image_id)
    labels = read_mask(task.masks / f"{image_id}.png", task.dataset.num_classes, (width, height))
    if task.segments is not None:
        layers = stored_layers(task.segments, image_id, (height, width))
    elif config.segments:
        layers = read_layers(file_of(Path(config.segments).expanduser(), image_id), (height, width))
    else:
        layers = region_layers(task.dataset.image(image_id), config.regions)
    mask = vote(labels, layers, config.inside, config.covers)
    task.writer.write_bytes(f"masks/{image_id}.png", encode_mask(mask, task.dataset.palette))


def run(config: VoteConfig, inputs: VoteInputs, writer: Writer, execution: Execution) -> dict[str, Any]:
    """Improves what is still missing; under torchrun each rank its share of the images."""
    dataset, masks, ids = _open(config, inputs)
    share = share_of(ids, execution, made=lambda image_id: writer.has(f"masks/{image_id}.png"))
    task = Task(dataset, masks, inputs.segments, config, writer)
    with counted(writer, execution, "vote", share) as advance:
        for _ in for_each_image(improve, task, share.left, execution.own_workers):
            advance()
    if execution.rank != 0:
        return {}
    splits: Sequence[str] = config.splits or tuple(split for split in SPLITS if set(dataset.ids(split)) & set(ids))
    writer.write_json("classes.json", {"class_names": list(dataset.class_names), "ids": ids, "splits": list(splits)})
    return {"images": len(ids)}


STAGE = Stage(
    name="vote",
    version=1,
    summary="Improve estimated masks by segments: superpixels, SAM's, or a folder of segments made elsewhere.",
    config=VoteConfig,
    inputs=VoteInputs,
    output="masks",
    run=run,
    check=check,
)
