"""Trains a segmenter: data set (and seeds or estimated masks) -> weights for inference.

semiseg train --method dual-branch --data data --weak-labels masks

The method mlmt trains a classifier instead, which `predict` takes beside a segmenter.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from artifacts.dataset import Dataset
from artifacts.errors import ConfigError, DataError
from artifacts.store import Artifact, Writer
from stages.contract import Execution, Input, Stage
from stages.methods.settings import TrainConfig
from stages.networks.config import classifier_of


def externals(config: TrainConfig) -> dict[str, Path]:
    file = config.network.weights_file()
    return {"network.weights": file} if file else {}


def check(config: TrainConfig, inputs: Mapping[str, Artifact | None]) -> None:
    config.network.check()
    for name in ("weak_labels", "seeds"):
        if inputs.get(name) is not None and name not in config.method.inputs():
            raise ConfigError(
                f"method {config.method.name} with these settings makes no use of the input {name!r}",
                f"leave --{name.replace('_', '-')} out, or choose another method or other settings",
            )

    if config.method.card.output == "classifier":
        _check_classifier(config, inputs)


def _check_classifier(config: TrainConfig, inputs: Mapping[str, Artifact | None]) -> None:
    """What only segmenters have is refused, and so are data sets without a background."""
    name = config.method.name
    classifier_of(config.network)
    assert inputs["data"] is not None
    Dataset(inputs["data"]).require_background(f"the method {name}")
    if inputs.get("initial") is not None:
        raise ConfigError(f"method {name} trains a classifier: it cannot start from a segmenter", "leave --initial out")


def needs(config: TrainConfig, given: Collection[str]) -> tuple[str, ...]:
    return config.method.inputs()


def run(
    config: TrainConfig, inputs: Mapping[str, Artifact | None], writer: Writer, execution: Execution
) -> dict[str, Any]:
    from stages.methods.segmenter_training import train_segmenter

    assert inputs["data"] is not None
    dataset = Dataset(inputs["data"])
    folders = {
        name: artifact.path / "masks" for name in ("weak_labels", "seeds") if (artifact := inputs.get(name)) is not None
    }
    for name, folder in list(folders.items()):
        if not folder.is_dir():
            raise DataError(f"the artifact given as {name} has no masks", "make it with masks (predict --output masks)")
        if name == "weak_labels" and (confidence := folder.parent / "confidence").is_dir():
            folders["confidence"] = confidence
    initial = inputs.get("initial")
    strong, weak = dataset.ids(config.train_split), dataset.ids(config.weak_split)
    unlabelled = dataset.ids("unlabelled")
    summary = train_segmenter(config, dataset, strong, weak, folders, initial, writer, execution, unlabelled)
    if config.method.card.output == "classifier" and execution.rank == 0:
        from stages.localization.classification import scored
        from stages.networks import load_network

        summary |= scored(load_network(writer.path), dataset, "val", config.crop_size, execution)
    return summary


def made(config: TrainConfig) -> str:
    return config.method.card.output


INPUTS = {
    "data": Input(("dataset",), "the data set", default=("data",)),
    "weak_labels": Input(
        ("masks", "predictions", "seeds"),
        "estimated masks of the weak pictures",
        optional=True,
        default=("weak-labels", "masks"),
    ),
    "seeds": Input(("seeds",), "seeds from image-level labels", optional=True, default=("seeds",)),
    "initial": Input(("segmenter",), "a segmenter whose weights the training starts from", optional=True),
}


def advice(config: TrainConfig, key: str) -> str:
    return config.method.labels_from if key == "weak_labels" else ""


STAGE = Stage(
    name="train",
    version=2,
    summary="Train a segmenter with one of the methods.",
    config=TrainConfig,
    inputs=INPUTS,
    output="segmenter",
    run=run,
    externals=externals,
    needs=needs,
    check=check,
    output_of=made,
    advice=advice,
)
