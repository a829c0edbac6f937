"""ResNet38: the wide residual network of Wu et al., "Wider or Deeper" (arXiv 1611.10080, model A1), as in PSA and SEAM.

    network: {preset: resnet38, weights: ilsvrc-cls_rna-a1_cls1000_ep-0001.params}

Its ImageNet weights are published as a file of MXNet alone, which is read as it is (stages/networks/mxnet_params.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from stages.networks.blocks import Backbone, initialise

Layer = tuple[int, int, int]  # channels, kernel, dilation
STAGES = {"b2": 3, "b3": 3, "b4": 6, "b5": 3, "b6": 1, "b7": 1}  # units of each

_ROLES = {
    "weight": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_var": "running_var",
}
_MXNET_UNIT = re.compile(rf"(res|bn)(\d)(?:a|b(\d+))_(branch\w+?)_({'|'.join(_ROLES)})")
_MXNET_ALONE = re.compile(rf"(conv1a|bn7)_({'|'.join(_ROLES)})")


class _Unit(nn.Module):
    """x + the layers of x, each BatchNorm, ReLU, (dropout of whole channels), convolution.

    Where size or channels change, a 1x1 convolution of what the first convolution reads stands in the place of x.
    """

    bn_branch2a: nn.BatchNorm2d
    conv_branch2a: nn.Conv2d

    def __init__(self, channels_in: int, layers: Sequence[Layer], stride: int, dropout: float) -> None:
        """stride: of the first layer; dropout: before all others."""
        super().__init__()
        self.layers, channels = len(layers), channels_in
        for number, (width, kernel, dilation) in enumerate(layers):
            padding = dilation * (kernel // 2)
            convolution = nn.Conv2d(channels, width, kernel, 1 if number else stride, padding, dilation, bias=False)
            self.add_module(f"bn_{_branch(number)}", nn.BatchNorm2d(channels))
            self.add_module(f"conv_{_branch(number)}", convolution)
            channels = width
        if stride > 1 or channels != channels_in:
            self.conv_branch1 = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(x, self.entered(x))

    def entered(self, x: Tensor) -> Tensor:
        """What the first convolution reads."""
        return F.relu(self.bn_branch2a(x), inplace=True)

    def behind(self, x: Tensor, entered: Tensor) -> Tensor:
        """The unit's output, for its input and what its first convolution reads."""
        y = self.conv_branch2a(entered)
        for number in range(1, self.layers):
            y = F.relu(self.get_submodule(f"bn_{_branch(number)}")(y), inplace=True)
            y = self.get_submodule(f"conv_{_branch(number)}")(self.dropout(y))
        return y + (self.conv_branch1(entered) if hasattr(self, "conv_branch1") else x)


def _branch(number: int) -> str:
    return f"branch2b{number}" if number else "branch2a"


class ResNet38(Backbone):
    """A 3x3 convolution, 17 units in six stages b2 to b7, BatchNorm and ReLU; 4096 channels.

    PSA and SEAM have output stride 8: b5 is dilated by 2, b6 and b7 by 4. Dropout of .3 in b6 and .5 in b7 is theirs
    (of whole channels, before both inner convolutions). Levels: what b3, b4, b5 and b6 read, each after its first
    BatchNorm and ReLU, and the output. The last three are conv4, conv5 and conv6 of PSA, whose f8_3, f8_4 and f8_5 (as
    SEAM's f8_3 and f8_4) read them. With `freeze_stages: 1` and `freeze_batch_norm: true` the same layers are frozen as
    there: conv1a, b2, and every BatchNorm. Parameter names are PSA's, so that its and SEAM's state dicts load, too.
    """

    gradient_layer = "b4_5"
    low_level = 1
    unused_prefixes = ("linear1000_", "fc8.", "f8_3.", "f8_4.", "f8_5.", "f9.")

    def __init__(self, output_stride: int, width: int = 64) -> None:
        """width: channels of the first convolution, of which all others are multiples (published: 64)."""
        super().__init__()
        self.stride = output_stride
        self.level_strides = (2, 4, 8, min(output_stride, 16), output_stride)
        self.level_channels = tuple(factor * width for factor in (2, 4, 8, 16, 64))
        self.low_channels, self.high_channels = 4 * width, 64 * width
        self.conv1a = nn.Conv2d(3, width, 3, padding=1, bias=False)
        for name, channels in (("b2", 2 * width), ("b3", 4 * width), ("b4", 8 * width)):
            self._add_stage(name, channels // 2, [[(channels, 3, 1), (channels, 3, 1)]] * STAGES[name], stride=2)
        inner, channels = 8 * width, 16 * width
        stride, dilation = (1, 2) if output_stride < 16 else (2, 1)
        # the convolution that lost its stride sees an undilated map
        first = [(inner, 3, 1), (channels, 3, dilation)]
        self._add_stage("b5", inner, [first, *[[(inner, 3, dilation), (channels, 3, dilation)]] * 2], stride)
        stride, dilation = (1, 32 // output_stride) if output_stride < 32 else (2, 1)
        for name, dropout in (("b6", 0.3), ("b7", 0.5)):
            layers = [(channels // 2, 1, 1), (channels, 3, dilation), (2 * channels, 1, 1)]
            self._add_stage(name, channels, [layers], stride, dropout)
            channels, stride = 2 * channels, 1
        self.bn7 = nn.BatchNorm2d(channels)
        initialise(self)

    def _add_stage(
        self, name: str, channels: int, units: Sequence[Sequence[Layer]], stride: int, dropout: float = 0.0
    ) -> None:
        """Units in a row under the names NAME, NAME_1, ...; the first one has the stride."""
        for number, layers in enumerate(units):
            unit = _Unit(channels, layers, 1 if number else stride, dropout)
            self.add_module(f"{name}_{number}" if number else name, unit)
            channels = layers[-1][0]

    def levels(self, x: Tensor) -> list[Tensor]:
        maps, x = [], self.conv1a(x)
        for name, count in STAGES.items():
            first: Any = self.get_submodule(name)
            entered = first.entered(x)
            if name not in ("b2", "b7"):
                maps.append(entered)
            x = first.behind(x, entered)
            for number in range(1, count):
                x = self.get_submodule(f"{name}_{number}")(x)
        return [*maps, F.relu(self.bn7(x), inplace=True)]

    def sort_weights(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return super().sort_weights({_own_name(name): value for name, value in state.items()})


def _own_name(published: str) -> str:
    """MXNet's name of a parameter as ours: bn4b2_branch2a_moving_var -> b4_2.bn_branch2a.running_var."""
    if found := _MXNET_UNIT.fullmatch(published):
        kind, stage, number, branch, role = found.groups()
        unit = f"b{stage}_{number}" if number else f"b{stage}"
        return f"{unit}.{'conv' if kind == 'res' else 'bn'}_{branch}.{_ROLES[role]}"
    if found := _MXNET_ALONE.fullmatch(published):
        return f"{found[1]}.{_ROLES[found[2]]}"
    return published
