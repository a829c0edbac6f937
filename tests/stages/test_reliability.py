"""The stage reliability: the agreement of two class maps, the ranking of images, killed and continued."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import jaccard_score

import stages.reliability as module
from artifacts.errors import ConfigError, DataError
from stages.networks import load_network, normalise, upsample
from stages.reliability import agreement, evenly_spaced, reliable_count

CLASSES = 5
shapes = hnp.array_shapes(min_dims=3, max_dims=3, max_side=6)
pairs_of_maps = shapes.flatmap(
    lambda shape: st.tuples(*[hnp.arrays(np.int64, shape, elements=st.integers(0, CLASSES - 1))] * 2)
)


def by_pixels(first: np.ndarray, second: np.ndarray) -> float:
    """Mean IoU over the classes of two maps, counted pixel by pixel."""
    values = []
    for c in range(CLASSES):
        common = either = 0
        for a, b in zip(first.ravel(), second.ravel(), strict=True):
            common += a == c and b == c
            either += a == c or b == c
        if either:
            values.append(common / either)
    return sum(values) / len(values)


def computed(first: np.ndarray, second: np.ndarray) -> list[float]:
    return agreement(torch.from_numpy(first), torch.from_numpy(second), CLASSES).tolist()


@settings(max_examples=40)
@given(pairs_of_maps)
def test_agreement_is_a_mean_over_the_classes_of_each_image(maps):
    first, second = maps
    found = computed(first, second)
    assert found == pytest.approx([by_pixels(a, b) for a, b in zip(first, second, strict=True)])
    for a, b, value in zip(first, second, found, strict=True):  # its macro average: the labels of either map
        assert value == pytest.approx(jaccard_score(a.ravel(), b.ravel(), average="macro", zero_division=0))


@given(pairs_of_maps)
def test_agreement_is_symmetric_and_1_for_equal_maps_alone(maps):
    first, second = maps
    found = computed(first, second)
    assert found == pytest.approx(computed(second, first))
    assert computed(first, first) == [1.0] * len(first)
    for a, b, value in zip(first, second, found, strict=True):
        assert 0 <= value <= 1
        assert (value == 1) == (a == b).all()


def test_agreement_by_hand():
    """Class 0: 2 of 3 pixels, class 1: 1 of 2; classes 2 to 4 occur nowhere and do not count."""
    first, second = np.array([[[0, 0], [0, 1]]]), np.array([[[0, 0], [1, 1]]])
    assert computed(first, second) == pytest.approx([(2 / 3 + 1 / 2) / 2])


# --- the stage ---


@pytest.fixture(scope="module")
def trained(bench):
    return bench.add_snapshots("teacher", {2: 1, 4: 2, 6: 0})


@pytest.fixture(scope="module")
def expected(bench, trained):
    """Scores of all training images, from maps made one by one."""
    networks = [load_network(trained, file) for file in ("snapshots/2.pt", "snapshots/4.pt", "weights.pt")]
    scores = {}
    for image_id in [*bench.dataset.ids("weak"), *bench.dataset.ids("train")]:
        inputs = normalise(torch.from_numpy(bench.dataset.image(image_id)).permute(2, 0, 1)[None])
        with torch.no_grad():
            *earlier, last = (
                upsample(network(inputs), inputs.shape[2:], network.stride)[0].argmax(0).numpy().ravel()
                for network in networks
            )
        scores[image_id] = np.mean([jaccard_score(found, last, average="macro", zero_division=0) for found in earlier])
    return scores


@pytest.mark.parametrize(("share", "count"), [(0.5, 4), (0.3, 2), (0.95, 8)])
def test_the_share_with_the_highest_scores_is_reliable(bench, trained, expected, share, count):
    made = bench.run(
        "reliability", f"ranks-{count}", {"splits": ["weak", "train"], "share": share}, {"segmenter": "teacher"}
    )
    assert made.kind == "reliability"
    record = made.json("reliability.json")
    assert record["scores"] == {image_id: pytest.approx(value, abs=2e-3) for image_id, value in expected.items()}
    ranked = sorted(expected, key=lambda image_id: -expected[image_id])
    assert record["reliable"] == sorted(ranked[:count])
    assert record["unreliable"] == sorted(ranked[count:])
    assert (made.summary["images"], made.summary["reliable"], made.summary["snapshots"]) == (9, count, 3)
    assert made.summary["median_score"] == pytest.approx(np.median(list(expected.values())), abs=2e-3)
    assert made.summary["least_reliable_score"] == pytest.approx(expected[ranked[count - 1]], abs=2e-3)


def test_of_an_odd_number_of_images_the_smaller_half_is_reliable():
    """n // 2 in ST++'s code; rounding gave 2 of 3, 4 of 7 and 6 of 11, but 2 of 5."""
    assert [reliable_count(0.5, n) for n in range(12)] == [n // 2 for n in range(12)]


def test_a_share_that_is_a_whole_number_of_images_loses_none():
    """k of n images for the share k / n, also where its product with n is a little less than k: .29 of 100."""
    assert 0.29 * 100 < 29
    assert reliable_count(0.29, 100) == 29
    assert all(reliable_count(k / n, n) == k for n in (3, 7, 10, 49, 100, 10_582) for k in range(1, n))


def test_unlabelled_splits_that_are_not_there_are_no_mistake(bench, trained):
    """The default, weak and unlabelled, on a data set without the second."""
    made = bench.run("reliability", "ranks-default", {}, {"segmenter": "teacher"})
    assert sorted(made.json("reliability.json")["scores"]) == sorted(bench.dataset.ids("weak"))


@pytest.mark.parametrize(
    ("there", "count", "expected"),
    [
        (6, 3, [2, 4, 6]),
        (3, 3, [1, 2, 3]),
        (2, 3, [1, 2]),
        (10, 3, [3, 7, 10]),
        (20, 2, [10, 20]),
        (4, 4, [1, 2, 3, 4]),
    ],
)
def test_snapshots_are_spaced_evenly_and_the_last_is_among_them(there, count, expected):
    files = [f"snapshots/{step}.pt" for step in range(1, there + 1)]
    assert evenly_spaced(files, count) == [files[step - 1] for step in expected]


def test_as_many_snapshots_are_compared_as_the_config_says(bench):
    bench.add_snapshots("six", {step: step % 4 for step in range(1, 7)})
    bench.add_snapshots("three-of-six", {step: step % 4 for step in (2, 4, 6)})
    six = bench.run("reliability", "ranks-six", {}, {"segmenter": "six"})
    three = bench.run("reliability", "ranks-three", {}, {"segmenter": "three-of-six"})
    assert six.summary == three.summary
    assert six.json("reliability.json") == three.json("reliability.json")
    every = bench.run("reliability", "ranks-every", {"snapshots": 6}, {"segmenter": "six"})
    assert every.summary["snapshots"] == 6


def test_of_equal_scores_the_first_ids_are_reliable(bench):
    bench.add_snapshots("unchanged", {3: 0, 6: 0})
    made = bench.run("reliability", "ranks-equal", {"share": 0.4}, {"segmenter": "unchanged"})
    record = made.json("reliability.json")
    assert set(record["scores"].values()) == {1.0}
    assert record["reliable"] == sorted(bench.dataset.ids("weak"))[:2]


def test_a_run_that_was_cut_off_is_continued_to_the_same_bytes(bench, trained, monkeypatch):
    monkeypatch.setattr(module, "PART", 3)
    values = {"splits": ["weak", "train"]}
    whole = bench.run("reliability", "whole", values, {"segmenter": "teacher"})
    read, reads = type(bench.dataset).image, []

    def cut_off(self, image_id):
        reads.append(image_id)
        if len(reads) == 16:  # nine for the first part, three networks in the second
            raise KeyboardInterrupt
        return read(self, image_id)

    monkeypatch.setattr(type(bench.dataset), "image", cut_off)
    with pytest.raises(KeyboardInterrupt):
        bench.run("reliability", "cut", values, {"segmenter": "teacher"})
    first = len(reads)
    continued = bench.run("reliability", "cut", values, {"segmenter": "teacher"})
    assert continued.manifest.content == whole.manifest.content
    assert continued.manifest.resumed == 1
    assert len(reads) - first == 2 * 3 * 3  # the first part was kept


def test_every_rank_scores_its_parts_and_the_first_ranks_them_all(bench, trained, by_two_ranks, monkeypatch):
    monkeypatch.setattr(module, "PART", 2)
    values = {"splits": ["weak", "train"]}
    whole = bench.run("reliability", "by-one", values, {"segmenter": "teacher"})
    inputs = {"data": bench.workspace.artifact("data"), "segmenter": trained}
    written, summary, reads = by_two_ranks(module, values, inputs)
    assert written["reliability.json"] == whole.json("reliability.json")
    assert sorted(reads) == sorted([*bench.dataset.ids("weak"), *bench.dataset.ids("train")] * 3)
    assert summary == whole.summary


def test_a_segmenter_without_snapshots_is_named_with_the_cure(bench):
    with pytest.raises(ConfigError, match="'segmenter' holds its last weights alone") as caught:
        bench.run("reliability", "x", {}, {"segmenter": "segmenter"})
    assert "snapshots=3" in caught.value.hint


def test_a_segmenter_for_other_classes_is_refused(bench):
    """More classes than the data set has would be counted into each other."""
    names = (*bench.dataset.class_names, "cat")
    bench.add_snapshots("more-classes", {1: 0, 2: 1}, names)
    with pytest.raises(ConfigError, match=r"the network knows the classes background, .*, cat; the data set has"):
        bench.run("reliability", "x", {}, {"segmenter": "more-classes"})


def test_an_empty_split_is_named(bench, trained):
    with pytest.raises(DataError, match="the splits test of 'shapes' are empty"):
        bench.run("reliability", "x", {"splits": ["test"]}, {"segmenter": "teacher"})
