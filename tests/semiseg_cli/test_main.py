"""The command line as a person meets it: in this process where that is enough, in its own where it matters."""

from __future__ import annotations

import functools
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from artifacts.yaml_files import parse_yaml
from semiseg_cli.command_list import COMMANDS
from semiseg_cli.main import main
from semiseg_cli.recipe_commands import shipped_recipes
from semiseg_cli.stage_commands import SHORTCUTS, stage_config
from stages.config import build
from stages.contract import STAGE_MODULES, load_stage
from stages.data.config import ShapesConfig
from stages.methods import METHODS
from stages.pipeline.recipe import read_recipe
from stages.pipeline.recipe_file import recipe_values
from stages.refiners import REFINERS

LISTED = {**METHODS, **REFINERS}  # what `semiseg methods` lists
STAGES = {"segmenter": "train", "classifier": "train-classifier", "refiner": "refine"}
TINY = [
    *("--set", "dataset.train=4", "--set", "dataset.weak=4", "--set", "dataset.val=3"),
    *("--set", "dataset.long_side=48", "--workers", "1"),
]
RECIPE = """
name: little
description: Draws images and scores the true masks.
parameters: {images: {default: 3, help: Images to score.}}
nodes:
  data:
    stage: prepare-data
    config: {dataset: {name: shapes, train: 4, weak: 4, val: "${images}", long_side: 48}}
"""


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEMISEG_WORKSPACE", raising=False)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a tiny data set."""
    workspace = tmp_path_factory.mktemp("prepared") / "work"
    assert main(["prepare-data", *TINY, "--workspace", str(workspace)]) == 0
    return workspace


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# --- what may load torch ---

NO_TORCH = [
    ["--help"],
    *[[name, "--help"] for name in COMMANDS],
    ["methods"],
    ["methods", "--json"],
    ["methods", "cps"],
    *[["config", name] for name in STAGE_MODULES],
    ["run"],
    ["run", "demo", "--dry-run"],
    ["status"],
    ["show", "data", "--json"],
    ["verify"],
    ["clean"],
]


def test_looking_loads_no_torch(prepared: Path) -> None:
    """One process for all commands, since only the import of torch is asked about."""
    program = (
        "import contextlib, io, json, sys\n"
        "from semiseg_cli.main import main\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    with contextlib.redirect_stdout(io.StringIO()):\n"
        "        code = main(arguments)\n"
        "    heavy = {'torch', 'torchvision', 'skimage', 'tensorboard', 'matplotlib'} & set(sys.modules)\n"
        "    assert code == 0 and not heavy, (arguments, code, heavy)\n"
    )
    environment = {**os.environ, "SEMISEG_WORKSPACE": str(prepared)}
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(NO_TORCH)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr


# --- help and information ---


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert all(name in out for name in COMMANDS)


def test_methods_as_json_is_a_list_of_objects_with_names(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "methods", "--json")
    assert code == 0
    assert {"supervised", "dsrg", "dual-branch", "cps"} <= {method["name"] for method in json.loads(out)}


def records_of_methods(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """By name, what `methods NAME --json` prints of each."""
    return {record["name"]: record for record in json.loads(run(capsys, "methods", "--json")[1])}


@pytest.mark.parametrize("width", [60, 80, 160])
def test_the_list_of_methods_fits_the_terminal_and_leaves_nothing_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    _, out, err = run(capsys, "methods")
    assert max(map(len, out.splitlines())) <= width
    assert "semiseg methods NAME" in err
    told, records = " ".join(out.split()), records_of_methods(capsys)
    for name, settings in LISTED.items():
        card = settings.card
        assert f" {name} " in f" {told} "
        assert f"{card.title} {card.paper}" in told
        (line,) = [line.split() for line in out.splitlines() if line.startswith(f"{name} ")]
        needs = [{"masks": "L", "tags": "W", "images": "U"}[part] for part in card.uses]
        passes = f"{card.forward}/{card.backward}" + ("+" if card.beside else "")
        recipe = records[name]["recipe"]
        assert recipe == card.recipe or not card.recipe
        assert line == [name, *needs, passes, *([recipe] if recipe else [])]


def test_the_recipe_of_a_card_trains_the_method(capsys: pytest.CaptureFixture[str]) -> None:
    """The command that `methods NAME` prints, with the data that it asks for."""
    records = records_of_methods(capsys)
    for name, settings in LISTED.items():
        record = records[name]
        command = record["command"].split(" (")[0].split()
        if record["recipe"] is None:
            assert command == ["semiseg", STAGES[settings.card.output], "--method", name]
            continue
        assert command[:3] == ["semiseg", "run", record["recipe"]]
        profile = command[4] if "--profile" in command else None
        changes = [command[command.index("--set") + 1]] if "--set" in command else []
        path = shipped_recipes()[record["recipe"]]
        known = recipe_values(path)
        parameters = known["parameters"] | (known["profiles"][profile]["parameters"] if profile else {})
        asked = [key for key, value in parameters.items() if isinstance(value, dict) and value.get("required")]
        recipe = read_recipe(
            path, profile, [*changes, *(f"{key}={183 if key == 'labelled' else key}" for key in asked)]
        )
        methods = {getattr(getattr(node.config, "method", None), "name", None) for node in recipe.nodes.values()}
        assert name in methods, command


@pytest.mark.parametrize("name", list(LISTED))
def test_a_method_is_told_in_full(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """All facts of the card, and the settings as YAML that can be given back."""
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run(capsys, "methods", name)
    assert code == 0
    card = LISTED[name].card
    facts, settings = re.split(r"settings(?: of refine)? \(--set method.KEY=VALUE\):", out)
    assert max(map(len, facts[facts.index("paper:") : facts.index("    ")].splitlines())) <= 80
    told = " ".join(facts.split())
    for text in (card.title, card.paper, card.cost, card.inference, LISTED[name].formula(), *card.sources):
        assert " ".join(text.split()) in told
    assert json.loads(run(capsys, "methods", name, "--json")[1])["command"] in told
    assert all(word in told for word in ("labelled" if "masks" in card.uses else "weak", "needs:"))
    defaults = LISTED[name].model_validate({"name": name})
    assert build(LISTED[name], parse_yaml(settings, "printed"), "printed") == defaults
    code, out, _ = run(capsys, "methods", name, "--json")
    record = json.loads(out)
    assert record in json.loads(run(capsys, "methods", "--json")[1])
    assert record["settings"] == defaults.model_dump(mode="json")
    assert record["inputs"] == list(defaults.inputs())
    assert record["passes"] == {"forward": card.forward, "backward": card.backward}


def test_a_refiner_is_told_with_the_score_maps_that_it_reads(capsys: pytest.CaptureFixture[str]) -> None:
    """It once said "the data set alone", and counted passes for labelled images, which it has not."""
    told = " ".join(run(capsys, "methods", "irn")[1].split())
    assert "inputs: seeds, refiner cost: for each image of a step of train-refiner: 1 forward, 1 backward" in told


def test_an_unknown_method_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["methods", "fixmach"], ["methods", "fixmach", "--json"]):
        code, out, err = run(capsys, *arguments)
        assert (code, out) == (2, "")
        assert "there is no method 'fixmach', did you mean 'fixmatch'?" in err


@pytest.mark.parametrize("stage", list(STAGE_MODULES))
def test_the_config_that_is_printed_can_be_given_back(capsys: pytest.CaptureFixture[str], stage: str) -> None:
    code, out, _ = run(capsys, "config", stage)
    assert code == 0
    model = load_stage(stage).config
    assert build(model, parse_yaml(out, "printed"), "printed") == build(model, {}, "defaults")


def test_config_of_an_unknown_stage_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "config", "sedes")
    assert code == 2
    assert "there is no stage 'sedes', did you mean 'seeds'?" in err


def test_doctor_says_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "doctor", "--json")
    report = json.loads(out)
    found = {finding["what"]: finding["state"] for finding in report["findings"]}
    assert {"python", "torch", "torchvision", "compile", "pydensecrf", "CPU cores", "disk"} <= found.keys()
    assert code == (0 if report["ok"] else 3)


# --- wrong usage: exit 2 or 3, one message, a hint ---


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["sedes"], 2, "sedes"),
        (["train", "--methd", "dsrg"], 2, "--methd"),
        (["train", "--iterations", "many"], 2, "--iterations"),
        (["run", "dmeo"], 2, "there is no recipe 'dmeo', did you mean 'demo'?"),
        (["run", "none.yaml"], 2, "there is no recipe file none.yaml"),
        (["run", "demo", "--profile", "x"], 3, "there is no profile 'x'"),
        (["run", "table1", "--profile", "small"], 3, "parameters.weights: must be given: --set weights=VALUE"),
        (["run", "demo", "--set", "iteratons=3"], 3, "did you mean 'iterations'?"),
        (["run", "demo", "--force", "dsgr", "--dry-run"], 3, "did you mean 'dsrg'?"),
        (["run", "demo", "--device", "gpu"], 3, "--device gpu: expected auto, cpu, cuda"),
        (["status"], 2, "no workspace here"),
        (["status", "--workspace", "nowhere"], 2, "there is no workspace nowhere"),
        (["prepare-data", "--set", "shapes"], 3, "expected KEY=VALUE"),
        (["prepare-data", "--set", "dataset.trian=3"], 3, "dataset.trian: unknown key, did you mean 'train'?"),
        (["prepare-data", "--config", "none.yaml"], 3, "cannot read the config none.yaml"),
        (["train", "--method", "dsgr"], 3, "did you mean 'dsrg'?"),
        (["evaluate", "--num-classes", "3"], 2, "--num-classes needs --ground-truth"),
        (["evaluate", "--mask-format", "binary"], 2, "--mask-format needs --ground-truth"),
        (["evaluate", "--ground-truth", "x"], 2, "--predictions DIR --ground-truth DIR --num-classes N"),
        (
            ["evaluate", "--ground-truth", "x", "--predictions", "x", "--num-classes", "3", "--name", "y"],
            2,
            "--name: no effect when folders are scored",
        ),
        (["seeds"], 3, "seeds needs the input 'data'"),
    ],
)
def test_a_mistake_is_one_clear_message(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, expected: str
) -> None:
    found, out, err = run(capsys, *arguments)
    assert found == code
    assert expected in err
    assert "Traceback" not in err
    assert out == ""
    assert not Path("runs").exists()


def test_an_input_that_is_missing_names_the_command_that_makes_it(
    capsys: pytest.CaptureFixture[str], prepared: Path
) -> None:
    code, _, err = run(capsys, "predict", "--workspace", str(prepared))
    assert code == 3
    assert "predict needs the input 'segmenter'" in err
    assert "make it: semiseg train or semiseg retrain" in err


def test_a_method_without_its_seeds_names_the_command_that_makes_them(
    capsys: pytest.CaptureFixture[str], prepared: Path
) -> None:
    code, _, err = run(capsys, "train", "--method", "dsrg", "--workspace", str(prepared))
    assert code == 3
    assert "make it: semiseg seeds" in err


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (
            "self-training",
            "TEACHER --split weak --output masks --set image_labels=share --name weak-labels",
        ),
        ("st-plus-plus", "all steps: semiseg run self-training"),
        (
            "dmt",
            "--set image_labels=share --name guesses, then semiseg pseudo-labels --predictions guesses",
        ),
        ("dual-branch", "--name weak-labels; all steps: semiseg run table1"),
    ],
)
def test_a_method_says_how_its_labels_are_made(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, method: str, expected: str
) -> None:
    """Commands that exist, with the options they name."""
    shapes = ("--set", "dataset.train=4", "--set", "dataset.weak=2", "--set", "dataset.val=2")
    run(capsys, "prepare-data", *shapes, "--set", "dataset.long_side=48", "--workspace", str(tmp_path))
    code, _, err = run(capsys, "train", "--method", method, "--workspace", str(tmp_path))
    assert code in (2, 3)
    assert "train needs the input 'weak_labels'" in err
    hint = " ".join(err.split())
    assert expected in hint
    for command in ("predict", "pseudo-labels"):
        if f"semiseg {command} " in hint:
            help_text = run(capsys, command, "--help")[1]
            words = hint.split(f"semiseg {command} ")[1].split(",")[0].split(";")[0].split()
            assert all(word in help_text for word in words if word.startswith("--"))


def test_an_input_of_the_wrong_kind_is_refused(capsys: pytest.CaptureFixture[str], prepared: Path) -> None:
    code, _, err = run(capsys, "predict", "--segmenter", "data", "--workspace", str(prepared))
    assert code == 3
    assert "'data' of kind dataset, expected segmenter" in err


def test_an_unexpected_error_is_short_and_debug_shows_where(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import semiseg_cli.information

    def broken() -> None:
        """Fails."""
        raise ZeroDivisionError("nothing to divide by")

    monkeypatch.setattr(semiseg_cli.information, "methods", broken)
    code, _, err = run(capsys, "methods")
    assert code == 1
    assert "unexpected ZeroDivisionError: nothing to divide by" in err
    assert "Traceback" not in err
    for arguments in (["--debug", "methods"], ["methods", "--debug"]):
        code, _, err = run(capsys, *arguments)
        assert code == 1
        assert "Traceback" in err


# --- one stage ---


def test_prepare_show_status_and_verify(capsys: pytest.CaptureFixture[str], prepared: Path) -> None:
    place = ["--workspace", str(prepared)]
    code, out, err = run(capsys, "prepare-data", *TINY, *place)
    assert (code, out) == (0, "")
    assert "fresh, nothing to do" in err

    code, out, _ = run(capsys, "show", "data", "--json", *place)
    shown = json.loads(out)
    assert code == 0
    assert shown["class_names"][0] == "background"
    assert shown["config"]["dataset"]["train"] == 4

    code, out, _ = run(capsys, "status", "--json", "--check", *place)
    assert code == 0
    assert [(a["name"], a["state"]) for a in json.loads(out)["artifacts"]] == [("data", "fresh")]

    code, out, _ = run(capsys, "verify", "--json", *place)
    assert (code, json.loads(out)) == (0, [{"name": "data", "whole": True, "problems": []}])


def test_yaml_and_set_and_shortcuts_have_their_precedence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Path("settings.yaml").write_text("dataset: {name: shapes, train: 5, weak: 6, val: 3, long_side: 48}\n")
    code, _, err = run(capsys, "prepare-data", "--config", "settings.yaml", "--set", "dataset.weak=2", "--workers", "1")
    assert code == 0, err
    _, out, _ = run(capsys, "show", "data", "--json")
    shapes = json.loads(out)["config"]["dataset"]
    assert (shapes["train"], shapes["weak"], shapes["noise"]) == (5, 2, ShapesConfig().noise)


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        (["network=tiny"], "FILE"),
        (["network.weights=OTHER", "network=tiny"], "OTHER"),
        (["network={preset: tiny, weights: OTHER}"], "FILE"),
    ],
)
def test_a_preset_keeps_what_is_set_inside_it(settings: list[str], weights: str) -> None:
    """`--set network=tiny --weights FILE` lost FILE: the preset replaced it."""
    (shortcut,) = [one for one in SHORTCUTS["train-classifier"] if one.option == "--weights"]
    config = stage_config(load_stage("train-classifier"), None, settings, {shortcut: "FILE"})
    assert (config.network.backbone, config.network.dropout, config.network.weights) == ("tiny", 0.0, weights)


def test_damage_is_found_and_is_exit_3(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare-data", *TINY]) == 0
    victim = sorted(Path("runs/default/data/masks").glob("*.png"))[0]
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    code, out, err = run(capsys, "verify")
    assert code == 3
    assert f"masks/{victim.name} was changed" in out
    assert "damaged: data" in err


def test_status_check_is_exit_5_when_something_is_stale(capsys: pytest.CaptureFixture[str]) -> None:
    Path("little.yaml").write_text(RECIPE)
    assert main(["run", "little.yaml", "--workers", "1"]) == 0
    record = Path("runs/little/.recipe.json")
    record.write_text(record.read_text().replace('"val": 3', '"val": 2'))
    code, out, err = run(capsys, "status", "--check")
    assert code == 5
    assert "config dataset.val: 3 -> 2" in " ".join(out.split())
    assert "not everything is fresh: data (stale)" in err


def test_a_killed_first_run_is_listed_and_can_be_continued_or_removed(capsys: pytest.CaptureFixture[str]) -> None:
    """A SIGKILL, as the memory's end or a batch system sends it, in a command of its own."""
    command = ["prepare-data", *TINY, "--set", "dataset.train=900"]
    with subprocess.Popen([sys.executable, "-m", "semiseg_cli", *command], stderr=subprocess.PIPE) as process:
        for _ in range(1200):
            if list(Path("runs/default").glob(".data.*.partial/masks/*.png")):
                break
            time.sleep(0.05)
        process.kill()
    code, out, err = run(capsys, "status", "--check")
    told = " ".join(out.split())
    assert code == 5
    assert "data (partial)" in err
    assert "data prepare-data partial" in told
    assert "s ago" in told
    *_, go_on, remove = out.splitlines()
    assert go_on.startswith("data to continue: semiseg prepare-data --set dataset.train=4 ")  # whole, on one line
    assert remove == "to remove unfinished work: semiseg clean"
    _, out, _ = run(capsys, "status", "--json")
    record = json.loads(out)
    assert record["artifacts"] == []
    assert [(state["name"], state["state"]) for state in record["unfinished"]] == [("data", "partial")]
    assert record["unfinished"][0]["command"].startswith("semiseg prepare-data --set dataset.train=4 ")
    assert run(capsys, "prepare-data", *TINY)[2].splitlines()[0] == "prepare-data: making runs/default/data"
    _, out, _ = run(capsys, "status")
    assert "differs from the artifact: dataset.train 4 -> 900" in " ".join(out.split())
    assert run(capsys, "clean", "--yes")[0] == 0
    assert run(capsys, "status", "--check")[0] == 0


def test_a_refused_run_leaves_nothing_and_is_not_continued(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare-data", *TINY]) == 0
    for _ in range(2):
        code, _, err = run(capsys, "select", "--set", "splits=[holdout]")
        assert code == 3
        assert "continued" not in err
        assert list(Path("runs/default").glob(".*.partial")) == []


def test_show_of_an_unknown_name_suggests_one(capsys: pytest.CaptureFixture[str], prepared: Path) -> None:
    code, _, err = run(capsys, "show", "dta", "--workspace", str(prepared))
    assert code == 3
    assert "has no artifact 'dta', did you mean 'data'?" in err


def test_two_writers_are_busy(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Another process holds the artifact; the store's patience is a second."""
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from artifacts.locks import artifact_lock\n"
        "with artifact_lock(Path('runs/default'), 'data').held(exclusive=True):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    Path("runs/default").mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        code, _, err = run(capsys, "prepare-data", *TINY)
        other.kill()
    assert code == 4
    assert f"process {other.pid}" in err


def test_clean_asks_and_removes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare-data", *TINY]) == 0
    partial = Path("runs/default/.data.0123456789ab.partial")
    partial.mkdir()
    code, _, err = run(capsys, "clean")
    assert code == 2
    assert "add --yes" in err
    assert partial.exists()
    assert run(capsys, "clean", "--yes")[0] == 0
    assert not partial.exists()
    assert Path("runs/default/data/manifest.json").exists()
    assert run(capsys, "clean", "--yes", "data")[0] == 0
    assert not Path("runs/default/data").exists()


def test_what_is_replaced_is_said_and_what_took_long_is_not_replaced_unasked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["prepare-data", *TINY]) == 0
    other = ["prepare-data", *TINY, "--set", "dataset.noise=0.2"]
    code, _, err = run(capsys, *other)
    lines = err.splitlines()
    assert code == 0
    assert lines[0].startswith(f"replaces data: dataset.noise {ShapesConfig().noise} -> 0.2; made 20")
    assert lines[0].endswith("; --name NAME keeps both")
    assert lines[1] == "prepare-data: making runs/default/data"

    manifest = Path("runs/default/data/manifest.json")
    record = json.loads(manifest.read_text()) | {"seconds": 11520.0, "finished": "2026-11-20T10:00:00Z"}
    manifest.write_text(json.dumps(record))
    before = sorted(Path("runs/default").iterdir())
    code, _, err = run(capsys, "prepare-data", *TINY)
    assert code == 2
    assert err.splitlines() == [
        "error: runs/default/data, made 2026-11-20 in 3 h 12 min, would be replaced: "
        f"dataset.noise 0.2 -> {ShapesConfig().noise}",
        "hint: --name NAME keeps both, --replace replaces it",
    ]
    assert sorted(Path("runs/default").iterdir()) == before
    assert run(capsys, *other)[0] == 0  # fresh: nothing is replaced
    assert run(capsys, "prepare-data", *TINY, "--name", "second")[0] == 0
    code, _, err = run(capsys, "prepare-data", *TINY, "--replace")
    assert code == 0
    assert "made 2026-11-20 in 3 h 12 min; --name NAME keeps both" in err


def test_force_may_repeat_what_took_long_but_not_replace_it_by_something_else(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["prepare-data", *TINY]) == 0
    manifest = Path("runs/default/data/manifest.json")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"seconds": 601.0}))
    assert run(capsys, "prepare-data", *TINY, "--set", "dataset.noise=0.2", "--force")[0] == 2
    code, _, err = run(capsys, "prepare-data", *TINY, "--force")
    assert code == 0
    assert "replaces data: the same settings; made 20" in err


def test_export_copies_a_checked_artifact(capsys: pytest.CaptureFixture[str], prepared: Path) -> None:
    code, _, err = run(capsys, "export", "files", "data", "copy", "--workspace", str(prepared))
    assert code == 0, err
    assert (Path("copy") / "manifest.json").read_bytes() == (prepared / "data" / "manifest.json").read_bytes()
    code, _, err = run(capsys, "export", "files", "data", "copy", "--workspace", str(prepared))
    assert code == 2
    assert "copy exists already" in err


# --- folders of masks ---


def write_masks(folder: str, *masks: list[list[int]]) -> None:
    Path(folder).mkdir()
    for index, mask in enumerate(masks):
        image = Image.fromarray(np.array(mask, dtype=np.uint8), mode="P")
        image.putpalette(list(range(256)) * 3)
        image.save(f"{folder}/{index}.png")


def test_folders_are_scored_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    write_masks("truth", [[0, 0, 1, 1]], [[1, 1, 255, 0]])
    write_masks("found", [[0, 1, 1, 1]], [[1, 0, 0, 0]])
    code, out, _ = run(
        capsys, *("evaluate", "--predictions", "found", "--ground-truth", "truth", "--num-classes", "2", "--json")
    )
    # class 0: 2 right, 1 found too many, 1 missed -> 2/4; class 1: 3 right, 1 too many, 1 missed -> 3/5
    assert code == 0
    assert json.loads(out)["mean_iou"] == pytest.approx((2 / 4 + 3 / 5) / 2)
    assert not Path("runs").exists()


def test_folders_that_differ_are_refused_unless_said(capsys: pytest.CaptureFixture[str]) -> None:
    write_masks("truth", [[0, 1]], [[1, 1]])
    write_masks("found", [[0, 1]])
    folders = ["evaluate", "--predictions", "found", "--ground-truth", "truth", "--num-classes", "2"]
    code, _, err = run(capsys, *folders)
    assert code == 3
    assert "1 without a prediction" in err
    code, out, _ = run(capsys, *folders, "--common-only")
    assert code == 0
    assert "mean IoU 100.00" in out


# --- recipes ---


def test_a_recipe_runs_and_says_so_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("little.yaml").write_text(RECIPE)
    code, out, err = run(capsys, "run", "little.yaml", "--workers", "1")
    assert (code, out) == (0, "")
    lines = [" ".join(line.split()) for line in err.splitlines()]
    assert lines[0] == "little: 1 node in runs/little"
    assert lines[1] == "[1/1] running data prepare-data"
    assert lines[2].startswith("[1/1] done data")
    assert lines[3].startswith("1 made, 0 fresh in")
    code, _, err = run(capsys, "run", "little.yaml", "--workers", "1")
    assert "[1/1] fresh" in err
    assert "0 made, 1 fresh" in err


def test_a_run_replaces_what_took_long_only_if_told(capsys: pytest.CaptureFixture[str]) -> None:
    Path("little.yaml").write_text(RECIPE)
    assert run(capsys, "run", "little.yaml")[0] == 0
    code, _, err = run(capsys, "run", "little.yaml", "--set", "images=5")
    lines = [" ".join(line.split()) for line in err.splitlines()]
    assert code == 0
    assert re.fullmatch(r"\[1/1\] running data prepare-data, replaces that of 20.*: dataset.val \d -> 5", lines[1])

    manifest = Path("runs/little/data/manifest.json")
    record = json.loads(manifest.read_text()) | {"seconds": 11520.0}
    manifest.write_text(json.dumps(record))
    before = sorted(Path("runs/little").iterdir())
    code, _, err = run(capsys, "run", "little.yaml", "--set", "images=3")
    assert code == 2
    assert err.splitlines() == [
        "error: results in runs/little that took 3 h 12 min to make would be replaced: "
        "data (3 h 12 min; config dataset.val: 5 -> 3)",
        "hint: --workspace DIR puts the new ones elsewhere, --replace replaces them; --dry-run lists all",
    ]
    assert sorted(Path("runs/little").iterdir()) == before
    _, out, _ = run(capsys, "run", "little.yaml", "--set", "images=3", "--dry-run")
    assert "to be replaced: 1 result that took 3 h 12 min to make: needs --replace" in out
    assert run(capsys, "run", "little.yaml", "--set", "images=5")[0] == 0  # fresh: nothing is replaced
    assert run(capsys, "run", "little.yaml", "--set", "images=5", "--force", "data")[0] == 0  # asked for
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"seconds": 11520.0}))
    assert run(capsys, "run", "little.yaml", "--set", "images=3", "--replace")[0] == 0


def test_a_dry_run_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Path("little.yaml").write_text(RECIPE)
    code, out, _ = run(capsys, "run", "little.yaml", "--dry-run", "--set", "images=2")
    assert code == 0
    assert "Draws images" in out
    assert not Path("runs").exists()


def test_a_failing_node_names_the_command_that_continues(capsys: pytest.CaptureFixture[str]) -> None:
    text = RECIPE.replace("name: shapes, ", "name: voc-aug, source: nowhere").replace(
        'train: 4, weak: 4, val: "${images}", long_side: 48', ""
    )
    Path("little.yaml").write_text(text)
    code, _, err = run(capsys, "run", "little.yaml", "--set", "images=5")
    assert code == 3
    assert "data failed" in err
    assert "continue with: semiseg run little.yaml --set images=5" in err


def test_a_report_without_a_table_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    Path("little.yaml").write_text(RECIPE)
    assert main(["run", "little.yaml", "--workers", "1"]) == 0
    code, _, err = run(capsys, "report")
    assert code == 3
    assert "has no table" in err


SCORED = """
name: scored
description: A step of training with few and with more images, scored.
repeat: {labelled: [3, 6], seed: [0], left-out: []}
nodes:
  data-n{labelled}:
    stage: prepare-data
    config: {dataset: {name: shapes, train: "{labelled}", weak: 4, val: 3, long_side: 48}}
  train-n{labelled}-s{seed}:
    stage: train
    inputs: {data: "data-n{labelled}"}
    config: {method: {labels: strong}, iterations: 2, batch_size: 2, crop_size: 33, snapshots: 2, seed: "{seed}"}
  select-n{labelled}-s{seed}:
    stage: select
    inputs: {data: "data-n{labelled}", segmenter: "train-n{labelled}-s{seed}"}
table:
  title: Scored
  columns: ["{labelled} labels"]
  plot: {over: labelled, column: "{labelled} labels", label: labelled images}
  rows:
    - label: supervised
      nodes: {"{labelled} labels": "select-n{labelled}-s{seed}"}
      costs: ["train-n{labelled}-s{seed}", "select-n{labelled}-s{seed}"]
"""


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A workspace in which a recipe with a table, costs and a plot was run, and what the run said."""
    folder = tmp_path_factory.mktemp("scored")
    (folder / "scored.yaml").write_text(SCORED)
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
        patch.chdir(folder)
        patch.delenv("SEMISEG_WORKSPACE", raising=False)
        assert main(["run", "scored.yaml", "--workers", "1", "--device", "cpu"]) == 0, said.getvalue()
    return folder / "runs" / "scored", said.getvalue()


def test_a_run_with_a_table_writes_its_report(
    capsys: pytest.CaptureFixture[str], scored: tuple[Path, str], tmp_path: Path
) -> None:
    place, said = scored
    for name in ("report.json", "report.md", "report.png"):
        assert f"wrote {Path('runs/scored') / name}" in said
    _, out, _ = run(capsys, "report", "--json", "--workspace", str(place))
    record = json.loads((place / "report.json").read_text())
    assert json.loads(out) == record
    (row,) = record["rows"]
    for n in (3, 6):
        selection = json.loads((place / f"select-n{n}-s0" / "selection.json").read_text())
        best = 100 * max(selection["mean_iou"].values())
        assert row["ours"][f"{n} labels"]["runs"] == {f"select-n{n}-s0": best}
    nodes = [f"{stage}-n{n}-s0" for stage in ("train", "select") for n in (3, 6)]
    seconds = [json.loads((place / node / "manifest.json").read_text())["seconds"] for node in nodes]
    assert row["cost"]["seconds"] == pytest.approx(sum(seconds) / 2)
    _, out, _ = run(capsys, "report", "--markdown", "-", "--workspace", str(place))
    assert out == (place / "report.md").read_text()
    with Image.open(place / "report.png") as image:
        assert image.format == "PNG"
        assert np.asarray(image.convert("L")).std() > 5  # something is drawn


def test_a_plot_is_drawn_where_it_is_wanted(
    capsys: pytest.CaptureFixture[str], scored: tuple[Path, str], tmp_path: Path
) -> None:
    place = ["--workspace", str(scored[0])]
    code, _, err = run(capsys, "report", "--plot", "plot.png", *place)
    assert (code, "wrote plot.png" in err) == (0, True)
    assert (tmp_path / "plot.png").read_bytes() == (scored[0] / "report.png").read_bytes()
    for option, target, exit_code, message in (
        ("--plot", "nowhere/plot.png", 3, "nowhere/plot.png cannot be written: No such file or directory"),
        ("--markdown", "nowhere/table.md", 3, "nowhere/table.md cannot be written: No such file or directory"),
        ("--plot", "plot.docx", 2, "a plot cannot be written as .docx"),
    ):
        code, _, err = run(capsys, "report", option, target, *place)
        assert code == exit_code
        assert message in err
        assert "hint: " in err
        assert "Traceback" not in err


def test_a_plot_of_a_table_without_one_is_refused(
    capsys: pytest.CaptureFixture[str], scored: tuple[Path, str], tmp_path: Path
) -> None:
    place = tmp_path / "plain"
    place.mkdir()
    record = json.loads((scored[0] / ".recipe.json").read_text())
    record["table"]["plot"] = None
    (place / ".recipe.json").write_text(json.dumps(record))
    code, _, err = run(capsys, "report", "--plot", "plot.png", "--workspace", str(place))
    assert code == 3
    assert "the table of 'scored' has no plot" in err
    assert not Path("plot.png").exists()
    code, out, _ = run(capsys, "report", "--workspace", str(place))  # nothing is made yet
    assert code == 0
    assert "Not made yet: select-n3-s0, select-n6-s0" in " ".join(out.split())


def test_ctrl_c_is_exit_130_and_the_same_command_continues(tmp_path: Path) -> None:
    Path("little.yaml").write_text(RECIPE.replace("train: 4", "train: 900"))
    command = [sys.executable, "-m", "semiseg_cli", "run", "little.yaml", "--workers", "1"]
    # A test run started in the background ignores SIGINT, and its children would inherit that.
    listening = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=listening) as process:
        folder = Path("runs/little")
        for _ in range(600):
            if list(folder.glob(".data.*.partial/*/*.png")):
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted in data" in err
    assert "to continue: semiseg run little.yaml --workers 1" in err
    assert list(folder.glob(".data.*.partial"))
    assert not (folder / "data").exists()


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_takes_a_workspace(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [command, "files"] if command == "export" else [command]
    code, out, _ = run(capsys, *words, "--help")
    assert code == 0
    assert "--workspace" in out
