"""Which annotation files a place holds, by their content: one file for all images, or one for each beside the masks.

format_of(Path("annotations.xml"))      # "cvat"
find_annotations(Path("photos"), image_ids, "auto", used=[])       # LabelMe's JSON files, ...
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from artifacts.errors import DataError
from artifacts.image_files import SUFFIXES
from artifacts.text import named
from stages.data.annotations.formats import begins_as_xml, what_json_is, what_text_is, what_xml_is
from stages.data.annotations.reading import not_read, read_json, read_xml
from stages.data.annotations.yolo import NAMES_FILES, is_yolo_file
from stages.data.listing import NamedFiles, list_files
from stages.data.lists.id_lists import composed

ONE_FILE = {"coco": "COCO", "cvat": "CVAT", "label-studio": "Label Studio"}  # formats that are one file for all images
ONE_EACH = {"labelme": "LabelMe", "supervisely": "Supervisely", "yolo": "YOLO"}  # and those with a file for each


@dataclass(frozen=True)
class Found:
    """Annotation files, one for each image: their format, the files by image, and sentences on those left out."""

    kind: str
    files: NamedFiles
    left_out: tuple[str, ...]


def format_of(path: Path) -> str:
    """The format of one file for all images, by its content."""
    beginning = _beginning(path)
    if begins_as_xml(beginning):
        return "cvat"
    return "label-studio" if beginning.lstrip(b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n").startswith(b"[") else "coco"


def beside_images(folder: Path, used: Iterable[Path]) -> list[Path]:
    """The files in a folder of images that may be annotations of them."""
    return [*folder.glob("*.json"), *filter(is_yolo_file, _texts(folder, used))]


def find_annotations(place: Path, ids: Collection[str], kind: str, used: Iterable[Path]) -> Found | None:
    """The annotation files in a folder, of the format `kind` or of any ("auto"); None where it holds none.

    used: files and folders that are something else. DataError for JSON files that are not read.
    """
    outlined = list_files(place, (".json",), "annotation file", used)
    texts = [] if kind not in ("auto", "yolo") or (kind == "auto" and outlined.files) else _texts(place, used)
    yolo = [path for path in texts if path.stem in ids or is_yolo_file(path)]
    if kind == "yolo" or holds_yolo(place, used):
        others = [path.name for path in texts if path not in yolo]
        left_out = (f"{len(others)} text files of {place} are not YOLO's: {named(others)}",) if others else ()
        return (
            Found("yolo", NamedFiles.of(place, ((path.stem, path.name) for path in yolo)), left_out) if yolo else None
        )
    if not outlined.files:
        return None
    kind = annotations_beside(outlined.files.values()) if kind == "auto" else kind
    return Found(kind, unsuffixed(outlined.files, ids), outlined.left_out)


def holds_yolo(place: Path, used: Iterable[Path]) -> bool:
    """Whether a text file in the folder is YOLO's; all that are empty are no sign of it."""
    return any(path.stat().st_size and is_yolo_file(path) for path in _texts(place, used))


def _texts(place: Path, used: Iterable[Path]) -> list[Path]:
    """The text files in a folder but those of class names and those used elsewhere."""
    elsewhere = {path.resolve() for path in used}
    return [
        path
        for path in sorted(place.glob("[!.]*.txt"))
        if path.is_file() and path.name not in NAMES_FILES and path.resolve() not in elsewhere
    ]


def annotations_beside(paths: Iterable[Path]) -> str:
    """labelme or supervisely, by the first file of its kind; DataError, with its kind, for any other JSON file."""
    contents = {}
    for path in paths:
        try:
            content = read_json(path)
        except DataError:  # a damaged one, reported with all others
            continue
        if isinstance(content, dict) and isinstance(content.get("shapes"), list):
            return "labelme"
        if isinstance(content, dict) and isinstance(content.get("objects"), list) and "imgHeight" not in content:
            return "supervisely"
        contents[path] = content
    for path, content in contents.items():
        if found := what_json_is(content):
            raise not_read(path, found)
    return "labelme"


def what_folder_holds(place: Path) -> tuple[str, str] | None:
    """What a folder without masks holds instead, and what to do; None if that is not known."""
    files = sorted(path for path in place.iterdir() if path.is_file() and not path.name.startswith("."))
    for path in files:
        if path.suffix.lower() == ".xml":
            what, cure = what_xml_is(read_xml(path))
            return f"{path.name}, {what}", cure
        if path.suffix.lower() in (".txt", ".zip") and (found := what_text_is(_beginning(path))):
            return f"{path.name}, {found[0]}", found[1]
    if (place / "ann").is_dir():
        return "a Supervisely data set", f"name its folders: --masks {place / 'ann'} --images {place / 'img'}"
    return None


def unsuffixed(files: NamedFiles, ids: Collection[str]) -> NamedFiles:
    """Files such as `street.jpg.json` by the id of their image; DataError for two of one image."""
    known = {composed(image_id) for image_id in ids}
    found: dict[str, str] = {}
    for stem in files:
        bare = composed(stem) not in known and Path(stem).suffix.lower() in SUFFIXES
        name = Path(stem).stem if bare else stem
        if name in found:
            both = f"{files.file_name(found[name])} and {files.file_name(stem)}"
            raise DataError(f"{files.folder} has two masks of {name!r}: {both}", "remove one of them")
        found[name] = stem
    return files.chosen(found.items())


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)
