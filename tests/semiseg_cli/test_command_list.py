"""What is known of a command before it is loaded is what the command says of itself, and nothing more is imported."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys

import pytest

from semiseg_cli.command_list import COMMANDS, STAGES, load_command
from semiseg_cli.main import main
from stages.contract import STAGE_MODULES

IMPORTS = (
    "import json, sys\n"
    "from semiseg_cli.main import main\n"
    "try:\n"
    "    code = main(sys.argv[1:])\n"
    "except SystemExit as ended:\n"
    "    code = ended.code\n"
    "print(json.dumps([code, sorted(sys.modules)]))\n"
)
OURS = {"semiseg_cli", "semiseg_cli.main", "semiseg_cli.command_list", "artifacts", "artifacts.errors", "stages"}
SLOW = {"torch", "numpy", "PIL", "h5py", "yaml"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_listed_with_its_own_help(name: str) -> None:
    command = load_command(name)
    assert " ".join(command.help.split("\n\n")[0].split()) == COMMANDS[name].help
    assert command.name == name
    assert command.rich_help_panel == COMMANDS[name].panel


def test_every_stage_is_listed_in_the_order_of_the_pipeline() -> None:
    assert [name for name, listed in COMMANDS.items() if listed.panel == STAGES] == list(STAGE_MODULES)


@pytest.mark.parametrize(
    ("arguments", "typed"), [(["--help"], ""), (["--version"], ""), ([], "semiseg "), ([], "semiseg tr")]
)
def test_help_version_and_completion_import_no_command(arguments: list[str], typed: str) -> None:
    completion = {"_SEMISEG_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": "1"} if typed else {}
    environment = os.environ | completion
    done = subprocess.run([sys.executable, "-c", IMPORTS, *arguments], env=environment, capture_output=True, text=True)
    *shown, last = done.stdout.splitlines()
    code, modules = json.loads(last)
    assert code == 0, done.stderr
    assert {name for name in modules if name.partition(".")[0] in ("semiseg_cli", "artifacts", "stages")} == OURS
    assert not SLOW & set(modules)
    if typed:
        assert shown == [name for name in COMMANDS if name.startswith(typed.removeprefix("semiseg "))]


def test_a_command_that_is_not_there_is_answered_with_similar_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "Did you mean 'train'" in capsys.readouterr().err


def test_a_folder_that_is_not_installed_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", version)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("semiseg, not installed")
