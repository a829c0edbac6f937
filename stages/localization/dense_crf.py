"""The fully connected CRF of Krähenbühl and Koltun: refines score maps so that they follow the edges of the image.

Energy (Potts, mean field): every kernel m adds compat_m * sum_j k_m(f_i, f_j) Q_j with symmetric
normalisation (D^-1/2 K D^-1/2); Q starts as softmax(-unary) and is updated as
Q = softmax(-unary + sum_m compat_m K_m Q). The two kernels are a Gaussian on position and a bilateral one on
position and colour.
Source: Krähenbühl & Koltun, NIPS 2011 and ICML 2013. The filtering is done by pydensecrf, or by torch
(`stages.localization.mean_field`), which gives the same to 1e-3.

    from stages.localization.crf_parameters import PARAMETERS
    from stages.localization.dense_crf import crf_probabilities
    refined = crf_probabilities(image, probabilities, PARAMETERS["dsrg-test"])

This module imports neither torch nor pydensecrf before the first call that needs it, so pool processes start quickly.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from artifacts.errors import ConfigError, DataError
from artifacts.masks import IGNORE
from stages.localization.crf_parameters import CrfParameters
from stages.parallel.processes import process_pool

if TYPE_CHECKING:
    from stages.engine.to_host import Transfer


def backend_of(parameters: CrfParameters, device: str = "cpu") -> str:
    """What computes: "pydensecrf" or "torch". "auto" takes pydensecrf on a CPU, where it is installed."""
    if parameters.backend != "auto":
        return parameters.backend
    return "torch" if device != "cpu" or importlib.util.find_spec("pydensecrf") is None else "pydensecrf"


def _pydensecrf() -> Any:
    try:
        import pydensecrf.densecrf as densecrf
    except ImportError as error:
        raise ConfigError(
            f"the dense CRF needs the package pydensecrf, which cannot be imported here ({error})",
            hint="set its backend to torch, which gives the same to 1e-3, or pip install pydensecrf2 (it builds with a "
            "C++ compiler and is imported as pydensecrf)",
        ) from error
    return densecrf


def _mean_fields(image: np.ndarray, unaries: Sequence[np.ndarray], parameters: CrfParameters) -> list[np.ndarray]:
    """For each of the `unaries`, float32 (K, H, W) energies, its Q float32 (K, H, W); `image` uint8 (H, W, 3)."""
    num_labels, height, width = unaries[0].shape
    if num_labels == 1:  # a single label: the result is 1 everywhere
        return [np.ones((1, height, width), np.float32) for _ in unaries]
    if backend_of(parameters) == "torch":
        from stages.localization.mean_field import mean_fields

        return list(mean_fields([image], [np.stack(unaries)], parameters)[0])
    field = _pydensecrf().DenseCRF2D(width, height, num_labels)
    if parameters.gaussian_compat > 0:
        field.addPairwiseGaussian(sxy=parameters.gaussian_sxy, compat=parameters.gaussian_compat)
    if parameters.bilateral_compat > 0:
        field.addPairwiseBilateral(
            sxy=parameters.bilateral_sxy,
            srgb=parameters.bilateral_srgb,
            rgbim=np.ascontiguousarray(image),
            compat=parameters.bilateral_compat,
        )
    found = []
    for unary in unaries:  # the kernels depend on the image alone: they are kept, which saves a third of the work
        field.setUnaryEnergy(np.ascontiguousarray(unary.reshape(num_labels, -1), np.float32))
        found.append(np.array(field.inference(parameters.iterations), np.float32).reshape(unary.shape))
    return found


def _check(image: np.ndarray, size: tuple[int, ...]) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise DataError(f"dense CRF: the image is {image.dtype} {image.shape}, expected uint8 (height, width, 3)")
    if image.shape[:2] != size:
        raise DataError(
            f"dense CRF: the image has {image.shape[:2]} rows and columns, the scores have {size}",
            hint="resize the scores to the image first",
        )


def crf_probabilities(image: np.ndarray, probabilities: np.ndarray, parameters: CrfParameters) -> np.ndarray:
    """Mean-field marginals of the dense CRF.

    `image` uint8 (H, W, 3) RGB; `probabilities` (K, H, W) of the K labels that take part; returns float32
    (K, H, W) that sums to 1 over K. Equals calling pydensecrf with these K labels. With unary "labels" only the
    argmax of the probabilities counts (`crf_from_labels`). DataError when shapes differ or a value is not a
    finite number.
    """
    return crf_of_each(image, [probabilities], parameters)[0]


def crf_of_each(image: np.ndarray, several: Sequence[np.ndarray], parameters: CrfParameters) -> list[np.ndarray]:
    """`crf_probabilities` for several probabilities of the same labels; what depends on the image is shared."""
    return _mean_fields(image, [energies(image, scores, parameters) for scores in several], parameters)


def crf_together(
    images: Sequence[np.ndarray], unaries: Sequence[np.ndarray], parameters: CrfParameters, device: str
) -> list[np.ndarray]:
    """Marginals (K, H, W) of several images by torch, from their `energies`; each has its own size and labels."""
    return without_padding(begun_together(images, unaries, parameters, device).arrays(), unaries)


def begun_together(
    images: Sequence[np.ndarray], unaries: Sequence[np.ndarray], parameters: CrfParameters, device: str
) -> Transfer:
    """`crf_together` on their way to the host, for `without_padding`."""
    from stages.localization.mean_field import begun_mean_fields

    most = max(len(unary) for unary in unaries)
    padded = [np.full((1, most, *unary.shape[1:]), np.inf, np.float32) for unary in unaries]
    for whole, unary in zip(padded, unaries, strict=True):
        whole[0, : len(unary)] = unary  # a label of infinite energy has the probability 0: it changes nothing
    return begun_mean_fields(images, padded, parameters, device)


def without_padding(found: Mapping[str, np.ndarray], unaries: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The marginals of each image, of the labels that it has."""
    return [marginals[0, : len(unary)] for marginals, unary in zip(found.values(), unaries, strict=True)]


def energies(image: np.ndarray, probabilities: np.ndarray, parameters: CrfParameters) -> np.ndarray:
    """The energy of each label at each pixel, float32 (K, H, W), from probabilities (K, H, W)."""
    probabilities = np.asarray(probabilities, np.float32)
    _check(image, probabilities.shape[1:])
    if not np.isfinite(probabilities).all():
        raise DataError("dense CRF: the probabilities hold values that are not finite numbers")
    if parameters.unary == "labels":
        return _label_energies(probabilities.argmax(axis=0), len(probabilities), parameters)
    if parameters.unary == "probability":
        return -probabilities
    found: np.ndarray = -np.log(np.maximum(probabilities, parameters.min_probability))
    return found


@dataclass(frozen=True)
class CrfProblem:
    """What the CRF gets of an image: pixels uint8 (h, w, 3), energies float32 (K, h, w); `size` is the image's (H, W).

    (h, w) is smaller where the image has too many pixels; the widths in `parameters` are reduced alike.
    """

    image: np.ndarray
    unary: np.ndarray
    parameters: CrfParameters
    size: tuple[int, int]

    def marginals(self) -> np.ndarray:
        """float32 (K, h, w)"""
        return _mean_fields(self.image, [self.unary], self.parameters)[0]

    def labels(self, marginals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The most probable label, an index 0..K-1 (H, W), and its probability, float32 (H, W)."""
        from stages.localization.grid import resized

        if marginals.shape[1:] == self.size:
            return marginals.argmax(axis=0), marginals.max(axis=0)
        best, highest = np.zeros(self.size, np.uint8), resized(marginals[0], self.size)
        for label, scores in enumerate(marginals[1:], 1):  # one by one: all labels at full size would need gigabytes
            grown = resized(scores, self.size)
            wins = grown > highest
            best[wins], highest[wins] = label, grown[wins]
        return best, highest


def crf_problem(image: np.ndarray, probabilities: np.ndarray, parameters: CrfParameters, max_pixels: int) -> CrfProblem:
    """An image of more than `max_pixels` pixels is refined on a copy with that many, with widths reduced alike.

    `probabilities` (K, h, w) may have the size of the image or of that copy already (`grid.reduced_size`).
    """
    from stages.localization.grid import reduced, reduced_size, resized

    size = (image.shape[0], image.shape[1])
    seen = reduced_size(size, max_pixels)
    if seen != size:
        if probabilities.shape[1:] == size:
            probabilities = np.stack([resized(scores, seen) for scores in probabilities])
        parameters = parameters.at_scale(((size[0] * size[1]) / (seen[0] * seen[1])) ** 0.5)
        image = reduced(image, max_pixels)
    return CrfProblem(image, energies(image, probabilities, parameters), parameters, size)


def crf_labels(
    image: np.ndarray, probabilities: np.ndarray, parameters: CrfParameters, max_pixels: int
) -> tuple[np.ndarray, np.ndarray]:
    """The most probable label after the CRF, an index 0..K-1 (H, W), and its probability, float32 (H, W).

    See `crf_problem` for `max_pixels`.
    """
    problem = crf_problem(image, probabilities, parameters, max_pixels)
    return problem.labels(problem.marginals())


def present(scores: np.ndarray, threshold: float) -> np.ndarray:
    """bool (K,): which of the maps (K, H, W) win a pixel, or reach `threshold` somewhere."""
    wins = np.bincount(scores.argmax(axis=0).ravel(), minlength=len(scores)) > 0
    return wins | (scores.max(axis=(1, 2)) >= threshold)


def crf_from_labels(image: np.ndarray, labels: np.ndarray, num_labels: int, parameters: CrfParameters) -> np.ndarray:
    """Dense CRF from a label map: `labels` integers (H, W), 0..num_labels-1 -> float32 (num_labels, H, W).

    The given label gets the energy -log c, each other label -log((1-c)/(num_labels-1)), c = `label_confidence`
    (pydensecrf's `unary_from_labels` with zero_unsure=False). A pixel of 255 has one energy for all labels.
    """
    _check(image, labels.shape)
    known = labels != IGNORE
    if known.any() and int(labels[known].max()) >= num_labels:
        raise DataError(
            f"dense CRF: the label map holds {int(labels[known].max())}, expected 0..{num_labels - 1} or 255"
        )
    return _mean_fields(image, [_label_energies(labels, num_labels, parameters)], parameters)[0]


def _label_energies(labels: np.ndarray, num_labels: int, parameters: CrfParameters) -> np.ndarray:
    confidence, known = parameters.label_confidence, labels != IGNORE
    unary = np.full((num_labels, *labels.shape), -np.log((1 - confidence) / max(num_labels - 1, 1)), np.float32)
    rows, columns = np.nonzero(known)
    unary[labels[known], rows, columns] = -np.log(confidence)
    return unary


def crf_batch(
    images: np.ndarray,
    probabilities: np.ndarray,
    present: Sequence[Sequence[int]] | None,
    parameters: CrfParameters,
    pool: Executor | None = None,
    device: str = "cpu",
) -> np.ndarray:
    """The CRF inside a training step, for a batch at reduced size (DSRG: 41x41).

    `images` uint8 (B, h, w, 3): the pixels on which the cells lie, before normalisation; `probabilities`
    (B, C, h, w). `present[b]` lists the label ids that take part in image b (background included); None: all
    C, as SEC and DSRG do. Returns float32 (B, C, h, w); labels that do not take part get 0. With a `pool` (see
    `crf_pool`) pydensecrf computes the images of the batch in parallel; the result is the same. torch computes them
    together.
    """
    probabilities = np.asarray(probabilities, np.float32)
    batch, num_classes = probabilities.shape[:2]
    if present is None:
        present = [range(num_classes)] * batch
    if not len(images) == batch == len(present):
        raise DataError(
            f"dense CRF: {len(images)} images, {batch} score maps and {len(present)} label lists in a batch"
        )
    classes = [np.array(sorted(labels), np.intp) for labels in present]
    scores = [probabilities[b][classes[b]] for b in range(batch)]
    refined = np.zeros_like(probabilities)
    arguments = (images, scores, [parameters] * batch)
    results: Iterable[np.ndarray]
    if backend_of(parameters, device) == "torch":
        results = crf_together(list(images), list(map(energies, *arguments)), parameters, device)
    elif pool is None:
        results = map(crf_probabilities, *arguments)
    else:  # long chunks: an image of 41x41 takes 8 ms, too short to be sent to another process alone
        chunk = math.ceil(batch / (os.cpu_count() or 1))
        results = pool.map(crf_probabilities, *arguments, chunksize=chunk)
    for b, marginals in enumerate(results):
        refined[b, classes[b]] = marginals
    return refined


def crf_pool(workers: int) -> ProcessPoolExecutor:
    """Processes for `crf_batch`, one thread each. Close it with `with` or `.shutdown()`.

    Processes start from a clean server process (not from a copy of this one), because a process that has used
    CUDA or threads cannot be copied safely.
    """
    return process_pool(workers)
