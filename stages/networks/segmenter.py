"""Segmentation networks: backbone, neck and head from a config.

network = build_segmenter(NetworkConfig.model_validate("tiny"), num_classes=21, seed=0)
logits = network(normalise(images))  # (B, 21, ceil(H / network.stride), ...)
logits = upsample(logits, images.shape[-2:], network.stride)
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stages.networks.backbones import build_backbone
from stages.networks.blocks import Backbone, Features, initialise
from stages.networks.config import NetworkConfig
from stages.networks.freezing import encode, freeze
from stages.networks.heads import AtrousBranch, build_head
from stages.networks.registry import network_kind, network_spec
from stages.networks.vision_transformer import LEVELS
from stages.networks.weights import load_pretrained, load_strictly


@network_kind("segmenter")
class Segmenter(nn.Module):
    """A trunk (backbone + shared neck) and one head.

    Attributes:
        head: the head; `make_head` makes further ones for the same trunk.
        stride: input pixels per cell of the logits.
        reads: the maps of the backbone that neck and head read.
        class_names: background first; known for networks that come from `load_network`.
        pretrained: name prefixes of the parameters that came from `config.weights`.
    """

    def __init__(self, config: NetworkConfig, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = _backbone_for(config)
        self.config = config = config.model_copy(update={"output_stride": self.backbone.stride})
        self.neck = _neck(self.backbone.high_channels, config)
        self.head = _head_for(self.backbone, config, num_classes)
        strides = {"deeplabv3plus": self.backbone.low_stride, "dpt": 1}
        self.stride = strides.get(config.head, self.backbone.stride)
        self.reads = {"deeplabv3plus": ("low", "high"), "dpt": LEVELS}.get(config.head, ("high",))
        self.pretrained: tuple[str, ...] = ()
        self.class_names: tuple[str, ...] = ()
        freeze(self.backbone, config)

    def trunk(self, images: Tensor, encoded: Features | None = None) -> Features:
        """Normalised images (B, 3, H, W) -> {"low": (B, _, H/4, W/4), "high": (B, _, h, w)}, the input of every head.

        For dpt: "low", "level_2", "level_3" and "high", all (B, _, ceil(H / patch), ceil(W / patch)). encoded: the maps
        `reads` of the first images, where they are kept (in train mode).
        """
        features = encode(self.backbone, images, encoded) if self.training else self.backbone(images)
        return {**features, "high": self.neck(features["high"])}

    def forward(self, images: Tensor, encoded: Features | None = None) -> Tensor:
        """Normalised images (B, 3, H, W) -> logits (B, num_classes, ceil(H / stride), ceil(W / stride))."""
        logits = self.head(self.trunk(images, encoded))
        if self.stride == 1:  # of whole patches
            return logits[..., : images.shape[2], : images.shape[3]]
        return logits

    def parameter_groups(self) -> list[dict[str, Any]]:
        """See `parameter_groups`: pretrained are the parameters that came from `config.weights`."""
        return parameter_groups(self, self.pretrained)

    def spec(self, class_names: Sequence[str]) -> dict[str, Any]:
        """The content of network.json: enough to rebuild the network for the tensors of weights.pt."""
        return network_spec(self, class_names)

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> Segmenter:
        return cls(NetworkConfig.model_validate(spec["network"]), spec["num_classes"])


def _neck(channels: int, config: NetworkConfig) -> nn.Sequential:
    """[3x3 conv, ReLU, dropout] x neck_layers; no layer: the identity."""
    neck = nn.Sequential()
    for _ in range(config.neck_layers):
        neck.append(nn.Conv2d(channels, config.neck_channels, 3, padding=1))
        neck.append(nn.ReLU(inplace=True))
        neck.append(nn.Dropout(config.dropout))
        channels = config.neck_channels
    initialise(neck)
    return neck


def _backbone_for(config: NetworkConfig) -> Backbone:
    return build_backbone(config.backbone, config.output_stride, centred=config.head != "dpt")


def _head_for(backbone: Backbone, config: NetworkConfig, num_classes: int) -> nn.Module:
    config = config.model_copy(update={"output_stride": backbone.stride})  # which the head's rates depend on
    channels = (backbone.low_channels, backbone.high_channels)
    return build_head(config, channels, backbone.stride // backbone.low_stride, num_classes)


def build_segmenter(config: NetworkConfig, num_classes: int, seed: int) -> Segmenter:
    """A segmenter on the CPU, in train mode; random parts depend on `seed` alone.

    num_classes includes background. Raises ConfigError if weights are not available or do not fit.
    """
    config.check()
    with seeded(seed):
        network = Segmenter(config, num_classes)
    config.check(network.backbone.has_batch_norm)
    if config.weights != "none":
        unused = load_pretrained(network.backbone, config)
        network.pretrained = ("backbone.", *_decimate_vgg(network, unused))
    return network


def make_head(config: NetworkConfig, num_classes: int, seed: int) -> nn.Module:
    """A head like that of `build_segmenter(config, num_classes, ...)`, with its own random weights."""
    with seeded(0), torch.device("meta"):  # only its channel counts are needed
        backbone = _backbone_for(config)
    with seeded(seed):
        return _head_for(backbone, config, num_classes)


def _decimate_vgg(network: Segmenter, unused: dict[str, Tensor]) -> list[str]:
    """fc6 and fc7 of DeepLab's VGG16 heads from ImageNet's. Returns the name prefixes of what was set.

    Only without a neck (with one, the head's input is not that of fc6) and for 1024 hidden channels.
    """
    layers = decimated_vgg(unused)
    if network.config.backbone != "vgg16" or network.config.neck_layers or not layers:
        return []
    prefixes = []
    for name, branch in network.named_modules():
        if isinstance(branch, AtrousBranch) and branch.fc7.out_channels == 1024:
            for layer, state in layers.items():
                load_strictly(branch.get_submodule(layer), state, "VGG16's classifier", f"{name}.{layer}", True)
                prefixes.append(f"{name}.{layer}.")
    return prefixes


def decimated_vgg(unused: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """DeepLab's fc6 (3x3) and fc7 (1x1), 1024 channels each, from ImageNet's: every third position, every 4th channel.

    unused: what `load_pretrained` gives; {} where that is not the ImageNet classifier. Chen et al. 2015, section 3.1.
    """
    fc6, fc7 = unused.get("classifier.0.weight"), unused.get("classifier.3.weight")
    biases = [unused[key] for key in ("classifier.0.bias", "classifier.3.bias") if key in unused]
    if fc6 is None or fc7 is None or len(biases) < 2 or (fc6.shape, fc7.shape) != ((4096, 512 * 7 * 7), (4096, 4096)):
        return {}
    return {
        "fc6": {"weight": fc6.view(4096, 512, 7, 7)[::4, :, ::3, ::3], "bias": biases[0][::4]},
        "fc7": {"weight": fc7[::4, ::4, None, None], "bias": biases[1][::4]},
    }


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's CPU generator inside the block, and restores its state afterwards."""
    state = torch.random.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.random.set_rng_state(state)


def parameter_groups(module: nn.Module, pretrained: Collection[str] = ()) -> list[dict[str, Any]]:
    """The trainable parameters of `module` as optimiser groups [{"name", "params"}, ...], each parameter once.

    Names: pretrained.weights, pretrained.biases, new.weights, new.biases (empty ones are left out). A parameter is
    pretrained when its name starts with one of `pretrained`. "biases" are biases and the affine of norms: the
    recipes exempt them from weight decay, and DeepLab (DSRG) has different learning-rate multipliers for them:
    pretrained weights 1, pretrained biases 2, new weights 10, new biases 20.
    """
    norms = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)
    plain = {id(p) for m in module.modules() if isinstance(m, norms) for p in m.parameters(recurse=False)}
    groups: dict[str, list[nn.Parameter]] = {
        f"{origin}.{role}": [] for origin in ("pretrained", "new") for role in ("weights", "biases")
    }
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            origin = "pretrained" if name.startswith(tuple(pretrained)) else "new"
            role = "biases" if name.endswith("bias") or id(parameter) in plain else "weights"
            groups[f"{origin}.{role}"].append(parameter)
    return [{"name": name, "params": params} for name, params in groups.items() if params]
