"""The files in a folder of images or masks: those that are used, and sentences on those that are left out.

listing = list_files(Path("photos"), SUFFIXES)
listing.files        # stem -> path
listing.left_out     # ("4 of 6 files of photos are used as images; not used: notes.txt (no image); ...",)
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from artifacts.errors import DataError
from artifacts.image_files import RARE, SUFFIXES, load_plugins
from artifacts.text import amount, named

_PACKAGES = {".heic": "pillow-heif", ".heif": "pillow-heif", ".hif": "pillow-heif", ".avif": "pillow-avif-plugin"}
_OF_SYSTEMS = ("thumbs.db", "desktop.ini")
_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"BM": "BMP",
    b"\0\0\0\x0cjP": "JPEG 2000",
}


@dataclass(frozen=True)
class Listing:
    """files: those that are used, by their name without suffix, sorted. left_out: a sentence on all others, or none."""

    files: dict[str, Path]
    left_out: tuple[str, ...]


def list_files(folder: Path, suffixes: Sequence[str], what: str = "image", used: Iterable[Path] = ()) -> Listing:
    """The files directly in `folder` with one of the suffixes. DataError for two of one name without suffix.

    Of two files of one name, one of a common format is preferred to one of a rare format. Hidden files, and files used
    elsewhere (`used`, and folders with them), are not mentioned. what: the files that are looked for, for messages.
    """
    found: dict[str, Path] = {}
    left_out: dict[str, list[str]] = {}
    absolute = {Path(os.path.abspath(path)) for path in used}
    spoken_for = absolute.union(*(path.parents for path in absolute))
    for path in sorted(folder.iterdir(), key=lambda path: (path.suffix.lower() in RARE, path.name)):
        hidden = path.name.startswith(".") or path.name.lower() in _OF_SYSTEMS
        if hidden or path.is_dir() or Path(os.path.abspath(path)) in spoken_for:
            continue
        why, twin = _why_not(path, suffixes, what), found.get(path.stem)
        if not why and twin is not None:
            if path.suffix.lower() not in RARE or twin.suffix.lower() in RARE:
                several = f"two {what}s {'of' if what == 'mask' else 'named'} {path.stem!r}"
                cure = (
                    "remove one of them" if what == "mask" else "rename one of them: a result is named after its image"
                )
                raise DataError(f"{folder} has {several}: {twin.name} and {path.name}", cure)
            why = f"another {what} of the same name has a more common format"
        if why:
            left_out.setdefault(why, []).append(path.name)
        else:
            found[path.stem] = path
    files, count = dict(sorted(found.items())), len(found) + sum(map(len, left_out.values()))
    if within := _sub_folders(folder, spoken_for):
        left_out["only files directly in the folder are used: copy them into it"] = within
    if not left_out:
        return Listing(files, ())
    parts = "; ".join(f"{named(names)} ({_files(names)}{why})" for why, names in left_out.items())
    return Listing(files, (f"{len(files):,} of {count:,} files of {folder} are used as {what}s; not used: {parts}",))


def _files(names: Sequence[str]) -> str:
    return "" if len(names) == 1 else f"{len(names):,}: "


def _sub_folders(folder: Path, spoken_for: Collection[Path]) -> list[str]:
    """The sub-folders that hold images at any depth, each with their number."""
    shown = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith(".") and Path(os.path.abspath(path)) not in spoken_for:
            inside = sum(name.lower().endswith(SUFFIXES) for _, _, names in os.walk(path) for name in names)
            shown += [f"{path.name}/ with {amount(inside, 'image')}"] if inside else []
    return shown


def _why_not(path: Path, suffixes: Sequence[str], what: str) -> str:
    """Why a file is not used, as the end of a sentence; empty if it is used."""
    suffix = path.suffix.lower()
    if not path.is_file():
        return "a broken link" if path.is_symlink() else "not a regular file"
    if suffix in suffixes:
        if suffix in _PACKAGES:
            load_plugins()
        if suffix not in SUFFIXES or suffix in Image.registered_extensions():
            return ""
        return (
            f"needs the package {_PACKAGES[suffix]}: pip install {_PACKAGES[suffix]}"
            if suffix in _PACKAGES
            else "not read by the installed Pillow"
        )
    if suffix not in SUFFIXES and (kind := _kind(path)):
        return f"a {kind} file by its content, but without its suffix"
    return f"no {what}"


def _kind(path: Path) -> str:
    """The type of a file by its first bytes; empty if they are not those of an image, or cannot be read."""
    try:
        with open(path, "rb") as file:
            head = file.read(12)
    except OSError:
        return ""
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp":
        return "HEIC or AVIF"
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "")
