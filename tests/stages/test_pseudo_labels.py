"""The stage pseudo-labels: thresholds against sorting all confidences of a class; killed and continued; bad input."""

from __future__ import annotations

import shutil
from fractions import Fraction
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stages.pseudo_labels as module
from artifacts.errors import ArtifactError, DataError
from artifacts.masks import read_mask, write_mask
from stages.pseudo_labels import PseudoLabelsConfig, thresholds
from tests.artifacts.small_artifacts import change_json, sign_again

pixels = st.lists(st.tuples(st.sampled_from([0, 1, 2, 7, 254, 255]), st.integers(0, 255)), min_size=1, max_size=60)
shares = st.integers(1, 20).map(lambda twentieths: Fraction(twentieths, 20))


def counted(found) -> np.ndarray:
    counts = np.zeros((256, 256), np.int64)
    for label, confidence in found:
        counts[label, confidence] += 1
    return counts


def least_of_share(confidences: list[int], share: Fraction) -> int:
    """The confidence of the last of the sorted ones that the share needs."""
    return sorted(confidences, reverse=True)[ceil(share * len(confidences)) - 1]


@given(pixels, shares)
def test_each_class_keeps_its_share_of_the_sorted_confidences(found, share):
    limits = thresholds(counted(found), PseudoLabelsConfig(share=float(share)))
    for label in {label for label, _ in found} - {255}:
        confidences = [confidence for other, confidence in found if other == label]
        assert limits[label] == least_of_share(confidences, share)
        kept = sum(confidence >= limits[label] for confidence in confidences)
        assert kept >= share * len(confidences)
        more = sum(confidence > limits[label] for confidence in confidences)
        assert more < share * len(confidences)  # no higher limit would do


@given(pixels, shares)
def test_one_threshold_for_all_classes_is_that_of_all_confidences(found, share):
    limits = thresholds(counted(found), PseudoLabelsConfig(share=float(share), class_balanced=False))
    known = [confidence for label, confidence in found if label != 255]
    if known:
        assert set(limits[:255]) == {least_of_share(known, share)}


@given(pixels)
def test_share_1_keeps_everything_and_a_class_never_predicted_is_no_mistake(found):
    """In DMT's code a share of 1 takes the class's minimum by an index, which a class without pixels does not have."""
    limits = thresholds(counted(found), PseudoLabelsConfig(share=1.0))
    assert all(confidence >= limits[label] for label, confidence in found if label != 255)
    assert limits.shape == (256,)
    assert thresholds(np.zeros((256, 256), np.int64), PseudoLabelsConfig(share=0.5)).shape == (256,)


@given(pixels, shares, st.integers(0, 99))
def test_nothing_below_the_lowest_confidence_is_kept(found, share, percent):
    without = thresholds(counted(found), PseudoLabelsConfig(share=float(share)))
    limits = thresholds(counted(found), PseudoLabelsConfig(share=float(share), min_confidence=percent / 100))
    lowest = next(k for k in range(256) if 1 - (1 - Fraction(k, 255)) ** 4 >= Fraction(percent, 100))
    assert (limits == np.maximum(without, lowest)).all()


def test_thresholds_by_hand():
    """Class 1: 200, 150, 150, 10; half of them needs one of the two equal ones, and both are kept."""
    counts = counted([(1, 200), (1, 150), (1, 150), (1, 10), (3, 40)])
    limits = thresholds(counts, PseudoLabelsConfig(share=0.5))
    assert (limits[1], limits[3]) == (150, 40)


def test_a_share_of_a_billion_pixels_is_exact_to_a_pixel():
    counts = np.zeros((256, 256), np.int64)
    counts[1, [250, 100]] = 300_000_000, 700_000_000
    assert thresholds(counts, PseudoLabelsConfig(share=0.3))[1] == 250
    counts[1, [250, 100]] = 299_999_999, 700_000_001
    assert thresholds(counts, PseudoLabelsConfig(share=0.3))[1] == 100


# --- the stage ---

SOURCE = {"splits": ["weak", "train"], "output": "masks", "confidence": True, "min_confidence": 0.45}


@pytest.fixture(scope="module")
def guesses(bench):
    return bench.run("predict", "guesses", SOURCE)


def maps(artifact, folder: str) -> dict[str, np.ndarray]:
    return {path.stem: read_mask(path) for path in sorted(artifact.path.glob(f"{folder}/*.png"))}


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize(("share", "lowest"), [(0.3, 0.0), (1.0, 0.0), (0.8, 0.6)])
def test_the_most_confident_pixels_over_all_images_are_kept(bench, guesses, share, lowest, balanced):
    values = {"share": share, "class_balanced": balanced, "min_confidence": lowest}
    made = bench.run("pseudo-labels", "kept", values, {"predictions": "guesses"})
    masks, confidences = maps(guesses, "masks"), maps(guesses, "confidence")
    known = {image_id: mask != 255 for image_id, mask in masks.items()}
    assert not all(there.all() for there in known.values())  # pixels without a class stay so
    everything = np.concatenate([masks[i][known[i]] for i in masks])
    sureness = np.concatenate([confidences[i][known[i]] for i in masks])
    limit = {}
    for label in np.unique(everything):
        own = sureness if not balanced else sureness[everything == label]
        limit[label] = max(
            np.sort(own)[::-1][ceil(Fraction(share).limit_denominator(100) * len(own)) - 1],
            255 * (1 - (1 - lowest) ** 0.25),
        )
    kept = 0
    for image_id, mask in maps(made, "masks").items():
        expected = masks[image_id].copy()
        for label, least in limit.items():
            expected[(expected == label) & (confidences[image_id] < least)] = 255
        np.testing.assert_array_equal(mask, expected)
        kept += (mask != 255).sum()
    assert len(limit) > 2
    assert sorted(maps(made, "masks")) == sorted(masks)
    for image_id, confidence in maps(made, "confidence").items():
        np.testing.assert_array_equal(confidence, confidences[image_id])
    assert made.kind == "masks"
    assert made.json("classes.json") == guesses.json("classes.json")
    assert made.summary["images"] == len(masks)
    assert made.summary["kept_share"] == pytest.approx(kept / len(everything))
    names = guesses.json("classes.json")["class_names"]
    assert made.json("classes.json")["class_names"] == names
    shown = {
        names[label]: pytest.approx(1 - (1 - np.ceil(least) / 255) ** 4, abs=1e-4) for label, least in limit.items()
    }
    assert made.summary["thresholds"] == shown


def test_processes_change_nothing(bench, guesses):
    alone = bench.run("pseudo-labels", "alone", {"share": 0.4}, {"predictions": "guesses"})
    beside = bench.run("pseudo-labels", "beside", {"share": 0.4}, {"predictions": "guesses"}, workers=2)
    assert alone.manifest.content == beside.manifest.content


@pytest.mark.parametrize("walk", ["histogram", "select_pixels"])
def test_a_run_that_was_cut_off_is_continued_to_the_same_bytes(bench, guesses, monkeypatch, walk):
    whole = bench.run("pseudo-labels", "whole", {"share": 0.4}, {"predictions": "guesses"})
    function, done = getattr(module, walk), []

    def cut_off(task, image_id):
        done.append(image_id)
        if len(done) == 4:
            raise KeyboardInterrupt
        return function(task, image_id)

    monkeypatch.setattr(module, walk, cut_off)
    with pytest.raises(KeyboardInterrupt):
        bench.run("pseudo-labels", f"cut-{walk}", {"share": 0.4}, {"predictions": "guesses"})
    continued = bench.run("pseudo-labels", f"cut-{walk}", {"share": 0.4}, {"predictions": "guesses"})
    assert continued.manifest.content == whole.manifest.content
    assert continued.summary == whole.summary
    assert continued.manifest.resumed == (walk == "select_pixels")  # the first walk leaves nothing behind


def test_predictions_without_confidence_or_masks_are_named_with_the_cure(bench):
    bench.run("predict", "no-confidence", {"output": "masks"})
    with pytest.raises(ArtifactError, match="'no-confidence' holds no confidence") as caught:
        bench.run("pseudo-labels", "x", {}, {"predictions": "no-confidence"})
    assert "confidence=true" in caught.value.hint
    bench.run("predict", "no-masks", {"output": "probabilities"})
    with pytest.raises(ArtifactError, match="'no-masks' holds no masks"):
        bench.run("pseudo-labels", "x", {}, {"predictions": "no-masks"})


@pytest.mark.parametrize("spoil", ["missing", "size", "empty"])
def test_a_confidence_map_that_does_not_fit_its_mask_is_named(bench, guesses, spoil):
    victim = bench.dataset.ids("weak")[1]

    def write(writer):
        for folder in ("masks", "confidence"):
            for path in guesses.path.glob(f"{folder}/*.png"):
                writer.write_bytes(f"{folder}/{path.name}", path.read_bytes())
        writer.write_bytes("classes.json", guesses.file("classes.json").read_bytes())
        target = writer.path / "confidence" / f"{victim}.png"
        if spoil == "missing":
            target.unlink()
        elif spoil == "size":
            write_mask(target, np.zeros((5, 7), np.uint8))
        else:
            target.write_bytes(b"")

    bench.publish(f"spoilt-{spoil}", "predictions", write)
    words = {"missing": "is missing", "size": "is 7x5", "empty": "is empty"}[spoil]
    with pytest.raises(DataError, match=rf"confidence/{victim}\.png {words}") as caught:
        bench.run("pseudo-labels", "x", {}, {"predictions": f"spoilt-{spoil}"})
    assert caught.value.hint


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda record: record["ids"].pop(), "has 9 masks, classes.json 8 ids; only one of both has "),
        (lambda record: record["class_names"].pop(), "has values outside the classes"),
        (lambda record: record.update(class_names={}), "damaged at class_names: expected a list"),
    ],
)
def test_a_changed_classes_json_is_not_copied(bench, guesses, change, words):
    """A name, an id or a type that was changed came out again, as if it had been predicted."""
    shutil.copytree(guesses.path, folder := bench.workspace.folder("edited"), dirs_exist_ok=True)
    change_json(folder, "classes.json", change, sign=False)
    with pytest.raises(ArtifactError, match=r"classes\.json is damaged: it was changed since it was published"):
        bench.run("pseudo-labels", "x", {}, {"predictions": "edited"})
    sign_again(folder)
    with pytest.raises((ArtifactError, DataError), match=words):
        bench.run("pseudo-labels", "x", {}, {"predictions": "edited"})
    shutil.rmtree(folder)
