"""Adversarial learning for semi-supervised segmentation (Hung et al., BMVC 2018).

A fully convolutional discriminator distinguishes class maps made from masks from predicted ones, pixel by pixel. The
segmenter learns to fool it; later the pixels of an unlabelled image with a high score of the discriminator become
pseudo labels.

    semiseg train --method advsemseg
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stages.engine.config import OptimizerConfig
from stages.engine.label_sharing import respect_labels
from stages.engine.losses import IGNORE, cross_entropy, share
from stages.engine.method import Batch, Method, Setup, Sources, segment
from stages.engine.randomness import derive_seed
from stages.engine.streams import Stream
from stages.methods.parts.batch_shares import strong_and_unlabelled
from stages.methods.parts.discrimination import frozen, one_hot, probabilities, real_or_fake
from stages.methods.settings.advsemseg import AdvSemSegSettings
from stages.networks.discriminators import PixelDiscriminator
from stages.networks.segmenter import seeded


class AdvSemSeg(Method):
    """L_S = CE(f(x), y) + a BCE(D(P(x)), 1) + b BCE(D(P(u)), 1) + c CE(f(u), argmax f(u) where s(P(u)) >= T)
    L_D = 1/2 [BCE(D([P(x), P(u)]), 0) + BCE(D(onehot y), 1)],  P without gradient

    D: the logits of the discriminator, s their sigmoid. It sees the C planes of P = softmax f alone, not the image.
    Pixels whose label is 255, and padding, are left out everywhere. The argmax is of f shared among the labels of u:
    `image_labels`.
    """

    def __init__(self, settings: AdvSemSegSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.networks = nn.ModuleDict({"segmenter": setup.segmenter()})
        self.on_unlabelled = settings.adversarial_unlabelled > 0 or settings.weight > 0
        if self.on_unlabelled or settings.adversarial > 0:
            with seeded(derive_seed(setup.seed, "discriminator")):
                discriminator = PixelDiscriminator(setup.num_classes, settings.discriminator.channels)
            self.networks["discriminator"] = discriminator

    @classmethod
    def streams(cls, settings: AdvSemSegSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        return strong_and_unlabelled(settings, sources, batch_size)

    def optimizers(self) -> dict[str, OptimizerConfig]:
        return {"discriminator": self.settings.discriminator.optimizer} if "discriminator" in self.networks else {}

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        settings, labelled, unlabelled = self.settings, batch["strong"], batch["unlabelled"]
        logits = segment(self.networks["segmenter"], labelled)
        terms = {"supervised": self.supervised(logits, labelled.label)}
        if "discriminator" not in self.networks:
            return terms
        known = labelled.label != IGNORE
        fakes, counted = [probabilities(logits, known)], [known]
        terms["adversarial"] = settings.adversarial * real_or_fake(self._scores(fakes[0]), True, known)
        if self.on_unlabelled:
            logits = segment(self.networks["segmenter"], unlabelled)
            fakes, counted = [*fakes, probabilities(logits, unlabelled.valid)], [known, unlabelled.valid]
            scores = self._scores(fakes[1])
            fooled = real_or_fake(scores, True, unlabelled.valid)
            terms["adversarial_unlabelled"] = settings.adversarial_unlabelled * fooled
            terms["pseudo"] = settings.weight * self._pseudo(logits, scores.detach(), unlabelled, step)
        real = one_hot(labelled.label, self.setup.num_classes)
        return terms | {
            "discriminator": self._discriminator(torch.cat(fakes).detach(), torch.cat(counted), real, known)
        }

    def _scores(self, maps: Tensor) -> Tensor:
        """D's logits (B, 1, H, W): the gradient reaches the maps, not D."""
        discriminator = self.networks["discriminator"]
        with frozen(discriminator):
            return discriminator(maps)

    def _pseudo(self, logits: Tensor, scores: Tensor, unlabelled: Batch, step: int) -> Tensor:
        """Cross-entropy with the network's own labels on the pixels with a high score of D; 0 before `start`."""
        trusted = (scores[:, 0].sigmoid() >= self.settings.threshold) & unlabelled.valid
        if step < round(self.settings.start * self.setup.iterations):
            trusted = torch.zeros_like(trusted)
        self.observe(trusted=share(trusted, unlabelled.valid))
        label = respect_labels(logits.detach(), unlabelled.tags, self.settings.image_labels).argmax(1)
        return cross_entropy(logits, label.masked_fill(~trusted, IGNORE))

    def _discriminator(self, fake: Tensor, counted: Tensor, real: Tensor, known: Tensor) -> Tensor:
        discriminator = self.networks["discriminator"]
        caught = real_or_fake(discriminator(fake), False, counted)
        return 0.5 * (caught + real_or_fake(discriminator(real), True, known))
