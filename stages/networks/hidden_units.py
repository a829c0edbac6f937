"""A classifier that sees, each time, other hidden units of its features, and the maps of many such looks (FickleNet).

    network = build_fickle_network(ClassifierConfig.model_validate("vgg16-sec"), 20, Selection(), seed=0)
    logits = network(normalise(images))                       # (B, 20), expected: every unit by its probability
    maps = network.eval().activation_maps(normalise(images))  # (B, 20, h, w), 0..1: the highest of all draws

A window of cells is read around each cell; units of it are dropped at random, the same for all channels, but never the
cell in its centre. A linear layer on each window gives scores of the classes, and their mean over the windows is the
logit. Nothing but linear steps follows a selection. So it is enough to know which cells are read at which offset of a
window: neither the windows nor their scores are ever made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.networks.blocks import initialise_scores
from stages.networks.classifier import Classifier, initialised
from stages.networks.config import BackboneConfig, ClassifierConfig
from stages.networks.registry import network_kind, network_spec

MOST = 2**25  # values of maps of draws in memory at a time
FLOOR = 1e-5  # of a map's maximum that it is divided by


@dataclass(frozen=True)
class Selection:
    """How hidden units are drawn.

    Attributes:
        window: side of the windows, odd, cells.
        rate: probability that a unit is dropped.
        expand: each window has units of its own; else a cell is dropped for all windows but that around it.
        draws: maps that the highest is taken of.
        gradient: by what a map weighs features: the gradient at each cell, or its mean over the cells.
        seed: of the draws for maps.
    """

    window: int = 9
    rate: float = 0.9
    expand: bool = True
    draws: int = 200
    gradient: Literal["cell", "mean"] = "cell"
    seed: int = 0

    @property
    def offsets(self) -> int:
        return self.window**2

    @property
    def rows(self) -> int:
        """Uniform numbers for each cell of a draw."""
        return self.offsets if self.expand else 1


@network_kind("ficklenet")
class FickleNetwork(Classifier):
    """Backbone, stochastic selection of hidden units, linear layer on windows, mean (Lee et al., CVPR 2019)."""

    def __init__(self, config: BackboneConfig, num_foreground: int, selection: Selection) -> None:
        super().__init__(config, num_foreground)
        self.selection = selection
        self.extra = nn.Sequential(nn.Dropout(config.dropout))  # selected are units of the backbone's features
        channels, window = self.backbone.high_channels, selection.window
        self.scores = nn.Conv2d(channels, num_foreground, window, padding=window // 2, bias=False)
        initialise_scores(self.scores)

    def kept(self, uniform: Tensor, size: Sequence[int]) -> Tensor:
        """Which cell v is read at which offset d of a window, that around v - d: bool (N, offsets, h w).

        uniform: numbers in 0..1, (N, rows, h w), from `rate` on units are kept; size: (h, w).
        """
        kept = (uniform >= self.selection.rate).expand(-1, self.selection.offsets, -1)
        return (kept | self._centre(uniform.device)) & self._inside(size, uniform.device)

    def _centre(self, device: torch.device) -> Tensor:
        """bool (offsets, 1): the offset 0."""
        return (torch.arange(self.selection.offsets, device=device) == self.selection.offsets // 2)[:, None]

    def _inside(self, size: Sequence[int], device: torch.device) -> Tensor:
        """bool (offsets, h w): whether the window that reads cell v at offset d has its centre on the map."""
        window = self.selection.window
        ones = torch.ones(1, 1, *size, device=device)
        return F.unfold(ones, window, padding=window // 2)[0].flip(0) > 0

    def logits(self, features: Tensor, kept: Tensor) -> Tensor:
        """Features (B, C, h, w), kept (B or 1, offsets, h w): 0..1, the share in which a unit takes part -> (B, K)."""
        with torch.autocast(features.device.type, enabled=False):
            flat = features.float().flatten(2)
            read = flat @ kept.to(flat.dtype).transpose(1, 2) / flat.shape[2]  # (B, C, offsets)
            return read.flatten(1) @ self.scores.weight.flatten(1).T

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> expected logits (B, K); index k is class id k + 1."""
        features = self.features(images)
        share = torch.where(self._centre(features.device), 1.0, 1 - self.selection.rate)
        return self.logits(features, (share * self._inside(features.shape[2:], features.device))[None])

    def activation_maps(self, images: Tensor) -> Tensor:
        """Of each class the highest of the maps of all draws, each divided by its maximum: (B, K, h, w), 0..1.

        The map of a draw is Grad-CAM at the features, ReLU(sum_c x_c dS_k / dx_c). The draws depend on the seed and the
        size of the map alone: they are the same for all images of a size, in batches of any size, at any time.
        """
        features = self.features(images).float()
        batch, channels, height, width = features.shape
        with torch.autocast(images.device.type, enabled=False):
            weight = self.scores.weight.float().permute(0, 2, 3, 1).reshape(-1, channels, 1, 1)
            parts = F.conv2d(features, weight).view(batch, self.num_foreground, -1, height * width)
            highest = features.new_zeros(batch, self.num_foreground, height * width)
            for kept in self._draws((height, width), MOST // highest.numel(), features.device):
                share = kept.float() if self.selection.gradient == "cell" else kept.float().mean(2, keepdim=True)
                maps = torch.einsum("bkdv,ndv->bknv", parts, share).relu()
                maps = maps / maps.amax(3, keepdim=True).clamp(min=FLOOR)
                highest = torch.maximum(highest, maps.amax(2))
        return highest.view(batch, self.num_foreground, height, width)

    def _draws(self, size: tuple[int, int], together: int, device: torch.device) -> Iterator[Tensor]:
        """What `kept` gives, of all draws, at most `together` at a time; drawn on the CPU, so that devices agree."""
        generator = torch.Generator().manual_seed(self.selection.seed)
        left, cells = self.selection.draws, size[0] * size[1]
        while left > 0:
            count = min(left, max(together, 1))
            uniform = [torch.rand(self.selection.rows, cells, generator=generator) for _ in range(count)]
            yield self.kept(torch.stack(uniform).to(device), size)
            left -= count

    def spec(self, class_names: Sequence[str]) -> dict[str, Any]:
        """The content of network.json."""
        return network_spec(self, class_names, **asdict(self.selection))

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> FickleNetwork:
        config = ClassifierConfig.model_validate(spec["network"])
        return cls(config, spec["num_classes"] - 1, Selection(**spec["options"]))


def build_fickle_network(config: BackboneConfig, num_foreground: int, selection: Selection, seed: int) -> FickleNetwork:
    """As `build_classifier`."""
    return initialised(lambda: FickleNetwork(config, num_foreground, selection), config, seed)
