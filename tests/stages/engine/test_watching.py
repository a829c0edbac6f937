"""stages/engine/watching.py: which images the logits of a loss are of, and what is taught there."""

from __future__ import annotations

import sys

import pytest
import torch

from stages.engine import watching
from stages.engine.batch import Batch, together
from stages.engine.losses import cross_entropy, soft_cross_entropy, squared_difference
from stages.engine.watching import Lesson, lessons, shown, taught, watched
from stages.methods import METHODS
from tests.stages.drawn_training import CASES
from tests.stages.methods.conftest import case  # noqa: F401  (a fixture)


def batch_of(ids: str) -> Batch:
    """A batch of images of 4x4 pixels, an id for each letter."""
    count = len(ids)
    return Batch(
        ids=list(ids),
        image=torch.rand(count, 3, 4, 4),
        pixels=torch.zeros(count, 3, 4, 4, dtype=torch.uint8),
        label=torch.zeros(count, 4, 4, dtype=torch.int64),
        valid=torch.ones(count, 4, 4, dtype=torch.bool),
        tags=torch.zeros(count, 2),
    )


OPERATIONS = {
    "whole": lambda a, b: a,
    "split": lambda a, b: a.split([2, 3, 1])[1],
    "last of a split": lambda a, b: a.split(4)[1],
    "chunk": lambda a, b: a.chunk(3)[2],
    "slice": lambda a, b: a[1:4],
    "to the end": lambda a, b: a[-2:],
    "every second": lambda a, b: a[::2],
    "joined": lambda a, b: torch.cat([a[2:4], b]),
    "split and joined": lambda a, b: torch.cat([*reversed(a.split([2, 4])), b[:1]]),
    "slice of a split": lambda a, b: a.split([1, 5])[1][2:],
    "classes and rows": lambda a, b: torch.cat([a[:, :1], a[:, 1:]], 1)[1:3],
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_images_of_logits_are_found_through_slices_splits_and_joins(name):
    """Against the same operations on tensors that hold the numbers of their rows."""
    first, second, network = batch_of("abcdef"), batch_of("xy"), torch.nn.Conv2d(3, 3, 1)
    with watched():
        logits = [network(samples.image) * 2 for samples in (first, second)]
        for found, samples in zip(logits, (first, second), strict=True):
            shown(found, samples)
        chosen = OPERATIONS[name](*logits)
        loss = squared_difference(chosen.softmax(1), torch.rand(chosen.shape), torch.ones(chosen[:, 0].shape).bool())
    numbers = [
        torch.arange(count).view(-1, 1, 1, 1).expand(count, 3, 4, 4) + base for count, base in ((6, 0), (2, 100))
    ]
    (lesson,) = lessons({"term": loss * 3})
    assert [row + (100 if samples is second else 0) for samples, row in lesson.rows] == OPERATIONS[name](*numbers)[
        :, 0, 0, 0
    ].tolist()
    assert lesson.terms == ("term",)


def test_rows_that_an_unknown_operation_moves_are_not_guessed():
    samples, network = batch_of("abcd"), torch.nn.Conv2d(3, 3, 1)
    with watched():
        logits = network(samples.image)
        shown(logits, samples)
        moved = torch.stack([logits[1], logits[0], logits[3], logits[2]])
        loss = cross_entropy(moved, samples.label)
    assert lessons({"term": loss}) == []


def test_terms_that_teach_alike_are_one_lesson_and_a_loss_of_two_parts_has_two():
    samples, label = batch_of("ab"), torch.tensor([0, 1]).view(2, 1, 1).expand(2, 4, 4)
    networks = torch.nn.Conv2d(3, 3, 1), torch.nn.Conv2d(3, 3, 1)
    with watched():
        logits = [network(samples.image) for network in networks]
        for found in logits:
            shown(found, samples)
        terms = {
            "one": cross_entropy(logits[0], label),
            "two": cross_entropy(logits[1], label),
            "sum": cross_entropy(logits[0], 1 - label) + cross_entropy(logits[1], label * 2),
        }
    found = lessons(terms)
    assert [lesson.terms for lesson in found] == [("one", "two"), ("sum",), ("sum",)]
    assert [lesson.labels(1)[0].unique().item() for lesson in found] == [1, 0, 2]


def test_nothing_is_kept_while_nobody_watches():
    samples, network = batch_of("ab"), torch.nn.Conv2d(3, 3, 1)
    logits = network(samples.image)
    shown(logits, samples)
    loss = cross_entropy(logits, samples.label)
    assert logits.grad_fn.metadata == {}
    assert lessons({"term": loss}) == []


def test_labels_are_255_where_the_weight_is_0_and_probabilities_have_a_confidence():
    label = torch.tensor([[[0, 1, 2, 255]]])
    assert Lesson((), [], label, None).labels(0)[0].tolist() == [[0, 1, 2, 255]]
    found, confidence = Lesson((), [], label, torch.tensor([[[0.0, 0.5, 1.0, 1.0]]])).labels(0)
    assert found.tolist() == [[255, 1, 2, 255]]
    assert confidence is not None
    assert confidence.tolist() == [[0, 0.5, 1, 1]]
    assert Lesson((), [], label, torch.tensor([[[0.0, 1.0, 1.0, 1.0]]])).labels(0)[1] is None  # the labels show it
    probabilities = torch.tensor([[[[0.25, 0.0]], [[0.75, 0.0]]]])
    found, confidence = Lesson((), [], probabilities, None).labels(0)
    assert (found.tolist(), confidence.tolist()) == ([[1, 255]], [[0.75, 0]])
    found, confidence = Lesson((), [], torch.tensor([[[[-1.0]], [[1.0]]]]), None).labels(0)  # logits
    assert found.tolist() == [[1]]
    assert confidence.item() == pytest.approx(1 / (1 + torch.e**-2))


def test_a_report_of_the_method_stands_before_that_of_the_shared_loss():
    samples, network = batch_of("ab"), torch.nn.Conv2d(3, 3, 1)
    with watched():
        logits = network(samples.image)
        shown(logits, samples)
        loss = cross_entropy(logits, samples.label)
        taught(loss, logits, samples.label, None, torch.full((2, 4, 4), 0.3))
    (lesson,) = lessons({"term": loss})
    assert lesson.labels(0)[1].unique().item() == pytest.approx(0.3)


def test_soft_targets_are_lessons():
    samples, network = batch_of("ab"), torch.nn.Conv2d(3, 3, 1)
    with watched():
        logits = network(samples.image)
        shown(logits, samples)
        loss = soft_cross_entropy(
            logits, torch.tensor([0.1, 0.7, 0.2]).view(1, 3, 1, 1).expand(2, 3, 4, 4), samples.valid
        )
    (lesson,) = lessons({"term": loss})
    assert lesson.labels(1)[0].unique().item() == 1


def test_batches_together_keep_their_rows():
    first, second = batch_of("ab"), batch_of("c")
    both = together(first, second)
    assert both.ids == ["a", "b", "c"]
    assert torch.equal(both.image[2], second.image[0])
    assert [len(value) for value in (both.pixels, both.label, both.valid, both.tags)] == [3, 3, 3, 3]
    assert both.encoded == {}
    kept = {"high": torch.rand(2, 5, 1, 1)}
    assert together(first.replace(encoded=kept), second).encoded["high"].equal(kept["high"])


PUBLISHED = [name for name, settings in CASES.items() if settings["name"] == name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_lesson_of_a_method_is_of_the_images_that_its_logits_came_from(name, case, monkeypatch):  # noqa: F811
    """The logits of a row, or their softmax (dsrg: with a floor; gct: 0 on padding), are those of a pass of its image.

    Without this a part of a split, or a joined batch, could stand beside the wrong images.
    """
    settings = {key: value for key, value in CASES[name].items() if key != "name"}
    made = case(name, batch_size=4, **settings)
    passes, given = {}, {}

    def kept_shown(logits, samples):
        shown(logits, samples)
        passes.setdefault(id(samples), []).append((samples, logits.detach().clone()))

    def kept_taught(loss, logits, *rest):
        taught(loss, logits, *rest)
        if (lesson := loss.grad_fn.metadata.get(watching._LESSON)) is not None:
            given[id(lesson.rows)] = logits.detach().clone()

    for module in [module for name, module in sys.modules.items() if name.startswith("stages.")]:
        for key, kept in {"shown": kept_shown, "taught": kept_taught}.items():
            if getattr(module, key, None) is getattr(watching, key) and module is not watching:
                monkeypatch.setattr(module, key, kept)
    with watched():
        terms = made.losses()
    found = lessons(terms)
    assert bool(found) == (METHODS[name].card.output == "segmenter")
    for lesson in found:
        for row, (samples, place) in enumerate(lesson.rows):
            own, logits = given[id(lesson.rows)][row], [seen[place] for _, seen in passes[id(samples)]]
            expected = [value * (own != 0) for seen in logits for value in (seen, seen.softmax(0))]
            assert any(torch.allclose(own, value, atol=2e-3) for value in expected), (lesson.terms, row)
