"""The folder form of `semiseg evaluate`: two folders of masks, no workspace."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from artifacts.errors import UsageError
from semiseg_cli.console import out, plain_table, say, write_json


def with_folder_form(
    command: Callable[..., None], parameters: list[inspect.Parameter]
) -> tuple[Callable[..., None], list[inspect.Parameter]]:
    """`evaluate` with --ground-truth: then --predictions names a folder, and nothing is written."""
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
        option("as_json", bool, False, "--json", help="Print the scores as JSON on stdout.", rich_help_panel=panel),
    ]

    def evaluate(
        *,
        ground_truth: Path | None = None,
        num_classes: int | None = None,
        common_only: bool = False,
        mask_format: Literal["auto", "ids", "binary"] = "auto",
        as_json: bool = False,
        **given: Any,
    ) -> None:
        if ground_truth is None:
            asked = {"--num-classes": num_classes is not None, "--common-only": common_only}
            asked["--mask-format"] = mask_format != "auto"
            if idle_options := [name for name, given_here in asked.items() if given_here]:
                raise UsageError(f"{idle_options[0]} needs --ground-truth DIR", "give both, or neither")
            command(**given, as_json=as_json)
            return
        if given["input_predictions"] is None or num_classes is None:
            raise UsageError(
                "scoring folders needs three options",
                "semiseg evaluate --predictions DIR --ground-truth DIR --num-classes N",
            )
        names = {"config_file": "config", "settings": "set", "input_data": "data", "name": "name", "split": "split"}
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


def _print(scores: dict[str, Any], as_json: bool) -> None:
    if as_json:
        write_json(scores)
        return
    table = plain_table("class", "IoU", "precision", "recall")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, record in scores["classes"].items():
        table.add_row(name, *(_percent(record[key]) for key in ("iou", "precision", "recall")))
    console = out()
    console.print(table)
    console.print(
        f"mean IoU {_percent(scores['mean_iou'])}, pixel accuracy {_percent(scores['pixel_accuracy'])}, "
        f"{scores['images']} images"
    )
    if unanswered := scores["pixels"]["unanswered_share"]:
        say(f"{_percent(unanswered)} % of the scored pixels have no prediction (255) and count as wrong")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"
