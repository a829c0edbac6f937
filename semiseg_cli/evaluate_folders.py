"""The folder form of `semiseg evaluate`: two folders of masks, no workspace."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from artifacts.errors import UsageError
from semiseg_cli.console import out, plain_table, say, write_json


def with_folder_form(
    command: Callable[..., None], parameters: list[inspect.Parameter]
) -> tuple[Callable[..., None], list[inspect.Parameter]]:
    """`evaluate` with --ground-truth: then --predictions names a folder, and nothing is written."""
    from semiseg_cli.stage_commands import option

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
        option("as_json", bool, False, "--json", help="Print the scores as JSON on stdout.", rich_help_panel=panel),
    ]

    def evaluate(
        *, ground_truth: Path | None = None, num_classes: int | None = None, as_json: bool = False, **given: Any
    ) -> None:
        if ground_truth is None:
            if num_classes is not None:
                raise UsageError("--num-classes belongs to --ground-truth DIR", "give both, or neither")
            command(**given, as_json=as_json)
            return
        if given["input_predictions"] is None or num_classes is None:
            raise UsageError(
                "folders are scored by three options together",
                "semiseg evaluate --predictions DIR --ground-truth DIR --num-classes N",
            )
        idle = [key for key in ("name", "config_file", "settings", "workspace", "input_data") if given.get(key)]
        if idle:
            shown = {"config_file": "config", "settings": "set", "input_data": "data"}
            raise UsageError(f"--{shown.get(idle[0], idle[0])} has no effect when folders are scored", "leave it out")
        _score(Path(given["input_predictions"]), ground_truth, num_classes, given["workers"], as_json)

    return evaluate, [*parameters, *added]


def _score(predictions: Path, ground_truth: Path, num_classes: int, workers: int | None, as_json: bool) -> None:
    from stages.evaluate import evaluate_folders

    scores = evaluate_folders(predictions, ground_truth, num_classes)
    if as_json:
        write_json(scores)
        return
    print_scores(scores)


def print_scores(scores: dict[str, Any]) -> None:
    """Per-class IoU as a table, the rest as lines."""
    table = plain_table("class", "IoU")
    table.columns[1].justify = "right"
    per_class = scores.get("iou", {})
    pairs = per_class.items() if isinstance(per_class, dict) else enumerate(per_class)
    for label, value in pairs:
        table.add_row(str(label), "-" if value is None else f"{100 * value:.1f}")
    out().print(table)
    say("")
