"""`semiseg export labelme`, `cvat`, `label-studio` and `coco`: predictions as pre-annotations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from artifacts.text import amount
from semiseg_cli.console import say, write_json
from semiseg_cli.options import (
    JsonOption,
    WorkersOption,
    WorkspaceOption,
    execution,
    existing_workspace,
    named_artifact,
)

PredictionsArgument = Annotated[
    str, typer.Argument(help="An artifact with masks, made by semiseg predict or semiseg crf.")
]
FolderArgument = Annotated[Path, typer.Argument(help="A new folder for the annotations.")]
FirstOption = Annotated[
    int | None,
    typer.Option("--first", metavar="N", min=1, help="Only the first images, least sure first.", show_default="all"),
]
OnlyOption = Annotated[
    Path | None,
    typer.Option(
        "--only", metavar="FILE", help="Only the images of a list, in its order: label-next.csv.", show_default=False
    ),
]
LeastOption = Annotated[
    int, typer.Option("--min-area", metavar="PIXELS", min=1, help="Smaller areas are left out, and counted.")
]
ToleranceOption = Annotated[
    float,
    typer.Option(
        "--tolerance",
        metavar="PIXELS",
        min=0,
        help="How far polygons may lie from the mask; 0 follows the edges of its pixels exactly.",
    ),
]
ShapesOption = Annotated[
    Literal["polygons", "masks"] | None,
    typer.Option("--shapes", help="What the areas are written as.", show_default=False),
]
PrefixOption = Annotated[
    str | None,
    typer.Option("--prefix", metavar="TEXT", help="What stands before the images' file names.", show_default=False),
]
ImagesOption = Annotated[
    Path | None,
    typer.Option(
        "--images", metavar="DIR", help="Folder of the images; left out: those predicted.", show_default=False
    ),
]


def labelme(
    name: PredictionsArgument,
    folder: FolderArgument,
    first: FirstOption = None,
    only: OnlyOption = None,
    min_area: LeastOption = 16,
    tolerance: ToleranceOption = 1.0,
    prefix: PrefixOption = None,
    images: ImagesOption = None,
    workspace: WorkspaceOption = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write masks as LabelMe's JSON files, polygons, to correct them there.

    Open them with: labelme IMAGES --output FOLDER --labels FOLDER/labels.txt --nodata.
    """
    given = _given(first, only, min_area, prefix) | {"tolerance": tolerance}
    _export("labelme", name, folder, given, images, workspace, workers, as_json)


def cvat(
    name: PredictionsArgument,
    folder: FolderArgument,
    first: FirstOption = None,
    only: OnlyOption = None,
    min_area: LeastOption = 16,
    tolerance: ToleranceOption = 1.0,
    shapes: ShapesOption = None,
    prefix: PrefixOption = None,
    images: ImagesOption = None,
    workspace: WorkspaceOption = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write masks as a file of "CVAT for images 1.1", polygons (or --shapes masks), to correct them there.

    Make a task with the labels of labels.json (Raw) and the images, and upload annotations.xml as CVAT 1.1.
    """
    given = _given(first, only, min_area, prefix) | {"tolerance": tolerance, "shapes": shapes}
    _export("cvat", name, folder, given, images, workspace, workers, as_json)


def label_studio(
    name: PredictionsArgument,
    folder: FolderArgument,
    first: FirstOption = None,
    only: OnlyOption = None,
    min_area: LeastOption = 16,
    tolerance: ToleranceOption = 1.0,
    shapes: ShapesOption = None,
    prefix: PrefixOption = None,
    images: ImagesOption = None,
    workspace: WorkspaceOption = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write masks as Label Studio's predictions, brush masks (or --shapes polygons), with a score to sort by.

    Use labels.xml as labelling interface, and import tasks.json; --prefix is the URL of the images' folder.
    """
    given = _given(first, only, min_area, prefix) | {"tolerance": tolerance, "shapes": shapes}
    _export("label-studio", name, folder, given, images, workspace, workers, as_json)


def coco(
    name: PredictionsArgument,
    folder: FolderArgument,
    first: FirstOption = None,
    only: OnlyOption = None,
    min_area: LeastOption = 16,
    prefix: PrefixOption = None,
    images: ImagesOption = None,
    workspace: WorkspaceOption = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write masks as COCO's JSON file of instances, as run lengths, for programs that import it."""
    _export("coco", name, folder, _given(first, only, min_area, prefix), images, workspace, workers, as_json)


COMMANDS: dict[str, Callable[..., None]] = {
    "labelme": labelme,
    "cvat": cvat,
    "label-studio": label_studio,
    "coco": coco,
}


def _given(first: int | None, only: Path | None, min_area: int, prefix: str | None) -> dict[str, Any]:
    """The settings that all formats have."""
    return {"first": first, "only": only, "least": min_area, "prefix": prefix}


def _export(
    tool: str,
    name: str,
    folder: Path,
    given: dict[str, Any],
    images: Path | None,
    workspace: Path | None,
    workers: int | None,
    as_json: bool,
) -> None:
    from stages.data.images import ImageFolder
    from stages.export.annotation_tools import TOOLS
    from stages.export.pre_annotations import Settings, export_annotations
    from stages.export.submission import predicted_images

    target = existing_workspace(workspace)
    named_artifact(target, name)
    with target.reading([name]) as artifacts:
        predicted = ImageFolder(images) if images else predicted_images(artifacts[name], target)
        figures = export_annotations(
            TOOLS[tool], artifacts[name], folder, predicted, Settings(**given), execution("cpu", workers)
        )
    if as_json:
        write_json(figures)
    areas = f"{amount(figures['areas'], 'area')} as {figures['shapes']}"
    say(f"wrote {folder}: {amount(figures['images'], 'image')}, {areas}")
    say(f"order: {figures['order']} (order.csv)")
    if figures["left_out"]:
        few = amount(figures["left_out"], "area")
        say(f"left out: {few} of fewer than {given['least']} pixels (--min-area 1 keeps all)")
    if figures["empty"]:
        say(f"{amount(figures['empty'], 'image shows', 'images show')} nothing but background")
