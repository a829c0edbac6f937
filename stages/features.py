"""`features`: what a frozen encoder makes of the images, kept so that the trainings of a head need not run it.

    semiseg features --network dpt-dinov2-small --set crop_size=322
    semiseg train --features features --network dpt-dinov2-small --set network.freeze=encoder --set crop_size=322 \\
        --set augmentation.views=8

An image has `augmentation.views` fixed views, and a training with that setting shows its networks no others. So the
result is the same with kept features and without, to the bit on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from artifacts.dataset import Split
from artifacts.errors import ConfigError
from artifacts.store import Artifact, Writer
from stages.config import Config
from stages.contract import Execution, Input, Inputs, Stage
from stages.data.images import images_of_splits
from stages.engine.config import AugmentationConfig, TrainingConfig
from stages.networks.config import NetworkConfig
from stages.parallel.share import counted, share_of


class FeaturesConfig(Config):
    """Which encoder, and which views of which images: as in the training that reads the features."""

    network: NetworkConfig = Field(
        NetworkConfig.model_validate("tiny"),
        description="The network of the training; its encoder counts, and which maps of it the head reads.",
    )
    encoder_of: Literal["segmenter", "classifier"] = Field(
        "segmenter",
        description="classifier: the features are for train-classifier, whose backbones have other strides.",
    )
    splits: tuple[Split, ...] = Field(
        ("train",), min_length=1, description="Splits whose images are encoded; those that the training reads."
    )
    crop_size: int = Field(321, ge=16, description=TrainingConfig.model_fields["crop_size"].description)
    augmentation: AugmentationConfig = Field(
        AugmentationConfig(views=8), description="The views; their number must be given."
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Arithmetic of the encoder. auto: bf16 on a GPU that has it, else fp32."
    )


@dataclass(frozen=True)
class FeaturesInputs(Inputs):
    data: Annotated[Artifact, Input(("dataset",), "the data set", default=("data",))]


def check(config: FeaturesConfig, inputs: FeaturesInputs) -> None:
    if config.network.weights == "none":
        raise ConfigError(
            "features: network.weights is none: features of random weights are not worth keeping",
            f"set network.weights to {' or '.join((*config.network.facts.published[:1], 'a file'))}, or choose a "
            "network that has published weights (--network)",
        )
    _frozen(config).check()
    if config.augmentation.views is None:
        raise ConfigError(
            "features: augmentation.views is null: each sample would be a new view, and none could be kept",
            "set augmentation.views to a number, here and in the training (8; with augmentation.mode resize 2 are all)",
        )
    images_of_splits(inputs.data, config.splits)


def run(config: FeaturesConfig, inputs: FeaturesInputs, writer: Writer, execution: Execution) -> dict[str, Any]:
    """Encodes what is still missing; under torchrun each rank its share of the images."""
    import torch

    from artifacts.feature_maps import RECORD, SCHEMA, item_of, pack
    from stages.data.decoding import decoded_ahead
    from stages.engine.device import autocast_dtype, describe_device, select_device
    from stages.engine.kept_features import features_of, made_with
    from stages.networks import build_classifier, build_segmenter
    from stages.networks.freezing import encode

    dataset, ids = images_of_splits(inputs.data, config.splits)
    network: Any
    if config.encoder_of == "segmenter":
        network = build_segmenter(_frozen(config), dataset.num_classes, seed=0)
    else:
        network = build_classifier(_frozen(config), max(dataset.num_classes - 1, 1), seed=0)
    device = select_device(execution.device)
    backbone = network.backbone.to(device).to(memory_format=torch.channels_last)  # as in a training
    dtype = autocast_dtype(config.precision, device, execution.progress.note)
    share = share_of(ids, execution, lambda image_id: writer.has(item_of(image_id)))
    with counted(writer, execution, "features", share) as advance:
        alone = ([image_id] for image_id in share.left)
        for (image_id,), (image,) in decoded_ahead(dataset, alone, execution.own_workers):
            maps = features_of(backbone, image, image_id, config.crop_size, config.augmentation, dtype)
            writer.write_bytes(item_of(image_id), pack({name: maps[name].numpy() for name in network.reads}))
            advance()
    with torch.inference_mode():
        blank = encode(backbone, torch.zeros(1, 3, config.crop_size, config.crop_size, device=device))
    shapes = {name: list(blank[name].shape[1:]) for name in network.reads}
    if execution.rank == 0:
        settings = (config.network.backbone, config.crop_size, config.augmentation, config.precision, device)
        writer.write_json(
            RECORD,
            {
                "schema": SCHEMA,
                "made_with": made_with(backbone, *settings),
                "views": config.augmentation.views,
                "maps": shapes,
                "ids": ids,
            },
        )
    bytes_of_a_view = sum(4 * channels * rows * columns for channels, rows, columns in shapes.values())
    return {
        "images": len(ids),
        "views": config.augmentation.views,
        "bytes_per_image": bytes_of_a_view * (config.augmentation.views or 0),
        "device": describe_device(device),
    }


def _frozen(config: FeaturesConfig) -> NetworkConfig:
    return config.network.model_copy(update={"freeze": "encoder"})


STAGE = Stage(
    name="features",
    version=1,
    summary="Keep the features of a frozen encoder, so that heads are trained without running it.",
    config=FeaturesConfig,
    inputs=FeaturesInputs,
    output="features",
    run=run,
    check=check,
)
