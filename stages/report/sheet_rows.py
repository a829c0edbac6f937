"""What stages made of an image, as small images side by side: maps, masks, segments, and the truth where it is known.

made = [Made(workspace.artifact(name)) for name in ("seeds", "refine")]
row = row_of(Given.of(dataset), made, "IMG_0001", (200, 150))
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from artifacts.dataset import Dataset
from artifacts.errors import ArtifactError, DataError, SemisegError
from artifacts.image_segments import FOLDER as SEGMENTS
from artifacts.item_shapes import Classes
from artifacts.masks import IGNORE, read_mask, voc_palette
from artifacts.score_maps import INDEX, ScoreMap, ScoreMaps, check_size
from artifacts.store import Artifact, Workspace
from artifacts.text import amount
from stages.contract import Execution
from stages.data.images import Images
from stages.data.overlays import Colour, colour_of, fitting_size, overlay, pixels_of_values, scaled_image, scaled_mask
from stages.evaluation.confusion import ConfusionMatrix
from stages.evaluation.image_scores import image_iou, score_with_images
from stages.export.submission import predicted_images
from stages.localization.grid import resize_maps
from stages.localization.segment_layers import NONE, stored_layers

IMAGE, TRUTH = "image", "truth"  # columns
MOST_MAPS = 4  # of an image and artifact
HEAT = 0.65  # opacity of a heat map on its image in grey
_COLOURS_OF_HEAT = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))  # of 0, .25, .5, .75, 1


@dataclass(frozen=True)
class Tile:
    """One small image, RGB uint8 (H, W, 3), or why there is none; colour: of the class that it is about."""

    column: str
    caption: str
    pixels: np.ndarray | None
    colour: Colour | None = None
    problem: str = ""


@dataclass(frozen=True)
class Row:
    """The tiles of an image. labels: None where they are not known; values: of masks and maps, for the legend."""

    image_id: str
    labels: tuple[str, ...] | None
    tiles: list[Tile]
    values: frozenset[int]


@dataclass(frozen=True)
class Given:
    """The images, and what is known of them."""

    images: Images
    class_names: tuple[str, ...]
    dataset: Dataset | None  # None: the images of a folder
    palette: bytes

    @property
    def has_background(self) -> bool:
        return self.class_names[:1] == ("background",)

    def labels(self, image_id: str) -> tuple[int, ...] | None:
        known = self.dataset is not None and self.dataset.has_tags(image_id)
        return self.dataset.tags(image_id) if self.dataset is not None and known else None

    def truth(self, image_id: str) -> np.ndarray | None:
        known = self.dataset is not None and self.dataset.has_mask(image_id)
        return self.dataset.mask(image_id) if self.dataset is not None and known else None


def given_images(images: Images, made: Sequence[Made]) -> Given:
    """ArtifactError where the classes of the artifacts are not those of the data set, or of each other."""
    dataset = images if isinstance(images, Dataset) else None
    named = {one.artifact.name: one.class_names for one in made if one.class_names}
    names = dataset.class_names if dataset else next(iter(named.values()), ())
    if other := [name for name, classes in named.items() if classes != names]:
        raise ArtifactError(
            f"{other[0]!r} has the classes {', '.join(named[other[0]])}, expected {', '.join(names)}",
            "draw artifacts of one data set",
        )
    if not names and any(one.masks for one in made):
        raise ArtifactError(f"{made[0].artifact.name!r} does not say its classes", "name its data set (--data NAME)")
    return Given(images, names, dataset, dataset.palette if dataset else voc_palette())


class Made:
    """What an artifact holds of images: score maps, masks, segments, or several of these."""

    def __init__(self, artifact: Artifact) -> None:
        """ArtifactError for an artifact without any of them, and for a data set."""
        self.artifact = artifact
        if artifact.kind == "dataset":
            raise ArtifactError(
                f"{artifact.name!r} is a data set", f"its own sheet: semiseg show {artifact.name} --sheet FILE.png"
            )
        self.masks, self.segments = self._ids("masks/", ".png"), self._ids(f"{SEGMENTS}/", ".json")
        self.maps = ScoreMaps(artifact) if INDEX in artifact.items else None
        if not (self.masks or self.segments or self.maps):
            raise ArtifactError(
                f"{artifact.name!r} ({artifact.kind}) has no maps, masks or segments of images",
                "name what seeds, refine, predict, crf, vote, pseudo-labels or segments made",
            )

    def _ids(self, before: str, after: str) -> frozenset[str]:
        items = self.artifact.items
        return frozenset(
            item[len(before) : -len(after)] for item in items if item.startswith(before) and item.endswith(after)
        )

    @cached_property
    def ids(self) -> frozenset[str]:
        """The images of which it has anything."""
        return self.masks | self.segments | frozenset(self.maps.ids if self.maps else ())

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """None, (), of an artifact that does not say them."""
        if self.maps is not None:
            return self.maps.class_names
        listed = "classes.json" in self.artifact.items
        return tuple(self.artifact.json("classes.json", Classes).class_names) if listed else ()

    @property
    def columns(self) -> list[str]:
        """Those that its tiles may stand in, in their order."""
        name = self.artifact.name
        return [*(f"{name}: map {place}" for place in range(MOST_MAPS)), f"{name}: masks", f"{name}: segments"]

    def mask_path(self, image_id: str) -> Path:
        return self.artifact.path / "masks" / f"{image_id}.png"


def images_of(artifact: Artifact, workspace: Workspace) -> Images:
    """The data set or the folder that an artifact was made from; ArtifactError where it is gone or has changed."""
    source = artifact
    while "data" not in source.manifest.inputs and not source.config.get("images"):
        record = source.manifest.inputs.get("predictions")  # of pseudo-labels, which reads masks alone
        if record is None or record["artifact"] not in workspace.names():
            break
        source = workspace.artifact(record["artifact"])
    if (found := predicted_images(source, workspace)) is None:
        raise ArtifactError(
            f"the images that {artifact.name!r} was made from are not here any more, or were prepared anew since",
            "name the data set (--data NAME) or the folder (--images DIR) to draw it on",
        )
    return found


# ------------------------------------------------------------------------------------------------- one image


def row_of(given: Given, made: Sequence[Made], image_id: str, most: tuple[int, int]) -> Row:
    """The image, what each artifact has of it, and the truth, in tiles of at most `most` pixels (width, height).

    What cannot be read says why; without the image there is nothing else.
    """
    labels = given.labels(image_id)
    names = None if labels is None else tuple(given.class_names[label] for label in labels)
    try:
        image = given.images.image(image_id)
    except SemisegError as error:
        return Row(image_id, names, [Tile(IMAGE, IMAGE, None, problem=error.message)], frozenset())
    drawing = _Drawing(given, image_id, image, fitting_size(image.shape, *most))
    tiles = [Tile(IMAGE, IMAGE, drawing.small), *(tile for one in made for tile in drawing.tiles(one))]
    if drawing.truth is not None:
        tiles.append(Tile(TRUTH, TRUTH, drawing.masked(drawing.truth)))
    elif drawing.problem:
        tiles.append(Tile(TRUTH, TRUTH, None, problem=drawing.problem))
    return Row(image_id, names, tiles, frozenset(drawing.values))


class _Drawing:
    """Draws what there is of one image."""

    def __init__(self, given: Given, image_id: str, image: np.ndarray, size: tuple[int, int]) -> None:
        self.given, self.image_id, self.size = given, image_id, size
        self.shape = (image.shape[0], image.shape[1])
        self.small = scaled_image(image, size)
        self.values: set[int] = set(given.labels(image_id) or ())
        self.truth: np.ndarray | None = None
        self.problem = ""
        try:
            self.truth = given.truth(image_id)
        except SemisegError as error:
            self.problem = error.message

    def tiles(self, made: Made) -> list[Tile]:
        found: list[Tile] = []
        maps, masks, segments = made.columns[0], *made.columns[MOST_MAPS:]
        for held, column, draw in (
            (made.maps is not None and self.image_id in made.maps, maps, self._maps),
            (self.image_id in made.masks, masks, self._mask),
            (self.image_id in made.segments, segments, self._segments),
        ):
            if not held:
                continue
            try:
                found += draw(made)
            except SemisegError as error:
                found.append(Tile(column, made.artifact.name, None, problem=error.message))
        return found

    def _maps(self, made: Made) -> list[Tile]:
        """Heat maps of the labels of the image; where these are not known, of the highest maps but the background's."""
        assert made.maps is not None
        found, labels = made.maps[self.image_id], self.given.labels(self.image_id)
        check_size(found, self.shape)
        highest = found.scores.max(axis=(1, 2), initial=0)
        shown = [k for k, value in enumerate(found.classes) if (value != 0 if labels is None else value in labels)]
        shown = sorted(shown, key=lambda k: -highest[k]) if labels is None else shown
        tiles = []
        for place, k in enumerate(shown[:MOST_MAPS]):
            value, left = int(found.classes[k]), len(shown) - MOST_MAPS if place == MOST_MAPS - 1 else 0
            self.values.add(value)
            caption = f"{made.artifact.name}: {self.given.class_names[value]}, up to {highest[k]:.2f}"
            caption += f" (+{amount(left, 'map')})" if left > 0 else ""
            tiles.append(Tile(made.columns[place], caption, self._heat(found, k), colour_of(self.given.palette, value)))
        return tiles

    def _heat(self, found: ScoreMap, k: int) -> np.ndarray:
        width, height = self.size
        scores = resize_maps(found.scores[k], found.size, found.stride, (height, width))
        grey = np.asarray(Image.fromarray(self.small).convert("L"), np.float32)[:, :, None]
        return heated(grey, scores)

    def _mask(self, made: Made) -> list[Tile]:
        height, width = self.shape
        mask = read_mask(made.mask_path(self.image_id), len(self.given.class_names) or None, (width, height))
        caption = made.artifact.name
        if self.truth is not None and (iou := self._iou(mask)) is not None:
            caption += f", IoU {100 * iou:.1f} %"
        return [Tile(made.columns[MOST_MAPS], caption, self.masked(mask))]

    def _iou(self, mask: np.ndarray) -> float | None:
        assert self.truth is not None
        matrix = ConfusionMatrix(len(self.given.class_names))
        matrix.add(mask, self.truth)
        return image_iou(matrix)

    def _segments(self, made: Made) -> list[Tile]:
        layers = stored_layers(made.artifact, self.image_id, self.shape)
        numbers = np.zeros(self.shape, np.uint8)
        for layer in layers[::-1]:  # the first, which cover no other, on top
            numbers = np.where(layer == NONE, numbers, layer % (IGNORE - 1) + 1).astype(np.uint8)
        drawn = overlay(self.small, scaled_mask(numbers, self.size), voc_palette(), has_background=True)
        segments = amount(int(layers.max()) + 1, "segment")
        return [Tile(made.columns[MOST_MAPS + 1], f"{made.artifact.name}: {segments}", drawn)]

    def masked(self, mask: np.ndarray) -> np.ndarray:
        self.values |= pixels_of_values(mask).keys()
        return overlay(self.small, scaled_mask(mask, self.size), self.given.palette, self.given.has_background)


def heated(grey: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Scores of 0..1 (H, W) in colours, from dark to bright, on an image in grey (H, W, 1): uint8 (H, W, 3)."""
    places = np.linspace(0, 1, len(_COLOURS_OF_HEAT))
    heat = np.stack([np.interp(scores, places, channel) for channel in zip(*_COLOURS_OF_HEAT, strict=True)], axis=-1)
    return ((1 - HEAT) * grey + HEAT * heat).clip(0, 255).round().astype(np.uint8)


# ------------------------------------------------------------------------------------------------- which images


def common_ids(made: Sequence[Made], given: Given, split: Collection[str] | None = None) -> list[str]:
    """Sorted ids of the images of which all artifacts have something; DataError without any. split: only these."""
    ids = set.intersection(*(set(one.ids) for one in made))
    names = " and ".join(repr(one.artifact.name) for one in made)
    if given.dataset is not None:
        ids &= {image_id for own in given.dataset.splits.values() for image_id in own}
    if not ids:
        raise DataError(f"no image is in {names} and in their data", "name artifacts that were made of the same images")
    if split is not None and not (ids := ids & set(split)):
        raise DataError(f"no image of this split is in {names}", "name another split, or leave --split out")
    return sorted(ids)


def iou_of(made: Made, given: Given, ids: Collection[str], execution: Execution) -> dict[str, float | None]:
    """id -> mean IoU of the masks of an artifact, of those of the images whose true mask is known.

    ArtifactError for an artifact without masks, DataError where no true mask is known.
    """
    if not made.masks:
        raise ArtifactError(f"{made.artifact.name!r} holds no masks, so no image is its worst", "leave --worst out")
    dataset = given.dataset
    able = [] if dataset is None else [i for i in ids if i in made.masks and dataset.has_mask(i)]
    if dataset is None or not able:
        raise DataError(f"no true mask is known of the images of {made.artifact.name!r}", "leave --worst out")
    pairs = {image_id: (made.mask_path(image_id), dataset.mask_path(image_id)) for image_id in able}
    with execution.progress.track(len(pairs), "evaluate") as tracker:
        _, found, _ = score_with_images(pairs, dataset.num_classes, execution.workers, tracker.advance)
    return found.mean_iou
