"""FixMatch for segmentation (Sohn et al., NeurIPS 2020; the form of Yang et al., CVPR 2023).

One network. It labels the weak view of an unlabelled picture, and is trained to say the same of a strong view (colours,
blur, a box of another picture) where it was confident.

    semiseg train --method fixmatch
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from stages.engine.adversarial_noise import evaluating
from stages.engine.streams import Stream
from stages.engine.strong_weak import Votes, confident_cross_entropy, strong_mix, vote
from stages.methods.contract import Batch, Method, Setup, Sources, segment, strong_and_unlabelled
from stages.methods.settings.strong_weak import StrongWeakSettings
from stages.networks import Segmenter


class FixMatch(Method):
    """L = (1 - w) CE(f(x), y) + w / |V| sum_V [P(u) >= tau] CE(f(S(u)), argmax P(u)), w = 1/2 as published.

    S(u): the strong view with a box of a partner, labels and valid pixels V cut with the same box. Labels of the
    picture itself come from the pass in train mode through labelled and unlabelled pictures together; those of the
    partner from a pass in eval mode, so that partners leave no trace in BatchNorm.
    """

    def __init__(self, settings: StrongWeakSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.networks = nn.ModuleDict({"segmenter": setup.segmenter()})

    @classmethod
    def streams(cls, settings: StrongWeakSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        return strong_and_unlabelled(settings.name, sources, batch_size, partner=True)

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        network, settings = cast(Segmenter, self.networks["segmenter"]), self.settings
        labelled, unlabelled, partner = batch["strong"], batch["unlabelled"], batch["partner"]
        if settings.weight == 0:
            return {"supervised": self.supervised(segment(network, labelled), labelled.label)}
        logits = segment(network, labelled.replace(image=torch.cat([labelled.image, unlabelled.image])))
        votes = vote(logits[len(labelled) :]), self.votes_in_eval_mode(partner)
        strong, labels = strong_mix(
            (unlabelled, partner), votes, settings.strong, settings.mixing, self.setup.seed, step
        )
        consistency = confident_cross_entropy(segment(network, strong), labels, strong.valid, settings.threshold)
        return {
            "supervised": (1 - settings.weight) * self.supervised(logits[: len(labelled)], labelled.label),
            "strong": settings.weight * consistency,
        }

    def votes_in_eval_mode(self, pictures: Batch) -> Votes:
        """Labels and confidences that leave no trace in BatchNorm and know no dropout."""
        network = self.networks["segmenter"]
        with torch.no_grad(), evaluating(network):
            return vote(segment(network, pictures))
