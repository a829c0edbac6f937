"""Masks against ground truth, file by file over processes, into one confusion matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from artifacts.errors import DataError
from artifacts.masks import read_mask
from stages.scoring.confusion import ConfusionMatrix
from stages.scoring.processes import map_in_processes

SHOWN = 20  # files named in one message

Pairs = Mapping[str, tuple[Path, Path]]  # id -> (prediction, ground truth)


def score_pairs(
    pairs: Pairs, num_classes: int, workers: int, advance: Callable[[], object] = lambda: None
) -> ConfusionMatrix:
    """The confusion matrix of all pairs of mask files.

    Every pair is read before an error is raised: one DataError then names the files that are damaged, have other values
    than 0..num_classes-1 and 255, or differ in size from their partner. `advance` is called after each pair.
    """
    matrix = ConfusionMatrix(num_classes)
    problems: dict[str, str] = {}
    for image_id, result in map_in_processes(_compare, (pairs, num_classes), sorted(pairs), workers):
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


def _compare(task: tuple[Pairs, int], image_id: str) -> ConfusionMatrix | DataError:
    pairs, num_classes = task
    prediction, ground_truth = pairs[image_id]
    matrix = ConfusionMatrix(num_classes)
    try:
        truth = read_mask(ground_truth, num_classes)
        found = read_mask(prediction, num_classes)
        if found.shape != truth.shape:
            raise DataError(
                f"{prediction} is {found.shape[1]}x{found.shape[0]} (width x height), "
                f"its ground truth {ground_truth} is {truth.shape[1]}x{truth.shape[0]}"
            )
        matrix.add(found, truth)
    except DataError as error:
        return error
    return matrix
