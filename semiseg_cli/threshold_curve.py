"""What `evaluate` finds of score maps at every background threshold: a table for people, and a plot of the curve."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from artifacts.text import amount
from semiseg_cli.console import out, percent, plain_table
from semiseg_cli.plots import COLOURS, DASHES, plain_axes, save_plot

FIGURES = ("iou", "precision", "recall", "coverage")
CURVES = {  # key of the sweep -> what the legend calls it
    "mean_iou": "mean IoU",
    "mean_iou_where_chosen": "mean IoU of the images it was chosen on",
    "mean_precision": "mean precision",
    "mean_recall": "mean recall",
    "coverage": "share of pixels labelled as objects",
}


def print_sweep(metrics: Mapping[str, Any]) -> None:
    """The figures of each class at the threshold that was chosen, and the curve's best point."""
    table = plain_table("class", *(f"{key}, %".replace("iou", "IoU") for key in FIGURES))
    for column in table.columns[1:]:
        column.justify = "right"
    for name, record in metrics["classes"].items():
        table.add_row(name, *(percent(record[key]) for key in FIGURES))
    console, sweep = out(), metrics["sweep"]
    console.print(table)
    for line in (
        f"threshold {sweep['threshold']:g}: {chosen_in_words(sweep)}",
        f"mean IoU {percent(metrics['mean_iou'])}, pixel accuracy {percent(metrics['pixel_accuracy'])}, "
        f"{percent(metrics['coverage'])} % labelled as objects; {amount(metrics['images'], 'image')} of "
        f"{', '.join(metrics['splits'])}",
        f"best point of their curve: threshold {sweep['best']['threshold']:g}, "
        f"mean IoU {percent(sweep['best']['mean_iou'])}",
    ):
        console.print(line, soft_wrap=True)


def chosen_in_words(sweep: Mapping[str, Any]) -> str:
    """Where the threshold comes from."""
    if sweep["chosen_on"] is None:
        return "as given"
    images = amount(sweep["chosen_on_images"], "image")
    return sweep["remark"] or f"chosen on {images} of {', '.join(sweep['chosen_on'])}"


def draw_sweep(metrics: Mapping[str, Any], path: Path) -> None:
    """Writes the curve over the thresholds; the suffix of `path` says the format, see `save_plot`."""
    import matplotlib.figure

    sweep = metrics["sweep"]
    canvas = matplotlib.figure.Figure(figsize=(8.0, 5.0), dpi=150, layout="constrained")
    axes = canvas.subplots()
    plain_axes(axes)
    for number, (key, label) in enumerate(CURVES.items()):
        if key == "mean_iou_where_chosen" and sweep[key] == sweep["mean_iou"]:
            continue
        values = [float("nan") if value is None else 100 * value for value in sweep[key]]
        (line,) = axes.plot(sweep["thresholds"], values, marker="." if len(values) == 1 else "", label=label)
        line.set(color=COLOURS[number], linestyle=DASHES[number % len(DASHES)], linewidth=1.6)
    axes.axvline(sweep["threshold"], color="0.5", linewidth=1.0, label=f"threshold {sweep['threshold']:g}")
    axes.set_xlabel("score of the background (threshold)")
    axes.set_ylabel("%")
    axes.set_ylim(0, 100)
    axes.set_title(
        f"mean IoU {percent(metrics['mean_iou'])} %, "
        f"{amount(metrics['images'], 'image')} of {', '.join(metrics['splits'])}\n"
        f"threshold {sweep['threshold']:g}: {chosen_in_words(sweep)}",
        fontsize=10,
        loc="left",
    )
    canvas.legend(loc="outside right center", frameon=False, fontsize=9)
    save_plot(canvas, path)
