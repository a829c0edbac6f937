"""Backbones: image -> features at two strides, with the parameter names of torchvision.

Every backbone is called with normalised images (B, 3, H, W) and returns {"low", "high"}: `high` at the output stride,
`low` at stride 4 for decoders; `levels` gives the maps after each of its stages. A map has ceil(size / stride) cells,
cell i centred on pixel stride * i (`upsample` in stages/networks/blocks.py maps it back without a shift). Only a
segmenter's DINOv2 has patches instead, and two more maps (stages/networks/vision_transformer.py). `timm:NAME` is any
network of timm (stages/networks/timm_backbone.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from stages.networks.blocks import Backbone, initialise
from stages.networks.bottlenecks import bottleneck_stages
from stages.networks.config import TIMM_PREFIX
from stages.networks.depthwise import with_fast_gradients
from stages.networks.hrnet import HRNet
from stages.networks.resnet38 import ResNet38
from stages.networks.timm_backbone import TimmBackbone
from stages.networks.vision_transformer import build_dinov2


class _Residual(nn.Module):
    """relu(x + norm(conv(relu(norm(conv(x)))))), 3x3, GroupNorm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(channels // 8, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(channels // 8, channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm1(self.conv1(x)))
        return self.relu(x + self.norm2(self.conv2(y)))


def _downsample(channels_in: int, channels: int, stride: int = 2) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(channels // 8, channels),
        nn.ReLU(inplace=True),
    )


class Tiny(Backbone):
    """A small network for CPUs: strided 3x3 convs and residual blocks with GroupNorm, no dilation.

    GroupNorm uses one image at a time, so results depend neither on the batch size nor on the split of a batch over
    processes, and nothing has to be frozen.
    """

    gradient_layer = "stage8"
    low_channels = 32
    high_channels = 96
    level_channels = (32, 64, 96)

    def __init__(self, output_stride: int) -> None:
        super().__init__()
        self.stride = output_stride
        self.level_strides = (4, 8, output_stride)
        self.stem = nn.Sequential(_downsample(3, 16), _downsample(16, 32), _Residual(32))
        self.stage8 = nn.Sequential(_downsample(32, 64), _Residual(64))
        self.stage16 = nn.Sequential(_downsample(64, 96, stride=2 if output_stride == 16 else 1), _Residual(96))
        initialise(self)
        for module in self.modules():
            if isinstance(module, _Residual):
                nn.init.zeros_(module.norm2.weight)  # blocks start as the identity (Goyal et al. 2017, section 5.1)

    def levels(self, x: Tensor) -> list[Tensor]:
        return in_turn((self.stem, self.stage8, self.stage16), x)


# channels of VGG16's convolutions by block (Simonyan & Zisserman 2015, configuration D)
_VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(Backbone):
    """VGG16 with DeepLab's changes: 3x3 pools (padding 1), the last ones with stride 1, conv5 dilated to match.

    `features` has torchvision's indices, so its ImageNet weights load by name. `pools`: stride of each pool,
    0 = left out. DeepLab (output stride 8): 2, 2, 2, 1, 1, conv5 dilation 2, and a 3x3 average pool after pool5;
    SEC's classifier: 2, 2, 2, 0, 0. A 321-pixel image gives 41 cells. Levels: each block before its pool, and the
    last block after its pool.
    """

    gradient_layer = "features.17"  # conv4_1 before its ReLU: SEC's, the first layer after the third pooling
    low_channels = 256
    high_channels = 512
    level_channels = (64, 128, 256, 512, 512)
    low_level = 2
    unused_prefixes = ("classifier.",)

    def __init__(self, pools: Sequence[int], average_pool: bool) -> None:
        super().__init__()
        strides = [1]
        for pool in pools:
            strides.append(strides[-1] * max(pool, 1))
        self.stride = strides[-1]
        self.level_strides = (*strides[:4], self.stride)
        layers: list[nn.Module] = []
        channels_in = 3
        for block, (widths, pool) in enumerate(zip(_VGG16, pools, strict=True)):
            dilation = 2 if block == 4 and pools[3] == 1 else 1
            for channels in widths:
                layers.append(nn.Conv2d(channels_in, channels, 3, padding=dilation, dilation=dilation))
                layers.append(nn.ReLU(inplace=True))
                channels_in = channels
            layers.append(nn.MaxPool2d(3, stride=pool, padding=1) if pool else nn.Identity())
        self.features = nn.Sequential(*layers)
        self.average_pool = nn.AvgPool2d(3, stride=1, padding=1) if average_pool else nn.Identity()
        initialise(self)

    def stages(self) -> list[nn.Module]:
        cuts = (0, 4, 9, 16, 23, 31)  # from pool to pool
        return [self.features[first:last] for first, last in pairwise(cuts)]

    def levels(self, x: Tensor) -> list[Tensor]:
        maps = in_turn(self.stages(), x)
        return [*maps[:-1], self.average_pool(maps[-1])]


class ResNet(Backbone):
    """torchvision's bottleneck ResNets; at output stride 8 and 16 the last stages are dilated instead of strided.

    `dilate=False` (output stride 16 only) removes the last stride and keeps the 3x3 kernels dense: IRNet's classifier.
    """

    gradient_layer = "layer2"
    low_channels = 256
    high_channels = 2048
    level_channels = (64, 256, 512, 1024, 2048)
    low_level = 1
    unused_prefixes = ("fc.",)

    def __init__(self, name: str, output_stride: int, dilate: bool = True) -> None:
        super().__init__()
        self.stride = output_stride
        self.level_strides = (4, 4, 8, min(output_stride, 16), output_stride)
        strides = (1, 2, 2 if output_stride >= 16 else 1, 2 if output_stride == 32 else 1)
        dilations = (1, 1, 16 // output_stride or 1, 32 // output_stride) if dilate else (1, 1, 1, 1)
        self.conv1, self.bn1, *layers = bottleneck_stages(name, strides, dilations)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1, self.layer2, self.layer3, self.layer4 = layers

    def stages(self) -> list[nn.Module]:
        return [self.relu, self.layer1, self.layer2, self.layer3, self.layer4]

    def levels(self, x: Tensor) -> list[Tensor]:
        stem = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return [stem, *in_turn((self.layer1, self.layer2, self.layer3, self.layer4), stem)]


class MobileNetV2(Backbone):
    """torchvision's MobileNetV2; strides beyond the output stride become dilations of the later depthwise convolutions.

    A segmenter takes the 320 channels of the last bottleneck, a classifier (`last_conv=True`) the 1280 of the last 1x1
    convolution. On a CPU output stride 8 takes more than twice the time of 16.
    """

    gradient_layer = "features.6"
    low_channels = 24
    low_level = 1

    def __init__(self, output_stride: int, last_conv: bool = False, dilate: bool = True) -> None:
        import torchvision  # loads torch's compiler, which takes as long as torch: only where one of its nets is built

        super().__init__()
        self.stride = output_stride
        features = torchvision.models.mobilenet_v2(weights=None).features
        self.features = features if last_conv else features[:18]
        self.high_channels = 1280 if last_conv else 320
        self.level_channels = (16, 24, 32, 96, self.high_channels)
        self.level_strides = (2, 4, 8, min(output_stride, 16), output_stride)
        self.unused_prefixes = ("classifier.",) if last_conv else ("classifier.", "features.18.")
        stride, dilation = 1, 1
        for layer in self.features:
            for conv in layer.modules():
                if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3):
                    applied = dilation  # the input of the conv whose stride is removed is still undilated
                    if conv.stride == (2, 2) and stride == output_stride:
                        conv.stride, dilation = (1, 1), dilation * 2
                    else:
                        stride *= conv.stride[0]
                    if dilate:
                        conv.dilation = conv.padding = (applied, applied)
        with_fast_gradients(self.features)

    def stages(self) -> list[nn.Module]:
        cuts = (0, 2, 4, 7, 14, len(self.features))  # where the stride or the stage changes
        return [self.features[first:last] for first, last in pairwise(cuts)]

    def levels(self, x: Tensor) -> list[Tensor]:
        return in_turn(self.stages(), x)


def in_turn(stages: Sequence[nn.Module], x: Tensor) -> list[Tensor]:
    """The output of each stage."""
    maps = []
    for stage in stages:
        x = stage(x)
        maps.append(x)
    return maps


def build_backbone(name: str, output_stride: int | None, centred: bool = True) -> Backbone:
    """The backbone of a segmenter with random weights (from torch's global generator).

    `output_stride` None, for timm's networks only: 16 if the network can be dilated, else its own. `centred` False, for
    transformers with the head dpt: cells are patches.
    """
    if name.startswith(TIMM_PREFIX):
        return TimmBackbone(name.removeprefix(TIMM_PREFIX), output_stride, centred)
    if name.startswith("hrnet"):
        return HRNet(name)
    if name.startswith("dinov2"):
        return build_dinov2(name)
    assert output_stride is not None  # the config has checked it
    if name == "tiny":
        return Tiny(output_stride)
    if name == "vgg16":
        pools = {8: (2, 2, 2, 1, 1), 16: (2, 2, 2, 2, 1), 32: (2, 2, 2, 2, 2)}[output_stride]
        return VGG16(pools, average_pool=output_stride < 32)
    if name == "mobilenet_v2":
        return MobileNetV2(output_stride)
    if name == "resnet38":
        return ResNet38(output_stride)
    return ResNet(name, output_stride)


def build_classifier_backbone(name: str) -> Backbone:
    """The backbone of a classifier: strides without dilation, so the pretrained kernels are used as they were trained.

    Output strides: tiny 8, vgg16 8 (SEC: pool4 and pool5 left out), ResNets 16 (IRNet), mobilenet_v2 16, HRNets 4,
    DINOv2 14. By dilation: resnet38 8 (PSA, SEAM), timm's networks 16 where timm has it, else their own.
    """
    if name.startswith(TIMM_PREFIX):
        return TimmBackbone(name.removeprefix(TIMM_PREFIX), None)
    if name.startswith("hrnet"):
        return HRNet(name)
    if name.startswith("dinov2"):
        return build_dinov2(name, centred=True)
    if name == "tiny":
        return Tiny(8)
    if name == "vgg16":
        return VGG16((2, 2, 2, 0, 0), average_pool=False)
    if name == "mobilenet_v2":
        return MobileNetV2(16, last_conv=True, dilate=False)
    if name == "resnet38":
        return ResNet38(8)
    return ResNet(name, 16, dilate=False)
