"""bf16 on a CPU that has instructions for it, and the gradients of depthwise convolutions; CPU seconds."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.engine.device import has_bf16, select_device
from stages.networks import build_segmenter, upsample
from stages.networks.config import NetworkConfig
from stages.networks.depthwise import DepthwiseConv2d, with_fast_gradients
from stages.networks.segmenter import Segmenter
from tests.benchmarks.measure import Result, Timing

# (images of a step, side of the crop, repeats)
STEPS = {"tiny": (1, 32, 1), "quick": (4, 128, 3), "full": (4, 256, 5)}
MAPS = {"tiny": (1, 8, 4, 1), "quick": (4, 960, 8, 5), "full": (4, 960, 8, 25)}  # MobileNetV2's, of a crop of 128


def in_turn_cpu(sides: tuple[Callable[[], Tensor], Callable[[], Tensor]], repeats: int) -> tuple[Timing, ...]:
    """CPU seconds of one thread of both sides, one after the other, after a call of each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found: tuple[list[float], list[float]] = ([], [])
    try:
        for side in sides:
            side()
        for _ in range(repeats):
            for side, seconds in zip(sides, found, strict=True):
                begin = time.process_time()
                side()
                seconds.append(time.process_time() - begin)
    finally:
        torch.set_num_threads(threads)
    return tuple(Timing(tuple(seconds)) for seconds in found)


def bf16_step(scale: str, folder: Path) -> Result:
    """Forward, loss and backward of MobileNetV2 in fp32 and in bf16."""
    batch, side, repeats = STEPS[scale]
    device = select_device("cpu")
    values = {"preset": "mobilenet_v2", "weights": "none", "freeze_batch_norm": False}
    network = build_segmenter(NetworkConfig.model_validate(values), 21, seed=0).train()
    network = network.to(memory_format=torch.channels_last)
    torch.manual_seed(0)
    images = torch.randn(batch, 3, side, side).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 21, (batch, side, side))
    sides = (lambda: _loss(network, images, labels, False), lambda: _loss(network, images, labels, True))
    baseline, ours = in_turn_cpu(sides, repeats)
    expected, found = (float(side()) for side in sides)
    return Result(
        "bf16-step",
        "a step of MobileNetV2 with precision bf16; baseline: fp32 (CPU seconds, one thread)",
        f"{batch} crops of {side}" + ("" if has_bf16(device) else "; this processor has no bf16"),
        baseline,
        ours,
        f"the loss: {expected:.4f} and {found:.4f} (wanted: within 2 %)",
        abs(found / expected - 1) <= 0.02,
        target_ratio=1.3 if scale == "full" and has_bf16(device) else None,
    )


def _loss(network: Segmenter, images: Tensor, labels: Tensor, lowered: bool) -> Tensor:
    torch.manual_seed(0)  # the dropout
    with torch.autocast("cpu", torch.bfloat16, enabled=lowered):
        logits = network(images)
    size = (labels.shape[1], labels.shape[2])
    loss = F.cross_entropy(upsample(logits.float(), size, network.stride), labels)
    network.zero_grad()
    loss.backward()
    return loss.detach()


def depthwise(scale: str, folder: Path) -> Result:
    """The gradients of a dilated depthwise convolution against those of torch, in fp32."""
    batch, channels, side, repeats = MAPS[scale]
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=2, dilation=2, groups=channels, bias=False))
    fast = with_fast_gradients(copy.deepcopy(plain))
    assert isinstance(fast[0], DepthwiseConv2d)
    images = torch.randn(batch, channels, side, side).contiguous(memory_format=torch.channels_last).requires_grad_()
    outputs = [plain(images), fast(images)]
    gradient = torch.randn_like(outputs[0])

    def weights(number: int) -> Tensor:
        layer = (plain, fast)[number][0]
        return torch.autograd.grad(outputs[number], [images, layer.weight], gradient, retain_graph=True)[1]

    baseline, ours = in_turn_cpu((lambda: weights(0), lambda: weights(1)), repeats)
    error = float((weights(0) - weights(1)).abs().max() / weights(0).abs().max())
    return Result(
        "depthwise-gradients",
        "gradients of a 3x3 depthwise convolution with dilation 2; baseline: torch's (CPU seconds, one thread)",
        f"{batch} maps of {side}x{side}, {channels} channels",
        baseline,
        ours,
        f"largest difference of the weights' gradients, relative: {error:.1e} (wanted: below 1e-5)",
        error < 1e-5,
        target_ratio=2.0,
    )
