"""Dynamic mutual training (DMT; Feng et al., Pattern Recognition 2022): one round of one of two models.

The other model, as it was a round ago, has labelled the unlabelled images; the most confident share of each class is
kept. This model goes on from its own weights of a round ago. A pixel counts by how much it agrees with its label:
if they disagree, either may be wrong, and the label counts only if the other model was the more confident one.

    semiseg predict --segmenter b0 --output masks --set confidence=true --set splits=[weak,unlabelled] --name guesses
    semiseg pseudo-labels --predictions guesses --set share=0.2 --name b0-labels
    semiseg train --method dmt --initial a0 --weak-labels b0-labels --name a1
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from artifacts.confidence import probability_of_index
from stages.engine.batch import together
from stages.engine.losses import IGNORE, cross_entropy
from stages.engine.method import Batch, Method, Setup, Sources, segment
from stages.engine.streams import Stream
from stages.methods.parts.batch_shares import shares
from stages.methods.settings.dmt import DmtSettings


class Dmt(Method):
    """w = P_y^g1   if argmax P = y
        0        if it is another class and max P > c:   this model is surer, the label is ignored
        P_y^g2   if it is another class and max P <= c
    L = sum_p w_p CE_p / (number of labelled and pseudo-labelled pixels)

    y, c: a pseudo label and its confidence. w is 1 on exact masks, and passes no gradient.
    """

    def __init__(self, settings: DmtSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.networks = nn.ModuleDict({"segmenter": setup.segmenter()})

    @classmethod
    def streams(cls, settings: DmtSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        sources.require("dmt", "strong")
        labelled, others = shares(settings, batch_size)
        streams = {"strong": Stream(sources.entries(sources.strong, "masks"), labelled)}
        if settings.weight > 0:
            sources.require("dmt", "without_masks", "weak_labels", "confidence")
            pseudo = sources.entries(sources.without_masks, "weak_labels")
            streams["unlabelled"] = Stream(pseudo, others, extra={"confidence": "confidence"})
        return streams

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        segmenter, labelled = self.networks["segmenter"], batch["strong"]
        if "unlabelled" not in batch:
            return {"supervised": self.supervised(segment(segmenter, labelled), labelled.label)}
        pseudo = batch["unlabelled"]
        both = together(labelled, pseudo)
        logits = segment(segmenter, both)
        weight = dynamic_weight(
            logits[len(labelled) :].detach().softmax(1),
            pseudo.label,
            probability_of_index(pseudo.extra["confidence"].float()),
            self.settings.gamma_agree,
            self.settings.gamma_differ,
        )
        self.observe(pseudo_label_weight=weight.sum() / (pseudo.label != IGNORE).sum().clamp(min=1))
        weights = torch.cat([torch.ones_like(labelled.label, dtype=torch.float32), self.settings.weight * weight])
        return {"cross_entropy": cross_entropy(logits, both.label, weights)}


def dynamic_weight(
    probabilities: Tensor, label: Tensor, confidence: Tensor, gamma_agree: float, gamma_differ: float
) -> Tensor:
    """w (B, H, W): P_y^g1 where argmax P is the label y, else P_y^g2 where max P <= c, else 0.

    Args:
        probabilities: P of this model, (B, C, H, W).
        label: y of the other model, int64 (B, H, W), 255 where none is kept (weight 0).
        confidence: c of the other model in its label, (B, H, W), 0..1.
    """
    known = label != IGNORE
    of_label = probabilities.gather(1, label.where(known, 0)[:, None])[:, 0]
    highest, found = probabilities.max(1)
    agree = found == label
    weight = torch.where(agree, of_label**gamma_agree, (of_label**gamma_differ) * (highest <= confidence))
    return weight * known
