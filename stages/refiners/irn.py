"""The semantic part of IRNet (Ahn et al., CVPR 2019): class boundaries, and a random walk of scores between them.

A network learns class boundaries from pairs of cells with confident labels. A random walk then propagates the scores of
an image from cell to cell, but not across predicted boundaries. The displacement field of the paper, which separates
instances, is not part of it.

    semiseg train-refiner --method irn
    semiseg refine
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from artifacts.score_maps import ScoreMap
from stages.engine.known import Known
from stages.engine.method import Batch, Method, Setup, Sources
from stages.engine.streams import Stream
from stages.localization.activation_maps import for_inference
from stages.localization.boundary_labels import prepare
from stages.localization.pair_learning import affinity_losses
from stages.localization.pairs import class_boundary_affinity
from stages.localization.random_walk import walk_between_boundaries
from stages.networks import normalise
from stages.networks.boundary import STRIDE, BoundaryNetwork, build_boundary_network, mean_with_mirror
from stages.parallel.in_order import results_in_order
from stages.refiners.refiner import Means, Refiner
from stages.refiners.settings.irn import IrnSettings, IrnTrainingSettings


class IrnTraining(Method):
    """L = 1/2 (L_aff+ + L_aff-),  a_ij = 1 - max over the cells k on the line from i to j of B_k
    L_aff+ = 1/2 mean over background pairs + 1/2 mean over foreground pairs of -log(a_ij + 1e-5)
    L_aff- = mean over pairs of two classes of -log(1 + 1e-5 - a_ij)

    B: the boundary, the sigmoid of the network's logits; pairs i, j of cells nearer than `radius`.
    """

    prepare = staticmethod(prepare)
    prepared = ("labels",)

    def __init__(self, settings: IrnTrainingSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        network = build_boundary_network(setup.network, setup.seed, setup.initial)
        self.networks = nn.ModuleDict({"boundary": network})

    @classmethod
    def streams(cls, settings: IrnTrainingSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        return {"labelled": Stream(sources.entries(sources.tagged, "labels"), batch_size)}

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        labelled = batch["labelled"]
        boundary = self.predictor(labelled.image).float().sigmoid()
        labels = labelled.label[:, ::STRIDE, ::STRIDE]  # cell i lies on pixel 4 i
        radius = self.settings.radius
        return affinity_losses(class_boundary_affinity(boundary, radius), labels, radius)

    @property
    def predictor(self) -> BoundaryNetwork:
        return cast(BoundaryNetwork, self.networks["boundary"])


class Irn(Refiner):
    """A random walk of 2^doublings steps of scores times (1 - boundary), divided by the maximum."""

    training: ClassVar[type[Method] | None] = IrnTraining

    def __init__(self, settings: IrnSettings, network: BoundaryNetwork, means: Means) -> None:
        super().__init__(settings, for_inference(network, means.device), means)

    def refine(self, batches: Iterable[Sequence[Known]]) -> Iterator[ScoreMap]:
        """The network runs on the device, the walks in processes."""
        settings = self.settings
        tasks = (
            (known.scores, boundary, settings.radius, settings.beta, settings.doublings)
            for batch in batches
            for known, boundary in zip(batch, self.boundaries(batch), strict=True)
        )
        return results_in_order(walk_between_boundaries, tasks, self.means.workers)

    @torch.inference_mode()
    def boundaries(self, batch: Sequence[Known]) -> NDArray[np.float32]:
        """(B, h, w), 0..1, of images of one size: the sigmoid of the mean of the logits of image and mirrored copy."""
        device, dtype = self.means.device, self.means.dtype
        pixels = torch.from_numpy(np.stack([known.image for known in batch]).transpose(0, 3, 1, 2)).to(device)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            logits = mean_with_mirror(self.network, normalise(pixels))
        return logits.sigmoid().cpu().numpy()
