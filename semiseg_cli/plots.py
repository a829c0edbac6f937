"""The plot of a recipe's table: figures over a repeated value, a line a row."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts.errors import UsageError
from artifacts.store import Workspace
from stages.pipeline.table import Table, table_figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe & Ito's colours that all kinds of colour vision tell apart, without the yellow that white swallows. Markers and,
# from the eighth row on, dashes say the same without colour.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = "osD^vPX*<>hd"
DASHES = ("-", "--", ":")
BESIDE = 0.15  # points of one column stand beside each other, in all this share of the distance to the next column


def draw_plot(table: Table, workspace: Workspace, path: Path) -> None:
    """Writes the table's plot. The suffix of `path` says the format: png, svg, pdf; UsageError for an unknown one."""
    canvas = plot_figures(table, workspace)
    if path.suffix[1:] not in (known := canvas.canvas.get_supported_filetypes()):
        raise UsageError(
            f"{path}: a plot cannot be written as {path.suffix or 'a file without suffix'}",
            f"one of {', '.join(known)}",
        )
    canvas.savefig(path)


def plot_figures(table: Table, workspace: Workspace) -> Figure:
    """The table's plot (`table.plot` must be there): means as lines, from the lowest to the highest run as bars."""
    import matplotlib.figure

    assert table.plot is not None
    figures = table_figures(table, workspace)
    texts = list(table.plot.points.values())
    places = dict(zip(table.plot.points, positions(texts), strict=True))
    canvas = matplotlib.figure.Figure(figsize=(8.0, 5.0), dpi=150, layout="constrained")
    axes = canvas.subplots()
    axes.set_axisbelow(True)
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    ends = []  # (last mean, what the legend shows of the row)
    for number, row in enumerate(table.rows):
        shift = BESIDE * _distance(list(places.values())) * ((number + 0.5) / len(table.rows) - 0.5)
        known = [(places[column] + shift, figures[row.label][column]) for column in places]
        points = [(x, figure.mean, figure.spread) for x, figure in known if figure.mean is not None]
        if not points:
            continue
        line = axes.errorbar(
            [x for x, _, _ in points],
            [mean for _, mean, _ in points],
            yerr=[
                [mean - spread[0] if spread else math.nan for _, mean, spread in points],
                [spread[1] - mean if spread else math.nan for _, mean, spread in points],
            ],
            label=row.label,
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            linestyle=DASHES[number // len(COLOURS) % len(DASHES)],
            linewidth=2.0 if number == 0 else 1.3,
            markersize=5.5,
            elinewidth=0.9,
            capsize=2.0,
        )
        ends.append((points[-1][1], line))
    axes.set_xticks(list(places.values()), texts)
    axes.set_xlabel(table.plot.label)
    axes.set_ylabel(f"{table.metric.replace('_', ' ').replace('iou', 'IoU')}, %")
    axes.set_title(textwrap.fill(table.title, 80), fontsize=11, loc="left")
    if ends:  # in the order in which the lines end
        handles = [line for _, line in sorted(ends, key=lambda end: -end[0])]
        canvas.legend(handles=handles, loc="outside right center", frameon=False, fontsize=9)
    return canvas


def positions(texts: Sequence[str]) -> list[float]:
    """Where values stand on the horizontal axis: numbers by their logarithm, other values one after the other."""
    try:
        values = [float(text) for text in texts]
    except ValueError:
        return [float(index) for index in range(len(texts))]
    if all(0 < value < math.inf for value in values):
        return [math.log10(value) for value in values]
    return values if all(map(math.isfinite, values)) else [float(index) for index in range(len(texts))]


def _distance(places: Sequence[float]) -> float:
    """The smallest one between two places; 1 where there is one place only."""
    ordered = sorted(set(places))
    return min((high - low for low, high in itertools.pairwise(ordered)), default=1.0)
