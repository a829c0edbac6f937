"""One confusion matrix of mask files and ground truth, computed in several processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from artifacts.errors import DataError
from artifacts.masks import read_mask
from stages.data.annotations.class_table import BLACK, WHITE
from stages.data.annotations.colour_masks import read_colours
from stages.evaluation.confusion import ConfusionMatrix
from stages.parallel.processes import map_in_processes

SHOWN = 20  # files named in one message

Pairs = Mapping[str, tuple[Path, Path]]  # id -> (prediction, ground truth)


def score_pairs(
    pairs: Pairs,
    num_classes: int,
    workers: int,
    advance: Callable[[], object] = lambda: None,
    binary: bool = False,
    each: Callable[[str, ConfusionMatrix], object] = lambda image_id, matrix: None,
) -> ConfusionMatrix:
    """The confusion matrix of all pairs of mask files. binary: the ground truth is black and white, white is class 1.

    Every pair is read before an error is raised: one DataError then names the files that are damaged, have values
    outside 0..num_classes-1 and 255, or differ in size from their partner. `advance` is called after each pair,
    `each` with the id and the matrix of each pair that is scored.
    """
    matrix = ConfusionMatrix(num_classes)
    problems: dict[str, str] = {}
    how = (num_classes, binary)  # the files travel with each id: a process does not need those of all images
    for image_id, result in map_in_processes(_compare, how, sorted(pairs), workers, pairs.__getitem__):
        if isinstance(result, DataError):
            problems[image_id] = result.message
        else:
            matrix.merge(result)
            each(image_id, result)
        advance()
    if problems:
        lines = [f"  {problems[image_id]}" for image_id in sorted(problems)[:SHOWN]]
        lines += [f"  and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise DataError(f"{len(problems)} of {len(pairs)} images cannot be scored:\n" + "\n".join(lines))
    return matrix


def _compare(how: tuple[int, bool], item: tuple[str, tuple[Path, Path]]) -> ConfusionMatrix | DataError:
    (num_classes, binary), (_, (prediction, ground_truth)) = how, item
    matrix = ConfusionMatrix(num_classes)
    try:
        truth = _white_as_1(ground_truth, allow_ignore=False) if binary else read_mask(ground_truth, num_classes)
        found = _white_as_1(prediction) if binary else read_mask(prediction, num_classes)
        if found.shape != truth.shape:
            raise DataError(
                f"{prediction} is {found.shape[1]}x{found.shape[0]} (width x height), "
                f"its ground truth {ground_truth} is {truth.shape[1]}x{truth.shape[0]}"
            )
        matrix.add(found, truth)
    except DataError as error:
        return error
    return matrix


def _white_as_1(path: Path, allow_ignore: bool = True) -> np.ndarray:
    """A black-and-white mask as class ids, uint8 (H, W): white is 1. An index mask of 0 and 1 is used as it is; with
    `allow_ignore` it may also hold 255 (no prediction).
    """
    codes = read_colours(path)
    if np.isin(codes, (BLACK, WHITE)).all():
        return (codes == WHITE).astype(np.uint8)
    return read_mask(path, 2, allow_ignore=allow_ignore)
