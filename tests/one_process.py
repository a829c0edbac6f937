"""Several commands of semiseg in one process of its own: Python, and torch where they load it, start once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.documented import ROOT

PROGRAM = r"""
import sys
from semiseg_cli.main import main

words = sys.argv[1:]
while words:
    end = words.index(";")
    sys.argv, words = ["semiseg", *words[:end]], words[end + 1 :]
    print(end=f"\0{main()}\0", flush=True)
    print(end="\0", file=sys.stderr, flush=True)
"""


class Done(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


def in_one_process(folder: Path, *commands: Sequence[str | bytes], tree: Path = ROOT) -> list[Done]:
    """Runs `semiseg COMMAND` for each of the commands, one after the other, in `folder`.

    tree: where the packages are looked for.
    """
    words = [word for command in commands for word in (*command, ";")]
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(tree), "SEMISEG_DEBUG": "0"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    said, errors = ended.stdout.split("\0"), ended.stderr.split("\0")
    return [Done(int(code), out, err) for out, code, err in zip(said[::2], said[1::2], errors, strict=False)]
