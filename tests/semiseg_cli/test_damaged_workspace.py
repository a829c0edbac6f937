"""Commands in a workspace with one damaged file: it is shown as damaged, with the reason, and the rest is shown too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from semiseg_cli.main import main
from stages.pipeline.run_recipe import RECORD_NAME
from tests.artifacts.small_artifacts import change_json

RECIPE = """
name: two
description: Two data sets.
nodes:
  one: {stage: prepare-data, config: {dataset: {name: shapes, train: 1, weak: 1, val: 1, long_side: 48}}}
  two: {stage: prepare-data, config: {dataset: {name: shapes, train: 1, weak: 1, val: 2, long_side: 48}}}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    (folder / "two.yaml").write_text(RECIPE)
    run_it = ["run", str(folder / "two.yaml"), "--workspace", str(folder / "work"), "--workers", "1"]
    assert main(run_it) == 0
    return folder


@pytest.fixture
def space(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "copy" / "work"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([*arguments, "--workspace", "work"])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def spoil_manifest(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DAMAGES = {
    "deep": (lambda folder: (folder / "manifest.json").write_bytes(b"[" * 100_000), "nested too deep"),
    "folder": (
        lambda folder: [(folder / "manifest.json").unlink(), (folder / "manifest.json").mkdir()],
        "is not a file",
    ),
    "argv": (lambda folder: spoil_manifest(folder, argv="x"), "damaged at argv: expected a list"),
    "source": (lambda folder: spoil_manifest(folder, made_by={"source": 3}), "damaged at made_by.source"),
    "inputs": (lambda folder: spoil_manifest(folder, inputs={"data": 1}), "damaged at inputs.data"),
    "version": (lambda folder: spoil_manifest(folder, kind_version=99), "dataset has version 99"),
    "summary": (lambda folder: spoil_manifest(folder, summary={"n": 10**400}), "damaged at summary"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_one_damaged_manifest_is_shown_as_damaged_and_the_others_as_they_are(space, capsys, damage):
    spoil, words = DAMAGES[damage]
    spoil(space / "one")
    code, out, _ = run(capsys, "status", "--json")
    states = {state["name"]: state for state in json.loads(out)["artifacts"]}
    assert (code, states["one"]["state"], states["two"]["state"]) == (0, "damaged", "fresh")
    assert words in states["one"]["reasons"][0]
    code, _, err = run(capsys, "show", "one")
    assert (code, words in err.replace("\n", "")) == (3, True)
    assert run(capsys, "show", "two")[0] == 0
    code, out, _ = run(capsys, "verify", "--json")
    assert code == 3
    assert [(one["name"], one["whole"]) for one in json.loads(out)] == [("one", False), ("two", True)]
    code, out, _ = run(capsys, "run", "two.yaml", "--dry-run")
    assert code == 0


def test_an_older_format_is_no_damage(space, capsys):
    """After an update of semiseg all artifacts of a kind were "damaged", whose files are whole."""
    spoil_manifest(space / "one", kind_version=1)
    for expected in (True, False):  # by the recipe that made it, or by itself
        if not expected:
            (space / RECORD_NAME).unlink()
        code, out, _ = run(capsys, "status", "--json")
        states = {state["name"]: state for state in json.loads(out)["artifacts"]}
        assert (code, states["one"]["state"], states["two"]["state"]) == (0, "stale", "fresh")
        assert "is of an older format: dataset has version 1, this" in states["one"]["reasons"][0]
    code, out, err = run(capsys, "verify")
    assert (code, "older format" in out, "damaged" in out) == (3, True, False)
    assert "1 of an older format, which cannot be checked: one" in err
    assert run(capsys, "run", "two.yaml", "--workers", "1")[0] == 0
    assert run(capsys, "status", "--check")[0] == 0


def test_an_artifact_with_a_damaged_manifest_can_be_removed_and_made_again(space, capsys):
    spoil_manifest(space / "one", argv=None)
    assert run(capsys, "clean", "one", "--yes")[0] == 0
    assert not (space / "one").exists()
    spoil_manifest(space / "two", argv=None)
    assert run(capsys, "run", "two.yaml", "--workers", "1")[0] == 0
    assert run(capsys, "status", "--check")[0] == 0


def test_manifests_that_name_each_other_as_input_do_not_end_status(space, capsys):
    record = {"kind": "dataset", "kind_version": 2, "content": "c", "fingerprint": "f"}
    (space / RECORD_NAME).unlink()
    spoil_manifest(space / "one", inputs={"data": record | {"artifact": "two"}})
    spoil_manifest(space / "two", inputs={"data": record | {"artifact": "one"}})
    code, out, _ = run(capsys, "status")
    assert code == 0
    assert "it was made from itself: one from two from one" in out


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"[" * 100_000, "nested too deep"),
        (b"{}", "lacks schema, name"),
        (b'{"schema": 2}', "has schema 2"),
        (None, "it is not a file"),
    ],
)
def test_status_without_a_readable_record_of_the_recipe_says_so_and_shows_the_rest(space, capsys, data, words):
    (space / RECORD_NAME).unlink()
    (space / RECORD_NAME).mkdir() if data is None else (space / RECORD_NAME).write_bytes(data)
    code, out, err = run(capsys, "status", "--json")
    assert (code, [state["state"] for state in json.loads(out)["artifacts"]]) == (0, ["fresh", "fresh"])
    assert words in err
    assert run(capsys, "status", "--check")[0] == 3
    assert run(capsys, "report")[0] == 3


def test_a_record_whose_nodes_and_tables_do_not_fit_is_refused(space, capsys):
    before = json.loads((space / RECORD_NAME).read_text())
    table = {"title": "t", "metric": "m", "columns": ["a"], "rows": [], "order": ["ours"]}
    node = before["nodes"]["one"]
    row = {"label": "ours", "nodes": {}, "published": None, "costs": [[]]}
    for changes, words in (
        ({"nodes": {"../one": node}}, "'../one' cannot name an artifact"),
        ({"nodes": {"one": node | {"inputs": ["x"]}}}, "damaged at nodes.one.inputs"),
        ({"table": table}, "it has no 'ours'"),
        ({"table": table | {"rows": 3}}, "damaged at rows"),
        ({"table": table | {"order": [], "equal": ["a"]}}, "it has no 'a'"),
        ({"table": table | {"order": [], "rows": [row]}}, "costs without a node"),
    ):
        (space / RECORD_NAME).write_text(json.dumps(before | changes))
        code, _, err = run(capsys, "report")
        assert (code, words in err.replace("\n", "")) == (3, True), err


def test_a_data_set_that_was_edited_by_hand_is_refused_and_says_how_to_mend_it(space, capsys):
    change_json(space / "one", "dataset.json", lambda record: record["splits"].update(weak=[]), sign=False)
    code, _, err = run(capsys, "check-data", "one", "--workers", "1")
    assert code == 3
    assert "dataset.json is damaged: it was changed since it was published" in err.replace("\n", "")
    assert "semiseg clean" in err


def test_a_summary_of_another_shape_does_not_end_show(space, capsys):
    spoil_manifest(space / "one", summary={"images": {"train": "many"}})
    code, _, err = run(capsys, "show", "one")
    assert code == 3
    assert "damaged at images.train: expected a whole number" in err.replace("\n", "")
