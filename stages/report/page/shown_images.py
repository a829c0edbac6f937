"""The images of a page: which are shown, and what the workspace has of each, from the photograph to the errors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from artifacts.dataset import Dataset
from artifacts.errors import SemisegError
from artifacts.masks import IGNORE, read_mask
from artifacts.score_maps import INDEX, ScoreMaps
from artifacts.store import Artifact
from stages.pipeline.graph import upstream
from stages.report.page.scored import Evaluation
from stages.report.page.thumbnails import (
    Thumbnail,
    error_palette,
    error_words,
    errors_of,
    map_thumbnail,
    mask_thumbnail,
    photograph,
)

COUNT = 12  # images of a group
COLUMNS = (
    "photograph",
    "class-activation maps",
    "refined maps",
    "seeds",
    "estimated mask",
    "prediction",
    "truth",
    "errors",
)
ESTIMATED = ("masks", "predictions", "refined")  # kinds that may hold estimated masks of training images

_FIXED = "The same images in every workspace with this data: chosen by the digests of their ids, not by their scores."
_WORST = "Lowest mean IoU of {} over the classes in an image's truth or prediction."
_TRAINING = "Chosen by the digests of their ids. True masks of images without masks in training serve only to look at."


@dataclass(frozen=True)
class Tile:
    """One image of a row: what it shows, of which artifact (""; of none), and the image, or why there is none."""

    column: str
    artifact: str
    thumbnail: Thumbnail | None
    problem: str = ""
    words: str = ""  # what is said of it below it


@dataclass(frozen=True)
class ImageRow:
    image_id: str
    labels: tuple[str, ...] | None  # the classes in the image; None: not known
    iou: float | None
    tiles: list[Tile]
    about: str = ""  # why it is shown


@dataclass(frozen=True)
class Group:
    """Rows of images with a heading; `key` names it in links."""

    key: str
    title: str
    note: str
    rows: list[ImageRow]


@dataclass(frozen=True)
class ShownImages:
    """All groups, and what the colours mean. `missing`: why something is not shown."""

    groups: list[Group] = field(default_factory=list)
    legend: list[tuple[str, tuple[int, int, int]]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def has_errors(self) -> bool:
        return any(tile.column == "errors" for group in self.groups for row in group.rows for tile in row.tiles)


@dataclass(frozen=True)
class _Sources:
    """The artifacts that the columns of a group are read from; None where the workspace has none."""

    maps: Artifact | None = None
    refined: Artifact | None = None
    seeds: Artifact | None = None
    estimated: Artifact | None = None
    prediction: Artifact | None = None


def choose_fixed(ids: Iterable[str], count: int = COUNT) -> list[str]:
    """The same images on every machine and in every workspace: those whose ids have the smallest digests, sorted."""
    return sorted(sorted(ids, key=lambda i: hashlib.sha256(i.encode()).digest())[:count])


def choose_worst(iou: Mapping[str, float | None], count: int = COUNT) -> list[str]:
    """The images with the lowest mean IoU, the worst first."""
    known = [(value, image_id) for image_id, value in iou.items() if value is not None]
    return [image_id for _, image_id in sorted(known)[:count]]


def shown_images(artifacts: Mapping[str, Artifact], best: Evaluation | None) -> ShownImages:
    """Of the data set and the predictions of the best evaluation; of the first data set where nothing was scored."""
    datasets = [name for name, artifact in artifacts.items() if artifact.kind == "dataset"]
    named = best.data if best and best.data in artifacts else next(iter(datasets), None)
    if named is None:
        return ShownImages(missing=["No images: the workspace has no data set."])
    try:
        dataset = Dataset(artifacts[named])
    except SemisegError as error:
        return ShownImages(missing=[f"No images: {error.message}."])
    groups, missing = [], []
    splits = best.metrics.splits if best else ["val"] if dataset.splits.get("val") else ["train"]
    ids = [image_id for split in splits for image_id in dataset.splits.get(split, ())]
    iou = (best.images if best else None) or {}
    sources = _sources(artifacts, best, ids, scored=True)
    where = " and ".join(splits)
    if len(ids) > COUNT or not iou:  # else all of them are among the worst
        fixed = _rows(dataset, sources, choose_fixed(ids), iou)
        told = f"{_FIXED} Predictions of {best.scored}." if best else _FIXED
        title = f"Twelve of {where}" if len(fixed) == COUNT else f"Images of {where}"
        groups.append(Group("fixed", title, told, fixed))
    if best and iou:
        worst = _rows(dataset, sources, choose_worst(iou), iou)
        groups.append(
            Group(
                "worst",
                f"The worst of {where}" if len(ids) > COUNT else f"Images of {where}, the worst first",
                _WORST.format(best.scored),
                worst,
            )
        )
    elif best:
        missing.append(f"The worst images are not known: {best.why}.")
    else:
        missing.append("Predictions: nothing was scored on val yet.")
    training = [i for split in ("weak", "unlabelled", "train") for i in dataset.splits.get(split, ())]
    made_of = _sources(artifacts, best, training, scored=False)
    masks = [artifact for artifact in (made_of.seeds, made_of.estimated) if artifact]
    held = {image_id: sum(_holds(artifact, image_id) for artifact in masks) for image_id in training}
    if most := max(held.values(), default=0):
        rows = _rows(dataset, made_of, choose_fixed(i for i in held if held[i] == most), {})
        shown = " and ".join(artifact.name for artifact in masks)
        note = f"{_TRAINING} Of {shown}; the errors are those of {masks[-1].name}."
        groups.append(Group("training", "Training images: maps, seeds and estimated masks", note, rows))
    first = 0 if not dataset.has_background else 1
    legend = [(name, _colour(dataset, number)) for number, name in enumerate(dataset.class_names) if number >= first]
    legend += [("background", _colour(dataset, 0))] if first else []
    return ShownImages(groups, [*legend, ("ignored or unknown (255)", _colour(dataset, IGNORE))], missing)


def _colour(dataset: Dataset, number: int) -> tuple[int, int, int]:
    red, green, blue = dataset.palette[3 * number : 3 * number + 3]
    return red, green, blue


def _sources(artifacts: Mapping[str, Artifact], best: Evaluation | None, ids: Sequence[str], scored: bool) -> _Sources:
    """Where the columns come from: what the best predictions were made from, nearest first, then anything else."""
    reads = {name: [r["artifact"] for r in a.manifest.inputs.values()] for name, a in artifacts.items()}
    prediction = artifacts.get(best.scored or "") if best else None
    own = upstream(reads, prediction.name) if prediction else set()
    latest = list(artifacts)[::-1]
    order = [name for name in latest if name in own] + [name for name in latest if name not in own]
    sample = choose_fixed(ids)

    def first(kinds: Sequence[str], holds: str) -> Artifact | None:
        for name in order:
            artifact = artifacts[name]
            if artifact.kind in kinds and artifact is not prediction:
                if holds == "maps" and _map_ids(artifact) & set(sample):
                    return artifact
                if holds == "masks" and any(_holds(artifact, i) for i in sample):
                    return artifact
        return None

    return _Sources(
        maps=first(["seeds"], "maps"),
        refined=first(["refined"], "maps"),
        seeds=first(["seeds"], "masks"),
        estimated=first(["refined"] if scored else ESTIMATED, "masks"),
        prediction=prediction if scored else None,
    )


def _holds(artifact: Artifact, image_id: str) -> bool:
    return f"masks/{image_id}.png" in artifact.items


def _map_ids(artifact: Artifact) -> set[str]:
    if INDEX not in artifact.items:
        return set()
    try:
        return set(ScoreMaps(artifact).ids)
    except SemisegError:
        return set()


def _rows(dataset: Dataset, sources: _Sources, ids: Sequence[str], iou: Mapping[str, float | None]) -> list[ImageRow]:
    return [
        ImageRow(image_id, _labels(dataset, image_id), iou.get(image_id), _tiles(dataset, sources, image_id))
        for image_id in ids
    ]


def rows_with_prediction(dataset: Dataset, prediction: Artifact | None, ids: Sequence[str]) -> list[ImageRow]:
    """Photograph, prediction, truth and errors of these images, as far as they are there."""
    return _rows(dataset, _Sources(prediction=prediction), ids, {})


def _labels(dataset: Dataset, image_id: str) -> tuple[str, ...] | None:
    if not dataset.has_tags(image_id):
        return None
    return tuple(dataset.class_names[label] for label in dataset.tags(image_id))


def _tiles(dataset: Dataset, sources: _Sources, image_id: str) -> list[Tile]:
    """What there is of the image, in the order of the columns; what cannot be read says why."""
    try:
        image = dataset.image(image_id)
    except SemisegError as error:
        return [Tile("photograph", "", None, error.message)]
    tiles = [Tile("photograph", "", photograph(image))]
    for column, maps in (("class-activation maps", sources.maps), ("refined maps", sources.refined)):
        if maps is not None and image_id in _map_ids(maps):
            tiles.append(_map_tile(column, maps, image, dataset, image_id))
    truth = None
    if dataset.has_mask(image_id):
        truth = _read(dataset.mask, image_id)
    last: tuple[Artifact, np.ndarray] | None = None
    for column, masks in (
        ("seeds", sources.seeds),
        ("estimated mask", sources.estimated),
        ("prediction", sources.prediction),
    ):
        if masks is not None and _holds(masks, image_id):
            mask = _read(read_mask, masks.path / "masks" / f"{image_id}.png")
            tiles.append(_mask_tile(column, masks.name, mask, dataset.palette))
            last = (masks, mask) if isinstance(mask, np.ndarray) and column != "seeds" else last
    if truth is not None:
        tiles.append(_mask_tile("truth", "", truth, dataset.palette))
    if last is not None and isinstance(truth, np.ndarray) and last[1].shape == truth.shape:
        errors = errors_of(last[1], truth, dataset.has_background)
        drawn = mask_thumbnail(errors, error_palette())
        tiles.append(Tile("errors", last[0].name, drawn, words=error_words(errors)))
    return tiles


def _read(read: Callable[[Any], np.ndarray], which: Path | str) -> np.ndarray | str:
    """The mask, or why it cannot be read."""
    try:
        return read(which)
    except SemisegError as error:
        return error.message


def _mask_tile(column: str, artifact: str, mask: np.ndarray | str, palette: bytes) -> Tile:
    if isinstance(mask, str):
        return Tile(column, artifact, None, mask)
    return Tile(column, artifact, mask_thumbnail(mask, palette))


def _map_tile(column: str, maps: Artifact, image: np.ndarray, dataset: Dataset, image_id: str) -> Tile:
    try:
        return Tile(column, maps.name, map_thumbnail(ScoreMaps(maps)[image_id], image, dataset.palette))
    except SemisegError as error:
        return Tile(column, maps.name, None, error.message)
