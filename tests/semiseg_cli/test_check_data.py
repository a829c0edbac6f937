"""`semiseg check-data` on data with one problem of every kind, and what `semiseg show` says and draws of a data set."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from semiseg_cli.main import main
from tests.artifacts.small_artifacts import sign_again
from tests.fuzz.palettes import indexed_png

WIDTH, HEIGHT = 24, 18
CLASSES = ("background", "cat", "dog")
COLOURS = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0)}  # VOClabelcolormap


def drawn_mask(number: int) -> np.ndarray:
    """A cat, a dog, or both, beside a few pixels of 255; each mask is another one."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    if number % 3 != 2:
        mask[4:14, 2 : 8 + number % 2] = 1
    if number % 3 != 1:
        mask[5:15, 12:20] = 2
    mask[number, 22:] = 255
    return mask


def index_png(path: Path, mask: np.ndarray) -> None:
    image = Image.fromarray(mask)
    image.putpalette([value for i in range(256) for value in (i, 255 - i, i // 2)])
    image.save(path)


def noise(path: Path, seed: int, size: tuple[int, int] = (WIDTH, HEIGHT), **options: Any) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)


@dataclass
class Photos:
    """p00 ... p17: the first 14 with masks (p12 and p13 are val), two with labels alone, two with nothing."""

    root: Path

    def __post_init__(self) -> None:
        for name in ("photos", "masks"):
            (self.root / name).mkdir(parents=True)
        for number in range(18):
            noise(self.image(number), number)
        for number in range(14):
            index_png(self.mask(number), drawn_mask(number))
        (self.root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
        (self.root / "labels.csv").write_text("image,labels\np14.jpg,cat\np15.jpg,cat;dog\n")
        (self.root / "val.txt").write_text("p12\np13\n")

    def image(self, number: int) -> Path:
        return self.root / "photos" / f"p{number:02d}.jpg"

    def mask(self, number: int) -> Path:
        return self.root / "masks" / f"p{number:02d}.png"

    @property
    def options(self) -> list[str]:
        names = {"images": "photos", "masks": "masks", "classes": "classes.txt", "labels": "labels.csv"}
        places = [word for key, name in names.items() for word in (f"--{key}", str(self.root / name))]
        return [*places, "--val", str(self.root / "val.txt"), "--workers", "1"]


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    return Photos(tmp_path / "own")


@pytest.fixture
def artifact(photos: Photos) -> Path:
    """The data set prepared, in the workspace runs/default."""
    assert main(["prepare-data", *photos.options]) == 0
    return Path("runs/default/data").absolute()


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("SEMISEG_WORKSPACE", raising=False)
    monkeypatch.setenv("COLUMNS", "160")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@dataclass(frozen=True)
class Planted:
    """What is wrong and what is to be said of it: its kind, the image, a part of the sentence and of the cure."""

    kind: str
    number: int
    what: str
    hint: str
    is_problem: bool = True


def check(capsys: pytest.CaptureFixture[str], arguments: list[str], planted: list[Planted]) -> None:
    """All that was planted is said, and nothing else: as JSON, and as text for people."""
    code, out, err = run(capsys, "check-data", *arguments, "--json")
    report = json.loads(out)
    wrong = sum(one.is_problem for one in planted)
    assert code == (3 if wrong else 0), err
    assert (report["images"], report["masks"]) == (18, 14)
    for key, some in (("problems", True), ("remarks", False)):
        expected = sorted((one.kind, f"p{one.number:02d}") for one in planted if one.is_problem is some)
        assert sorted((one["kind"], one["id"]) for one in report[key]) == expected
    said = {(one["kind"], one["id"]): one for one in [*report["problems"], *report["remarks"]]}
    for one in planted:
        record = said[one.kind, f"p{one.number:02d}"]
        assert one.what in record["what"]
        assert one.hint in (record["hint"] or "")
        assert f"p{one.number:02d}" in f"{record['file']} {record['what']}"
    if wrong:
        assert re.search(rf"error: .* has {wrong} problems?\nhint: mend what is listed, then check again", err)

    code, text, _ = run(capsys, "check-data", *arguments)
    assert code == (3 if wrong else 0)
    for record in said.values():
        assert f"  {record['what']}\n" in text
        assert f"     -> {record['hint']}\n" in text or not record["hint"]
    summary = text.splitlines()[-1]
    assert re.search(r": 18 images, 14 masks, .* s: ", summary)
    assert summary.endswith("no problem") is not bool(planted)


# ------------------------------------------------------------------------------------------------- raw folders


def plant_in_folders(photos: Photos) -> list[Planted]:
    image, mask = photos.image, photos.mask
    image(0).write_bytes(image(0).read_bytes()[:-200])
    image(1).write_bytes(b"")
    image(14).write_text("<html>not found</html>")
    Image.new("RGB", (WIDTH, HEIGHT), (10, 200, 30)).save(mask(2))
    index_png(mask(3), np.where(drawn_mask(3) == 2, 7, drawn_mask(3)).astype(np.uint8))
    index_png(mask(4), np.ones((HEIGHT + 2, WIDTH), np.uint8))
    mask(5).write_bytes(b"")
    mask(6).write_bytes(mask(6).read_bytes()[:60])
    shutil.copy(image(12), image(7))
    shutil.copy(image(16), image(17))
    noise(image(8), 8, format="PNG")
    Image.new("CMYK", (WIDTH, HEIGHT), (10, 20, 30, 40)).save(image(9))
    index_png(mask(10), np.full((HEIGHT, WIDTH), 255, np.uint8))
    index_png(mask(11), np.zeros((HEIGHT, WIDTH), np.uint8))
    with open(photos.root / "labels.csv", "a") as table:
        table.write("p13.jpg,cat;dog\n")  # a cat alone is drawn
        table.write("p09.jpg,cat\n")  # and a cat and a dog are
    return [
        Planted("image", 0, "p00.jpg cannot be read: image file is truncated", "copy or extract the file again"),
        Planted("image", 1, "p01.jpg is empty (0 bytes)", "copy or extract the file again"),
        Planted(
            "image", 14, "p14.jpg cannot be read: cannot identify it: it is not an image", "copy or extract the file"
        ),
        Planted("mask", 2, "p02.png has mode RGB: a colour image", "write the class ids as an indexed PNG"),
        Planted("mask", 3, "p03.png has values that are not a class: 7 (80 px)", "add them to the class table"),
        Planted("mask", 4, "p04.png is 24x20 (width x height), expected 24x18", "resize masks with nearest neighbour"),
        Planted("mask", 5, "p05.png is empty", ""),
        Planted("mask", 6, "p06.png is damaged: truncated after 60 bytes", "copy or extract the file again"),
        Planted("leak", 7, "is trained on and scored: ", "remove it from one of them"),
        Planted("same-image", 16, "the same image, byte by byte, occurs 2 times: ", "", False),
        Planted("suffix", 8, "p08.jpg is a PNG file by its content; it is read as that", "rename it", False),
        Planted("cmyk", 9, "p09.jpg is CMYK; it is read", "", False),
        Planted("blank-mask", 10, "p10.png is 255 everywhere", "draw it, or leave it out", False),
        Planted("blank-mask", 11, "p11.png is background everywhere", "if that is a mistake, draw the objects", False),
        Planted("label-without-class", 13, "p13 has the label dog", "correct the one that is wrong", False),
        Planted("class-without-label", 9, "the mask of p09 shows dog", "correct the one that is wrong", False),
    ]


def test_every_problem_of_folders_is_named_at_once(photos, capsys):
    planted = plant_in_folders(photos)
    before = content(photos.root)
    check(capsys, [*photos.options, "--set", "dataset.mask_format=ids"], planted)
    assert content(photos.root) == before
    assert not Path("runs").exists()
    options = [*photos.options, "--set", "dataset.mask_format=ids", "--json", "--workers"]
    one, two = (json.loads(run(capsys, "check-data", *options, number)[1]) for number in "12")
    assert one | {"seconds": 0} == two | {"seconds": 0}


def test_how_masks_are_read_is_found_out_though_some_are_damaged(photos, capsys):
    """One empty mask hid all other problems: what the masks are was to be seen before any of them was checked."""
    photos.mask(5).write_bytes(b"")
    photos.image(1).write_bytes(b"")
    check(
        capsys,
        photos.options,
        [Planted("mask", 5, "p05.png is empty", ""), Planted("image", 1, "is empty (0 bytes)", "copy or extract")],
    )


def test_one_painted_mask_among_ids_is_named(photos, capsys):
    Image.new("RGB", (WIDTH, HEIGHT), (10, 200, 30)).save(photos.mask(2))
    code, out, _ = run(capsys, "check-data", *photos.options, "--json")
    (problem,) = json.loads(out)["problems"]
    assert (code, problem["kind"]) == (3, "layout")
    assert "1 of mode RGB, such as p02.png" in problem["what"]
    assert "--set dataset.mask_format=ids" in problem["hint"]


def test_files_that_were_not_checked_are_not_counted_as_none(photos, capsys):
    """It ended "folder: 0 images, 0 masks", below a list of masks."""
    Image.new("RGB", (WIDTH, HEIGHT), (10, 200, 30)).save(photos.mask(2))
    _, out, _ = run(capsys, "check-data", *photos.options)
    assert out.splitlines()[-1] == "folder: no image or mask was checked: 1 problem"


def test_values_of_one_colour_are_remarked_on_in_every_mask(photos, capsys):
    values = np.resize(np.array([0, 1, 2], np.uint8), (HEIGHT, WIDTH))
    masks = sorted((photos.root / "masks").iterdir())
    for path in masks:
        indexed_png(path, values, [(0, 0, 0), (9, 9, 9), (9, 9, 9)])
    (photos.root / "classes.txt").write_text("background 0 0 0\ncat 9 9 9\n")
    _, out, _ = run(capsys, "check-data", *photos.options[:6], "--json")
    findings = [finding for finding in json.loads(out)["remarks"] if finding["kind"] == "mask-colours"]
    assert sorted(finding["file"] for finding in findings) == [str(path) for path in masks]
    assert all("the values 1, 2 have one colour, (9, 9, 9)" in finding["what"] for finding in findings)


def test_clean_folders(photos, capsys):
    check(capsys, photos.options, [])
    assert not Path("runs").exists()


@dataclass
class Devkit:
    """A VOC devkit of eight of the images: cats and dogs as classes 8 and 12."""

    root: Path

    def fill(self, photos: Photos) -> None:
        for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation", "Annotations"):
            (self.root / name).mkdir(parents=True)
        table = np.array([0, 8, 12, *range(3, 256)], np.uint8)
        for number in range(8):
            mask = drawn_mask(number)
            shutil.copy(photos.image(number), self.root / "JPEGImages")
            index_png(self.root / "SegmentationClass" / f"p{number:02d}.png", table[mask])
            names = [name for value, name in enumerate(CLASSES) if value and (mask == value).any()]
            self.annotate(number, "".join(f"<object><name>{name}</name></object>" for name in names))
        self.write_list("train", range(6))
        self.write_list("val", range(6, 8))

    def annotate(self, number: int, objects: str) -> None:
        path = self.root / "Annotations" / f"p{number:02d}.xml"
        path.write_text(f"<annotation>{objects}</annotation>")

    def write_list(self, name: str, numbers: Iterable[int]) -> Path:
        path = self.root / "ImageSets" / "Segmentation" / f"{name}.txt"
        path.write_text("".join(f"p{number:02d}\n" for number in numbers))
        return path


@pytest.fixture
def devkit(photos: Photos) -> Devkit:
    devkit = Devkit(photos.root / "VOC2012")
    devkit.fill(photos)
    return devkit


def test_lists_annotations_and_files_that_disagree(devkit, capsys):
    options = ["--dataset", "voc-aug", "--source", str(devkit.root), "--workers", "1"]
    code, out, _ = run(capsys, "check-data", *options, "--allow-subset", "--json")
    assert (code, json.loads(out)["problems"]) == (0, [])
    assert [one["kind"] for one in json.loads(out)["remarks"]] == ["counts"] * 3

    mine = devkit.write_list("mine", [0, 1, 6])
    (devkit.root / "JPEGImages" / "p01.jpg").unlink()
    (devkit.root / "SegmentationClass" / "p07.png").unlink()
    devkit.annotate(3, "<object>")
    devkit.annotate(4, "<object><name>unicorn</name></object>")
    devkit.annotate(0, "<object><name>cat</name></object>")
    code, out, _ = run(capsys, "check-data", *options, "--labelled", str(mine), "--json")
    said = [(one["kind"], one["what"], one["hint"]) for one in json.loads(out)["problems"]]
    expected = [
        ("counts", "train has 6 ids, expected 1,464", "accept it with --allow-subset"),
        ("counts", "trainaug has 6 ids, expected 10,582", "accept it with --allow-subset"),
        ("counts", "val has 2 ids, expected 1,449", "accept it with --allow-subset"),
        ("lists", "mine.txt and val: p06", "scored images must not be trained on"),
        ("missing-image", "id p01 in split 'train' has no image below", "or remove its id from the list"),
        ("missing-mask", "id p07 in split 'val' has no mask", "or remove its id from the list"),
        ("labels", "p04.xml: 'unicorn' is not a class; expected one of aeroplane, ", "correct the name"),
        ("labels", "p03.xml is damaged", "extract it again from the devkit"),
    ]
    assert code == 3
    assert [kind for kind, _, _ in said] == [kind for kind, _, _ in expected]
    for (_, what, hint), (_, part, cure) in zip(said, expected, strict=True):
        assert part in what
        assert cure in hint
    (remark,) = json.loads(out)["remarks"]
    assert remark["what"] == "the mask of p00 shows dog, which is not among its labels"


def test_what_the_reader_refuses_is_one_problem(devkit, capsys):
    devkit.write_list("train", [0, 1, 6])
    options = ["--dataset", "voc-aug", "--source", str(devkit.root), "--workers", "1"]
    code, out, err = run(capsys, "check-data", *options)
    assert code == 3
    assert out.startswith("layout of the folders (1)\n  1 id is in both ")
    assert "val.txt: p06\n     -> remove them from one of the lists" in out
    assert "error: voc-aug has 1 problem\n" in err


# ------------------------------------------------------------------------------------------------- an artifact


def plant_in_artifact(photos: Photos, artifact: Path) -> list[Planted]:
    image = photos.image
    record = json.loads((artifact / "dataset.json").read_text())
    for number in range(2, 7):
        assert record["splits"]["train"][number] == f"p{number:02d}"
    image(0).write_bytes(image(0).read_bytes()[:-200])
    image(1).write_bytes(b"")
    image(15).unlink()
    noise(image(8), 8, (WIDTH, HEIGHT + 4))
    shutil.copy(image(13), image(7))
    Image.new("RGB", (WIDTH, HEIGHT), (10, 200, 30)).save(artifact / "masks" / "p02.png")
    index_png(artifact / "masks" / "p03.png", np.full((HEIGHT, WIDTH), 7, np.uint8))
    index_png(artifact / "masks" / "p04.png", np.ones((HEIGHT + 2, WIDTH), np.uint8))
    (artifact / "masks" / "p05.png").write_bytes(b"")
    (artifact / "masks" / "p06.png").unlink()
    record["tags"]["p09"] = [1, 3]
    record["splits"]["weak"].append("p16")
    (artifact / "dataset.json").write_text(json.dumps(record))
    sign_again(artifact)
    return [
        Planted("image", 0, "p00.jpg cannot be read: image file is truncated", "copy or extract the file again"),
        Planted("image", 1, "p01.jpg is empty (0 bytes)", "copy or extract the file again"),
        Planted("image", 15, "id p15 in split 'weak' has no file", "add the image"),
        Planted("image", 8, "p08.jpg is 24x22 (width x height), but was 24x18", "rerun prepare-data"),
        Planted("leak", 7, "is trained on and scored: ", "remove it from one of them"),
        Planted("mask", 2, "p02.png has mode RGB", "write the class ids as an indexed PNG"),
        Planted("mask", 3, "p03.png has values outside the classes: 7 (432 px)", "map the mask's ids"),
        Planted("mask", 4, "p04.png is 24x20 (width x height), expected 24x18", "resize masks with nearest neighbour"),
        Planted("mask", 5, "p05.png is empty", ""),
        Planted("mask", 6, "p06.png is missing", "add the file"),
        Planted("labels", 9, "id p09 has the labels [3], expected class ids 1..2", "run prepare-data again"),
        Planted("labels", 16, "id p16 in split 'weak' has no labels", "run prepare-data again"),
        Planted("class-without-label", 9, "the mask of p09 shows dog", "correct the one that is wrong", False),
    ]


def test_every_problem_of_an_artifact_is_named_at_once(photos, artifact, capsys):
    planted = plant_in_artifact(photos, artifact)
    before = content(artifact)
    check(capsys, ["data", "--workers", "1"], planted)
    assert content(artifact) == before


def test_val_in_train_in_an_artifact(artifact, capsys):
    record = json.loads((artifact / "dataset.json").read_text())
    record["splits"]["train"].append("p12")
    (artifact / "dataset.json").write_text(json.dumps(record))
    sign_again(artifact)
    code, out, _ = run(capsys, "check-data", "data", "--json", "--workers", "1")
    (problem,) = json.loads(out)["problems"]
    assert code == 3
    assert problem["kind"] == "lists"
    assert problem["what"] == "1 id is in both split 'train' and split 'val': p12"
    assert problem["hint"].endswith("scored images must not be trained on")


def test_exchanged_and_moved_images(photos, artifact, capsys):
    noise(photos.image(14), 1000)
    code, out, _ = run(capsys, "check-data", "data", "--json", "--workers", "1")
    (problem,) = json.loads(out)["problems"]
    assert (code, problem["kind"]) == (3, "exchanged")
    assert "put the old files back" in problem["hint"]
    photos.image(14).parent.rename(photos.root / "moved")
    code, out, _ = run(capsys, "check-data", "data", "--json", "--workers", "1")
    problems = json.loads(out)["problems"]
    assert code == 3
    assert {one["kind"] for one in problems} <= {"layout", "image"}
    assert problems


def test_a_clean_artifact_named_or_found(artifact, capsys):
    check(capsys, ["data", "--workers", "1"], [])
    code, out, err = run(capsys, "check-data", "--workers", "1")
    assert (code, out.count("no problem")) == (0, 1)
    assert "data set: data" in err
    shutil.move(artifact, artifact.with_name("other"))
    code, out, err = run(capsys, "check-data", "--workers", "1")
    assert code == 0
    assert "data set: other" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message", "hint"),
    [
        (["data", "--dataset", "voc-aug", "--source", "."], 2, "'data' names a prepared data set", "or the options of"),
        (["--dataset", "shapes"], 2, "there are no files of the data set shapes", "semiseg check-data data"),
        (["dta"], 3, "no artifact 'dta', did you mean 'data'?", "semiseg status lists them"),
        (["--dataset", "voc-aug", "--source", "nowhere"], 3, "source names nowhere, which is not a folder", "correct"),
        (["--dataset", "voc"], 3, "voc", ""),
        (["--workspace", "elsewhere"], 2, "elsewhere", ""),
    ],
)
def test_what_cannot_be_checked(arguments, code, message, hint, artifact, capsys):
    found, out, err = run(capsys, "check-data", *arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert hint in err.partition("hint: ")[2]
    assert "Traceback" not in err


# ------------------------------------------------------------------------------------------------- show


def counted(photos: Photos) -> dict[str, list[int]]:
    """Pixels and images of train, images of val and of weak, by class: a loop over every pixel that was drawn."""
    figures = {name: [0, 0, 0, 0] for name in (*CLASSES, "ignored")}
    for number in range(14):
        seen = set()
        for row in drawn_mask(number).tolist():
            for value in row:
                name = "ignored" if value == 255 else CLASSES[value]
                seen.add(name)
                figures[name][0] += number < 12
        for name in seen:
            figures[name][1 if number < 12 else 2] += 1
    figures["cat"][3] = 2  # labels.csv
    figures["dog"][3] = 1
    return figures


def test_the_class_table_is_that_of_a_plain_loop(photos, artifact, capsys):
    code, out, err = run(capsys, "show", "data")
    assert code == 0
    rows = {cells[1]: cells for line in out.splitlines() if len(cells := line.split()) > 6 and cells[0].isdigit()}
    figures = counted(photos)
    total = sum(pixels for pixels, *_ in figures.values())
    assert total == 12 * WIDTH * HEIGHT
    for number, (name, (pixels, train, val, weak)) in enumerate(figures.items()):
        labelled = [f"{weak}", f"{100 * train / (train + weak):.1f}", "%"] if 0 < number < 3 else ["-", "-"]
        share = [f"{100 * pixels / total:.2f}", "%"]
        expected = [str(number if number < 3 else 255), name, f"{pixels:,}", *share, f"{train}", f"{val}", *labelled]
        assert rows[name] == expected
    assert re.search(r"images +12 train, 2 weak, 2 unlabelled, 2 val", out)
    assert re.search(r"labels from +a text file or table \(file\)", out)
    assert f"contact sheet: {Path('runs/default/data/local/contact-sheet.png')}" in err


# ------------------------------------------------------------------------------------------------- the contact sheet

TILE, MARGIN, GAP = 232, 36, 22  # of an image on the sheet; these need no scaling
GREY = (90, 120, 150)
UPRIGHT = 174


def large_mask(number: int) -> np.ndarray:
    mask = np.zeros((UPRIGHT, TILE), np.uint8)
    mask[20:90, 10 + 5 * number : 100] = 1
    mask[60:150, 120:200] = 2
    mask[100:130, 20:60] = 255
    return mask


@pytest.mark.parametrize(
    ("file", "text", "setting", "said"),
    [
        ("labels.csv", "file,cat,dog\np14,1,0.93\n", "", "labels.csv, line 2, column 'dog': '0.93' is not a mark"),
        ("labels.csv", "file,cat,dog\np14,1,-1\np15,maybe,1\n", "", "line 3, column 'cat': 'maybe' is not a mark"),
        ("labels.csv", "file,cat,width\np14,1,640\n", "", "the columns 'width' are not classes"),
        ("labels.csv", "file,cat\np14,yes\np14,no\n", "", "labels.csv: 1 row names an image of an earlier row"),
        ("labels.csv", "file,cat,dog\np14,1,\np15,0,1\n", "", "labels.csv: read as absent labels: 1 empty cell"),
        ("val.txt", "p12\np13 2\n", "", "val.txt, line 2: 'p13 2' may be one unknown id"),
        ("list.txt", "p01\np02 (1)\n", "labelled", "line 2: 'p02 (1)' is not a list entry"),
        ("list.txt", "p01\np02 1\n", "unlabelled", "list.txt, line 2: 'p02 1' may be one unknown id"),
        ("list.txt", "p01 3\np02 4\n", "labelled", "list.txt: the numbers after the ids ('p01 3')"),
        ("list.txt", "p14,cat\np15,yes\n", "tag_file", "list.txt, line 2, cell 2: 'yes' is not a class"),
    ],
)
def test_what_prepare_data_says_of_lists_and_tables_check_data_says(photos, capsys, file, text, setting, said):
    (photos.root / file).write_text(text)
    options = [*photos.options, *(("--set", f"{setting}={photos.root / file}") if setting else ())]
    codes = []
    for command in ("check-data", "prepare-data"):
        code, out, err = run(capsys, command, *options)
        codes.append(code)
        assert said in " ".join((out + err).split()), (command, out, err)
    assert codes[0] == codes[1]


def test_a_class_table_with_a_comma_in_its_path_is_no_two_classes(photos, capsys):
    (photos.root / "classes.txt").rename(photos.root / "my,classes,v2.txt")
    options = [word.replace("classes.txt", "my,classes,v2.txt") for word in photos.options]
    assert run(capsys, "check-data", *options)[0] == 0


@pytest.fixture
def even(photos: Photos) -> Photos:
    """Images of one colour, each as large as its place on the sheet: what is drawn on them is the mask."""
    for number in range(18):
        Image.new("RGB", (TILE, UPRIGHT), (*GREY[:2], GREY[2] + number)).save(photos.image(number).with_suffix(".png"))
        photos.image(number).unlink()
    for number in range(14):
        index_png(photos.mask(number), large_mask(number))
    labels = photos.root / "labels.csv"
    labels.write_text(labels.read_text().replace(".jpg", ".png"))
    return photos


def expected_tile(image: tuple[int, ...], mask: np.ndarray) -> np.ndarray:
    """A loop: a class lies half transparent on the image, and full where another value is within two pixels."""
    tile = np.zeros((*mask.shape, 3))
    edges = ((0, 2), (1, 2), (2, 0), (2, 1), (2, 3), (2, 4), (3, 2), (4, 2))
    padded = np.pad(mask, 2, mode="edge")
    for y, x in np.ndindex(mask.shape):
        value = int(mask[y, x])
        if value == 255:
            stripe = (y + x) % 7 < 2
            tile[y, x] = 110 if stripe else 0.45 * np.array(image) + 0.55 * 200
        elif value == 0:
            tile[y, x] = image
        else:
            edge = any(padded[y + down, x + right] != value for down, right in edges)
            colour = np.array(COLOURS[value])
            tile[y, x] = colour if edge else 0.5 * np.array(image) + 0.5 * colour
    return tile


def place(sheet: np.ndarray, colour: tuple[int, ...]) -> tuple[int, int]:
    """(left, top) of the image of one colour: its upper left corner is background."""
    found = np.argwhere((sheet == colour).all(axis=-1))
    return int(found[:, 1].min()), int(found[:, 0].min())


def test_masks_lie_in_their_colours_where_they_were_drawn(even, capsys):
    assert main(["prepare-data", *even.options]) == 0
    code, _, err = run(capsys, "show", "data", "--sheet", "sheet.png")
    assert code == 0
    assert "contact sheet: sheet.png" in err
    assert [path.name for path in Path().iterdir() if path.name.startswith(("sheet", "."))] == ["sheet.png"]
    with Image.open("sheet.png") as opened:
        assert (opened.format, opened.mode) == ("PNG", "RGB")
        sheet = np.asarray(opened)
    assert sheet.shape[1] == 2 * MARGIN + 6 * (TILE + GAP) - GAP
    rows = set()
    for number in range(18):
        image = (*GREY[:2], GREY[2] + number)
        left, top = place(sheet, image)
        assert (left - MARGIN) % (TILE + GAP) == 0
        rows.add(top)
        if number not in (0, 7, 13, 14, 16):  # train, val, weak, unlabelled
            continue
        mask = large_mask(number) if number < 14 else np.zeros((UPRIGHT, TILE), np.uint8)
        tile = sheet[top : top + UPRIGHT, left : left + TILE].astype(float)
        np.testing.assert_allclose(tile, expected_tile(image, mask), atol=0.51, err_msg=f"p{number:02d}")
    assert len(rows) == 3  # six to a row: 12 train, 2 weak, 2 unlabelled, 2 val
    assert sheet.shape[0] > max(rows) + UPRIGHT
    assert (sheet[-10:] == 255).all()


def test_the_sheet_in_the_artifact_is_drawn_once_and_is_no_part_of_it(artifact, capsys):
    code, _, err = run(capsys, "show", "data", "--json")
    assert (code, err.count("contact sheet")) == (0, 0)
    path = artifact / "local" / "contact-sheet.png"
    assert not path.exists()
    assert run(capsys, "show", "data")[0] == 0
    drawn, changed = path.read_bytes(), path.stat().st_mtime_ns
    assert run(capsys, "show", "data")[0] == 0
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (drawn, changed)
    assert sorted(file.name for file in path.parent.iterdir()) == ["columns.npz", "contact-sheet.png", "images.json"]
    assert run(capsys, "verify")[0] == 0
    assert run(capsys, "status", "--check")[0] == 0
    assert run(capsys, "show", "data", "--sheet", "again.png")[0] == 0
    assert Path("again.png").read_bytes() == drawn  # of the same images, on every machine


def test_a_sheet_that_cannot_be_drawn_or_written(photos, artifact, capsys):
    code, _, err = run(capsys, "show", "data", "--sheet", "sheet.jpg")
    assert code == 2
    assert "--sheet sheet.jpg: expected a data set, and a file .png" in err
    code, _, err = run(capsys, "show", "data", "--sheet", "nowhere/sheet.png")
    assert code == 3
    assert "nowhere/sheet.png cannot be written: No such file or directory" in err
    photos.image(0).write_bytes(b"")
    assert run(capsys, "show", "data", "--sheet", "sheet.png")[0] == 0  # its place says so
    shutil.rmtree(photos.root / "photos")
    code, out, err = run(capsys, "show", "data")
    assert code == 0  # the sheet is a gift
    assert "dog" in out
    assert "no contact sheet: " in err
    code, _, err = run(capsys, "show", "data", "--sheet", "other.png")
    assert code == 3
    assert not Path("other.png").exists()
    assert not (artifact / "local" / "contact-sheet.png").exists()
