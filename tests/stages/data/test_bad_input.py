"""Bad files given to `semiseg prepare-data`: one clear error and exit code 3, nothing published, no source touched.

What each message says in detail is tested beside the reader that says it; here every case goes the whole way, and once
it is mended the same command makes the very data set that it would have made before.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from artifacts.dataset import Dataset
from artifacts.errors import SemisegError
from artifacts.masks import read_mask
from artifacts.store import Workspace
from semiseg_cli.main import main
from stages.data.annotations.class_table import read_class_table
from stages.data.annotations.coco_outlines import read_coco
from stages.data.annotations.colour_masks import read_colours
from stages.data.annotations.image_labels import read_label_file, read_label_table, read_xml
from stages.data.annotations.labelme import read_labelme
from stages.data.annotations.palette_guess import guess_palette
from stages.data.lists.id_lists import read_list
from stages.data.pixels import read as read_image
from stages.data.readers.voc import read_sbd_mask
from tests.fuzz.palettes import indexed_png

WIDTH, HEIGHT = 24, 18
NOBODY = 65534


@dataclass
class Source:
    """A tiny data set on disk, and the options that name it."""

    root: Path
    options: list[str]

    def content(self) -> dict[str, bytes | None]:
        """Every file below the root; None for a folder."""
        found = sorted(self.root.rglob("*"))
        return {str(path.relative_to(self.root)): path.read_bytes() if path.is_file() else None for path in found}

    def replace(self, content: dict[str, bytes | None]) -> None:
        shutil.rmtree(self.root)
        self.root.mkdir()
        for name, data in content.items():
            (self.root / name).mkdir() if data is None else (self.root / name).write_bytes(data)


def voc_aug(root: Path, kit: Any) -> Source:
    """The devkit and SBD of `kit`; of its lists, mine.txt is the labelled one."""
    shutil.copytree(kit.root, root / "VOC2012")
    shutil.copytree(kit.sbd, root / "SBD")
    (root / "mine.txt").write_text("t1\ns1\n")
    places = ["--source", str(root / "VOC2012"), "--sbd", str(root / "SBD"), "--labelled", str(root / "mine.txt")]
    return Source(root, ["--dataset", "voc-aug", *places, "--allow-subset", "--set", "verify_images=true"])


def folder(root: Path, kit: Any) -> Source:
    """Images p0 ... p5; masks of the classes 0..2 for the first four."""
    rng = np.random.default_rng(0)
    for name in ("photos", "masks"):
        (root / name).mkdir(parents=True)
    for number in range(6):
        Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(root / f"photos/p{number}.jpg")
    for number in range(4):
        index_png(root / f"masks/p{number}.png", rng.integers(0, 3, (HEIGHT, WIDTH)).astype(np.uint8))
    (root / "classes.txt").write_text("background\ncat\ndog\n")
    places = ["--images", str(root / "photos"), "--masks", str(root / "masks"), "--classes", str(root / "classes.txt")]
    return Source(root, [*places, "--set", "verify_images=true"])


def coco(root: Path, kit: Any) -> Source:
    for split, number in (("train", 1), ("val", 7)):
        image = {"id": number, "file_name": f"{number:012d}.jpg", "width": WIDTH, "height": HEIGHT}
        shape = {"id": number, "image_id": number, "category_id": 17, "segmentation": [[2, 2, 9, 2, 9, 9, 2, 9]]}
        content = {"images": [image], "annotations": [shape], "categories": [{"id": 17, "name": "cat"}]}
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(content))
        (root / f"{split}2017").mkdir()
        Image.new("RGB", (WIDTH, HEIGHT), (number, 80, 90)).save(root / f"{split}2017" / f"{number:012d}.jpg")
    return Source(root, ["--dataset", "coco", "--source", str(root), "--allow-subset"])


def index_png(path: Path, mask: np.ndarray) -> None:
    image = Image.fromarray(mask)
    image.putpalette([value for i in range(256) for value in (i, 255 - i, i // 2)])
    image.save(path)


def prepare(source: Source, workspace: Path, *more: str) -> int:
    return main(["prepare-data", *source.options, "--workspace", str(workspace), "--workers", "1", *more])


def content_digest(workspace: Path) -> str:
    return Workspace(workspace).artifact("data").manifest.content


@pytest.fixture(autouse=True)
def _a_wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "2000")
    monkeypatch.delenv("SEMISEG_WORKSPACE", raising=False)


def refused(capsys: pytest.CaptureFixture[str], code: int, message: str, hint: str) -> None:
    """Exit code 3, and on stderr, once, the message and how to mend it; nothing on stdout."""
    captured = capsys.readouterr()
    assert code == 3, captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert "object at 0x" not in captured.err
    before, _, error = captured.err.partition("error: ")
    assert "hint:" not in before
    assert error.count("error: ") == 0
    said, _, cure = error.partition("hint: ")
    assert message in " ".join(said.split())
    assert hint in " ".join(cure.split())


# ------------------------------------------------------------------------------------------------- files


def cut(name: str, kept: int) -> Callable[[Path], Any]:
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:kept])


def text(name: str, content: str) -> Callable[[Path], Any]:
    return lambda root: (root / name).write_text(content)


def without(*names: str) -> Callable[[Path], Any]:
    return lambda root: [(root / name).unlink() for name in names]


def copied(name: str, to: str) -> Callable[[Path], Any]:
    return lambda root: shutil.copy(root / name, root / to)


def masked(name: str, mask: np.ndarray) -> Callable[[Path], Any]:
    return lambda root: index_png(root / name, mask)


def painted(*names: str) -> Callable[[Path], Any]:
    return lambda root: [Image.new("RGB", (WIDTH, HEIGHT), (200, 40, 90)).save(root / name) for name in names]


def instead(*spoils: Callable[[Path], Any]) -> Callable[[Path], Any]:
    return lambda root: [spoil(root) for spoil in spoils]


def file_for_folder(name: str) -> Callable[[Path], Any]:
    return lambda root: (shutil.rmtree(root / name), (root / name).write_text("no folder"))


AGAIN = "copy or extract the file again"
ALL = [f"masks/p{number}.png" for number in range(4)]
CASES = {
    # data set, what is done to it, message, hint, further options
    "truncated JPEG": (voc_aug, cut("VOC2012/JPEGImages/t2.jpg", -200), "t2.jpg cannot be read: image file is", AGAIN),
    "empty image": (voc_aug, cut("VOC2012/JPEGImages/t2.jpg", 0), "t2.jpg cannot be read: it is empty", AGAIN),
    "text for an image": (folder, text("photos/p1.jpg", "<html>"), "p1.jpg cannot be read: cannot identify it", AGAIN),
    "empty mask": (folder, cut("masks/p1.png", 0), "masks/p1.png is empty", ""),
    "truncated mask": (folder, cut("masks/p1.png", 60), "masks/p1.png is damaged: truncated after 60 bytes", AGAIN),
    "all masks empty": (
        folder,
        instead(*(cut(name, 0) for name in ALL)),
        "masks/p0.png is damaged: it is empty (0 bytes)",
        "copy or export the file again",
    ),
    "painted masks without classes": (
        folder,
        instead(painted(*ALL)),
        "the class of each value or colour in",
        "write a class table and give it (--classes FILE)",
        ["--classes", ""],
    ),
    "painted masks and a table without colours": (
        folder,
        painted(*ALL),
        "masks are painted in colours, and the class table has none",
        "write the colour behind each name",
    ),
    "one painted mask": (
        folder,
        painted("masks/p1.png"),
        "(3 of mode P, such as p0.png, 1 of mode RGB, such as p1.png)",
        "--set dataset.mask_format=ids names those",
    ),
    "one painted mask, pinned": (
        folder,
        painted("masks/p1.png"),
        "masks/p1.png has mode RGB",
        "write the class ids as an indexed PNG",
        ["--set", "dataset.mask_format=ids"],
    ),
    "mask of another size": (
        folder,
        masked("masks/p2.png", np.ones((HEIGHT, WIDTH + 6), np.uint8)),
        "masks/p2.png is 30x18 (width x height), expected 24x18",
        "resize masks with nearest neighbour only",
    ),
    "value outside the classes": (
        folder,
        masked("masks/p2.png", np.full((HEIGHT, WIDTH), 7, np.uint8)),
        "masks/p2.png has values that are not a class: 7 (432 px)",
        "add them to the class table",
    ),
    "value outside the classes of VOC": (
        voc_aug,
        masked("VOC2012/SegmentationClass/v1.png", np.full((HEIGHT, WIDTH), 77, np.uint8)),
        "v1.png has values outside the classes: 77",
        "map the mask's ids to those of the data set",
    ),
    "several at once, each with its cure": (
        folder,
        instead(cut("photos/p1.jpg", 0), masked("masks/p2.png", np.ones((9, 9), np.uint8))),
        "2 images cannot be used:",
        "copy or extract the file again; a mask has the size of its image",
    ),
    "mask without image": (
        folder,
        without("photos/p2.jpg"),
        "1 of 4 masks in",
        "a mask has the file name of its image",
    ),
    "listed image that is not there": (
        voc_aug,
        without("VOC2012/JPEGImages/t2.jpg"),
        "1 id of others has no image below",
        "add the files, or remove the ids from the lists",
    ),
    "listed mask that is not there": (
        voc_aug,
        without("VOC2012/SegmentationClass/v1.png", "SBD/dataset/cls/v1.mat"),
        "1 id of val has no mask: v1",
        "add the files, or remove the ids from the lists",
    ),
    "two images of one stem": (
        folder,
        copied("photos/p3.jpg", "photos/p3.jpeg"),
        "two images named 'p3': p3.jpeg and p3.jpg",
        "rename one of them",
    ),
    "two masks of one stem": (
        folder,
        copied("masks/p3.png", "masks/p3.tif"),
        "two masks of 'p3': p3.png and p3.tif",
        "remove one of them",
    ),
    "ids that differ in case": (
        folder,
        copied("photos/p3.jpg", "photos/P3.jpg"),
        "differ only in case: 'P3' and 'p3'",
        "rename one of each",
    ),
    "a file where the source should be": (
        voc_aug,
        file_for_folder("VOC2012"),
        "VOC2012, which is not a folder",
        "correct source",
    ),
    "a file where the images should be": (
        folder,
        file_for_folder("photos"),
        "photos, which is not a folder",
        "correct images",
    ),
    "a file where the lists should be": (
        voc_aug,
        file_for_folder("VOC2012/ImageSets/Segmentation"),
        "has no folder ImageSets/Segmentation",
        "extract the devkit again",
    ),
    "labelled list that names val": (
        voc_aug,
        text("mine.txt", "t1\nv2\n"),
        "mine.txt and val: v2",
        "scored images must not be trained on",
    ),
    "train list that names val": (
        voc_aug,
        text("VOC2012/ImageSets/Segmentation/train.txt", "t1\nt2\nv1\n"),
        "train.txt and val.txt: v1",
        "scored images must not be trained on",
    ),
    "empty list": (voc_aug, text("mine.txt", " \n\n"), "mine.txt is empty", "write one image id per line"),
    "corrupt .mat": (
        voc_aug,
        cut("SBD/dataset/cls/s2.mat", 150),
        "s2.mat cannot be read as an SBD annotation",
        "extract SBD's folder cls again",
    ),
    "empty .mat": (
        voc_aug,
        cut("SBD/dataset/cls/s2.mat", 0),
        "s2.mat cannot be read as an SBD",
        "extract SBD's folder",
    ),
    "damaged annotation": (
        voc_aug,
        cut("VOC2012/Annotations/t1.xml", 30),
        "t1.xml is damaged",
        "extract it again from the devkit",
    ),
    "COCO annotation without its image": (
        coco,
        without("train2017/000000000001.jpg"),
        "1 images of instances_train2017.json are not in",
        "extract the archives of the images there",
    ),
    "half of a COCO file": (coco, cut("annotations/instances_val2017.json", 90), "instances_val2017.json", "again"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_one_clear_error_and_nothing_half_written(case, kit, tmp_path, capsys):
    build, spoil, message, hint, *more = case
    source = build(tmp_path / "source", kit)
    whole = source.content()
    spoil(source.root)
    spoiled = source.content()
    options = more[0] if more else []
    code = prepare(source, tmp_path / "ws", *options)
    refused(capsys, code, message, hint)
    assert source.content() == spoiled
    assert not (tmp_path / "ws" / "data").exists()

    source.replace(whole)
    assert prepare(source, tmp_path / "ws", *options) == 0, capsys.readouterr().err
    assert prepare(source, tmp_path / "never spoiled", *options) == 0
    assert content_digest(tmp_path / "ws") == content_digest(tmp_path / "never spoiled")
    assert source.content() == whole


def shades(mode: str, *values: int, kind: Any = np.uint8, suffix: str = ".png") -> Callable[[Path], Any]:
    """All masks anew, of these values in stripes."""

    def spoil(root: Path) -> None:
        mask = np.resize(np.array(values, kind), (HEIGHT, WIDTH))
        for name in ALL:
            (root / name).unlink()
            image = Image.fromarray(mask)
            (image if mode in "LF" else image.convert(mode)).save((root / name).with_suffix(suffix))

    return spoil


def short_palette(root: Path) -> None:
    mask = np.resize(np.array([0, 1, 255], np.uint8), (HEIGHT, WIDTH))
    for name in ALL:
        indexed_png(root / name, mask, [(0, 0, 0), (9, 9, 9)])
    (root / "classes.txt").write_text("background 0 0 0\ncat 9 9 9\n")


MASKS = {
    # what is done to the masks or classes of a folder, message, hint
    "values beyond a palette": (
        short_palette,
        "p0.png has a palette of 2 colours, and pixels of values",
        "mask_format",
    ),
    "16-bit ids above 255": (shades("L", 0, 300, kind=np.uint16), "outside 0..255: 300 (216 px)", "renumber"),
    "numbers that are not whole": (
        shades("F", 0, 0.5, kind=np.float32, suffix=".tif"),
        "p0.tif has 216 pixels that are not whole numbers, such as 0.5",
        "probabilities",
    ),
    "shades and a table of names": (shades("L", 0, 100, 200), "the class table has none", "write the colour"),
    "three equal channels of no class": (
        shades("RGB", 0, 7),
        "p0.png has values that are not a class: 7 (216 px)",
        "add",
    ),
    "JPEG masks": (shades("L", 0, 1, suffix=".jpg"), "4 masks in", "export them as PNG"),
    "CMYK masks": (shades("CMYK", 0, 255, suffix=".tif"), "p0.tif has no RGB colours (mode CMYK)", "8 bits a channel"),
    "a class name with an escape sequence": (
        text("classes.txt", "background\n\x1b[31mcat\ndog\n"),
        "line 2: '\\x1b[31mcat' cannot be a class name",
        "rename it",
    ),
    "too many classes": (
        text("classes.txt", "background\n" + "".join(f"c{number}\n" for number in range(400))),
        "classes.txt has 401 classes; a mask holds 255",
        "",
    ),
    "a class table of another program": (
        text("classes.txt", "item { name: 'cat' }"),
        "protobuf text",
        "`id name` lines",
    ),
}


@pytest.mark.parametrize("case", MASKS.values(), ids=MASKS)
def test_check_data_says_of_masks_and_classes_what_prepare_data_says(case, kit, tmp_path, capsys):
    spoil, message, hint = case
    source = folder(tmp_path / "source", kit)
    spoil(source.root)
    refused(capsys, prepare(source, tmp_path / "ws"), message, hint)
    code = main(["check-data", *source.options, "--workers", "1"])
    said = " ".join(capsys.readouterr().out.split())
    assert code == 3
    assert message in said
    assert hint in said


# ------------------------------------------------------------------------------------------------- accepted


@pytest.mark.parametrize(("mode", "kind"), [("RGB", "PNG"), ("CMYK", "JPEG"), ("L", "JPEG")])
@pytest.mark.parametrize("build", [voc_aug, folder])
def test_images_that_are_read_whatever_their_name_says(build, mode, kind, kit, tmp_path, capsys):
    source = build(tmp_path / "source", kit)
    path = source.root / ("VOC2012/JPEGImages/t2.jpg" if build is voc_aug else "photos/p1.jpg")
    Image.new("RGB", (WIDTH, HEIGHT), (200, 40, 40)).convert(mode).save(path, format=kind, quality=100)
    before = source.content()
    assert prepare(source, tmp_path / "ws") == 0, capsys.readouterr().err
    expected = (200, 40, 40) if mode != "L" else np.round(0.299 * 200 + 0.587 * 40 + 0.114 * 40)
    read = Dataset(tmp_path / "ws" / "data").image(path.stem)
    np.testing.assert_allclose(read, np.broadcast_to(expected, (HEIGHT, WIDTH, 3)), atol=6)
    assert source.content() == before


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lists_of_windows_give_the_same_data_set(end, encoding, kit, tmp_path, capsys):
    source = voc_aug(tmp_path / "source", kit)
    assert prepare(source, tmp_path / "plain") == 0, capsys.readouterr().err
    (source.root / "mine.txt").write_bytes(end.join(["s1", "t1"]).encode(encoding))
    for name in ("train", "val"):
        path = source.root / "VOC2012" / "ImageSets" / "Segmentation" / f"{name}.txt"
        path.write_bytes(end.join(path.read_text().split()).encode(encoding))
    assert prepare(source, tmp_path / "windows") == 0, capsys.readouterr().err
    assert Dataset(tmp_path / "windows" / "data").splits == Dataset(tmp_path / "plain" / "data").splits
    assert content_digest(tmp_path / "windows") == content_digest(tmp_path / "plain")


# ------------------------------------------------------------------------------------------------- permissions, disks


@pytest.fixture
def common_place() -> Iterator[Path]:
    """A folder that every user may look into, which tmp_path is not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextlib.contextmanager
def no_root() -> Iterator[None]:
    """Root may read and write everywhere: for a moment this process is nobody. All it needs is imported before."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextlib.contextmanager
def mode(path: Path, bits: int) -> Iterator[None]:
    before = path.stat().st_mode
    path.chmod(bits)
    try:
        yield
    finally:
        path.chmod(before)


@pytest.mark.parametrize(
    ("build", "name", "message"),
    [
        (voc_aug, "VOC2012", "VOC2012/JPEGImages cannot be read"),
        (voc_aug, "VOC2012/JPEGImages", "VOC2012/JPEGImages cannot be read"),
        (voc_aug, "VOC2012/SegmentationClass", "VOC2012/SegmentationClass cannot be read"),
        (voc_aug, "VOC2012/ImageSets/Segmentation", "VOC2012/ImageSets/Segmentation/train.txt cannot be read"),
        (voc_aug, "VOC2012/Annotations", "VOC2012/Annotations cannot be read"),
        (voc_aug, "SBD/dataset/cls", "SBD/dataset/cls cannot be read"),
        (voc_aug, "VOC2012/JPEGImages/t2.jpg", "VOC2012/JPEGImages/t2.jpg cannot be read"),
        (voc_aug, "VOC2012/SegmentationClass/t1.png", "VOC2012/SegmentationClass/t1.png cannot be read"),
        (voc_aug, "SBD/dataset/cls/s1.mat", "SBD/dataset/cls/s1.mat cannot be read"),
        (folder, "photos", "photos cannot be read"),
        (folder, "masks", "masks cannot be read"),
        (folder, "photos/p1.jpg", "photos, unreadable"),
        (folder, "masks/p1.png", "masks, unreadable"),
        (coco, "annotations", "annotations/instances_train2017.json cannot be read"),
        (coco, "train2017", "train2017 cannot be read"),
        (coco, "train2017/000000000001.jpg", "train2017/000000000001.jpg cannot be read"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_what_may_not_be_read_is_named(build, name, message, kit, common_place, capsys):
    source = build(common_place / "source", kit)
    assert prepare(source, common_place / "before") == 0
    (common_place / "ws").mkdir()
    (common_place / "ws").chmod(0o777)
    before = source.content()
    capsys.readouterr()
    with mode(source.root / name, 0), no_root():
        code = prepare(source, common_place / "ws")
    cures = {".mat": "extract SBD's folder cls again"} | dict.fromkeys(["photos/p1.jpg", "masks/p1.png"], "")
    refused(capsys, code, message, cures.get(name, cures.get(Path(name).suffix, "correct its permissions")))
    assert not (common_place / "ws" / "data").exists()
    assert source.content() == before


def test_an_output_that_may_not_be_written(kit, common_place, capsys):
    source = folder(common_place / "source", kit)
    assert prepare(source, common_place / "before") == 0
    (common_place / "ws").mkdir()
    capsys.readouterr()
    with mode(common_place / "ws", 0o555), no_root():
        code = prepare(source, common_place / "ws")
    refused(capsys, code, f"{common_place / 'ws'} cannot be written: Permission denied", "")
    assert list((common_place / "ws").iterdir()) == []


def test_a_full_disk_is_told_and_the_same_command_continues(kit, tmp_path, small_disk, capsys):
    """A file system of 256 KiB, with ballast that leaves no room for the copies of the images."""
    disk = small_disk("256k")
    source = folder(tmp_path / "source", kit)
    (disk / "ballast").write_bytes(b"\0" * 208 * 1024)
    before = source.content()
    refused(capsys, prepare(source, disk / "ws", "--set", "copy_images=true"), "the disk is full", "free some space")
    assert not (disk / "ws" / "data").exists()
    assert source.content() == before
    (disk / "ballast").unlink()
    assert prepare(source, disk / "ws", "--set", "copy_images=true") == 0, capsys.readouterr().err
    assert prepare(source, tmp_path / "ws", "--set", "copy_images=true") == 0
    assert content_digest(disk / "ws") == content_digest(tmp_path / "ws")


# ------------------------------------------------------------------------------------------------- anything

CLASSES = ("background", "cat", "dog")
WORDS = ["a.jpg", "2007_000032", ",", ";", "\t", " ", "\n", "\r\n", '"', "cat", "dog", "-1", "0", "1", "255", "#800000"]
WORDS += ["\ufeff", "\x00", "/", "..", "id", "image", "__ignore__", "background", "128 0 0", "²", "9" * 400]
TEXTS = st.one_of(
    st.text(max_size=60), st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=3)), max_size=25).map("".join)
)
KEYS = """images annotations categories id file_name width height image_id name category_id segmentation counts size
    iscrowd shapes label points shape_type imageWidth imageHeight mask"""
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 300), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(KEYS.split()), inner, max_size=6),
    ),
    max_leaves=25,
)


@settings(max_examples=50)
@given(content=TEXTS, encoding=st.sampled_from(["utf-8", "utf-16", "utf-32"]), record=JSON)
def test_any_text_is_read_or_refused_in_words(tmp_path_factory, content, encoding, record):
    path = tmp_path_factory.mktemp("any") / "file.txt"
    path.write_bytes(content.encode(encoding, "surrogatepass"))
    for read in (
        read_list,
        read_label_table,
        read_class_table,
        lambda path: read_label_file(path, CLASSES),
        lambda path: read_xml(path, CLASSES),
    ):
        with contextlib.suppress(SemisegError):
            read(path)
    path.write_text(json.dumps(record))
    for read in (read_coco, read_labelme):
        with contextlib.suppress(SemisegError):
            read(path)


@settings(max_examples=50)
@given(data=st.data())
def test_any_pixels_and_any_damage_are_read_or_refused_in_words(tmp_path_factory, data):
    """Random pixels in every mode come back or are refused; so are files of which bytes were changed or cut off."""
    path = tmp_path_factory.mktemp("any") / "file"
    height, width = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    modes = {"L": 1, "P": 1, "LA": 2, "RGB": 3, "RGBA": 4, "1": 1, "I;16": 2}
    wanted = data.draw(st.sampled_from(sorted(modes)))
    pixels = data.draw(st.binary(min_size=4 * height * width, max_size=4 * height * width))
    size = height * ((width + 7) // 8) if wanted == "1" else modes[wanted] * height * width
    image = Image.frombytes(wanted, (width, height), pixels[:size])
    if wanted == "P":
        image.putpalette([value for i in range(256) for value in (i, 255 - i, i // 2)])
    image.save(path, format="PNG")
    if wanted in ("L", "P"):
        np.testing.assert_array_equal(read_mask(path).ravel(), np.frombuffer(pixels[:size], np.uint8))
    content = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    for read in (read_mask, read_colours, read_image, read_sbd_mask, lambda path: guess_palette([path])):
        with contextlib.suppress(SemisegError):
            read(path)
