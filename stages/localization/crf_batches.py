"""The dense CRF of many images on a GPU: several at a time, while threads prepare the next and write the last."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from stages.localization.crf_parameters import CrfParameters
from stages.localization.dense_crf import CrfProblem, backend_of, begun_together, without_padding
from stages.parallel.in_order import in_order

PIXELS = 2**21  # of a batch: about 1 GB with 3 labels, 2 GB with 21
WAITING = 3  # images for each thread that are prepared in advance, or wait to be written

Key = TypeVar("Key")
Result = TypeVar("Result")


def gpu_for(parameters: CrfParameters, device: str) -> str | None:
    """The GPU that refines where `device`, as given to a command, means one; None: the CPU.

    torch, whose import takes seconds, is asked only where there may be a GPU.
    """
    if device == "cpu" or backend_of(parameters, "cuda") != "torch" or (device == "auto" and not _has_driver()):
        return None
    from stages.engine.device import select_device

    chosen = select_device(device)
    return None if chosen.type == "cpu" else str(chosen)


def _has_driver() -> bool:
    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    return True


def refined_on_gpu(
    prepare: Callable[..., tuple[Key, CrfProblem]],
    tasks: Iterable[tuple[Any, ...]],
    finish: Callable[[Key, CrfProblem, np.ndarray], Result],
    device: str,
    threads: int,
) -> Iterator[Result]:
    """finish(key, problem, marginals) for (key, problem) = prepare(*task) of every task, in the order of the tasks."""
    ahead = WAITING * max(threads, 1)
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        problems = in_order(pool, prepare, tasks, ahead)
        yield from in_order(pool, finish, _solved(problems, device), ahead)


def _solved(problems: Iterable[tuple[Key, CrfProblem]], device: str) -> Iterator[tuple[Key, CrfProblem, np.ndarray]]:
    """While the GPU computes a batch, the one before is finished."""
    from stages.engine.to_host import Transfer, received

    def begun() -> Iterator[tuple[list[tuple[Key, CrfProblem]], Transfer]]:
        for batch in _batches(problems):
            of_image = [problem.image for _, problem in batch], [problem.unary for _, problem in batch]
            yield batch, begun_together(*of_image, batch[0][1].parameters, device)

    for batch, found in received(begun()):
        marginals = without_padding(found, [problem.unary for _, problem in batch])
        for (key, problem), own in zip(batch, marginals, strict=True):
            yield key, problem, own


def _batches(problems: Iterable[tuple[Key, CrfProblem]]) -> Iterator[list[tuple[Key, CrfProblem]]]:
    """Neighbours with equal parameters, together at most PIXELS pixels; a larger one alone."""
    batch: list[tuple[Key, CrfProblem]] = []
    pixels = 0
    for key, problem in problems:
        own = problem.image.shape[0] * problem.image.shape[1]
        if batch and (pixels + own > PIXELS or problem.parameters != batch[0][1].parameters):
            yield batch
            batch, pixels = [], 0
        batch.append((key, problem))
        pixels += own
    if batch:
        yield batch
