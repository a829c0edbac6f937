"""What `semiseg evaluate` prints, and its folder form: two folders of masks, no workspace."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from artifacts.errors import UsageError
from artifacts.store import Artifact
from artifacts.text import amount
from semiseg_cli.console import out, percent, plain_table, say, write_json, written


def with_folder_form(
    make: Callable[..., Artifact | None], parameters: list[inspect.Parameter]
) -> tuple[Callable[..., None], list[inspect.Parameter]]:
    """`evaluate` with --ground-truth: then --predictions names a folder, and nothing is written.

    make: makes the artifact of the other form, from the options `parameters`.
    """
    from semiseg_cli.options import option

    panel = "Plain folders"
    added = [
        option(
            "ground_truth",
            Path | None,
            None,
            "--ground-truth",
            metavar="DIR",
            help="Score the folder --predictions DIR against these index masks; needs --num-classes.",
            show_default=False,
            rich_help_panel=panel,
        ),
        option(
            "num_classes",
            int | None,
            None,
            "--num-classes",
            metavar="N",
            min=1,
            help="Classes in the masks, background included (VOC: 21).",
            show_default=False,
            rich_help_panel=panel,
        ),
        option(
            "common_only",
            bool,
            False,
            "--common-only",
            help="Score only the masks that both folders have.",
            rich_help_panel=panel,
        ),
        option(
            "mask_format",
            Literal["auto", "ids", "binary"],
            "auto",
            "--mask-format",
            help="What 255 means in the ground truth: ignored (ids), or an object, which becomes class 1 (binary); "
            "auto: ignored; an error if the masks hold 0 and 255 only.",
            rich_help_panel=panel,
        ),
        option(
            "plot",
            Path | None,
            None,
            "--plot",
            metavar="FILE.png",
            help="With --maps: draw the curve over the thresholds.",
            show_default=False,
        ),
        option("as_json", bool, False, "--json", help="Print the scores as JSON on stdout.", rich_help_panel=panel),
    ]

    def evaluate(
        *,
        ground_truth: Path | None = None,
        num_classes: int | None = None,
        common_only: bool = False,
        mask_format: Literal["auto", "ids", "binary"] = "auto",
        plot: Path | None = None,
        as_json: bool = False,
        **given: Any,
    ) -> None:
        if ground_truth is None:
            asked = {"--num-classes": num_classes is not None, "--common-only": common_only}
            asked["--mask-format"] = mask_format != "auto"
            if idle_options := [name for name, given_here in asked.items() if given_here]:
                raise UsageError(f"{idle_options[0]} needs --ground-truth DIR", "give both, or neither")
            if plot is not None and given["input_maps"] is None:
                raise UsageError("--plot needs --maps NAME: masks have no curve", "give both, or leave it out")
            if (artifact := make(**given)) is not None:
                _show(artifact.json("metrics.json"), as_json, plot)
            return
        if given["input_predictions"] is None or num_classes is None:
            raise UsageError(
                "scoring folders needs three options",
                "semiseg evaluate --predictions DIR --ground-truth DIR --num-classes N",
            )
        names = {"config_file": "config", "settings": "set", "input_data": "data", "name": "name", "split": "split"}
        names |= {"input_maps": "maps", "choose_on": "choose-on", "plot": "plot"}
        given["plot"] = plot
        if idle := [f"--{name}" for key, name in names.items() if given.get(key)]:
            raise UsageError(f"{', '.join(idle)}: no effect when folders are scored", "leave it out")
        from stages.evaluate import evaluate_folders

        scores = evaluate_folders(
            Path(given["input_predictions"]),
            ground_truth,
            num_classes,
            common_only=common_only,
            workers=given["workers"],
            mask_format=mask_format,
            note=say,
        )
        _print(scores, as_json)

    return evaluate, [*parameters, *added]


def _show(metrics: dict[str, Any], as_json: bool, plot: Path | None) -> None:
    """The figures of score maps as a table; those of masks stand in the line about the artifact."""
    if as_json:
        write_json(metrics)
    elif "sweep" in metrics:
        from semiseg_cli.threshold_curve import print_sweep

        print_sweep(metrics)
    if plot is not None:
        from semiseg_cli.threshold_curve import draw_sweep

        with written(plot):
            draw_sweep(metrics, plot)


def _print(scores: dict[str, Any], as_json: bool) -> None:
    if as_json:
        write_json(scores)
        return
    table = plain_table("class", "IoU", "precision", "recall")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, record in scores["classes"].items():
        table.add_row(name, *(percent(record[key]) for key in ("iou", "precision", "recall")))
    console = out()
    console.print(table)
    console.print(
        f"mean IoU {percent(scores['mean_iou'])}, pixel accuracy {percent(scores['pixel_accuracy'])}, "
        f"{amount(scores['images'], 'image')}"
    )
    if unanswered := scores["pixels"]["unanswered_share"]:
        say(f"{percent(unanswered)} % of the scored pixels have no prediction (255) and count as wrong")
