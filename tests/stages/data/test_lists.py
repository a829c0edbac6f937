"""Lists of ids: five dialects, and what is no list."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts.errors import DataError
from stages.data.lists import check_disjoint, check_subset, list_digest, named, read_list

IDS = st.lists(st.from_regex(r"20[01][0-9]_[0-9]{6}", fullmatch=True), min_size=1, max_size=8, unique=True)
DIALECTS = {
    "plain": "{id}",
    "deeplab": "/JPEGImages/{id}.jpg /SegmentationClassAug/{id}.png",
    "unimatch": "JPEGImages/{id}.jpg SegmentationClass/{id}.png",
    "dot": "./JPEGImages/{id}.jpg\t./SegmentationClass/{id}.png",
    "windows": "JPEGImages\\{id}.jpg SegmentationClass\\{id}.png",
    "numbered": "{id}.jpg 17",
    "classes": "{id} 0 14",
}


@given(
    ids=IDS, line=st.sampled_from(sorted(DIALECTS.values())), end=st.sampled_from(["\n", "\r\n"]), last=st.booleans()
)
def test_every_dialect_gives_the_ids_in_order(tmp_path_factory, ids, line, end, last):
    path = tmp_path_factory.mktemp("list") / "list.txt"
    text = end.join(line.format(id=image_id) for image_id in ids) + (end if last else "")
    path.write_bytes(text.encode())
    assert read_list(path) == ids


def test_byte_order_mark_and_blank_lines(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbfa\n\n  \nb  \n")
    assert read_list(path) == ["a", "b"]


def test_dots_in_an_id_stay(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("img.v2\nimages/x.y.jpg\n")
    assert read_list(path) == ["img.v2", "x.y"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nb\na\n", r"line 3: id a stood already in line 1"),
        ("JPEGImages/a.jpg SegmentationClass/b.png\n", r"line 1: image a is paired with mask b"),
        ("JPEGImages/a.jpg SegmentationClass/a.pngJPEGImages/b.jpg SegmentationClass/b.png\n", "ran into each other"),
        ("a.jpgb.jpg\n", "ran into each other"),
        ("a  1\nb -1\n", "per-class list of ImageSets/Main"),
        ("a\nb cat dog\n", r"line 2: 'b cat dog' is no list entry"),
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("..\n", "cannot be an image id"),
    ],
)
def test_what_is_no_list(tmp_path, text, message):
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_list(path)


def test_files_that_are_no_text(tmp_path):
    (tmp_path / "split_0.pkl").write_bytes(b"\x80\x03]q\x00.")
    with pytest.raises(DataError, match=r"split_0.pkl is no text file") as caught:
        read_list(tmp_path / "split_0.pkl")
    assert "pickles are never loaded" in caught.value.hint
    (tmp_path / "latin.txt").write_bytes("bär\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"no UTF-8 text: .* at byte 1"):
        read_list(tmp_path / "latin.txt")
    with pytest.raises(DataError, match=r"missing.txt cannot be read: No such file"):
        read_list(tmp_path / "missing.txt")


def test_messages_name_five_and_count_the_rest():
    assert named(list("abcde")) == "a, b, c, d, e"
    assert named(list("abcdefg")) == "a, b, c, d, e and 2 more"
    with pytest.raises(DataError, match="6 ids of mine are not in all: a, b, c, d, e and 1 more"):
        check_subset("abcdefx", "x", "mine", "all")
    with pytest.raises(DataError, match="2 ids stand in both mine and val: b, c"):
        check_disjoint("cab", "bcd", "mine", "val")
    check_subset("ab", "abc", "mine", "all")
    check_disjoint("ab", "cd", "mine", "val")


def test_digest_names_the_set(tmp_path: Path):
    assert list_digest(["b", "a"]) == list_digest(["a", "b"]) == hashlib.sha256(b"a\nb").hexdigest()
    assert list_digest(["a", "b"]) != list_digest(["ab"])
