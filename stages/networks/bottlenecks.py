"""The bottleneck ResNets (He et al., CVPR 2016), with the parameter names and the initial values of torchvision's.

conv1, bn1, *stages = bottleneck_stages("resnet50", [1, 2, 2, 1], [1, 1, 1, 2])  # output stride 16

torchvision itself loads torch's compiler, which takes longer than everything else that a prediction loads.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

DEPTHS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
WIDTHS = (64, 128, 256, 512)
EXPANSION = 4
STEM = 64
IMAGENET_CLASSES = 1000


class Bottleneck(nn.Module):
    """relu(shortcut(x) + three convolutions of x): 1x1, 3x3 with the stride, 1x1; each is followed by BatchNorm."""

    def __init__(self, channels_in: int, width: int, stride: int, dilation: int, shortcut: nn.Module | None) -> None:
        super().__init__()
        channels = EXPANSION * width
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


def bottleneck_stages(name: str, strides: Sequence[int], dilations: Sequence[int]) -> tuple[nn.Module, ...]:
    """conv1, bn1 and the four stages, drawn as torchvision draws them.

    dilations: of each stage; its first block still has that of the stage before, where the stride would have been.
    """
    conv1, bn1 = nn.Conv2d(3, STEM, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(STEM)
    stages, channels, before = [], STEM, 1
    for depth, width, stride, dilation in zip(DEPTHS[name], WIDTHS, strides, dilations, strict=True):
        out = EXPANSION * width
        shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        blocks = [Bottleneck(channels, width, stride, before, shortcut)]
        blocks += [Bottleneck(out, width, 1, dilation, None) for _ in range(depth - 1)]
        stages.append(nn.Sequential(*blocks))
        channels, before = out, dilation
    nn.Linear(
        channels, IMAGENET_CLASSES
    )  # not kept: it only draws from the generator what torchvision's classifier does
    for module in nn.ModuleList([conv1, *stages]).modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return conv1, bn1, *stages
