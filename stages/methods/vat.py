"""Virtual adversarial training (Miyato et al., PAMI 2019) for segmentation, on images or on features.

Small noise is added in the direction that changes the prediction most; the student has to predict with the noise
what the teacher predicts without it. On images: the comparison of French et al. (BMVC 2020); on features: I-VAT of
cross-consistency training (Ouali et al., CVPR 2020). The teacher is evaluated.

    semiseg train --method vat
    semiseg train --method vat --set method.level=feature
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from stages.engine.inference import evaluating
from stages.engine.label_sharing import respect_labels
from stages.engine.losses import confident_squared_difference, share
from stages.engine.method import Batch, Sources, at_size, segment
from stages.engine.streams import Stream
from stages.methods.parts.adversarial_noise import Distance, adversarial_direction, kl_divergence
from stages.methods.parts.batch_shares import strong_and_unlabelled
from stages.methods.parts.perturbations import image_generators, uniform
from stages.methods.parts.teacher_student import TeacherStudent
from stages.methods.settings.vat import VatSettings

PUBLISHED_RADIUS = {"image": 1.0, "feature": 2.0}
PROBE = 0.01  # share of the length of what is probed; the same as in cct


class Vat(TeacherStudent):
    """L = CE(s(x), y) + w c 1/|V| sum_V sum_c (P_s(u + r d) - P_t(u))^2,  w = .1

    P: softmax of student s and teacher t, d: the unit direction that changes the prediction most, r: the radius; with
    level feature it is added to the features of u. c: the share of the joint batch's pixels on which the teacher
    reaches the threshold, or 1 on each such pixel alone. P_t is shared among the labels of its image: `image_labels`.
    """

    @classmethod
    def streams(cls, settings: VatSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        return strong_and_unlabelled(settings, sources, batch_size)

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        settings, labelled, unlabelled = self.settings, batch["strong"], batch["unlabelled"]
        terms = {"supervised": self.supervised(segment(self.student, labelled), labelled.label)}
        if settings.weight == 0:
            return terms
        teacher = segment(self.teacher, unlabelled)
        target = respect_labels(teacher, unlabelled.tags, settings.image_labels).softmax(1)
        self.observe(confident=share(target.amax(1) >= settings.threshold, unlabelled.valid))
        changed = self._changed_images if settings.level == "image" else self._changed_features
        consistency = confident_squared_difference(
            changed(unlabelled, step).softmax(1),
            target,
            unlabelled.valid,
            settings.threshold,
            settings.confidence == "pixel",
            settings.reduction,
        )
        return terms | {"consistency": settings.weight * consistency}

    def _changed_images(self, batch: Batch, step: int) -> Tensor:
        """The student's logits of u + r d; the direction is the teacher's."""
        network = self.teacher.network

        def predict(image: Tensor) -> Tensor:
            return at_size(network(image), batch, network)

        with evaluating(network):
            direction = self._direction(predict, batch.image, batch.valid, step, squared_change)
        return segment(self.student, batch.replace(image=batch.image + self.lengths(batch.image) * direction))

    def _changed_features(self, batch: Batch, step: int) -> Tensor:
        """The student's logits of z + r d, z the features its head sees; the direction is that of this head."""
        student, features = self.student, self.student.trunk(batch.image)
        fixed = {name: value.detach().float() for name, value in features.items()}

        def predict(high: Tensor) -> Tensor:
            return at_size(student.head({**fixed, "high": high}), batch, student)

        with evaluating(student.head):
            direction = self._direction(predict, fixed["high"], batch.valid, step, kl_divergence)
        changed = features["high"] + self.radius * direction
        return at_size(student.head({**features, "high": changed}), batch, student)

    def _direction(
        self, predict: Callable[[Tensor], Tensor], x: Tensor, valid: Tensor, step: int, distance: Distance
    ) -> Tensor:
        """d (B, ...), without a graph. Predictions on padding are left out."""
        start = torch.stack(
            [uniform(x[0], -0.5, 0.5, random) for random in image_generators(len(x), self.setup.seed, "vat", step)]
        )
        xi = self.settings.xi
        if xi is None:
            xi = PROBE * x.float().flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return adversarial_direction(
            lambda z: predict(z) * valid[:, None], x, start, xi, self.settings.iterations, distance
        )

    @property
    def radius(self) -> float:
        given = self.settings.radius
        return PUBLISHED_RADIUS[self.settings.level] if given is None else given

    def lengths(self, image: Tensor) -> Tensor | float:
        """r of images (B, 3, H, W): (B, 1, 1, 1), or one for all."""
        if not self.settings.adaptive:
            return self.radius * image[0].numel() ** 0.5
        return self.radius * roughness(image)


def roughness(image: Tensor) -> Tensor:
    """(B, 1, 1, 1): half the root of the summed squared differences of pixels two apart, down and to the right.

    The length of the image's gradient, and so a measure of how far a patch is from its neighbours.
    """
    down, right = image[:, :, 2:] - image[:, :, :-2], image[..., 2:] - image[..., :-2]
    total = down.square().sum((1, 2, 3)) + right.square().sum((1, 2, 3))
    return 0.5 * total.sqrt().view(-1, 1, 1, 1)


def squared_change(logits: Tensor, target: Tensor) -> Tensor:
    """sum (softmax(logits) - Q)^2 over images, classes and pixels."""
    return (logits.softmax(1) - target).square().sum()
