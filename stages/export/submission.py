"""Archives for the test servers of PASCAL VOC 2012 and Cityscapes, from the masks of an artifact.

    semiseg export voc-test predictions results.tgz --list ImageSets/Segmentation/test.txt --images JPEGImages
    semiseg export cityscapes-test predictions results.zip

VOC expects results/VOC2012/Segmentation/comp6_test_cls/<id>.png, packed as .tgz: indexed PNGs with VOC's colour map, of
the size of the image, indices 0..20 (development kit of VOC 2012, section 5.3). Cityscapes expects one zip with a
file <city>_<sequence>_<frame>*.png for each image: 2048 x 1024 pixels, 8-bit grey, and the label ids 7 (road) to 33
(bicycle), not the train ids 0..18 of networks (cityscapesScripts: evalPixelLevelSemanticLabeling.py and
labels.py). Neither server reports clearly what is wrong with an archive, so it is checked here.

Equal masks give equal bytes. An archive is written under a hidden name, opened again and checked member by member, and
gets its name only then.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import re
import tarfile
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from artifacts.canonical import file_digest
from artifacts.dataset import Dataset
from artifacts.disk_errors import disk_errors
from artifacts.errors import ArtifactError, DataError, UsageError
from artifacts.item_shapes import Classes
from artifacts.masks import IGNORE, PNG_SIGNATURE, encode_mask, png_damage, read_mask, voc_palette
from artifacts.store import Artifact, Workspace
from artifacts.text import amount, named
from stages.contract import Execution
from stages.data.config import CITYSCAPES_LABEL_IDS, VOC_CLASS_NAMES
from stages.data.images import ImageFolder, Images
from stages.data.lists.id_lists import Names, check_subset, read_list
from stages.parallel.each_image import for_each_image

COMPETITIONS = ("comp5", "comp6")
EARLIEST = (1980, 1, 1, 0, 0, 0)  # the first date a zip can hold
PLAIN_FILE = 0o100644


@dataclass(frozen=True)
class Server:
    """What a test server accepts."""

    name: str
    count: int  # images of its test set
    other_counts: Mapping[int, str]  # lengths of lists that are often confused with it
    classes: tuple[str, ...]  # by class id
    values: tuple[int, ...]  # pixel value of each class id in the archive
    palette: bytes | None  # of indexed PNGs; None: 8-bit grey
    size: tuple[int, int] | None  # (H, W) of all its images, where they have one size
    image: re.Pattern[str]  # the part of an image id that names the image
    member: str  # file in the archive, {image} being the name of the image
    suffixes: tuple[str, ...]
    form: Literal["tar.gz", "zip"]


def voc_test(competition: str = "comp6") -> Server:
    """VOC 2012, segmentation. comp5: trained on VOC's own data alone. comp6: with any other data or weights."""
    if competition not in COMPETITIONS:
        raise UsageError(
            f"there is no competition {competition!r}",
            "comp5: trained on the data of VOC alone; comp6: with other data too, such as SBD or ImageNet weights",
        )
    return Server(
        name="PASCAL VOC 2012",
        count=1456,
        other_counts={1449: "val", 1464: "train", 16135: "all test images, most of them for detection"},
        classes=VOC_CLASS_NAMES,
        values=tuple(range(len(VOC_CLASS_NAMES))),
        palette=voc_palette(),
        size=None,
        image=re.compile(r".+"),
        member=f"results/VOC2012/Segmentation/{competition}_test_cls/{{image}}.png",
        suffixes=(".tgz", ".tar.gz"),
        form="tar.gz",
    )


CITYSCAPES_TEST = Server(
    name="Cityscapes",
    count=1525,
    other_counts={500: "val", 2975: "train", 5000: "train, val and test together"},
    classes=tuple(CITYSCAPES_LABEL_IDS),
    values=tuple(CITYSCAPES_LABEL_IDS.values()),
    palette=None,
    size=(1024, 2048),
    image=re.compile(r"[^_]+_\d{6}_\d{6}(?=_|$)"),
    member="{image}_pred_labelIds.png",
    suffixes=(".zip",),
    form="zip",
)


def make_submission(
    server: Server,
    predictions: Artifact,
    archive: Path,
    execution: Execution,
    *,
    list_file: Path | None = None,
    images: Path | None = None,
    made_on: Images | None = None,
    allow_subset: bool = False,
) -> dict[str, Any]:
    """Packs the masks of `predictions` as `archive`, checks it, and returns the figures of the check.

    Packed are the images of `list_file`; else the split `test` of `made_on`, if that is a data set with one; else all
    that were predicted. images: folder of the images, which must hold all of them; without it sizes are compared with
    those that `made_on` has. Raises UsageError for an archive that exists or has a wrong suffix, ArtifactError for an
    artifact without masks, and DataError for different classes, pixels of 255, sizes that differ from the images', and
    lists that are not the test set (unless a subset is allowed). Then no archive is left behind.
    """
    check_target(server, archive)
    predicted = check_predictions(server, predictions)
    source, listed = _listed(predictions, predicted, list_file, made_on, execution.progress.note)
    members, left_out = choose_members(server, predictions.name, predicted, source, listed, allow_subset)
    if left_out:
        more = f"{amount(len(left_out), 'image')} that {source} lacks"
        execution.progress.note(f"{predictions.name!r} has {more}; left out: {named(left_out)}")
    sizes = image_sizes(server, list(members.values()), images, made_on)
    figures = write_archive(server, predictions, archive, members, sizes, execution)
    return {**figures, "left_out": len(left_out)}


# ------------------------------------------------------------------------------------------------- what is packed


def check_target(server: Server, archive: Path) -> None:
    """UsageError unless the archive can be written: a new file with the right suffix in an existing folder."""
    if not archive.name.endswith(server.suffixes) or archive.name in server.suffixes:
        raise UsageError(
            f"{archive} is not a name for this archive: the {server.name} server takes {' or '.join(server.suffixes)}",
            f"for example results{server.suffixes[0]}",
        )
    if os.path.lexists(archive):
        raise UsageError(f"{archive} exists already", "name a new file, or delete it first")
    if not archive.parent.is_dir():
        raise UsageError(f"there is no folder {archive.parent}", "make it, or correct the path")


def check_predictions(server: Server, predictions: Artifact) -> list[str]:
    """The sorted ids of the masks; an error for artifacts without masks, and those of different classes."""
    name, ids = predictions.name, ids_of_masks(predictions)
    found = tuple(predictions.json("classes.json", Classes).class_names)
    if found != server.classes:
        raise DataError(
            f"{name!r} has {_difference(found, server.classes)} than {server.name}. "
            f"Found {len(found)}: {', '.join(found)}. "
            f"Expected, in the order of their ids, {len(server.classes)}: {', '.join(server.classes)}",
            "predict with a network trained on all classes of the data set (prepare-data without --classes)",
        )
    return ids


def ids_of_masks(predictions: Artifact) -> list[str]:
    """The sorted ids of the masks; ArtifactError for artifacts of other kinds, and those without masks."""
    name = predictions.name
    if predictions.kind not in ("predictions", "masks"):
        raise ArtifactError(
            f"{name!r} is an artifact of kind {predictions.kind}, expected predictions, or masks of the CRF",
            "name what semiseg predict or semiseg crf made",
        )
    ids = sorted(item[6:-4] for item in predictions.items if item.startswith("masks/") and item.endswith(".png"))
    if not ids:
        raise ArtifactError(
            f"{name!r} has no masks", "predict with --output masks (or both), or refine it: semiseg crf"
        )
    return ids


def _difference(found: Sequence[str], wanted: Sequence[str]) -> str:
    missing, more = len(set(wanted) - set(found)), len(set(found) - set(wanted))
    if not missing and not more:
        return "a different order of the classes"
    return f"different classes ({missing} missing, {more} unknown)"


def _listed(
    predictions: Artifact,
    predicted: Sequence[str],
    list_file: Path | None,
    made_on: Images | None,
    note: Callable[[str], None],
) -> tuple[str, Sequence[str] | None]:
    """The source of the ids, for messages, and the ids; None: all that were predicted."""
    if list_file is not None:
        return str(list_file), read_list(list_file, Names(predicted), note)
    if isinstance(made_on, Dataset) and (ids := made_on.splits.get("test")):
        return f"the split 'test' of {made_on.name!r}", ids
    return repr(predictions.name), None


def choose_members(
    server: Server, name: str, predicted: Sequence[str], source: str, listed: Sequence[str] | None, allow_subset: bool
) -> tuple[dict[str, str], list[str]]:
    """({file in the archive: image id}, sorted; predicted ids that the list lacks).

    predicted: ids of the masks of the artifact `name`. listed: the ids of `source`; None: those that were predicted.
    DataError for a listed image without a mask, and unless there are as many as the test set has.
    """
    have = _by_image(server, predicted, repr(name))
    wanted = have if listed is None else _by_image(server, listed, source)
    surplus = sorted(have[image] for image in have.keys() - wanted.keys())
    if len(wanted) != server.count and not allow_subset:
        known = server.other_counts.get(len(wanted))
        raise DataError(
            f"{source} has {amount(len(wanted), 'image')}{f' ({known})' if known else ''}, "
            f"the {server.name} server takes exactly the {server.count:,} of its test set",
            "give the list of the test set (--list FILE); --allow-subset packs the others, but no server scores them",
        )
    if missing := sorted(wanted.keys() - have.keys()):
        others = f"; {len(surplus):,} of its masks are not in {source}: {named(surplus)}" if surplus else ""
        raise DataError(
            f"{name!r} has no masks of {len(missing):,} images of {source}: {named(missing)}{others}",
            "predict these images (semiseg predict --images DIR --output masks), or give the list that belongs to it",
        )
    members = {server.member.replace("{image}", image): have[image] for image in wanted}
    return dict(sorted(members.items())), surplus


def _by_image(server: Server, ids: Iterable[str], source: str) -> dict[str, str]:
    """Image ids by the name of their image; DataError for ids that name none, and for two of one image."""
    found: dict[str, str] = {}
    unknown = []
    for image_id in sorted(ids):
        match = server.image.match(image_id)
        if match is None:
            unknown.append(image_id)
        elif found.setdefault(match[0], image_id) != image_id:
            raise DataError(
                f"{source} has two entries of the image {match[0]}: {found[match[0]]}, {image_id}",
                "keep one: the server takes exactly one file for each image",
            )
    if unknown:
        raise DataError(
            amount(len(unknown), f"id of {source} is not a name", f"ids of {source} are not names")
            + f" of {server.name} images: {named(unknown)}",
            "expected names such as berlin_000000_000019 or berlin_000000_000019_leftImg8bit",
        )
    return found


def predicted_images(predictions: Artifact, workspace: Workspace) -> Dataset | ImageFolder | None:
    """The folder of images or the data set that was predicted, if it still exists; else None."""
    if folder := predictions.config.get("images"):
        with contextlib.suppress(DataError):
            return ImageFolder(folder, white=predictions.config.get("white", 0))
        return None
    record = predictions.manifest.inputs.get("data")
    if record is None or record["artifact"] not in workspace.names():
        return None
    data = workspace.artifact(record["artifact"])
    return Dataset(data) if data.manifest.content == record["content"] else None


def image_sizes(
    server: Server, ids: Sequence[str], images: Path | None, made_on: Images | None
) -> dict[str, tuple[int, int]]:
    """(H, W) of the images, as far as they are known; DataError where `images` is given and lacks one."""
    if server.size is not None:
        return dict.fromkeys(ids, server.size)
    if images is not None:
        folder = ImageFolder(images)
        check_subset(ids, folder.ids, "the archive", str(images))
        return {image_id: folder.size(image_id) for image_id in ids}
    if made_on is None:
        return {}
    sizes = {}
    for image_id in ids:
        with contextlib.suppress(ArtifactError, DataError, KeyError):  # moved or changed since: not known
            sizes[image_id] = made_on.size(image_id)
    return sizes


# ------------------------------------------------------------------------------------------------- packing


@dataclass(frozen=True)
class Packing:
    """What a process needs to encode masks; sent to it once."""

    server: Server
    predictions: Artifact
    sizes: Mapping[str, tuple[int, int]]


def encode_image(task: Packing, image_id: str) -> bytes:
    """The PNG of one image as the server accepts it; DataError, with the image's name, if there is none."""
    server, relative = task.server, f"masks/{image_id}.png"
    path = task.predictions.file(relative)
    if file_digest(path) != task.predictions.items[relative]["sha256"]:
        raise DataError(f"mask {path} was changed after it was made", "rerun the stage that made it")
    size = task.sizes.get(image_id)
    mask = read_mask(path, len(server.classes), None if size is None else (size[1], size[0]))
    if unanswered := int(np.count_nonzero(mask == IGNORE)):
        unknown = amount(unanswered, "pixel of its mask is", "pixels of its mask are")
        raise DataError(
            f"image {image_id}: {unknown} 255 (unknown), expected a class at every pixel",
            "predict with min_confidence 0, and run the CRF with it, too",
        )
    values = np.array(server.values, np.uint8)[mask]
    return _grey_png(values) if server.palette is None else encode_mask(values, server.palette)


def _grey_png(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(values)).save(buffer, format="PNG", compress_level=9)
    return buffer.getvalue()


def write_archive(
    server: Server,
    predictions: Artifact,
    archive: Path,
    members: Mapping[str, str],
    sizes: Mapping[str, tuple[int, int]],
    execution: Execution,
) -> dict[str, Any]:
    """Writes the members (file in the archive -> image id), checks them, gives the archive its name; the figures."""
    partial = archive.with_name(f".{archive.name}.partial")
    task, ids = Packing(server, predictions, sizes), list(members.values())
    try:
        with disk_errors(archive):
            with execution.progress.track(len(ids), "pack") as tracker, _writing(partial, server.form) as add:
                encoded = for_each_image(encode_image, task, ids, execution.workers)
                for name, data in zip(members, _in_order(encoded, ids), strict=True):
                    add(name, data)
                    tracker.advance()
            with execution.progress.track(len(ids), "check") as tracker:
                expected = {name: sizes.get(image_id) for name, image_id in members.items()}
                figures = check_archive(partial, server, expected, tracker.advance)
            os.replace(partial, archive)
    finally:
        partial.unlink(missing_ok=True)
    return {"archive": str(archive), **figures}


def _in_order(results: Iterator[tuple[str, bytes]], ids: Sequence[str]) -> Iterator[bytes]:
    """The results in the order of `ids`, in whatever order they become ready."""
    ready: dict[str, bytes] = {}
    waiting = deque(ids)
    for image_id, data in results:
        ready[image_id] = data
        while waiting and waiting[0] in ready:
            yield ready.pop(waiting.popleft())


@contextlib.contextmanager
def _writing(path: Path, form: str) -> Iterator[Callable[[str, bytes], None]]:
    """A function that adds a file to the new archive. It holds no times, owners or names of this machine."""
    if form == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as packed:  # PNGs are compressed already

            def add_to_zip(name: str, data: bytes) -> None:
                member = zipfile.ZipInfo(name, EARLIEST)
                member.create_system, member.external_attr = 3, PLAIN_FILE << 16  # 3: the mode is that of Unix
                packed.writestr(member, data)

            yield add_to_zip
        return
    with (
        open(path, "wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w") as tar,
    ):

        def add_to_tar(name: str, data: bytes) -> None:
            member = tarfile.TarInfo(name)  # owner 0, time 0
            member.size, member.mode = len(data), PLAIN_FILE & 0o777
            tar.addfile(member, io.BytesIO(data))

        yield add_to_tar


# ------------------------------------------------------------------------------------------------- checking


def check_archive(
    path: Path, server: Server, expected: Mapping[str, tuple[int, int] | None], advance: Callable[[], None]
) -> dict[str, Any]:
    """Opens an archive and checks whether the server would accept it; returns the figures, or raises ArtifactError.

    expected: file in the archive -> (H, W) of its image, None if that is not known. Checked are the names and
    their order, and whether each file is a whole PNG with the right mode, palette, values and size.
    """
    pixels = np.zeros(256, np.int64)
    names = []
    try:
        for name, data in _members(path, server.form):
            if name not in expected:
                raise _wrong(path, f"{name} must not be in it")
            names.append(name)
            pixels += _check_png(path, server, name, data, expected[name])
            advance()
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise _wrong(path, f"it cannot be read: {error}") from error
    if names != sorted(expected):
        missing = sorted(expected.keys() - set(names))
        raise _wrong(path, f"it lacks {named(missing)}" if missing else "its files are not sorted, or occur twice")
    return {
        "server": server.name,
        "images": len(names),
        "expected": server.count,
        "folder": server.member.rpartition("/")[0],
        "mode": "L" if server.palette is None else "P",
        "sizes_checked": sum(size is not None for size in expected.values()),
        "bytes": path.stat().st_size,
        "sha256": file_digest(path),
        "classes": {
            name: {"value": value, "pixels": int(pixels[value])}
            for name, value in zip(server.classes, server.values, strict=True)
        },
    }


def _members(path: Path, form: str) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the files of an archive, in their order; checksums are compared on the way."""
    if form == "zip":
        with zipfile.ZipFile(path) as packed:
            for entry in packed.infolist():
                yield entry.filename, packed.read(entry)
        return
    with gzip.open(path) as stream:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                file = tar.extractfile(member)
                yield member.name, b"" if file is None else file.read()
        while stream.read(1 << 20):  # to the end, where the checksum is
            pass


def _check_png(path: Path, server: Server, name: str, data: bytes, size: tuple[int, int] | None) -> np.ndarray:
    """The number of pixels of each value, int64 (256,); ArtifactError says what is wrong with the file."""
    if not data.startswith(PNG_SIGNATURE) or png_damage(data):
        raise _wrong(path, f"{name} is not a whole PNG")
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        mode, palette, values = image.mode, image.getpalette(), np.asarray(image)
    wanted, bits = "L" if server.palette is None else "P", data[24]  # IHDR: the byte after width and height
    if (mode, bits) != (wanted, 8):
        raise _wrong(path, f"{name} has mode {mode} and {bits} bits, expected {wanted} and 8")
    if server.palette is not None and bytes(palette or b"") != server.palette:
        raise _wrong(path, f"{name} has a different palette")
    if size is not None and values.shape != tuple(size):
        raise _wrong(path, f"{name} is {values.shape[1]}x{values.shape[0]}, expected {size[1]}x{size[0]}")
    counts = np.bincount(values.ravel(), minlength=256)
    if wrong := sorted(set(np.flatnonzero(counts).tolist()) - set(server.values)):
        raise _wrong(path, f"{name} has the values {', '.join(map(str, wrong))}")
    return counts


def _wrong(path: Path, what: str) -> ArtifactError:
    return ArtifactError(
        f"the archive {path} is not what the server accepts: {what}",
        "it was not kept; run the command again: if that does not help, this is a bug in semiseg",
    )
