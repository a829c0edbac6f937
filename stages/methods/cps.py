"""Cross pseudo supervision (Chen et al., CVPR 2021), with and without CutMix.

Two networks of one architecture with different initial heads. Each is trained on the masks of the labelled images
and on the hard labels the other gives; labels pass no gradient. Network 1 is evaluated.

    semiseg train --method cps
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stages.engine.label_sharing import respect_labels
from stages.engine.losses import IGNORE, cross_entropy
from stages.engine.method import Batch, Method, Setup, Sources, segment
from stages.engine.streams import Stream
from stages.methods.parts.batch_shares import strong_and_unlabelled
from stages.methods.parts.cutmix import draw_boxes, mix, mix_batches
from stages.methods.settings.base import MutualSettings


class Cps(Method):
    """L = CE(f_1(x), y) + CE(f_2(x), y) + lambda [CE(f_1(z), Y_2(z)) + CE(f_2(z), Y_1(z))],  Y_k = argmax f_k

    Without CutMix z is labelled and unlabelled images together; with CutMix z is the mixed unlabelled images, and
    Y is the argmax of the logits of both images, mixed with the same boxes. The f_k that Y is made of are shared among
    an image's own labels before that: `image_labels`.
    """

    def __init__(self, settings: MutualSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.networks = nn.ModuleDict({"segmenter": setup.segmenter(), "second": setup.segmenter(which=1)})

    @classmethod
    def streams(cls, settings: MutualSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        return strong_and_unlabelled(settings, sources, batch_size, partner=settings.cutmix)

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        first, second = self.networks["segmenter"], self.networks["second"]
        labelled = batch["strong"]
        logits = segment(first, labelled), segment(second, labelled)
        terms = {
            "supervised_1": self.supervised(logits[0], labelled.label),
            "supervised_2": self.supervised(logits[1], labelled.label),
        }
        if self.settings.weight == 0:
            return terms
        if self.settings.cutmix:
            cross_1, cross_2 = self._mixed(batch["unlabelled"], batch["partner"], step)
        else:
            cross_1, cross_2 = self._plain(logits, labelled, batch["unlabelled"])
        name, weight = self.settings.name, self.weight(step)
        return terms | {f"{name}_1": weight * cross_1, f"{name}_2": weight * cross_2}

    def weight(self, step: int) -> float:
        """lambda."""
        return self.settings.weight

    def cross(self, logits: Tensor, other: Tensor, valid: Tensor) -> Tensor:
        """The loss of `logits` on the labels of the other network's logits, `other`, which get no gradient."""
        label = other.argmax(1)
        return cross_entropy(logits, label.masked_fill(~valid, IGNORE) if self.settings.ignore_padding else label)

    def _mixed(self, unlabelled: Batch, partner: Batch, step: int) -> tuple[Tensor, Tensor]:
        first, second = self.networks["segmenter"], self.networks["second"]
        boxes = draw_boxes(self.settings.mixing, unlabelled, self.setup.seed, step)
        with torch.no_grad():  # in train mode, as in the authors' code
            told_1, told_2 = (
                mix(
                    self._shared(segment(network, unlabelled), unlabelled.tags),
                    self._shared(segment(network, partner), partner.tags),
                    boxes,
                )
                for network in (first, second)
            )
        mixed = mix_batches(unlabelled, partner, boxes)
        return (
            self.cross(segment(first, mixed), told_2, mixed.valid),
            self.cross(segment(second, mixed), told_1, mixed.valid),
        )

    def _plain(self, logits: tuple[Tensor, Tensor], labelled: Batch, unlabelled: Batch) -> tuple[Tensor, Tensor]:
        first, second = self.networks["segmenter"], self.networks["second"]
        logits_1 = torch.cat([logits[0], segment(first, unlabelled)])
        logits_2 = torch.cat([logits[1], segment(second, unlabelled)])
        valid, tags = torch.cat([labelled.valid, unlabelled.valid]), torch.cat([labelled.tags, unlabelled.tags])
        return (
            self.cross(logits_1, self._shared(logits_2.detach(), tags), valid),
            self.cross(logits_2, self._shared(logits_1.detach(), tags), valid),
        )

    def _shared(self, logits: Tensor, tags: Tensor) -> Tensor:
        """The logits from which a network labels images for the other, by their image-level labels."""
        return respect_labels(logits, tags, self.settings.image_labels)
