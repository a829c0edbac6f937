"""Trains a segmenter: data set (and seeds or estimated masks) -> weights for inference.

semiseg train --method dual-branch --data data --weak-labels masks
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from artifacts.dataset import Dataset
from artifacts.store import Artifact, Writer
from stages.contract import Execution, Input, Inputs, Stage
from stages.methods.settings import TrainConfig, check_features, check_taken


@dataclass(frozen=True)
class TrainInputs(Inputs):
    data: Annotated[Artifact, Input(("dataset",), "the data set", default=("data",))]
    weak_labels: Annotated[
        Artifact | None,
        Input(
            ("masks", "predictions", "seeds", "refined"),
            "estimated masks of the weak images",
            default=("weak-labels", "masks"),
            needed=lambda config, given: "weak_labels" in config.method.inputs(),
            made_by=lambda config: config.method.labels_from,
        ),
    ]
    seeds: Annotated[
        Artifact | None,
        Input(
            ("seeds",),
            "seeds from image-level labels",
            default=("seeds",),
            needed=lambda config, given: "seeds" in config.method.inputs(),
        ),
    ]
    initial: Annotated[Artifact | None, Input(("segmenter",), "a segmenter whose weights the training starts from")]
    features: Annotated[
        Artifact | None, Input(("features",), "kept features of the frozen encoder, of the same views of the images")
    ]

    def labels(self) -> dict[str, Artifact]:
        """The given label maps of other stages, by the names that methods use for them."""
        given = {"weak_labels": self.weak_labels, "seeds": self.seeds}
        return {name: artifact for name, artifact in given.items() if artifact is not None}


def check(config: TrainConfig, inputs: TrainInputs) -> None:
    config.network.check()
    check_taken(config.method, inputs.labels())
    config.method.check(Dataset(inputs.data).class_names)
    if inputs.features is not None:
        check_features(config, inputs.features, inputs.data)


def run(config: TrainConfig, inputs: TrainInputs, writer: Writer, execution: Execution) -> dict[str, Any]:
    from artifacts.score_maps import FOLDER, ScoreMaps
    from stages.methods.training import label_sources, train_network

    dataset, given = Dataset(inputs.data), inputs.labels()
    maps = {name: ScoreMaps(artifact) for name, artifact in given.items() if (artifact.path / FOLDER).is_dir()}
    places = {name: artifact.path / "masks" for name, artifact in given.items()}
    if "weak_labels" in given:
        places["confidence"] = given["weak_labels"].path / "confidence"
    folders = {name: folder for name, folder in places.items() if folder.is_dir()}
    strong, weak = dataset.ids(config.train_split), dataset.ids(config.weak_split)
    sources = label_sources(dataset, strong, weak, folders, dataset.ids("unlabelled"), maps)
    return train_network(config, dataset, sources, writer, execution, inputs.initial, features=inputs.features)


STAGE = Stage(
    name="train",
    version=3,
    summary="Train a segmenter with one of the methods.",
    config=TrainConfig,
    inputs=TrainInputs,
    output="segmenter",
    run=run,
    check=check,
)
