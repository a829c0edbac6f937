"""s4GAN (Mittal et al., "Semi-supervised semantic segmentation with high- and low-level consistency", PAMI 2021).

A discriminator gets an image together with a class map, from a mask or a prediction. The segmenter learns to match the
discriminator's mean features of predictions and of masks, and to fit its own labels of those images whose prediction
the discriminator scores as a mask. The second part of the paper, a classifier, is the method mlmt.

    semiseg train --method s4gan
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from stages.engine.config import OptimizerConfig
from stages.engine.distributed import sum_over_processes
from stages.engine.label_sharing import respect_labels
from stages.engine.losses import IGNORE, cross_entropy
from stages.engine.method import Batch, Method, Setup, Sources, segment
from stages.engine.randomness import derive_seed
from stages.engine.streams import Stream
from stages.methods.parts.batch_shares import strong_and_unlabelled
from stages.methods.parts.discrimination import frozen, one_hot, probabilities, real_or_fake
from stages.methods.settings.s4gan import S4GanSettings
from stages.networks.discriminators import ImageDiscriminator
from stages.networks.segmenter import seeded


class S4Gan(Method):
    """L_S = CE(f(x), y) + m mean_k |E h_k(onehot y, x) - E h_k(P(u), u)|
        + c CE(f(u), argmax f(u)) over the images u with s(P(u), u) > g
    L_D = 1/2 [BCE(D(P(u), u), 0) + BCE(D(onehot y, x), 1)],  P without gradient

    h: the last features of the discriminator D, s: its sigmoid, E: the mean over the joint batch; m = .1, c = 1,
    g = .6. The last term takes or leaves whole images, and its argmax is of f shared among their labels:
    `image_labels`. All images D sees have values in 0..1.
    """

    def __init__(self, settings: S4GanSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.networks = nn.ModuleDict({"segmenter": setup.segmenter()})
        if settings.feature_matching > 0 or settings.weight > 0:
            with seeded(derive_seed(setup.seed, "discriminator")):
                channels = settings.discriminator.channels
                self.networks["discriminator"] = ImageDiscriminator(setup.num_classes, channels, settings.dropout)

    @classmethod
    def streams(cls, settings: S4GanSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        return strong_and_unlabelled(settings, sources, batch_size)

    def optimizers(self) -> dict[str, OptimizerConfig]:
        return {"discriminator": self.settings.discriminator.optimizer} if "discriminator" in self.networks else {}

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        segmenter, labelled, unlabelled = self.networks["segmenter"], batch["strong"], batch["unlabelled"]
        terms = {"supervised": self.supervised(segment(segmenter, labelled), labelled.label)}
        if "discriminator" not in self.networks:
            return terms
        discriminator = self.networks["discriminator"]
        logits = segment(segmenter, unlabelled)
        fake, image = probabilities(logits, unlabelled.valid), between_0_and_1(unlabelled.image)
        with frozen(discriminator):
            scores, features = discriminator(fake, image)
        caught, _ = discriminator(fake.detach(), image)
        planes = one_hot(labelled.label, self.setup.num_classes)
        real, real_features = discriminator(planes, between_0_and_1(labelled.image))
        matching = mean_difference(real_features.detach(), features)
        return terms | {
            "feature_matching": self.settings.feature_matching * matching,
            "pseudo": self.settings.weight * self._pseudo(logits, scores.detach(), unlabelled, step),
            "discriminator": 0.5 * (real_or_fake(caught, False) + real_or_fake(real, True)),
        }

    def _pseudo(self, logits: Tensor, scores: Tensor, unlabelled: Batch, step: int) -> Tensor:
        """Cross-entropy with the network's own labels of the images that D scores as real; 0 while D warms up."""
        chosen = scores.float().sigmoid() > self.settings.threshold  # (B,)
        if step < round(self.settings.warmup * self.setup.iterations):
            chosen = chosen & False
        self.observe(chosen=chosen.float().mean())
        taught = unlabelled.valid & chosen[:, None, None]
        label = respect_labels(logits.detach(), unlabelled.tags, self.settings.image_labels).argmax(1)
        return cross_entropy(logits, label.masked_fill(~taught, IGNORE))


def between_0_and_1(images: Tensor) -> Tensor:
    """Each image (B, 3, H, W) by its own smallest and largest value; the published code takes another batch's."""
    lowest, highest = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - lowest) / (highest - lowest).clamp(min=1e-6)


def mean_difference(first: Tensor, second: Tensor) -> Tensor:
    """mean_k |E a_k - E b_k| of features (B, K), E the mean over the images of all processes."""
    difference = first.float().mean(0) - second.float().mean(0)
    # |d| is sign(d) d: with the sign of the joint difference, the processes' terms average to the joint one.
    return (sum_over_processes(difference.detach()).sign() * difference).mean()
