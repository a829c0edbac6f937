"""`semiseg export`: results for elsewhere, as files, as pre-annotations or as the archive of a test server."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from artifacts.dataset import Dataset
from artifacts.disk_errors import disk_errors
from artifacts.errors import ArtifactError, UsageError
from artifacts.store import Workspace
from artifacts.text import amount, did_you_mean
from semiseg_cli.annotation_commands import COMMANDS, PredictionsArgument
from semiseg_cli.console import out, plain_table, say, size, write_json
from semiseg_cli.options import (
    JsonOption,
    WorkersOption,
    WorkspaceOption,
    execution,
    existing_workspace,
    named_artifact,
)
from semiseg_cli.snakemake_command import snakemake

if TYPE_CHECKING:
    from stages.export.submission import Server

export = typer.Typer(
    name="export",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Export results (files, a network as one file, pre-annotations, a test server's archive), or a recipe as a "
    "workflow.",
)
for command_name, command in COMMANDS.items():
    export.command(command_name)(command)
export.command()(snakemake)


class Precision(StrEnum):
    """Of the arithmetic in an ONNX file."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


ListOption = Annotated[
    Path | None,
    typer.Option(
        "--list",
        metavar="FILE",
        help="List of the test images; left out: the split test of the data set, else all that were predicted.",
        show_default=False,
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data", metavar="NAME", help="The data set; left out: the one that was predicted.", show_default=False
    ),
]
SubsetOption = Annotated[
    bool, typer.Option("--allow-subset", help="Pack fewer or more images than the server expects.")
]


@export.command()
def files(
    name: Annotated[str, typer.Argument(help="An artifact of the workspace.")],
    folder: Annotated[Path, typer.Argument(help="A new folder for the copy.")],
    part: Annotated[
        str,
        typer.Option(metavar="DIR", help="Only the files in this folder of the artifact: masks, overlays, scores."),
    ] = "",
    workspace: WorkspaceOption = None,
) -> None:
    """Copy the files of an artifact to a new folder, after checking them against their digests."""
    target = existing_workspace(workspace)
    artifact = named_artifact(target, name)
    parts = sorted({path.partition("/")[0] for path in artifact.manifest.items if "/" in path})
    if part and part not in parts:
        raise UsageError(f"artifact {name!r} has no folder {part!r}{did_you_mean(part, parts)}", "leave --part out")
    if folder.exists():
        raise UsageError(f"{folder} exists already", "name a new folder")
    with target.reading([name]):
        if problems := artifact.verify():
            raise ArtifactError(f"artifact {name!r} is damaged: {problems[0]}", "rerun the stage that made it")
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(artifact.path / part, partial, ignore=shutil.ignore_patterns(".*"))
        partial.rename(folder)
    inside = f"{part}/" if part else ""
    copied = [item["bytes"] for path, item in artifact.manifest.items.items() if path.startswith(inside)]
    say(f"wrote {folder}: {amount(len(copied), 'file')}, {size(sum(copied))}")


@export.command()
def onnx(
    name: Annotated[str, typer.Argument(help="A trained segmenter.")],
    file: Annotated[Path, typer.Argument(help="A new file, .onnx.")],
    precision: Annotated[
        Precision,
        typer.Option(
            help="fp16: half the size, for GPUs. int8: a quarter, for CPUs; ranges are measured on images of the data "
            "set. Both are compared with fp32 on images of val."
        ),
    ] = Precision.FP32,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="NAME",
            help="For fp16 and int8: the data set; left out: the one it was trained on.",
            show_default=False,
        ),
    ] = None,
    images: Annotated[int, typer.Option(metavar="N", min=1, help="So many to calibrate, and to compare on.")] = 100,
    least_agreement: Annotated[
        float,
        typer.Option(
            metavar="SHARE", min=0, max=1, help="Refuse where fewer pixels than this keep the class they have in fp32."
        ),
    ] = 0.98,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a segmenter as one ONNX file: images of any size in, class probabilities out.

    The input is uint8 RGB (N, 3, H, W); normalisation and upsampling are part of the file, class names and palette are
    in its metadata. Needs the extra onnx.
    """
    from stages.export.onnx import export_onnx

    target = existing_workspace(workspace)
    network = _segmenter(target, name, file, ".onnx")
    figures: dict[str, Any] = {}
    with _new(file) as partial:
        if precision == Precision.FP32:
            export_onnx(network, partial)
        else:
            from stages.serving.smaller_onnx import export_smaller

            kind: Literal["fp16", "int8"] = "fp16" if precision == Precision.FP16 else "int8"
            data = data or _trained_on(target, name)
            named_artifact(target, data)
            with target.reading([data]) as artifacts:
                dataset = Dataset(artifacts[data])
                figures = export_smaller(network, partial, kind, dataset, images, least_agreement)
    if as_json:
        write_json(figures)
    elif figures:
        _show_loss(figures, precision.value)
    say(f"wrote {file}: {size(file.stat().st_size)}")


def _trained_on(workspace: Workspace, name: str) -> str:
    """The name of the data set that an artifact was made from."""
    record = workspace.artifact(name).manifest.inputs.get("data")
    if record is None:
        raise UsageError(f"{name!r} does not say which data set it was trained on", "name it: --data NAME")
    return record["artifact"]


def _show_loss(figures: dict[str, Any], precision: str) -> None:
    table = plain_table("", "fp32", precision)
    scores = [figures["mean_iou_before"], figures["mean_iou_after"]]
    table.add_row("mean IoU", *("-" if score is None else f"{100 * score:.1f}" for score in scores))
    table.add_row("file", size(figures["bytes_before"]), size(figures["bytes_after"]))
    table.add_row("an image, this CPU", f"{figures['ms_before']:.0f} ms", f"{figures['ms_after']:.0f} ms")
    table.add_row("pixels of the same class", "", f"{100 * figures['agreement']:.2f} %")
    out().print(table)


@export.command("torch")
def torch_program(
    name: Annotated[str, typer.Argument(help="A trained segmenter.")],
    file: Annotated[Path, typer.Argument(help="A new file, .pt2.")],
    workspace: WorkspaceOption = None,
) -> None:
    """Write a segmenter as one file of torch.export, which plain torch loads: the same input and output as of onnx.

    Class names, palette and normalisation are in the file metadata.json of the archive.
    """
    from stages.export.torch_program import export_torch

    network = _segmenter(existing_workspace(workspace), name, file, ".pt2")
    with _new(file) as partial:
        export_torch(network, partial)
    say(f"wrote {file}: {size(file.stat().st_size)}")


def _segmenter(target: Workspace, name: str, file: Path, suffix: str) -> Any:
    """The network of an artifact that is to be written to a new file."""
    from stages.networks import load_network

    artifact = named_artifact(target, name)
    if file.suffix != suffix:
        raise UsageError(f"{file} takes {suffix}", "name it so: programs know the format by it")
    if file.exists():
        raise UsageError(f"{file} exists already", "name a new file")
    if not file.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {file.parent}", "make it, or name another file")
    with target.reading([name]):
        network = load_network(artifact)
    if artifact.kind != "segmenter":
        raise UsageError(f"artifact {name!r} holds a {artifact.kind}", "name an artifact of train or retrain")
    return network


@contextlib.contextmanager
def _new(file: Path) -> Iterator[Path]:
    """A file beside it that gets its name at the end of the block; an error leaves none."""
    partial = file.with_name(f".partial-{file.name}")
    try:
        with disk_errors(file):
            yield partial
            partial.rename(file)
    finally:
        partial.unlink(missing_ok=True)


@export.command()
def voc_test(
    name: PredictionsArgument,
    archive: Annotated[Path, typer.Argument(help="A new file, .tgz or .tar.gz.")],
    list_file: ListOption = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            metavar="DIR",
            help="Folder of the test images (JPEGImages), to compare the sizes with; left out: those predicted.",
            show_default=False,
        ),
    ] = None,
    data: DataOption = None,
    comp: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="comp5: trained on VOC's data alone. comp6: with additional data or weights (SBD, ImageNet).",
        ),
    ] = "comp6",
    allow_subset: SubsetOption = False,
    workspace: WorkspaceOption = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Pack masks for the PASCAL VOC 2012 test server.

    The archive holds 1,456 indexed PNGs, results/VOC2012/Segmentation/comp6_test_cls/<id>.png. It is opened again and
    checked before it gets its name.
    """
    from stages.export import submission

    server = submission.voc_test(comp)
    _submit(server, name, archive, list_file, images, data, allow_subset, workspace, workers, as_json)


@export.command()
def cityscapes_test(
    name: PredictionsArgument,
    archive: Annotated[Path, typer.Argument(help="A new file, .zip.")],
    list_file: ListOption = None,
    data: DataOption = None,
    allow_subset: SubsetOption = False,
    workspace: WorkspaceOption = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Pack masks for the Cityscapes test server.

    The archive holds 1,525 PNGs of label ids (7 road, ... 33 bicycle). It is opened again and checked before it gets
    its name.
    """
    from stages.export.submission import CITYSCAPES_TEST

    _submit(CITYSCAPES_TEST, name, archive, list_file, None, data, allow_subset, workspace, workers, as_json)


def _submit(
    server: Server,
    name: str,
    archive: Path,
    list_file: Path | None,
    images: Path | None,
    data: str | None,
    allow_subset: bool,
    workspace: Path | None,
    workers: int | None,
    as_json: bool,
) -> None:
    from stages.export.submission import make_submission, predicted_images

    target = existing_workspace(workspace)
    for given in filter(None, (name, data)):
        named_artifact(target, given)
    with target.reading(filter(None, (name, data))) as artifacts:
        if data and artifacts[data].kind != "dataset":
            raise ArtifactError(f"{data!r} is an artifact of kind {artifacts[data].kind}, expected dataset (--data)")
        figures = make_submission(
            server,
            artifacts[name],
            archive,
            execution("cpu", workers),
            list_file=list_file,
            images=images,
            made_on=Dataset(artifacts[data]) if data else predicted_images(artifacts[name], target),
            allow_subset=allow_subset,
        )
    if as_json:
        write_json(figures)
    else:
        _show(figures)
    say(f"wrote {archive}: {amount(figures['images'], 'image')}, {size(figures['bytes'])}")


def _show(figures: dict[str, Any]) -> None:
    """What the check found, and the share of each class: a class without any pixel may be a mistake."""
    checks = plain_table("", "")
    checks.show_header = False
    checks.add_row("server", figures["server"])
    checks.add_row("images", f"{figures['images']:,} of {figures['expected']:,}")
    checks.add_row("folder", figures["folder"] or "-")
    checks.add_row("PNG", {"P": "8-bit indexed, VOC palette", "L": "8-bit grey"}[figures["mode"]])
    unknown = figures["images"] - figures["sizes_checked"]
    checks.add_row("sizes", f"{figures['sizes_checked']:,} as the images" + (f", {unknown:,} unknown" * bool(unknown)))
    checks.add_row("sha256", figures["sha256"])
    classes = plain_table("class", "value", "share")
    for column in classes.columns[1:]:
        column.justify = "right"
    total = sum(record["pixels"] for record in figures["classes"].values())
    for label, record in figures["classes"].items():
        classes.add_row(
            label, str(record["value"]), f"{100 * record['pixels'] / total:.2f} %" if record["pixels"] else "-"
        )
    for table in (checks, classes):
        out().print(table)
