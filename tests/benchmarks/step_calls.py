"""How often a step of a training calls torch: where these calls take longer than its work, a GPU waits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn

from artifacts.store import Artifact, Workspace
from stages.engine import loop, teacher
from stages.engine.batch import Batch
from stages.engine.config import StrongAugmentationSettings
from stages.engine.training_log import NEVER, Means
from stages.methods.parts import strong_weak
from stages.methods.parts.views import strong_view
from tests.benchmarks import inputs
from tests.benchmarks.measure import Result, Timing
from tests.benchmarks.steps import Calls

# the network, side of images and crops
SIZES = {"tiny": ("tiny", 48), "quick": ("mobilenet_v2", 65), "full": ("deeplabv3plus-resnet50", 65)}
FIRST, LAST = 2, 4  # steps of the two trainings: a step is half of their difference, without start and end
TARGET = 1.5


def fixmatch(scale: str, folder: Path) -> Result:
    return _calls("fixmatch", scale, folder)


def unimatch(scale: str, folder: Path) -> Result:
    return _calls("unimatch", scale, folder)


def cps(scale: str, folder: Path) -> Result:
    return _calls("cps", scale, folder)


def _calls(method: str, scale: str, folder: Path) -> Result:
    """Trainings on a CPU, whose operations are those of a GPU; its CUDA graphs, which need none of the host, apart."""
    preset, side = SIZES[scale]
    workspace = Workspace(folder)
    shapes = {"name": "shapes", "train": 4, "weak": 4, "val": 1, "long_side": side}
    inputs.stage(workspace, "prepare-data", "data", {"dataset": shapes}, workers=1)
    network = {"preset": preset} | ({} if preset == "tiny" else {"weights": "none", "freeze_batch_norm": False})

    def train(name: str, steps: int) -> tuple[int, Artifact]:
        config = {"network": network, "method": method, "crop_size": side, "batch_size": 4, "log_images": 0}
        config |= {"iterations": steps, "ema_decay": 0.99}
        with Calls() as counted:
            made = inputs.stage(workspace, "train", name, config, {"data": "data"}, device="cpu", workers=1)
        return counted.count, made

    def step(name: str) -> tuple[float, Artifact]:
        (few, _), (many, made) = train(f"{name}-few", FIRST), train(f"{name}-many", LAST)
        return (many - few) / (LAST - FIRST), made

    with tensor_by_tensor():
        before, expected = step("before")
    after, found = step("after")
    return Result(
        f"calls-{method}",
        f"calls of torch in a step of {method}; baseline: averages and sums of losses tensor by tensor, "
        "strong views one by one",
        f"network {preset}, with an average, batches of 2 and 2",
        Timing((before,), "calls"),
        Timing((after,), "calls"),
        "the published weights, digest by digest",
        expected.manifest.content == found.manifest.content,
        target_ratio=TARGET,
    )


@contextlib.contextmanager
def tensor_by_tensor() -> Iterator[None]:
    """These parts of a step in the plain way."""
    with (
        mock.patch.object(loop, "update_average", plain_average),
        mock.patch.object(teacher, "update_average", plain_average),
        mock.patch.object(strong_weak, "strong_views", plain_views),
        mock.patch.object(loop, "Means", PlainMeans),
    ):
        yield


@torch.no_grad()
def plain_average(
    average: nn.Module,
    network: nn.Module,
    decay: float,
    step: int,
    parameters_only: bool = False,
    warmup: bool = True,
) -> None:
    share = 1 - (min(1 - 1 / (step + 1), decay) if warmup else decay)
    states = [
        list(module.parameters() if parameters_only else module.state_dict().values()) for module in (average, network)
    ]
    for old, new in zip(*states, strict=True):
        if old.is_floating_point():
            old.lerp_(new, share)
        else:
            old.copy_(new)


def plain_views(
    parts: Sequence[tuple[Batch, int]], settings: StrongAugmentationSettings, seed: int, step: int
) -> list[Batch]:
    return [strong_view(batch, settings, seed, step, view) for batch, view in parts]


class PlainMeans(Means):
    """Sums every loss for itself."""

    def __init__(self) -> None:
        super().__init__()
        self._of_each: dict[str, Tensor] = {}
        self._bad: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, step: int, losses: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> None:
        self._terms |= losses.keys()
        for name, value in {**losses, **observed}.items():
            self._of_each[name] = self._of_each.get(name, 0) + value.detach().float()
            bad = torch.where(torch.isfinite(value.detach()), NEVER, step)
            self._bad[name] = torch.minimum(self._bad[name], bad) if name in self._bad else bad
        self._names = list(self._of_each)
        self._steps += 1

    def close(self, step: int) -> tuple[int, list[str]] | None:
        self._sums, self._first_bad = (torch.stack(list(of.values())) for of in (self._of_each, self._bad))
        self._of_each, self._bad = {}, {}
        return super().close(step)
