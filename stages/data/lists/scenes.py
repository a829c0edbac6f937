"""Images of one scene, so that draws of val and holdout do not split them between training and scoring.

    scene_of = find_scenes({"a": Path("a.jpg"), "b": Path("b.jpg")}, workers=2)
    scene_of = read_scenes(Path("scenes.csv"), names)

Two images are of one scene if they are near-duplicates (copies of another size, compression, brightness or colour,
mirrored, or moved by a few percent), or photos of one camera taken within ten seconds of each other (EXIF). Comparing
takes time with the square of the number of images: about a minute for 10,000.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from PIL import Image

from artifacts.errors import DataError
from artifacts.image_files import open_image
from artifacts.text import amount, named
from stages.data.lists.id_lists import Names, read_lines
from stages.parallel.processes import map_in_processes

SERIES_S = 10  # seconds between two photos of one series
SIDE, COARSE, SHIFT = 32, 16, 3  # pixels: of the small copies, of the coarser ones, that a copy may be moved by
ALIKE_COARSELY = 0.75  # correlation of the coarser copies at which two images are compared further
ALIKE = 0.6  # and of their fine structure, at the best shift
_BLOCK, _PAIRS = 1024, 4096  # images and pairs that are compared at a time
_EXIF, _TAKEN, _MAKE, _MODEL = 0x8769, 0x9003, 0x010F, 0x0110


@dataclass(frozen=True)
class _Look:
    """What of an image is compared. camera, taken: of EXIF, None where it says nothing."""

    pixels: bytes  # of the small copy
    coarse: np.ndarray  # float32 (COARSE * COARSE,), mean 0, length 1; zeros for an image of one grey
    fine: np.ndarray  # float32 (SIDE, SIDE), without its slow changes
    camera: str | None
    taken: float | None


def find_scenes(images: Mapping[str, Path], workers: int) -> dict[str, str]:
    """Image id -> the name of its scene: the first id of the scene. Unreadable images are scenes of their own."""
    ids = sorted(images)
    found = dict(map_in_processes(_look, images, ids, workers))
    seen = [image_id for image_id in ids if found[image_id] is not None]
    looks = [look for image_id in seen if (look := found[image_id]) is not None]
    scenes = _Groups(ids)
    for first, second in itertools.chain(_copies(looks), _series(looks)):
        scenes.join(seen[first], seen[second])
    return {image_id: scenes.name(image_id) for image_id in ids}


def read_scenes(path: Path, names: Names) -> dict[str, str]:
    """Image id -> scene, of a text file with an image and the name of its scene on each line.

    Commas, semicolons, tabs or spaces separate the two. Images that it does not name are not in the result. Raises
    DataError for lines without a known image or without a scene, and for an image with two scenes.
    """
    scenes: dict[str, str] = {}
    for number, line in read_lines(path):
        image_id, scene = next(names.split(line), (None, ""))
        if image_id is None:
            raise DataError(
                f"{path}, line {number}: expected an image and the name of its scene, found {line!r}",
                "write for example: IMG_0001.jpg kitchen",
            )
        if scenes.setdefault(image_id, scene) != scene:
            raise DataError(f"{path}, line {number}: {image_id} is in scene {scenes[image_id]!r} already", "correct it")
    return scenes


def whole_scenes(ranked: Sequence[str], count: int, scene_of: Mapping[str, str]) -> list[str]:
    """At most `count` of the ids, in their order, so that no scene is taken in part: larger ones are passed over.

    DataError where no scene is small enough.
    """
    if not scene_of:
        return list(ranked[:count])
    members: dict[str, list[str]] = {}
    for image_id in ranked:
        members.setdefault(scene_of.get(image_id, image_id), []).append(image_id)
    taken: list[str] = []
    for scene in members.values():
        if len(taken) + len(scene) <= count:
            taken += scene
    if not taken and count:
        smallest = min(members.values(), key=len)
        raise DataError(
            f"asked for: {amount(count, 'image')}, and near-duplicates and series (scenes) stay together: the "
            f"smallest scene has {amount(len(smallest), 'image')} ({named(smallest)})",
            "ask for more or for none (val, holdout), or treat each image as a scene of its own (scenes, empty)",
        )
    return taken


# ------------------------------------------------------------------------------------------------- looking


def _look(images: Mapping[str, Path], image_id: str) -> _Look | None:
    try:
        with open_image(images[image_id]) as image:
            exif = image.getexif()
            image.draft("RGB", (4 * SIDE, 4 * SIDE))  # JPEG files are decoded at a fraction of their size
            grey = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), np.float32) / 255
    except Exception:  # Pillow's parsers raise anything on damaged files, which are reported when they are prepared
        return None
    coarse = grey.reshape(COARSE, SIDE // COARSE, COARSE, -1).mean((1, 3)).ravel()
    coarse -= coarse.mean()
    length = float(np.linalg.norm(coarse))
    coarse = coarse / length if length > 0.05 else np.zeros_like(coarse)
    padded = np.pad(grey, 2, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5))  # (SIDE, SIDE, 5, 5)
    return _Look(grey.tobytes(), coarse, grey - windows.mean((2, 3)), *_capture(exif))


def _capture(exif: Image.Exif) -> tuple[str | None, float | None]:
    """The camera, and the time in seconds, of an image's EXIF."""
    try:
        taken = datetime.strptime(str(exif.get_ifd(_EXIF)[_TAKEN]).strip("\0 "), "%Y:%m:%d %H:%M:%S")
    except (KeyError, ValueError):
        return None, None
    return f"{exif.get(_MAKE)} {exif.get(_MODEL)}", (taken - datetime(1970, 1, 1)).total_seconds()


# ------------------------------------------------------------------------------------------------- comparing


def _copies(looks: Sequence[_Look]) -> Iterable[tuple[int, int]]:
    """The pairs that are near-duplicates, as they are or mirrored."""
    if len(looks) < 2:
        return
    first_of: dict[bytes, int] = {}
    yield from ((first_of.setdefault(look.pixels, i), i) for i, look in enumerate(looks))  # images of one grey, too
    coarse = np.stack([look.coarse for look in looks])  # (N, COARSE * COARSE)
    fine = np.stack([look.fine for look in looks])  # (N, SIDE, SIDE)
    mirrored = coarse.reshape(-1, COARSE, COARSE)[:, :, ::-1].reshape(coarse.shape)
    for start in range(0, len(looks), _BLOCK):
        block = coarse[start : start + _BLOCK]
        for others, flip in ((coarse, False), (mirrored, True)):
            rows, columns = np.nonzero(block @ others.T >= ALIKE_COARSELY)
            rows += start
            later = rows < columns
            rows, columns = rows[later], columns[later]
            for some in range(0, len(rows), _PAIRS):
                first, second = rows[some : some + _PAIRS], columns[some : some + _PAIRS]
                alike = _likeness(fine[first], fine[second][:, :, ::-1] if flip else fine[second]) >= ALIKE
                yield from zip(first[alike].tolist(), second[alike].tolist(), strict=True)


def _likeness(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The correlation of two batches of fine structures (P, SIDE, SIDE), the largest of all shifts up to SHIFT."""
    best = np.full(len(a), -1, np.float32)
    for y, x in itertools.product(range(-SHIFT, SHIFT + 1), repeat=2):
        one = a[:, max(0, y) : SIDE + min(0, y), max(0, x) : SIDE + min(0, x)]
        other = b[:, max(0, -y) : SIDE + min(0, -y), max(0, -x) : SIDE + min(0, -x)]
        lengths = np.sqrt((one * one).sum((1, 2)) * (other * other).sum((1, 2)))
        np.maximum(best, (one * other).sum((1, 2)) / np.maximum(lengths, 1e-6), out=best)
    return best


def _series(looks: Sequence[_Look]) -> Iterable[tuple[int, int]]:
    """The pairs of successive photos of one camera within SERIES_S seconds."""
    timed = sorted((look.camera, look.taken, i) for i, look in enumerate(looks) if look.camera and look.taken)
    for (camera, taken, i), (other, later, j) in itertools.pairwise(timed):
        if camera == other and later - taken <= SERIES_S:
            yield i, j


class _Groups:
    """Disjoint sets of ids, each named by its first id."""

    def __init__(self, ids: Iterable[str]) -> None:
        self._parent = {image_id: image_id for image_id in ids}

    def name(self, image_id: str) -> str:
        while (parent := self._parent[image_id]) != image_id:
            self._parent[image_id] = image_id = self._parent[parent]
        return image_id

    def join(self, first: str, second: str) -> None:
        low, high = sorted((self.name(first), self.name(second)))
        self._parent[high] = low
