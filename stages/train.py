"""Trains a segmenter: data set (and seeds or estimated masks) -> weights for inference.

semiseg train --method dual-branch --data data --weak-labels masks
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


def needs(config: TrainConfig, given: Collection[str]) -> tuple[str, ...]:
    return config.method.inputs()


def run(
    config: TrainConfig, inputs: Mapping[str, Artifact | None], writer: Writer, execution: Execution
) -> dict[str, Any]:
    from stages.methods.training import label_sources, train_network

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
    strong, weak = dataset.ids(config.train_split), dataset.ids(config.weak_split)
    sources = label_sources(dataset, strong, weak, folders, dataset.ids("unlabelled"))
    return train_network(config, dataset, sources, writer, execution, inputs.get("initial"))


INPUTS = {
    "data": Input(("dataset",), "the data set", default=("data",)),
    "weak_labels": Input(
        ("masks", "predictions", "seeds", "refined"),
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
    advice=advice,
)
