"""Lists of ids: the dialects, and what is not a list."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts.errors import DataError
from artifacts.text import named
from stages.data.lists.id_lists import Names, check_disjoint, check_subset, entry_id, list_digest, read_list

IDS = st.lists(st.from_regex(r"20[01][0-9]_[0-9]{6}", fullmatch=True), min_size=1, max_size=8, unique=True)
CITY_IDS = st.lists(
    st.from_regex(r"(aachen|zurich|bad-honnef)_0000[0-9]{2}_[0-9]{6}", fullmatch=True),
    min_size=1,
    max_size=8,
    unique=True,
)
COCO_IDS = st.lists(st.integers(1, 581929).map(lambda n: f"{n:012d}"), min_size=1, max_size=8, unique=True)
DIALECTS = {
    "plain": "{id}",
    "deeplab": "/JPEGImages/{id}.jpg /SegmentationClassAug/{id}.png",
    "unimatch": "JPEGImages/{id}.jpg SegmentationClass/{id}.png",
    "dot": "./JPEGImages/{id}.jpg\t./SegmentationClass/{id}.png",
    "windows": "JPEGImages\\{id}.jpg SegmentationClass\\{id}.png",
    "numbered": "{id}.jpg 17",
    "classes": "{id} 0 14",
}
CITY_DIALECTS = {
    "plain": "{id}",
    "dmt": "aachen/{id}",
    "u2pl": "leftImg8bit/train/aachen/{id}_leftImg8bit.png",
    "unimatch": "leftImg8bit/train/aachen/{id}_leftImg8bit.png gtFine/train/aachen/{id}_gtFine_labelTrainIds.png",
    "label-ids": "leftImg8bit/val/aachen/{id}_leftImg8bit.png\tgtFine/val/aachen/{id}_gtFine_labelIds.png",
    "coarse": "leftImg8bit/train_extra/a/{id}_leftImg8bit.png gtCoarse/train_extra/a/{id}_gtCoarse_labelTrainIds.png",
    "cps": "/images/train/{id}.png\t/segmentation/train/{id}_gtFine.png",
    "cps-coarse": "/images/train_extra/{id}.png\t/segmentation/train_extra/{id}_gtCoarse.png",
    "comma": "{id}_leftImg8bit.png,{id}_gtFine_labelIds.png",
}
COCO_DIALECTS = {
    "plain": "{id}",
    "image": "train2017/{id}.jpg",
    "unimatch": "train2017/{id}.jpg masks/{id}.png",
    "comma": "train2017/{id}.jpg, masks/{id}.png",
    "numbered": "{id}.jpg 17",
}


@given(
    ids=IDS, line=st.sampled_from(sorted(DIALECTS.values())), end=st.sampled_from(["\n", "\r\n"]), last=st.booleans()
)
def test_every_dialect_gives_the_ids_in_order(tmp_path_factory, ids, line, end, last):
    path = tmp_path_factory.mktemp("list") / "list.txt"
    text = end.join(line.format(id=image_id) for image_id in ids) + (end if last else "")
    path.write_bytes(text.encode())
    assert read_list(path) == read_list(path, Names(ids)) == read_list(path, Names(["x"])) == ids


@pytest.mark.parametrize("line", CITY_DIALECTS.values(), ids=CITY_DIALECTS)
def test_cityscapes_suffixes_leave_the_id(tmp_path, line):
    path = tmp_path / "list.txt"
    path.write_text(line.format(id="aachen_000000_000019") + "\n" + line.format(id="zurich_000121_000019"))
    assert read_list(path) == ["aachen_000000_000019", "zurich_000121_000019"]


@pytest.mark.parametrize("line", COCO_DIALECTS.values(), ids=COCO_DIALECTS)
def test_coco(tmp_path, line):
    path = tmp_path / "list.txt"
    path.write_text(line.format(id="000000000009") + "\r\n" + line.format(id="000000577932") + "\r\n")
    assert read_list(path) == ["000000000009", "000000577932"]


@pytest.mark.parametrize(
    ("entry", "image_id"),
    [
        ("2007_000032", "2007_000032"),
        ("024541_gtFine_labelcsTrainIds.png", "024541"),  # India Driving Dataset
        ("aachen_000000_000019_gtFine_color.png", "aachen_000000_000019"),
        ("a_leftImg8bit_b.png", "a_leftImg8bit_b"),
        ("my_gtFineArt", "my_gtFineArt"),
        ("_leftImg8bit.png", "_leftImg8bit"),
        ("red,green.jpg", "red,green"),
        ("2007_000032/frame_1.png", "frame_1"),
    ],
)
def test_only_known_suffixes_leave_the_id(entry, image_id):
    assert entry_id(entry, "here") == image_id


def test_commas_part_file_names_only(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("a.jpg,a.png\nb.jpg , b.png\nc.jpg,3\nred,green\n")
    assert read_list(path) == ["a", "b", "c", "red,green"]
    path.write_text("aachen_000000_000019_leftImg8bit.png,aachen_000000_000020_gtFine_labelIds.png\n")
    with pytest.raises(DataError, match="image aachen_000000_000019 is paired with mask aachen_000000_000020"):
        read_list(path)


def test_files_put_together_and_files_of_windows(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbfa\r\n\xef\xbb\xbfb\r\n")  # two files with a byte-order mark each
    assert read_list(path) == ["a", "b"]
    for encoding in ("utf-16-le", "utf-16-be"):
        path.write_bytes("\ufeff2007_000032\r\nbär\r\n".encode(encoding))
        assert read_list(path) == ["2007_000032", "bär"]
    path.write_bytes(b"\xff\xfea\x00b")
    with pytest.raises(DataError, match="is not UTF-16 text"):
        read_list(path)


@pytest.mark.parametrize(
    ("first", "second", "dialects"),
    [
        ("2007_000032", "2007_000039", DIALECTS),
        ("aachen_000001_000019", "bad-honnef_000000_000019", CITY_DIALECTS),
        ("000000000009", "000000577932", COCO_DIALECTS),
    ],
    ids=["voc", "cityscapes", "coco"],
)
def test_two_entries_on_one_line_in_any_two_dialects(tmp_path, first, second, dialects):
    for before, after in itertools.product(dialects.values(), repeat=2):
        path = tmp_path / "list.txt"
        path.write_text(f"{before.format(id=first)}{after.format(id=second)}\n")  # the newline between them is missing
        for names in (None, Names([first, second])):
            with pytest.raises(DataError, match="line 1"):
                print(before, after, read_list(path, names))
        for one in (first, second):  # where one is known alone, the line may be an id that is not
            with contextlib.suppress(DataError):
                assert not {first, second} & set(read_list(path, Names([one])))


FAULTS = ("none", "duplicate", "joined", "other mask", "words")


@given(
    case=st.one_of(
        st.tuples(ids, st.just(sorted(dialects.values())))
        for ids, dialects in ((IDS, DIALECTS), (CITY_IDS, CITY_DIALECTS), (COCO_IDS, COCO_DIALECTS))
    ),
    seed=st.integers(0, 2**32),
    fault=st.sampled_from(FAULTS),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_random_lists_give_their_ids_or_name_the_line(tmp_path_factory, case, seed, fault, encoding):
    (ids, dialects), choose = case, random.Random(seed)
    lines = [choose.choice(dialects).format(id=image_id) for image_id in ids]
    wrong = choose.randrange(len(lines))
    if fault == "joined" and len(lines) > 1:
        wrong = choose.randrange(len(lines) - 1)
        lines[wrong : wrong + 2] = [lines[wrong] + lines[wrong + 1]]
    elif fault == "duplicate":
        lines.append(choose.choice(dialects).format(id=ids[wrong]))
        wrong = len(lines) - 1
    elif fault == "other mask":
        lines[wrong] = f"JPEGImages/{ids[wrong]}.jpg SegmentationClass/{ids[wrong]}0.png"
    elif fault == "words":
        lines[wrong] = f"{ids[wrong]} cat dog"
    text, line_number, at = "", 1, 0
    for index, line in enumerate(lines):
        blank = choose.choice([0, 0, 0, 1, 2])
        text += "".join(choose.choice(["\n", "\r\n", "  \n", "\t\r\n"]) for _ in range(blank))
        line_number += blank
        at = line_number if index == wrong else at
        text += choose.choice(["", "", " "]) + line + choose.choice(["", " ", "\t"])
        text += choose.choice(["\n", "\r\n"] + (["", ""] if index == len(lines) - 1 else []))
        line_number += 1
    path = tmp_path_factory.mktemp("list") / "list.txt"
    path.write_bytes(text.encode(encoding))
    if fault == "none" or (fault == "joined" and len(ids) == 1):
        assert read_list(path) == read_list(path, Names(ids)) == ids
        assert list_digest(read_list(path)) == hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()
    else:
        for names in (None, Names(ids)):
            with pytest.raises(DataError, match=rf"line {at}\b"):
                read_list(path, names)


PIECES = [b"\n", b"\r", b" ", b",", b".jpg", b".png", b"/", b"\\", b"..", b"_gtFine", b"-1", b"9" * 5000, "²".encode()]


@given(
    data=st.one_of(
        st.binary(max_size=60),
        st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=3)), max_size=12).map(b"".join),
        st.text(max_size=40).map(str.encode),
        st.text(max_size=40).map(lambda text: text.encode("utf-16")),
    )
)
def test_random_bytes_are_ids_or_a_data_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("bytes") / "list.txt"
    path.write_bytes(data)
    with contextlib.suppress(DataError):
        ids = read_list(path)
        assert len(set(ids)) == len(ids) > 0
        assert all(ids)


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
        ("a\nb\na\n", r"line 3: id a is already in line 1"),
        ("JPEGImages/a.jpg SegmentationClass/b.png\n", r"line 1: image a is paired with mask b"),
        (
            "JPEGImages/a.jpg SegmentationClass/a.pngJPEGImages/b.jpg SegmentationClass/b.png\n",
            "are joined without a line break",
        ),
        ("a.jpgb.jpg\n", "are joined without a line break"),
        ("a  1\nb -1\n", "per-class list of ImageSets/Main"),
        ("a\nb cat dog\n", r"line 2: 'b cat dog' is not a list entry"),
        ("b\n2007_0000322007_000039\n", r"line 2: two entries are joined"),
        ("2007_000032.jpg 172007_000039.jpg 18\n", r"line 1"),
        ("2007_000032.jpg 172007_000039\n", r"line 1: .* is not a list entry"),  # int() reads 172007_000039
        ("aachen/aachen_000000_000019aachen/aachen_000001_000019\n", r"line 1: two entries are joined"),
        ("a\n/\n", r"line 2: '' cannot be an image id"),
        ("a\nb\x07.jpg\n", r"line 2: 'b\\x07' cannot be an image id"),
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
    with pytest.raises(DataError, match=r"split_0.pkl is not a text file") as caught:
        read_list(tmp_path / "split_0.pkl")
    assert "pickles are never loaded" in caught.value.hint
    (tmp_path / "latin.txt").write_bytes("bär\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"not UTF-8 text: .* at byte 1"):
        read_list(tmp_path / "latin.txt")
    with pytest.raises(DataError, match=r"missing.txt cannot be read: No such file"):
        read_list(tmp_path / "missing.txt")


def test_messages_name_five_and_count_the_rest():
    assert named(list("abcde")) == "a, b, c, d, e"
    assert named(list("abcdefg")) == "a, b, c, d, e and 2 more"
    with pytest.raises(DataError, match="6 ids of mine are not in all: a, b, c, d, e and 1 more"):
        check_subset("abcdefx", "x", "mine", "all")
    with pytest.raises(DataError, match="2 ids are in both mine and val: b, c"):
        check_disjoint("cab", "bcd", "mine", "val")
    check_subset("ab", "abc", "mine", "all")
    check_disjoint("ab", "cd", "mine", "val")


VOC = [f"2007_{number:06d}" for number in range(40)]


@pytest.mark.parametrize(
    ("wrong", "known", "hint"),
    [
        ("IMG_7", ["img_7", "img_8"], "did you mean img_7 for IMG_7? Else remove"),
        ("2007_000032_mask", VOC, "did you mean 2007_000032 for 2007_000032_mask?"),
        ("2007_000032.tif", VOC, "did you mean 2007_000032 for 2007_000032.tif?"),
        ("zurich_000000_000019", ["zurich_000000_000019_rain"], "did you mean zurich_000000_000019_rain for"),
        ("COCO_train2014_000000000009", ["000000000009"], "did you mean 000000000009 for COCO_train2014_000000000009?"),
        ("9", ["000000000009"], "did you mean 000000000009 for 9?"),
        ("ab", ["a", "b"], "did you mean a and b on two lines for ab?"),
        ("17", ["img_17", "img_18"], "did you mean img_17 for 17?"),
        ("17", VOC, "row numbers of another list"),
        ("2007", VOC, "remove them from the list"),  # the beginning of many
        ("2008_000001", VOC, "remove them from the list"),
    ],
)
def test_near_misses_are_named(wrong, known, hint):
    with pytest.raises(DataError, match=f"1 id of mine is not in all: {wrong}") as caught:
        check_subset([wrong], known, "mine", "all")
    assert hint in str(caught.value.hint)
    assert hint.startswith("did you mean") or "did you mean" not in str(caught.value.hint)


def test_near_misses_are_five_at_most_and_quick():
    known = [f"{number:012d}" for number in range(100_000)]
    with pytest.raises(DataError) as caught:
        check_subset([f"{image_id}_x" for image_id in known], known, "mine", "all")
    assert str(caught.value.hint).count(" for ") == 5


def test_digest_names_the_set(tmp_path: Path):
    assert list_digest(["b", "a"]) == list_digest(["a", "b"]) == hashlib.sha256(b"a\nb").hexdigest()
    assert list_digest(["a", "b"]) != list_digest(["ab"])


# ------------------------------------------------------------------------------------------------- ids that are known


def listed(tmp_path, text, known, notes=None):
    path = tmp_path / "list.txt"
    path.write_bytes(text.encode())
    return read_list(path, Names(known), (notes if notes is not None else []).append)


SPACED = [
    "photo",
    "photo 1",
    "photo 2",
    "IMG (1)",
    "img 3",
    "red,green",
    "a.b",
    "c.png.v2",
    "it's",
    "x 0 14",
    "a",
    "b;c",
]


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "{}.jpg",
        "{}.JPEG",
        "{}.heic",
        "my photos/{}.tif",
        "C:\\my photos\\{}.png",
        '"{}"',
        "'{}.jpg'",
        '"my photos/{}.jpg"',
        "my photos/{0}.jpg my masks/{0}.png",
        "{0}.jpg,{0}.png",
        "{0},{0}",
        "{0}.jpg\tmasks/{0}.bmp",
        '"{0}.jpg","{0}.png"',
        "{}.jpg 17",
        '"{}.jpg", 17',
    ],
)
def test_names_with_spaces_numbers_and_brackets_are_one_id(tmp_path, line):
    assert listed(tmp_path, "\n".join(line.format(one) for one in SPACED), SPACED) == SPACED


def test_the_longest_known_id_is_meant(tmp_path):
    assert listed(tmp_path, "photo 1\nphoto\n", ["photo", "photo 1"]) == ["photo 1", "photo"]
    assert listed(tmp_path, "a.png\na\n", ["a", "a.png"]) == ["a.png", "a"]
    assert listed(tmp_path, "2007_0000322007_000039\n", ["2007_0000322007_000039", "2007_000032"])[0][-6:] == "000039"


def test_numbers_behind_known_ids_are_numbers_and_said(tmp_path):
    notes: list[str] = []
    assert listed(tmp_path, "2007_000032 0 14\nimg_1.jpg 3\n", ["2007_000032", "img_1"], notes) == [
        "2007_000032",
        "img_1",
    ]
    assert notes == []
    assert listed(tmp_path, "p1 4\np2 0 7\n", ["p1", "p2"], notes) == ["p1", "p2"]
    assert "the numbers after the ids ('p1 4') are read as class or running numbers and not used" in notes[0]


@pytest.mark.parametrize(
    ("text", "known", "line"),
    [
        ("photo 3\n", ["photo", "photo 1"], 1),  # photo 1 says that the number belongs to the name
        ("cat\nphoto 3\n", ["photo", "cat"], 2),  # no number in another line
    ],
)
def test_a_number_that_may_belong_to_an_unknown_id_is_refused(tmp_path, text, known, line):
    with pytest.raises(DataError, match=rf"line {line}: 'photo 3' may be one unknown id, or the id photo "):
        listed(tmp_path, text, known)


@pytest.mark.parametrize("line", ["photo 3", "IMG (1)", "my photo", "a 1 2 x"])
def test_without_known_ids_a_line_of_two_meanings_is_refused(tmp_path, line):
    path = tmp_path / "list.txt"
    path.write_text(f"{line}\n")
    with pytest.raises(DataError, match="line 1"):
        read_list(path)
    path.write_text(f"{line}.jpg\n")
    assert read_list(path) == [line]


@pytest.mark.parametrize(
    "line", ["a.jpg masks/b.png", "a masks/b.png", "a b", "a.jpg b.jpg", "a,b", "x.jpg masks/b.png"]
)
def test_two_images_on_a_line_are_never_one_of_them(tmp_path, line):
    with pytest.raises(DataError, match=r"line 1: .*(paired with mask|is not a list entry)"):
        listed(tmp_path, f"{line}\n", ["a", "b"])


def test_unknown_ids_with_spaces_come_back_whole_for_the_message(tmp_path):
    ids = listed(tmp_path, "Photo 1\nnew (3).jpg\n", ["photo 1", "photo 2"])
    assert ids == ["Photo 1", "new (3)"]
    with pytest.raises(DataError) as caught:
        check_subset(ids, ["photo 1", "photo 2"], "mine", "all")
    assert "did you mean photo 1 for Photo 1" in str(caught.value.hint)


def test_a_line_of_very_many_parts_is_refused_at_once(tmp_path):
    with pytest.raises(DataError, match="line 1"):
        listed(tmp_path, " ".join(["a"] * 200_000), ["a", "b"])


def test_two_ids_that_differ_by_how_an_accent_is_written_are_told_apart(tmp_path):
    composed_id, decomposed_id = "caf\u00e9", "cafe\u0301"
    path = tmp_path / "list.txt"
    for listed in ([composed_id], [decomposed_id], [decomposed_id, composed_id]):
        path.write_text("\n".join(listed), encoding="utf-8")
        assert read_list(path, Names([composed_id, decomposed_id])) == listed
    path.write_text(f"{decomposed_id}.jpg", encoding="utf-8")
    assert read_list(path, Names([composed_id])) == [composed_id]
