"""Images of one's own: every common kind becomes 8-bit RGB, and what cannot be read is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artifacts.errors import DataError
from artifacts.image_files import ORIENTATION
from stages.data.images import ImageFolder
from stages.data.pixels import read


def pixels_of(path: Path) -> np.ndarray:
    return read(path).pixels


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


GREY = np.array([[0, 100, 255], [7, 8, 9]], np.uint8)
COLOUR = np.dstack([GREY, GREY[::-1], 255 - GREY])


def test_colour_and_grey(tmp_path: Path) -> None:
    np.testing.assert_array_equal(pixels_of(save(tmp_path / "rgb.png", COLOUR)), COLOUR)
    np.testing.assert_array_equal(pixels_of(save(tmp_path / "grey.png", GREY)), np.dstack([GREY] * 3))
    assert pixels_of(save(tmp_path / "photo.jpg", COLOUR)).shape == (2, 3, 3)


def test_sixteen_bits_become_the_upper_eight(tmp_path: Path) -> None:
    deep = GREY.astype(np.uint16) * 256 + 77
    np.testing.assert_array_equal(pixels_of(save(tmp_path / "deep.png", deep)), np.dstack([GREY] * 3))
    np.testing.assert_array_equal(pixels_of(save(tmp_path / "deep.tif", deep.astype(np.int32))), np.dstack([GREY] * 3))


def test_transparent_parts_lie_on_white(tmp_path: Path) -> None:
    alpha = np.array([[255, 0, 255], [255, 255, 0]], np.uint8)
    expected = np.where(alpha[:, :, None] == 0, 255, COLOUR)
    np.testing.assert_array_equal(pixels_of(save(tmp_path / "rgba.png", np.dstack([COLOUR, alpha]))), expected)
    np.testing.assert_array_equal(
        pixels_of(save(tmp_path / "la.png", np.dstack([GREY, alpha]))),
        np.where(alpha[:, :, None] == 0, 255, np.dstack([GREY] * 3)),
    )


def test_palette_and_cmyk(tmp_path: Path) -> None:
    palette = Image.fromarray(COLOUR).convert("P", palette=Image.Palette.ADAPTIVE)
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(pixels_of(tmp_path / "palette.png"), np.array(palette.convert("RGB")))
    Image.fromarray(COLOUR).convert("CMYK").save(tmp_path / "print.jpg")
    assert pixels_of(tmp_path / "print.jpg").shape == (2, 3, 3)


def test_the_orientation_of_cameras_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # turned by 90 degrees: 2 rows of 3 become 3 rows of 2
    save(tmp_path / "camera.png", COLOUR, exif=exif)
    np.testing.assert_array_equal(pixels_of(tmp_path / "camera.png"), np.rot90(COLOUR, -1))
    assert ImageFolder(tmp_path).size("camera") == (3, 2)


def test_a_folder_lists_its_images(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpeg", ".hidden.png"):
        save(tmp_path / name, COLOUR, format="PNG")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "sub.png").mkdir()
    folder = ImageFolder(tmp_path)
    assert folder.ids == ("a", "b")
    assert folder.size("b") == (2, 3)
    np.testing.assert_array_equal(folder.image("b"), COLOUR)


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        ImageFolder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no image"):
        ImageFolder(tmp_path)
    save(tmp_path / "a.png", np.zeros((50, 50, 3), np.uint8))
    save(tmp_path / "a.bmp", COLOUR)
    with pytest.raises(DataError, match=r"two images named 'a': a\.bmp and a\.png"):
        ImageFolder(tmp_path)
    (tmp_path / "a.bmp").unlink()
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a\.png cannot be read"):
        ImageFolder(tmp_path).image("a")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(DataError, match=r"text\.png cannot be read"):
        ImageFolder(tmp_path).size("text")
    with pytest.raises(DataError, match=r"no image .*gone\.png"):
        pixels_of(tmp_path / "gone.png")
