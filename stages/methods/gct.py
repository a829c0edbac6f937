"""Guided collaborative training (Ke et al., ECCV 2020).

Two networks and a flaw detector, which learns on the labelled images where a prediction is wrong. Each network adopts
the other's probabilities where its own are more flawed; where both are bad, it learns to lower the detector's output.

    semiseg train --method gct
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from stages.engine.batch import together
from stages.engine.config import OptimizerConfig
from stages.engine.distributed import global_mean
from stages.engine.label_sharing import respect_labels
from stages.engine.losses import IGNORE, squared_difference
from stages.engine.method import Batch, Method, Setup, Sources, segment
from stages.engine.randomness import derive_seed
from stages.engine.streams import Stream
from stages.engine.teacher import sigmoid_ramp
from stages.methods.parts.batch_shares import strong_and_unlabelled
from stages.methods.parts.discrimination import frozen, probabilities
from stages.methods.parts.flaw_maps import flaw_target, less_flawed, tidy
from stages.methods.settings.gct import GctSettings
from stages.networks.discriminators import FlawDetector
from stages.networks.segmenter import seeded

NUMBERED = {"segmenter": "1", "second": "2"}


class Gct(Method):
    """L_k = CE(f_k(x), y) + a mean_V [both bad] F(z, P_k)^2 + b r(t) mean_V (P_k - Q_k)^2,  a = 1, b = 100, k = 1, 2
    L_F = d/2 sum_k mean (F(x, P_k) - C_k)^2 over the labelled pixels,  d = 10, P_k without gradient

    F: the flaw detector. Q_k is P_k where it is the less flawed of the two, else the other's, without gradient; z is
    labelled and unlabelled images together, V their valid pixels; r: a sigmoid ramp; C_k: made of the difference of P_k
    and the mask. The P that Q is made of are shared among the labels of their image: `image_labels`. Network 1 is
    published.
    """

    def __init__(self, settings: GctSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.networks = nn.ModuleDict({"segmenter": setup.segmenter(), "second": setup.segmenter(which=1)})
        if settings.weight > 0 or settings.flaw_correction > 0:
            with seeded(derive_seed(setup.seed, "flaw detector")):
                self.networks["flaw_detector"] = FlawDetector(setup.num_classes, settings.flaw_detector.channels)

    @classmethod
    def streams(cls, settings: GctSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        return strong_and_unlabelled(settings, sources, batch_size)

    def optimizers(self) -> dict[str, OptimizerConfig]:
        return {"flaw_detector": self.settings.flaw_detector.optimizer} if "flaw_detector" in self.networks else {}

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        samples, label = batch["strong"], batch["strong"].label
        guided = "flaw_detector" in self.networks
        if guided:  # both halves in one pass, as in the authors' code: one joint batch for BatchNorm
            samples = together(samples, batch["unlabelled"])
        logits = [segment(self.networks[name], samples) for name in NUMBERED]
        terms = {
            f"supervised_{number}": self.supervised(found[: len(label)], label)
            for number, found in zip(NUMBERED.values(), logits, strict=True)
        }
        return terms | (self._guided(samples, logits, label, step) if guided else {})

    def _guided(self, samples: Batch, logits: list[Tensor], label: Tensor, step: int) -> dict[str, Tensor]:
        settings, valid, detector = self.settings, samples.valid, self.networks["flaw_detector"]
        found = [probabilities(scores, valid) for scores in logits]
        with frozen(detector):
            raw = [detector(samples.image, p).float()[:, 0] for p in found]
        flaws = [
            tidy(seen, valid, settings.visible) for seen in raw
        ]  # new tensors: `raw` is what the losses are made of
        both_bad = (flaws[0] > settings.threshold) & (flaws[1] > settings.threshold) & valid
        weight = settings.weight * sigmoid_ramp(step, round(settings.ramp * self.setup.iterations))
        shared = [
            probabilities(respect_labels(scores.detach(), samples.tags, settings.image_labels), valid)
            for scores in logits
        ]
        terms = {}
        for own, other, number in ((0, 1, "1"), (1, 0, "2")):
            correction = global_mean((raw[own].square() * both_bad).sum(), valid.sum())
            target = less_flawed(shared[own], shared[other], flaws[own], flaws[other], settings.threshold)
            consistency = squared_difference(found[own], target, valid, reduction="mean")
            terms[f"flaw_correction_{number}"] = settings.flaw_correction * correction
            terms[f"consistency_{number}"] = weight * consistency
            terms[f"flaw_detector_{number}"] = 0.5 * self._detection(samples.image, found[own].detach(), label)
        return terms

    def _detection(self, images: Tensor, found: Tensor, label: Tensor) -> Tensor:
        """The detector's loss on the true flaws of the labelled images; all images pass, for its BatchNorm."""
        settings, known = self.settings, label != IGNORE
        flaws = self.networks["flaw_detector"](images, found)[: len(label), 0].float()
        target = flaw_target(found[: len(label)], label, settings.mu, settings.dilations)
        return settings.detector_weight * global_mean(((flaws - target).square() * known).sum(), known.sum())
