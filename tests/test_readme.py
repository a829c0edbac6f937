"""What the documentation tells people to type exists: commands and their options, make targets, links, recipes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from artifacts.errors import ConfigError
from semiseg_cli.main import app
from stages.config import build, parse_assignment
from stages.contract import STAGE_MODULES, load_stage

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def shell_lines() -> list[tuple[str, str]]:
    """(page, command) of every shell block, with continued lines joined and comments dropped."""
    found = []
    for page in PAGES:
        for block in BLOCK.findall(page.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                command = re.sub(r"\s+#.*$", "", line).strip()
                if command and not command.startswith("#"):
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
        settings = context.params.get("settings") or []
        values: dict = {}
        for text in settings:
            keys, value = parse_assignment(text)
            place = values
            for key in keys[:-1]:
                place = place.setdefault(key, {})
            place[keys[-1]] = value
        build(load_stage(name).config, values, f"{page}: {line}")


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
