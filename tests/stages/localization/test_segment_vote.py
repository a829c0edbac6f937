"""stages/localization/segment_vote.py: votes by hand and by a plain loop; what the order of the segments may not do."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from artifacts.errors import DataError
from stages.localization.segment_layers import NONE, file_of, in_layers, read_layers, region_layers
from stages.localization.segment_vote import vote
from tests.stages.refiners.small_refinement import draw

SIZE = (6, 8)


def layered(masks):
    return in_layers(masks, masks.shape[1:])


def mask_of(*boxes):
    """A mask of SIZE with boxes (class, rows, columns)."""
    labels = np.zeros(SIZE, np.uint8)
    for label, rows, columns in boxes:
        labels[slice(*rows), slice(*columns)] = label
    return labels


def segments(*boxes):
    return np.stack([mask_of((1, *box)).astype(bool) for box in boxes])


def by_loop(labels, masks, inside=0.5, covers=0.85):
    """The rule, segment by segment and pixel by pixel, with sets of pixels."""
    pixels = {c: {tuple(p) for p in np.argwhere(labels == c)} for c in range(1, 255) if (labels == c).any()}
    unknown = {tuple(p) for p in np.argwhere(labels == 255)}
    joined = []
    for mask in masks:
        whole = {tuple(p) for p in np.argwhere(mask)}
        segment, best = whole - unknown, None
        for c in sorted(pixels):
            shared = len(segment & pixels[c])
            if shared > inside * len(segment) or (shared and shared >= covers * len(pixels[c])):
                agreement = shared / len(segment | pixels[c])
                if best is None or agreement > best[0]:
                    best = agreement, c
        joined.append((whole, best))
    found = labels.copy()
    for place in np.ndindex(labels.shape):
        lying = [best for whole, best in joined if place in whole]
        choices = sorted((-agreement, c) for agreement, c in filter(None, lying))
        if choices:
            found[place] = choices[0][1]
        elif lying and labels[place] != 255:
            found[place] = 0
    return found


def test_a_segment_that_is_mostly_a_class_is_all_of_it_and_what_lies_in_others_is_background():
    labels = mask_of((3, (0, 4), (0, 5)))
    found = vote(labels, layered(segments(((0, 5), (0, 4)), ((0, 5), (4, 8)))))
    # 16 of the 20 pixels of the first segment are of class 3; 4 of 20 of the second; the last row has no segment
    assert np.array_equal(found, mask_of((3, (0, 5), (0, 4))))


def test_half_of_a_segment_is_too_little_and_85_percent_of_a_class_are_enough():
    half = mask_of((3, (0, 2), (0, 4)), (3, (4, 6), (0, 8)))
    assert not vote(half, layered(segments(((0, 4), (0, 4)))))[:4].any()
    nearly_all = mask_of((3, (0, 1), (0, 8)), (3, (1, 2), (0, 2)))  # 10 pixels, 8 of them in the segment: 80 %
    segment = layered(segments(((0, 1), (0, 8))))
    assert vote(nearly_all, segment, inside=1, covers=0.85)[0].max() == 0
    assert vote(nearly_all, segment, inside=1, covers=0.8)[0].min() == 3


def test_where_no_segment_lies_the_mask_stays():
    labels = mask_of((3, (0, 4), (0, 5)), (255, (4, 6), (0, 8)))
    assert np.array_equal(vote(labels, np.full((1, *SIZE), NONE)), labels)
    assert np.array_equal(vote(labels, layered(segments(((5, 6), (0, 8))))), labels)  # on unknown pixels alone


def test_of_two_classes_a_segment_joins_the_one_it_agrees_with_best():
    """The small class is in the segment as a whole, the large one has most of its pixels."""
    labels = mask_of((2, (0, 1), (0, 2)), (5, (1, 4), (0, 6)))
    assert vote(labels, layered(segments(((0, 4), (0, 6)))))[:4, :6].tolist() == [[5] * 6] * 4


def test_the_lower_class_wins_a_tie_whatever_comes_first():
    labels = mask_of((2, (0, 2), (0, 2)), (1, (0, 2), (2, 4)))
    masks = segments(((0, 2), (0, 3)), ((0, 2), (1, 4)))
    for order in ([0, 1], [1, 0]):
        assert vote(labels, layered(masks[order]))[0, :4].tolist() == [2, 1, 1, 1]


def test_unknown_pixels_get_the_class_of_a_segment_or_stay():
    labels = mask_of((255, (0, 3), (0, 8)), (4, (0, 1), (0, 2)))
    found = vote(labels, layered(segments(((0, 3), (0, 4)), ((0, 6), (4, 8)))))
    assert (found[:3, :4] == 4).all()  # 2 of 2 known pixels
    assert (found[:3, 4:] == 255).all()


masks_of = st.lists(st.tuples(*[st.integers(0, n) for n in (5, 7, 5, 7)]), min_size=1, max_size=6)


def drawn_case(seed, boxes):
    random = np.random.default_rng(seed)
    labels = np.kron(random.choice([0, 0, 1, 2, 7, 255], (3, 4)), np.ones((2, 2))).astype(np.uint8)
    noisy = np.where(random.random(SIZE) < 0.15, random.choice([0, 1, 2], SIZE), labels).astype(np.uint8)
    masks = np.stack([mask_of((1, sorted((a, c + 1)), sorted((b, d + 1)))) for a, b, c, d in boxes]).astype(bool)
    return noisy, masks[masks.any((1, 2))]


@given(st.integers(0, 10_000), masks_of)
@settings(max_examples=150, deadline=None)
def test_as_by_a_plain_loop_in_any_order_of_the_segments(seed, boxes):
    labels, masks = drawn_case(seed, boxes)
    if not len(masks):
        return
    found = vote(labels, layered(masks))
    assert np.array_equal(found, by_loop(labels, masks))
    order = np.random.default_rng(seed).permutation(len(masks))
    assert np.array_equal(found, vote(labels, layered(masks[order])))
    assert np.array_equal(found, vote(labels, layered(np.concatenate([masks, masks[::-1]]))))  # each twice


def test_regions_of_colour_mend_a_noisy_mask():
    image, mask = draw(0)
    noisy = np.where(np.random.default_rng(0).random(mask.shape) < 0.3, 0, mask).astype(np.uint8)
    found = vote(noisy, region_layers(image, (40,)))
    assert (noisy == mask).mean() < 0.96 < 0.97 < (found == mask).mean()


@pytest.mark.parametrize("wrapped", [False, True])
def test_run_lengths_are_those_of_coco(tmp_path, wrapped):
    masks = np.random.default_rng(0).random((3, *SIZE)) < 0.4
    entries = []
    for mask in masks:
        run = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        entries.append({"segmentation": {"size": run["size"], "counts": run["counts"].decode()}, "area": 3})
    entries[0]["segmentation"] = uncompressed(masks[0])
    (tmp_path / "a.json").write_text(json.dumps({"annotations": entries} if wrapped else entries))
    assert np.array_equal(read_layers(file_of(tmp_path, "a"), SIZE), layered(masks))


def uncompressed(mask):
    flat = mask.ravel(order="F").astype(int)
    ends = [*(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]
    counts = np.diff([0, *([0] if flat[0] else []), *ends]).tolist()
    return {"size": list(mask.shape), "counts": counts}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"size": [6, 8]}, "no list of segments"),
        ([{"area": 3}], "entry 1 has no run lengths"),
        ([{"segmentation": [[0, 0, 5, 0, 5, 5]]}], "entry 1 has no run lengths"),
        ([{"segmentation": {"size": [6, 7], "counts": [42]}}], "for the size"),
        ([{"segmentation": {"size": [6, 8], "counts": [40]}}], "cover 40 pixels"),
        ([3], "entry 1 has no run lengths"),
    ],
)
def test_files_of_run_lengths_that_are_none_of_the_image(tmp_path, content, message):
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        read_layers(file_of(tmp_path, "a"), SIZE)


def test_a_list_of_run_lengths_may_be_empty_a_label_map_may_not(tmp_path):
    (tmp_path / "a.json").write_text("[]")
    assert np.array_equal(read_layers(file_of(tmp_path, "a"), SIZE), np.full((1, *SIZE), NONE))
    np.savez(tmp_path / "b.npz", masks=np.zeros((2, *SIZE), bool))
    with pytest.raises(DataError, match=r"b\.npz has no segment"):
        read_layers(file_of(tmp_path, "b"), SIZE)


def test_the_memory_does_not_grow_with_the_number_of_segments(tmp_path):
    """All masks together were held as n x H x W booleans."""
    size, side = (240, 320), 8
    masks = np.zeros((300, *size), bool)
    for number, mask in enumerate(masks):
        top, left = divmod(number, 20)
        mask[top * side : (top + 1) * side, left * side : (left + 1) * side] = True
    runs = [coco.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    peaks = []
    for count in (30, 300):
        shapes = [{"size": run["size"], "counts": run["counts"].decode()} for run in runs[:count]]
        (tmp_path / "a.json").write_text(json.dumps([{"segmentation": shape} for shape in shapes]))
        tracemalloc.start()
        layers = read_layers(tmp_path / "a.json", size)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert np.array_equal(layers, layered(masks[:count]))
    assert peaks[1] < 1.5 * peaks[0] < 300 * np.prod(size) / 4
