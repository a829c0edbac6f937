"""The refinement network of DRS (Kim et al., AAAI 2021): a network that learns to give the score maps of its images.

It learns what the score maps of many images have in common, so its maps lack the random errors of single ones.

    semiseg train-refiner --method drs-refinement --set network=vgg16-sec
    semiseg refine --method drs-refinement
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from artifacts.score_maps import ScoreMap
from stages.engine.distributed import global_mean
from stages.engine.known import Known
from stages.engine.method import Batch, Method, Setup, Sources
from stages.engine.streams import MapSource, Stream
from stages.engine.to_host import Transfer, received
from stages.localization.activation_maps import STRIDE, multi_scale_maps
from stages.networks.folding import for_inference
from stages.networks.suppression import SuppressedClassifier, build_suppressed
from stages.refiners.refiner import Means, Refiner
from stages.refiners.settings.drs_refinement import DrsRefinementSettings, DrsRefinementTrainingSettings


class DrsRefinementTraining(Method):
    """L = mean (R(x) - M 1[M = max over the classes of M])^2

    R: the network's maps, (K, h, w); M: the score maps at its cells, 0 for classes that are not labels of the image.
    """

    def __init__(self, settings: DrsRefinementTrainingSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        network = build_suppressed(setup.network, setup.num_classes - 1, setup.seed, None, setup.initial)
        self.networks = nn.ModuleDict({"refinement": network})

    @classmethod
    def streams(cls, settings: DrsRefinementTrainingSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        return {"labelled": Stream(sources.entries(sources.tagged, None), batch_size, maps=MapSource("seeds"))}

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        labelled, stride = batch["labelled"], self.predictor.stride
        maps = self.predictor.activation_maps(labelled.image).float()
        known = labelled.valid[:, None, ::stride, ::stride]
        return {"regression": regression(maps, labelled.maps[:, 1:], known)}

    @property
    def predictor(self) -> SuppressedClassifier:
        return cast(SuppressedClassifier, self.networks["refinement"])


def regression(maps: Tensor, scores: Tensor, known: Tensor) -> Tensor:
    """The mean squared difference over all classes, (B, K, h, w) both, where `known`, bool (B, 1, h, w), is true.

    Only the highest score of a cell is kept in the target, all lower ones become 0.
    """
    highest = torch.where(scores == scores.amax(1, keepdim=True), scores, 0)
    return global_mean(((maps - highest) ** 2 * known).sum(), known.sum() * maps.shape[1])


class DrsRefinement(Refiner):
    """The network's maps of the image's labels, the maximum over the scales, from 0 to 1."""

    training: ClassVar[type[Method] | None] = DrsRefinementTraining

    def __init__(self, settings: DrsRefinementSettings, network: SuppressedClassifier, means: Means) -> None:
        super().__init__(settings, for_inference(network, means.device, means.dtype), means)

    def refine(self, batches: Iterable[Sequence[Known]]) -> Iterator[ScoreMap]:
        settings, means = self.settings, self.means

        def maps_of(batch: Sequence[Known]) -> Tensor:
            return multi_scale_maps(
                self.network,
                means.images(batch),
                settings.scales,
                settings.flip,
                settings.batch_size,
                means.dtype,
                merge=torch.maximum,
            ).clamp(max=1)

        for batch, found in received((batch, Transfer(maps=maps_of(batch))) for batch in batches):
            for known, maps in zip(batch, found["maps"], strict=True):
                classes = np.array(known.classes, np.uint8)
                scores, size = maps[classes.astype(int) - 1], (known.image.shape[0], known.image.shape[1])
                yield ScoreMap(known.image_id, scores, classes, size, STRIDE, "refined")
