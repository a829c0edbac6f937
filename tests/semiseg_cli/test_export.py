"""`semiseg export` as a person types it: the group, its commands, what each prints and refuses."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artifacts.canonical import digest
from artifacts.masks import encode_mask
from artifacts.store import Work, Workspace
from semiseg_cli.main import main
from stages.data.config import CITYSCAPES_LABEL_IDS, VOC_CLASS_NAMES

WORK = Path("runs") / "default"
VOC_FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEMISEG_WORKSPACE", raising=False)
    monkeypatch.setenv("COLUMNS", "100")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def publish(name: str, masks: dict[str, np.ndarray], classes: Sequence[str] = VOC_CLASS_NAMES) -> None:
    """An artifact as `semiseg predict --images images` makes it, and the folder of images."""
    work = Work("predict", 1, "predictions", digest([name, sorted(masks)]), {"images": "images"}, {}, {})
    workspace = Workspace(WORK)
    Path("images").mkdir(exist_ok=True)
    with workspace.writing(name, work) as writer:
        for image_id, mask in masks.items():
            writer.write_bytes(f"masks/{image_id}.png", encode_mask(mask))
            Image.new("RGB", mask.shape[::-1]).save(f"images/{image_id}.jpg")
        writer.write_json("classes.json", {"class_names": list(classes), "ids": sorted(masks), "splits": []})
        workspace.publish(name, writer, work, {})


def masks(*ids: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {image_id: rng.integers(0, 21, (8, 9)).astype(np.uint8) for image_id in ids}


# --- the group ---


def test_the_group_says_what_it_exports(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "export", "--help")
    assert code == 0
    commands = ("files", "onnx", "voc-test", "cityscapes-test", "labelme", "cvat", "label-studio", "coco")
    assert all(name in out for name in commands)
    code, out, _ = run(capsys, "--help")
    assert "export  " in out
    assert "Export results" in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "Missing command"),
        (["data", "copy"], "No such command 'data'"),
        (["voc-tset", "data", "r.tgz"], "Did you mean 'voc-test'?"),
        (["voc-test", "predictions"], "Missing argument"),
        (["voc-test", "predictions", "r.zip"], "takes .tgz or .tar.gz"),
        (["voc-test", "predictions", "none/r.tgz"], "there is no folder none"),
        (["voc-test", "predictions", "r.tgz", "--comp", "comp3"], "there is no competition 'comp3'"),
        (["cityscapes-test", "predictions", "r.tgz"], "takes .zip"),
        (["cityscapes-test", "predictions", "r.zip", "--comp", "comp5"], "No such option"),
        (["cvat", "predictions"], "Missing argument"),
        (["cvat", "predictions", "images"], "images exists already"),
        (["cvat", "predictions", "none/out"], "there is no folder"),
        (["cvat", "predictions", "out", "--first", "0"], "greater than or equal to 1"),
        (["cvat", "predictions", "out", "--tolerance", "-1"], "greater than or equal to 0"),
        (["cvat", "predictions", "out", "--shapes", "boxes"], "'boxes' is not one of"),
        (["labelme", "predictions", "out", "--shapes", "masks"], "No such option"),
    ],
)
def test_a_wrong_command_line_is_exit_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    publish("predictions", masks("a"))
    code, out, err = run(capsys, "export", *arguments)
    assert (code, out) == (2, "")
    assert expected in err
    assert "hint: " in err


# --- voc-test ---


def test_a_voc_archive_and_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    publish("predictions", masks("2008_000006", "2008_000011"))
    code, out, err = run(capsys, "export", "voc-test", "predictions", "r.tgz", "--allow-subset", "--workers", "1")
    assert code == 0, err
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "server PASCAL VOC 2012" in lines
    assert "images 2 of 1,456" in lines
    assert "sizes 2 as the images" in lines
    assert any(line.startswith("tvmonitor 20 ") and line.endswith("%") for line in lines)
    assert "wrote r.tgz: 2 images" in err
    with tarfile.open("r.tgz") as tar:
        assert tar.getnames() == [f"{VOC_FOLDER}/2008_000006.png", f"{VOC_FOLDER}/2008_000011.png"]


def test_the_figures_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    publish("predictions", masks("a", "b", "c"))
    Path("test.txt").write_text("a\nb\n")
    options = ["--list", "test.txt", "--images", "images", "--comp", "comp5", "--allow-subset", "--json"]
    code, out, err = run(capsys, "export", "voc-test", "predictions", "r.tar.gz", *options)
    assert code == 0, err
    figures = json.loads(out)
    assert (figures["images"], figures["expected"], figures["left_out"], figures["sizes_checked"]) == (2, 1456, 1, 2)
    assert figures["folder"] == "results/VOC2012/Segmentation/comp5_test_cls"
    assert figures["sha256"] == hashlib.sha256(Path("r.tar.gz").read_bytes()).hexdigest()
    assert figures["bytes"] == Path("r.tar.gz").stat().st_size
    assert sum(record["pixels"] for record in figures["classes"].values()) == 2 * 8 * 9
    assert "left out: c" in err


def test_bad_data_is_exit_3_and_leaves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    unknown = masks("a", "b")
    unknown["b"][0, 0] = 255
    publish("unknown", unknown)
    publish("predictions", masks("a"))
    publish("few", {"a": np.zeros((8, 9), np.uint8)}, classes=("background", "cat", "dog"))
    before = sorted(Path().iterdir())
    for name, options, expected in [
        ("unknown", ["--allow-subset"], "image b: 1 pixel of its mask is 255"),
        ("few", ["--allow-subset"], "Found 3: background, cat, dog"),
        ("predictions", [], "takes exactly the 1,456 of its test set"),
        ("predictions", ["--allow-subset", "--list", "none.txt"], "the list none.txt cannot be read"),
        ("predictions", ["--allow-subset", "--images", "none"], "none is not a folder"),
        ("predictions", ["--allow-subset", "--data", "predictions"], "kind predictions, expected dataset"),
        ("predictions", ["--allow-subset", "--data", "dta"], "has no artifact 'dta'"),
        ("predctions", ["--allow-subset"], "did you mean 'predictions'?"),
    ]:
        code, out, err = run(capsys, "export", "voc-test", name, "r.tgz", *options)
        assert (code, out) == (3, ""), err
        assert expected in err
        assert "Traceback" not in err
    assert sorted(Path().iterdir()) == before


def test_an_archive_is_never_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    publish("predictions", masks("a"))
    Path("r.tgz").write_text("mine")
    code, _, err = run(capsys, "export", "voc-test", "predictions", "r.tgz", "--allow-subset")
    assert code == 2
    assert "r.tgz exists already" in err
    assert Path("r.tgz").read_text() == "mine"


# --- cityscapes-test ---


def test_a_cityscapes_archive(capsys: pytest.CaptureFixture[str]) -> None:
    mask = np.repeat(np.arange(1024, dtype=np.uint8) % 19, 2048).reshape(1024, 2048)
    publish("predictions", {"bonn_000000_000019_leftImg8bit": mask}, classes=tuple(CITYSCAPES_LABEL_IDS))
    command = ["export", "cityscapes-test", "predictions", "r.zip", "--allow-subset"]
    code, out, err = run(capsys, *command)
    assert code == 0, err
    assert any(line.split()[:2] == ["road", "7"] for line in out.splitlines())
    assert any(line.split()[:2] == ["bicycle", "33"] for line in out.splitlines())
    with zipfile.ZipFile("r.zip") as packed:
        assert packed.namelist() == ["bonn_000000_000019_pred_labelIds.png"]
        assert Image.open(packed.open(packed.namelist()[0])).getpixel((5, 2)) == 11  # train id 2: building
    code, out, _ = run(capsys, *command[:3], "s.zip", "--allow-subset", "--json")
    assert json.loads(out)["classes"]["road"]["value"] == 7
    assert Path("r.zip").read_bytes() == Path("s.zip").read_bytes()


# --- annotation programs ---


@pytest.mark.parametrize("tool", ["labelme", "cvat", "label-studio", "coco"])
def test_pre_annotations_and_what_is_printed(capsys: pytest.CaptureFixture[str], tool: str) -> None:
    drawn = {name: np.zeros((9, 12), np.uint8) for name in ("a", "b", "c")}
    drawn["a"][1:6, 1:6] = 3
    drawn["b"][8, 11] = 4
    publish("predictions", drawn)
    code, out, err = run(capsys, "export", tool, "predictions", "out", "--first", "2", "--workers", "1")
    assert (code, out) == (0, ""), err
    assert "wrote out: 2 images, 1 area as" in err
    assert "order: by file name, since there are no score maps" in err
    assert "left out: 1 area of fewer than 16 pixels (--min-area 1 keeps all)" in err
    assert "1 image shows nothing but background" in err
    assert Path("out/order.csv").read_text() == "file,confidence\na.jpg,\nb.jpg,\n"
    code, out, err = run(capsys, "export", tool, "predictions", "all", "--min-area", "1", "--json")
    assert code == 0, err
    figures = json.loads(out)
    assert (figures["images"], figures["areas"], figures["left_out"], figures["empty"]) == (3, 2, 0, 1)
    assert not list(Path().glob(".*.partial"))


def test_pre_annotations_of_images_that_moved(capsys: pytest.CaptureFixture[str]) -> None:
    publish("predictions", {"a": np.ones((9, 12), np.uint8)})
    Path("images").rename("moved")
    code, _, err = run(capsys, "export", "cvat", "predictions", "out")
    assert (code, Path("out").exists()) == (3, False)
    assert "--images DIR" in err
    code, _, err = run(capsys, "export", "cvat", "predictions", "out", "--images", "moved")
    assert code == 0, err


# --- what may load torch ---


def test_exporting_loads_no_torch() -> None:
    publish("predictions", masks("a", "b"))
    program = (
        "import sys\n"
        "from semiseg_cli.main import main\n"
        "for command in (['files', 'predictions', 'copy'], ['voc-test', 'predictions', 'r.tgz', '--allow-subset'],"
        "                ['cvat', 'predictions', 'cvat']):\n"
        "    assert main(['export', *command]) == 0\n"
        "    assert not {'torch', 'torchvision', 'skimage'} & sys.modules.keys()\n"
        "    assert command[0] == 'cvat' or 'scipy' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (Path("copy") / "masks" / "b.png").read_bytes() == (WORK / "predictions" / "masks" / "b.png").read_bytes()
