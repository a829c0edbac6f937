"""Errors of single images, said together."""

from __future__ import annotations

import pytest

from artifacts.errors import DataError
from stages.parallel.each_image import for_each_image


def fail(hints: dict[str, str], image_id: str) -> None:
    raise DataError(f"image {image_id} is damaged", hints[image_id])


def test_a_hint_that_is_a_part_of_another_is_not_said_twice() -> None:
    hints = {"a": "copy it again", "b": "copy it again from its source", "c": "rename it", "d": "copy it again"}
    with pytest.raises(DataError, match="4 images cannot be used:\n  image a is damaged\n  image b") as caught:
        list(for_each_image(fail, hints, list(hints), workers=1))
    assert caught.value.hint == "copy it again from its source; rename it"
