"""Another round: a trained segmenter labels images, and a fresh one is trained on these masks.

    semiseg retrain --segmenter dsrg --set labels=estimated
    semiseg retrain --weak-labels import-masks

`labels: estimated` is DSRG's "Retrain" (Huang et al., CVPR 2018: masks for all training images, then full
supervision); `mixed` and `oversampled` are plain self-training in addition to exact masks. The result is a segmenter,
with the masks it was trained on. With `weak_labels` the masks are there already, whatever made them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from artifacts.dataset import Dataset
from artifacts.errors import ArtifactError, ConfigError
from artifacts.store import Artifact, Writer
from stages.config import Config
from stages.contract import Execution, Input, Inputs, Stage
from stages.data.images import ids_of
from stages.engine.config import IMAGE_LABELS, RESTRICT_TO_LABELS, ClampSettings, ImageLabels, InferenceConfig
from stages.localization.config import CrfConfig
from stages.methods.settings import TrainConfig, check_features
from stages.methods.settings.supervised import SupervisedSettings


class RetrainConfig(Config):
    """Which images are labelled and how, and the training on these masks."""

    renamed = RESTRICT_TO_LABELS
    labels: Literal["estimated", "mixed", "oversampled"] = Field(
        "oversampled",
        description="estimated: train on estimated masks alone. mixed: on exact and estimated ones. oversampled:\n"
        "both, the exact ones repeated until they are as many.",
    )
    splits: tuple[Literal["train", "weak", "unlabelled"], ...] = Field(
        ("weak",),
        min_length=1,
        description="Splits that get estimated masks (DSRG: train and weak, labels: estimated).",
    )
    inference: InferenceConfig = Field(InferenceConfig(), description="How the images are predicted.")
    image_labels: ImageLabels = Field("share", description=IMAGE_LABELS)
    crf: CrfConfig | None = Field(CrfConfig(), description="The dense CRF on the predictions; null: none.")
    min_confidence: float = Field(
        0.0, ge=0, lt=1, description="Pixels whose highest probability is below this become 255 and are not trained on."
    )
    clamp: ClampSettings | None = Field(
        None,
        description="Pixels of estimated masks with a loss far above that around them teach no more. null: all do.",
    )
    start: Literal["fresh", "segmenter"] = Field(
        "fresh",
        description="fresh: the network's own initial weights. segmenter: continue from the given one (DSRG's code).",
    )
    training: TrainConfig = Field(TrainConfig(), description="The training; its method is supervised, set by `labels`.")


METHOD_LABELS: dict[str, Literal["weak", "mixed", "oversampled"]] = {
    "estimated": "weak",
    "mixed": "mixed",
    "oversampled": "oversampled",
}


@dataclass(frozen=True)
class RetrainInputs(Inputs):
    data: Annotated[Artifact, Input(("dataset",), "the data set", default=("data",))]
    segmenter: Annotated[
        Artifact | None,
        Input(
            ("segmenter",),
            "the segmenter that labels the images",
            default=("dsrg",),
            needed=lambda config, given: "weak_labels" not in given or config.start == "segmenter",
        ),
    ]
    weak_labels: Annotated[
        Artifact | None,
        Input(("masks", "predictions", "seeds", "refined"), "masks of the images, instead of those of a segmenter"),
    ]
    features: Annotated[
        Artifact | None, Input(("features",), "kept features of the frozen encoder, of the same views of the images")
    ]


def check(config: RetrainConfig, inputs: RetrainInputs) -> None:
    from stages.networks.loading import check_classes

    config.training.network.check()
    if config.training.method != SupervisedSettings():
        raise ConfigError("retrain: training.method cannot be set", "set `labels` and `clamp` instead")
    if config.labels != "estimated" and "train" in config.splits:
        raise ConfigError(
            f"retrain: with labels {config.labels} the split train keeps its exact masks",
            "use splits [weak], or labels estimated",
        )
    if inputs.features is not None:
        check_features(config.training, inputs.features, inputs.data)
    if inputs.weak_labels is not None:
        _check_given(config, inputs, inputs.weak_labels)
    if inputs.segmenter is not None:
        check_classes(inputs.segmenter, Dataset(inputs.data).class_names)


def _check_given(config: RetrainConfig, inputs: RetrainInputs, masks: Artifact) -> None:
    """Masks that are given are there, and nothing is set that would have made them."""
    if not (masks.path / "masks").is_dir():
        raise ArtifactError(
            f"artifact {masks.name!r} ({masks.kind}) holds no masks", "predict with output=masks or output=both"
        )
    makes = ("inference", "image_labels", "crf", "min_confidence")
    idle = [key for key in makes if getattr(config, key) != getattr(RetrainConfig(), key)]
    if inputs.segmenter is not None and config.start == "fresh":
        idle.append("the input segmenter")
    if idle:
        raise ConfigError(f"retrain: {', '.join(idle)}: no effect on masks that are given", "leave it out")


def run(config: RetrainConfig, inputs: RetrainInputs, writer: Writer, execution: Execution) -> dict[str, Any]:
    from stages.methods.training import label_sources, train_network
    from stages.networks import build_segmenter

    dataset, given = Dataset(inputs.data), inputs.weak_labels
    ids = ids_of(dataset, config.splits)
    if given is None and inputs.segmenter is not None:
        if config.start == "fresh" and config.training.network.weights_file() is not None:
            build_segmenter(config.training.network, dataset.num_classes, seed=0)  # damaged weights are refused now
        _label(config, dataset, inputs.segmenter, ids, writer, execution)
    training = config.training.model_copy(
        update={"method": SupervisedSettings(labels=METHOD_LABELS[config.labels], clamp=config.clamp)}
    )
    strong = [] if config.labels == "estimated" else dataset.ids(config.training.train_split)
    sources = label_sources(dataset, strong, ids, {"weak_labels": (given or writer).path / "masks"})
    initial = inputs.segmenter if config.start == "segmenter" else None
    summary = train_network(training, dataset, sources, writer, execution, initial, features=inputs.features)
    return {"labelled": len(ids), **summary}


def _label(
    config: RetrainConfig,
    dataset: Dataset,
    segmenter: Artifact,
    ids: Sequence[str],
    writer: Writer,
    execution: Execution,
) -> None:
    """Writes masks/<id>.png of the images as the segmenter sees them, under torchrun each rank its share."""
    from stages.engine.device import autocast_dtype, select_device
    from stages.localization.estimated_masks import Refiner, label_images
    from stages.networks import load_network
    from stages.networks.folding import for_inference
    from stages.parallel.meeting import barrier

    device = select_device(execution.device)
    refiner = Refiner(
        dataset=dataset,
        writer=writer,
        image_labels=config.image_labels,
        crf=config.crf.resolve() if config.crf else None,
        max_pixels=(config.crf or CrfConfig()).max_pixels,
        min_confidence=config.min_confidence,
    )
    network = for_inference(load_network(segmenter), device, autocast_dtype(config.inference.precision, device))
    label_images(network, ids, refiner, config.inference, device, execution)
    barrier()  # every process trains on the masks of all


STAGE = Stage(
    name="retrain",
    version=4,
    summary="Label images with a trained segmenter, or take masks of them, and train a fresh one on the masks.",
    config=RetrainConfig,
    inputs=RetrainInputs,
    output="segmenter",
    run=run,
    check=check,
)
