"""IRNet (Ahn et al., CVPR 2019): a random walk of scores between class boundaries; instances by a displacement field.

A network learns class boundaries from pairs of cells with confident labels. A random walk then propagates the scores of
an image from cell to cell, but not across predicted boundaries. A second branch learns, from the same pairs, the
displacement of each cell to the centroid of its instance: the walk of the scores of each instance alone gives its mask.

    semiseg train-refiner --method irn
    semiseg refine

    semiseg train-refiner --method irn --set method.displacement=true
    semiseg instances
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from artifacts.dataset import Dataset
from artifacts.score_maps import ScoreMap
from stages.data.decoding import decoded_ahead, size_batches
from stages.engine import distributed
from stages.engine.device import sent
from stages.engine.known import Known
from stages.engine.method import Batch, Method, Setup, Sources
from stages.engine.streams import Stream
from stages.engine.to_host import Transfer, received
from stages.localization.activation_maps import ALONE_PIXELS
from stages.localization.boundary_labels import prepare
from stages.localization.centroids import Found, instances_between_boundaries
from stages.localization.pair_learning import affinity_losses, displacement_losses
from stages.localization.pairs import class_boundary_affinity
from stages.localization.random_walk import walk_between_boundaries
from stages.networks import normalise
from stages.networks.boundary import STRIDE, BoundaryNetwork, build_boundary_network, with_mirror
from stages.networks.folding import for_inference
from stages.parallel.in_order import results_in_order
from stages.refiners.refiner import Means, Refiner
from stages.refiners.settings.irn import InstanceSettings, IrnSettings, IrnTrainingSettings


class IrnTraining(Method):
    """L = 1/2 (L_aff+ + L_aff-),  a_ij = 1 - max over the cells k on the line from i to j of B_k
    L_aff+ = 1/2 mean over background pairs + 1/2 mean over foreground pairs of -log(a_ij + 1e-5)
    L_aff- = mean over pairs of two classes of -log(1 + 1e-5 - a_ij)
    with `displacement` in addition 1/2 (L_dp_fg + L_dp_bg)
    L_dp_fg = mean over foreground pairs of |D_i - D_j - (x_j - x_i)|
    L_dp_bg = mean over background pairs of |D_i - D_j|

    B: the boundary, the sigmoid of the network's logits; D: the displacement, in cells; pairs i, j of cells nearer than
    `radius`.
    """

    prepare = staticmethod(prepare)
    prepared = ("labels",)

    def __init__(self, settings: IrnTrainingSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        network = build_boundary_network(setup.network, setup.seed, setup.initial, settings.displacement)
        self.networks = nn.ModuleDict({"boundary": network})

    @classmethod
    def streams(cls, settings: IrnTrainingSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        return {"labelled": Stream(sources.entries(sources.tagged, "labels"), batch_size)}

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        labelled, radius = batch["labelled"], self.settings.radius
        labels = labelled.label[:, ::STRIDE, ::STRIDE]  # cell i lies on pixel 4 i
        if not self.settings.displacement:
            boundary = self.predictor(labelled.image).float().sigmoid()
            return affinity_losses(class_boundary_affinity(boundary, radius), labels, radius)
        logits, displacement = self.predictor.with_displacement(labelled.image)
        found = affinity_losses(class_boundary_affinity(logits.float().sigmoid(), radius), labels, radius)
        return found | displacement_losses(displacement.float(), labels, radius)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The displacement branch in groups of its own, with the factor of its learning rate."""
        groups, branch = super().parameter_groups(), self.predictor.displacement
        if branch is None:
            return groups
        own = {id(parameter) for parameter in branch.parameters()}
        first = [{**group, "params": [p for p in group["params"] if id(p) not in own]} for group in groups]
        second = [{**group, "params": [p for p in group["params"] if id(p) in own]} for group in groups]
        return first + [group | {"lr_factor": self.settings.displacement_lr_factor} for group in second]

    def after_training(self, predictor: nn.Module, sources: Sources) -> None:
        """Measures the mean displacement over the training images, which is subtracted from now on."""
        network = cast(BoundaryNetwork, predictor)
        if network.displacement is not None:
            assert sources.dataset is not None
            own = sources.tagged[distributed.rank() :: distributed.world_size()]
            network.displacement.mean.copy_(mean_displacement(network, sources.dataset, own, self.setup.workers))

    @property
    def predictor(self) -> BoundaryNetwork:
        return cast(BoundaryNetwork, self.networks["boundary"])


@torch.no_grad()
def mean_displacement(network: BoundaryNetwork, dataset: Dataset, ids: Sequence[str], threads: int) -> Tensor:
    """(2,): the mean over the images of all processes, each the mean over the cells of the whole image.

    ids: those of this process.
    """
    device = next(network.parameters()).device
    total = torch.zeros(3)  # dy, dx, images
    sizes = {image_id: dataset.size(image_id) for image_id in ids}
    for members, pixels in decoded_ahead(
        dataset, size_batches(sizes, lambda height, width: max(ALONE_PIXELS // 4 // (height * width), 1)), threads
    ):
        images = normalise(sent(pixels, device).permute(0, 3, 1, 2))
        means = network.with_displacement(images)[1].mean((2, 3))
        total += torch.cat([means.sum(0), means.new_tensor([len(members)])]).cpu()
    total = distributed.sum_over_processes(total.to(device))
    return total[:2] / total[2].clamp(min=1)


class Irn(Refiner):
    """A random walk of 2^doublings steps of scores times (1 - boundary), divided by the maximum."""

    training: ClassVar[type[Method] | None] = IrnTraining

    def __init__(self, settings: IrnSettings, network: BoundaryNetwork, means: Means) -> None:
        super().__init__(settings, for_inference(network, means.device, means.dtype), means)

    def refine(self, batches: Iterable[Sequence[Known]]) -> Iterator[ScoreMap]:
        """The network runs on the device, the walks in processes."""
        settings = self.settings
        tasks = (
            (known.scores, boundary, settings.radius, settings.beta, settings.doublings)
            for batch, found in received((batch, Transfer(boundary=self.boundaries(batch))) for batch in batches)
            for known, boundary in zip(batch, found["boundary"], strict=True)
        )
        return results_in_order(walk_between_boundaries, tasks, self.means.workers)

    @torch.inference_mode()
    def boundaries(self, batch: Sequence[Known]) -> Tensor:
        """(B, h, w), 0..1, of images of one size: the sigmoid of the mean of the logits of image and mirrored copy."""
        seen, mirrored = on_images(self.network, batch, self.means)
        return ((seen + mirrored) / 2).sigmoid()


class IrnInstances:
    """Instances of images: the walk of each class's scores at the cells that lead to one centroid."""

    def __init__(self, settings: InstanceSettings, network: BoundaryNetwork, means: Means) -> None:
        """network: trained with `displacement`, on the CPU."""
        self.settings, self.network, self.means = settings, for_inference(network, means.device, means.dtype), means

    def find(self, batches: Iterable[Sequence[Known]]) -> Iterator[Found]:
        """The instances of each image, in the order of the images; images of one batch have equal sizes."""
        tasks = (
            (known.scores, boundary, displacement, self.settings)
            for batch, found in received((batch, Transfer(**self.fields(batch))) for batch in batches)
            for known, boundary, displacement in zip(batch, *found.values(), strict=True)
        )
        return results_in_order(instances_between_boundaries, tasks, self.means.workers)

    @torch.inference_mode()
    def fields(self, batch: Sequence[Known]) -> dict[str, Tensor]:
        """(B, h, w) boundaries as `Irn` has them, and (B, 2, h, w) displacements of the images themselves, in cells."""

        def network(images: Tensor) -> Tensor:
            logits, displacement = self.network.with_displacement(images)
            return torch.cat([logits[:, None], displacement], 1)

        seen, mirrored = on_images(network, batch, self.means)
        return {"boundary": ((seen[:, 0] + mirrored[:, 0]) / 2).sigmoid(), "displacement": seen[:, 1:]}


def on_images(network: Callable[[Tensor], Tensor], batch: Sequence[Known], means: Means) -> tuple[Tensor, Tensor]:
    """`with_mirror` of images of one size."""
    with torch.autocast(means.device.type, dtype=means.dtype, enabled=means.dtype is not None):
        return with_mirror(network, normalise(means.images(batch)))
