"""Files of a folder that are not used are named, each with its reason."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artifacts.errors import DataError
from artifacts.image_files import SUFFIXES
from stages.data.images import ImageFolder, notes_on
from stages.data.listing import FilesBelow, NamedFiles, list_files

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8))


def save(path: Path, kind: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    IMAGE.save(path, format=kind)


def test_files_that_were_passed_over_in_silence_are_read_or_named(tmp_path):
    for name in ("a.jpg", "b.gif", "c.ppm", "d.jp2", "e.png"):
        save(tmp_path / name)
    save(tmp_path / "f.jfif", "JPEG")
    save(tmp_path / "bare", "PNG")
    save(tmp_path / "photo.jpg_large", "JPEG")
    save(tmp_path / "sub" / "deep" / "g.png")
    (tmp_path / "empty").mkdir()
    os.symlink(tmp_path / "nowhere.jpg", tmp_path / "link.jpg")
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("notes.txt", ".hidden.jpg", "Thumbs.db", "h.heic"):
        (tmp_path / name).write_bytes(b"hello")
    listing = list_files(tmp_path, SUFFIXES)
    assert sorted(listing.files) == ["a", "b", "c", "d", "e", "f"]
    (sentence,) = listing.left_out
    assert sentence.startswith(f"6 of 12 files of {tmp_path} are used as images; not used: ")
    for part in (
        "link.jpg (a broken link)",
        "pipe.png (not a regular file)",
        "bare (a PNG file by its content, but without its suffix)",
        "photo.jpg_large (a JPEG file by its content, but without its suffix)",
        "notes.txt (no image)",
        "h.heic (needs the package pillow-heif: pip install pillow-heif)",
        "sub/ with 1 image (only files directly in the folder are used: copy them into it)",
    ):
        assert part in sentence
    assert "empty" not in sentence
    assert "hidden" not in sentence
    assert "Thumbs" not in sentence


def test_where_all_files_are_used_nothing_is_said(tmp_path):
    save(tmp_path / "a.jpg")
    (tmp_path / "classes.txt").write_text("cat")
    save(tmp_path / "masks" / "a.png")
    assert list_files(tmp_path, SUFFIXES, used=[tmp_path / "classes.txt", tmp_path / "masks"]).left_out == ()
    assert list_files(tmp_path, SUFFIXES).left_out != ()


def test_of_two_images_of_one_name_the_common_format_is_used_and_the_other_named(tmp_path):
    """A camera's HEIC or a preview's GIF beside the JPEG never stood in the way."""
    save(tmp_path / "a.jpg")
    save(tmp_path / "a.gif")
    listing = list_files(tmp_path, SUFFIXES)
    assert listing.files == {"a": tmp_path / "a.jpg"}
    assert "a.gif (another image of the same name has a more common format)" in listing.left_out[0]
    save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"two images named 'a': a\.jpg and a\.png"):
        list_files(tmp_path, SUFFIXES)


def test_a_folder_without_an_image_says_what_it_holds(tmp_path):
    save(tmp_path / "train" / "a.jpg")
    (tmp_path / "b.txt").write_text("b")
    with pytest.raises(DataError, match=r"(?s)holds no image.*b\.txt \(no image\); train/ with 1 image "):
        ImageFolder(tmp_path)


def test_what_is_predicted_is_told_as_what_is_prepared(tmp_path):
    save(tmp_path / "a.jpg")
    (tmp_path / "notes.txt").write_text("b")
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)).save(tmp_path / "deep.png")
    rgba = IMAGE.convert("RGBA")
    rgba.putalpha(0)
    rgba.save(tmp_path / "clear.png")
    (tmp_path / "broken.tif").write_bytes(b"II*\0 broken")
    left_out, levels, clear = notes_on(ImageFolder(tmp_path), workers=1)
    assert "notes.txt (no image)" in left_out
    assert "deep.png (0..63 of 0..65535, 1 grey levels); set the value of white: --set white=4095" in levels
    assert clear == "1 image (transparent everywhere: transparency is ignored): clear.png"
    said = ImageFolder(tmp_path, white=63)
    np.testing.assert_array_equal(said.image("deep")[..., 0], np.rint(np.arange(64).reshape(8, 8) * 255 / 63))
    assert len(notes_on(said, workers=1)) == 2


def test_named_files_are_paths_by_id(tmp_path):
    names = {"a": "a.png", "b": "b_mask.tar.gz", "ä": "a\u0308.png", "c": "c"}  # of the third the name is spelled apart
    files = NamedFiles.of(tmp_path, names.items())
    assert dict(files) == {image_id: tmp_path / name for image_id, name in names.items()}
    assert [files.file_name(image_id) for image_id in files] == list(names.values())
    assert "a" in files
    assert "a.png" not in files
    assert len(files) == 4
    chosen = files.chosen([("x", "ä"), ("b", "b")])
    assert dict(chosen) == {"x": tmp_path / "a\u0308.png", "b": tmp_path / "b_mask.tar.gz"}


def test_files_below_a_folder_are_relative_to_it(tmp_path):
    parts = [NamedFiles.of(tmp_path / name, [(name[0], f"{name[0]}.png")]) for name in ("photos", "more/deep")]
    parts.append(NamedFiles.of(tmp_path, [("top", "top.jpg")]))
    below = FilesBelow(tmp_path, parts)
    assert dict(below) == {"p": "photos/p.png", "m": "more/deep/m.png", "top": "top.jpg"}
    assert len(below) == 3
    assert "x" not in below
