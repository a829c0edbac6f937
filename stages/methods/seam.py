"""SEAM (Wang et al., CVPR 2020): class-activation maps follow an image that is resized, and its own similarities.

A classifier sees a small copy of an image differently. SEAM asks maps of both to agree, and teaches a module that
spreads the maps of one view over cells that look alike by the maps of the other view.

    semiseg train-classifier --method seam --set network=resnet50 --set crop_size=448
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.engine.distributed import global_mean
from stages.engine.losses import multilabel_soft_margin
from stages.engine.method import Batch, Method, Setup, Sources
from stages.engine.streams import Stream
from stages.methods.settings.seam import SeamSettings
from stages.networks import upsample
from stages.networks.pixel_correlation import FLOOR, SeamNetwork, build_seam_network, with_background


@dataclass(frozen=True)
class View:
    """What the network makes of one view; maps are at the size of the smaller view, those of absent classes 0.

    Attributes:
        logits: (B, K); maps: (B, K, h, w); refined: (B, 1 + K, h, w), channel 0 is background.
        strongest: (B, H, W), the highest refined class before scaling, at the view's own size.
    """

    logits: Tensor
    maps: Tensor
    refined: Tensor
    strongest: Tensor


class Seam(Method):
    """L = L_cls + L_ER + L_ECR
    L_cls = 1/2 (BCE(GAP(A), y) + BCE(GAP(A'), y)) + 1/2 (r + r'),  L_ER = mean |A - A'|
    L_ECR = mean of the largest 20 % of |A'* - R| + mean of the largest 20 % of |A* - R'|

    A: the maps of the image, R: the refined ones, A' and R' those of its small copy; y: the image-level labels;
    r: the mean of max_k R over its lowest 25 %; A*: each pixel's highest class alone, and background 1 - max_k A,
    without gradient. Outside GAP and r all maps are scaled from minimum to maximum and 0 for absent classes.
    """

    def __init__(self, settings: SeamSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        network = build_seam_network(setup.network, setup.num_classes - 1, settings.levels, setup.seed)
        self.networks = nn.ModuleDict({"classifier": network})

    @classmethod
    def streams(cls, settings: SeamSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        return {"labelled": Stream(sources.entries(sources.tagged, None), batch_size)}

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        images, tags, settings = batch["labelled"].image, batch["labelled"].tags, self.settings
        size = cast(tuple[int, int], tuple(max(int(side * settings.scale), 1) for side in images.shape[-2:]))
        large, small = self._seen(images, tags, size), self._seen(resized(images, size), tags, size)
        targets = [with_background(view.maps.detach()) for view in (small, large)]
        views = list(zip((large, small), targets, strict=True))
        return {
            "classification": mean([multilabel_soft_margin(view.logits, tags) for view, _ in views]),
            "background": mean([mean_of_share(view.strongest, settings.lowest, largest=False) for view, _ in views]),
            "equivariant": global_mean((large.maps - small.maps).abs().sum(), large.maps.numel()),
            "equivariant_cross": 2
            * mean([mean_of_share((t - v.refined).abs(), settings.hardest, largest=True) for v, t in views]),
        }

    def _seen(self, images: Tensor, tags: Tensor, size: tuple[int, int]) -> View:
        network, present = self.predictor, tags[:, :, None, None]
        full = (images.shape[2], images.shape[3])
        cams, refined = (upsample(maps.float(), full, network.stride) for maps in network.both_maps(images))
        return View(
            cams.mean((2, 3)),
            resized(scaled(cams), size) * present,
            resized(scaled(refined), size) * F.pad(present, (0, 0, 0, 0, 1, 0), value=1.0),
            (refined[:, 1:] * present).amax(1),
        )

    @property
    def predictor(self) -> SeamNetwork:
        return cast(SeamNetwork, self.networks["classifier"])


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, corner pixels on corner pixels: of images and of maps alike."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=True)


def scaled(maps: Tensor) -> Tensor:
    """ReLU, then each map (B, K, h, w) from its minimum to its maximum: 0..1."""
    positive = maps.relu()
    low, high = positive.amin((2, 3), keepdim=True), positive.amax((2, 3), keepdim=True)
    return (positive - low - FLOOR).relu() / (high - low + FLOOR)


def mean_of_share(values: Tensor, share: float, largest: bool) -> Tensor:
    """Mean over the largest or lowest `share` of each row's values (B, ...), rounded down, at least one."""
    rows = values.flatten(1)
    chosen = rows.topk(max(int(rows.shape[1] * share), 1), largest=largest, sorted=False).values
    return global_mean(chosen.sum(), chosen.numel())


def mean(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).mean()
