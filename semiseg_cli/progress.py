"""Progress as a person sees it: a bar with loss, rate and time left on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

from artifacts.text import visible
from semiseg_cli.console import is_main_rank, live, talk
from stages.contract import FEW_UNITS, PlainProgress, Progress, Tracker


class _RateColumn(ProgressColumn):
    """Units a second, measured over this run."""

    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        return Text("" if not rate else f"{rate:.3g} {task.fields['unit']}/s")


class _LeftColumn(TimeRemainingColumn):
    """The time left, once a few units of this run are done."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.completed - task.fields["first"] >= FEW_UNITS else Text("")


class _FieldsColumn(ProgressColumn):
    """What the stage reports in addition to the count: loss=0.532."""

    def render(self, task: Task) -> Text:
        return Text(task.fields.get("shown", ""), style="dim")


class _BarTracker:
    def __init__(self, progress: RichProgress, task: Any) -> None:
        self.progress, self.task = progress, task

    def advance(self, count: int = 1, **fields: Any) -> None:
        if fields:
            pairs = (f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in fields.items())
            self.progress.update(self.task, advance=count, shown=" ".join(pairs))
        else:
            self.progress.update(self.task, advance=count)


class BarProgress:
    """One live display; a bar for every task that runs."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._display: RichProgress | None = None
        self._live = ExitStack()

    @contextmanager
    def track(self, total: int, description: str, unit: str = "images", done: int = 0) -> Iterator[Tracker]:
        if self._display is None:
            whole = Column(no_wrap=True)  # where the terminal is narrow the bar is shorter, and no figure cut off
            self._display = RichProgress(
                TextColumn("  {task.description}", markup=False, table_column=whole),
                BarColumn(bar_width=24),
                MofNCompleteColumn(table_column=whole),
                _RateColumn(whole),
                _LeftColumn(compact=True, elapsed_when_finished=True, table_column=whole),
                _FieldsColumn(whole),
                console=self.console,
                transient=True,
            )
            self._display.start()
            self._live.enter_context(live(self.console))
        display = self._display
        task = display.add_task(visible(description), total=total, completed=done, unit=unit, first=done)
        try:
            yield _BarTracker(display, task)
        finally:
            display.remove_task(task)
            if not display.tasks:
                display.stop()
                self._live.close()
                self._display = None

    def note(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)


class SilentProgress:
    """Shows nothing: for the ranks of a distributed run other than the first."""

    @contextmanager
    def track(self, total: int, description: str, unit: str = "images", done: int = 0) -> Iterator[Tracker]:
        yield _SilentTracker()

    def note(self, text: str) -> None:
        pass


class _SilentTracker:
    def advance(self, count: int = 1, **fields: Any) -> None:
        pass


def choose_progress() -> Progress:
    """Bars on a terminal, otherwise a plain line every half minute; nothing on ranks other than 0."""
    if not is_main_rank():
        return SilentProgress()
    return BarProgress(talk()) if sys.stderr.isatty() else PlainProgress()
