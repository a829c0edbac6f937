"""What the networks of a method are shown in a step, and what they are taught of it: for images, never for a result.

    with watched():
        losses = method.losses(batch, step)
    found = lessons(losses)

Two kinds of places report while somebody watches: where images have become logits (`shown`, called by `at_size`) and
where logits meet labels (`taught`, called by the shared losses). Which images the logits of a loss are of is read from
autograd's graph, back over softmax, slices and joined batches. So a method with the shared functions reports nothing
itself; one with a loss of its own reports there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import Tensor

from artifacts.masks import IGNORE
from stages.engine.batch import Batch

_SHOWN, _LESSON = "images of these logits", "what is taught here"  # keys of the metadata of autograd's nodes
_watching = False


@dataclass(frozen=True)
class Lesson:
    """What a term of the loss teaches of some images.

    Attributes:
        terms: the names of the loss terms that teach it.
        rows: the images, each a batch and the place in it.
        target: int64 labels (B, H, W), 255 where nothing is taught, or probabilities or logits (B, C, H, W); row by
            row as `rows`, maybe on a coarser grid than the images.
        weight: (B, H, W), 0 where nothing is taught; None: the same everywhere.
        confidence: (B, H, W), 0..1, of the labels; None: not known.
    """

    terms: tuple[str, ...]
    rows: Sequence[tuple[Batch, int]]
    target: Tensor
    weight: Tensor | None
    confidence: Tensor | None = None

    def labels(self, row: int) -> tuple[Tensor, Tensor | None]:
        """uint8 labels (H, W) of a row, 255 where nothing is taught, and their confidence or weight, 0..1, if any."""
        target, weight = self.target[row], self.weight[row] if self.weight is not None else None
        confidence = self.confidence[row] if self.confidence is not None else None
        if target.ndim == 3:
            target = target.float()
            if bool((target < 0).any()) or bool((target > 1).any()):
                target = target.softmax(0)
            confidence, target = target.max(0)
            target = target.masked_fill(confidence == 0, IGNORE)
        if weight is not None:
            target = target.masked_fill(weight == 0, IGNORE)
            confidence = weight if confidence is None else confidence
        if confidence is not None and bool(((confidence == 0) | (confidence == 1)).all()):
            confidence = None  # the labels show it
        return target.byte(), confidence


@contextmanager
def watched() -> Iterator[None]:
    """Inside the block `shown` and `taught` keep what they are given, as long as the graph of the losses lives."""
    global _watching
    _watching = True
    try:
        yield
    finally:
        _watching = False


def shown(logits: Tensor, samples: Batch) -> None:
    """Reports that the rows of `logits` are of the images of `samples`, row by row."""
    if _watching and logits.grad_fn is not None and len(logits) == len(samples):
        _kept(logits)[_SHOWN] = samples


def taught(
    loss: Tensor, logits: Tensor, target: Tensor, weight: Tensor | None = None, confidence: Tensor | None = None
) -> None:
    """Reports that `loss`, on the way to a term, teaches `logits` a target; the arguments are those of `Lesson`."""
    if not _watching or loss.grad_fn is None:
        return
    rows = _rows(logits.grad_fn, logits.output_nr)
    if rows and len(rows) == len(target):
        weight = weight if weight is None else weight.detach()
        _kept(loss)[_LESSON] = Lesson((), rows, target.detach(), weight, confidence)


def _kept(tensor: Tensor) -> dict[str, Any]:
    """What the node that made a tensor keeps as long as it lives; torch's types take `metadata` for a function."""
    return cast(Any, tensor.grad_fn).metadata


def lessons(losses: Mapping[str, Tensor]) -> list[Lesson]:
    """What the terms teach, before their backward; what several terms teach alike stands once."""
    found: dict[tuple[int, ...], Lesson] = {}
    for term, loss in losses.items():
        for lesson in _lessons_before(loss.grad_fn):
            maps = (lesson.target, lesson.target if lesson.weight is None else lesson.weight)
            places = [place for samples, row in lesson.rows for place in (id(samples), row)]
            key = (*(value.data_ptr() for value in maps), *places)
            first = found.get(key, lesson)
            found[key] = replace(first, terms=tuple(dict.fromkeys((*first.terms, term))))
    return list(found.values())


def _lessons_before(node: Any) -> Iterator[Lesson]:
    """The lessons in the graph of a term; it is not followed into the networks."""
    seen, waiting = {None}, [node]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if (lesson := node.metadata.get(_LESSON)) is not None:
            yield lesson
        elif _SHOWN not in node.metadata:
            waiting += [before for before, _ in reversed(node.next_functions)]


def _rows(node: Any, output: int) -> list[tuple[Batch, int]]:
    """The images that an output of an operation is of, row by row; [] where that cannot be told."""
    chosen: list[slice] = []  # what slices and splits take of the rows, the last one first
    while node is not None and (samples := node.metadata.get(_SHOWN)) is None:
        name, inputs = node.name(), [part for part in node.next_functions if part[0] is not None]
        if getattr(node, "_saved_dim", None) == 0:
            if name.startswith("Cat"):
                parts = [_rows(*part) for part in inputs]
                return _taken([row for part in parts for row in part] if all(parts) else [], chosen)
            chosen.append(_slice(node, name, output))
        node, output = inputs[0] if inputs else (None, 0)
    return [] if node is None else _taken([(samples, row) for row in range(len(samples))], chosen)


def _slice(node: Any, name: str, output: int) -> slice:
    """The rows that an operation on rows takes for an output; none where it is not known to take any."""
    if name.startswith("SplitWithSizes"):
        first = sum(node._saved_split_sizes[:output])
        return slice(first, first + node._saved_split_sizes[output])
    if name.startswith("Split"):
        return slice(output * node._saved_split_size, (output + 1) * node._saved_split_size)
    if name.startswith("Slice"):
        start, end = (bound - 2**64 if bound >= 2**63 else bound for bound in (node._saved_start, node._saved_end))
        return slice(start, end, node._saved_step)
    return slice(0)


def _taken(rows: list[tuple[Batch, int]], chosen: Sequence[slice]) -> list[tuple[Batch, int]]:
    for part in reversed(chosen):
        rows = rows[part]
    return rows
