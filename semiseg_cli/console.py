"""Where text goes: data to stdout, messages to stderr; both plain when they are not a terminal."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
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
    return _PlainConsole(stderr=stderr, width=width, highlight=False, soft_wrap=False)


def out() -> Console:
    """The console for data."""
    return _console(stderr=False)


def talk() -> Console:
    """The console for everything that is not data."""
    return _console(stderr=True)


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


# The main figures of a result, most important first: key (or prefix with *), label, whether it is a share.
_HEADLINES: tuple[tuple[str, str, bool], ...] = (
    ("mean_iou", "mean IoU", True),
    ("pixel_accuracy", "pixel accuracy", True),
    ("mean_average_precision", "mAP", True),
    ("quality.train.mean.iou", "IoU", True),
    ("quality.train.coverage", "coverage", True),
    ("images_per_second", "images/s", False),
    ("observed.*", "", False),
    ("losses.*", "loss", False),
    ("images.*", "", False),
    ("images", "images", False),
)


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        name = f"{prefix}{key}"
        flat |= flatten(inner, f"{name}.") if isinstance(inner, Mapping) else {name: inner}
    return flat


def percent(share: float | None) -> str:
    """A share of 1 in percent, without the sign; - where it is not known."""
    return "-" if share is None else f"{100 * share:.2f}"


def short_number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


_SHARES = {"iou", "mean_iou", "mean_iou_of_last", "pixel_accuracy", "precision", "recall", "coverage"}
_SHARES |= {"average_precision", "mean_average_precision"}


def is_share(key: str) -> bool:
    """Whether the figure with this dotted key is a fraction of 1, which people read in percent."""
    return not _SHARES.isdisjoint(key.split(".")) or key.endswith("_share")


def headline(summary: Mapping[str, Any], most: int = 3) -> str:
    """The main figures of a summary on one line; its first plain values when none of them is known."""
    flat = flatten(summary)
    shown = []
    for pattern, label, share in _HEADLINES:
        for key, value in flat.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            if key == pattern or (pattern.endswith("*") and key.rpartition(".")[0] == pattern[:-2]):
                name = " ".join(filter(None, [label, key.rpartition(".")[2] if pattern.endswith("*") else ""]))
                shown.append(f"{name} {100 * value:.1f} %" if share else f"{name} {short_number(value)}")
    if not shown:
        plain = {key: value for key, value in flat.items() if isinstance(value, (int, float, str))}
        shown = [f"{key.replace('_', ' ')} {short_number(value)}" for key, value in plain.items()]
    return ", ".join(shown[:most])
