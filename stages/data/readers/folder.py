"""Your own images: a folder of images, and for each of them a mask, image-level labels, or nothing.

    raw = find(FolderConfig(images="photos", masks="masks", class_table="classes.txt", labels="labels.csv"), execution)

Images and masks are matched by file name without suffix. An image with a mask is labelled (split train, or val), one
with image-level labels alone is weak, one with neither is unlabelled. Masks are index PNGs, painted colours, black and
white, LabelMe's or Supervisely's JSON files or YOLO's text files (beside the images or in a folder), or one file (COCO
and Label Studio: JSON, CVAT: XML), or in several of these places. Settings that are not given are inferred from the
files, printed, and can be set.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from artifacts.dataset import check_class_names
from artifacts.errors import DataError
from artifacts.image_files import RARE
from artifacts.masks import IGNORE, read_mask
from artifacts.text import amount, named
from stages.contract import Execution
from stages.data.annotations.annotated_masks import Given, read_annotations
from stages.data.annotations.annotation_places import (
    ONE_EACH,
    ONE_FILE,
    beside_images,
    find_annotations,
    format_of,
    holds_yolo,
    what_folder_holds,
)
from stages.data.annotations.class_table import BLACK, WHITE, ClassTable, read_class_table
from stages.data.annotations.colour_masks import (
    ranges,
    read_colours,
    read_values,
    remarks_on_colours,
    renumber,
    to_indices,
)
from stages.data.annotations.image_labels import read_label_table
from stages.data.annotations.palette_guess import Guess, guess_palette
from stages.data.annotations.supervisely import classes_file
from stages.data.annotations.yolo import names_file
from stages.data.choose_splits import SIMILAR, choose_val, scenes_of, wanted_val
from stages.data.config import FolderConfig
from stages.data.images import ImageFolder
from stages.data.listing import FilesBelow, NamedFiles, list_files
from stages.data.lists.id_lists import Names, composed, meant_ids
from stages.data.readers.mask_places import Masks, mask_places, together
from stages.data.readers.raw import RawDataset, says_what_cannot_be_read

MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif", ".pgm", ".ppm", ".pnm", ".pbm")
LOSSY_SUFFIXES = (".jpg", ".jpeg", ".webp", ".jpe", ".jfif", ".mpo", ".jp2", ".j2k", ".avif", ".heic", ".heif", ".hif")
MOST_NAMED = 50  # mismatches that one message lists
_ENDING = re.compile(r"[ _.-]*(mask|masks|label|labels|gt|seg|segmentation|annotation|L|P)$", re.IGNORECASE)


@dataclass(frozen=True)
class MaskFiles:
    """Reads index masks, painted masks and black-and-white ones."""

    format: str  # "ids", "colours" or "binary"
    table: ClassTable

    def __call__(self, path: Path) -> np.ndarray:
        if self.format == "ids":
            return renumber(read_values(path), self.table, path)
        return to_indices(read_colours(path), self.table, path)

    def remarks(self, path: Path) -> list[str]:
        """Remarks on a mask that can be read, but perhaps not as it was meant."""
        return [] if self.format == "ids" else remarks_on_colours(path)


# ------------------------------------------------------------------------------------------------- all together


@says_what_cannot_be_read
def find(settings: FolderConfig, execution: Execution) -> RawDataset:
    """The images, and what there is for each of them."""
    note = execution.progress.note
    images = Path(settings.images).expanduser()
    beside = any(place.resolve() == images.resolve() for place in mask_places(settings))
    used = _used(settings, images)
    folder = ImageFolder(images, [*used, *(beside_images(images, used) if beside else ())])
    files = folder.files
    table = read_class_table(Path(settings.class_table).expanduser()) if settings.class_table else None
    for sentence in table.notes if table else ():
        note(sentence)
    with _says_what_is_left_out(folder):
        masks = find_masks(settings, table, folder, note)
    further = _unlabelled(settings, files)
    parts = [files, further.files] if further else [files]
    root = Path(os.path.commonpath([part.folder.absolute() for part in parts]))
    everything = FilesBelow(root, parts)
    more = tuple(further.ids) if further else ()
    _check_case(everything)
    written = Names(everything)
    classes = masks.class_names if masks else table.names if table else ()
    with _says_what_is_left_out(folder):
        labels = _labels(settings, classes, files, written, note)
    names = masks.class_names if masks else _names_of(settings, table, labels, note)
    entries = masks.entries if masks else {}
    weak = [image_id for image_id in sorted(labels) if image_id not in entries]
    bare = [image_id for image_id in files if image_id not in entries and image_id not in labels]
    scene_of = scenes_of(settings, everything, written, execution)
    val = choose_val(settings, sorted(entries), written, note, bool(weak), scene_of)
    labelled = sorted(entries.keys() - set(val))
    _tell(note, settings, len(entries), len(weak), len(bare) + len(more), len(val))
    return RawDataset(
        name=Path(os.path.abspath(folder.path)).name,
        class_names=names,
        root=root,
        images=everything,
        masks=entries,
        read_mask=masks.read if masks else read_mask,
        train=tuple(labelled),
        pool=tuple(sorted([*labelled, *weak])),
        val=tuple(val),
        unlabelled=tuple(sorted([*bare, *more])),
        tag_sources={"file": lambda ids: {i: labels[i] for i in ids if i in labels}} if labels else {},
        tags_of_masks_too=True,
        photographs=True,
        exif=settings.exif,
        remarks=masks.remarks if masks else None,
        white=settings.white,
        scene_of=scene_of,
        left_out=(
            *folder.left_out,
            *(masks.left_out if masks else ()),
            *(further.left_out if further else ()),
        ),
        facts=masks.facts if masks else {},
    )


@says_what_cannot_be_read
def text_files(settings: FolderConfig) -> dict[str, Path]:
    """Class table, labels, the list of val, and the folders: a corrected mask or one more image is a new data set.

    DataError for a folder that may not be read, and for file names that are not text.
    """
    keys = ("images", "unlabelled", "class_table", "labels")
    files = {key: Path(value).expanduser() for key in keys if (value := str(getattr(settings, key)))}
    for number, place in enumerate(mask_places(settings)):
        files |= _files_of_masks(settings, place, f"-{number + 1}" if number else "")
    for path in files.values():
        _check_folder(path)
    if isinstance(wanted := wanted_val(settings), Path):
        files["val"] = wanted
    if settings.scenes not in ("", SIMILAR):
        files["scenes"] = Path(settings.scenes).expanduser()
    return files


def _files_of_masks(settings: FolderConfig, place: Path, which: str) -> dict[str, Path]:
    """A place of masks, where it is not the folder of images, and the files that name its classes."""
    beside = place == Path(settings.images).expanduser()
    _check_folder(place)
    files = {} if beside else {f"masks{which}": place}
    if settings.mask_format in ("auto", "supervisely") and not beside and (meta := classes_file(place)):
        files[f"meta{which}"] = meta
    yolo = settings.mask_format in ("auto", "yolo") and holds_yolo(place, _used(settings, place))
    if yolo and (names := names_file(place)):
        files[f"names{which}"] = names
    return files


@contextlib.contextmanager
def _says_what_is_left_out(folder: ImageFolder) -> Iterator[None]:
    """A mask or a label may have no image because the image was left out: an error of the block says so."""
    try:
        yield
    except DataError as error:
        raise DataError("\n".join([error.message, *folder.left_out]), error.hint) from None


def _used(settings: FolderConfig, folder: Path) -> list[Path]:
    """Tables, lists and folders of the settings, which may be in a folder of images or masks without being one."""
    keys = ("images", "unlabelled", "class_table", "labels", "val", "scenes")
    named_ = [Path(name).expanduser() for key in keys if (name := getattr(settings, key))]
    return [path for path in (*named_, *mask_places(settings)) if path.resolve() != folder.resolve()]


def _check_folder(path: Path) -> None:
    try:
        names = os.listdir(path) if path.is_dir() else []
    except OSError as error:
        raise DataError(f"the folder {path} cannot be read: {error.strerror}", "correct its permissions") from None
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"{path} has the file name {os.fsencode(name)!r}, which is not UTF-8 text", "rename the file"
            ) from None


def _tell(note: Callable[[str], None], settings: FolderConfig, masked: int, weak: int, bare: int, val: int) -> None:
    note(f"{masked:,} images with masks, {weak:,} with image-level labels alone, {bare:,} with neither")
    if val and not isinstance(wanted_val(settings), Path):
        note(f"val: {val:,} of the images with masks, drawn with val_seed {settings.val_seed} (--val LIST pins them)")


def _check_case(ids: Iterable[str]) -> None:
    """DataError for ids that differ only in case: they would be one file on macOS and Windows."""
    folded = {image_id: composed(image_id).casefold() for image_id in ids}
    if len(set(folded.values())) < len(folded):
        several: dict[str, list[str]] = {}
        for image_id, name in folded.items():
            several.setdefault(name, []).append(image_id)
        same = [" and ".join(map(repr, some)) for some in several.values() if len(some) > 1]
        raise DataError(
            f"the names of some images differ only in case: {named(same)}",
            "rename one of each: on other computers they would be the same file",
        )


# ------------------------------------------------------------------------------------------------- masks


def find_masks(
    settings: FolderConfig, table: ClassTable | None, folder: ImageFolder, note: Callable[[str], None]
) -> Masks | None:
    """The masks that the settings name, each with its image; None where they name none."""
    places = mask_places(settings)
    if not places:
        if settings.mask_format != "auto":
            raise DataError(f"mask_format is {settings.mask_format}, but no masks are given", "name them (--masks)")
        return None
    found: list[Masks] = []
    for place in places:
        found.append(_masks_in(place, settings, table, folder, note))
        table = table or ClassTable(found[0].class_names)
    return found[0] if len(found) == 1 else together(found, places, note)


def _masks_in(
    place: Path, settings: FolderConfig, table: ClassTable | None, folder: ImageFolder, note: Callable[[str], None]
) -> Masks:
    """The masks of one folder or file."""
    if not place.exists():
        raise DataError(f"masks names {place}, which does not exist", "correct it (--masks)")
    kind: str = settings.mask_format
    if place.is_file():
        of_all = format_of(place) if kind == "auto" else kind
        if of_all not in ONE_FILE:
            raise DataError(f"{place} is a file; masks of the format {of_all} are a folder", "correct --masks")
        if kind == "auto":
            note(f"masks: a {ONE_FILE[of_all]} file (--set dataset.mask_format={of_all} pins it)")
        return _annotated(of_all, NamedFiles(place, {}), place, table, folder, note)
    if kind in ONE_FILE:
        raise DataError(f"{place} is not a file; masks of the format {kind} are one file", "correct --masks")
    used, beside = _used(settings, place), place.samefile(folder.path)
    listing = list_files(place, MASK_SUFFIXES, "mask", [*used, *place.glob("*.json")])
    files = listing.files
    found = find_annotations(place, folder.ids, kind, used) if kind in ONE_EACH or not files or beside else None
    if found is not None:
        if kind == "auto":
            files_are = f"{len(found.files)} {ONE_EACH[found.kind]} files"
            note(f"masks: {files_are} (--set dataset.mask_format={found.kind} pins it)")
        masks = _annotated(found.kind, match(found.files, folder.ids, place, note), place, table, folder, note)
        return masks if beside and found.kind != "yolo" else replace(masks, left_out=found.left_out)
    if kind in ONE_EACH:
        raise DataError(f"{place} holds no {ONE_EACH[kind]} file", "correct --masks")
    if (beside or not files) and (other := what_folder_holds(place)):
        raise DataError(f"{place} holds no mask, but {other[0]}", other[1])
    if beside:
        raise DataError(
            f"masks and images are the same folder, {place}, and no file of LabelMe, Supervisely or YOLO is in it",
            "put the masks into a folder of their own",
        )
    refuse_lossy(place, files)
    if not files:
        why = "".join(f"\n  {sentence}" for sentence in listing.left_out)
        raise DataError(
            f"{place} holds no mask ({', '.join(MASK_SUFFIXES)}, LabelMe's or Supervisely's .json, YOLO's .txt){why}",
            "correct --masks",
        )
    if outlines := len(list(place.glob("[!.]*.json"))):
        note(f"{outlines} .json files next to the masks are not used (--set dataset.mask_format=labelme)")
    entries = match(files, folder.ids, place, note)
    kind, table = understand(kind, table, entries.values(), note)
    files_read = MaskFiles(kind, table)
    return Masks(entries, files_read, table.names, {"mask_format": kind}, files_read.remarks, listing.left_out)


def refuse_lossy(place: Path, files: Mapping[str, Path]) -> None:
    """DataError for masks in `place` of lossy formats, unless `files` has a good one of the same name."""
    blurred = sorted(path for path in place.iterdir() if path.suffix.lower() in LOSSY_SUFFIXES and path.is_file())
    lossy = [path.name for path in blurred if path.suffix.lower() not in RARE or path.stem not in files]
    if lossy := [name for name in lossy if not name.startswith(".")]:
        raise DataError(
            f"{amount(len(lossy), f'mask in {place} is', f'masks in {place} are')} JPEG, WebP or of a similar format, "
            f"which blurs the classes: {named(lossy)}",
            "export them as PNG from the program that drew them, or remove them",
        )


def match(files: NamedFiles, ids: Sequence[str], place: Path, note: Callable[[str], None]) -> NamedFiles:
    """Masks by image, see `named_after`. DataError for masks without an image."""
    files = named_after(files, ids, note)
    if lonely := sorted(set(files) - set(ids)):
        shown = ", ".join(files.file_name(stem) for stem in lonely[:MOST_NAMED])
        more = f" and {len(lonely) - MOST_NAMED} more" if len(lonely) > MOST_NAMED else ""
        raise DataError(
            f"{len(lonely)} of {len(files)} masks in {place} have no image of that name: {shown}{more}",
            meant_ids(lonely, ids) + "a mask has the file name of its image; rename or remove them",
        )
    return files.chosen((stem, stem) for stem in sorted(files))


def named_after(files: NamedFiles, ids: Sequence[str], note: Callable[[str], None]) -> NamedFiles:
    """Masks by image: equal stems, or all masks with one ending such as `_mask`; those without an image by stem."""
    same = {composed(image_id): image_id for image_id in ids}
    files = files.chosen((same.get(composed(stem), stem), stem) for stem in files)
    if not any(image_id in files for image_id in ids):
        endings = {found[0] for stem in files if (found := _ENDING.search(stem))}
        if len(endings) == 1 and all(stem.endswith(next(iter(endings))) for stem in files):
            ending = endings.pop()
            files = files.chosen((stem.removesuffix(ending), stem) for stem in files)
            note(f"masks are named after their images, with {ending!r} appended")
    return files


def understand(
    kind: str, table: ClassTable | None, paths: Collection[Path], note: Callable[[str], None]
) -> tuple[str, ClassTable]:
    """(how to read the masks, their classes); what the settings leave open is inferred from the masks and printed."""
    if table is not None and kind != "auto":
        return kind, _with_colours(kind, table)
    guess = guess_palette(paths, kind)
    if table is not None:
        chosen = _chosen(guess, table)
        description = guess.description
        if chosen == "ids" != guess.kind:  # the table is more reliable than the guess
            description = f"{guess.looked}values {ranges(guess.values or ())}, which the class table has as ids"
        note(f"masks: {description}; read as {chosen} (--set dataset.mask_format={chosen} pins it)")
        return chosen, _with_colours(chosen, table, guess.description)
    chosen = kind if kind != "auto" else guess.kind
    if chosen == "binary":
        note(f"masks: {guess.description}")
        note("classes: background, object (--set dataset.mask_format=binary and a class table pin it)")
        return chosen, _with_colours("binary", ClassTable(("background", "object")))
    names = tuple(line for line in guess.table.splitlines() if line)
    if chosen == "colours" or names[:1] != ("background",):
        raise DataError(
            f"the class of each value or colour in {next(iter(paths)).parent} is not known: {guess.description}",
            "write a class table and give it (--classes FILE), for example:\n"
            + "".join(f"    {line}\n" for line in _lines_found(guess)[:24]),
        )
    note(f"masks: {guess.description}")
    note(f"classes: {', '.join(names)} (pinned, and named, by a text file with a name a line: --classes FILE)")
    return chosen, ClassTable(names)


def _lines_found(guess: Guess) -> list[str]:
    """The class table of a guess; where it is VOC's, the background and the classes whose colours occur."""
    lines = guess.table.splitlines()
    if guess.kind != "colours":
        return lines
    colours = [tuple(map(int, line.split()[-3:])) for line in lines]
    found = {(code >> 16, code >> 8 & 255, code & 255) for code in guess.colours}
    return [line for line, colour in zip(lines, colours, strict=True) if colour in found or colour == (0, 0, 0)]


def _chosen(guess: Guess, table: ClassTable) -> str:
    """How masks are read that a class table describes. The table decides: masks with its values are
    index masks, masks with its colours are painted.
    """
    painted = guess.colours - {BLACK} and guess.colours <= (table.colours or {}).keys()
    listed = table.listed if guess.kind == "binary" else table.listed | {IGNORE}
    covered = guess.values is not None and guess.values <= listed
    if covered and not (painted and guess.palette):
        return "ids"
    if table.colours is not None:
        unpainted = not (guess.colours - {BLACK}) & table.colours.keys()
        return "ids" if guess.kind == "ids" and unpainted else "colours"
    if guess.kind == "binary" and len(table.names) == 2:
        return "binary"
    return "ids" if table.values and guess.kind == "colours" and guess.values is not None else guess.kind


def _with_colours(kind: str, table: ClassTable, found: str = "") -> ClassTable:
    """The table, with black and white as its colours if the masks are binary; DataError if it lacks colours."""
    if kind == "binary":
        if len(table.names) != 2:
            raise DataError(
                f"black-and-white masks have two classes, the class table has {len(table.names)}: "
                f"{', '.join(table.names)}",
                "give a table of background and one class; or, if 255 means ignore, say --set dataset.mask_format=ids",
            )
        if table.colours is not None and {BLACK, WHITE} <= table.colours.keys():
            return table
        by_value = table.values if table.values and {0, 255} <= table.listed else {0: 0, 255: 1}
        return ClassTable(table.names, {BLACK: by_value[0], WHITE: by_value[255]})
    if kind == "colours" and table.colours is None:
        raise DataError(
            "masks are painted in colours, and the class table has none" + (f": {found}" if found else ""),
            "write the colour behind each name: `cat 64 0 0`; or, where a few masks alone are painted, "
            "--set dataset.mask_format=ids names those",
        )
    return table


def _annotated(
    kind: str,
    entries: Mapping[str, Path],
    place: Path,
    table: ClassTable | None,
    folder: ImageFolder,
    note: Callable[[str], None],
) -> Masks:
    """The masks drawn from annotation files."""
    same = {composed(image_id): image_id for image_id in folder.ids}
    given = Given(place, entries, folder, lambda name: same.get(composed(name)), table, note)
    found = read_annotations(kind, given)
    return Masks(found.entries, found.read, found.class_names, {"mask_format": kind})


# ------------------------------------------------------------------------------------------------- labels


def _labels(
    settings: FolderConfig,
    known: Sequence[str],
    files: Mapping[str, Path],
    names: Names,
    note: Callable[[str], None],
) -> dict[str, frozenset[str]]:
    """Image-level labels by image; DataError lists all that have no image. known: the class names there are."""
    if not settings.labels:
        return {}
    path = Path(settings.labels).expanduser()
    table = read_label_table(path, known, names, settings.uncertain_labels)
    for sentence in table.notes:
        note(sentence)
    if lonely := sorted(set(table.labels) - set(files)):
        shown = ", ".join(lonely[:MOST_NAMED]) + (
            f" and {len(lonely) - MOST_NAMED} more" if lonely[MOST_NAMED:] else ""
        )
        raise DataError(
            f"{len(lonely)} of {len(table.labels)} ids in {path} have no image: {shown}",
            meant_ids(lonely, files) + "add the images, or remove the rows",
        )
    return dict(table.labels)


def _names_of(
    settings: FolderConfig,
    table: ClassTable | None,
    labels: Mapping[str, frozenset[str]],
    note: Callable[[str], None],
) -> tuple[str, ...]:
    if table is not None:
        return table.names
    names = sorted({name for found in labels.values() for name in found} - {"background"})
    if not names:
        raise DataError("there are no masks, no labels and no class table", "give --masks, --labels or --classes FILE")
    check_class_names(("background", *names), settings.labels)
    note(f"classes: background, {', '.join(names)} (pinned by a text file with a name a line: --classes FILE)")
    return ("background", *names)


def _unlabelled(settings: FolderConfig, files: Mapping[str, Path]) -> ImageFolder | None:
    """The further images; DataError where one has the name of an image that is there already."""
    if not settings.unlabelled:
        return None
    place = Path(settings.unlabelled).expanduser()
    folder = ImageFolder(place, _used(settings, place))
    if twice := sorted(set(folder.ids) & set(files)):
        raise DataError(
            f"{len(twice)} images of {folder.path} have the name of one of {settings.images}: "
            f"{', '.join(twice[:MOST_NAMED])}",
            "rename or remove them: are they the same images?",
        )
    return folder
