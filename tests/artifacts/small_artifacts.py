"""What tests of the store share: artifacts of one small file, and processes that make them and can be killed."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from artifacts.canonical import pretty_json
from artifacts.folder_digests import NAME as FOLDERS
from artifacts.item_list import MANIFEST_NAME, content_digest, list_items
from artifacts.store import Artifact, Work, Workspace

ROOT = Path(__file__).parents[2]


def work(fingerprint: str = "a" * 64) -> Work:
    return Work("toy", 1, "masks", fingerprint, {}, {}, {})


def make(workspace: Workspace, name: str = "m", text: str = "one", fingerprint: str = "a" * 64) -> Artifact:
    with workspace.writing(name, work(fingerprint)) as writer:
        writer.write_bytes("x.txt", text.encode())
        return workspace.publish(name, writer, work(fingerprint), {})


def sign_again(folder: Path) -> None:
    """Makes the manifest of an artifact that was changed by hand fit its items again."""
    record = json.loads((folder / MANIFEST_NAME).read_text())
    items = list_items(folder)
    (folder / MANIFEST_NAME).write_text(pretty_json(record | {"items": items, "content": content_digest(items)}))


def change_json(folder: Path, relative: str, change: Callable[[Any], Any], sign: bool = True) -> None:
    """Changes a JSON item, by default with the manifest that belongs to it; `change` works in place."""
    record = json.loads((folder / relative).read_text())
    change(record)
    (folder / relative).write_text(json.dumps(record))
    if sign:
        sign_again(folder)


def leftovers(workspace: Workspace) -> list[str]:
    """The folders of unfinished work, and what a publish or removal that was cut off left, by name."""
    workspace.names()  # completes what was cut off
    kept = (".locks", FOLDERS)
    return sorted(path.name for path in workspace.path.glob(".*") if path.name not in kept)


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
