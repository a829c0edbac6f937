"""Archives downloaded, checked and extracted, each once.

    places = download((VOC2012, SBD), Path("data"), progress=execution.progress)
    places["VOC 2012"]                      # data/VOCdevkit/VOC2012

A download can be killed at any moment and continued. On disk, in the folder:

    VOCtrainval_11-May-2012.tar             whole and checked; one copied there by hand is checked and used
    VOCtrainval_11-May-2012.tar.verified    size, time and digest of that file, so that it is hashed once
    VOCtrainval_11-May-2012.tar.part        unfinished, with .part.json: where its bytes come from
    VOCdevkit/VOC2012/                      the extracted folder; its .extracted.json says from which archive
"""

from __future__ import annotations

import contextlib
import os
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path

from artifacts.errors import ConfigError, DataError
from artifacts.locks import Lock
from stages.contract import Progress
from stages.data.archives.disk import check_space, every_disk_error, in_gb, size_of
from stages.data.archives.extraction import extract
from stages.data.archives.files import as_verified, bytes_needed, check_whole, is_extracted, verified_of, write_record
from stages.data.archives.published import Archive
from stages.data.archives.transfer import PATIENCE, Patience, Transfer, UselessError, drop


def download(
    archives: Sequence[Archive],
    folder: Path,
    mirrors: Sequence[str] = (),
    *,
    progress: Progress,
    patience: Patience = PATIENCE,
) -> dict[str, Path]:
    """Every archive fetched and extracted below `folder`; the extracted folders by name of the archive.

    A folder that is extracted already is neither fetched nor checked again, even if its archive was deleted. Errors:
    those of `fetch` and `extract`; DataError before anything is fetched if the disk cannot hold them all; BusyError
    while another process works on one of them.
    """
    missing = [archive for archive in archives if not is_extracted(archive, folder)]
    needed = sum(bytes_needed(archive, folder, archive.bytes or 0) for archive in missing)
    check_space(folder, needed, f"downloading and extracting {' and '.join(archive.name for archive in missing)}")
    for archive in missing:
        with alone(archive, folder):
            if not is_extracted(archive, folder):  # by a process that held the lock until now
                file = fetch(archive, folder, mirrors, progress=progress, patience=patience)
                extract(archive, file, folder, progress)
    return {archive.name: folder / archive.unpacks_to for archive in archives}


@contextlib.contextmanager
def alone(archive: Archive, folder: Path) -> Iterator[None]:
    """One process at a time works on an archive in a folder. Raises what `Lock.held` raises."""
    lock = Lock(
        folder,
        folder / f".{archive.file}.lock",
        f"{archive.file} in {folder}",
        "downloaded or extracted",
        "wait for it; the same command then finds it done, or continues it",
    )
    with contextlib.ExitStack() as held:
        with every_disk_error(lock.file):
            held.enter_context(lock.held(exclusive=True))
        yield


def fetch(
    archive: Archive,
    folder: Path,
    mirrors: Sequence[str] = (),
    *,
    progress: Progress,
    patience: Patience = PATIENCE,
) -> Path:
    """The archive in `folder`, whole and with the right digest; downloaded unless it is there. Call inside `alone`.

    Args:
        mirrors: base addresses tried before the archive's own: BASE/FILE.

    Raises ConfigError for a mirror that is not an http address, DataError if no address gave the right bytes (with the
    reason for each), if a wrong file has the archive's name, and if the disk is too small for the archive and what it
    holds; ArtifactError for a disk that is full or cannot be written.
    """
    file, part = folder / archive.file, folder / f"{archive.file}.part"
    addresses = _addresses(archive, mirrors)
    if os.path.lexists(file):
        check_whole(archive, file, progress)
        return file
    failures = []
    for address in addresses:
        try:
            Transfer(address, archive, part, progress, patience).complete()
        except UselessError as failure:
            failures.append(f"{address}: {failure}")
            progress.note(failures[-1])
        else:
            _publish(archive, part, file)
            return file
    kept = f" and continues after {in_gb(size_of(part))}" if size_of(part) else ""
    raise DataError(
        f"{archive.file} could not be downloaded. " + "; ".join(failures),
        f"check the connection or name a mirror: the same command tries again{kept}. Or put the file into {folder}",
    )


def _addresses(archive: Archive, mirrors: Sequence[str]) -> list[str]:
    """The addresses to try, mirrors first. ConfigError for a mirror that is not a web address."""
    for mirror in mirrors:
        try:
            parts = urllib.parse.urlsplit(mirror)
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            usable = False
        if not usable or not mirror.isprintable() or " " in mirror:
            raise ConfigError(
                f"the mirror {mirror!r} is not an address that begins with http:// or https://", "correct it"
            )
    return [f"{mirror.rstrip('/')}/{archive.file}" for mirror in mirrors] + list(archive.urls)


def _publish(archive: Archive, part: Path, file: Path) -> None:
    """Gives the checked `part` its final name, and remembers that it was checked."""
    with every_disk_error(file):
        with open(part, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(part, file)
        _sync_folder(file.parent)
        write_record(verified_of(file), as_verified(archive, file))
        drop(part)  # its record


def _sync_folder(folder: Path) -> None:
    """Makes a rename in this folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
