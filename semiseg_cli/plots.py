"""The plot of a recipe's table: figures over a repeated value, one line for each row, or one panel for each column."""

from __future__ import annotations

import itertools
import math
import textwrap
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.errors import UsageError
from artifacts.text import visible
from stages.methods.settings import METHODS, trained_by
from stages.report.figures import Results
from stages.report.how_made import HowMade

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe & Ito's colours, which people with any colour vision can distinguish, without the yellow, too pale on white.
# Markers and, from the eighth label on, dashes distinguish the rows without colour.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = "osD^vPX*<>hd"
DASHES = ("-", "--", ":", "-.")

# The place of a label decides how it looks, so that two plots show a method alike whatever else they show. The first
# are those that a league shows most often.
SEEN_MOST = ("supervised", "cps", "fixmatch", "unimatch", "mean-teacher", "cutmix-seg", "self-training", "control")
LABELS = tuple(dict.fromkeys([*SEEN_MOST, *trained_by("segmenter"), *METHODS]))
LINES = len(COLOURS) * len(DASHES)  # as many places have lines that differ
LOOKS = math.lcm(LINES, len(MARKERS))  # as many differ by line or marker
SPREAD = 0.15  # points of one column stand beside each other, in all this share of the distance to the next column


def draw_plot(results: Results, path: Path, made: HowMade | None = None) -> None:
    """Writes the table's plot, see `save_plot`; `made` is for its subtitle."""
    save_plot(plot_figures(results, made), path)


def save_plot(canvas: Figure, path: Path) -> None:
    """The suffix of `path` says the format: png, svg, pdf; UsageError for an unknown one."""
    if path.suffix[1:] not in (known := canvas.canvas.get_supported_filetypes()):
        raise UsageError(
            f"{path}: a plot cannot be written as {path.suffix or 'a file without suffix'}",
            f"one of {', '.join(known)}",
        )
    canvas.savefig(path)


def plot_figures(results: Results, made: HowMade | None = None) -> Figure:
    """The table's plot (`table.plot` is required): means as lines, bars from the lowest to the highest run."""
    import matplotlib.figure

    table, figures = results.table, results.figures
    assert table.plot is not None
    if table.plot.panels:
        return _panels(results, made)
    texts = list(table.plot.points.values())
    places = dict(zip(table.plot.points, positions(texts), strict=True))
    canvas = matplotlib.figure.Figure(figsize=(8.0, 5.0), dpi=150, layout="constrained")
    axes = canvas.subplots()
    plain_axes(axes)
    styles = row_styles([row.label for row in table.rows])
    ends = []  # (last mean, what the legend shows of the row)
    for number, row in enumerate(table.rows):
        shift = SPREAD * _distance(list(places.values())) * ((number + 0.5) / len(table.rows) - 0.5)
        known = [(places[column] + shift, figures[row.label][column]) for column in places]
        points = [(x, figure.mean, figure.spread) for x, figure in known if figure.mean is not None]
        if not points:
            continue
        bars = None
        if any(spread for _, _, spread in points):
            bars = [
                [mean - spread[0] if spread else math.nan for _, mean, spread in points],
                [spread[1] - mean if spread else math.nan for _, mean, spread in points],
            ]
        stale = any(figures[row.label][column].stale for column in places)
        line = axes.errorbar(
            [x for x, _, _ in points],
            [mean for _, mean, _ in points],
            yerr=bars,
            label=_literal(f"{row.label}{' *' if stale else ''}"),
            linewidth=2.0 if number == 0 else 1.3,
            markersize=5.5,
            elinewidth=0.9,
            capsize=2.0,
            **styles[row.label],
        )
        ends.append((points[-1][1], line))
    axes.set_xticks(list(places.values()), [_literal(text) for text in texts])
    axes.set_xlabel(_literal(table.plot.label))
    axes.set_ylabel(f"{table.metric.replace('_', ' ').replace('iou', 'IoU')}, %")
    below = textwrap.wrap(_literal(subtitle(results, made)), 105)
    axes.set_title(textwrap.fill(_literal(table.title), 80), fontsize=11, loc="left", pad=6 + 12 * len(below))
    axes.annotate(
        "\n".join(below), (0, 1), (0, 5), "axes fraction", "offset points", fontsize=8.5, color="0.3", va="bottom"
    )
    if ends:  # in the order in which the lines end
        handles = [line for _, line in sorted(ends, key=lambda end: -end[0])]
        canvas.legend(handles=handles, loc="outside right center", frameon=False, fontsize=9)
    return canvas


def _panels(results: Results, made: HowMade | None) -> Figure:
    """One panel for each column: the rows' means below each other, bars from the lowest to the highest run."""
    import matplotlib.figure

    table, figures = results.table, results.figures
    assert table.plot is not None
    columns = [column for column in table.columns if column in table.plot.points]
    canvas = matplotlib.figure.Figure(
        figsize=(2.2 + 1.7 * len(columns), 1.6 + 0.22 * len(table.rows)), dpi=150, layout="constrained"
    )
    title = [*textwrap.wrap(_literal(table.title), 90), *textwrap.wrap(_literal(subtitle(results, made)), 110)]
    canvas.suptitle("\n".join(title), x=0.01, ha="left", fontsize=10)
    panels = canvas.subplots(1, len(columns), sharex=True, sharey=True, squeeze=False)[0]
    labels = [row.label + (" *" if any(f.stale for f in figures[row.label].values()) else "") for row in table.rows]
    for axes, column in zip(panels, columns, strict=True):
        plain_axes(axes)
        known = [(y, figures[row.label][column]) for y, row in enumerate(table.rows)]
        points = [(y, figure.mean, figure.spread or (figure.mean, figure.mean)) for y, figure in known if figure.mean]
        axes.hlines(
            [y for y, _, _ in points], [low for *_, (low, _) in points], [high for *_, (_, high) in points], "0.6"
        )
        axes.plot([mean for _, mean, _ in points], [y for y, _, _ in points], "o", color=COLOURS[1], markersize=5)
        axes.set_title(_literal(table.plot.points[column]), fontsize=9.5)
        axes.set_yticks(range(len(labels)), [_literal(label) for label in labels], fontsize=9)
        axes.set_ylim(len(labels) - 0.5, -0.5)
    canvas.supxlabel(f"{table.metric.replace('_', ' ').replace('iou', 'IoU')}, %", fontsize=9.5)
    return canvas


def plain_axes(axes: Any) -> None:
    """A light grid, and no frame."""
    axes.set_axisbelow(True)
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)


def _literal(text: str) -> str:
    """`text`, shown as it is by Matplotlib, which would take text between two dollar signs for a formula."""
    return visible(text).replace("$", r"\$")


def row_styles(labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and dashes by label. A label that is not known takes a place of its own by its letters, or the
    next one that is free.
    """
    taken: dict[str, int] = {label: LABELS.index(label) for label in labels if label in LABELS}
    for label in (label for label in labels if label not in taken):
        own = zlib.crc32(label.encode()) % LINES
        places = [*range(own, LINES), *range(own), *range(LINES, LOOKS)]
        taken[label] = next((place for place in places if place not in taken.values()), own)
    return {
        label: {
            "color": COLOURS[place % len(COLOURS)],
            "marker": MARKERS[place % len(MARKERS)],
            "linestyle": DASHES[place // len(COLOURS) % len(DASHES)],
        }
        for label, place in taken.items()
    }


def subtitle(results: Results, made: HowMade | None) -> str:
    """What was compared, and what points and bars mean."""
    plot = results.table.plot
    assert plot is not None
    shown = [columns[column] for columns in results.figures.values() for column in plot.points if column in columns]
    parts = []
    if made is not None:
        parts += [", ".join(dict.fromkeys(data.dataset for data in made.data))]
        parts += [f"{' or '.join(f'{steps:,}' for steps in made.trainings)} steps"] if made.trainings else []
    runs = sorted({len(figure.runs) for figure in shown if figure.runs})
    if runs:
        parts.append(f"{' or '.join(map(str, runs))} run{'s' if runs[-1] > 1 else ''} a point")
    parts += [plot.note] if plot.note else []
    if any(figure.spread for figure in shown):
        parts.append("bars: lowest to highest run")
    if any(figure.stale for figure in shown):
        parts.append("* stale: a run would make it anew")
    return "; ".join(filter(None, parts))


def positions(texts: Sequence[str]) -> list[float]:
    """Positions on the horizontal axis: numbers by their logarithm, other values one after the other."""
    try:
        values = [float(text) for text in texts]
    except ValueError:
        return [float(index) for index in range(len(texts))]
    if all(0 < value < math.inf for value in values):
        return [math.log10(value) for value in values]
    return values if all(map(math.isfinite, values)) else [float(index) for index in range(len(texts))]


def _distance(places: Sequence[float]) -> float:
    """The smallest distance between two positions; 1 if there is only one."""
    ordered = sorted(set(places))
    return min((high - low for low, high in itertools.pairwise(ordered)), default=1.0)
