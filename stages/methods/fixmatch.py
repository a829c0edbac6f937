"""FixMatch for segmentation (Sohn et al., NeurIPS 2020; the form of Yang et al., CVPR 2023).

One network. It labels the weak view of an unlabelled image, and is trained to predict the same on a strong view
(colours, blur, a box of another image) where it was confident.

    semiseg train --method fixmatch
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from stages.engine.batch import together
from stages.engine.inference import evaluating
from stages.engine.label_sharing import respect_labels
from stages.engine.method import Batch, segment
from stages.methods.parts.strong_weak import PseudoLabels, StrongWeak, View, pseudo_labels, strong_mix


class FixMatch(StrongWeak):
    """L = (1 - w) CE(f(x), y) + w 1/|V| sum_V [max P(u) >= tau] CE(f(S(u)), argmax P(u)),  w = 1/2, tau = .95

    S(u): the strong view with a box of a partner, labels and valid pixels V cut with the same box. Labels of the
    image itself come from the pass in train mode through labelled and unlabelled images together; those of the
    partner from a pass in eval mode, so that partners leave no trace in BatchNorm. With a teacher, it gives both.
    P(u) is shared among the image-level labels of u, before the box: `image_labels`. Estimated masks may teach S(u) in
    addition: `guidance`.
    """

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        settings, labelled, unlabelled = self.settings, batch["strong"], batch["unlabelled"]
        if settings.weight == 0:
            return {"supervised": self.supervised(segment(self.student, labelled), labelled.label)}
        others = self.labels_of(batch["partner"])
        if self.labels_in_passing:
            known, plain = segment(self.student, together(labelled, unlabelled)).split([len(labelled), len(unlabelled)])
            own = self.labels_from(plain, unlabelled)
        else:
            known, own = segment(self.student, labelled), self.labels_of(unlabelled)
        threshold = self.threshold(own, unlabelled.valid)
        [(strong, labels)] = strong_mix(
            (unlabelled, batch["partner"]), (own, others), settings.strong, settings.mixing, self.setup.seed, step
        )
        view = View(segment(self.student, strong), labels, strong, 1.0)
        supervised = (1 - settings.weight) * self.supervised(known, labelled.label)
        return {"supervised": supervised, **self.taught({"strong": view}, threshold, step)}

    @property
    def labels_in_passing(self) -> bool:
        """Whether an image's own labels come from the training pass."""
        return self.settings.teacher is None and self.settings.label_mode == "train"

    def labels_of(self, samples: Batch) -> PseudoLabels:
        """The teacher's labels, or the network's own in eval mode: without effect on BatchNorm, without dropout."""
        if self.settings.teacher is not None:
            return self.labels_from(segment(self.teacher, samples), samples)
        with torch.no_grad(), evaluating(self.student):
            return self.labels_from(segment(self.student, samples), samples)

    def labels_from(self, logits: Tensor, samples: Batch) -> PseudoLabels:
        """Those of logits (B, C, H, W), by the image-level labels of the samples."""
        return pseudo_labels(respect_labels(logits.detach(), samples.tags, self.settings.image_labels))
