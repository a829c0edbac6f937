"""One network with one branch, cross-entropy on masks: the baseline of every table.

With `labels` strong, weak, mixed or oversampled it is a single-branch row of Table 1 of Luo & Yang (ECCV 2020).

    semiseg train --method supervised --set method.labels=mixed --weak-labels masks
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from artifacts.errors import ConfigError
from stages.engine.device import sent
from stages.engine.losses import clamped_cross_entropy
from stages.engine.method import Batch, Method, Setup, Sources, segment
from stages.engine.streams import Stream
from stages.methods.settings.supervised import SupervisedSettings


class Supervised(Method):
    """L = CE(f(x), y)

    Over the images of one list, masks exact or estimated alike.
    """

    def __init__(self, settings: SupervisedSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.networks = nn.ModuleDict({"segmenter": setup.segmenter()})
        self.exact: frozenset[str] = frozenset()  # images with masks of their own
        if settings.clamp is not None and setup.hard_examples is not None:
            raise ConfigError(
                "hard_examples takes the pixels with a high loss, method.clamp leaves them out", "set one of the two"
            )

    def start(self, sources: Sources) -> None:
        self.exact = frozenset(sources.strong)

    @classmethod
    def streams(cls, settings: SupervisedSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        needs_weak = settings.labels != "strong"
        sources.require("supervised", *(["weak", "weak_labels"] if needs_weak else ["strong"]))
        if settings.labels in ("mixed", "oversampled"):
            sources.require("supervised", "strong")
        strong = sources.entries(sources.strong, "masks")
        weak = sources.entries(sources.weak, "weak_labels")
        if settings.labels == "oversampled" and len(strong) < len(weak):
            whole, rest = divmod(len(weak), len(strong))
            strong = strong * whole + strong[:rest]
        entries = {"strong": strong, "weak": weak}.get(settings.labels, strong + weak)
        # "strong" is also the dual branch's name of that stream: with weak_weight 0 both see the same samples.
        return {settings.labels: Stream(entries, batch_size)}

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        (samples,) = batch.values()
        logits, clamp = segment(self.networks["segmenter"], samples), self.settings.clamp
        if clamp is None:
            return {"cross_entropy": self.supervised(logits, samples.label)}
        estimated = sent(torch.tensor([image_id not in self.exact for image_id in samples.ids]), logits.device)
        return {"cross_entropy": clamped_cross_entropy(logits, samples.label, clamp, estimated)}
