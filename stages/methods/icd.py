"""ICD (Fan et al., CVPR 2020): of the pixels of a class's images, which are of the class, and which background.

Directions in the feature space, along which the pixels of a class's images vary most, separate foreground from
background; class-activation maps say which end is the foreground. Averaged over regions, these scores teach a branch
that is the result.

    semiseg train-classifier --method icd --set network=vgg16-sec --set crop_size=321
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.engine.distributed import global_mean, sum_over_processes
from stages.engine.losses import multilabel_soft_margin
from stages.engine.method import Batch, Method, Setup, Sources
from stages.engine.streams import Stream
from stages.localization.regions import prepare
from stages.methods.settings.icd import IcdSettings
from stages.networks.intra_class import IcdNetwork, build_icd_network

PADDING = 255
FLOOR = 1e-5  # of what is divided by (its code)


class Icd(Method):
    """L = K BCE(GAP(A), y) - v/2 mean_u b_c(u)^2 + w(t) mean_u sum_c y_c m_c(u) BCE(f_c(u), r_c(u) > 0)

    A: class-activation maps, f: foreground logits, b: bottom-up scores, of the class of images with one label alone;
    r: b with its sign fixed, averaged over regions and divided by its maximum, or minimum; m: |r| > `margin`;
    y: image-level labels; w(t) = exp(-10 (1 - t/T)) up to T = `warmup` of the iterations, then 1; v: `variance`.
    """

    prepare = staticmethod(prepare)
    prepared = ("regions",)

    def __init__(self, settings: IcdSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        network = build_icd_network(setup.network, setup.num_classes - 1, setup.seed)
        self.networks = nn.ModuleDict({"classifier": network})

    @classmethod
    def streams(cls, settings: IcdSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        return {"labelled": Stream(sources.entries(sources.tagged, "regions"), batch_size)}

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        labelled, network = batch["labelled"], self.predictor
        tags, regions = labelled.tags, labelled.label[:, :: network.stride, :: network.stride]
        valid = regions[:, None] != PADDING
        found = network.branches(labelled.image)
        scores = network.bottom_up(found.features) * valid
        alone = (tags * (tags.sum(1, keepdim=True) == 1))[:, :, None, None]
        with torch.no_grad(), torch.autocast(scores.device.type, enabled=False):
            self._update_sides(scores, found.cams.float(), tags)
            refined = normalised(refine(scores * network.sign, regions, tags))
        taught = (refined.abs() > self.settings.margin) * tags[:, :, None, None]
        wrong = F.binary_cross_entropy_with_logits(found.foreground.float(), (refined > 0).float(), reduction="none")
        return {
            "classification": len(tags[0]) * multilabel_soft_margin(found.cams.float().mean((2, 3)), tags),
            "variance": -self.settings.variance / 2 * global_mean((scores**2 * alone).sum(), valid.sum()),
            "foreground": self.weight(step) * global_mean((wrong * taught).sum(), valid.sum()),
        }

    def weight(self, step: int) -> float:
        """w(t): exponential up to 1 over the share `warmup` of the iterations."""
        length = self.settings.warmup * self.setup.iterations
        return math.exp(-10 * max(1 - step / length, 0.0)) if length else 1.0

    def _update_sides(self, scores: Tensor, cams: Tensor, tags: Tensor) -> None:
        """The running means, of the classes that are in the joint batch, over their images."""
        means = side_means(scores, cams)  # (B, K, 2)
        sums = torch.cat([(means * tags[..., None]).sum(0), tags.sum(0)[:, None]], 1)  # (K, 3)
        sums = sum_over_processes(sums)
        seen, sides, momentum = sums[:, 2:], self.predictor.sides, self.settings.momentum
        updated = momentum * sides + (1 - momentum) * sums[:, :2] / seen.clamp(min=1)
        sides.copy_(torch.where(seen > 0, updated, sides))

    @property
    def predictor(self) -> IcdNetwork:
        return cast(IcdNetwork, self.networks["classifier"])


def side_means(scores: Tensor, cams: Tensor) -> Tensor:
    """Mean of ReLU(cams) where scores are positive, and where negative; both (B, K, h, w) -> (B, K, 2)."""
    sides = torch.stack([scores > 0, scores < 0], 2)  # (B, K, 2, h, w)
    return (cams.relu()[:, :, None] * sides).sum((3, 4)) / sides.sum((3, 4)).clamp(min=1)


def refine(scores: Tensor, regions: Tensor, tags: Tensor) -> Tensor:
    """Scores averaged over regions, 0 for classes that the image has not.

    A region is of the class with the highest mean of its positive scores, each as share of the pixel's highest one, if
    any class has more positive than negative pixels there; otherwise of none. Of that class it gets the mean of the
    positive scores, of all others the mean of the negative ones, all of them divided by all its pixels.

    Args:
        scores: (B, K, h, w); regions: int64 (B, h, w), 255 is padding, and gets 0; tags: (B, K).
    """
    flat = (scores * tags[:, :, None, None]).flatten(2)  # (B, K, hw)
    members = F.one_hot(regions.flatten(1), PADDING + 1)[..., :PADDING].to(flat.dtype)  # (B, hw, N)
    share = members / members.sum(1, keepdim=True).clamp(min=1)
    positive, negative = flat.clamp(min=0), flat.clamp(max=0)
    foreground = (flat.sign() @ members).amax(1, keepdim=True) > 0.5  # (B, 1, N)
    winner = (positive / positive.amax(1, keepdim=True).clamp(min=FLOOR)) @ share
    best = F.one_hot(winner.argmax(1), flat.shape[1]).transpose(1, 2) * tags[..., None] > 0
    averaged = torch.where(foreground & best, positive @ share, negative @ share)
    return (averaged @ members.transpose(1, 2)).view_as(scores)


def normalised(scores: Tensor) -> Tensor:
    """Positive scores of each map (B, K, h, w) divided by its maximum, negative ones by its minimum: -1..1."""
    highest, lowest = scores.amax((2, 3), keepdim=True), scores.amin((2, 3), keepdim=True)
    return scores.clamp(min=0) / highest.clamp(min=FLOOR) + scores.clamp(max=0) / -lowest.clamp(max=-FLOOR)
