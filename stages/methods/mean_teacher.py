"""Mean teacher (Tarvainen & Valpola, NeurIPS 2017) for segmentation, as in the codes that CPS compares with.

The teacher is the average of the student over the steps. The student learns from masks, and to agree with the teacher
on every pixel. As published both see the same images and differ by their weights, BatchNorm and dropout alone.

    semiseg train --method mean-teacher
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stages.engine.batch import together
from stages.engine.label_sharing import respect_labels
from stages.engine.losses import confident_squared_difference, share, squared_difference
from stages.engine.method import Batch, Sources, segment
from stages.engine.streams import Stream
from stages.engine.teacher import sigmoid_ramp
from stages.methods.parts.batch_shares import strong_and_unlabelled
from stages.methods.parts.teacher_student import TeacherStudent
from stages.methods.parts.views import strong_view
from stages.methods.settings.mean_teacher import MeanTeacherSettings


class MeanTeacher(TeacherStudent):
    """L = CE(s(x), y) + w r(t) c 1/|V| sum_V 1/C sum_c (P_s(z) - P_t(z))^2,  w = 100

    P: softmax or logits of student s and teacher t, V: the valid pixels of z, which is labelled and unlabelled images
    together, or the unlabelled ones. Labelled and unlabelled images pass through the networks one kind after the other,
    as in TorchSemiSeg: BatchNorm sees them apart. With `joint_pass`, PixelSSL's, it sees them together, in the teacher
    too. c is 1, or with a threshold the share of pixels on which the teacher is sure, as in cutmix-seg. Softmax P_t is
    shared among the labels of its image: `image_labels`.
    """

    @classmethod
    def streams(cls, settings: MeanTeacherSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        return strong_and_unlabelled(settings, sources, batch_size)

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        settings, labelled, unlabelled = self.settings, batch["strong"], batch["unlabelled"]
        if settings.weight == 0:
            return {"supervised": self.supervised(segment(self.student, labelled), labelled.label)}
        seen = unlabelled
        if settings.strong is not None:
            seen = strong_view(unlabelled, settings.strong, self.setup.seed, step)
        logits = self._logits(self.student, labelled, seen)
        terms = {"supervised": self.supervised(logits[0], labelled.label)}
        compared, kinds = slice(0 if settings.images == "all" else 1, 2), [labelled, unlabelled]
        if settings.joint_pass:
            targets = self._logits(self.teacher, *kinds)[compared]
        else:
            targets = self._logits(self.teacher, *kinds[compared])
        found, target = torch.cat(logits[compared]), torch.cat(targets)
        valid, tags = (
            torch.cat([getattr(half, part) for half in (labelled, seen)][compared]) for part in ("valid", "tags")
        )
        if settings.consistency == "softmax":
            found, target = found.softmax(1), respect_labels(target, tags, settings.image_labels).softmax(1)
        weight = settings.weight * sigmoid_ramp(step, round(settings.ramp * self.setup.iterations))
        if settings.threshold == 0:
            return terms | {
                "consistency": weight * squared_difference(found, target, valid, reduction=settings.reduction)
            }
        self.observe(confident=share(target.amax(1) >= settings.threshold, valid))
        per_pixel = settings.confidence == "pixel"
        consistency = confident_squared_difference(
            found, target, valid, settings.threshold, per_pixel, settings.reduction
        )
        return terms | {"consistency": weight * consistency}

    def _logits(self, network: nn.Module, *batches: Batch) -> list[Tensor]:
        """Of each batch, from one pass over all images or from one pass each."""
        if not self.settings.joint_pass:
            return [segment(network, batch) for batch in batches]
        return list(segment(network, together(*batches)).split([len(batch) for batch in batches]))
