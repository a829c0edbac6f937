"""What tests of the store share: processes of their own, which can be killed."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAD = "import os, sys, time\nfrom pathlib import Path\nfrom artifacts.store import *\npath = sys.argv[1]\n"


@pytest.fixture
def python() -> Callable[..., subprocess.Popen[str]]:
    """python(code, path): a process of its own that runs `code` with the workspace's path as `path`."""

    def start(code: str, *arguments: object) -> subprocess.Popen[str]:
        body = f"w = Work('toy', 1, 'masks', 'b' * 64, {{}}, {{}}, {{}})\n{textwrap.dedent(code)}"
        return subprocess.Popen(
            [sys.executable, "-c", HEAD + body, *map(str, arguments)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start
