"""stages/engine.label_sharing.py, against probabilities worked by hand and a plain loop."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.engine.label_sharing import respect_labels

NAN = math.nan


def probabilities(values, tags, how):
    """Of one pixel with these probabilities."""
    logits = torch.tensor([values], dtype=torch.float64).log()
    return respect_labels(logits, torch.tensor([tags], dtype=torch.float32), how).softmax(1)[0].tolist()


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("ignore", [0.08, 0.9, 0.02, 0.0]),
        ("share", [0.08, 0.0, 0.92, 0.0]),  # horse: 1 - .08
        ("exclude", [0.8, 0.0, 0.2, 0.0]),  # .08 / .1: the sheep has become background
    ],
)
def test_a_horse_taken_for_a_sheep(how, expected):
    assert probabilities([0.08, 0.9, 0.02, 0.0], [0, 1, 0], how) == pytest.approx(expected)


def test_several_labels_share_in_the_ratio_of_their_probabilities():
    assert probabilities([0.2, 0.5, 0.06, 0.24], [0, 1, 1], "share") == pytest.approx([0.2, 0, 0.16, 0.64])


@pytest.mark.parametrize("how", ["share", "exclude"])
def test_an_image_that_shows_nothing_is_background(how):
    assert probabilities([0.1, 0.6, 0.3], [0, 0], how) == pytest.approx([1, 0, 0])


@pytest.mark.parametrize("how", ["share", "exclude"])
def test_without_a_background_the_labels_share_everything(how):
    assert probabilities([0.5, 0.3, 0.2], [0, 1, 1], how) == pytest.approx([0, 0.6, 0.4])
    assert probabilities([0.5, 0.3, 0.2], [0, 0, 0], how) == pytest.approx([0.5, 0.3, 0.2])


@pytest.mark.parametrize("how", ["share", "exclude"])
def test_what_is_known_of_one_image_leaves_the_others_alone(how):
    logits = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    found = respect_labels(logits, torch.tensor([[NAN, NAN, NAN], [1, 0, 0]]), how)
    assert torch.equal(found[0], logits[0])
    assert (found[1, 2:] == -math.inf).all()


def test_labels_that_are_far_less_probable_than_others_still_share():
    """A plain division of probabilities would give 0 / 0 here."""
    found = respect_labels(torch.tensor([[0.0, 300.0, 1.0, 2.0]]), torch.tensor([[0.0, 1, 1]]), "share").softmax(1)
    assert found[0].tolist() == pytest.approx([0, 0, 1 / (1 + math.e), math.e / (1 + math.e)])


def test_half_precision_is_widened():
    logits = torch.randn(1, 3, 2, 2).to(torch.bfloat16)
    assert respect_labels(logits, torch.tensor([[1.0, 0]]), "share").dtype == torch.float32


@given(data=st.data())
def test_background_stays_and_absent_classes_get_nothing(data):
    classes = data.draw(st.integers(2, 5))
    draw = st.floats(-30, 30)
    logits = torch.tensor(
        data.draw(st.lists(st.lists(draw, min_size=classes, max_size=classes), min_size=1, max_size=3))
    )
    one = st.lists(st.sampled_from([0.0, 1.0]), min_size=classes - 1, max_size=classes - 1)
    tags = torch.tensor(data.draw(st.lists(one, min_size=len(logits), max_size=len(logits))))
    plain, found = logits.double().softmax(1), respect_labels(logits.double(), tags, "share").softmax(1)
    assert found.sum(1).tolist() == pytest.approx([1] * len(logits))
    for row, labels, before in zip(found.tolist(), tags.tolist(), plain.tolist(), strict=True):
        shown = [c + 1 for c, label in enumerate(labels) if label]
        assert all(row[c] == 0 for c in range(1, classes) if c not in shown)
        if not shown:
            continue
        assert row[0] == pytest.approx(before[0])
        together = sum(before[c] for c in shown)
        assert [row[c] for c in shown] == pytest.approx(
            [(1 - before[0]) * before[c] / together for c in shown], abs=1e-9
        )


@given(values=st.lists(st.floats(-30, 30), min_size=3, max_size=3), how=st.sampled_from(["share", "exclude"]))
def test_an_image_that_shows_every_class_is_predicted_as_it_is(values, how):
    logits = torch.tensor([values])
    assert torch.equal(respect_labels(logits, torch.ones(1, 2), how), logits)
