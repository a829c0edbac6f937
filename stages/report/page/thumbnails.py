"""Small images for a page, as `data:` URIs: photographs and maps as WebP, masks as PNG with few colours."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from artifacts.masks import IGNORE
from artifacts.score_maps import ScoreMap

SIDE = 320  # the longer side, in pixels
SHEET_WIDTH = 1000
QUALITY = 68

# What `errors_of` says of a pixel, and its colour, distinct with any colour vision.
RIGHT, MISSED, ADDED, CONFUSED, UNANSWERED, IGNORED = range(6)
ERROR_NAMES = {
    RIGHT: "right",
    MISSED: "missed: an object taken for background",
    ADDED: "added: background taken for an object",
    CONFUSED: "confused: one object taken for another",
    UNANSWERED: "no answer",
    IGNORED: "not scored",
}
ERROR_COLOURS = {
    RIGHT: (40, 44, 50),
    MISSED: (86, 180, 233),
    ADDED: (230, 159, 0),
    CONFUSED: (213, 94, 140),
    UNANSWERED: (255, 255, 255),
    IGNORED: (128, 128, 122),
}


@dataclass(frozen=True)
class Thumbnail:
    """An image as a `data:` URI, and its size in pixels."""

    uri: str
    width: int
    height: int


def small_size(height: int, width: int) -> tuple[int, int]:
    """(width, height) of the thumbnail of an image; no side is longer than SIDE, none is enlarged."""
    scale = min(1.0, SIDE / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def photograph(image: np.ndarray) -> Thumbnail:
    """image: RGB uint8 (H, W, 3)."""
    small = Image.fromarray(image).resize(small_size(*image.shape[:2]), Image.Resampling.LANCZOS)
    return _webp(small)


def sheet_thumbnail(image: Image.Image) -> Thumbnail:
    """A sheet of many images: wide enough to be read when it is enlarged."""
    width = min(image.width, SHEET_WIDTH)
    return _webp(image.convert("RGB").resize((width, round(image.height * width / image.width))))


def mask_thumbnail(mask: np.ndarray, palette: bytes) -> Thumbnail:
    """mask: uint8 (H, W). palette: 768 bytes; only the colours that occur are stored."""
    small = np.asarray(Image.fromarray(mask).resize(small_size(*mask.shape), Image.Resampling.NEAREST))
    values, places = np.unique(small, return_inverse=True)
    image = Image.fromarray(places.reshape(small.shape).astype(np.uint8))
    image.putpalette(np.frombuffer(palette, np.uint8).reshape(256, 3)[values].tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return _thumbnail(image, buffer, "png")


def error_words(errors: np.ndarray) -> str:
    """The largest errors of `errors_of` in shares of the scored pixels: "missed 31 %, added 4 %"; "" below 1 %."""
    counts = np.bincount(errors.ravel(), minlength=len(ERROR_NAMES))
    scored = max(int(counts.sum() - counts[IGNORED]), 1)
    shares = {error: 100 * int(counts[error]) / scored for error in (MISSED, ADDED, CONFUSED, UNANSWERED)}
    largest = sorted(shares, key=lambda error: -shares[error])[:2]
    names = {error: ERROR_NAMES[error].partition(":")[0] for error in largest}
    return ", ".join(f"{names[error]} {shares[error]:.0f} %" for error in largest if shares[error] >= 1)


def map_thumbnail(found: ScoreMap, image: np.ndarray, palette: bytes) -> Thumbnail:
    """Score maps over the darkened photograph: each pixel has the colour of its highest class, as bright as its score.

    The background's own map, where there is one, is left out.
    """
    size = small_size(*image.shape[:2])
    grey = np.asarray(Image.fromarray(image).convert("L").resize(size, Image.Resampling.LANCZOS), np.float32)
    shown = np.repeat(0.45 * grey[:, :, None], 3, axis=2)
    chosen = found.classes != 0
    if chosen.any():
        maps = [
            np.asarray(Image.fromarray(scores.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
            for scores in found.scores[chosen]
        ]
        best = np.argmax(maps, axis=0)
        score = np.clip(np.max(maps, axis=0), 0, 1)[:, :, None]
        colours = np.frombuffer(palette, np.uint8).reshape(256, 3)[found.classes[chosen]].astype(np.float32)
        colours *= 255 / np.maximum(colours.max(axis=1, keepdims=True), 1)  # as bright as they can be
        shown = (1 - 0.8 * score) * shown + 0.8 * score * colours[best]
    return _webp(Image.fromarray(shown.clip(0, 255).round().astype(np.uint8)))


def errors_of(prediction: np.ndarray, truth: np.ndarray, has_background: bool) -> np.ndarray:
    """What is wrong at each pixel, uint8 (H, W): RIGHT, MISSED, ... Both masks: uint8 (H, W)."""
    found = np.full(truth.shape, CONFUSED, np.uint8)
    if has_background:
        found[prediction == 0] = MISSED
        found[truth == 0] = ADDED
    found[prediction == IGNORE] = UNANSWERED
    found[prediction == truth] = RIGHT
    found[truth == IGNORE] = IGNORED
    return found


def error_palette() -> bytes:
    colours = np.zeros((256, 3), np.uint8)
    for value, colour in ERROR_COLOURS.items():
        colours[value] = colour
    return colours.tobytes()


def _webp(image: Image.Image) -> Thumbnail:
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=QUALITY, method=4)
    return _thumbnail(image, buffer, "webp")


def _thumbnail(image: Image.Image, buffer: io.BytesIO, kind: str) -> Thumbnail:
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Thumbnail(f"data:image/{kind};base64,{text}", *image.size)
