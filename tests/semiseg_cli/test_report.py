"""`semiseg run` and `semiseg report` with a stage of a few bytes: changed settings, failures, parameters, the plan."""

from __future__ import annotations

import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from artifacts.errors import DataError
from semiseg_cli.main import main
from semiseg_cli.recipe_commands import shipped_recipes
from stages.contract import STAGE_MODULES, Execution, Inputs, Stage
from stages.engine.config import TrainingConfig
from stages.pipeline.recipe import read_recipe


class GuessConfig(TrainingConfig):
    good: bool = Field(True, description="Whether it ends well.")


def guess(config: GuessConfig, inputs: Any, writer: Any, execution: Execution) -> dict[str, Any]:
    if not config.good:
        raise DataError("nothing to guess", "think again")
    writer.write_json("metrics.json", {})
    return {"mean_iou": (config.iterations + config.seed) / 100}


RECIPE = """
name: guesses
description: Guesses.
parameters:
  iterations: {default: 10, help: How long to think.}
  seeds: {default: [0, 1], help: Whose guesses.}
  data: {required: true, help: A folder.}
assumptions: [Guessing is fair.]
repeat: {seed: "${seeds}"}
nodes:
  one-s{seed}: {stage: toy-guess, config: {iterations: "${iterations}", seed: "{seed}"}}
  two-s{seed}: {stage: toy-guess, config: {iterations: 20, seed: "{seed}"}}
table:
  title: Guesses
  columns: [ours]
  equal: [one, two]
  rows:
    - {label: one, nodes: {ours: "one-s{seed}"}, costs: ["one-s{seed}"]}
    - {label: two, nodes: {ours: "two-s{seed}"}}
"""


@pytest.fixture(autouse=True)
def _recipe_in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("toy_guess")
    module.STAGE = Stage("toy-guess", 1, "Guess.", GuessConfig, Inputs, "metrics", guess)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_guess", module)
    monkeypatch.setitem(STAGE_MODULES, "toy-guess", "toy_guess")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEMISEG_WORKSPACE", raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    Path("guesses.yaml").write_text(RECIPE)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


GUESSES = ("run", "guesses.yaml", "--set", "data=/somewhere/far/VOC2012")


def test_a_report_says_what_was_run(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, *GUESSES, "--set", "iterations=12")
    assert code == 0
    assert "12.5 (12.0-13.0)" in out
    text = Path("runs/guesses/report.md").read_text()
    assert "| one | 12.5 (12.0-13.0) |" in text
    assert "- Command: `semiseg run guesses.yaml --set data=.../VOC2012 --set iterations=12`" in text
    assert "- Parameters: data .../VOC2012, iterations 12, seeds [0, 1]" in text
    assert "- Trainings: 2 trainings of 12 steps, 2 trainings of 20 steps" in text
    assert "- Assumption: Guessing is fair." in text
    assert "two differs from one by up to 8 points of mean IoU (ours: 20.00 and 12.00; 2 runs compared)" in text
    record = json.loads(Path("runs/guesses/report.json").read_text())
    assert record["how_made"]["parameters"]["iterations"] == 12
    assert record["equality"]["difference"] == pytest.approx(8.0)
    assert "somewhere" not in text + json.dumps(record)


def test_after_a_change_that_was_not_run_through_the_old_figures_are_marked(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, *GUESSES)[0] == 0
    assert run(capsys, *GUESSES, "--set", "iterations=11", "--set", "one-s1.good=false")[0] == 3
    for out in (run(capsys, "report")[1], Path("runs/guesses/report.md").read_text()):
        assert "11.0* (11.0-11.0)" in out  # s1 is still of 10 steps
        assert "20.5 (20.0-21.0)" in out
        assert "* made with different settings, inputs or versions than a run would use now:" in out
    rows = json.loads(run(capsys, "report", "--json")[1])["rows"]
    assert [row["ours"]["ours"]["stale"] for row in rows] == [["one-s1"], []]
    assert run(capsys, *GUESSES, "--set", "iterations=11")[0] == 0
    assert "different settings" not in Path("runs/guesses/report.md").read_text()


def test_the_report_is_written_with_its_gaps_where_a_node_failed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *GUESSES, "--set", "one-s1.good=false")
    assert code == 3
    assert "nothing to guess" in err
    assert "wrote runs/guesses/report.md" in err
    for text in (out, Path("runs/guesses/report.md").read_text()):
        assert "10.0 (1 of 2 runs)" in text
        assert "Not made yet: one-s1." in text
    cell = json.loads(Path("runs/guesses/report.json").read_text())["rows"][0]["ours"]["ours"]
    assert (cell["made"], cell["planned"], cell["missing"]) == (1, 2, ["one-s1"])


def test_parameters_are_shown_with_their_help_even_where_one_must_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "run", "guesses.yaml", "--parameters", "--set", "seeds=4")
    assert code == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "iterations 10 How long to think." in lines
    assert "seeds [4] Whose guesses." in lines
    assert "data must be given A folder." in lines
    assert not Path("runs").exists()
    code, _, err = run(capsys, "run", "guesses.yaml", "--parameters", "--set", "sedes=4")
    assert code == 3
    assert "no parameter 'sedes', did you mean 'seeds'?" in err


def test_steps_of_a_crf_are_no_training(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "run", "demo", "--dry-run", "--set", "iterations=100")
    nodes = read_recipe(shipped_recipes()["demo"]).nodes
    number = sum(node.stage.name in ("train", "train-classifier") for node in nodes.values())
    assert code == 0
    assert f"in all: {number} trainings" in out


def test_the_dry_run_says_how_much_training_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, *GUESSES, "--dry-run", "--set", "iterations=2000")
    assert "in all: 4 trainings, 4,040 steps; to run: 4 trainings, 4,040 steps" in out
    assert "How long to think." in out
    assert run(capsys, *GUESSES, "--set", "seeds=0")[0] == 0
    _, out, _ = run(capsys, *GUESSES, "--dry-run")
    assert "in all: 4 trainings, 60 steps; to run: 2 trainings, 30 steps" in out
    _, out, _ = run(capsys, *GUESSES, "--dry-run", "--force", "one-s0")
    assert "to run: 3 trainings, 40 steps" in out


def test_a_recipe_writes_a_page_with_the_figures_of_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, *GUESSES, "--set", "iterations=12")
    assert code == 0
    assert err.splitlines()[-1] == "wrote runs/guesses/report.html"
    page = Path("runs/guesses/report.html").read_text()
    table = page[page.index("<table") : page.index("</table>")]
    cells = [re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<td.*?</td>", table)]
    assert cells[0].startswith("12.5 (12.0-13.0)")
    assert "20.5 highest (20.0-21.0)" in cells
    assert sum("highest" in cell for cell in cells) == 1
    assert "+8.0 (no runs overlap)" in page
    assert "--set data=.../VOC2012 --set iterations=12" in page
    assert "/somewhere/far" not in page
    assert run(capsys, *GUESSES, "--set", "iterations=11", "--set", "one-s1.good=false")[0] == 3
    page = Path("runs/guesses/report.html").read_text()
    assert re.findall(r"<td class=.figure stale[^>]*><a[^>]*>([^<]*)", page) == ["12.0*"]
