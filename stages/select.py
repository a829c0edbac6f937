"""`select`: the best of a training's snapshots on a split, as a segmenter of its own.

    semiseg train --method fixmatch --set snapshots=10 --name fixmatch
    semiseg select --segmenter fixmatch --split holdout --name fixmatch-selected

Most published figures are of the best epoch on val, which is optimistic by one to several points. Here a training
publishes its last weights; this stage selects others, on the held-out share of the labelled images
(`semiseg prepare-data --set holdout=0.2`) or, as in most papers, on val, and the result records the split.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from artifacts.dataset import Dataset, Split
from artifacts.errors import ArtifactError, ConfigError, DataError
from artifacts.store import SCRATCH, Artifact, Writer
from stages.contract import Execution, Input, Inputs, Stage, has_snapshots
from stages.data.images import images_of_splits
from stages.engine.config import InferenceConfig
from stages.parallel.share import counted, pieces_of, share_with

PART = 200  # images of a snapshot between two records: what a killed run scores again


class SelectConfig(InferenceConfig):
    """The images on which the snapshots are compared."""

    splits: tuple[Split, ...] = Field(
        (),
        description="Splits with masks. Empty: holdout, the labelled images set aside (prepare-data), where there "
        "are any, else val.\nval, as in most papers: the figure on val is then optimistic.",
    )


def choose_splits(config: SelectConfig, data: Artifact) -> tuple[str, ...]:
    """The splits to select on: those of the config, or holdout, or val."""
    if config.splits:
        return config.splits
    return ("holdout",) if Dataset(data).splits.get("holdout") else ("val",)


@dataclass(frozen=True)
class SelectInputs(Inputs):
    data: Annotated[Artifact, Input(("dataset",), "the data set", default=("data",))]
    segmenter: Annotated[
        Artifact, Input(("segmenter",), "a segmenter trained with --set snapshots=10", fits=has_snapshots)
    ]


def check(config: SelectConfig, inputs: SelectInputs) -> None:
    from stages.networks.loading import check_classes, snapshots_of

    splits = choose_splits(config, inputs.data)
    dataset, ids = images_of_splits(inputs.data, splits)
    if without := [image_id for image_id in ids if not dataset.has_mask(image_id)]:
        raise DataError(
            f"{len(without)} of the {len(ids)} images of {', '.join(splits)} have no mask: {', '.join(without[:5])}",
            "choose on a split that has masks",
        )
    segmenter = inputs.segmenter
    if not snapshots_of(segmenter):
        raise ConfigError(
            f"artifact {segmenter.name!r} holds its last weights alone: nothing to choose from",
            "train it with --set snapshots=10",
        )
    check_classes(segmenter, dataset.class_names)


def run(config: SelectConfig, inputs: SelectInputs, writer: Writer, execution: Execution) -> dict[str, Any]:
    """Scores what is still missing; under torchrun each rank its share of the images of every snapshot."""
    from stages.engine.device import autocast_dtype, select_device
    from stages.engine.inference import large_images, most_probable, predict_probabilities
    from stages.engine.to_host import Transfer, received
    from stages.evaluation.confusion import ConfusionMatrix
    from stages.networks import load_network
    from stages.networks.folding import for_inference
    from stages.networks.loading import snapshots_of
    from stages.parallel.meeting import barrier

    splits = choose_splits(config, inputs.data)
    dataset, ids = images_of_splits(inputs.data, splits)
    segmenter = inputs.segmenter
    device = select_device(execution.device)
    last = segmenter.recorded("summary", "iterations", int)
    files = {**snapshots_of(segmenter), last: "weights.pt"}
    if execution.rank == 0 and (remark := large_images(dataset, ids, config)):
        execution.progress.note(remark)
    pieces, own = pieces_of(len(ids), PART, execution, lambda piece: False)
    mine = share_with(
        [(step, piece) for step in files for piece in own.own],
        len(files) * len(ids),
        lambda part: writer.has(_record(*part)),
        lambda part: len(part[1]),
    )
    with counted(writer, execution, "select", mine) as advance:
        for step, some in itertools.groupby(mine.left, key=lambda part: part[0]):
            dtype = autocast_dtype(config.precision, device)
            network = for_inference(load_network(segmenter, files[step]), device, dtype)
            for _, piece in some:
                matrix = ConfusionMatrix(dataset.num_classes)
                views = predict_probabilities(
                    network, dataset, ids[piece.start : piece.stop], config, device, workers=execution.own_workers
                )
                sent = ((names, Transfer(masks=most_probable(probabilities))) for names, probabilities in views)
                for names, arrays in received(sent):
                    for name, mask in zip(names, arrays["masks"], strict=True):
                        matrix.add(mask, dataset.mask(name))
                    advance(len(names))
                writer.write_json(_record(step, piece), matrix.counts.tolist())
    barrier()
    if execution.rank != 0:
        return {}
    scores = {step: _mean_iou(writer, [_record(step, piece) for piece in pieces], dataset, splits) for step in files}
    best = max(scores, key=lambda step: (scores[step], step))  # of equal ones the later one
    for name, file in (("weights.pt", files[best]), ("network.json", "network.json")):
        with writer.item(name) as temporary:
            shutil.copyfile(segmenter.file(file), temporary)
    writer.write_json("selection.json", {"splits": list(splits), "mean_iou": scores, "chosen": best})
    return {
        "chosen": best,
        "iterations": last,
        "mean_iou": scores[best],
        "mean_iou_of_last": scores[last],
        "splits": list(splits),
    }


def _record(step: int, piece: range) -> str:
    """The file of the counts of one snapshot in these images."""
    return f"{SCRATCH}/counts-{step}-{piece.start}-{piece.stop}.json"


def _mean_iou(writer: Writer, records: Sequence[str], dataset: Dataset, splits: Sequence[str]) -> float:
    from stages.evaluation.confusion import ConfusionMatrix

    matrix = ConfusionMatrix(dataset.num_classes)
    for record in records:
        counts = writer.read_json(record, list[list[int]])
        if [len(row) for row in counts] != [matrix.counts.shape[1]] * len(matrix.counts):
            raise ArtifactError(f"{writer.path / record} is damaged", "delete it and run the same command again")
        matrix.counts += np.array(counts, np.int64)
    if not matrix.counts.any():
        raise DataError(
            f"no pixel of the masks of {', '.join(splits)} has a class, all are 255", "choose a different split"
        )
    return matrix.scores().mean_iou


STAGE = Stage(
    name="select",
    version=2,
    summary="Make a segmenter of the best of a training's snapshots (train --set snapshots=10) on a split.",
    config=SelectConfig,
    inputs=SelectInputs,
    output="segmenter",
    run=run,
    check=check,
)
