"""What the documentation tells people to type exists: commands and their options, make targets, links, recipes."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from artifacts.errors import ConfigError
from semiseg_cli.main import app
from semiseg_cli.stage_commands import SHORTCUTS, stage_config
from stages.config import build
from stages.contract import STAGE_MODULES, load_stage

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


VARIABLE = re.compile(r'(\w+)="(.*)"')


def shell_lines() -> list[tuple[str, str]]:
    """(page, command) of every shell block: continued lines joined, comments dropped, the page's variables put in."""
    found = []
    for page in PAGES:
        variables: dict[str, str] = {}
        for block in BLOCK.findall(page.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                command = re.sub(r"\s+#.*$", "", line).strip()
                if setting := VARIABLE.fullmatch(command):
                    variables[setting[1]] = setting[2]
                elif command and not command.startswith("#"):
                    for name, value in variables.items():
                        command = command.replace(f"${name}", value)
                    found.append((page.name, command))
    return found


COMMANDS = [(page, line) for page, line in shell_lines() if shlex.split(line)[0] == "semiseg"]
TARGETS = [(page, line) for page, line in shell_lines() if shlex.split(line)[0] == "make"]


def test_there_is_something_to_check():
    assert len(COMMANDS) > 10
    assert len(TARGETS) > 4


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_command_and_options_exist(page, line):
    name, *arguments = shlex.split(line)[1:]
    group = typer.main.get_command(app)
    command = group.get_command(None, name)
    assert command is not None, f"{page}: there is no command {name}"
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


# --- the example of a method ---

FILES = re.compile(r"^```python\n# (stages/\S+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_method_of_the_readme_is_two_files_of_forty_lines_and_trains(tmp_path):
    files = FILES.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert [name for name, _ in files] == ["stages/methods/settings/entropy.py", "stages/methods/entropy.py"]
    assert sum(bool(line.strip()) for _, text in files for line in text.splitlines()) <= 40
    tree = tmp_path / "tree"
    for package in ("artifacts", "stages", "semiseg_cli"):
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in files:
        (tree / name).write_text(text, encoding="utf-8")

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "semiseg_cli", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tree)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "L = CE(f(x), y) + weight mean H(f(u))" in run("methods", "entropy")
    small = [f"dataset.{key}={value}" for key, value in (("train", 4), ("weak", 4), ("val", 2), ("long_side", 48))]
    run("prepare-data", *(part for setting in small for part in ("--set", setting)))
    settings = ["--iterations", "2", "--batch-size", "4", "--set", "crop_size=48", "--set", "method.weight=0.5"]
    run("train", "--method", "entropy", "--network", "tiny", *settings)
    assert '"entropy"' in run("show", "entropy", "--json")
