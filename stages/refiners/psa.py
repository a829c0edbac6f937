"""AffinityNet, also called PSA (Ahn & Kwak, CVPR 2018): a random walk of scores between cells of similar features.

A network learns, from pairs of cells with confident labels, features that are similar within a class. A random walk
then propagates the scores of an image, and a score of its background, to cells of similar features. SEAM (Wang et al.,
CVPR 2020) makes its masks in this way, too.

    semiseg train-refiner --method psa
    semiseg refine --method psa
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from artifacts.score_maps import ScoreMap
from stages.engine.known import Known
from stages.engine.method import Batch, Method, Setup, Sources
from stages.engine.streams import Stream
from stages.engine.to_host import Transfer, received
from stages.localization.affinity_labels import prepare
from stages.localization.pair_learning import affinity_losses, feature_affinities, feature_affinity
from stages.localization.pairs import Offset
from stages.localization.random_walk import walk_with_background
from stages.networks import normalise
from stages.networks.affinity import STRIDE, AffinityNetwork, build_affinity_network
from stages.networks.folding import for_inference
from stages.parallel.in_order import results_in_order
from stages.refiners.refiner import Means, Refiner
from stages.refiners.settings.psa import PsaSettings, PsaTrainingSettings


class PsaTraining(Method):
    """L = 1/4 L_bg+ + 1/4 L_fg+ + 1/2 L-,  a_ij = exp(-mean over the channels of |f_i - f_j|)
    L_bg+, L_fg+ = mean over background pairs, over foreground pairs of -log(a_ij + 1e-5)
    L- = mean over pairs of two classes of -log(1 + 1e-5 - a_ij)

    f: the network's features; pairs i, j of cells nearer than `radius`.
    """

    prepare = staticmethod(prepare)
    prepared = ("labels",)

    def __init__(self, settings: PsaTrainingSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        network = build_affinity_network(setup.network, setup.seed, setup.initial)
        self.networks = nn.ModuleDict({"affinity": network})

    @classmethod
    def streams(cls, settings: PsaTrainingSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        return {"labelled": Stream(sources.entries(sources.tagged, "labels"), batch_size)}

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        labelled, radius = batch["labelled"], self.settings.radius
        features = self.predictor(labelled.image).float()
        labels = labelled.label[:, ::STRIDE, ::STRIDE]  # cell i lies on pixel 8 i
        return affinity_losses(feature_affinity(features, radius), labels, radius)

    @property
    def predictor(self) -> AffinityNetwork:
        return cast(AffinityNetwork, self.networks["affinity"])


class Psa(Refiner):
    """2^doublings steps of a random walk of the scores, with (1 - highest score)^alpha as background."""

    training: ClassVar[type[Method] | None] = PsaTraining

    def __init__(self, settings: PsaSettings, network: AffinityNetwork, means: Means) -> None:
        super().__init__(settings, for_inference(network, means.device, means.dtype), means)

    def refine(self, batches: Iterable[Sequence[Known]]) -> Iterator[ScoreMap]:
        """The network works on the device, the walks in processes."""
        settings = self.settings

        def computed() -> Iterator[tuple[tuple[Sequence[Known], Sequence[Offset]], Transfer]]:
            for batch in batches:
                found = self.affinities(batch)
                yield (batch, list(found)), Transfer(**{str(n): values for n, values in enumerate(found.values())})

        tasks = (
            (
                known.scores,
                {offset: values[number] for offset, values in zip(offsets, found.values(), strict=True)},
                STRIDE,
                settings.alpha,
                settings.beta,
                settings.doublings,
            )
            for (batch, offsets), found in received(computed())
            for number, known in enumerate(batch)
        )
        return results_in_order(walk_with_background, tasks, self.means.workers)

    @torch.inference_mode()
    def affinities(self, batch: Sequence[Known]) -> dict[Offset, Tensor]:
        """The affinities of all pairs of cells, by offset, of the images of a batch of one size, (B, rows, columns)."""
        device, dtype = self.means.device, self.means.dtype
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            features = self.network(normalise(self.means.images(batch))).float()  # (B, 448, h, w)
        return feature_affinities(features, self.settings.radius)
