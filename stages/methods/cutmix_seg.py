"""CutMix-Seg (French et al., BMVC 2020): a mean teacher whose student sees mixed images.

The teacher labels two whole images, softly. The student sees one with a box of the other and has to predict the
teacher's probabilities mixed with the same box. The teacher is evaluated.

    semiseg train --method cutmix-seg
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from stages.engine.label_sharing import respect_labels
from stages.engine.losses import confident_squared_difference, share
from stages.engine.method import Batch, Sources, segment
from stages.engine.streams import Stream
from stages.methods.parts.batch_shares import strong_and_unlabelled
from stages.methods.parts.cutmix import draw_boxes, mix, mix_batches
from stages.methods.parts.teacher_student import TeacherStudent
from stages.methods.settings.cutmix_seg import CutMixSegSettings


class CutMixSeg(TeacherStudent):
    """L = CE(s(x), y) + w c 1/|V| sum_V sum_c (P_s(mix(u0, u1)) - mix(P_t(u0), P_t(u1)))^2,  w = 1
    c = share of the pixels of the batch on which max_c mix(P_t(u0), P_t(u1)) >= .97

    P: softmax of student s and teacher t. c is of the joint batch; with confidence pixel, 1 on each such pixel alone.
    V: pixels that are valid in the image they come from. P_t is shared among the labels of its image: `image_labels`.
    """

    @classmethod
    def streams(cls, settings: CutMixSegSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        return strong_and_unlabelled(settings, sources, batch_size, partner=True)

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        settings, labelled = self.settings, batch["strong"]
        terms = {"supervised": self.supervised(segment(self.student, labelled), labelled.label)}
        if settings.weight == 0:
            return terms
        first, second = batch["unlabelled"], batch["partner"]
        boxes = draw_boxes(settings.mixing, first, self.setup.seed, step)
        whole = [
            respect_labels(segment(self.teacher, samples), samples.tags, settings.image_labels).softmax(1)
            for samples in (first, second)
        ]
        mixed, target = mix_batches(first, second, boxes), mix(whole[0], whole[1], boxes)
        self.observe(confident=share(target.amax(1) >= settings.threshold, mixed.valid))
        consistency = confident_squared_difference(
            segment(self.student, mixed).softmax(1),
            target,
            mixed.valid,
            settings.threshold,
            per_pixel=settings.confidence == "pixel",
            reduction=settings.reduction,
        )
        return terms | {"consistency": settings.weight * consistency}
