"""The bars of tasks that run side by side, on a terminal of 80 columns."""

from __future__ import annotations

import io
import re

from rich.console import Console

from semiseg_cli.progress import BarProgress


def test_figures_are_whole_where_the_terminal_is_narrow() -> None:
    written = io.StringIO()
    progress = BarProgress(Console(file=written, width=80, force_terminal=True, color_system=None))
    with (
        progress.track(1500, "train-s0: training", unit="steps") as first,
        progress.track(1500, "train-s1: training", unit="steps") as second,
    ):
        for _ in range(20):  # a rate and the time left are shown after a few steps
            first.advance(cross_entropy=0.5231)
            second.advance(cross_entropy=0.1682)
        assert progress._display is not None
        progress._display.refresh()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.getvalue().replace("\r", "\n"))
    lines = [line for line in shown.splitlines() if "20/1500" in line]
    assert re.search(r"train-s0: training .* steps/s .*cross_entropy=0\.523", lines[-2])
    assert re.search(r"train-s1: training .* steps/s .*cross_entropy=0\.168", lines[-1])
    assert max(map(len, lines)) <= 80
