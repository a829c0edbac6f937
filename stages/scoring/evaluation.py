"""Masks against ground truth, file by file over processes, into one confusion matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from artifacts.errors import DataError
from artifacts.masks import read_mask
from stages.data.class_table import BLACK, WHITE, ClassTable
from stages.data.colour_masks import read_colours, to_indices
from stages.scoring.confusion import ConfusionMatrix
from stages.scoring.processes import map_in_processes

SHOWN = 20  # files named in one message

Pairs = Mapping[str, tuple[Path, Path]]  # id -> (prediction, ground truth)


def score_pairs(
    pairs: Pairs,
    num_classes: int,
    workers: int,
    advance: Callable[[], object] = lambda: None,
    binary: bool = False,
) -> ConfusionMatrix:
    """The confusion matrix of all pairs of mask files. binary: the ground truth is black and white, white is class 1.

    Every pair is read before an error is raised: one DataError then names the files that are damaged, have other values
    than 0..num_classes-1 and 255, or differ in size from their partner. `advance` is called after each pair.
    """
    matrix = ConfusionMatrix(num_classes)
    problems: dict[str, str] = {}
    for image_id, result in map_in_processes(_compare, (pairs, num_classes, binary), sorted(pairs), workers):
        if isinstance(result, DataError):
            problems[image_id] = result.message
        else:
            matrix.merge(result)
        advance()
    if problems:
        lines = [f"  {problems[image_id]}" for image_id in sorted(problems)[:SHOWN]]
        lines += [f"  and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise DataError(f"{len(problems)} of {len(pairs)} pictures cannot be scored:\n" + "\n".join(lines))
    return matrix


def _compare(task: tuple[Pairs, int, bool], image_id: str) -> ConfusionMatrix | DataError:
    pairs, num_classes, binary = task
    prediction, ground_truth = pairs[image_id]
    matrix = ConfusionMatrix(num_classes)
    try:
        truth = _white_as_1(ground_truth) if binary else read_mask(ground_truth, num_classes)
        found = _predicted_white_as_1(prediction) if binary else read_mask(prediction, num_classes)
        if found.shape != truth.shape:
            raise DataError(
                f"{prediction} is {found.shape[1]}x{found.shape[0]} (width x height), "
                f"its ground truth {ground_truth} is {truth.shape[1]}x{truth.shape[0]}"
            )
        matrix.add(found, truth)
    except DataError as error:
        return error
    return matrix


def _white_as_1(path: Path) -> np.ndarray:
    """A black-and-white mask, uint8 (H, W): black 0, white 1; DataError for other colours."""
    return to_indices(read_colours(path), ClassTable(("black", "white"), {BLACK: 0, WHITE: 1}), path)


def _predicted_white_as_1(path: Path) -> np.ndarray:
    """A prediction, black and white or an index mask of 0, 1 and 255 (no answer), as class ids."""
    if np.isin(read_colours(path), (BLACK, WHITE)).all():
        return _white_as_1(path)
    return read_mask(path, num_classes=2)
