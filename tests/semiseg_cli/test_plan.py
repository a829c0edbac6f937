"""`semiseg plan` as it is typed: the table, JSON, the file that --config takes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from artifacts.yaml_files import read_yaml
from semiseg_cli.main import main
from semiseg_cli.plan_command import bytes_in, seconds_in
from stages.config import SHORTHAND, merge

PLAN = ["plan", "--no-probe", "--weights", "none", "--device", "cpu"]


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a small drawn data set in the default workspace."""
    monkeypatch.chdir(tmp_path)
    sizes = ["train=3", "weak=4", "val=2", "long_side=64"]
    settings = [word for size in sizes for word in ("--set", f"dataset.{size}")]
    assert main(["prepare-data", "--dataset", "shapes", *settings]) == 0
    return tmp_path


def test_the_written_plan_is_taken_by_every_stage(drawn: Path, capsys: pytest.CaptureFixture[str]):
    assert main([*PLAN, "--write", "plan.yaml"]) == 0
    output = capsys.readouterr().out
    assert "self-training" in output
    assert "semiseg train --config plan.yaml --data data --weak-labels pseudo-labels --name self-training" in output
    sections = read_yaml(drawn / "plan.yaml")["stages"]
    assert sections.keys() == {"train", "predict"}
    short = ["--config", "plan.yaml", "--device", "cpu"]
    steps = ["--set", "iterations=1", "--set", "batch_size=2"]
    assert main(["train", *short, *steps, "--method", "supervised", "--name", "supervised"]) == 0
    assert main(["predict", *short, "--segmenter", "supervised", "--name", "predicted"]) == 0
    config = json.loads((drawn / "runs" / "default" / "supervised" / "manifest.json").read_text())["config"]
    assert (config["crop_size"], config["network"]["backbone"]) == (64, "tiny")
    assert config["method"]["name"] == "supervised"
    assert main(["crf", "--config", "plan.yaml", "--predictions", "predicted"]) == 3
    assert "plan.yaml has no section for crf below 'stages'" in capsys.readouterr().err


def test_the_commands_can_be_typed_as_they_are(drawn: Path, capsys: pytest.CaptureFixture[str]):
    (drawn / "runs" / "default").rename(drawn / "runs" / "other")
    assert main(PLAN) == 0
    shown = capsys.readouterr().out
    assert "commands (--write plan.yaml writes the file that they read):" in shown
    commands = [line for line in shown.splitlines() if line.startswith("  semiseg ")]
    assert commands
    assert all(command.endswith(" --workspace runs/other") for command in commands)
    assert main([*PLAN, "--write", "my.yaml", "-w", "runs/other"]) == 0
    assert "commands:\n  semiseg train --config my.yaml " in capsys.readouterr().out


def test_json_has_every_step_with_its_whole_config(drawn: Path, capsys: pytest.CaptureFixture[str]):
    capsys.readouterr()
    assert main([*PLAN, "--json", "--memory", "1GiB", "--crop-size", "48"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["machine"]["memory"] == 2**30
    assert (record["data"]["masks"], record["data"]["image_labels"]) == (3, 4)
    names = ["supervised", "guesses", "pseudo-labels", "self-training"]
    assert [step["name"] for step in record["plan"]["steps"]] == names
    assert {step["config"]["crop_size"] for step in record["plan"]["steps"] if step["stage"] == "train"} == {48}
    assert all(choice["reason"] and choice["source"] for choice in record["plan"]["choices"])


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--budget", "30min"], 2, "--budget needs the time of a step"),
        (["--memory", "4"], 2, "--memory 4: expected a number with a unit"),
        (["--method", "nothing"], 3, "method 'nothing' cannot be planned"),
        (["--network", "resnet"], 3, "--network resnet: not a preset"),
        (["nodata"], 3, "has no artifact 'nodata'"),
    ],
)
def test_a_mistake_is_one_error(drawn: Path, words: list[str], code: int, message: str, capsys):
    assert main([*PLAN, *words]) == code
    assert message in capsys.readouterr().err


def test_durations_and_sizes():
    assert (seconds_in("30min"), seconds_in("1h30min"), seconds_in("1.5 h"), seconds_in("45s")) == (
        1800,
        5400,
        5400,
        45,
    )
    assert (bytes_in("4GiB"), bytes_in("512 MiB"), bytes_in("1GB")) == (4 * 2**30, 2**29, 10**9)


def test_a_method_or_network_that_is_named_anew_keeps_nothing_of_the_one_in_the_file():
    file = {"method": {"name": "dsrg", "map_stride": 4}, "network": {"preset": "mobilenet_v2", "weights": "imagenet"}}
    given = {"method": {SHORTHAND: "supervised", "labels": "weak"}, "network": {SHORTHAND: "tiny", "weights": "none"}}
    assert merge(file, given) == given
    assert merge(file, {"network": {"weights": "none"}})["network"] == {"preset": "mobilenet_v2", "weights": "none"}
