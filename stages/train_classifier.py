"""Trains a multi-label image classifier on image-level labels: data set -> weights, for class-activation maps.

semiseg train-classifier --data data --set network=mobilenet_v2
semiseg train-classifier --method puzzle-cam --set network=resnet50
semiseg train-classifier --method conta --predictions predictions
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from artifacts.dataset import Dataset
from artifacts.store import Artifact, Writer
from stages.contract import Execution, Input, Inputs, Stage, has_masks
from stages.data.images import ids_of, require_labels
from stages.methods.settings import TrainClassifierConfig, check_features, check_taken


@dataclass(frozen=True)
class TrainClassifierInputs(Inputs):
    data: Annotated[Artifact, Input(("dataset",), "the data set", default=("data",))]
    predictions: Annotated[
        Artifact | None,
        Input(
            ("predictions", "masks", "refined"),
            "masks of the images, predicted by the segmenter of the round before (conta)",
            default=("predictions",),
            fits=has_masks,
            needed=lambda config, given: "predictions" in config.method.inputs(),
            made_by=lambda config: (
                "semiseg predict --segmenter NAME --split train,weak,val --output masks --name predictions; the first "
                "round, which has no masks: semiseg train-classifier --method cam; all rounds: semiseg run conta-voc"
            ),
        ),
    ]
    features: Annotated[
        Artifact | None, Input(("features",), "kept features of the frozen encoder, of the same views of the images")
    ]


def check(config: TrainClassifierConfig, inputs: TrainClassifierInputs) -> None:
    """Checks that there are weights, labels, masks if they are used, and a background class, which seeds needs."""
    from stages.localization.predicted_masks import masks_of

    config.network.check()
    dataset = Dataset(inputs.data)
    dataset.require_background("the stage train-classifier")
    if inputs.features is not None:
        check_features(config, inputs.features, inputs.data)
    if "tags" in config.method.card.uses:
        require_labels(dataset, config.splits)
    if inputs.predictions is not None:
        check_taken(config.method, ["predictions"])
        masks_of(inputs.predictions, dataset, ids_of(dataset, config.splits))


def run(
    config: TrainClassifierConfig, inputs: TrainClassifierInputs, writer: Writer, execution: Execution
) -> dict[str, Any]:
    from stages.engine.method import Sources
    from stages.localization.class_scores import scored
    from stages.localization.known_images import KnownImages
    from stages.localization.predicted_masks import masks_of
    from stages.methods import load_method
    from stages.methods.prepared_maps import prepared_folders
    from stages.methods.training import train_network
    from stages.networks import load_network

    dataset = Dataset(inputs.data)
    ids = ids_of(dataset, config.splits)
    kind, images = load_method(config.method.name), KnownImages(dataset)
    folders = prepared_folders(kind, config.method, images, ids, writer, execution)
    masks = None if inputs.predictions is None else masks_of(inputs.predictions, dataset)
    if masks is not None:
        folders["predictions"] = masks
    sources = Sources(
        dataset.ids("train"),
        dataset.ids("weak"),
        frozenset({"masks", *folders}),
        dataset,
        dataset.ids("unlabelled"),
        tagged=ids,
        folders=folders,
    )
    summary = train_network(config, dataset, sources, writer, execution, features=inputs.features)
    if execution.rank == 0:
        summary |= {"without_label": sum(not dataset.tags(image_id) for image_id in ids)}
        summary |= scored(load_network(writer.path), dataset, config.score_split, config.crop_size, execution, masks)
    return summary


STAGE = Stage(
    name="train-classifier",
    version=2,
    summary="Train a multi-label classifier on image-level labels.",
    config=TrainClassifierConfig,
    inputs=TrainClassifierInputs,
    output="classifier",
    run=run,
    check=check,
)
