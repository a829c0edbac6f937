from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stages.localization.region_growing import grow_batch
from tests.stages.localization import reference_region_growing as reference


def random_case(seed: int, num_classes: int, size: tuple[int, int], sharpness: float, coverage: float, smooth: int):
    """Probabilities with blobs, single-label seeds (some of absent classes), any classes present."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(num_classes, *size))
    for _ in range(smooth):
        logits = (logits + np.roll(logits, 1, axis=1) + np.roll(logits, 1, axis=2)) / 1.8
    exponent = np.exp(sharpness * logits)
    probabilities = (exponent / exponent.sum(axis=0)).astype(np.float32)
    labels = generator.integers(0, num_classes, size=size).astype(np.uint8)
    # Half of the seeds follow the prediction, so that large components with seeds occur.
    labels = np.where(generator.random(size) < 0.5, probabilities.argmax(axis=0), labels).astype(np.uint8)
    seeds = np.where(generator.random(size) < coverage, labels, 255).astype(np.uint8)
    present = [c for c in range(1, num_classes) if generator.random() < 0.6]
    return probabilities, seeds, present


def grow(probabilities, seeds, present, theta_b=0.99, theta_f=0.85):
    """`grow_batch` of one image; present: class ids, or bool (C,)."""
    known = np.zeros(len(probabilities), dtype=bool)
    known[present] = True
    return grow_batch(probabilities[None], seeds[None], known[None], theta_b, theta_f)[0]


@settings(max_examples=300, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_classes=st.integers(1, 6),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    sharpness=st.sampled_from([0.0, 1.0, 4.0, 15.0]),
    coverage=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    smooth=st.integers(0, 3),
    theta_b=st.sampled_from([0.99, 0.9, 0.5, 1.0, 0.0]),
    theta_f=st.sampled_from([0.85, 0.5, 0.99, 1.0, 0.0]),
)
@example(1, 1, (1, 1), 1.0, 1.0, 0, 0.99, 0.85)  # one class, one pixel
@example(2, 3, (8, 8), 0.0, 0.3, 0, 0.0, 0.0)  # every probability tied and above its threshold
@example(3, 4, (9, 9), 4.0, 0.0, 1, 0.5, 0.5)  # no seed at all
@example(4, 4, (9, 9), 4.0, 1.0, 1, 0.5, 0.5)  # nothing left to grow into
def test_growing_is_identical_to_the_flood_fill(seed, num_classes, size, sharpness, coverage, smooth, theta_b, theta_f):
    probabilities, seeds, present = random_case(seed, num_classes, size, sharpness, coverage, smooth)
    expected = reference.grow_by_flood_fill(probabilities, seeds, present, theta_b, theta_f)
    np.testing.assert_array_equal(grow(probabilities, seeds, present, theta_b, theta_f), expected)


def test_batch_equals_one_by_one():
    cases = [random_case(seed, 5, (11, 13), 6.0, 0.1, 2) for seed in range(40)]
    probabilities = np.stack([case[0] for case in cases])
    seeds = np.stack([case[1] for case in cases])
    present = np.zeros((40, 5), dtype=bool)
    for row, case in zip(present, cases, strict=True):
        row[case[2]] = True
    expected = np.stack([reference.grow_by_flood_fill(*case) for case in cases])
    assert (expected != seeds).any()
    np.testing.assert_array_equal(grow_batch(probabilities, seeds, present), expected)


def test_growing_follows_diagonals_stops_at_doubt_and_keeps_foreign_seeds():
    probabilities = np.zeros((3, 4, 4), dtype=np.float32)
    probabilities[0] = 0.95  # background, yet below 0.99: not confident
    for y, x in [(0, 0), (1, 1), (2, 2), (3, 0)]:
        probabilities[:, y, x] = (0.05, 0.9, 0.05)
    seeds = np.full((4, 4), 255, dtype=np.uint8)
    seeds[0, 0] = 1
    seeds[2, 2] = 2  # a seed of class 2 below a confident prediction of class 1
    grown = grow(probabilities, seeds, [1, 2])
    expected = seeds.copy()
    expected[1, 1] = 1  # over the diagonal; (3, 0) is confident but touches no seed
    np.testing.assert_array_equal(grown, expected)


def test_growing_keeps_its_inputs_and_names_wrong_shapes():
    probabilities, seeds, present = random_case(0, 4, (6, 6), 4.0, 0.3, 1)
    before = seeds.copy(), probabilities.copy()
    grow(probabilities, seeds, present, 0.3, 0.3)
    np.testing.assert_array_equal(seeds, before[0])
    np.testing.assert_array_equal(probabilities, before[1])
    with pytest.raises(ValueError, match=r"found seeds \(1, 5, 6\)"):
        grow(probabilities, seeds[:5], present)
