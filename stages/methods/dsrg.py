"""Deep seeded region growing (Huang et al., CVPR 2018): a segmenter from image-level labels.

Seeds cover a part of each image. At every step the output, smoothed by a dense CRF, lets the seeds grow into
confident neighbours of the same class; the network is trained on the grown seeds and pulled towards the CRF's output.
Growing starts from the original seeds each time. SEC (Kolesnikov & Lampert, ECCV 2016) is `region_growing`, `balanced`
and `clip_ratio` false, `expansion_weight` 1 and `crf_unary` scores.

    semiseg train --method dsrg --seeds seeds
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from stages.engine.distributed import global_mean, rank, sum_over_processes
from stages.engine.method import Batch, Method, Setup, Sources, at_size
from stages.engine.streams import Stream
from stages.engine.watching import shown, taught
from stages.localization.crf_parameters import named_parameters
from stages.localization.dense_crf import backend_of, crf_batch, crf_pool
from stages.localization.region_growing import grow_batch
from stages.methods.settings.dsrg import DsrgSettings
from stages.networks import Segmenter

SMALLEST = 1e-4  # added to probabilities, and the smallest denominator of a seed set (authors' code)
RATIO_BOUNDS = (0.05, 20.0)  # of Q/H in the boundary loss (authors' code)
EXPANSION_DECAY = {"foreground": 0.996, "background": 0.999}  # SEC, for 41 x 41 = 1,681 values
EXPANSION_VALUES = 41 * 41


class Dsrg(Method):
    """L = L_seed(H, grown seeds) + boundary_weight L_boundary(H, CRF(H)) + expansion_weight L_expansion(H)

    H: the softmax on the grid of the network's output, with a floor.
    """

    def __init__(self, settings: DsrgSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.networks = nn.ModuleDict({"segmenter": setup.segmenter()})
        # scores are taken as negative energies, just as probabilities are
        unary = "probability" if settings.crf_unary == "scores" else settings.crf_unary
        self.crf = dataclasses.replace(named_parameters("dsrg-test").at_scale(settings.crf_scale), unary=unary)
        self.counts = torch.zeros(setup.num_classes, 3, dtype=torch.int64)  # right, grown, true pixels of each class
        self._pool: Executor | None = None

    @classmethod
    def streams(cls, settings: DsrgSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        sources.require("dsrg", "seeds")
        ids = sorted({*sources.strong, *sources.weak})
        dataset = sources.dataset
        masked = settings.log_quality and dataset is not None and all(map(dataset.has_mask, ids))
        return {
            "weak": Stream(sources.entries(ids, "seeds"), batch_size, extra={"reference": "masks"} if masked else {})
        }

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        samples, network = batch["weak"], cast(Segmenter, self.networks["segmenter"])
        logits = network(samples.image, samples.encoded).float()
        stride = self.settings.map_stride or network.stride
        cells = slice(None, None, stride)  # cell i lies on pixel stride * i
        if stride != network.stride:
            logits = at_size(logits, samples, network)[..., cells, cells]
        shown(logits, samples)
        # logits: (B, C, h, w), and everything below lives on this grid
        seeds = samples.label[:, cells, cells]  # (B, h, w)
        valid = samples.valid[:, cells, cells]
        present = torch.cat([torch.ones_like(samples.tags[:, :1]), samples.tags], 1).bool()  # (B, C)

        probabilities = logits.softmax(1) + SMALLEST
        probabilities = probabilities / probabilities.sum(1, keepdim=True)  # H
        if self.settings.region_growing or self.settings.boundary_weight:
            evidence = logits if self.settings.crf_unary == "scores" else probabilities
            refined = self._crf(samples.pixels[..., cells, cells], evidence)  # Q
        if self.settings.region_growing:
            # Where no class is probable nothing grows.
            grounds = refined * valid[:, None] if self.settings.ignore_padding else refined
            seeds = self._grow(grounds, seeds, present)
        if "reference" in samples.extra:
            self._count(seeds, samples.extra["reference"][:, cells, cells])

        terms = {"seed": seed_loss(probabilities, seeds, self.settings.balanced)}
        if self.settings.boundary_weight:
            boundary = boundary_loss(probabilities, refined, valid, self.settings.clip_ratio)
            terms["boundary"] = self.settings.boundary_weight * boundary
        if self.settings.expansion_weight:
            terms["expansion"] = self.settings.expansion_weight * expansion_loss(probabilities, present)
        return terms

    def _crf(self, pixels: Tensor, evidence: Tensor) -> Tensor:
        """CRF marginals (B, C, h, w): no gradient passes, as in SEC.

        Args:
            pixels: uint8 (B, 3, h, w), those on which the cells lie; between them nothing is averaged (authors' code).
            evidence: probabilities or scores (B, C, h, w).
        """
        device = str(evidence.device)
        if self._pool is None and self.setup.workers > 1 and backend_of(self.crf, device) == "pydensecrf":
            self._pool = crf_pool(self.setup.workers)
        images = pixels.permute(0, 2, 3, 1).cpu().numpy()
        marginals = crf_batch(images, evidence.detach().cpu().numpy(), None, self.crf, self._pool, device)
        floored = torch.from_numpy(marginals).to(evidence.device).clamp(min=SMALLEST)
        return floored / floored.sum(1, keepdim=True)

    def _grow(self, refined: Tensor, seeds: Tensor, present: Tensor) -> Tensor:
        grown = grow_batch(
            refined.cpu().numpy(),
            seeds.to(torch.uint8).cpu().numpy(),
            present.cpu().numpy(),
            self.settings.theta_background,
            self.settings.theta_foreground,
        )
        return torch.from_numpy(grown).to(seeds.device).long()

    def _count(self, grown: Tensor, reference: Tensor) -> None:
        """Adds a batch to the counts of the supervision's quality; unlabelled reference pixels are left out."""
        number = self.setup.num_classes
        known = reference < number
        labelled = known & (grown < number)
        self.counts[:, 0] += torch.bincount(grown[labelled & (grown == reference)], minlength=number).cpu()
        self.counts[:, 1] += torch.bincount(grown[labelled], minlength=number).cpu()
        self.counts[:, 2] += torch.bincount(reference[known], minlength=number).cpu()

    def _joint_counts(self) -> Tensor:
        device = next(self.networks.parameters()).device  # NCCL sums on GPUs only
        return sum_over_processes(self.counts.to(device)).cpu()

    def epoch_metrics(self) -> dict[str, float]:
        """Precision, recall and IoU of the grown seeds, means over the classes that occur (DSRG, Fig. 4)."""
        right, grown, true = self._joint_counts().double().numpy().T
        self.counts.zero_()
        occurs = true > 0
        if not occurs.any():
            return {}
        right, grown, true = right[occurs], grown[occurs], true[occurs]
        return {
            "supervision_precision": float(np.mean(right / np.maximum(grown, 1))),
            "supervision_recall": float(np.mean(right / true)),
            "supervision_iou": float(np.mean(right / (grown + true - right))),
        }

    def state(self) -> dict[str, Any]:
        return {"counts": self._joint_counts().clone()}

    def restore(self, state: dict[str, Any]) -> None:
        if rank() == 0:  # they are the counts of all processes
            self.counts = state["counts"]

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()


def seed_loss(probabilities: Tensor, seeds: Tensor, balanced: bool = True) -> Tensor:
    """Balanced seed loss of DSRG (Eq. 2), or SEC's seed loss.

    -1/|S_0| sum_{u in S_0} log H_u0 - 1/sum_c |S_c| sum_c sum_{u in S_c} log H_uc, a mean over images. SEC divides
    both parts by the number of all seeds. An empty set contributes 0.

    Args:
        probabilities: H, (B, C, h, w).
        seeds: int64 (B, h, w), 255 where unlabelled.
    """
    known = seeds < probabilities.shape[1]
    log = probabilities.gather(1, seeds.where(known, 0)[:, None])[:, 0].log()  # (B, h, w)
    taught(log, probabilities, seeds)
    parts = [known & (seeds == 0), known & (seeds > 0)]
    counts = [part.sum((1, 2)).float() for part in parts]
    if not balanced:
        counts = [counts[0] + counts[1]] * 2
    samples = sum(
        -(log * part).sum((1, 2)) / count.clamp(min=SMALLEST) for part, count in zip(parts, counts, strict=True)
    )
    return global_mean(torch.as_tensor(samples).sum(), len(seeds))


def boundary_loss(probabilities: Tensor, refined: Tensor, valid: Tensor, clip: bool = True) -> Tensor:
    """Constrain-to-boundary loss: mean over cells of sum_c Q_c log(clip(Q_c / H_c, 0.05, 20)).

    SEC's KL divergence from the network's H (B, C, h, w) to the CRF's Q, which is a constant. DSRG's code clips the
    ratio; without `clip` it is SEC's. `valid` (B, h, w) leaves padding out.
    """
    ratio = refined / probabilities
    if clip:
        ratio = ratio.clamp(*RATIO_BOUNDS)
    cells = (refined * ratio.log()).sum(1)  # (B, h, w)
    taught(cells, probabilities, refined, valid)
    return global_mean((cells * valid).sum(), valid.sum())


def expansion_loss(probabilities: Tensor, present: Tensor) -> Tensor:
    """Expansion loss of SEC (Eq. 4-5) by global weighted rank pooling.

    G_c = sum_i w_i H_(i)c / sum_i w_i, values sorted: the largest with weight 1, each next with d times the last.
    L = -mean_{c present} log G_c - mean_{c absent} log(1 - max H_c) - log G_0, a mean over images. SEC's d are for
    1,681 values; for another number n they are raised to 1681/n, so that they reach over the same share of the map.

    Args:
        probabilities: H, (B, C, h, w).
        present: bool (B, C), background included.
    """
    values = probabilities.flatten(2).sort(2, descending=True).values  # (B, C, n)
    number = values.shape[2]
    rank = torch.arange(number, device=values.device)

    def pool(decay: float) -> Tensor:
        weights = (decay ** (EXPANSION_VALUES / number)) ** rank
        return (values * weights).sum(2) / weights.sum()

    background = -pool(EXPANSION_DECAY["background"])[:, 0].log()
    foreground = -pool(EXPANSION_DECAY["foreground"])[:, 1:].log()
    absent = -torch.log1p(-values[:, 1:, 0].clamp(max=1 - 1e-6))
    there = present[:, 1:].float()
    samples = (
        background
        + (foreground * there).sum(1) / there.sum(1).clamp(min=1)
        + (absent * (1 - there)).sum(1) / (1 - there).sum(1).clamp(min=1)
    )
    return global_mean(samples.sum(), len(samples))
