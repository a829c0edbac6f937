"""stages/contract.py: fingerprints depend on what can change a result, and on nothing else."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from artifacts.errors import ConfigError
from artifacts.manifest import KINDS
from artifacts.yaml_files import parse_yaml
from stages.config import Config, ExternalFile, build
from stages.contract import Execution, Inputs, PlainProgress, Stage, external_digests, fingerprint, load_stage


class Part(Config):
    weights: ExternalFile = ""


class Settings(Config):
    lr: float = 1e-3
    steps: int = 10
    weights: ExternalFile = ""
    parts: tuple[Part, ...] = ()


STAGE = Stage("toy", 1, "A toy.", Settings, Inputs, "masks", lambda *_: {})


def of(config: Settings, inputs: dict[str, str | None] | None = None, stage: Stage = STAGE) -> str:
    return fingerprint(stage, config, inputs or {}, external_digests(stage, config))


def test_the_order_of_keys_and_inputs_does_not_matter():
    one = build(Settings, parse_yaml("lr: 0.01\nsteps: 3", "a"), "a")
    two = build(Settings, parse_yaml("steps: 3\nlr: 0.01", "b"), "b")
    assert of(one, {"x": "1", "y": "2"}) == of(two, {"y": "2", "x": "1"})


@pytest.mark.parametrize("text", ["1e-3", "0.001", "1.0e-3", "1E-3", ".001", "0.0010", "+1e-3"])
def test_one_number_written_in_many_ways_is_one_fingerprint(text):
    assert of(build(Settings, parse_yaml(f"lr: {text}", "t"), "t")) == of(Settings(lr=0.001))


def test_everything_that_can_change_a_result_changes_the_fingerprint(monkeypatch):
    base = of(Settings(), {"a": "1"})
    others = [
        of(Settings(lr=2e-3), {"a": "1"}),
        of(Settings(), {"a": "2"}),
        of(Settings(), {"b": "1"}),
        of(Settings(), {}),
        of(Settings(), {"a": "1"}, replace(STAGE, version=2)),
        of(Settings(), {"a": "1"}, replace(STAGE, name="other")),
        of(Settings(), {"a": "1"}, replace(STAGE, output="seeds")),
    ]
    assert len({base, *others}) == len(others) + 1


def test_unfinished_work_in_an_older_format_is_not_continued(monkeypatch):
    base = of(Settings())
    monkeypatch.setitem(KINDS, "masks", KINDS["masks"] + 1)
    assert of(Settings()) != base


def test_an_absent_optional_input_is_as_if_it_did_not_exist():
    assert of(Settings(), {"a": "1", "b": None}) == of(Settings(), {"a": "1"})


def test_the_content_of_an_external_file_counts_and_its_path_does_not(tmp_path):
    for name, content in (("a.pth", b"same"), ("b.pth", b"same"), ("c.pth", b"other")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (of(Settings(weights=str(tmp_path / name))) for name in ("a.pth", "b.pth", "c.pth"))
    assert a == b != c
    in_list = [of(Settings(parts=(Part(), Part(weights=str(tmp_path / n))))) for n in ("a.pth", "b.pth", "c.pth")]
    assert in_list[0] == in_list[1] != in_list[2]


def test_a_missing_external_file_is_named_with_its_key(tmp_path):
    with pytest.raises(ConfigError, match=r"weights names .*nowhere\.pth, which is not there"):
        of(Settings(weights=str(tmp_path / "nowhere.pth")))
    with pytest.raises(ConfigError, match=r"parts\.0\.weights"):
        of(Settings(parts=(Part(weights=str(tmp_path / "nowhere.pth")),)))


def test_an_external_file_that_cannot_be_read_is_named_with_the_cure(nobodys_folder):
    """In a folder it is the file that needs mending, not the folder."""
    folder = nobodys_folder / "images"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(b"x")
    locked = folder / "b.png"
    locked.chmod(0)
    with pytest.raises(ConfigError, match=r"weights names .*images, unreadable: b\.png: Perm") as caught:
        of(Settings(weights=str(folder)))
    assert str(locked) in caught.value.hint
    with pytest.raises(ConfigError, match=r"weights names .*b\.png, unreadable: Perm") as caught:
        of(Settings(weights=str(locked)))
    assert str(locked) in caught.value.hint
    folder.chmod(0o300)
    with pytest.raises(ConfigError, match=r"weights names .*images, unreadable: Perm"):
        of(Settings(weights=str(folder)))
    folder.chmod(0o700)


def test_of_an_external_folder_names_and_contents_count(tmp_path):
    for folder, name, content in (
        ("a", "1.png", b"x"),
        ("b", "1.png", b"x"),
        ("c", "2.png", b"x"),
        ("d", "1.png", b"y"),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(content)
    a, b, c, d = (of(Settings(weights=str(tmp_path / folder))) for folder in "abcd")
    assert a == b
    assert len({a, c, d}) == 3


def test_the_fingerprint_is_the_same_in_every_process():
    code = "from tests_contract import *; print(of(Settings(lr=0.3), {'a': '1'}))"
    code = f"import sys, importlib.util as u; s = u.spec_from_file_location('tests_contract', {__file__!r})\n" + (
        "m = u.module_from_spec(s); sys.modules['tests_contract'] = m; s.loader.exec_module(m)\n" + code
    )
    root = Path(__file__).parents[2]
    prints = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=root,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert prints == {of(Settings(lr=0.3), {"a": "1"})}


def test_an_unknown_stage_gets_a_suggestion():
    with pytest.raises(ConfigError, match="did you mean 'evaluate'") as caught:
        load_stage("evalute")
    assert "prepare-data" in (caught.value.hint or "")


def test_execution_reads_the_place_that_torchrun_gives(monkeypatch):
    assert (Execution().rank, Execution().world_size) == (0, 1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert (Execution().rank, Execution().world_size) == (1, 2)


def test_plain_progress_prints_count_rate_and_fields(capsys):
    with PlainProgress(every_s=0).track(4, "masks", done=2) as task:
        task.advance(1, loss=0.25)
    assert "masks: 3/4 images" in (shown := capsys.readouterr().err)
    assert "loss=0.25" in shown


def test_the_kind_of_artifact_is_part_of_the_fingerprint():
    other = replace(STAGE, output="seeds")
    assert of(Settings(), stage=other) != of(Settings())
