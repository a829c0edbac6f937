"""PseudoSeg (Zou et al., ICLR 2021).

One network with two heads: the segmenter's, and a coarse one from class-activation maps spread by self-attention. On
the weak view of an unlabelled image both are fused into a sharp soft label, which the strong view has to predict.

    semiseg train --method pseudoseg
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.engine.config import ImageLabels
from stages.engine.distributed import sum_over_processes, world_size
from stages.engine.label_sharing import respect_labels
from stages.engine.losses import IGNORE, cross_entropy, multilabel_soft_margin, share, soft_cross_entropy
from stages.engine.method import Batch, Method, Setup, Sources, at_size, segment
from stages.engine.randomness import derive_seed
from stages.engine.streams import Stream
from stages.methods.parts.batch_shares import strong_and_unlabelled
from stages.methods.parts.views import strong_view
from stages.methods.settings.pseudoseg import PseudoSegSettings
from stages.networks import Segmenter, on_cells, upsample
from stages.networks.grad_cam_head import GradCamHead, build_grad_cam_head
from stages.networks.segmenter import seeded


class PseudoSeg(Method):
    """L = CE(f(x), y) + CE(a(x), y) + BCE(t(x), classes in y) + lambda CE(f(strong u), q),  lambda = 1
    q = p^(1/T) / sum_c p_c^(1/T),  p = (softmax(f(u) / s) + softmax(a(u) / s)) / 2,  T = .5

    f: the segmenter, t: image labels from its trunk, a: the logits of the Grad-CAM head, s: the scale of both logits.
    Each softmax in p is shared among the image-level labels of u: `image_labels`.
    """

    def __init__(self, settings: PseudoSegSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        segmenter = setup.segmenter()
        self.networks = nn.ModuleDict({"segmenter": segmenter})
        if settings.weight == 0:
            return
        backbone = segmenter.backbone
        channels, factor = (backbone.low_channels, backbone.high_channels), backbone.stride // backbone.low_stride
        with seeded(derive_seed(setup.seed, "grad-cam")):
            self.networks["grad_cam"] = build_grad_cam_head(setup.segmenter_config, channels, setup.num_classes, factor)

    @classmethod
    def streams(cls, settings: PseudoSegSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        if sources.dataset is not None:
            sources.dataset.require_background("method pseudoseg")
        return strong_and_unlabelled(settings, sources, batch_size)

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        labelled, unlabelled, settings = batch["strong"], batch["unlabelled"], self.settings
        if settings.weight == 0:
            return {"supervised": self.supervised(segment(self.segmenter, labelled), labelled.label)}
        present = tags_of(labelled.label, self.setup.num_classes)
        logits, coarse, tags = self._both(labelled, present)
        terms = {
            "supervised": self.supervised(logits, labelled.label),
            "grad_cam": cross_entropy(coarse, labelled.label),
            "tags": multilabel_soft_margin(tags, present.float(), (labelled.label != IGNORE).flatten(1).any(1)),
        }
        with torch.no_grad():  # in train mode, as in the authors' code
            logits, coarse, _ = self._both(unlabelled, None)
            target = fuse(logits, coarse, settings.temperature, unlabelled.tags, settings.image_labels)
            confident = target.amax(1, keepdim=True) >= settings.threshold  # counted among the valid all the same
        self.observe(confident=share(confident[:, 0], unlabelled.valid))
        strong = strong_view(unlabelled, settings.strong, self.setup.seed, step)
        found = segment(self.segmenter, strong)
        return terms | {"pseudo": settings.weight * soft_cross_entropy(found, target * confident, strong.valid)}

    def _both(self, batch: Batch, present: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the segmenter and of the Grad-CAM head (B, C, H, W), and the tags' scores (B, C - 1)."""
        features = self.segmenter.trunk(batch.image)
        logits = at_size(self.segmenter.head(features), batch, self.segmenter)
        grid = self.segmenter.backbone.stride, self.segmenter.backbone.patches
        tags, coarse = cast(GradCamHead, self.networks["grad_cam"])(features, present, on_cells(batch.valid, *grid))
        size = (batch.image.shape[2], batch.image.shape[3])
        return logits, upsample(coarse.float(), size, *grid), tags.float()

    @property
    def segmenter(self) -> Segmenter:
        return cast(Segmenter, self.networks["segmenter"])


def tags_of(label: Tensor, num_classes: int) -> Tensor:
    """bool (B, C - 1): the classes but background that a label map (B, H, W) holds."""
    known = F.one_hot(torch.where(label == IGNORE, 0, label), num_classes)
    return known.flatten(1, 2).any(1)[:, 1:]


def fuse(logits: Tensor, coarse: Tensor, temperature: float, tags: Tensor, image_labels: ImageLabels) -> Tensor:
    """Calibrated fusion of two heads' logits (B, C, H, W) into soft labels: both through one common scale.

    p = (softmax(f / s) + softmax(a / s)) / 2, s the root of the mean square of all logits of both heads in the joint
    batch; q = p^(1/T), divided by its sum over the classes. Each softmax is shared among the image-level labels `tags`.
    """
    squares = (logits.square().mean() + coarse.square().mean()) / 2
    scale = (sum_over_processes(squares) / world_size() + 1e-8).rsqrt()
    heads = [respect_labels(head * scale, tags, image_labels).softmax(1) for head in (logits, coarse)]
    mean = (heads[0] + heads[1]) / 2
    sharp = mean ** (1 / temperature)
    return sharp / sharp.sum(1, keepdim=True)
