"""A training told how its images are to be predicted records it, and whoever predicts with the network takes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from artifacts.store import Workspace
from semiseg_cli.main import main
from stages.serving import Segmenter

SHAPES = ("dataset=shapes", "dataset.train=2", "dataset.weak=1", "dataset.val=2", "dataset.long_side=48")
TRAINING = ("--iterations", "1", "--batch-size", "2", "--set", "crop_size=32")


def semiseg(workspace: Path, name: str, *words: str) -> None:
    assert main([name, "--workspace", str(workspace), "--device", "cpu", "--workers", "1", *words]) == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a network that records a scale, and one that records nothing."""
    workspace = tmp_path_factory.mktemp("recorded") / "ws"
    semiseg(workspace, "prepare-data", *(word for setting in SHAPES for word in ("--set", setting)))
    recorded = ("--set", "inference.scales=[0.5]", "--set", "inference.flip=true")
    semiseg(workspace, "train", *TRAINING, *recorded, "--name", "half")
    semiseg(workspace, "train", *TRAINING, "--name", "plain")
    return workspace


def test_predict_takes_what_the_network_records_and_says_so(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    semiseg(trained, "predict", "--segmenter", "half", "--name", "taken")
    assert "as half records it: flip True, scales [0.5]" in capsys.readouterr().err
    semiseg(trained, "predict", "--segmenter", "half", "--set", "scales=[0.5]", "--set", "flip=true", "--name", "typed")
    assert "records it" not in capsys.readouterr().err
    taken, typed = (Workspace(trained).artifact(name).manifest for name in ("taken", "typed"))
    assert taken.config == typed.config
    assert taken.content == typed.content
    assert main(["status", "--workspace", str(trained), "--check"]) == 0
    capsys.readouterr()
    semiseg(trained, "predict", "--segmenter", "half", "--name", "taken")
    assert "taken fresh, nothing to do" in capsys.readouterr().err


def test_what_the_user_says_wins(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    semiseg(trained, "predict", "--segmenter", "half", "--set", "scales=[1]", "--name", "whole")
    assert "as half records it: flip True  (" in capsys.readouterr().err
    config = Workspace(trained).artifact("whole").manifest.config
    assert (config["scales"], config["flip"]) == ([1.0], True)


def test_a_network_that_records_nothing_is_predicted_as_before(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    semiseg(trained, "predict", "--segmenter", "plain", "--name", "default")
    assert "records it" not in capsys.readouterr().err
    assert Workspace(trained).artifact("default").manifest.config["scales"] == [1.0]
    assert "inference" not in (trained / "plain" / "network.json").read_text(encoding="utf-8")


def test_review_and_python_take_it_too(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    semiseg(trained, "review", "--segmenter", "half")
    assert "as half records it" in capsys.readouterr().err
    assert Workspace(trained).artifact("review").manifest.config["scales"] == [0.5]
    segmenter = Segmenter.load(trained / "half", device="cpu")
    assert (segmenter.config.scales, segmenter.config.flip) == ((0.5,), True)
    assert Segmenter.load(trained / "half", device="cpu", scales=[2]).config.scales == (2.0,)
    assert Segmenter.load(trained / "plain", device="cpu").config.scales == (1.0,)


def test_an_exported_network_has_its_scales(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    file = tmp_path / "half.onnx"
    assert main(["export", "onnx", "half", str(file), "--workspace", str(trained)]) == 0
    assert Segmenter.load(file, device="cpu").config.scales == (0.5,)
