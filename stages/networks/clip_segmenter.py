"""The segmenter of WeCLIP (Zhang et al., CVPR 2024): CLIP's image side, frozen, and a decoder of its blocks' outputs.

network = ClipSegmenter(ClipSegmenterConfig(**tower.shape), num_classes=21, tower=tower)
logits = network(normalise(images))             # (B, 21, H, W) or some cells more
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.config import Config
from stages.networks.blocks import pad_to_multiples
from stages.networks.clip import ClipImageTower
from stages.networks.registry import network_kind, network_spec
from stages.networks.segmenter import seeded
from stages.networks.timm_models import create


class ClipSegmenterConfig(Config):
    """The sizes of both parts; those of CLIP follow from its weights (`ClipImageTower.shape`)."""

    backbone: Literal["clip"] = "clip"
    weights: Literal["none"] = "none"  # those of CLIP are among the tensors
    width: int
    depth: int
    patch: int
    side: int
    vector: int
    activation: str
    channels: int = 256
    layers: int = 3
    heads: int = 8
    dropout: float = 0.1


@network_kind("clip-segmenter")
class ClipSegmenter(nn.Module):
    """Of each block but the last the patches, each by layers of its own to `channels`, fused, then a transformer.

    Images are padded with zeros at the right and bottom to whole patches. The logits are those of patches, enlarged to
    pixels (bilinear): cell i is pixel i, `stride` is 1.

    Attributes:
        tower: CLIP's image side, without gradients.
        class_names: background first; known for networks that come from `load_network`.
        pretrained: name prefixes of the parameters that came from given weights.
    """

    stride = 1

    def __init__(self, config: ClipSegmenterConfig, num_classes: int, tower: ClipImageTower) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        self.tower = tower.requires_grad_(False)
        channels = config.channels
        self.embed = nn.ModuleList(
            nn.Sequential(nn.Linear(config.width, channels), nn.ReLU(), nn.Linear(channels, channels))
            for _ in range(config.depth - 1)
        )
        self.fuse = nn.Linear(channels * (config.depth - 1), channels)
        self.dropout = nn.Dropout2d(config.dropout)
        self.blocks = _transformer(channels, config.layers, config.heads)
        self.scores = nn.Conv2d(channels, num_classes, 1)
        self.pretrained: tuple[str, ...] = ("tower.",)
        self.class_names: tuple[str, ...] = ()

    def look(self, images: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W) -> the tokens (B, 1 + n, width) that enter each block of the tower."""
        with torch.no_grad():
            return list(self.tower.entering(pad_to_multiples(images, self.tower.patch)))

    def features(self, tokens: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """F (B, channels, h, w), from the result of `look`. grid: h and w, in patches."""
        maps = [layers(outputs[:, 1:]) for layers, outputs in zip(self.embed, tokens[1:], strict=True)]
        return self.dropout(_on_grid(self.fuse(torch.cat(maps, dim=2)), grid))

    def decode(self, features: Tensor) -> Tensor:
        """F -> logits (B, num_classes, patch h, patch w), fp32."""
        x = features.flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        scores = self.scores(_on_grid(x, (features.shape[2], features.shape[3])))
        return F.interpolate(scores.float(), scale_factor=float(self.tower.patch), mode="bilinear", align_corners=False)

    def grid(self, images: Tensor) -> tuple[int, int]:
        """How many patches, (h, w), cover images (B, 3, H, W)."""
        patch = self.tower.patch
        return (images.shape[2] + patch - 1) // patch, (images.shape[3] + patch - 1) // patch

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> logits (B, num_classes, H, W)."""
        logits = self.decode(self.features(self.look(images), self.grid(images)))
        return logits[..., : images.shape[2], : images.shape[3]]

    def spec(self, class_names: Sequence[str]) -> dict[str, Any]:
        """The content of network.json."""
        return network_spec(self, class_names)

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> ClipSegmenter:
        config = ClipSegmenterConfig.model_validate(spec["network"])
        tower = ClipImageTower(config.width, config.depth, config.patch, config.side, config.vector, config.activation)
        return cls(config, spec["num_classes"], tower)


def _on_grid(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, h w, C) -> (B, C, h, w); unflatten would fix the sizes in a trace."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *grid)


def _transformer(channels: int, layers: int, heads: int) -> nn.Sequential:
    """Blocks like those of CLIP, without a position embedding; random as torch's own attention and layers are."""
    net: Any = create(
        "vit_base_patch16_clip_quickgelu_224",
        embed_dim=channels,
        depth=layers,
        num_heads=heads,
        num_classes=0,
        weight_init="skip",
    )
    for block in net.blocks:
        nn.init.xavier_uniform_(block.attn.qkv.weight)
        nn.init.zeros_(block.attn.qkv.bias)
        nn.init.zeros_(block.attn.proj.bias)
    return net.blocks


def build_clip_segmenter(tower: ClipImageTower, num_classes: int, seed: int, **decoder: Any) -> ClipSegmenter:
    """A segmenter on the CPU, in train mode; the decoder's random weights depend on `seed` alone.

    decoder: channels, layers, heads, dropout of `ClipSegmenterConfig`.
    """
    with seeded(seed):
        return ClipSegmenter(ClipSegmenterConfig.model_validate({**tower.shape, **decoder}), num_classes, tower)
