"""Strong-weak dual-branch network (Luo & Yang, ECCV 2020).

A trunk (backbone and neck) shared by two branches of one architecture and separate parameters. Images with exact
masks train the strong branch, images with estimated masks the weak one; every batch takes as many of one as of the
other. The weak branch only regularises the trunk: it is left out at inference and in the exported weights.

    semiseg train --method dual-branch --weak-labels masks
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from stages.engine.losses import clamped_cross_entropy, cross_entropy
from stages.engine.method import Batch, Method, Setup, Sources, at_size, segment
from stages.engine.randomness import derive_seed
from stages.engine.streams import Stream
from stages.methods.parts.batch_shares import halves
from stages.methods.settings.dual_branch import DualBranchSettings
from stages.networks import Segmenter, make_head
from stages.networks.freezing import joined


class DualBranch(Method):
    """L = CE(f_s(Z(x_s)), y_s) + lambda CE(f_w(Z(x_w)), y_w),  lambda = 1 (weak_weight)

    Z: the trunk, f: the branches. Each term is a mean over its own labelled pixels, which keeps the balance: a joint
    mean would weigh the kinds of labels by their numbers of labelled pixels.
    """

    def __init__(self, settings: DualBranchSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.networks = nn.ModuleDict({"segmenter": setup.segmenter()})
        if settings.weak_weight > 0:
            seed = derive_seed(setup.seed, "weak branch")
            self.networks["weak_head"] = make_head(setup.segmenter_config, setup.num_classes, seed)

    @classmethod
    def streams(cls, settings: DualBranchSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        sources.require("dual-branch", "strong")
        half = halves(batch_size, "dual-branch")
        strong = Stream(sources.entries(sources.strong, "masks"), half)
        if settings.weak_weight == 0:  # the control: exactly the single branch on the strong half
            return {"strong": strong}
        sources.require("dual-branch", "weak", "weak_labels")
        return {"strong": strong, "weak": Stream(sources.entries(sources.weak, "weak_labels"), half)}

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        segmenter = cast(Segmenter, self.networks["segmenter"])
        strong = batch["strong"]
        if "weak" not in batch:
            return {"strong": self.supervised(segment(segmenter, strong), strong.label)}
        weak = batch["weak"]
        kept = joined([strong.encoded, weak.encoded])
        features = segmenter.trunk(torch.cat([strong.image, weak.image]), kept)
        strong_features = {name: maps[: len(strong)] for name, maps in features.items()}
        weak_features = {name: maps[len(strong) :] for name, maps in features.items()}
        strong_logits = at_size(segmenter.head(strong_features), strong, segmenter)
        weak_logits = at_size(self.networks["weak_head"](weak_features), weak, segmenter)
        return {
            "strong": self.supervised(strong_logits, strong.label),
            "weak": self.settings.weak_weight * self._weak(weak_logits, weak.label),
        }

    def _weak(self, logits: Tensor, label: Tensor) -> Tensor:
        if self.settings.clamp is None:
            return cross_entropy(logits, label)
        estimated = torch.ones(len(label), dtype=torch.bool, device=label.device)
        return clamped_cross_entropy(logits, label, self.settings.clamp, estimated)
