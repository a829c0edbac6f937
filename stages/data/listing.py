"""The files in a folder of images or masks: those that are used, and sentences on those that are left out.

listing = list_files(Path("photos"), SUFFIXES)
listing.files        # stem -> path
listing.left_out     # ("4 of 6 files of photos are used as images; not used: notes.txt (no image); ...",)
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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


class NamedFiles(Mapping[str, Path]):
    """Files of one folder by id, as the end that each name has after its id: the paths of a million files take 1 GB."""

    def __init__(self, folder: Path, ends: Mapping[str, str]) -> None:
        """ends: by id, in the order of the mapping; where a name does not begin with its id, "/" and the whole name."""
        self.folder, self._ends = folder, ends

    @classmethod
    def of(cls, folder: Path, names: Iterable[tuple[str, str]]) -> NamedFiles:
        """names: (id, name of its file), of one id the last one counts."""
        return cls(folder, {i: sys.intern(name[len(i) :]) if name.startswith(i) else f"/{name}" for i, name in names})

    def file_name(self, image_id: str) -> str:
        end = self._ends[image_id]
        return end[1:] if end[:1] == "/" else f"{image_id}{end}"

    def chosen(self, ids: Iterable[tuple[str, str]]) -> NamedFiles:
        """Some of the files. ids: (id there, id here)."""
        return NamedFiles.of(self.folder, ((there, self.file_name(here)) for there, here in ids))

    def __getitem__(self, image_id: str) -> Path:
        return self.folder / self.file_name(image_id)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._ends

    def __iter__(self) -> Iterator[str]:
        return iter(self._ends)

    def __len__(self) -> int:
        return len(self._ends)


class FilesBelow(Mapping[str, str]):
    """Files of several folders by id, relative to a folder that holds them all. No id is in two of them."""

    def __init__(self, root: Path, parts: Sequence[NamedFiles]) -> None:
        """root: absolute."""
        self.root = root
        below = [part.folder.absolute().relative_to(root).as_posix() for part in parts]
        self._parts = [("" if name == "." else f"{name}/", part) for name, part in zip(below, parts, strict=True)]

    def __getitem__(self, image_id: str) -> str:
        for begin, files in self._parts:
            if image_id in files:
                return f"{begin}{files.file_name(image_id)}"
        raise KeyError(image_id)

    def __iter__(self) -> Iterator[str]:
        return itertools.chain.from_iterable(files for _, files in self._parts)

    def __len__(self) -> int:
        return sum(len(files) for _, files in self._parts)


@dataclass(frozen=True)
class Listing:
    """files: those that are used, by their name without suffix, sorted. left_out: a sentence on all others, or none."""

    files: NamedFiles
    left_out: tuple[str, ...]


def list_files(folder: Path, suffixes: Sequence[str], what: str = "image", used: Iterable[Path] = ()) -> Listing:
    """The files directly in `folder` with one of the suffixes. DataError for two of one name without suffix.

    Of two files of one name, one of a common format is preferred to one of a rare format. Hidden files, and files used
    elsewhere (`used`, and folders with them), are not mentioned. what: the files that are looked for, for messages.
    """
    found: dict[str, str] = {}  # suffixes by the rest of the name
    left_out: dict[str, list[str]] = {}
    base = os.path.abspath(folder)
    absolute = {Path(os.path.abspath(path)) for path in used}
    spoken_for = absolute.union(*(path.parents for path in absolute))
    elsewhere = frozenset(map(str, spoken_for))
    names, odd = _names_in(folder)
    for name in names:
        hidden = name.startswith(".") or name.lower() in _OF_SYSTEMS
        if hidden or os.path.join(base, name) in elsewhere or (name in odd and (folder / name).is_dir()):
            continue
        stem, suffix = _divided(name)
        why, twin = _why_not(folder, name, name in odd, suffixes, what), found.get(stem)
        if not why and twin is not None:
            if suffix.lower() not in RARE or twin.lower() in RARE:
                several = f"two {what}s {'of' if what == 'mask' else 'named'} {stem!r}"
                cure = (
                    "remove one of them" if what == "mask" else "rename one of them: a result is named after its image"
                )
                raise DataError(f"{folder} has {several}: {stem}{twin} and {name}", cure)
            why = f"another {what} of the same name has a more common format"
        if why:
            left_out.setdefault(why, []).append(name)
        else:
            found[stem] = sys.intern(suffix)
    files, count = NamedFiles(folder, {stem: found[stem] for stem in sorted(found)}), len(found)
    count += sum(map(len, left_out.values()))
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
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.is_file(follow_symlinks=False))
    for path in (folder / name for name in names if not name.startswith(".")):
        if path.is_dir() and Path(os.path.abspath(path)) not in spoken_for:
            inside = sum(name.lower().endswith(SUFFIXES) for _, _, names in os.walk(path) for name in names)
            shown += [f"{path.name}/ with {amount(inside, 'image')}"] if inside else []
    return shown


def _names_in(folder: Path) -> tuple[list[str], set[str]]:
    """The names in a folder, those of common formats first; and which of them are no regular files, but links or so."""
    common: list[str] = []
    rare: list[str] = []
    odd: set[str] = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            (rare if _divided(entry.name)[1].lower() in RARE else common).append(entry.name)
            if not entry.is_file(follow_symlinks=False):
                odd.add(entry.name)
    return [*sorted(common), *sorted(rare)], odd


def _divided(name: str) -> tuple[str, str]:
    """stem and suffix, as a path has them."""
    dot = name.rfind(".")
    return (name[:dot], name[dot:]) if 0 < dot < len(name) - 1 else (name, "")


def _why_not(folder: Path, name: str, odd: bool, suffixes: Sequence[str], what: str) -> str:
    """Why a file is not used, as the end of a sentence; empty if it is used. odd: it may be no file."""
    suffix = _divided(name)[1].lower()
    if odd and not (path := folder / name).is_file():
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
    if suffix not in SUFFIXES and (kind := _kind(folder / name)):
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
