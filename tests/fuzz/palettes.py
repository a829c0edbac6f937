"""Made-up masks of every mode and format, with palettes of every length, and class tables of ids and of colours.

An image of class ids is drawn, written as people's programs write such masks, and read by the reader of folders: what
comes back equals what was drawn, or a DataError says why not. A value without a colour, a colour or value that is in no
table, and a mask whose values do not survive its format never become background.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from artifacts.errors import DataError
from stages.contract import Execution, PlainProgress
from stages.data.config import FolderConfig
from stages.data.readers.folder import find

HEIGHT, WIDTH = 5, 7
NAMES = ("background", "cat", "dog", "cup", "disc", "traffic light", "x1")
Colour = tuple[int, int, int]


class Quiet(PlainProgress):
    def note(self, text: str) -> None:
        pass


# ------------------------------------------------------------------------------------------------- files, by hand


def indexed_png(path: Path, values: np.ndarray, colours: Sequence[Colour], bits: int = 8, alpha: bytes = b"") -> Path:
    """A PNG of colour type 3 whose colour table has exactly these colours, put together from the specification."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape
    digits = ["".join(f"{value:0{bits}b}" for value in row).ljust(-(-width * bits // 8) * 8, "0") for row in values]
    rows = b"".join(b"\0" + int(row, 2).to_bytes(len(row) // 8, "big") for row in digits)
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 3, 0, 0, 0))]
    parts += [chunk(b"PLTE", bytes(channel for colour in colours for channel in colour))]
    parts += [chunk(b"tRNS", alpha)] if alpha else []
    parts += [chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def indexed_tiff(path: Path, values: np.ndarray, colours: Sequence[Colour], scale: int = 257) -> Path:
    """A TIFF with a colour map of 256 words a channel; scale 1: words of 8 bits, as some programs write them."""
    height, width = values.shape
    table = np.zeros((256, 3), "<u2")
    table[: len(colours)] = np.array(colours, np.uint16) * scale
    words, pixels = table.T.tobytes(), values.astype(np.uint8).tobytes()
    at = 8 + 2 + 12 * 9 + 4  # behind the header and the directory
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 3)]
    tags += [(273, 4, 1, at + len(words)), (278, 3, 1, height), (279, 4, 1, len(pixels)), (320, 3, 768, at)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + words + pixels)
    return path


def short_gif(path: Path, values: np.ndarray, colours: Sequence[Colour]) -> Path:
    """A GIF whose colour table has the next power of two of entries, though values may be larger."""
    image = Image.fromarray(values)
    image.putpalette([channel for value in range(256) for channel in (value, 255 - value, 7)])
    image.save(path, optimize=False)
    data, bits = path.read_bytes(), max(1, (len(colours) - 1).bit_length())
    assert data[10] & 0x87 == 0x87, "a global colour table of 256 entries"
    table = bytes(channel for colour in colours for channel in colour).ljust(3 << bits, b"\0")
    path.write_bytes(data[:10] + bytes([data[10] & 0x78 | 0x80 | bits - 1]) + data[11:13] + table + data[13 + 768 :])
    return path


def with_palette(rng: random.Random, path: Path, values: np.ndarray, colours: Sequence[Colour]) -> Path:
    """The values in a file of some format with this colour table."""
    kind = rng.choice(("png", "png", "gif", "bmp", "tif", "tif8"))
    if kind == "png":
        enough = [bits for bits in (1, 2, 4, 8) if values.max() < 1 << bits and len(colours) <= 1 << bits]
        return indexed_png(path.with_suffix(".png"), values, colours, rng.choice(enough))
    if kind == "gif":
        return short_gif(path.with_suffix(".gif"), values, colours)
    if kind == "bmp":
        image = Image.fromarray(values)
        image.putpalette([channel for colour in colours for channel in colour])
        image.save(path.with_suffix(".bmp"))
        return path.with_suffix(".bmp")
    return indexed_tiff(path.with_suffix(".tif"), values, colours, 1 if kind == "tif8" else 257)


# ------------------------------------------------------------------------------------------------- what is meant


def colour(rng: random.Random) -> Colour:
    if rng.random() < 0.25:
        return (rng.choice((0, 1, 2, 85, 128, 200, 255)),) * 3  # grey
    return tuple(rng.choice((0, 0, 64, 128, 192, 255, rng.randrange(256))) for _ in range(3))  # type: ignore[return-value]


def distinct(rng: random.Random, count: int) -> list[Colour]:
    colours: list[Colour] = [(0, 0, 0)]
    while len(colours) < count:
        if (new := colour(rng)) not in colours:
            colours.append(new)
    return colours


def write_ids(rng: random.Random, path: Path, values: np.ndarray) -> bool:
    """An index mask, the values being the ids, as some program writes it; whether the file holds these values."""
    how = rng.choice(("P", "P", "L", "RGB", "RGBA", "LA", "I;16", "I", "F"))
    if how == "P":
        least = int(values.max()) + 1 if rng.random() < 0.6 else 1
        with_palette(rng, path, values, [colour(rng) for _ in range(rng.randint(least, 256))])
        return True
    suffix = rng.choice([".png", ".tif", ".bmp"])
    suffix = ".tif" if how in ("I", "F") or (how in ("LA", "I;16") and suffix == ".bmp") else suffix
    pixels = values.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}.get(how, np.uint8))
    spoilt = how in ("I;16", "I", "F") and rng.random() < 0.1
    if spoilt:
        pixels[-1, -1] = pixels[-1, -1] + rng.choice({"I;16": (256, 2560), "I": (256, -256)}.get(how, (0.5, np.nan)))
    image = Image.fromarray(pixels)
    if how in ("RGB", "RGBA", "LA"):
        image = image.convert(how)
    if how in ("RGBA", "LA") and suffix != ".bmp" and values[0, 0] and rng.random() < 0.1:
        image.putpixel((0, 0), (*image.getpixel((0, 0))[:-1], rng.choice((0, 128))))
        spoilt = True
    image.save(path.with_suffix(suffix))
    return not spoilt


def write_colours(rng: random.Random, path: Path, classes: np.ndarray, colours: Sequence[Colour]) -> bool:
    """A painted mask of these indices into `colours`; whether every pixel has its colour in the file."""
    how = rng.choice(("P", "P", "RGB", "RGBA"))
    if how != "P":
        pixels = np.array(colours, np.uint8)[classes]
        suffix = rng.choice((".png", ".tif", ".bmp") if how == "RGB" else (".png", ".tif"))
        Image.fromarray(pixels).convert(how).save(path.with_suffix(suffix))
        return True
    order = list(range(len(colours)))
    rng.shuffle(order)
    table = [colours[index] for index in order] + [colour(rng) for _ in range(rng.randint(0, 20))]
    values = np.array([order.index(index) for index in range(len(colours))], np.uint8)[classes]
    if rng.random() < 0.3:  # cut off, but not before the black: what fills up a table is black, too
        table = table[: rng.randint(1 + order.index(0), len(table))]
    with_palette(rng, path, values, table)
    return int(values.max()) < len(table)


def fuzz(rng: random.Random, folder: Path) -> str:
    """Three images and masks, a class table, and perhaps the setting that says how the masks are meant."""
    count = rng.randint(2, len(NAMES))
    painted = rng.random() < 0.5
    ignored = rng.random() < 0.5
    colours, ids = distinct(rng, count + ignored), list(range(count))
    if not painted and rng.random() < 0.5:
        ids = rng.sample(range(255), count)
    lines = [f"{NAMES[number]} {' '.join(map(str, colours[number]))}" for number in range(count)]
    if painted and ignored:
        lines.append(f"__ignore__ {' '.join(map(str, colours[count]))}")
    if not painted:
        lines = [f"{class_id} {name}" for class_id, name in zip(ids, NAMES, strict=False)]
        lines += ["255 __ignore__"] * (ignored and rng.random() < 0.5)
        rng.shuffle(lines)
    (folder / "photos").mkdir()
    (folder / "masks").mkdir()
    (folder / "classes.txt").write_text("\n".join(lines))
    stranger = rng.random() < 0.2  # a colour or a value that is not a class
    drawn, whole = {}, not stranger
    for name in ("a", "b", "c"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / f"photos/{name}.png")
        classes = np.array([[rng.randrange(count + ignored) for _ in range(WIDTH)] for _ in range(HEIGHT)])
        drawn[name] = np.where(classes == count, 255, classes)
        path = folder / "masks" / name
        if painted:
            known = [*colours, next(c for c in iter(lambda: colour(rng), None) if c not in colours)]
            classes[0, 0] = len(colours) if stranger else classes[0, 0]
            whole &= write_colours(rng, path, classes, known)
        else:
            values = np.array([*ids, 255], np.uint8)[classes]
            other = next(value for value in iter(lambda: rng.randrange(255), None) if value not in ids)
            values[0, 0] = other if stranger else values[0, 0]
            whole &= write_ids(rng, path, values)
    said = rng.choice(("auto", "auto", "colours" if painted else "ids"))
    settings = FolderConfig(
        images=str(folder / "photos"), masks=str(folder / "masks"), class_table=str(folder / "classes.txt"),
        mask_format=said, val="",
    )  # fmt: skip
    try:
        raw = find(settings, Execution(progress=Quiet()))
        read = {name: raw.read_mask(raw.masks[name]) for name in drawn}
    except DataError as error:
        return "refused" if error.hint else "refused without a hint"
    assert whole, "a value without a colour, or what is in no table or no mask, was read as a class"
    number = {name: raw.class_names.index(name) for name in NAMES[:count]}
    lookup = np.array([*(number[name] for name in NAMES[:count]), *[0] * (255 - count), 255])
    for name, classes in drawn.items():
        np.testing.assert_array_equal(read[name], lookup[classes], err_msg=f"{name}: {lines}")
    return "read as " + raw.facts["mask_format"]
