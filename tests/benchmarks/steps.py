"""What a training step costs apart from the networks: checkpoints, averages, strong views."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from artifacts import checkpoint
from stages.engine.batch import Batch
from stages.engine.checkpoints import CheckpointWriter
from stages.engine.config import StrongAugmentationSettings
from stages.engine.device import select_device
from stages.engine.teacher import update_average
from stages.methods.parts.views import strong_view, strong_views
from stages.networks import build_segmenter, normalise
from stages.networks.config import NetworkConfig
from tests.benchmarks import inputs
from tests.benchmarks.measure import Result, Timing, in_turn

# the network, repeats
SIZES = {
    "tiny": ("tiny", 1),
    "quick": ("mobilenet_v2", 3),
    "full": ("deeplabv3plus-resnet101", 5),
}
# images of a batch, their side, repeats
VIEWS = {"tiny": (2, 33, 1), "quick": (4, 161, 3), "full": (8, 321, 5)}


class Calls(TorchDispatchMode):
    """Counts the operations of torch in a `with` block: each costs a GPU's host about 5 to 10 us."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


def calls(work: Callable[[], object]) -> int:
    with Calls() as counted:
        work()
    return counted.count


def checkpoints(scale: str, folder: Path) -> Result:
    """Seconds that a step waits for a checkpoint of network, average and momentum."""
    preset, repeats = SIZES[scale]
    network, average = _pair(preset)
    momentum = [torch.zeros_like(value) for value in network.parameters()]
    state = {"network": network.state_dict(), "average": average.state_dict(), "momentum": momentum}
    at_once, waits = [], []
    with CheckpointWriter(folder / "ours.pt", next(network.parameters()).device) as writer:
        for repeat in range(repeats):
            begin = time.perf_counter()
            checkpoint.save(folder / "theirs.pt", state)
            at_once.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            writer.write(repeat, state)
            waits.append(time.perf_counter() - begin)
            writer.wait()
    size = (folder / "ours.pt").stat().st_size
    return Result(
        "checkpoint",
        "the time a step waits for a checkpoint that a thread writes; baseline: written before the next step",
        f"weights, average and momentum of {preset}, {size / 2**20:.0f} MiB",
        Timing(tuple(at_once)),
        Timing(tuple(waits)),
        "the files, byte by byte",
        (folder / "ours.pt").read_bytes() == (folder / "theirs.pt").read_bytes(),
        target_ratio=4.0,
        figures={"mib": size / 2**20},
    )


def average(scale: str, folder: Path) -> Result:
    """The average of a network, in one operation over all tensors."""
    preset, repeats = SIZES[scale]
    network, ours = _pair(preset)
    theirs = copy.deepcopy(ours)

    @torch.no_grad()
    def one_by_one() -> nn.Module:
        for old, new in zip(theirs.state_dict().values(), network.state_dict().values(), strict=True):
            if old.is_floating_point():
                old.lerp_(new, 1 - 0.75)
            else:
                old.copy_(new)
        return theirs

    def all_at_once() -> nn.Module:
        update_average(ours, network, 0.75, 1000)
        return ours

    counts = {"calls": calls(all_at_once), "baseline_calls": calls(one_by_one)}
    baseline, found, expected, made = in_turn(one_by_one, all_at_once, repeats)
    pairs = zip(expected.state_dict().values(), made.state_dict().values(), strict=True)
    return Result(
        "average",
        "the average of a teacher after a step, in one operation; baseline: tensor by tensor",
        f"parameters and buffers of {preset}",
        baseline,
        found,
        "the averages, bit by bit",
        all(torch.equal(first, second) for first, second in pairs),
        target_ratio=1.0,
        figures=counts,
    )


def views(scale: str, folder: Path) -> Result:
    """The four strong views of a step of UniMatch (two of the images, two of their partners) in one pass."""
    count, side, repeats = VIEWS[scale]
    parts = [(_batch(count, side, first), view) for view, first in enumerate((0, count, 0, count))]
    settings = StrongAugmentationSettings()

    def one_by_one() -> list[Batch]:
        return [strong_view(batch, settings, 0, 5, view) for batch, view in parts]

    def all_at_once() -> list[Batch]:
        return strong_views(parts, settings, 0, 5)

    counts = {"calls": calls(all_at_once), "baseline_calls": calls(one_by_one)}
    baseline, ours, expected, found = in_turn(one_by_one, all_at_once, repeats)
    return Result(
        "strong-views",
        "the strong views of a step of UniMatch in one pass; baseline: view by view",
        f"4 views of {count} crops of {side}",
        baseline,
        ours,
        "the images, bit by bit",
        all(torch.equal(a.image, b.image) for a, b in zip(expected, found, strict=True)),
        target_ratio=1.0,
        figures=counts,
    )


def _pair(preset: str) -> tuple[nn.Module, nn.Module]:
    """A network and a second one like it, with different weights."""
    weights = {} if preset == "tiny" else {"weights": "none", "freeze_batch_norm": False}
    config = NetworkConfig.model_validate({"preset": preset, **weights})
    device = select_device("auto")
    first, second = (build_segmenter(config, inputs.NUM_CLASSES, seed).to(device) for seed in (0, 1))
    return first, second


def _batch(count: int, side: int, first: int) -> Batch:
    device = select_device("auto")
    drawn = [inputs.drawn_image(number, (321, 428)) for number in range(first, first + count)]
    pixels = torch.stack([torch.from_numpy(image[:side, :side].copy()) for image, _ in drawn]).to(device)
    label = torch.stack([torch.from_numpy(mask[:side, :side].copy()) for _, mask in drawn]).to(device).long()
    seen = pixels.permute(0, 3, 1, 2)  # channels_last, as the engine has them
    valid: Tensor = torch.ones_like(label, dtype=torch.bool)
    tags = torch.zeros(count, inputs.NUM_CLASSES - 1, device=device)
    return Batch([str(number) for number in range(count)], normalise(seen), seen, label, valid, tags)
