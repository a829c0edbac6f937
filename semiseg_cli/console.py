"""Where text goes: data to stdout, messages to stderr; both plain when they are not a terminal."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import rich.box
import rich.table
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from artifacts.disk_errors import disk_error
from artifacts.errors import ConfigError
from artifacts.text import visible
from stages.report.words import duration, flatten, headline, is_share, percent, short_number, size

# What all commands import from here, although some of it is defined elsewhere.
__all__ = [
    "STATE_STYLES",
    "bullets",
    "duration",
    "flatten",
    "headline",
    "is_main_rank",
    "is_share",
    "json_text",
    "out",
    "percent",
    "plain_table",
    "say",
    "short_number",
    "show_error",
    "size",
    "state_text",
    "talk",
    "write_json",
    "written",
]

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

_live: list[Console] = []  # the console of the progress that is shown now, which all messages must stand above

_WIDTH_OF_FILES = 160  # of tables that are not shown on a terminal


class _PlainConsole(Console):
    """A console without markup: `[/red]` or `:cat:` is shown as it is, a control character with a backslash."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **{**options, "markup": False, "emoji": False})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def _console(stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _WIDTH_OF_FILES
    return _PlainConsole(stderr=stderr, width=width, highlight=False, soft_wrap=False, quiet=not is_main_rank())


def is_main_rank() -> bool:
    """Whether this process may print: of those that torchrun starts the first one, which is told the others' errors."""
    return os.environ.get("RANK", "0") == "0"


def out() -> Console:
    """The console for data."""
    return _console(stderr=False)


def talk() -> Console:
    """The console for everything that is not data."""
    return _live[0] if _live else _console(stderr=True)


@contextlib.contextmanager
def live(console: Console) -> Iterator[None]:
    """While the block runs, `console` shows something at the end of the terminal."""
    _live.append(console)
    try:
        yield
    finally:
        _live.remove(console)


def say(text: str) -> None:
    """A message on stderr. It is never wrapped, so it can be searched and copied."""
    talk().print(text, soft_wrap=True)


def write_json(value: Any) -> None:
    """`value` as JSON on stdout, for other programs."""
    print(json_text(value))


def json_text(value: Any) -> str:
    """`value` as JSON that any terminal can show: characters that are not printable are escaped, as JSON allows."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return re.sub("[\x7f-\x9f\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """Prints that the block wrote `path`; ConfigError with the reason if it could not."""
    try:
        yield path
    except OSError as error:
        mended = disk_error(error, path)
        if mended is error:
            why = error.strerror or error
            mended = ConfigError(f"{path} cannot be written: {why}", "name a file in a folder that exists")
        raise mended from error
    say(f"wrote {path}")


def show_error(message: str, hint: str | None = None) -> None:
    """`error: ...` and `hint: ...` on stderr."""
    for label, style, text in (("error", "bold red", message), ("hint", "bold cyan", hint)):
        if text:
            talk().print(Text.assemble((f"{label}: ", style), visible(text)), soft_wrap=True)


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
        grid.add_row("-", line)
    return grid
