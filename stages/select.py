"""`select`: the best of a training's snapshots on a split, as a segmenter of its own.

    semiseg train --method fixmatch --set snapshots=10 --name fixmatch
    semiseg select --segmenter fixmatch --set splits=[val] --name fixmatch-selected

Most published figures are of the best epoch on val, which is optimistic by one to several points. Here a training
publishes its last weights; who wants the other figure asks for it, and the result says on which split it was chosen.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from artifacts.errors import ConfigError, DataError
from artifacts.store import SCRATCH, Artifact, Writer
from stages.contract import Execution, Input, Stage
from stages.data.pictures import pictures_of_splits
from stages.scoring.config import InferenceConfig

if TYPE_CHECKING:
    from stages.scoring.confusion import ConfusionMatrix


class SelectConfig(InferenceConfig):
    """On which pictures the snapshots are compared."""

    splits: tuple[Literal["train", "weak", "val", "test"], ...] = Field(
        ("val",),
        min_length=1,
        description="Splits with masks. val: as the field does it, the figure on val is then optimistic.",
    )


def check(config: SelectConfig, inputs: Mapping[str, Artifact | None]) -> None:
    from stages.networks.loading import check_classes, snapshots_of

    dataset, ids = pictures_of_splits(inputs["data"], config.splits)
    if without := [image_id for image_id in ids if not dataset.has_mask(image_id)]:
        raise DataError(
            f"{len(without)} of the {len(ids)} pictures of {', '.join(config.splits)} have no mask: "
            f"{', '.join(without[:5])}",
            "choose on a split that has masks",
        )
    segmenter = inputs["segmenter"]
    assert segmenter is not None
    if not snapshots_of(segmenter):
        raise ConfigError(
            f"artifact {segmenter.name!r} holds its last weights alone: nothing to choose from",
            "train it with --set snapshots=10",
        )
    check_classes(segmenter, dataset.class_names)


def run(
    config: SelectConfig, inputs: Mapping[str, Artifact | None], writer: Writer, execution: Execution
) -> dict[str, Any]:
    """Scores the snapshots that have no score yet. Under torchrun rank 0 does it alone."""
    from stages.engine.device import select_device
    from stages.engine.inference import predict_probabilities
    from stages.networks import load_network
    from stages.networks.loading import snapshots_of
    from stages.scoring.confusion import ConfusionMatrix

    if execution.rank != 0:
        return {}
    dataset, ids = pictures_of_splits(inputs["data"], config.splits)
    segmenter = inputs["segmenter"]
    assert segmenter is not None
    device = select_device(execution.device)
    last = int(segmenter.summary["iterations"])
    files = {**snapshots_of(segmenter), last: "weights.pt"}
    scores: dict[int, float] = {}
    writer.expect(len(ids) * len(files))
    with execution.progress.track(len(ids) * len(files), "select") as tracker:
        for step, file in files.items():
            record = f"{SCRATCH}/score-{step}.json"
            if writer.has(record):
                writer.advance(len(ids))
                tracker.advance(len(ids))
            else:
                network = load_network(segmenter, file).to(device)
                matrix = ConfusionMatrix(dataset.num_classes)
                views = predict_probabilities(network, dataset, ids, config, device, workers=execution.workers)
                for names, probabilities in views:
                    masks = probabilities.argmax(1).byte().cpu().numpy()
                    for name, mask in zip(names, masks, strict=True):
                        matrix.add(mask, dataset.mask(name))
                    writer.advance(len(names))
                    tracker.advance(len(names))
                writer.write_json(record, _mean_iou(matrix, config))
            scores[step] = writer.read_json(record)
    best = max(scores, key=lambda step: (scores[step], step))  # of equal ones the later
    for name, file in (("weights.pt", files[best]), ("network.json", "network.json")):
        with writer.item(name) as temporary:
            shutil.copyfile(segmenter.file(file), temporary)
    writer.write_json("selection.json", {"splits": list(config.splits), "mean_iou": scores, "chosen": best})
    return {
        "chosen": best,
        "iterations": last,
        "mean_iou": scores[best],
        "mean_iou_of_last": scores[last],
        "splits": list(config.splits),
    }


def _mean_iou(matrix: ConfusionMatrix, config: SelectConfig) -> float:
    if not matrix.counts.any():
        raise DataError(
            f"no pixel of the masks of {', '.join(config.splits)} has a class, all are 255", "choose on another split"
        )
    return matrix.scores().mean_iou


STAGE = Stage(
    name="select",
    version=1,
    summary="Take the best of a training's snapshots on a split.",
    config=SelectConfig,
    inputs={
        "data": Input(("dataset",), "the data set", default=("data",)),
        "segmenter": Input(("segmenter",), "a segmenter trained with snapshots", default=("segmenter", "train")),
    },
    output="segmenter",
    run=run,
    check=check,
)
