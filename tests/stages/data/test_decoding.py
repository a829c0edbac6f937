"""stages/data/decoding.py: batches of one size in order, a bounded number of images in memory, errors with a name."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts.errors import ArtifactError, DataError, about
from stages.data.decoding import BATCHES, decoded_ahead, size_batches


class Drawn:
    """Images that are drawn when they are asked for, and counted while anybody holds them."""

    def __init__(self, sizes: dict[str, tuple[int, int]]) -> None:
        self.sizes, self.reads, self.alive, self.most = sizes, [], 0, 0
        self.lock = threading.Lock()

    def size(self, image_id):
        return self.sizes[image_id]

    def image(self, image_id):
        image = np.full((*self.sizes[image_id], 3), sorted(self.sizes).index(image_id), np.uint8)
        with self.lock:
            self.reads.append(image_id)
            self.alive += 1
            self.most = max(self.most, self.alive)
        weakref.finalize(image, self._gone)
        time.sleep(0.001 * (len(self.reads) % 3))  # so that they are not ready in the order of asking
        return image

    def _gone(self):
        with self.lock:
            self.alive -= 1


side = st.integers(1, 3)
drawn_sizes = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.tuples(side, side), max_size=20)


def test_batches_worked_by_hand():
    sizes = {"a": (4, 6), "b": (6, 4), "c": (4, 6), "d": (4, 6), "e": (9, 9)}
    assert size_batches(sizes, lambda height, width: 1) == [["e"], ["a"], ["c"], ["d"], ["b"]]
    assert size_batches(sizes, lambda height, width: 1 + width % 2) == [["e"], ["a"], ["c"], ["d"], ["b"]]
    assert size_batches(sizes, lambda height, width: 2) == [["e"], ["a", "c"], ["d"], ["b"]]


@given(sizes=drawn_sizes, limit=st.integers(1, 9), number=st.integers(1, 4))
def test_batches_hold_one_size_each_every_image_once_and_the_largest_first(sizes, limit, number):
    batches = size_batches(sizes, lambda height, width: number if height * width <= limit else 1)
    assert sorted(image_id for batch in batches for image_id in batch) == sorted(sizes)
    assert all(batch == sorted(batch) and len({sizes[image_id] for image_id in batch}) == 1 for batch in batches)
    pixels = [sizes[batch[0]][0] * sizes[batch[0]][1] for batch in batches]
    assert pixels == sorted(pixels, reverse=True)
    assert all(len(batch) <= (number if area <= limit else 1) for batch, area in zip(batches, pixels, strict=True))
    short = [sizes[batch[0]] for batch, area in zip(batches, pixels, strict=True) if len(batch) < number]
    assert len(short) == len(set(short)) or any(area > limit for area in pixels)  # all but the last batch are full


@settings(max_examples=40)
@given(sizes=drawn_sizes, threads=st.integers(0, 4))
def test_the_order_of_the_batches_is_kept(sizes, threads):
    images = Drawn(sizes)
    batches = size_batches(sizes, lambda height, width: 2)
    found = list(decoded_ahead(images, iter(batches), threads, change=lambda image: image + 1))
    assert [members for members, _ in found] == batches
    for members, pixels in found:
        numbers = [sorted(sizes).index(image_id) + 1 for image_id in members]
        expected = np.array(numbers, np.uint8)[:, None, None, None]
        np.testing.assert_array_equal(pixels, np.broadcast_to(expected, (len(members), *sizes[members[0]], 3)))
    assert sorted(images.reads) == sorted(sizes)


def test_only_a_few_batches_are_in_memory_at_a_time():
    images = Drawn({f"{number:03d}": (8, 8) for number in range(60)})
    batches = size_batches(images.sizes, lambda height, width: 2)
    made = []
    for number, (_, pixels) in enumerate(decoded_ahead(images, (made.append(b) or b for b in batches), threads=4)):
        time.sleep(0.002)
        gc.collect()
        assert len(made) <= number + BATCHES
        assert images.alive <= 2 * (BATCHES - 1)  # those of the batch at hand live on in `pixels` alone
        assert pixels.shape == (2, 8, 8, 3)
    assert images.most <= 2 * BATCHES


def test_nothing_is_read_for_a_caller_that_stops_early():
    images = Drawn({f"{number:03d}": (8, 8) for number in range(60)})
    before = set(threading.enumerate())  # some of a test that was stopped on purpose
    batches = decoded_ahead(images, size_batches(images.sizes, lambda height, width: 1), threads=2)
    next(batches)
    assert set(threading.enumerate()) - before
    batches.close()
    assert len(images.reads) <= BATCHES
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (DataError("the folder is cut off", "copy it"), DataError, "^d: the folder is cut off\n"),
        (ArtifactError("the image d is cut off"), ArtifactError, "^the image d is cut off$"),
        (MemoryError("of no use"), MemoryError, "of no use"),
    ],
)
def test_an_error_of_a_thread_ends_the_work_and_names_the_image(error, kind, said):
    class Broken(Drawn):
        def image(self, image_id):
            if image_id == "d":
                raise error
            return super().image(image_id)

    batches = decoded_ahead(Broken(dict.fromkeys("abcdefghij", (4, 4))), [[name] for name in "abcdefghij"], 2)
    assert [next(batches)[0] for _ in range(3)] == [["a"], ["b"], ["c"]]
    with pytest.raises(kind, match=said) as caught:
        next(batches)
    assert getattr(caught.value, "hint", None) == getattr(error, "hint", None)
    assert isinstance(error, DataError | ArtifactError) or caught.value.__notes__ == ["while the image d was decoded"]


def test_an_id_within_a_number_or_word_is_no_name():
    assert about("7", DataError("57 rows are missing")).message == "7: 57 rows are missing"
    assert about("7", DataError("masks/7.png is cut off")).message == "masks/7.png is cut off"


def test_an_image_of_another_size_than_its_header_says_is_named():
    images = Drawn({"a": (4, 4), "b": (4, 4)})
    images.size = lambda image_id: (5, 4)
    with pytest.raises(DataError, match="image a has 4 rows and 4 columns, its header or list says") as caught:
        list(decoded_ahead(images, [["a", "b"]], 1))
    assert "prepare the data again" in caught.value.hint
