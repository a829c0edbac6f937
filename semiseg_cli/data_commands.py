"""`semiseg check-data`, and the part of `semiseg show` for data sets: tables of classes and splits, a contact sheet."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import os
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import Field
from rich.table import Table

from artifacts.dataset import SPLITS, Dataset
from artifacts.errors import ArtifactError, DataError, SemisegError, UsageError
from artifacts.item_list import MANIFEST_NAME
from artifacts.json_items import Count, Shape, shaped
from artifacts.store import Artifact, Workspace
from artifacts.text import amount
from semiseg_cli.console import duration, out, plain_table, say, write_json
from semiseg_cli.options import (
    JsonOption,
    WorkersOption,
    WorkspaceOption,
    execution,
    existing_workspace,
    named_artifact,
)
from semiseg_cli.stage_commands import (
    SHORTCUTS,
    Shortcut,
    config_parameters,
    identifier,
    shortcut_parameter,
    stage_config,
)
from stages.contract import Execution, load_stage

if TYPE_CHECKING:
    from stages.data.findings import Finding, Report
    from stages.data.preparation_config import PrepareDataConfig

STAGE = "prepare-data"
DEFAULT_NAME = "data"
MOST_PROBLEMS, MOST_REMARKS = 50, 5  # of one kind that are printed; --json has all
SHEET = "local/contact-sheet.png"

NameArgument = Annotated[
    str | None, typer.Argument(help="A prepared data set. Left out with options of prepare-data: the raw data.")
]


# ------------------------------------------------------------------------------------------------- check-data


def _check_data(
    *,
    name: str | None,
    workspace: Path | None,
    workers: int | None,
    as_json: bool,
    config_file: Path | None,
    settings: list[str] | None,
    **given: Any,
) -> None:
    """Read every image, mask and label, and list all problems; exit with 3 if there is one.

    Before a data set is prepared: the options of prepare-data, such as --dataset voc-aug --source DEVKIT. After it: its
    name (data, when left out).
    """
    shortcuts = {shortcut: given[key] for key, shortcut in _shortcuts().items()}
    raw = config_file or settings or any(value is not None for value in shortcuts.values())
    if raw and name:
        raise UsageError(
            f"{name!r} names a prepared data set, but the other options describe data to prepare",
            f"semiseg check-data {name}, or the options of {STAGE} alone",
        )
    doing = execution("cpu", workers)
    if raw:
        config: Any = stage_config(load_stage(STAGE), config_file, settings or [], shortcuts)
        report = check_raw_data(config, doing)
    else:
        report = _check_prepared(existing_workspace(workspace), name, doing)
    tell_findings(report, as_json)


def _shortcuts() -> dict[str, Shortcut]:
    return {identifier(shortcut.option): shortcut for shortcut in SHORTCUTS[STAGE]}


def _command() -> Callable[..., None]:
    """`check_data` with a signature that Typer reads: its own options, and those of prepare-data."""
    stage, keyword = load_stage(STAGE), inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter("name", keyword, default=None, annotation=NameArgument),
        inspect.Parameter("workspace", keyword, default=None, annotation=WorkspaceOption),
        inspect.Parameter("workers", keyword, default=None, annotation=WorkersOption),
        inspect.Parameter("as_json", keyword, default=False, annotation=JsonOption),
        *(shortcut_parameter(stage, key, shortcut) for key, shortcut in _shortcuts().items()),
        *config_parameters(),
    ]
    function: Any = _check_data
    function.__signature__ = inspect.Signature(parameters)
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return function


check_data = _command()


def check_raw_data(config: PrepareDataConfig, doing: Execution) -> Report:
    from stages.data.checking import check_raw
    from stages.data.findings import Finding, Report
    from stages.data.preparation_config import check_folders
    from stages.prepare_data import find_raw

    if config.dataset.name == "shapes":
        raise UsageError(
            "there are no files of the data set shapes: it is drawn when it is prepared",
            "semiseg prepare-data --dataset shapes, then semiseg check-data data",
        )
    check_folders(config.dataset)
    try:
        raw = find_raw(config.dataset, doing)
    except DataError as error:  # the reader lists all problems at once
        return Report(config.dataset.name, (Finding("layout", error.message, error.hint or ""),), 0, 0, 0.0)
    return check_raw(raw, config, doing)


def _check_prepared(workspace: Workspace, name: str | None, doing: Execution) -> Report:
    from stages.data.checking import check_dataset

    chosen = name or only_dataset(workspace)
    named_artifact(workspace, chosen)
    with workspace.reading([chosen]) as artifacts:
        if (kind := artifacts[chosen].kind) != "dataset":
            raise ArtifactError(f"{chosen!r} is an artifact of kind {kind}, expected dataset", "semiseg status")
        return check_dataset(Dataset(artifacts[chosen], check=False), doing)


def only_dataset(workspace: Workspace) -> str:
    """The name that prepare-data gives, or that of the only data set."""
    found = []
    for name in workspace.names():
        with contextlib.suppress(ArtifactError):
            if workspace.artifact(name).kind == "dataset":
                found.append(name)
    if DEFAULT_NAME in found or len(found) == 1:
        chosen = DEFAULT_NAME if DEFAULT_NAME in found else found[0]
        say(f"data set: {chosen}")
        return chosen
    raise UsageError(
        f"workspace {workspace.path} has {'several data sets: ' + ', '.join(found) if found else 'no data set'}",
        "name one" if found else "give the options of prepare-data, such as --dataset voc-aug --source DEVKIT",
    )


def tell_findings(report: Report, as_json: bool) -> None:
    """All findings on stdout; DataError when one of them is a problem."""
    looked_at = f"{amount(report.images, 'image')}, {amount(report.masks, 'mask')}"
    line = f"{report.name}: {looked_at}, {duration(report.seconds)}"
    if not report.images + report.masks:  # the reader refused the folders, before any file was looked at
        line = f"{report.name}: no image or mask was checked"
    counts = [
        amount(len(some), what) for some, what in ((report.problems, "problem"), (report.remarks, "remark")) if some
    ]
    line += f": {', '.join(counts) or 'no problem'}"
    if as_json:
        write_json(_as_json(report))
        say(line)
    else:
        _print_findings(report.problems, "bold red", MOST_PROBLEMS)
        _print_findings(report.remarks, "yellow", MOST_REMARKS)
        out().print(line, soft_wrap=True)
    if problems := len(report.problems):
        raise DataError(
            f"{report.name} has {amount(problems, 'problem')}",
            "mend what is listed, then check again with the same command",
        )


def _as_json(report: Report) -> dict[str, Any]:
    def records(findings: Iterable[Finding]) -> list[dict[str, str | None]]:
        return [
            {"kind": f.kind, "file": f.file or None, "id": f.image_id or None, "what": f.what, "hint": f.hint or None}
            for f in findings
        ]

    return {
        "name": report.name,
        "images": report.images,
        "masks": report.masks,
        "seconds": round(report.seconds, 2),
        "problems": records(report.problems),
        "remarks": records(report.remarks),
    }


def _print_findings(findings: Iterable[Finding], style: str, most: int) -> None:
    """A heading for each kind, the findings below it, and how to mend those before it."""
    from stages.data.findings import KINDS

    console = out()
    for kind, group in itertools.groupby(findings, key=lambda finding: finding.kind):
        some = list(group)
        console.print(f"{KINDS[kind]} ({len(some):,})", style=style, soft_wrap=True)
        for hint, alike in _by_hint(some[:most]).items():
            for finding in alike:
                console.print(textwrap.indent(finding.what, "  "), soft_wrap=True)
            if hint:
                console.print(textwrap.indent(f"-> {hint}", "     "), style="cyan", soft_wrap=True)
        if len(some) > most:
            console.print(f"  and {len(some) - most:,} more (--json has them all)", soft_wrap=True)
        console.print()


def _by_hint(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.hint, []).append(finding)
    return groups


# ------------------------------------------------------------------------------------------------- show


class _Labelled(Shape):
    count: Count
    share_of_pool: float
    sha256_of_sorted_ids: str
    family: str | None = None
    published_as: list[str] | None = None
    held_out: Count | None = None
    official_share: float | None = None
    in_val: Count | None = None
    classes_without_an_image: list[str] | None = None


class _ClassFigures(Shape):
    train_pixels: Count
    train_images: Count
    val_images: Count
    weak_images: Count
    holdout_images: Count | None = None


class _Summary(Shape):
    """What is shown of the summary of a data set."""

    images: dict[str, Count] = Field(default_factory=dict)
    tag_source: str | None = None
    class_names: list[str] = Field(default_factory=list)
    labelled: _Labelled | None = None
    classes: dict[str, _ClassFigures] | None = None


def dataset_tables(artifact: Artifact) -> tuple[list[Table], dict[str, Any]]:
    """What `show` says of a data set, and what is left of its summary."""
    summary = artifact.summary
    shaped(summary, _Summary, f"the summary in {artifact.path / MANIFEST_NAME}")
    facts = plain_table("data", "")
    for row in _facts(summary):
        facts.add_row(*row)
    classes = _class_table(summary)
    if classes is None:
        names = Dataset(artifact).class_names
        facts.add_row("classes", ", ".join(f"{number} {name}" for number, name in enumerate(names)))
    rest = {key: value for key, value in summary.items() if key not in _TOLD}
    return [facts, *([classes] if classes else [])], rest


_TOLD = ("class_names", "classes", "images", "tag_source", "labelled")
_SOURCES = {"xml": "annotations (xml)", "masks": "the masks (masks)", "file": "a text file or table (file)"}


def _facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Splits, source of the labels, and what makes figures on the labelled list comparable with others."""
    images = summary.get("images", {})
    rows = [("images", ", ".join(f"{images[split]:,} {split}" for split in SPLITS if split in images) or "-")]
    if source := summary.get("tag_source"):
        rows.append(("labels from", _SOURCES.get(source, source)))
    if labelled := summary.get("labelled"):
        rows.append(("labelled list", _labelled(labelled)))
        rows.append(("family", labelled.get("family") or "none: no published list that is known here"))
        if names := labelled.get("published_as"):
            rows.append(("published as", ", ".join(names)))
        rows.append(("sha256 of its ids", labelled["sha256_of_sorted_ids"]))
        if absent := labelled.get("classes_without_an_image"):
            rows.append(("classes not in it", ", ".join(absent)))
    return rows


def _labelled(labelled: Mapping[str, Any]) -> str:
    text = f"{amount(labelled['count'], 'image')}, {100 * labelled['share_of_pool']:.1f} % of the training images"
    if labelled.get("held_out"):
        text += f", {labelled['held_out']:,} of them held out"
    if labelled.get("official_share") is not None:
        text += f", {100 * labelled['official_share']:.1f} % with official masks"
    if labelled.get("in_val"):
        text += f", {labelled['in_val']:,} of them in val"
    return text


def _class_table(summary: Mapping[str, Any]) -> Table | None:
    """Pixels, images and labels of each class, and the share of its training images that have masks.

    None where the artifact has no figures of its classes.
    """
    figures: Mapping[str, Mapping[str, int]] = summary.get("classes") or {}
    names = summary.get("class_names", ())
    if not figures or not all(name in figures for name in names):
        return None
    held_out = ("holdout\nimages",) if "holdout_images" in figures[names[0]] else ()
    table = plain_table(
        "id", "class", "train\npixels", "share", "train\nimages", *held_out, "val\nimages", "weak\nimages", "labelled"
    )
    for column in table.columns:
        column.no_wrap = True
        column.justify = "left" if column.header == "class" else "right"
    total = sum(record["train_pixels"] for record in figures.values())
    for number, name in enumerate(names):
        is_label = not (number == 0 and name == "background")
        table.add_row(str(number), name, *_cells(figures[name], total, is_label))
    if "255" in figures:
        table.add_section()
        table.add_row("255", "ignored", *_cells(figures["255"], total, is_label=False))
    return table


def _cells(record: Mapping[str, int], total: int, is_label: bool) -> list[str]:
    pixels, train, weak = record["train_pixels"], record["train_images"], record["weak_images"]
    cells = [
        f"{pixels:,}",
        f"{100 * pixels / total:.2f} %" if total else "-",
        f"{train:,}",
        *([f"{record['holdout_images']:,}"] if "holdout_images" in record else []),
        f"{record['val_images']:,}",
    ]
    return [*cells, f"{weak:,}", _percent(train, train + weak)] if is_label else [*cells, "-", "-"]


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def show_contact_sheet(artifact: Artifact, wanted: Path | None) -> None:
    """Print where the contact sheet is; draw it first if it is not there yet.

    wanted: a file to write instead; an error ends the command then. The sheet in the artifact is optional: if it
    cannot be drawn or written, the reason is printed.
    """
    if wanted is not None:
        _write_sheet(artifact, wanted)
        say(f"contact sheet: {wanted}")
        return
    path = artifact.path / SHEET
    if not path.is_file():
        try:
            _write_sheet(artifact, path)
        except SemisegError as error:
            say(f"no contact sheet: {error.message}" + (f" ({error.hint})" if error.hint else ""))
            return
    say(f"contact sheet: {path}")


def _write_sheet(artifact: Artifact, path: Path) -> None:
    from stages.data.contact_sheet import write_contact_sheet

    try:
        if path == artifact.path / SHEET:
            path.parent.mkdir(exist_ok=True)  # shapes has no local/
        write_contact_sheet(Dataset(artifact), path)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise ArtifactError(f"{path} cannot be written: {why}", "--sheet FILE writes it elsewhere") from None
