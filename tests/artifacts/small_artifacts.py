"""What tests of the store share: artifacts of one small file, and processes that make them and can be killed."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

from artifacts.store import Artifact, Work, Workspace

ROOT = Path(__file__).parents[2]


def work(fingerprint: str = "a" * 64) -> Work:
    return Work("toy", 1, "masks", fingerprint, {}, {}, {})


def make(workspace: Workspace, name: str = "m", text: str = "one", fingerprint: str = "a" * 64) -> Artifact:
    with workspace.writing(name, work(fingerprint)) as writer:
        writer.write_bytes("x.txt", text.encode())
        return workspace.publish(name, writer, work(fingerprint), {})


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process of its own that runs `code` with the workspace's path as `path`."""
    head = """
    import os, sys, time
    from pathlib import Path
    from artifacts.store import Work, Workspace
    path, w = sys.argv[1], Work("toy", 1, "masks", "b" * 64, {}, {}, {})
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code), *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
