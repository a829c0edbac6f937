"""The engine with data loading, against a bare loop of the same network on tensors that are ready."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from artifacts.dataset import Dataset
from artifacts.store import Workspace, Writer
from stages.config import build
from stages.engine.batch import Batch, to_device
from stages.engine.device import autocast_dtype, select_device
from stages.engine.loop import fit
from stages.engine.method import Setup, Sources
from stages.engine.optimizers import build_optimizer, learning_rate_factor
from stages.engine.randomness import derive_seed
from stages.engine.streams import SampleMaker
from stages.methods.settings import TrainConfig
from stages.methods.supervised import Supervised
from stages.networks import upsample
from tests.benchmarks import inputs
from tests.benchmarks.measure import Result, in_turn

# network -> (images, their long side, config, repeats)
SIZES: dict[str, dict[str, tuple[int, int, dict[str, Any], int]]] = {
    "tiny": {
        "tiny": (4, 48, {"iterations": 3, "batch_size": 2, "crop_size": 48}, 1),
        "quick": (40, 96, {"iterations": 30, "batch_size": 16, "crop_size": 96}, 2),
        "full": (60, 96, {"iterations": 120, "batch_size": 16, "crop_size": 96}, 3),
    },
    "mobilenet_v2": {
        "tiny": (4, 48, {"iterations": 2, "batch_size": 2, "crop_size": 48}, 1),
        "quick": (40, 160, {"iterations": 10, "batch_size": 16, "crop_size": 128}, 2),
        "full": (60, 160, {"iterations": 30, "batch_size": 16, "crop_size": 128}, 3),
    },
}
RECIPE = {  # as in the recipes `demo` (tiny) and `table1`, profile small (mobilenet_v2)
    "augmentation": {"scale": [0.75, 1.5]},
    "optimizer": {"name": "adamw", "lr": 2e-3, "new_lr_factor": 1, "weight_decay": 0.01},
}


def training(scale: str, folder: Path) -> Result:
    return _training("training", {"preset": "tiny"}, scale, folder)


def training_mobilenet(scale: str, folder: Path) -> Result:
    network = {"preset": "mobilenet_v2", "weights": "none", "freeze_batch_norm": False}
    return _training("training-mobilenet", network, scale, folder)


def _training(name: str, network: dict[str, Any], scale: str, folder: Path) -> Result:
    """Images/s of `fit` with the method supervised: reading, augmentation, log and checkpoint included."""
    count, side, values, repeats = SIZES[network["preset"]][scale]
    workspace = Workspace(folder)
    shapes = {"train": count, "weak": 0, "val": 1, "long_side": side}
    dataset = Dataset(
        inputs.stage(workspace, "prepare-data", "data", {"dataset": {"name": "shapes", **shapes}}, workers=2)
    )
    config = build(TrainConfig, RECIPE | {"network": network} | values, name)
    sources = Sources(dataset.ids("train"), (), frozenset({"masks"}), dataset)
    streams = Supervised.streams(config.method, sources, config.batch_size)
    device = select_device("auto")
    ready = [to_device(_maker(config, dataset, streams)[step]["strong"], device) for step in range(config.iterations)]

    def method() -> Supervised:
        return Supervised(config.method, Setup(config.network, dataset.num_classes, config.seed, config.iterations))

    def engine() -> float:
        shutil.rmtree(folder / "run", ignore_errors=True)
        (folder / "run").mkdir()
        made = fit(method(), _maker(config, dataset, streams), config, Writer(folder / "run"), inputs.execution())
        return made.summary["losses"]["cross_entropy"]

    baseline, ours, expected, found = in_turn(lambda: _bare(method(), config, ready, device), engine, repeats)
    difference = abs(found / expected - 1)
    images = config.iterations * config.batch_size
    return Result(
        name,
        "fit: reading, augmentation, log and checkpoint; baseline: a bare loop, torch's default AdamW, ready tensors",
        f"{config.iterations} steps of {config.batch_size} crops of {config.crop_size}, "
        f"network {network['preset']}, {device.type}",
        baseline,
        ours,
        f"the loss at the end: {expected:.4f} and {found:.4f} (wanted: within 2 %)",
        difference <= 0.02,
        target_ratio=0.95,
        figures={
            "images_per_s": images / ours.median,
            "bare_images_per_s": images / baseline.median,
        },
    )


def _maker(config: TrainConfig, dataset: Dataset, streams: Mapping[str, Any]) -> SampleMaker:
    """A new one each time: it remembers decoded images."""
    return SampleMaker(dataset, streams, {"masks": dataset}, config.augmentation, config.crop_size, config.seed)


def _bare(method: Supervised, config: TrainConfig, ready: list[Batch], device: torch.device) -> float:
    """The loop without an engine: forward, loss, backward, step. Returns the mean loss of the last steps."""
    network = method.networks["segmenter"].to(device).to(memory_format=torch.channels_last)  # as the images
    network.train()
    optimizer = build_optimizer(config.optimizer, method.parameter_groups(), fused=device.type == "cuda")
    rates = [group["lr"] for group in optimizer.param_groups]
    dtype = autocast_dtype(config.precision, device)
    losses: list[Tensor] = []
    for step, batch in enumerate(ready):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * learning_rate_factor(config.schedule, step, config.iterations)
        torch.manual_seed(derive_seed(config.seed, "training", 0, step))  # the dropout of the engine
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            logits = network(batch.image)
        logits = upsample(logits.float(), (config.crop_size, config.crop_size), network.stride)
        loss = F.cross_entropy(logits, batch.label, ignore_index=255)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    window = (config.iterations - 1) % config.log_every + 1  # what the engine's last line of the log is the mean of
    return float(torch.stack(losses[-window:]).mean())
