"""The fully connected CRF of Krähenbühl and Koltun: refines score maps so that they follow the edges of the image.

Energy (Potts, mean field): every kernel m adds compat_m * sum_j k_m(f_i, f_j) Q_j with symmetric
normalisation (D^-1/2 K D^-1/2); Q starts as softmax(-unary) and is updated as
Q = softmax(-unary + sum_m compat_m K_m Q). The two kernels are a Gaussian on position and a bilateral one on
position and colour.
Source: Krähenbühl & Koltun, NIPS 2011 and ICML 2013. The filtering itself is done by pydensecrf.

    from stages.localization.dense_crf import PARAMETERS, crf_probabilities
    refined = crf_probabilities(image, probabilities, PARAMETERS["dsrg-test"])

This module imports neither torch nor, before the first call, pydensecrf, so pool processes start quickly.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from artifacts.errors import ConfigError, DataError
from artifacts.masks import IGNORE
from stages.parallel.processes import process_pool

UNARIES = ("log", "probability", "labels")


@dataclass(frozen=True)
class CrfParameters:
    """Weights and widths of the two kernels, and how scores become energies.

    `*_sxy` are standard deviations in pixels of the given image, `bilateral_srgb` is one in grey levels
    (0..255), `*_compat` the Potts weights. `unary` is the energy of a label:
      "log"          -log max(p, min_probability): the usual one;
      "probability"  -p, the probability itself taken as a negative energy. That is small against the pairwise
                     weights, so it smooths very strongly; the public DSRG code does it while training;
      "labels"       from a label map: -log c for the given label, -log((1-c)/(K-1)) for the K-1 others, with
                     c = `label_confidence`.
    """

    gaussian_sxy: float
    gaussian_compat: float
    bilateral_sxy: float
    bilateral_srgb: float
    bilateral_compat: float
    iterations: int = 10
    unary: str = "log"
    min_probability: float = 1e-5
    label_confidence: float = 0.7

    def __post_init__(self) -> None:
        for name in ("gaussian_sxy", "bilateral_sxy", "bilateral_srgb"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"dense CRF: {name} is {getattr(self, name)}, expected a number above 0")
        if self.gaussian_compat < 0 or self.bilateral_compat < 0:
            raise ConfigError(
                f"dense CRF: the compat weights are {self.gaussian_compat} and {self.bilateral_compat}, "
                "expected numbers of at least 0"
            )
        if self.iterations < 0:
            raise ConfigError(f"dense CRF: iterations is {self.iterations}, expected at least 0")
        if self.unary not in UNARIES:
            raise ConfigError(f"dense CRF: unary is {self.unary!r}, expected one of {', '.join(UNARIES)}")
        if not 0 < self.min_probability < 1 or not 0 < self.label_confidence < 1:
            raise ConfigError("dense CRF: min_probability and label_confidence must lie between 0 and 1")

    def at_scale(self, scale: float) -> CrfParameters:
        """The same CRF on an image reduced by `scale` (12: a twelfth as wide); SEC's `scale_factor`.

        The spatial widths shrink with the image, the colour width stays.
        """
        return dataclasses.replace(
            self, gaussian_sxy=self.gaussian_sxy / scale, bilateral_sxy=self.bilateral_sxy / scale
        )


_SEC = CrfParameters(gaussian_sxy=3, gaussian_compat=3, bilateral_sxy=80, bilateral_srgb=13, bilateral_compat=10)
_IRN = CrfParameters(
    gaussian_sxy=3,
    gaussian_compat=3,
    bilateral_sxy=50,
    bilateral_srgb=5,
    bilateral_compat=10,
    unary="labels",
    label_confidence=0.7,
)

PARAMETERS: dict[str, CrfParameters] = {
    "dsrg-test": _SEC,
    "dsrg-train": _SEC.at_scale(12),
    "deeplab-v1": CrfParameters(3, 3, 49, 5, 4),
    "deeplab-v2": CrfParameters(1, 3, 67, 3, 4),
    "psa": _SEC,
    "seam": dataclasses.replace(_SEC, iterations=1),
    "icd": dataclasses.replace(_SEC, unary="labels", label_confidence=0.5),
    "irn": _IRN,
    "puzzle": dataclasses.replace(_IRN, iterations=1),
    "wsgcn": CrfParameters(3, 3, 50, 5, 3),
}
"""Published parameter sets by name, as in each project's public code; 10 iterations unless given.

name        gaussian    bilateral
            sxy/compat  sxy/srgb/compat  source
dsrg-test   3/3         80/13/10         SEC (ECCV 2016) and DSRG (CVPR 2018) at test time, full size, -log p
dsrg-train  0.25/3      6.67/13/10       the same at 41x41 (scale factor 12); DSRG's own: unary="probability"
deeplab-v1  3/3         49/5/4           the scripts of the DeepLab-LargeFOV release
deeplab-v2  1/3         67/3/4           DeepLabv2 ResNet101; also deeplab-pytorch, DRS, EPS, CONTA
psa         3/3         80/13/10         AffinityNet (CVPR 2018), -log of the scores
seam        3/3         80/13/10         SEAM (CVPR 2020), 1 iteration
icd         3/3         80/13/10         ICD (CVPR 2020), from a label map with confidence 0.5
irn         3/3         50/5/10          IRNet (CVPR 2019), from a label map with confidence 0.7
puzzle      3/3         50/5/10          Puzzle-CAM (ICIP 2021), as irn with 1 iteration
wsgcn       3/3         50/5/3           WSGCN-I (ICME 2021)
"""


def named_parameters(name: str) -> CrfParameters:
    """The published set called `name`; ConfigError lists the known names."""
    if name not in PARAMETERS:
        raise ConfigError(f"no dense-CRF parameter set is called {name!r}", hint="known sets: " + ", ".join(PARAMETERS))
    return PARAMETERS[name]


def _pydensecrf() -> Any:
    try:
        import pydensecrf.densecrf as densecrf
    except ImportError as error:
        raise ConfigError(
            f"the dense CRF needs the package pydensecrf, which cannot be imported here ({error})",
            hint="pip install pydensecrf2   (it builds with a C++ compiler and is imported as pydensecrf)",
        ) from error
    return densecrf


def _mean_fields(image: np.ndarray, unaries: Sequence[np.ndarray], parameters: CrfParameters) -> list[np.ndarray]:
    """For each of the `unaries`, float32 (K, H, W) energies, its Q float32 (K, H, W); `image` uint8 (H, W, 3)."""
    num_labels, height, width = unaries[0].shape
    if num_labels == 1:  # a single label: the result is 1 everywhere
        return [np.ones((1, height, width), np.float32) for _ in unaries]
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
    return _mean_fields(image, [_energies(image, np.asarray(p, np.float32), parameters) for p in several], parameters)


def _energies(image: np.ndarray, probabilities: np.ndarray, parameters: CrfParameters) -> np.ndarray:
    """float32 (K, H, W) from probabilities (K, H, W)."""
    _check(image, probabilities.shape[1:])
    if not np.isfinite(probabilities).all():
        raise DataError("dense CRF: the probabilities hold values that are not finite numbers")
    if parameters.unary == "labels":
        return _label_energies(probabilities.argmax(axis=0), len(probabilities), parameters)
    if parameters.unary == "probability":
        return -probabilities
    energies: np.ndarray = -np.log(np.maximum(probabilities, parameters.min_probability))
    return energies


def crf_labels(
    image: np.ndarray, probabilities: np.ndarray, parameters: CrfParameters, max_pixels: int
) -> tuple[np.ndarray, np.ndarray]:
    """The most probable label after the CRF, an index 0..K-1 (H, W), and its probability, float32 (H, W).

    An image of more than `max_pixels` pixels is refined on a copy with that many, with widths reduced alike;
    `probabilities` may have the size of the image or of that copy already (`grid.reduced_size`).
    """
    from stages.localization.grid import reduced, reduced_size, resized

    size = (image.shape[0], image.shape[1])
    seen = reduced_size(size, max_pixels)
    if seen == size:
        refined = crf_probabilities(image, probabilities, parameters)
        return refined.argmax(axis=0), refined.max(axis=0)
    if probabilities.shape[1:] == size:
        probabilities = np.stack([resized(scores, seen) for scores in probabilities])
    scale = ((size[0] * size[1]) / (seen[0] * seen[1])) ** 0.5
    refined = crf_probabilities(reduced(image, max_pixels), probabilities, parameters.at_scale(scale))
    best, highest = np.zeros(size, np.uint8), resized(refined[0], size)
    for label, scores in enumerate(refined[1:], 1):  # label by label: all labels at full size would need gigabytes
        grown = resized(scores, size)
        wins = grown > highest
        best[wins], highest[wins] = label, grown[wins]
    return best, highest


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
) -> np.ndarray:
    """The CRF inside a training step, for a batch at reduced size (DSRG: 41x41).

    `images` uint8 (B, h, w, 3): the pixels on which the cells lie, before normalisation; `probabilities`
    (B, C, h, w). `present[b]` lists the label ids that take part in image b (background included); None: all
    C, as SEC and DSRG do. Returns float32 (B, C, h, w); labels that do not take part get 0. With a `pool` (see
    `crf_pool`) the images of the batch are computed in parallel; the result is the same.
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
    if pool is None:
        results: Iterable[np.ndarray] = map(crf_probabilities, *arguments)
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
