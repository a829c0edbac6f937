"""Damaged files of every format and kind of pixels, through the readers of images: read alike by all, or refused."""

from __future__ import annotations

import io
import random
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from stages.data.images import ImageFolder, notes_on
from stages.data.photographs import look_at
from tests.fuzz.exif import refusal

H, W = 5, 7
MODES = {
    "jpg": ("RGB", "L", "CMYK"),
    "png": ("RGB", "L", "P", "LA", "RGBA", "1", "I;16"),
    "bmp": ("RGB", "L", "P"),
    "webp": ("RGB", "RGBA"),
    "tif": ("RGB", "L", "P", "LA", "RGBA", "CMYK", "1", "I;16", "F", "I", "uint16 colours"),
    "gif": ("P", "L", "two frames"),
    "ppm": ("RGB", "L", "I;16"),
    "jp2": ("RGB", "L", "RGBA"),
    "tga": ("RGB", "RGBA", "L"),
}


def fuzz(rng: random.Random, folder: Path) -> str:
    suffix = rng.choice(sorted(MODES))
    data = bytearray(_whole(suffix, rng.choice(MODES[suffix])))
    damage = rng.choice(("none", "bytes", "bytes", "end", "text"))
    if damage == "bytes":
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.choice((0, 1, 127, 255, rng.randrange(256)))
    elif damage == "end":
        del data[rng.randrange(len(data)) :]
    elif damage == "text":
        data[:] = b"<html>not found</html>"
    path = folder / f"a.{suffix}"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _read(path, whole=damage == "none")


def _read(path: Path, whole: bool) -> str:
    images = ImageFolder(path.parent, white=0)
    notes_on(images, workers=1)
    read = [lambda _: look_at(path, None, True, "auto", True), images.image]
    refusals = [refusal(reader) for reader in read]
    assert all(str(path) in message for message in refusals if message)
    assert bool(refusals[0]) == bool(refusals[1]), refusals  # prepare-data and predict agree
    if refusals[0]:
        assert not whole, refusals
        refusal(images.size)
        return "refused"
    assert images.size("a") == images.image("a").shape[:2] == look_at(path, None, True, "auto", True).size
    return "read"


@cache
def _whole(suffix: str, mode: str) -> bytes:
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    colours = rng.integers(0, 256, (H, W, 4), np.uint8)
    if mode == "uint16 colours":
        tifffile.imwrite(buffer, colours[..., :3].astype(np.uint16) * 257, photometric="rgb")
        return buffer.getvalue()
    if mode in ("I;16", "F", "I"):
        kind = {"I;16": np.uint16, "F": np.float32, "I": np.int32}[mode]
        image = Image.fromarray(rng.integers(0, 4096, (H, W)).astype(kind))
    else:
        image = Image.fromarray(colours).convert({"two frames": "P"}.get(mode, mode))
    how = {"gif": {"save_all": True, "append_images": [image.rotate(180)]}} if mode == "two frames" else {}
    formats = {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}
    image.save(buffer, format=formats.get(suffix, suffix.upper()), **how.get(suffix, {}))
    return buffer.getvalue()
