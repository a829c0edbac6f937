"""Masks as polygons: the connected areas of a mask, each as one outline.

    for area in areas_of(mask == 3, least=16):
        area.outline(tolerance=0)          # float64 (n, 2): x, y in pixels

Outlines run along the edges of pixels, through whole numbers; pixels that share an edge are connected. So filling an
outline with tolerance 0 (a pixel belongs to it if its centre lies inside by the even-odd rule) gives exactly the pixels
that it was made of. A hole is joined to the outline around it by a cut that goes there and back, and runs against it:
both the even-odd rule and the non-zero rule leave it empty.

With a tolerance corners are left out as long as the outline moves by no more than that many pixels (Ramer 1972; Douglas
and Peucker 1973). Outlines of areas side by side may then differ by that much.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Area:
    """A connected area of a mask: its box, and its pixels in the box, bool (h, w)."""

    top: int
    left: int
    pixels: NDArray[np.bool_]

    @property
    def count(self) -> int:
        return int(np.count_nonzero(self.pixels))

    def within(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """bool (H, W), the pixels in the whole image."""
        mask = np.zeros(size, bool)
        height, width = self.pixels.shape
        mask[self.top : self.top + height, self.left : self.left + width] = self.pixels
        return mask

    def outline(self, tolerance: float) -> Points:
        """float64 (n, 2), x and y in pixels of the image; see the module."""
        around, *holes = [simplified(ring, tolerance) for ring in rings_of(self.pixels)]
        return _joined(around, holes) + np.array([self.left, self.top])


def areas_of(mask: NDArray[np.bool_], least: int = 1) -> tuple[list[Area], int]:
    """(the connected areas of at least `least` pixels, the number of smaller ones)."""
    labels, count = ndimage.label(mask)
    large = np.bincount(labels.ravel(), minlength=count + 1)[1:] >= least
    areas = [
        Area(rows.start, columns.start, labels[rows, columns] == number)
        for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1)
        if large[number - 1]
    ]
    return areas, count - len(areas)


# ------------------------------------------------------------------------------------------------- rings


def rings_of(mask: NDArray[np.bool_]) -> list[Points]:
    """The closed lines along the edges of a connected mask, through its corners alone, float64 (n, 2) each: first the
    one around it, clockwise as seen, then those of its holes, anticlockwise.
    """
    padded = np.pad(mask, 1)
    nw, ne, sw, se = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    touching = (nw == se) & (ne == sw) & (nw != ne)  # two pixels that share a corner alone: two lines pass it
    rows, columns = np.nonzero((nw ^ ne ^ sw ^ se) | touching)
    corner = np.repeat(np.arange(len(rows)), 1 + touching[rows, columns])
    second = np.diff(corner, prepend=-1) == 0
    rows, columns = rows[corner], columns[corner]
    # Of two lines through a corner the first one comes from above. Where the pixel at the upper left is inside it turns
    # to the left, else to the right: lines stay at their own pixel.
    from_right = second ^ (touching & ~nw)[rows, columns]
    along_row = _partners(np.lexsort((from_right, columns, rows)))
    along_column = _partners(np.lexsort((second, rows, columns)))
    rings, done = [], [False] * len(rows)
    for first in range(len(rows)):  # row by row: a line is met at its upper left corner
        if done[first]:
            continue
        ring = list(_follow(first, along_row, along_column))
        for place in ring:
            done[place] = True
        points = np.stack([columns[ring], rows[ring]], axis=1).astype(np.float64)
        rings.append(points if se[rows[first], columns[first]] else points[::-1])
    return rings


def _partners(order: NDArray[np.int64]) -> list[int]:
    """The other end of the edge at each corner: in this order, corners are the two ends of one edge after the other."""
    partners = np.empty_like(order)
    partners[order[0::2]], partners[order[1::2]] = order[1::2], order[0::2]
    return partners.tolist()


def _follow(first: int, along_row: list[int], along_column: list[int]) -> Iterator[int]:
    place = first
    while True:
        yield place
        place = along_row[place]
        yield place
        place = along_column[place]
        if place == first:
            return


def _joined(around: Points, holes: Sequence[Points]) -> Points:
    """One line: around the area, and from its nearest corner to each hole, along the hole, and back."""
    if not holes:
        return around
    _, corners = cKDTree(around).query([hole[0] for hole in holes])
    parts, at = [], 0
    for number in np.argsort(corners, kind="stable"):
        corner, hole = int(corners[number]), holes[number]
        parts += [around[at : corner + 1], hole, hole[:1], around[corner : corner + 1]]
        at = corner + 1
    return np.concatenate([*parts, around[at:]])


# ------------------------------------------------------------------------------------------------- fewer corners


def simplified(ring: Points, tolerance: float) -> Points:
    """The ring without corners within `tolerance` pixels of what is left; unchanged if fewer than 3 were left."""
    if tolerance <= 0 or len(ring) < 4:
        return ring
    far = int(((ring - ring[0]) ** 2).sum(axis=1).argmax())
    closed = np.concatenate([ring, ring[:1]])
    kept = np.zeros(len(closed), bool)
    kept[[0, far, -1]] = True
    parts = [(0, far), (far, len(ring))]
    while parts:
        start, end = parts.pop()
        if end - start < 2:
            continue
        distances = _distances(closed[start + 1 : end], closed[start], closed[end])
        if distances.max() > tolerance:
            middle = start + 1 + int(distances.argmax())
            kept[middle] = True
            parts += [(start, middle), (middle, end)]
    return ring[kept[:-1]] if kept[:-1].sum() > 2 else ring


def _distances(points: Points, start: Points, end: Points) -> NDArray[np.float64]:
    """(n,), from the points to the line between two others."""
    step = end - start
    length = float(step @ step)
    share = np.clip((points - start) @ step / length, 0, 1) if length else np.zeros(len(points))
    offsets: NDArray[np.float64] = points - start - share[:, None] * step
    return np.hypot(offsets[:, 0], offsets[:, 1])
