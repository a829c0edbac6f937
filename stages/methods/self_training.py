"""Offline self-training (ST; Yang et al., CVPR 2022): the third of its three steps.

A teacher was trained on the labelled images and has labelled the others, once. A fresh student learns from both, with
strong augmentation on the pseudo-labelled images alone, so that it does more than copy the teacher.

    semiseg train --method supervised --name teacher
    semiseg predict --segmenter teacher --output masks --set splits=[weak,unlabelled] --name pseudo
    semiseg train --method self-training --weak-labels pseudo
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from stages.engine.batch import together
from stages.engine.losses import clamped_cross_entropy, cross_entropy
from stages.engine.method import Batch, Method, Setup, Sources, segment
from stages.engine.streams import Stream
from stages.methods.parts.batch_shares import shares
from stages.methods.parts.views import strong_view
from stages.methods.settings.base import StudentSettings


class SelfTraining(Method):
    """L = CE([f(x), f(S(u))], [y, y_T]),  over labelled and pseudo-labelled pixels together

    y_T: the teacher's masks, S: colours, blur, holes. Half of each batch is labelled.
    """

    def __init__(self, settings: StudentSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.networks = nn.ModuleDict({"segmenter": setup.segmenter()})

    @classmethod
    def pseudo_labelled(cls, sources: Sources) -> Sequence[str]:
        """The images that a teacher has labelled: all without masks."""
        return sources.without_masks

    @classmethod
    def streams(cls, settings: StudentSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        sources.require(settings.name, "strong")
        labelled, others = shares(settings, batch_size)
        streams = {"strong": Stream(sources.entries(sources.strong, "masks"), labelled)}
        if settings.weight > 0:
            sources.require(settings.name, "without_masks", "weak_labels")
            entries = sources.entries(cls.pseudo_labelled(sources), "weak_labels")
            streams["unlabelled"] = Stream(entries, others)
        return streams

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        segmenter, labelled = self.networks["segmenter"], batch["strong"]
        if "unlabelled" not in batch:
            return {"supervised": self.supervised(segment(segmenter, labelled), labelled.label)}
        strong = strong_view(batch["unlabelled"], self.settings.strong, self.setup.seed, step)
        # One forward and one mean: as published, where a batch mixes the two kinds and every pixel weighs the same.
        both = together(labelled, strong)
        weight = torch.ones_like(both.label, dtype=torch.float32)
        weight[len(labelled) :] = self.settings.weight
        logits, clamp = segment(segmenter, both), self.settings.clamp
        if clamp is None:
            return {"cross_entropy": cross_entropy(logits, both.label, weight)}
        estimated = torch.arange(len(both), device=logits.device) >= len(labelled)
        return {"cross_entropy": clamped_cross_entropy(logits, both.label, clamp, estimated, weight)}
