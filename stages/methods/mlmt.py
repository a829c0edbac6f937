"""MLMT, the multi-label mean teacher: the classifier of s4GAN (Mittal et al., PAMI 2021).

An image classifier learns which classes the masks of the labelled images contain, and to agree with its own average
about strongly augmented unlabelled images. `predict --classifier` removes the classes that it does not
predict from the predictions of a segmenter.

    semiseg train-classifier --method mlmt
    semiseg predict --segmenter s4gan --classifier mlmt
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.engine.distributed import global_mean
from stages.engine.losses import IGNORE, multilabel_soft_margin
from stages.engine.method import Batch, Method, Setup, Sources
from stages.engine.streams import Stream
from stages.engine.teacher import Teacher
from stages.methods.parts.batch_shares import strong_and_unlabelled
from stages.methods.parts.discrimination import one_hot
from stages.methods.parts.perturbations import image_generators
from stages.methods.parts.views import strong_view
from stages.methods.settings.mlmt import MlmtSettings


class Mlmt(Method):
    """L = BCE(c(x), classes of y) + w(t) mean (1 - cos(c(S(u)), c'(u))),  on logits, no gradient through c'

    c': the average of c, which is published; S: colours and blur. There is no output for the background, which is in
    every image.
    """

    def __init__(self, settings: MlmtSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        student = setup.classifier()
        self.networks = nn.ModuleDict({"classifier": student, "teacher": Teacher(student, settings.teacher)})

    @classmethod
    def streams(cls, settings: MlmtSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        return strong_and_unlabelled(settings, sources, batch_size)

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        classifier, labelled, unlabelled = self.networks["classifier"], batch["strong"], batch["unlabelled"]
        terms = {"labelled": classes_of_masks(classifier(labelled.image), labelled.label)}
        if (weight := self.weight(step)) == 0:
            return terms
        strong = strong_view(unlabelled, self.settings.strong, self.setup.seed, step)
        found, target = classifier(self._mirrored(strong.image, step)), self.networks["teacher"](unlabelled.image)
        return terms | {"consistency": weight * cosine_distance(found, target)}

    def _mirrored(self, images: Tensor, step: int) -> Tensor:
        """Images (B, 3, H, W), some of them mirrored in contrast to the teacher's."""
        if self.settings.mirror == 0:
            return images
        randoms = image_generators(len(images), self.setup.seed, "mirror", step)
        turned = torch.tensor([random.random() < self.settings.mirror for random in randoms])
        return torch.where(turned.to(images.device, non_blocking=True)[:, None, None, None], images.flip(-1), images)

    def weight(self, step: int) -> float:
        """w(t): 0 up to `start`, then linear over `ramp`."""
        settings, done = self.settings, step / self.setup.iterations
        if done < settings.start or settings.weight == 0:
            return 0.0
        return settings.weight * (min((done - settings.start) / settings.ramp, 1.0) if settings.ramp else 1.0)

    def after_step(self, step: int) -> None:
        cast(Teacher, self.networks["teacher"]).update(self.networks["classifier"], step)

    @property
    def predictor(self) -> nn.Module:
        return cast(Teacher, self.networks["teacher"]).network


def classes_of_masks(logits: Tensor, label: Tensor) -> Tensor:
    """Binary cross-entropy with logits (B, K), column k is class k + 1, on which classes a crop's mask holds.

    int64 label (B, H, W). A mean over images and classes; a crop of unknown pixels alone is left out.
    """
    present = one_hot(label, logits.shape[1] + 1).amax((2, 3))[:, 1:]
    known = (label != IGNORE).flatten(1).any(1)
    return multilabel_soft_margin(logits, present, known)


def cosine_distance(found: Tensor, target: Tensor) -> Tensor:
    """Mean over images of 1 - cos of the angle between logits (B, K); no gradient passes to `target`."""
    distance = 1 - F.cosine_similarity(found.float(), target.detach().float())
    return global_mean(distance.sum(), len(distance))
