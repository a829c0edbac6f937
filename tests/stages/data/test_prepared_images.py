"""The columns give back what was put into them, whatever the order."""

from __future__ import annotations

import random

from stages.data.class_figures import class_figures
from stages.data.photographs import ImageFile
from stages.data.prepared_images import FLAGS, Prepared, PreparedImages


def draw(dice: random.Random, image_id: str) -> Prepared:
    flags = {flag: dice.random() < 0.5 for flag in ("turned", "ambiguous", "as_stored")}
    copy = b"png" if dice.random() < 0.3 else None
    remarks = {"frames": "2 images"} if dice.random() < 0.1 else {}
    size, file_bytes = (dice.randint(1, 9999), dice.randint(1, 9999)), dice.randint(0, 1 << 40)
    image = ImageFile(size, file_bytes, copy, remarks=remarks, **flags)
    pixels = {value: dice.randint(1, 1 << 33) for value in dice.sample([0, 1, 2, 7, 254, 255], dice.randint(0, 6))}
    return Prepared(image, pixels if dice.random() < 0.8 else None, None, ["odd"] if dice.random() < 0.1 else ())


def test_all_facts_come_back():
    dice = random.Random(0)
    one_each = {
        image_id: draw(dice, image_id) for image_id in sorted({f"id {dice.randint(0, 999)}" for _ in range(200)})
    }
    for first in (1, 0):
        prepared = PreparedImages(list(one_each), has_background=bool(first))
        for image_id in dice.sample(list(one_each), len(one_each)):
            prepared.add(image_id, one_each[image_id])
        for image_id, one in one_each.items():
            assert prepared.size(image_id) == one.image.size
            assert prepared.file_bytes(image_id) == one.image.file_bytes
            flags = (one.image.copy is not None, one.image.turned, one.image.ambiguous, one.image.as_stored)
            assert tuple(prepared.has(flag, image_id) for flag in FLAGS) == flags
            assert prepared.pixels(image_id) == one.pixels
            shown = None if one.pixels is None else tuple(sorted(one.pixels.keys() - {255, *range(first)}))
            assert prepared.classes(image_id) == shown
        assert prepared.remarks == {i: one.remarks for i, one in one_each.items() if one.remarks}
        assert prepared.image_remarks == {i: one.image.remarks for i, one in one_each.items() if one.image.remarks}


def test_images_with_the_same_classes_share_one_tuple():
    prepared = PreparedImages(["a", "b"], has_background=True)
    for image_id in ("b", "a"):
        prepared.add(image_id, Prepared(ImageFile((2, 3), 5), {200: 1, 0: 4, 3: 1}, None))
    assert prepared.classes("a") is prepared.classes("b")
    assert prepared.classes("a") == (3, 200)


def test_class_figures_by_hand():
    pixels = {"a": {0: 4, 1: 2}, "b": {1: 3, 255: 1}, "v": {0: 6}, "w": {2: 9}}
    splits = {"train": ["a", "b", "c"], "val": ["v"], "weak": ["w", "x"], "holdout": []}
    found = class_figures(["background", "cat", "dog"], splits, pixels.get, {"w": (2,), "x": (1, 2), "a": (1,)})
    of_train = {
        name: (one["train_pixels"], one["train_images"], one["val_pixels"], one["weak_images"])
        for name, one in found.items()
    }
    assert of_train == {"background": (4, 1, 6, 0), "cat": (5, 2, 0, 1), "dog": (0, 0, 0, 2), "255": (1, 1, 0, 0)}
    assert "holdout_pixels" not in found["cat"]
