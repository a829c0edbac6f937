"""The training of a head on a frozen encoder: with the encoder in every step, and on kept features."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from artifacts import checkpoint
from artifacts.dataset import Dataset
from artifacts.store import Artifact, Workspace
from stages.networks import build_segmenter
from stages.networks.config import NetworkConfig
from tests.benchmarks import inputs
from tests.benchmarks.measure import Result, alone, in_turn

# scale -> (images, side of images and crops, steps, batch size, repeats)
SIZES = {"tiny": (4, 48, 2, 2, 1), "quick": (40, 160, 10, 16, 2), "full": (40, 160, 20, 16, 2)}


def frozen_mobilenet(scale: str, folder: Path) -> Result:
    return _frozen("frozen-mobilenet", {"preset": "mobilenet_v2"}, scale, folder)


def frozen_transformer(scale: str, folder: Path) -> Result:
    network = {"backbone": "timm:vit_small_patch16_224", "head_channels": 128}
    return _frozen("frozen-transformer", network, scale, folder)


def _frozen(name: str, network: dict[str, Any], scale: str, folder: Path) -> Result:
    """The stage `train` with the method supervised; the equality is that of the published weights and figures."""
    count, side, steps, batch, repeats = SIZES[scale]
    workspace = Workspace(folder)
    shapes = {"name": "shapes", "train": count, "weak": 0, "val": 1, "long_side": side}
    dataset = Dataset(inputs.stage(workspace, "prepare-data", "data", {"dataset": shapes}, workers=2))
    anew = NetworkConfig.model_validate(network | {"weights": "none", "freeze_batch_norm": False})
    checkpoint.save(folder / "encoder.pt", build_segmenter(anew, dataset.num_classes, seed=0).backbone.state_dict())
    shared = {
        "network": network | {"weights": str(folder / "encoder.pt"), "freeze": "encoder"},
        "crop_size": side,
        "augmentation": {"mode": "resize", "views": 2},
    }
    values = shared | {"iterations": steps, "batch_size": batch, "optimizer": {"name": "adamw", "lr": 1e-3}}

    def train(**given: str) -> Artifact:
        shutil.rmtree(folder / "head", ignore_errors=True)
        return inputs.stage(workspace, "train", "head", values, {"data": "data", **given})

    making, made = alone(lambda: inputs.stage(workspace, "features", "features", shared, {"data": "data"}), 1)
    baseline, ours, expected, found = in_turn(train, lambda: train(features="features"), repeats)
    return Result(
        name,
        "train on kept features; baseline: the frozen encoder runs in every step",
        f"{steps} steps of {batch} images of {side} pixels, network {network.get('preset', network.get('backbone'))}",
        baseline,
        ours,
        "the digest of all that is published",
        expected.manifest.content == found.manifest.content,
        figures={
            "steps_per_s": steps / ours.median,
            "encoder_steps_per_s": steps / baseline.median,
            "making_s_per_view": making.median / (2 * count),
            "bytes_per_image": made.summary["bytes_per_image"],
        },
    )
