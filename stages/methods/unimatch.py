"""UniMatch (Yang et al., CVPR 2023): one weak view labels two strong views and perturbed features.

FixMatch with a second strong view, and with a stream that perturbs the features of the weak view instead of its
image: channels are dropped between trunk and head.

    semiseg train --method unimatch
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from stages.engine.batch import together
from stages.engine.method import Batch, at_size, segment
from stages.methods.fixmatch import FixMatch
from stages.methods.parts.perturbations import channel_dropout, image_generators
from stages.methods.parts.strong_weak import View, strong_mix
from stages.networks import Segmenter
from stages.networks.blocks import Features


class UniMatch(FixMatch):
    """L = (1 - w) CE(f(x), y) + w [(1 - m_f) (L_s1 + L_s2) / 2 + m_f L_fp],  w = m_f = 1/2
    L_k = 1/|V| sum_V [max P(u) >= tau] CE(f_k, argmax P(u)),  tau = .95

    f_s1, f_s2: of two strong views with colours and boxes of their own; f_fp: the head's output for features with
    dropped channels. Labels and guidance come as in FixMatch.
    """

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        network, settings = self.student, self.settings
        labelled, unlabelled, partner = batch["strong"], batch["unlabelled"], batch["partner"]
        if settings.weight == 0:
            return {"supervised": self.supervised(segment(network, labelled), labelled.label)}
        others = self.labels_of(partner)
        known, plain, perturbed = self._with_perturbed(network, labelled, unlabelled, step)
        own = self.labels_from(plain, unlabelled) if self.labels_in_passing else self.labels_of(unlabelled)
        threshold = self.threshold(own, unlabelled.valid)
        views = strong_mix(
            (unlabelled, partner), (own, others), settings.strong, settings.mixing, self.setup.seed, step, (0, 1)
        )
        both = segment(network, together(*(view for view, _ in views))).chunk(2)
        strong = (1 - settings.feature_weight) / 2
        taught = {
            f"strong_{number}": View(logits, labels, view, strong)
            for number, (logits, (view, labels)) in enumerate(zip(both, views, strict=True), start=1)
        }
        taught["features"] = View(perturbed, own, unlabelled, settings.feature_weight)
        supervised = (1 - settings.weight) * self.supervised(known, labelled.label)
        return {"supervised": supervised, **self.taught(taught, threshold, step)}

    def _with_perturbed(
        self, network: Segmenter, labelled: Batch, unlabelled: Batch, step: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the labelled, of the unlabelled, and of these with dropped channels: one pass through each part.

        As published the head sees the labelled with dropped channels, too. Its output for them is not
        used, but a BatchNorm in it normalises by them: with one, they take part.
        """
        first, second = len(labelled), len(unlabelled)
        features = network.trunk(torch.cat([labelled.image, unlabelled.image]))
        parts = [features, self._dropped(features, slice(first, None), "features", step)]
        if any(isinstance(module, _BatchNorm) for module in network.head.modules()):
            parts.insert(1, self._dropped(features, slice(first), "labelled features", step))
        logits = network.head({name: torch.cat([part[name] for part in parts]) for name in features})
        used = torch.cat([logits[: first + second], logits[-second:]])
        known, plain, perturbed = at_size(used, together(labelled, unlabelled, unlabelled), network).split(
            [first, second, second]
        )
        return known, plain, perturbed

    def _dropped(self, features: Features, samples: slice, purpose: str, step: int) -> Features:
        """Features of some images with dropped channels, drawn separately for every level."""
        chosen, rate = {name: level[samples] for name, level in features.items()}, self.settings.feature_dropout
        return {
            name: channel_dropout(level, rate, image_generators(len(level), self.setup.seed, purpose, step, name))
            for name, level in chosen.items()
        }
