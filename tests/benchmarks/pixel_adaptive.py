"""Pixel-adaptive refinement against the dense CRF, which it can stand in for; the two do not give equal results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from artifacts.masks import IGNORE
from stages.localization.crf_parameters import PARAMETERS
from stages.localization.dense_crf import crf_probabilities
from stages.localization.grid import resize_maps
from stages.localization.pixel_adaptive import Neighbourhood, refined_maps
from tests.benchmarks import inputs
from tests.benchmarks.measure import Result, in_turn

# (image size, repeats)
SIZES: dict[str, tuple[tuple[int, int], int]] = {
    "tiny": ((48, 64), 1),
    "quick": (inputs.VOC_SIZE, 2),
    "full": (inputs.VOC_SIZE, 5),
}


def pixel_adaptive(scale: str, folder: Path) -> Result:
    """One image with the labels it has, on one thread, as in each process of `crf`."""
    size, repeats = SIZES[scale]
    image, mask = inputs.drawn_image(0, size)
    labels = sorted({0, *np.unique(mask).tolist()} - {IGNORE})
    scores = resize_maps(inputs.class_probabilities(mask, seed=0)[labels], size, 4)
    scores /= scores.sum(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def ours() -> torch.Tensor:
        seen = torch.from_numpy(image.transpose(2, 0, 1).copy()).float()[None]
        return refined_maps(seen, torch.from_numpy(scores)[None], Neighbourhood(), 20)[0]

    baseline, mine, crf, par = in_turn(lambda: crf_probabilities(image, scores, PARAMETERS["irn"]), ours, repeats)
    torch.set_num_threads(threads)
    off = float((par.sum(0) - 1).abs().max())
    agree = float(np.mean(par.numpy().argmax(0) == crf.argmax(0)))
    return Result(
        "pixel-adaptive",
        "pixel-adaptive refinement, 20 iterations, one thread; baseline: dense CRF irn, 10 iterations",
        f"one drawn image of {size[0]}x{size[1]}, {len(labels)} labels",
        baseline,
        mine,
        f"scores that sum to 1 still do, to {off:.1e}; the winner is the CRF's on {100 * agree:.1f} % of the pixels",
        off < 1e-4,
        figures={"agreement": agree},
    )
