"""The shapes that an annotation file has for an image, and the index mask drawn from them.

A `Drawing` holds the shapes of one image, and is small enough to be sent to another process; `draw` makes the mask,
uint8 (H, W): 0 outside all shapes, class ids, 255 for ignore.

    mask = draw(read_labelme(Path("street.json")), {"car": 1, "person": 2})
    file = read_coco(Path("instances_val2017.json"))
    mask = draw(file.annotations_of("000000000139"), {name: ... for name in file.categories.values()})

x runs to the right and y downwards, in pixels from the upper left corner of the image, so the centre of the first
pixel is (0.5, 0.5): the convention of LabelMe, COCO and CVAT. A pixel belongs to an outline if its centre lies inside,
where a line out of it crosses the outline an odd number of times (even-odd). A centre exactly on an edge counts as
right of it or below it: outlines that share an edge neither share pixels nor leave a gap. LabelMe's own export and
pycocotools differ by pixels along the edge; LabelMe paints the outline too, so that its regions are about half a pixel
wider.

Outlines are filled by scan lines in numpy. Pillow cuts coordinates down to whole pixels, and scikit-image, which gives
the same pixels as this module, tests every pixel of the box against every edge: 80 times slower for 300 points.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from artifacts.errors import DataError
from artifacts.masks import IGNORE
from artifacts.text import SHOWN

BACKGROUND_LABELS = ("background", "_background_")
IGNORE_LABELS = ("__ignore__",)  # with _background_ LabelMe's convention, see its labels.txt

Size = tuple[int, int]  # (H, W)


# ------------------------------------------------------------------------------------------------- what was drawn


@dataclass(frozen=True)
class Runs:
    """A region as run lengths: pixels outside and inside in turn, column after column, outside first."""

    top: int
    left: int
    size: Size  # of the box that the runs fill
    counts: np.ndarray  # int64 (n,), their sum is the number of pixels of the box

    def pixels(self) -> np.ndarray:
        """bool (H, W) of the box."""
        height, width = self.size
        return np.repeat(np.arange(len(self.counts)) % 2 == 1, self.counts).reshape(width, height).T


def runs_of(pixels: np.ndarray, top: int = 0, left: int = 0) -> Runs:
    """The runs of a box of pixels, bool (H, W), whose upper left pixel is (top, left)."""
    changes = np.flatnonzero(np.diff(pixels.T.ravel(), prepend=False))  # the first run is outside, if only 0 long
    return Runs(top, left, pixels.shape, np.diff(changes, prepend=0, append=pixels.size))


@dataclass(frozen=True)
class Region:
    """One object: a label, and outlines or runs whose union it covers."""

    label: str
    where: str  # "shape 3" or "annotation 17"
    outlines: tuple[np.ndarray, ...] = ()  # float64 (n, 2) each: x, y in pixels
    runs: tuple[Runs, ...] = ()
    crowd: bool = False

    def area(self) -> float:
        """In pixels, as the sum over the outlines; where outlines cross, parts cancel."""
        return sum(int(runs.counts[1::2].sum()) for runs in self.runs) + sum(
            _shoelace(outline) for outline in self.outlines
        )


@dataclass(frozen=True)
class Drawing:
    """The shapes of one image in an annotation file; later regions are drawn over earlier ones.

    Attributes: path (the annotation file), image (its file name, as written there), size (H, W), regions,
    not_drawn (a sentence for each shape without area, which is left out: points, lines, polygons of two points),
    problems (a sentence for each region that is left out because of a mistake).
    """

    path: Path
    image: str
    size: Size
    regions: tuple[Region, ...]
    not_drawn: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.path} ({self.image})"


def draw(
    drawing: Drawing, class_ids: Mapping[str, int], *, ground: int = 0, crowd: Literal["ignore", "class"] = "ignore"
) -> np.ndarray:
    """The index mask of a drawing, uint8 (H, W).

    class_ids: label -> class id or 255; several labels may share an id. LabelMe's `_background_` and `__ignore__` need
    no id. ground: the value outside all shapes. crowd: COCO's crowd regions become 255 outside other objects
    ("ignore"; ground if their class is ground), or are objects like the others ("class").
    An object that covers no pixel centre leaves no pixel.
    Raises DataError for problems of the drawing (`dataclasses.replace(drawing, problems=())` draws the rest), and
    for labels without an id.
    """
    refuse_problems(str(drawing), drawing.problems)
    check_labels([drawing], class_ids)
    conventions = dict.fromkeys(BACKGROUND_LABELS, ground) | dict.fromkeys(IGNORE_LABELS, IGNORE)
    values = conventions | dict(class_ids)
    mask = np.full(drawing.size, ground, dtype=np.uint8)
    for region in sorted(drawing.regions, key=lambda region: not (region.crowd and crowd == "ignore")):
        value = values[region.label]
        if region.crowd and crowd == "ignore" and value != ground:
            value = IGNORE
        for box, inside in _covered(region, drawing.size):
            mask[box][inside] = value
    return mask


def check_labels(drawings: Iterable[Drawing], class_ids: Mapping[str, int]) -> None:
    """DataError for labels without a class id: all of them, each with a place and a count."""
    known = {*class_ids, *BACKGROUND_LABELS, *IGNORE_LABELS}
    places: dict[str, list[str]] = {}
    for drawing in drawings:
        for region in drawing.regions:
            if region.label not in known:
                places.setdefault(region.label, []).append(f"{drawing}, {region.where}")
    if not places:
        return
    found = "; ".join(
        f"{label!r} ({where[0]}" + (f" and {len(where) - 1} more)" if len(where) > 1 else ")")
        for label, where in sorted(places.items())
    )
    count = f"{len(places)} labels are" if len(places) > 1 else "a label is"
    raise DataError(
        f"{count} not a class: {found}",
        f"add them to the class table, or correct them; the classes are {', '.join(class_ids)}",
    )


def refuse_problems(where: str, problems: Sequence[str]) -> None:
    """DataError that names the first few problems and counts the rest; nothing if there are none."""
    if problems:
        shown = "".join(f"\n  {problem}" for problem in problems[:SHOWN])
        more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        count = f"{len(problems)} annotations are" if len(problems) > 1 else "an annotation is"
        raise DataError(
            f"{where}: {count} wrong:{shown}{more}",
            "correct them in the program that wrote them, or delete them",
        )


# ------------------------------------------------------------------------------------------------- filling


def fill(shape: Size, polygons: Iterable[np.ndarray]) -> np.ndarray:
    """bool (H, W): the union of polygons, each float (n, 2) of x, y in pixels, closed by itself, of any orientation.

    Pixels whose centre lies inside by the even-odd rule; see the module for centres on an edge. Parts outside
    (H, W) are cut off.
    """
    covered = np.zeros(shape, dtype=bool)
    for polygon in polygons:
        for box, inside in _inside(np.asarray(polygon, dtype=np.float64), shape):
            covered[box] |= inside
    return covered


Box = tuple[slice, slice]


def _covered(region: Region, shape: Size) -> Iterator[tuple[Box, np.ndarray]]:
    """(box, bool (h, w) of its pixels) of every part of a region; the box is cut to the image."""
    for outline in region.outlines:
        yield from _inside(outline, shape)
    for runs in region.runs:
        height, width = runs.size
        yield (slice(runs.top, runs.top + height), slice(runs.left, runs.left + width)), runs.pixels()


def _inside(points: np.ndarray, shape: Size) -> Iterator[tuple[Box, np.ndarray]]:
    """The box of a polygon and the pixels inside; nothing if it covers no row of pixel centres.

    Each edge crosses some rows of centres; right of every crossing, inside and outside change places.
    """
    height, width = shape
    start = points - 0.5  # centres have whole numbers now
    end = np.roll(start, -1, axis=0)
    downwards = (start[:, 1] <= end[:, 1])[:, None]  # an edge has the same crossings whichever way it was drawn
    upper, lower = np.where(downwards, start, end), np.where(downwards, end, start)
    first = np.clip(np.ceil(upper[:, 1]), 0, height).astype(np.int64)
    rows = np.clip(np.ceil(lower[:, 1]), 0, height).astype(np.int64) - first  # crossed by each edge
    if not rows.any():
        return
    edge = np.repeat(np.arange(len(rows)), rows)
    row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(rows) - rows, rows)
    slope = (lower[edge, 0] - upper[edge, 0]) / (lower[edge, 1] - upper[edge, 1])
    crossing = upper[edge, 0] + (row - upper[edge, 1]) * slope
    column = np.clip(np.ceil(crossing), 0, width).astype(np.int64)
    top, left = int(row.min()), int(column.min())
    box = (int(row.max()) - top + 1, int(column.max()) - left + 1)
    changes = np.bincount((row - top) * box[1] + column - left, minlength=box[0] * box[1]).reshape(box)
    inside = (np.cumsum(changes, axis=1, dtype=np.uint8) & 1).astype(bool)[:, :-1]  # the last column is outside again
    yield (slice(top, top + box[0]), slice(left, left + box[1] - 1)), inside


def _shoelace(points: np.ndarray) -> float:
    x, y = (points - points[0]).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(np.roll(x, -1), y)) / 2)
