"""The rows of the table: a file of JSON lines for each step, written as soon as a figure is known."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

LONGEST = 160  # characters of an error in the table


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        step: the step it belongs to; what: what was measured.
        figures: numbers and words by name.
        least: what some of the figures should reach.
        error: why there are no figures.
        details: more for the JSON file alone.
    """

    step: str
    what: str
    figures: Mapping[str, float | str | None] = field(default_factory=dict)
    least: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reached(self) -> str:
        """ "yes" or "NO" where something is wanted."""
        if not self.least:
            return ""
        found = [(self.figures.get(name), least) for name, least in self.least.items()]
        return "yes" if all(isinstance(value, float) and value >= least for value, least in found) else "NO"


class Rows:
    """The rows of one step."""

    def __init__(self, folder: Path, step: str) -> None:
        self.step, self.file = step, folder / f"{step}.jsonl"

    def add(
        self, what: str, figures: Mapping[str, Any], least: Mapping[str, float] | None = None, **details: Any
    ) -> None:
        self._write(Row(self.step, what, figures, least or {}, details=details))

    def fail(self, what: str, error: str) -> None:
        self._write(Row(self.step, what, error=error))

    @contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """An exception becomes a row, and its traceback goes to the log."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            sys.stderr.flush()
            self.fail(what, f"{type(error).__name__}: {error}")

    def _write(self, row: Row) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row)) + "\n")


def read(folder: Path, step: str) -> list[Row]:
    """The rows that a step has written so far."""
    file = folder / f"{step}.jsonl"
    if not file.is_file():
        return []
    return [Row(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def figure(rows: Sequence[Row], what: str, name: str) -> float | None:
    """A figure of a row, where there is one."""
    found = [row.figures.get(name) for row in rows if row.what == what]
    return next((float(value) for value in found if isinstance(value, int | float)), None)


def shown(value: float | str | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(rows: Sequence[Row]) -> str:
    """The rows as plain lines, which also a log of limited width keeps whole."""
    lines, step = [], ""
    for row in rows:
        if row.step != step:
            step = row.step
            lines.append(f"-- {step}")
        figures = ", ".join(f"{name} {shown(value)}" for name, value in row.figures.items())
        if row.error:
            text = " ".join(row.error.split())
            figures = "ERROR " + (text if len(text) <= LONGEST else text[:LONGEST] + " ...")
        wanted = " and ".join(f"{name} >= {value:g}" for name, value in row.least.items())
        lines.append(f"  {row.what}: {figures}" + (f"  [{wanted}: {row.reached}]" if wanted else ""))
    return "\n".join(lines)
