"""What the documentation tells people to type exists: commands and their options, make targets, links, recipes."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artifacts.errors import ConfigError
from artifacts.masks import write_mask
from semiseg_cli.command_list import COMMANDS as LISTED
from semiseg_cli.command_list import load_command
from semiseg_cli.stage_commands import SHORTCUTS, stage_config
from stages.config import build
from stages.contract import STAGE_MODULES, load_stage
from tests.documented import PAGES, ROOT, commands, semiseg_part
from tests.one_process import in_one_process

LINES = [(page.name, line) for page in PAGES for line in commands(page)]
COMMANDS = [(page, part) for page, line in LINES if (part := semiseg_part(line))]
TARGETS = [(page, line) for page, line in LINES if shlex.split(line)[0] == "make"]


def test_there_is_something_to_check():
    assert len(COMMANDS) > 10
    assert len(TARGETS) > 4


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_command_and_options_exist(page, line):
    name, *arguments = shlex.split(line)[1:]
    assert name in LISTED, f"{page}: there is no command {name}"
    command = load_command(name)
    context = command.make_context(name, list(arguments))  # parses every option; runs nothing
    if name in STAGE_MODULES:
        given = {shortcut: context.params[shortcut.option[2:].replace("-", "_")] for shortcut in SHORTCUTS[name]}
        stage_config(load_stage(name), None, context.params.get("settings") or [], given)


def test_a_wrong_setting_would_be_found():
    with pytest.raises(ConfigError, match="did you mean 'labels'"):
        build(load_stage("crf").config, {"label": "tags"}, "README.md")


@pytest.mark.parametrize(("page", "line"), TARGETS)
def test_make_target_exists(page, line):
    target = shlex.split(line)[1]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), f"{page}: make {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


# --- the examples of a method, a refiner and a data set ---

FILES = re.compile(r"^```python\n# (stages/\S+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SMALL = [f"dataset.{key}={value}" for key, value in (("train", 4), ("weak", 4), ("val", 2), ("long_side", 48))]
ALONE = ["--workers", "1"]


def extended(page: Path, folder: Path, names: list[str], most_lines: int) -> Callable[..., list[str]]:
    """A copy of the code with the files of a page in it; what runs commands of it and gives what each prints."""
    files = [(name, text) for name, text in FILES.findall(page.read_text(encoding="utf-8")) if name in names]
    assert [name for name, _ in files] == names
    assert sum(bool(line.strip()) for _, text in files for line in text.splitlines()) <= most_lines
    tree = folder / "tree"
    for package in ("artifacts", "stages", "semiseg_cli"):
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in files:
        place, end_of_data_sets = tree / name, "\n\ndef check_kept("
        if place.exists():  # the settings of a data set stand beside those of the others
            before, after = place.read_text(encoding="utf-8").split(end_of_data_sets)
            text = f"{before}\n\n{text}{end_of_data_sets}{after}"
        place.write_text(text, encoding="utf-8")

    def run(*commands: Sequence[str]) -> list[str]:
        done = in_one_process(folder, *commands, tree=tree)
        assert [command.code for command in done] == [0] * len(commands), [command.err for command in done]
        return [command.out for command in done]

    return run


def sets(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def test_the_method_of_the_documentation_is_two_files_of_forty_lines_and_trains(tmp_path):
    names = ["stages/methods/settings/entropy.py", "stages/methods/entropy.py"]
    run = extended(ROOT / "docs" / "extending.md", tmp_path, names, 40)
    settings = ["--iterations", "2", "--batch-size", "4", *sets("crop_size=48", "method.weight=0.5")]
    told, planned, *_, shown = run(
        ["methods", "entropy"],
        ["run", "league", "--dry-run", "--set", "methods=[entropy]"],
        ["prepare-data", *sets(*SMALL), *ALONE],
        ["train", "--method", "entropy", "--network", "tiny", *settings, *ALONE],
        ["show", "entropy", "--json"],
    )
    assert "    L = CE(f(x), y) + weight mean H(f(u))" in told
    assert "train-entropy-n30-s0" in planned
    assert '"entropy"' in shown


def test_the_refiner_of_the_documentation_is_two_files_of_thirty_lines_and_refines(tmp_path):
    names = ["stages/refiners/settings/power.py", "stages/refiners/power.py"]
    run = extended(ROOT / "docs" / "extending.md", tmp_path, names, 30)
    settings = ["--network", "tiny", "--iterations", "2", "--batch-size", "4", *sets("crop_size=48")]
    told, *_, shown = run(
        ["methods", "power"],
        ["prepare-data", *sets(*SMALL), *ALONE],
        ["train-classifier", *settings, *ALONE],
        ["seeds", *ALONE],
        ["refine", "--method", "power", *sets("method.exponent=3"), *ALONE],
        ["show", "refine", "--json"],
    )
    assert "S = M^exponent / max M^exponent" in told
    assert '"power"' in shown


def test_the_data_set_of_the_documentation_is_read(tmp_path):
    names = ["stages/data/config.py", "stages/data/readers/pairs.py"]
    run = extended(ROOT / "docs" / "extending.md", tmp_path, names, 20)
    sizes = sets("dataset.train=8", "dataset.weak=0", "dataset.val=2", "dataset.long_side=48")
    run(["prepare-data", *sizes, *ALONE])
    (shapes,), pairs = (tmp_path / "runs").glob("*/data"), tmp_path / "pairs"
    pairs.mkdir()
    for mask in sorted(shapes.glob("masks/*.png")):
        pixels = np.asarray(Image.open(mask))
        write_mask(pairs / f"{mask.stem}_mask.png", np.where(pixels == 255, 255, pixels > 0).astype(np.uint8))
        shutil.copy(shapes / "images" / mask.name, pairs / mask.name)
    preparing = ["prepare-data", "--dataset", "pairs", "--source", str(pairs), "--name", "mine", *ALONE]
    shown = run(preparing, ["show", "mine", "--json"])[-1]
    summary = json.loads(shown)["summary"]
    assert summary["class_names"] == ["background", "thing"]
    assert {split: summary["images"][split] for split in ("train", "val")} == {"train": 8, "val": 2}
    mask = next(pairs.glob("*_mask.png"))
    write_mask(mask, np.zeros_like(np.asarray(Image.open(mask))))
    (status,) = run(["status"])
    assert "the file of dataset.folder changed its content" in " ".join(status.split())
