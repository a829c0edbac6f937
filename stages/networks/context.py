"""CONTA's network: a classifier whose last features get the context of the mask that was predicted of the image.

network = build_context_classifier(ClassifierConfig.model_validate("resnet50"), 20, ContextOptions(side=32), seed=0)
logits = network(normalise(images), masks)                # (B, 20); masks: (B, H, W), class ids, 255 where unknown
maps = network.eval().activation_maps(normalise(images), masks)  # (B, 20, h, w)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artifacts.masks import IGNORE
from stages.networks.classifier import Classifier, initialised
from stages.networks.config import BackboneConfig, ClassifierConfig
from stages.networks.registry import network_kind, network_spec


@dataclass(frozen=True)
class ContextOptions:
    """The form of the context.

    Attributes:
        side: cells along each side of the grid that masks are compared on.
        bias: whether the two projections have a bias.
    """

    side: int
    bias: bool = False


@network_kind("conta")
class ContextClassifier(Classifier):
    """A classifier with one more channel at the backbone's last map, the context M (Zhang et al., NeurIPS 2020, eq. 3).

    M = sum_i a_i c_i / n,  a = softmax_i((W_1 m)^T (W_2 c_i) / sqrt(n))

    m: on a grid of `side` x `side` cells, the share of each cell where the image's mask is any object. M lies on the
    same grid, and is resampled to the features.

    Attributes:
        confounders: c, fp32 (K, side, side): for each class the mean of its masks over the images that have it.
    """

    needs_masks = True
    confounders: Tensor

    def __init__(self, config: BackboneConfig, num_foreground: int, options: ContextOptions) -> None:
        super().__init__(config, num_foreground, joined=1)
        self.options = options
        cells = options.side**2
        self.of_mask = nn.Linear(cells, num_foreground, options.bias)
        self.of_confounder = nn.Linear(cells, num_foreground, options.bias)
        for layer in (self.of_mask, self.of_confounder):
            nn.init.normal_(layer.weight, std=0.02)
            if options.bias:
                nn.init.zeros_(layer.bias)
        self.register_buffer("confounders", torch.zeros(num_foreground, options.side, options.side))

    def context(self, masks: Tensor) -> Tensor:
        """M (B, 1, side, side), of the precision of the weights, of masks (B, H, W)."""
        with torch.autocast(masks.device.type, enabled=False):
            seen = (
                cell_shares((masks != 0) & (masks != IGNORE), self.options.side).flatten(1).to(self.confounders.dtype)
            )
            confounders = self.confounders.flatten(1)  # (n, cells)
            likeness = self.of_mask(seen) @ self.of_confounder(confounders).T / self.num_foreground**0.5  # (B, n)
            context = likeness.softmax(1) @ confounders / self.num_foreground
        return context.view(-1, 1, self.options.side, self.options.side)

    def features(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """As `Classifier.features`; without masks the context is 0."""
        high = self.backbone(images)["high"]
        context = high.new_zeros(len(high), 1, 1, 1) if masks is None else self.context(masks)
        resampled = F.interpolate(context, high.shape[2:], mode="bilinear", antialias=True)
        return self.extra(torch.cat([high, resampled.to(high.dtype)], 1))

    def forward(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """Normalised images (B, 3, H, W), masks (B, H', W') -> logits (B, K); index k is class id k + 1."""
        return self.scores(self.features(images, masks).mean((2, 3), keepdim=True)).flatten(1)

    def activation_maps(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """As `Classifier.activation_maps`: the context is one of the features that are weighted."""
        return self.scores(self.features(images, masks))

    def spec(self, class_names: Sequence[str]) -> dict[str, Any]:
        """The content of network.json."""
        return network_spec(self, class_names, **asdict(self.options))

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> ContextClassifier:
        config = ClassifierConfig.model_validate(spec["network"])
        return cls(config, spec["num_classes"] - 1, ContextOptions(**spec["options"]))


def cell_shares(inside: Tensor, side: int) -> Tensor:
    """The share of each cell of a grid of `side` x `side` that is inside: bool (B, H, W) -> fp32 (B, side, side)."""
    return F.adaptive_avg_pool2d(inside.float(), side)


def build_context_classifier(
    config: BackboneConfig, num_foreground: int, options: ContextOptions, seed: int
) -> ContextClassifier:
    """As `build_classifier`."""
    return initialised(lambda: ContextClassifier(config, num_foreground, options), config, seed)
