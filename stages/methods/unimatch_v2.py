"""UniMatch V2 (Yang et al., 2024): an averaged teacher, two strong views, each with half of the features' channels.

The teacher labels the weak view. Both strong views go through the student, each with the features' channels that the
other lacks: UniMatch's stream of perturbed features within its strong views. Made for a vision transformer
with a DPT head (network: dpt-dinov2-base); any other network works, too.

    semiseg train --method unimatch-v2
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from stages.engine.batch import together
from stages.engine.label_sharing import respect_labels
from stages.engine.method import Batch, at_size, segment
from stages.methods.parts.perturbations import complementary_masks
from stages.methods.parts.strong_weak import PseudoLabels, StrongWeak, View, pseudo_labels, strong_mix


class UniMatchV2(StrongWeak):
    """L = (1 - w) CE(f(x), y) + w (L_s1 + L_s2) / 2,  w = 1/2, tau = .95
    L_k = 1/|V| sum_V [max P_t(u) >= tau] CE(g(m_k e(S_k(u))), argmax P_t(u)),  m_1 + m_2 = 2

    P_t: of the teacher, shared among the image-level labels of u (`image_labels`); e trunk and g head of the student,
    m_k: factors of the channels, the same on all levels of the features. Estimated masks may teach S_k(u) in addition:
    `guidance`.
    """

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        settings, labelled, pair = self.settings, batch["strong"], (batch["unlabelled"], batch["partner"])
        supervised = self.supervised(segment(self.student, labelled), labelled.label)
        if settings.weight == 0:
            return {"supervised": supervised}
        given = self._labels_of(pair[0]), self._labels_of(pair[1])
        threshold = self.threshold(given[0], pair[0].valid)
        views = strong_mix(pair, given, settings.strong, settings.mixing, self.setup.seed, step, (0, 1))
        logits = self._with_half_the_channels([view for view, _ in views], step)
        taught = {
            f"strong_{number}": View(found, labels, view, 0.5)
            for number, (found, (view, labels)) in enumerate(zip(logits, views, strict=True), start=1)
        }
        return {"supervised": (1 - settings.weight) * supervised, **self.taught(taught, threshold, step)}

    def _labels_of(self, samples: Batch) -> PseudoLabels:
        """The teacher's, by the image-level labels of the samples."""
        logits = segment(self.teacher, samples)
        return pseudo_labels(respect_labels(logits, samples.tags, self.settings.image_labels))

    def _with_half_the_channels(self, views: Sequence[Batch], step: int) -> Sequence[Tensor]:
        """Logits (B, C, H, W) of two views, in one pass; levels of equal width have equal factors."""
        both = together(*views)
        features = self.student.trunk(both.image)
        channels = max(level.shape[1] for level in features.values())
        masks = complementary_masks(len(views[0]), channels, self.settings.whole, self.setup.seed, "channels", step)
        factors = torch.cat([torch.from_numpy(mask) for mask in masks])[:, :, None, None]
        factors = factors.to(both.image.device, non_blocking=True)
        kept = {name: level * factors[:, : level.shape[1]].to(level.dtype) for name, level in features.items()}
        return at_size(self.student.head(kept), both, self.student).chunk(2)
