"""Estimated masks of a data set's images: prediction that respects the image-level labels, dense CRF.

The network runs in this process while a pool refines and writes its predictions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from artifacts.dataset import Dataset
from artifacts.masks import IGNORE, write_mask
from artifacts.store import Writer
from stages.contract import Execution
from stages.engine.config import ImageLabels, InferenceConfig
from stages.localization.crf_batches import gpu_for, refined_on_gpu
from stages.localization.crf_parameters import CrfParameters
from stages.localization.dense_crf import CrfProblem, crf_problem
from stages.parallel.in_order import in_order
from stages.parallel.processes import process_pool
from stages.parallel.share import counted, share_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

AHEAD = 4  # images per process that wait to be refined: bounds the memory


@dataclass(frozen=True)
class Refiner:
    """Makes the estimated mask of an image from its class probabilities; can be sent to a pool of processes."""

    dataset: Dataset
    writer: Writer
    image_labels: ImageLabels
    crf: CrfParameters | None
    max_pixels: int
    min_confidence: float

    def __call__(self, image_id: str, classes: Sequence[int], probabilities: np.ndarray) -> str:
        """Writes masks/<id>.png from float32 (K, H, W) of the K `classes`."""
        if self.crf is None:
            return self._write(image_id, classes, probabilities.argmax(0), probabilities.max(0))
        key, problem = self.prepare(image_id, classes, probabilities)
        return self.finish(key, problem, problem.marginals())

    def prepare(
        self, image_id: str, classes: Sequence[int], probabilities: np.ndarray
    ) -> tuple[tuple[str, Sequence[int]], CrfProblem]:
        """The id with the classes, and what the CRF gets of the image."""
        assert self.crf is not None
        problem = crf_problem(self.dataset.image(image_id), probabilities, self.crf, self.max_pixels)
        return (image_id, classes), problem

    def finish(self, key: tuple[str, Sequence[int]], problem: CrfProblem, marginals: np.ndarray) -> str:
        """Writes masks/<id>.png from the marginals of the CRF."""
        return self._write(*key, *problem.labels(marginals))

    def _write(self, image_id: str, classes: Sequence[int], best: np.ndarray, confidence: np.ndarray) -> str:
        mask = np.asarray(classes, np.uint8)[best]
        if self.min_confidence > 0:
            mask[confidence < self.min_confidence] = IGNORE
        with self.writer.item(f"masks/{image_id}.png") as temporary:
            write_mask(temporary, mask)
        return image_id


def label_images(
    network: nn.Module,
    ids: Sequence[str],
    refiner: Refiner,
    inference: InferenceConfig,
    device: torch.device,
    execution: Execution,
) -> None:
    """Writes masks/<id>.png for those of `ids` that have none yet; under torchrun each rank its share of them.

    Every class that reaches a probability of 0.01 somewhere may win; of images whose labels are known and not ignored,
    background and these labels.
    """
    from stages.engine.inference import large_images, predict_probabilities
    from stages.engine.label_sharing import unknown_labels

    masks = share_of(ids, execution, lambda image_id: refiner.writer.has(f"masks/{image_id}.png"))
    views = predict_probabilities(
        network, refiner.dataset, masks.left, inference, device, workers=execution.own_workers
    )
    if remark := large_images(refiner.dataset, masks.left, inference):
        execution.progress.note(remark)
    if execution.rank == 0 and (remark := unknown_labels(refiner.dataset, ids, refiner.image_labels)):
        execution.progress.note(remark)
    with counted(refiner.writer, execution, "labelling", masks) as advance:
        for _ in _refined(refiner, _images(views, refiner), str(device), max(execution.own_workers, 1)):
            advance()


def _refined(
    refiner: Refiner, images: Iterable[tuple[str, list[int], np.ndarray]], device: str, workers: int
) -> Iterator[str]:
    if refiner.crf is not None and (gpu := gpu_for(refiner.crf, device)):
        yield from refined_on_gpu(refiner.prepare, images, refiner.finish, gpu, workers)
    else:
        with _pool(refiner, workers) as pool:
            yield from in_order(pool, _refine, images, AHEAD * workers)


_held: list[Refiner] = []  # the refiner is sent to a pool process once, not with every image


def _hold(refiner: Refiner) -> None:
    _held[:] = [refiner]


def _refine(image_id: str, classes: Sequence[int], probabilities: np.ndarray) -> str:
    return _held[0](image_id, classes, probabilities)


def _pool(refiner: Refiner, workers: int) -> Executor:
    """Processes for the CRF; without a CRF one thread is enough to encode PNGs while the network runs."""
    if refiner.crf is None or workers <= 1:
        return ThreadPoolExecutor(1, initializer=_hold, initargs=(refiner,))
    return process_pool(workers, _hold, refiner)


def _images(views: Iterable[tuple[list[str], Tensor]], refiner: Refiner) -> Iterator[tuple[str, list[int], np.ndarray]]:
    from stages.engine.label_sharing import respect_in_place, tags_of
    from stages.engine.to_host import Transfer, received

    dataset, how = refiner.dataset, refiner.image_labels

    def sent() -> Iterator[tuple[list[str], Transfer]]:
        for ids, batch in views:
            respect_in_place(batch, tags_of(dataset, ids), how)
            yield ids, Transfer(batch=batch)

    for ids, arrays in received(sent()):
        for image_id, probabilities in zip(ids, arrays["batch"], strict=True):
            always = {0} if dataset.has_background else set()
            if how != "ignore" and dataset.has_tags(image_id):
                always.update(dataset.tags(image_id))
            classes = [c for c, p in enumerate(probabilities.max((1, 2))) if p >= 0.01 or c in always]
            kept = probabilities[classes]
            yield image_id, classes, kept / np.maximum(kept.sum(0), 1e-30)
