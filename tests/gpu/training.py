"""Trainings by the product's own loop at the field's setting: ResNet-101 DeepLabv3+, crops of 321, 8 and 8 images."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

from stages.engine.cuda_graphs import GpuRecorder
from stages.engine.device import autocast_dtype
from stages.networks import build_segmenter
from stages.networks.config import NetworkConfig
from tests.gpu.inside import Arithmetic, Profile, empty_gpu
from tests.gpu.machine import peak_flops
from tests.gpu.place import Place, Watch

METHODS = ("unimatch", "supervised", "fixmatch", "cps")
AIM = 0.35  # of the bf16 peak, in the backbone
BATCH, CROP = 16, 321
WARM, TIMED, PROFILED = 10, 20, 3  # steps; the first two are multiples of what is logged, when the loop waits


def training(place: Place) -> None:
    for method in place.size(METHODS, METHODS[1:3]):
        with place.rows.guarded(method):
            measured(place, method, method)
        if method == "unimatch":
            plain = "unimatch, cuda_graphs=false"
            with place.rows.guarded(plain):
                measured(place, plain, method, cuda_graphs=False)


def averages(place: Place) -> None:
    """Trainings with averaged networks: the cost of the averages."""
    for what, method in (
        ("mean-teacher", "mean-teacher"),
        ("fixmatch with a teacher", {"name": "fixmatch", "teacher": {"decay": 0.996}}),
    ):
        with place.rows.guarded(what):
            measured(place, what, method)


def compiled(place: Place) -> None:
    """torch.compile of the networks: what it costs at first, and what it gives."""
    for method in ("supervised", "unimatch"):
        with place.rows.guarded(f"{method}, compiled"):
            measured(place, f"{method}, compiled", method, count=False, compile=True)


def network(place: Place) -> Any:
    full = {"preset": "deeplabv3plus-resnet101", "weights": "none"}
    return place.size(full, {"preset": "tiny"})


def values(place: Place, method: Any, iterations: int, **changes: Any) -> dict[str, Any]:
    return {
        "method": method,
        "network": network(place),
        "iterations": iterations,
        "batch_size": place.size(BATCH, 4),
        "crop_size": place.size(CROP, 48),
        "augmentation": {"scale": [0.5, 2.0]},
        "optimizer": {"name": "sgd", "lr": 1e-3},
        "precision": "bf16",
        "log_images": 0,
    } | changes


def measured(place: Place, what: str, method: Any, count: bool = True, **changes: Any) -> None:
    """Adds the row of a training.

    count: its arithmetic, that of the second step: of operations that a CUDA graph replays torch says nothing, and
    counting keeps torch from compiling.
    """
    warm, timed = place.size((WARM, TIMED), (1, 2))
    profiled = place.size(PROFILED, 1)
    end = warm + timed
    arithmetic, inside = Arithmetic(), Profile(place, profiled)
    counted = {1: arithmetic.begin, 2: arithmetic.end} if count else {}
    watch = Watch(counted | {end: inside.begin, end + profiled: inside.end})
    config = values(place, method, end + profiled, log_every=place.size(10, 1), **changes)
    empty_gpu()
    name = re.sub(r"[^a-z0-9]+", "-", f"train-{what}")
    made = place.run(place.voc, "train", name, config, {"data": "data"}, watch)
    step = watch.seconds(warm, end) / timed
    found = inside.figures()
    figures: dict[str, Any] = {
        "images/s": config["batch_size"] / step,
        "ms a step": 1e3 * step,
        "device share": found["device ms"] / (1e3 * step),
        "loader ms": found["loader ms"],
        "calls": found["calls"],
        "launches": found["launches"],
    }
    if count:
        share = arithmetic.flops / step / peak_flops(place)
        figures |= {"TFLOP a step": arithmetic.flops / 1e12, "share of peak": share}
    figures["loss"] = sum(made.manifest.summary["losses"].values())
    figures["MiB"] = made.manifest.summary["peak_memory_mib"]
    figures["first step s"] = watch.seconds(0, 1)
    place.rows.add(what, figures, kernels=inside.kernels(), losses=made.manifest.summary["losses"])


def backbone(place: Place) -> None:
    """Forward and backward passes of the backbone alone, with images that are there.

    In fp16 torch leaves BatchNorm to cuDNN, in bf16 to its own kernels: the difference is what they cost.
    """
    with place.rows.guarded("backbone"):
        _backbone(place)


def _backbone(place: Place) -> None:
    config = NetworkConfig.model_validate(network(place) | {"freeze_batch_norm": False})
    trunk = build_segmenter(config, 21, seed=0).backbone.to(place.device).to(memory_format=torch.channels_last)
    weights = [weight for weight in trunk.parameters() if weight.requires_grad]
    device, crop = torch.device(place.device), place.size(CROP, 48)
    for count, precision in place.size(((16, "bf16"), (32, "bf16"), (16, "fp16")), ((2, "bf16"),)):
        dtype = autocast_dtype(precision, device)
        images = torch.randn(count, 3, crop, crop, device=device).contiguous(memory_format=torch.channels_last)

        def step(images: torch.Tensor = images, dtype: torch.dtype | None = dtype) -> None:
            with torch.autocast(place.device, dtype):
                features = trunk(images)
            torch.autograd.grad(sum(level.float().mean() for level in features.values()), weights)

        _passes(place, f"backbone, {precision}, {count} images", count, step)


def _passes(place: Place, what: str, count: int, step: Callable[[], None]) -> None:
    """Adds the rows of passes of `count` images: as they are, and as a CUDA graph."""
    arithmetic, inside = Arithmetic(), Profile(place, 1, calls=False)
    for part in (arithmetic, inside):
        step()
        part.begin()
        step()
        part.end()

    def add(how: str, run: Callable[[], None]) -> None:
        seconds = place.seconds(run, 10, warm=5)
        figures = {"images/s": count / seconds, "ms": 1e3 * seconds, "device ms": inside.device_ms()}
        figures |= {"share of peak": arithmetic.flops / seconds / peak_flops(place), "GiB": place.peak_gib()}
        place.rows.add(what + how, figures, {"share of peak": AIM}, kernels=inside.kernels() if place.on_gpu else [])

    add("", step)
    if place.on_gpu:
        recorder = GpuRecorder(torch.device(place.device))
        add(", CUDA graphs", recorder.record(step, recorder.pool()))
