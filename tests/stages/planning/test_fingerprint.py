"""Fingerprints of small data sets: sizes of objects by hand, counts by the splits, percentiles by a plain sort."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artifacts.dataset import write_dataset
from artifacts.masks import encode_mask
from artifacts.store import Artifact, Work, Workspace
from stages.planning.fingerprint import evenly, fingerprint, object_sides, spread
from stages.planning.machine import cached_weights, this_machine
from stages.planning.records import Spread


def test_the_sides_of_objects_are_those_of_connected_parts():
    mask = np.zeros((20, 30), np.uint8)
    mask[0:4, 0:4] = 1  # 16 pixels
    mask[4:8, 4:8] = 1  # joined at a corner: 32 pixels together
    mask[10:20, 10:20] = 2  # 100
    mask[0:10, 20:30] = 255  # of no class
    mask[19, 0:3] = 1  # a speck
    assert object_sides(mask, 1) == pytest.approx([(32 / 600) ** 0.5, (100 / 600) ** 0.5])
    # without background class 0 is an object, too: all of the left and the bottom, in two parts, which 1 and 2 divide
    assert len(object_sides(mask, 0)) == 3


def test_a_large_mask_gives_the_same_sides_from_every_nth_pixel():
    mask = np.zeros((3000, 4000), np.uint8)
    mask[600:1200, 800:1400] = 3
    assert object_sides(mask, 1) == pytest.approx([600 / (3000 * 4000) ** 0.5], rel=0.01)


def test_percentiles():
    found = spread(range(101))
    assert found is not None
    assert (found.low, found.quarter, found.median, found.high) == (10, 25, 50, 90)
    assert spread([]) is None


def test_ids_are_taken_evenly():
    assert evenly("abcdefghij", 5) == ["a", "c", "e", "g", "i"]
    assert evenly("abc", 5) == ["a", "b", "c"]


SPLITS = {
    "train": ["t0", "t1"],
    "weak": ["w0", "w1", "w2"],
    "unlabelled": ["u0"],
    "holdout": ["h0"],
    "val": ["v0", "v1"],
}
LABELS = {"t0": [2], "t1": [2], "w0": [1], "w1": [1, 2], "w2": [], "h0": [2], "v0": [2], "v1": [2]}
MASKED = ["t0", "t1", "h0", "v0", "v1"]


def small_data(workspace: Workspace) -> Artifact:
    """Images of 40 x 60 pixels, u0 of 100 x 50; a dog of 12 x 20 in each mask."""
    sizes = {image_id: (40, 60) for ids in SPLITS.values() for image_id in ids} | {"u0": (100, 50)}
    mask = np.zeros((40, 60), np.uint8)
    mask[10:22, 10:30] = 2
    work = Work("by hand", 1, "dataset", "0" * 64, {}, {}, {})
    with workspace.writing("data", work) as writer:
        for image_id, size in sizes.items():
            with writer.item(f"images/{image_id}.png") as file:
                Image.fromarray(np.zeros((*size, 3), np.uint8)).save(file, format="PNG")
        for image_id in MASKED:
            writer.write_bytes(f"masks/{image_id}.png", encode_mask(mask, bytes(768)))
        names = ("background", "cat", "dog")
        write_dataset(
            writer,
            name="own",
            class_names=names,
            splits=SPLITS,
            tags=LABELS,
            tag_source="file",
            mask_ids=MASKED,
            sizes=sizes,
        )
        counts = {"train_pixels": 480, "train_images": 2, "val_images": 2, "weak_images": 1}
        return workspace.publish("data", writer, work, {"classes": {"dog": counts, "255": counts}})


def test_a_fingerprint_counts_what_each_image_has(workspace: Workspace):
    found = fingerprint(small_data(workspace))
    assert (found.masks, found.image_labels, found.unlabelled, found.holdout, found.val) == (2, 2, 2, 1, 2)
    assert found.label_sets == 2
    assert found.short == Spread(40, 40, 40, 42)  # seven sides of 40, then one of 50: 7.2 of the way from the first
    assert found.long is not None
    assert found.long.median == 60
    assert found.objects is not None
    assert found.objects.median == pytest.approx((240 / 2400) ** 0.5, abs=1e-4)
    assert (found.object_count, found.masks_read) == (2, 2)
    assert found.decoded_bytes == 4 * (5 * 40 * 60 + 100 * 50)
    assert (found.class_pixels, found.class_images, found.class_labels) == ({"dog": 480}, {"dog": 2}, {"dog": 1})


def test_a_given_memory_is_the_limit_and_weights_in_torchs_cache_are_found(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert cached_weights() == ()
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "resnet50-0676ba61.pth").touch()
    machine = this_machine("cpu", 2**20, 3)
    assert (machine.device, machine.memory, machine.cores, machine.cached) == ("cpu", 2**20, 3, ("resnet50",))
    assert this_machine("cpu").memory > 2**20
