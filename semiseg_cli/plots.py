"""The plot of a recipe's table: figures over a repeated value, a line a row."""

from __future__ import annotations

from pathlib import Path

from artifacts.store import Workspace
from stages.pipeline.table import Table, table_figures

MARKERS = "osD^vPX*<>hd"  # beside the colours, for those who cannot tell these apart


def draw_plot(table: Table, workspace: Workspace, path: Path) -> None:
    """Writes the table's plot (`table.plot` must be there) as PNG: means as lines, lowest to highest run as bars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    assert table.plot is not None
    figures = table_figures(table, workspace)
    texts = list(table.plot.points.values())
    numeric = all(text.replace(".", "", 1).isdigit() for text in texts)
    positions = {text: float(text) if numeric else float(index) for index, text in enumerate(texts)}
    canvas, axes = pyplot.subplots(figsize=(8.0, 5.0), dpi=150, layout="constrained")
    for number, row in enumerate(table.rows):
        points = [
            (positions[text], figure)
            for column, text in table.plot.points.items()
            if (figure := figures[row.label][column]).mean is not None
        ]
        if not points:
            continue
        x = [position for position, _ in points]
        means = [figure.mean or 0.0 for _, figure in points]
        spreads = [figure.spread or (mean, mean) for (_, figure), mean in zip(points, means, strict=True)]
        below = [mean - low for (low, _), mean in zip(spreads, means, strict=True)]
        above = [high - mean for (_, high), mean in zip(spreads, means, strict=True)]
        style = {"marker": MARKERS[number % len(MARKERS)], "linewidth": 2.0 if number == 0 else 1.2, "capsize": 3}
        axes.errorbar(x, means, yerr=[below, above], label=row.label, color=f"C{number % 10}", **style)
    if numeric and len(texts) > 1 and min(positions.values()) > 0:
        axes.set_xscale("log")
    axes.set_xticks(list(positions.values()), texts)
    axes.minorticks_off()
    axes.set_xlabel(table.plot.label)
    axes.set_ylabel(f"{table.metric.replace('_', ' ').replace('iou', 'IoU')}, %")
    axes.set_title(table.title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    canvas.savefig(path)
    pyplot.close(canvas)
