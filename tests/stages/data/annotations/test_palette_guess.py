"""Guesses about masks that nobody described: drawn ones of each kind, traps, and real ones."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from artifacts.errors import DataError
from artifacts.masks import voc_palette, write_mask
from stages.data.annotations.class_table import ClassTable, read_class_table
from stages.data.annotations.colour_masks import read_colours, renumber, to_indices
from stages.data.annotations.palette_guess import guess_palette
from stages.data.config import VOC_CLASS_NAMES
from tests.fuzz.palettes import indexed_png

RED, GREEN = 0x800000, 0x008000


def colourise(mask: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3): an index mask in the colours of VOC."""
    return np.frombuffer(voc_palette(), np.uint8).reshape(256, 3)[mask]


def save(path: Path, pixels: Any, mode: str | None = None, **how: Any) -> Path:
    image = Image.fromarray(np.asarray(pixels, np.uint8))
    (image.convert(mode) if mode else image).save(path, **how)
    return path


def read_back(guess: Any, folder: Path) -> ClassTable:
    (folder / "guess.txt").write_text(guess.table)
    return read_class_table(folder / "guess.txt")


def blocks(values: list[int], side: int = 8) -> np.ndarray:
    """Index mask with a square of every value."""
    return np.repeat(np.repeat(np.array([values], np.uint8), side, axis=0), side, axis=1)


def test_index_masks_are_ids(tmp_path):
    guess = guess_palette([save(tmp_path / "a.png", blocks([0, 3, 255])), save(tmp_path / "b.png", blocks([0, 1]))])
    assert guess.kind == "ids"
    assert (
        guess.description
        == "2 of 2 masks looked at (2 of mode L): values 0..1, 3, 255, read as class ids and ignore (255)"
    )
    assert read_back(guess, tmp_path).names == ("background", "class_1", "class_2", "class_3")


def test_voc_index_masks_get_voc_names_with_a_warning(tmp_path):
    write_mask(tmp_path / "a.png", blocks([0, 5, 20, 255]))
    guess = guess_palette([tmp_path / "a.png"])
    assert guess.kind == "ids"
    assert "but the classes may differ" in guess.description
    assert read_back(guess, tmp_path).names == VOC_CLASS_NAMES
    write_mask(tmp_path / "a.png", blocks([0, 21]))
    assert read_back(guess_palette([tmp_path / "a.png"]), tmp_path).names[-1] == "class_21"


def test_index_masks_without_0(tmp_path):
    guess = guess_palette([save(tmp_path / "a.png", blocks([1, 2, 3]))])
    assert "0 does not occur" in guess.description
    assert read_back(guess, tmp_path).values == {1: 0, 2: 1, 3: 2, 255: 255}


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P"])
def test_black_and_white_is_an_object_and_not_ignore(tmp_path, mode):
    image = Image.fromarray(blocks([0, 255]))
    if mode == "P":
        image.putpalette([value for index in range(256) for value in (index, index, index)])
    else:
        image = image.convert(mode)
    image.save(tmp_path / "a.png")
    guess = guess_palette([tmp_path / "a.png"])
    assert guess.kind == "binary"
    assert "White (255) is read as the object, not as ignore" in guess.description
    mask = to_indices(read_colours(tmp_path / "a.png"), read_back(guess, tmp_path), tmp_path / "a.png")
    assert mask.tolist() == blocks([0, 1]).tolist()


def test_smoothed_black_and_white_is_told(tmp_path):
    big = Image.new("L", (200, 200))
    big.paste(255, (43, 51, 150, 160))
    small = np.array(big.resize((97, 97), Image.Resampling.BICUBIC).rotate(7, Image.Resampling.BICUBIC))
    assert len(np.unique(small)) > 22
    guess = guess_palette([save(tmp_path / "a.png", small)])
    assert guess.kind == "binary"
    assert "smoothed edges" in guess.description


def test_ids_with_ignore_and_few_objects_are_not_black_and_white(tmp_path):
    mask = blocks([0, 255], side=40)
    mask[0, :20] = np.arange(1, 21)
    assert guess_palette([save(tmp_path / "a.png", mask)]).kind == "ids"
    mask[0] = 200  # one more shade is not a smoothed edge
    assert guess_palette([save(tmp_path / "a.png", mask)]).kind == "colours"
    write_mask(tmp_path / "p.png", blocks([0, 255]))  # 255 is cream here
    assert guess_palette([tmp_path / "p.png"]).kind == "ids"


def test_grey_shades_are_no_ids(tmp_path):
    guess = guess_palette([save(tmp_path / "a.png", blocks([0, 85, 170, 255]))])
    assert guess.kind == "colours"
    assert "look like shades, not like ids" in guess.description
    assert read_back(guess, tmp_path).colours == {0: 0, 0x555555: 1, 0xAAAAAA: 2, 0xFFFFFF: 3}


def test_voc_masks_turned_into_grey_are_recognised(tmp_path):
    write_mask(tmp_path / "p.png", blocks([0, 8, 15, 255]))
    Image.open(tmp_path / "p.png").convert("L").save(tmp_path / "a.png")
    guess = guess_palette([tmp_path / "a.png"])
    assert guess.kind == "colours"
    assert "VOC's colours turned into grey" in guess.description


def test_grey_of_few_bits_is_black_and_white_all_the_same(tmp_path):
    """Its values are changed on reading, which makes it no index mask; black and white stay what they are."""
    image = Image.fromarray(blocks([0, 255]))
    image.save(tmp_path / "a.png")
    data = indexed_png(tmp_path / "p.png", blocks([0, 3]), [(0, 0, 0)] * 4, bits=2).read_bytes()
    header = data[12:24] + bytes([2, 0, 0, 0, 0])  # grey, 2 bits
    grey = data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33 + 12 + 12 :]
    (tmp_path / "g.png").write_bytes(grey)
    guess = guess_palette([tmp_path / "g.png"])
    assert (guess.kind, guess.values) == ("binary", None)
    assert read_colours(tmp_path / "g.png").tolist() == read_colours(tmp_path / "a.png").tolist()


@pytest.mark.parametrize("alpha", [b"", b"\xff\x80\xff"])
def test_values_without_a_certain_colour_are_ids(tmp_path, alpha):
    """Beyond the palette, or half transparent, as programs for maps style them."""
    values = blocks([0, 1, 2] if alpha else [0, 1, 9])
    path = indexed_png(tmp_path / "a.png", values, [(0, 0, 0), (9, 9, 9), (255, 255, 255)], alpha=alpha)
    guess = guess_palette([path])
    assert (guess.kind, guess.palette) == ("ids", False)
    assert guess.values == set(values.ravel().tolist())


def test_palettes_that_differ_between_files(tmp_path):
    """A program that shrinks PNG files numbers the colours of each file anew."""
    for name, order in (("a.png", [0x000000, RED, GREEN]), ("b.png", [0x000000, GREEN, RED])):
        image = Image.fromarray(blocks([0, 1, 2]))
        image.putpalette([channel for c in order for channel in (c >> 16, c >> 8 & 255, c & 255)])
        image.save(tmp_path / name)
    guess = guess_palette([tmp_path / "a.png", tmp_path / "b.png"])
    assert guess.kind == "colours"
    assert "a value has different colours in different masks" in guess.description


def test_voc_colours_get_voc_names_and_ignore(tmp_path):
    mask = blocks([0, 5, 20, 255])
    guess = guess_palette([save(tmp_path / "a.png", colourise(mask))])
    assert guess.kind == "colours"
    assert "4 colours; all of them VOC's" in guess.description
    table = read_back(guess, tmp_path)
    assert table.names == VOC_CLASS_NAMES
    assert to_indices(read_colours(tmp_path / "a.png"), table, tmp_path / "a.png").tolist() == mask.tolist()


def test_other_colours_are_listed_by_frequency(tmp_path):
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[1:, :] = (1, 2, 3)
    pixels[0, 0] = (250, 0, 9)
    guess = guess_palette([save(tmp_path / "a.png", pixels)])
    assert (guess.kind, guess.table) == ("colours", "background 0 0 0\nclass_1 1 2 3\nclass_2 250 0 9\n")
    assert guess.description == "1 of 1 masks looked at (1 of mode RGB): 3 colours"
    guess = guess_palette([save(tmp_path / "a.png", pixels[1:])])
    assert "black does not occur" in guess.description


def test_smoothed_colours_and_photographs(tmp_path):
    random = np.random.default_rng(0)
    pixels = np.zeros((100, 100, 3), np.uint8)
    pixels[:, 50:] = (10, 200, 0)
    pixels[:3] = random.integers(0, 256, (3, 100, 3))
    guess = guess_palette([save(tmp_path / "a.png", pixels)])
    assert guess.table == "background 0 0 0\nclass_1 10 200 0\n"
    assert "2 colours, and 300 rare ones on 3.00% of the pixels" in guess.description
    paths = [save(tmp_path / f"{i}.png", random.integers(0, 256, (200, 200, 3))) for i in range(2)]
    guess = guess_palette(paths)
    assert guess.table == ""
    assert "1 of 2 masks" in guess.description  # one was enough
    assert "photographs, not masks" in guess.description


def test_many_masks_are_sampled_evenly(tmp_path):
    path = save(tmp_path / "a.png", blocks([0, 1]))
    assert guess_palette([path] * 120).description.startswith("50 of 120 masks")
    with pytest.raises(DataError, match="there is no mask"):
        guess_palette([])
    with pytest.raises(DataError, match="compressed with loss"):
        guess_palette([save(tmp_path / "a.jpg", blocks([0, 1]))])


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 12), grey=st.booleans())
def test_the_guessed_table_reads_the_masks_it_was_guessed_from(tmp_path_factory, seed, count, grey):
    random = np.random.default_rng(seed)
    colours = random.integers(0, 256, (count, 1 if grey else 3), np.uint8)
    pixels = colours[random.integers(0, count, (6, 6))]
    folder = tmp_path_factory.mktemp("guess")
    path = save(folder / "a.png", pixels[..., 0] if grey else pixels)
    guess = guess_palette([path])
    table = read_back(guess, folder)
    if guess.kind == "ids":
        found = renumber(pixels[..., 0], table, path)
    else:
        found = to_indices(read_colours(path), table, path)
    # equal pixels have equal ids, different ones different ids
    pairs = {
        (tuple(pixel), int(index)) for pixel, index in zip(pixels.reshape(36, -1).tolist(), found.ravel(), strict=True)
    }
    assert len(pairs) == len({pixel for pixel, _ in pairs}) == len({index for _, index in pairs})


def test_real_voc_masks(real_data, tmp_path):
    masks = sorted((real_data / "data/voc-animals/SegmentationClass").glob("*.png"))
    if not masks:
        pytest.skip("no real masks")
    guess = guess_palette(masks)
    assert guess.kind == "ids"
    assert read_back(guess, tmp_path).names == VOC_CLASS_NAMES
    ids = np.array(Image.open(masks[0]))
    painted = save(tmp_path / "a.png", colourise(ids))
    table = read_back(guess_palette([painted]), tmp_path)
    np.testing.assert_array_equal(to_indices(read_colours(painted), table, painted), ids)
