"""`semiseg sheet`: what stages made of images, drawn side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from artifacts.dataset import SPLITS, Dataset
from artifacts.errors import ArtifactError, DataError, UsageError
from artifacts.store import Workspace
from semiseg_cli.console import say, written
from semiseg_cli.options import (
    WorkersOption,
    WorkspaceOption,
    execution,
    existing_workspace,
    named_artifact,
)

if TYPE_CHECKING:
    from stages.data.images import Images
    from stages.report.sheet_rows import Given, Made

MOST = 200  # images of a sheet


def sheet(
    names: Annotated[
        list[str], typer.Argument(help="What seeds, refine, predict, crf, vote, pseudo-labels or segments made.")
    ],
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, max=MOST, help="So many images.")] = 12,
    worst: Annotated[
        bool, typer.Option("--worst", help="The images with the lowest IoU of the first artifact's masks, worst first.")
    ] = False,
    split: Annotated[
        str | None, typer.Option("--split", metavar="SPLIT", help="Only images of this split.", show_default="all")
    ] = None,
    list_file: Annotated[
        Path | None, typer.Option("--list", metavar="FILE", help="These images, in this order.", show_default=False)
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FILE.png", help="The file.", show_default="sheet-NAMES.png in the workspace"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="NAME", help="The data set.", show_default="the one they were made from"),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images", metavar="DIR", help="Folder of the photos, if they were predicted from one that was moved."
        ),
    ] = None,
    workspace: WorkspaceOption = None,
    workers: WorkersOption = None,
) -> None:
    """Draw a contact sheet of what stages made: image, maps of each label, masks or segments, truth and IoU.

    Several artifacts stand side by side. Without --list and --worst the same images are drawn for every artifact.
    """
    if worst and list_file is not None:
        raise UsageError("--worst and --list both choose the images", "leave one of them out")
    if data is not None and images is not None:
        raise UsageError("--data and --images both name the images", "leave one of them out")
    if to is not None and to.suffix.lower() != ".png":
        raise UsageError(f"{to}: a sheet is a PNG", "name a file .png")
    if split is not None and split not in SPLITS:
        raise UsageError(f"there is no split {split!r}", f"one of {', '.join(SPLITS)}")
    target = existing_workspace(workspace)
    named = list(dict.fromkeys(names))
    for name in filter(None, (*named, data)):
        named_artifact(target, name)
    from stages.data.overlays import save_whole
    from stages.report.sheet import draw_sheet
    from stages.report.sheet_rows import Made, given_images

    with target.reading(filter(None, (*named, data))) as artifacts:
        made = [Made(artifacts[name]) for name in named]
        given = given_images(_images(target, made, artifacts[data] if data else None, images), made)
        ids, note = _chosen(made, given, count, worst, split, list_file, workers)
        drawn = draw_sheet(given, made, ids, note)
    name = f"sheet-{'+'.join(named)}{'-worst' if worst else ''}.png"
    with written(to or target.path / name) as path:
        save_whole(drawn, path)


def _images(target: Workspace, made: list[Made], data: Any, folder: Path | None) -> Images:
    from stages.data.images import ImageFolder
    from stages.report.sheet_rows import images_of

    if folder is not None:
        return ImageFolder(folder, white=made[0].artifact.config.get("white", 0))
    if data is None:
        return images_of(made[0].artifact, target)
    if data.kind != "dataset":
        raise ArtifactError(f"{data.name!r} is an artifact of kind {data.kind}, expected dataset (--data)")
    return Dataset(data)


def _chosen(
    made: list[Made],
    given: Given,
    count: int,
    worst: bool,
    split: str | None,
    list_file: Path | None,
    workers: int | None,
) -> tuple[list[str], str]:
    """The ids to draw, and how they were chosen, in words."""
    from stages.data.lists.id_lists import check_subset, read_list
    from stages.report.page.shown_images import choose_fixed, choose_worst
    from stages.report.sheet_rows import common_ids, iou_of

    if split is not None and given.dataset is None:
        raise UsageError(f"a folder of images has no split {split!r}", "leave --split out")
    of_split = given.dataset.ids(split) if split is not None and given.dataset is not None else None
    known = common_ids(made, given, of_split)
    if list_file is not None:
        ids = read_list(list_file)
        check_subset(ids, known, str(list_file), " and ".join(one.artifact.name for one in made))
        if len(ids) > MOST:
            say(f"the first {MOST} of {len(ids):,} images are drawn")
        return ids[:MOST], f"of {list_file.name}"
    if not worst:
        return choose_fixed(known, count), f"of {len(known):,}, chosen by the digests of their ids"
    iou = iou_of(made[0], given, known, execution("cpu", workers))
    if not (ids := choose_worst(iou, count)):
        raise DataError("no mask can be scored: the truth is 255 everywhere", "leave --worst out")
    return ids, f"the worst of {len(iou):,} with a known mask, by the mean IoU of {made[0].artifact.name}"
