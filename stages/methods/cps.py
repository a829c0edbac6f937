"""Cross pseudo supervision (Chen et al., CVPR 2021), with and without CutMix.

Two networks of one architecture with different initial heads. Each is trained on the masks of the labelled pictures
and on the hard labels the other gives; labels pass no gradient. Network 1 is evaluated.

    semiseg train --method cps
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stages.engine.cutmix import draw_boxes, mix, mix_batches
from stages.engine.losses import IGNORE, cross_entropy
from stages.engine.streams import Stream
from stages.methods.contract import Batch, Method, Setup, Sources, halves, segment
from stages.methods.settings import CpsSettings


class Cps(Method):
    """L = CE(f1(x), y) + CE(f2(x), y) + lambda [CE(f1(z), Y2(z)) + CE(f2(z), Y1(z))].

    Without CutMix z is labelled and unlabelled pictures together; with CutMix z is the mixed unlabelled pictures, and
    Y is the argmax of the logits of both pictures, mixed with the same boxes.
    """

    def __init__(self, settings: CpsSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.networks = nn.ModuleDict({"segmenter": setup.segmenter(), "second": setup.segmenter(which=1)})

    @classmethod
    def streams(cls, settings: CpsSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        sources.require("cps", "strong", "without_masks")
        half = halves(batch_size, "cps")
        streams = {
            "strong": Stream(sources.entries(sources.strong, "masks"), half),
            "unlabelled": Stream(sources.entries(sources.without_masks, None), half),
        }
        if settings.cutmix:
            streams["partner"] = Stream(sources.entries(sources.without_masks, None), half, partner_of="unlabelled")
        return streams

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
        return terms | {"cps_1": self.settings.weight * cross_1, "cps_2": self.settings.weight * cross_2}

    def _mixed(self, unlabelled: Batch, partner: Batch, step: int) -> tuple[Tensor, Tensor]:
        first, second = self.networks["segmenter"], self.networks["second"]
        boxes = draw_boxes(self.settings.mixing, unlabelled, self.setup.seed, step)
        with torch.no_grad():  # in train mode, as in the authors' code
            label_1 = mix(segment(first, unlabelled), segment(first, partner), boxes).argmax(1)
            label_2 = mix(segment(second, unlabelled), segment(second, partner), boxes).argmax(1)
        mixed = mix_batches(unlabelled, partner, boxes)
        return (
            cross_entropy(segment(first, mixed), self._ignoring_padding(label_2, mixed.valid)),
            cross_entropy(segment(second, mixed), self._ignoring_padding(label_1, mixed.valid)),
        )

    def _plain(self, logits: tuple[Tensor, Tensor], labelled: Batch, unlabelled: Batch) -> tuple[Tensor, Tensor]:
        first, second = self.networks["segmenter"], self.networks["second"]
        logits_1 = torch.cat([logits[0], segment(first, unlabelled)])
        logits_2 = torch.cat([logits[1], segment(second, unlabelled)])
        valid = torch.cat([labelled.valid, unlabelled.valid])
        return (
            cross_entropy(logits_1, self._ignoring_padding(logits_2.detach().argmax(1), valid)),
            cross_entropy(logits_2, self._ignoring_padding(logits_1.detach().argmax(1), valid)),
        )

    def _ignoring_padding(self, label: Tensor, valid: Tensor) -> Tensor:
        return label.masked_fill(~valid, IGNORE) if self.settings.ignore_padding else label
