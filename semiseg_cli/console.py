"""Where text goes: data to stdout, talk to stderr; both plain when they are not a terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from typing import Any

import rich.box
import rich.table
from rich.console import Console
from rich.text import Text

STATE_STYLES = {
    "fresh": "green",
    "done": "green",
    "stale": "yellow",
    "partial": "yellow",
    "missing": "cyan",
    "running": "blue",
    "blocked": "dim",
    "skipped": "dim",
    "damaged": "bold red",
    "failed": "bold red",
}

_WIDTH_OF_FILES = 160  # of tables that are not shown on a terminal


def _console(stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _WIDTH_OF_FILES
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=False)


def out() -> Console:
    """The console for data."""
    return _console(stderr=False)


def talk() -> Console:
    """The console for everything that is not data."""
    return _console(stderr=True)


def say(text: str) -> None:
    """A line of talk, never wrapped by us: it can be searched and copied."""
    talk().print(Text(text), soft_wrap=True)


def write_json(value: Any) -> None:
    """`value` as JSON on stdout, for other programs."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def show_error(message: str, hint: str | None = None) -> None:
    """`error: ...` and `hint: ...` on stderr."""
    text = Text("error: ", style="bold red")
    text.append(message, style="default not bold")
    console = talk()
    console.print(text, soft_wrap=True)
    if hint:
        line = Text("hint: ", style="bold cyan")
        line.append(hint, style="default not bold")
        console.print(line, soft_wrap=True)


def state_text(state: str, words: str | None = None) -> Text:
    return Text(words or state, style=STATE_STYLES.get(state, ""))


def plain_table(*headers: str, title: str | None = None) -> rich.table.Table:
    """A table without vertical lines, which reads well at 80 columns and in a log."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for header in headers:
        table.add_column(header, overflow="fold")
    return table


def bullets(lines: Iterable[str]) -> rich.table.Table:
    """Lines with a dash and a hanging indent."""
    grid = rich.table.Table.grid(padding=(0, 1))
    for line in lines:
        grid.add_row("-", Text(line))
    return grid


def duration(seconds: float) -> str:
    """1.2 s, 48 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(count: float) -> str:
    """Bytes in words: 412 B, 31.0 KiB, 1.2 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


# Figures that say most about a result, in the order they are tried; shares are shown in percent.
_HEADLINES: tuple[tuple[str, str, bool], ...] = (
    ("mean_iou", "mean IoU", True),
    ("mean_average_precision", "mAP", True),
)


def headline(summary: dict[str, Any], most: int = 3) -> str:
    """The main figures of a summary on one line; the first few plain values when none is known."""
    shown = []
    for key, label, percent in _HEADLINES:
        value = summary.get(key)
        if isinstance(value, (int, float)):
            shown.append(f"{label} {100 * value:.1f}" if percent else f"{label} {value}")
    for key, value in summary.items():
        if len(shown) >= most:
            break
        if key in {name for name, _, _ in _HEADLINES} or isinstance(value, (dict, list, bool)) or value is None:
            continue
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        if len(text) <= 24:
            shown.append(f"{key.replace('_', ' ')} {text}")
    return ", ".join(shown)
