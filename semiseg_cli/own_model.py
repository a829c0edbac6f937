"""The folder of a model that `semiseg run own` hands over: network, masks, overlays, ONNX, advice and a page."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from artifacts.disk_errors import disk_errors
from artifacts.errors import ArtifactError, ConfigError
from artifacts.item_shapes import Review
from artifacts.store import TEMPORARY, Artifact, Workspace
from artifacts.text import amount
from semiseg_cli.console import json_text, say, written
from semiseg_cli.model_page import NEXT, PAGE, model_page
from stages.serving.model_folder import SUMMARY


def write_model(
    workspace: Workspace, target: Path, classes: Sequence[str], chosen: str, segmenter: str, has_val: bool
) -> dict[str, Any]:
    """Writes the network, the masks of all images, drawn on them too, and a summary, which is returned.

    chosen: the method; segmenter: the node of its network; has_val: it was scored on val.
    """
    network, predictions = (workspace.artifact(name) for name in (segmenter, "predictions"))
    scales = list(predictions.manifest.config["scales"])
    summary: dict[str, Any] = {"method": chosen, "classes": list(classes), "scales": scales}
    if has_val:
        summary["val"] = dict(workspace.artifact(f"{segmenter}-val-scores").manifest.summary)
    try:
        with written(target / SUMMARY) as file:
            target.mkdir(parents=True, exist_ok=True)
            file.write_text(json_text(summary) + "\n", encoding="utf-8")
        _copy(network.path, target / "network")
        _copy(predictions.path / "masks", target / "masks")
        _copy_overlays(predictions, target / "overlays")
        _export(network, scales, target / "segmenter.onnx")
        if "review" in workspace.names():
            _advise(target, workspace.artifact("review").json("review.json", Review))
        with written(target / PAGE) as file:
            file.write_text(model_page(target, workspace.path, summary), encoding="utf-8")
    except (ArtifactError, ConfigError) as error:
        kept = f"the trained network is kept in {network.path}, and the same command goes on from there"
        raise type(error)(error.message, f"{error.hint}; {kept}") from error
    return summary


def _advise(target: Path, review: Review) -> None:
    """Writes what to label next, and which masks to look at; prints the class that needs masks most."""
    for name, found in ((NEXT, review.next), ("doubtful-masks.csv", review.doubtful)):
        if not (rows := [one.model_dump() for one in found]):
            (target / name).unlink(missing_ok=True)  # of an earlier run
        else:
            with written(target / name) as path, path.open("w", encoding="utf-8", newline="") as file:
                table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
                table.writeheader()
                table.writerows(rows)
    if (most := review.help_most) is not None:
        known = review.classes[most]
        iou = f"IoU {100 * known.iou:.1f} on images that were not trained on, " if known.iou is not None else ""
        masks = amount(known.masks, "training mask shows", "training masks show")
        say(f"more masks of {most} would help most: {iou}{masks} it")


def _copy_overlays(predictions: Artifact, folder: Path) -> None:
    """Copies the overlays, if there are any; those of an earlier run that are not there any more are removed."""
    made = {file.name: file for file in predictions.path.glob("overlays/*")}
    if made:
        with written(folder):
            shutil.copytree(predictions.path / "overlays", folder, dirs_exist_ok=True)
    for mask in predictions.path.glob("masks/*.png"):
        for suffix in ("jpg", "png"):
            if (name := f"{mask.stem}.{suffix}") not in made:
                (folder / name).unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    """Copies a folder whole or not at all: what an earlier run has written stays until then."""
    part = target.with_name(f"{TEMPORARY}{target.name}")
    with written(target):
        try:
            for file in sorted(path for path in source.rglob("*") if path.is_file()):
                place = part / file.relative_to(source)
                place.parent.mkdir(parents=True, exist_ok=True)
                with disk_errors(target):
                    shutil.copyfile(file, place)
            shutil.rmtree(target, ignore_errors=True)
            part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _export(network: Artifact, scales: Sequence[float], target: Path) -> None:
    """Writes the network as ONNX, whole or not at all; says why where that cannot be."""
    from stages.export.onnx import export_onnx, write_metadata
    from stages.export.whole_network import metadata
    from stages.networks import load_network

    part = target.with_name(f"{TEMPORARY}{target.name}")
    try:
        with written(target), disk_errors(target):
            export_onnx(whole := load_network(network), part)
            write_metadata(part, metadata(whole) | {"scales": json_text(scales)})
            part.replace(target)
    except ConfigError as error:  # the package onnx is not installed, or the network cannot be held
        say(f"no {target.name}: {error.message} ({error.hint})")
    finally:
        part.unlink(missing_ok=True)
