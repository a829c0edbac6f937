"""The archives of PASCAL VOC 2012 and SBD: downloaded, checked and extracted, each once.

    places = download((VOC2012, SBD), Path("data"), progress=execution.progress)
    places["VOC 2012"]                      # data/VOCdevkit/VOC2012

A download can be killed at any moment and continued. On disk, in the folder:

    VOCtrainval_11-May-2012.tar             whole and checked; one that was put there by hand is checked and used
    VOCtrainval_11-May-2012.tar.verified    size, time and digest of that file, so that it is hashed once
    VOCtrainval_11-May-2012.tar.part        unfinished, with .part.json: where its bytes come from
    VOCdevkit/VOC2012/                      the extracted folder; its .extracted.json says from which archive

The standard library does the work because no library does all of it: pooch and torchvision.datasets.utils begin a cut
download anew, requests neither resumes nor checks, huggingface_hub resumes from its own servers only. tarfile's `data`
filter stands behind checks of our own: it strips the root off absolute names instead of refusing them, and Python
releases before June 2025 let chains of links pass it (CVE-2025-4517, CVE-2025-4330, CVE-2025-4138).
"""

from __future__ import annotations

import contextlib
import email.utils
import fcntl
import gzip
import hashlib
import http.client
import json
import os
import re
import shutil
import ssl
import struct
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from pathlib import Path, PurePosixPath
from typing import IO, Any, NoReturn

from artifacts.canonical import pretty_json
from artifacts.disk_errors import disk_error
from artifacts.errors import BusyError, ConfigError, DataError
from stages.contract import Progress, Tracker

MEGABYTE = 1_000_000
BLOCK = 1 << 20  # bytes a read
MOST_BYTES = 16 * 1024**3  # in one archive, extracted: eight times VOC 2012
MOST_MEMBERS = 500_000  # VOC 2012 has about 40,000
MOST_AT_ONCE = 16 * 1024**2  # in one read of a tar: only a header that lies asks for more
EXTRACTED_MARK = ".extracted.json"


@dataclass(frozen=True)
class Archive:
    """One archive on the web.

    Attributes:
        name: as a person calls it.
        file: its file name.
        urls: its addresses, tried in order.
        bytes: its size, None where no source gives it.
        digest: "md5:..." or "sha256:...", hexadecimal.
        unpacks_to: the folder it holds, relative to where it is extracted. Nothing outside of it is kept.
    """

    name: str
    file: str
    urls: tuple[str, ...]
    bytes: int | None
    digest: str
    unpacks_to: str


# MD5 and the first address: torchvision, datasets/voc.py. The administrator of the Oxford servers calls that address
# the permanent one; the old host redirects to it (pytorch/vision pull request 9216). Size: Content-Length in published
# logs of wget and Keras, 1999639040 in all of them.
VOC2012 = Archive(
    name="VOC 2012",
    file="VOCtrainval_11-May-2012.tar",
    urls=(
        "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        "http://host.robots.ox.ac.uk:8080/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    ),
    bytes=1_999_639_040,
    digest="md5:6cd6e144f989b92b3379bac3b3de84fd",
    unpacks_to="VOCdevkit/VOC2012",
)

# MD5 and address: torchvision, datasets/sbd.py. Size: the log in pytorch/vision issue 8471 (June 2024).
SBD = Archive(
    name="SBD",
    file="benchmark.tgz",
    urls=("https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",),
    bytes=1_419_539_633,
    digest="md5:82b4d87ceb2ed10f6038a1cba92111cb",
    unpacks_to="benchmark_RELEASE",
)


@dataclass(frozen=True)
class Patience:
    """How long servers are waited for. Times in seconds.

    Attributes:
        tries: requests to one address that fail in a row, without a megabyte gained, before the next address.
        first_wait_s: the wait after the first failure; it doubles with every further one.
        longest_wait_s: the longest wait, also when the server asks for more (Retry-After).
        silence_s: a server that sends nothing for so long has failed.
    """

    tries: int = 4
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    silence_s: float = 30.0


# ------------------------------------------------------------------------------------------------- for callers


def download(
    archives: Sequence[Archive],
    folder: Path,
    mirrors: Sequence[str] = (),
    *,
    progress: Progress,
    patience: Patience = Patience(),
) -> dict[str, Path]:
    """Every archive fetched and extracted below `folder`; the extracted folders by name of the archive.

    What is extracted already is neither fetched nor checked again, even if its archive was deleted. Errors: those of
    `fetch` and `extract`; DataError before anything is fetched when the disk cannot hold all of them.
    """
    missing = [archive for archive in archives if not _is_extracted(archive, folder)]
    needed = sum(_bytes_needed(archive, folder, archive.bytes or 0) for archive in missing)
    _check_space(folder, needed, f"downloading and extracting {' and '.join(archive.name for archive in missing)}")
    for archive in missing:
        with _alone(archive, folder):
            if not _is_extracted(archive, folder):  # by a process that held the lock until now
                file = _fetch(archive, folder, mirrors, progress, patience)
                _extract(archive, file, folder, progress)
    return {archive.name: folder / archive.unpacks_to for archive in archives}


def fetch(
    archive: Archive,
    folder: Path,
    *,
    mirrors: Sequence[str] = (),
    progress: Progress,
    patience: Patience = Patience(),
) -> Path:
    """The archive in `folder`, whole and with the right digest; downloaded unless it is there.

    Args:
        mirrors: base addresses tried before the archive's own: BASE/FILE.

    Raises ConfigError for a mirror that is no http address, DataError when no address gave the right bytes (with the
    reason for each), when a wrong file has the archive's name, and when the disk is too small for the archive and what
    it holds; BusyError while another process is at it; ArtifactError for a disk that is full or cannot be written.
    """
    with _alone(archive, folder):
        return _fetch(archive, folder, mirrors, progress, patience)


def extract(
    archive: Archive,
    file: Path,
    folder: Path,
    progress: Progress,
    most_bytes: int = MOST_BYTES,
    most_members: int = MOST_MEMBERS,
) -> Path:
    """`folder / archive.unpacks_to`, extracted whole or not at all from `file` (tar, plain or gzip) unless it is there.

    Raises DataError for a file with another digest, a damaged archive, one with more than `most_bytes` bytes or
    `most_members` members, a member that would land outside or is neither file nor folder nor link, a folder of the
    same name that was not extracted here, and a disk that is too small; BusyError and ArtifactError as `fetch`.
    """
    if not _is_extracted(archive, folder):
        with _alone(archive, folder):
            if not _is_extracted(archive, folder):  # by a process that held the lock until now
                _extract(archive, file, folder, progress, most_bytes, most_members)
    return folder / archive.unpacks_to


@contextlib.contextmanager
def _alone(archive: Archive, folder: Path) -> Iterator[None]:
    """One process at a time works on an archive in a folder. The lock dies with its process."""
    path = folder / f".{archive.file}.lock"
    with _disk_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(path, "a+b", buffering=0)  # noqa: SIM115 (closed by the next line)
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise BusyError(
                f"{archive.file} in {folder} is being downloaded or extracted by process {lock.read().decode() or '?'}",
                "wait for it; the same command then finds it done, or continues it",
            ) from None
        except OSError as error:
            raise DataError(
                f"{folder} cannot be locked: {error.strerror}", "choose a folder on a file system with flock"
            ) from None
        with contextlib.suppress(OSError):  # the number is for people
            lock.truncate(0)
            lock.write(str(os.getpid()).encode())
        yield


# ------------------------------------------------------------------------------------------------- what is whole


def _check_whole(archive: Archive, file: Path, progress: Progress) -> None:
    """DataError unless the file has the archive's size and digest. It is hashed once: a record remembers."""
    try:
        seen = _as_verified(archive, file)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}", "download it again") from None
    if _read_record(_verified_of(file)) == seen:
        return
    wrong = f"{file} is not {archive.file} of {archive.name}"
    cure = "delete it or move it away, then run the same command again"
    if archive.bytes not in (None, seen["size"]):
        raise DataError(f"{wrong}: it has {seen['size']:,} bytes, expected {archive.bytes:,}", cure)
    found = _file_digest(archive, file, progress)
    if found != archive.digest:
        raise DataError(f"{wrong}: its digest is {found}, expected {archive.digest}", cure)
    with contextlib.suppress(OSError):  # a folder that cannot be written: then it is hashed each time
        _write_record(_verified_of(file), seen)


def _verified_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.verified")


def _as_verified(archive: Archive, file: Path) -> dict[str, Any]:
    """The record that tells a file whose digest was right from one that was touched since."""
    stat = file.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "digest": archive.digest}


def _file_digest(archive: Archive, file: Path, progress: Progress) -> str:
    """ "md5:..." of the file, by the algorithm of the archive's digest."""
    algorithm = archive.digest.partition(":")[0]
    state = hashlib.new(algorithm, usedforsecurity=False)
    total = file.stat().st_size
    with (
        _disk_errors(file),
        open(file, "rb") as stream,
        _megabytes(progress, total, f"checking {archive.file}") as count,
    ):
        while block := stream.read(BLOCK):
            state.update(block)
            count.reach(stream.tell())
    return f"{algorithm}:{state.hexdigest()}"


def _is_extracted(archive: Archive, folder: Path) -> bool:
    """Whether the extracted folder is there and whole. DataError for a folder that somebody else put there."""
    target = folder / archive.unpacks_to
    mark = _read_record(target / EXTRACTED_MARK)
    if mark.get("digest") == archive.digest:
        return True
    with _disk_errors(target):
        vacant = not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir()))
    if not vacant:
        what = f"comes from {mark['file']} ({mark['digest']})" if "file" in mark else f"has no {EXTRACTED_MARK}"
        raise DataError(
            f"{target} is there, but was not extracted from {archive.file} here: it {what}",
            "give it as source instead of downloading, or move it away",
        )
    return False


def _read_record(path: Path) -> dict[str, Any]:
    """A small JSON record; a missing or damaged one counts as empty."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _write_record(path: Path, record: Mapping[str, Any]) -> None:
    temporary = path.with_name(f".tmp-{path.name}")
    temporary.write_text(pretty_json(dict(record)), encoding="utf-8")
    os.replace(temporary, path)


# ------------------------------------------------------------------------------------------------- disk and progress


def _bytes_needed(archive: Archive, folder: Path, size: int) -> int:
    """What an archive of `size` bytes still takes on the disk: the rest of it, and what it holds.

    A gzipped one is taken to hold half as much again: JPEG and compressed .mat files hardly shrink.
    """
    if _read_record(folder / archive.unpacks_to / EXTRACTED_MARK):
        return 0
    there = _size(folder / archive.file) or _size(folder / f"{archive.file}.part")
    return max(size - there, 0) + (size if archive.file.endswith(".tar") else size * 3 // 2)


def _check_space(folder: Path, needed: int, what: str) -> None:
    """DataError unless the disk of `folder`, which may not exist yet, has so many bytes free."""
    with _disk_errors(folder):
        place = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
        free = shutil.disk_usage(place).free
    if free < needed:
        raise DataError(
            f"{what} needs {_in_gb(needed)} in {folder}, {_in_gb(free)} are free",
            f"free {_in_gb(needed - free)}, or choose a folder on another disk",
        )


def _in_gb(count: int) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e8 else f"{count / 1e6:.3g} MB"


def _size(path: Path) -> int:
    """Bytes of a file, 0 for one that is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


@contextlib.contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    """A full disk, a folder that cannot be written and the like, in words."""
    try:
        yield
    except OSError as error:
        mended = disk_error(error, target)
        if mended is error:
            mended = DataError(f"{target} cannot be used: {error.strerror or error}", "choose another folder")
        raise mended from error


@dataclass
class _Megabytes:
    """Tells a tracker whole megabytes, of what is counted in bytes."""

    tracker: Tracker
    told: int

    def reach(self, position: int) -> None:
        if position // MEGABYTE > self.told:
            self.tracker.advance(position // MEGABYTE - self.told)
            self.told = position // MEGABYTE


@contextlib.contextmanager
def _megabytes(progress: Progress, total: int, description: str, done: int = 0) -> Iterator[_Megabytes]:
    with progress.track(total // MEGABYTE, description, unit="MB", done=done // MEGABYTE) as tracker:
        yield _Megabytes(tracker, done // MEGABYTE)


# ------------------------------------------------------------------------------------------------- downloading


class _CutError(Exception):
    """A failure that may pass: the same address is worth another try, after `wait_s` where the server said so."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class _UselessError(Exception):
    """This address will not give the file; the next may."""


def _fetch(archive: Archive, folder: Path, mirrors: Sequence[str], progress: Progress, patience: Patience) -> Path:
    file, part = folder / archive.file, folder / f"{archive.file}.part"
    addresses = _addresses(archive, mirrors)
    if os.path.lexists(file):
        _check_whole(archive, file, progress)
        return file
    failures = []
    for address in addresses:
        try:
            _Transfer(address, archive, part, progress, patience).complete()
        except _UselessError as failure:
            failures.append(f"{address}: {failure}")
            progress.note(failures[-1])
        else:
            _publish(archive, part, file)
            return file
    kept = f" and continues after {_in_gb(_size(part))}" if _size(part) else ""
    raise DataError(
        f"{archive.file} could not be downloaded. " + "; ".join(failures),
        f"check the connection or name a mirror: the same command tries again{kept}. Or put the file into {folder}",
    )


def _addresses(archive: Archive, mirrors: Sequence[str]) -> list[str]:
    """Mirrors first. ConfigError for one that is no web address."""
    for mirror in mirrors:
        try:
            parts = urllib.parse.urlsplit(mirror)
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            usable = False
        if not usable or not mirror.isprintable() or " " in mirror:
            raise ConfigError(f"the mirror {mirror!r} is no address that begins with http:// or https://", "correct it")
    return [f"{mirror.rstrip('/')}/{archive.file}" for mirror in mirrors] + list(archive.urls)


@dataclass(frozen=True)
class _Transfer:
    """From one address into the unfinished file `part`."""

    address: str
    archive: Archive
    part: Path
    progress: Progress
    patience: Patience

    def complete(self) -> None:
        """Fills `part` until its digest is right; _UselessError otherwise.

        Bytes of an earlier run, or of another address, may be the wrong ones: then it begins anew, once.
        """
        continued = _size(self.part) > 0
        while True:
            self._fill()
            found, wanted = _file_digest(self.archive, self.part, self.progress), self.archive.digest
            if found == wanted:
                return
            _drop(self.part)
            if not continued:
                raise _UselessError(f"the file has the digest {found}, expected {wanted}")
            self.progress.note(f"{self.part.name} has the digest {found}, expected {wanted}: from the beginning")
            continued = False

    def _fill(self) -> None:
        """Requests until no byte is missing; _UselessError after `patience.tries` failures without gain."""
        failures, furthest = 0, _size(self.part)
        while True:
            try:
                return self._request()
            except _CutError as cut:
                if _size(self.part) - furthest >= MEGABYTE:  # further than ever: a bad line, but it gets there
                    failures, furthest = 0, _size(self.part)
                failures += 1
                if failures >= self.patience.tries:
                    raise _UselessError(f"{cut} ({failures} tries)") from None
                wait = self.patience.first_wait_s * 2 ** (failures - 1) if cut.wait_s is None else cut.wait_s
                wait = min(wait, self.patience.longest_wait_s)
                self.progress.note(f"{self.address}: {cut}; next try in {wait:.0f} s")
                time.sleep(wait)

    def _request(self) -> None:
        """One request for the bytes that are missing. _CutError when some still are."""
        if self.archive.bytes is not None and _size(self.part) >= self.archive.bytes:
            if _size(self.part) == self.archive.bytes:  # killed after the last byte
                return
            _drop(self.part)
        have, origin = _size(self.part), _read_record(_origin_of(self.part))
        request = urllib.request.Request(self.address, headers=_request_headers(self.address, have, origin))
        try:
            response = urllib.request.urlopen(request, timeout=self.patience.silence_s)
        except urllib.error.HTTPError as refusal:
            with refusal:
                if refusal.code == 416 and have and _content_range(refusal.headers) == (None, have):
                    return  # asked for what lies behind the last byte: none is missing
                raise self._refused(refusal, have) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._not_reached(error) from None
        with response:
            begin, total = self._check_offer(response, have, origin)
            if begin == 0:
                _drop(self.part)
                with _disk_errors(self.part):
                    _write_record(_origin_of(self.part), {"address": self.address, **_version(response.headers)})
            self._receive(response, begin, total)

    def _refused(self, refusal: urllib.error.HTTPError, have: int) -> Exception:
        """An HTTP error as a failure that may pass, or not."""
        reason = f"HTTP {refusal.code} {refusal.reason}".strip()
        if refusal.code == 416 and have:
            _drop(self.part)
            return _CutError(f"{reason}: nothing lies behind byte {have:,}; from the beginning", wait_s=0)
        if refusal.code in (408, 425, 429) or refusal.code >= 500:
            return _CutError(reason, _retry_after(refusal.headers))
        return _UselessError(reason)

    def _not_reached(self, error: Exception) -> Exception:
        """A network error, in words."""
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            return _UselessError(f"its certificate is not valid: {reason.verify_message}")
        if isinstance(reason, http.client.InvalidURL):
            return _UselessError(f"it is no address: {reason}")
        if isinstance(reason, TimeoutError):
            return _CutError(f"no answer for {self.patience.silence_s:g} s")
        if isinstance(reason, ConnectionResetError | http.client.IncompleteRead):
            return _CutError("the connection was cut")
        words = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        return _CutError(" ".join(words.split())[:200])  # of a server that speaks no HTTP it is what that says

    def _check_offer(self, response: http.client.HTTPResponse, have: int, origin: Mapping[str, Any]) -> tuple[int, int]:
        """(first byte that comes, bytes of the whole file) of an answer.

        The answer 200 brings the whole file: the server takes no ranges, or the file is another than before.
        """
        if response.status == 206:
            self._check_range(response, have, origin)
            begin, total = have, _content_range(response.headers)[1]
        elif response.status == 200:
            length = response.headers.get("Content-Length", "")
            begin, total = 0, int(length) if length.isdecimal() else None
        else:
            raise _UselessError(f"HTTP {response.status} {response.reason}")
        expected = self.archive.bytes
        total = expected if total is None else total
        if total is None:
            raise _UselessError("it does not tell the size of the file")
        if expected not in (None, total):
            raise _UselessError(f"the file there has {total:,} bytes, expected {expected:,}")
        needed = _bytes_needed(self.archive, self.part.parent, total)
        _check_space(self.part.parent, needed, f"downloading and extracting {self.archive.file}")
        return begin, total

    def _check_range(self, response: http.client.HTTPResponse, have: int, origin: Mapping[str, Any]) -> None:
        """The answer 206 continues after the `have` bytes, and of the same file; else _CutError, and they are dropped.

        Not every server that takes ranges knows If-Range, so its ETag is compared here too.
        """
        begin, now = _content_range(response.headers)[0], _version(response.headers)
        same_place = origin.get("address") == self.address
        if same_place and any(now[key] and now[key] != origin.get(key) for key in now):
            what = "the file was exchanged"
        elif begin != have:
            what = f"it did not continue at byte {have:,}"
        else:
            return
        _drop(self.part)
        raise _CutError(f"{what}; from the beginning", wait_s=0)

    def _receive(self, response: http.client.HTTPResponse, begin: int, total: int) -> None:
        """Appends what comes. _CutError when it ends before the last byte."""
        position = begin
        with (
            _disk_errors(self.part),
            open(self.part, "ab") as file,
            _megabytes(self.progress, total, f"downloading {self.archive.file}", done=begin) as count,
        ):
            while position < total:
                try:
                    block = response.read1(min(BLOCK, total - position))
                except (OSError, http.client.HTTPException) as error:
                    raise self._not_reached(error) from None
                if not block:
                    raise _CutError(f"the connection was cut after {_in_gb(position)} of {_in_gb(total)}")
                file.write(block)
                position += len(block)
                count.reach(position)


def _origin_of(part: Path) -> Path:
    """The record of where the bytes of an unfinished file come from."""
    return part.with_name(f"{part.name}.json")


def _drop(part: Path) -> None:
    with _disk_errors(part):
        part.unlink(missing_ok=True)
        _origin_of(part).unlink(missing_ok=True)


def _request_headers(address: str, have: int, origin: Mapping[str, Any]) -> dict[str, str]:
    """Of a request that continues after `have` bytes, if the file is still the one they came from (RFC 9110, 13.1.5).

    If-Range takes no weak ETag. Another address has other ETags: there the digest alone has to tell.
    """
    headers = {"User-Agent": "semiseg", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        etag = str(origin.get("etag", ""))
        version = str(origin.get("last_modified", "")) if etag.startswith("W/") or not etag else etag
        if version and origin.get("address") == address:
            headers["If-Range"] = version
    return headers


def _version(headers: Message) -> dict[str, str]:
    """What tells one version of a file on a server from another; empty text where the server does not say."""
    return {"etag": headers.get("ETag", ""), "last_modified": headers.get("Last-Modified", "")}


def _content_range(headers: Message) -> tuple[int | None, int | None]:
    """(first byte, bytes of the whole file) of `Content-Range: bytes 5-9/10`; None for what it does not say."""
    found = re.fullmatch(r"\s*bytes\s+(?:([0-9]+)-[0-9]+|\*)/(?:([0-9]+)|\*)\s*", headers.get("Content-Range", ""))
    begin, total = found.groups() if found else (None, None)
    return (int(begin) if begin else None), (int(total) if total else None)


def _retry_after(headers: Message) -> float | None:
    """Seconds that the server asks to wait: given as a number or as a date (RFC 9110, 10.2.3)."""
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        when = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max((when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds(), 0.0)


def _publish(archive: Archive, part: Path, file: Path) -> None:
    """Gives the checked `part` its final name, and remembers that it was checked."""
    with _disk_errors(file):
        with open(part, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(part, file)
        _sync_folder(file.parent)
        _write_record(_verified_of(file), _as_verified(archive, file))
        _drop(part)  # its record


def _sync_folder(folder: Path) -> None:
    """Makes a rename in this folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------------------------------------- extracting


def _extract(
    archive: Archive,
    file: Path,
    folder: Path,
    progress: Progress,
    most_bytes: int = MOST_BYTES,
    most_members: int = MOST_MEMBERS,
) -> None:
    """Extracts into a hidden folder and gives the wanted part of it its name at the end.

    A process that dies leaves the hidden folder, for the next to delete. Files are not forced to the disk one by one:
    that takes longer than to extract again after a power cut.
    """
    if not hasattr(tarfile, "data_filter"):
        raise DataError("this Python cannot extract safely", "use Python 3.11.4 or newer")
    _check_whole(archive, file, progress)
    _check_space(folder, min(_unpacked_bytes(file), most_bytes), f"extracting {file.name}")
    partial, target = folder / f".{archive.file}.partial", folder / archive.unpacks_to
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    try:
        with _disk_errors(partial):
            partial.mkdir()
            kept = PurePosixPath(archive.unpacks_to)
            members = _Extraction(file, partial.resolve(), kept, most_bytes, most_members).run(progress)
            whole = partial / kept
            _write_record(whole / EXTRACTED_MARK, {"file": archive.file, "digest": archive.digest, "members": members})
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(whole, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_gzip(file: Path) -> bool:
    with open(file, "rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _unpacked_bytes(file: Path) -> int:
    """About how much an archive holds. gzip ends with the size of what it holds, modulo 4 GiB (RFC 1952)."""
    with _disk_errors(file), open(file, "rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        if size < 18 or not _is_gzip(file):
            return size
        stream.seek(-4, os.SEEK_END)
        return int(struct.unpack("<I", stream.read(4))[0])


@dataclass(frozen=True)
class _Extraction:
    """The members of `file` that lie in its folder `kept`, written below `root`. DataError for what is not trusted."""

    file: Path
    root: Path  # without links in its own path
    kept: PurePosixPath
    most_bytes: int
    most_members: int

    def run(self, progress: Progress) -> int:
        """Extracts; returns the number of members."""
        headers = 4096 * (self.most_members + 1)  # a header, a long name and padding for each
        with open(self.file, "rb") as raw, self._megabytes(progress) as count:
            stream = gzip.GzipFile(fileobj=raw) if _is_gzip(self.file) else raw
            bounded: Any = _BoundedStream(stream, self.file, self.most_bytes + headers)
            try:
                with tarfile.open(fileobj=bounded, mode="r:") as tar:
                    members = self._extract_all(tar, lambda: count.reach(raw.tell()))
            except tarfile.FilterError as error:
                _refuse(self.file, str(error))
            except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, RecursionError) as error:
                raise DataError(f"{self.file} is damaged: {error}", "delete it and download it again") from error
        if not (self.root / self.kept).is_dir():
            _refuse(self.file, f"it holds no folder {self.kept}")
        return members

    def _megabytes(self, progress: Progress) -> contextlib.AbstractContextManager[_Megabytes]:
        return _megabytes(progress, _size(self.file), f"extracting {self.file.name}")

    def _extract_all(self, tar: tarfile.TarFile, advance: Callable[[], None]) -> int:
        members = total = 0
        for member in tar:
            members, total = members + 1, total + member.size
            if members > self.most_members:
                _refuse(self.file, f"it has more than {self.most_members:,} members")
            if total > self.most_bytes:
                _refuse(self.file, f"it holds more than {self.most_bytes:,} bytes")
            if problem := self._problem(member):
                _refuse(self.file, f"its member {member.name!r} {problem}")
            if PurePosixPath(member.name).is_relative_to(self.kept):
                tar.extract(member, self.root, filter="data")
            advance()
        return members

    def _problem(self, member: tarfile.TarInfo) -> str | None:
        """What is wrong with a member, or None.

        A link may point up, not further than to the folder that is kept, and from there down without ".." in between;
        and nothing may lie behind a link. So no chain of links leads out, in whatever order its links appear.
        """
        path = PurePosixPath(member.name)
        if path.is_absolute():
            return "has an absolute name"
        if ".." in path.parts:
            return "has '..' in its name"
        if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
            return "is a device, a pipe or of an unknown kind"
        if member.size < 0:
            return f"has a size of {member.size} bytes"
        if os.path.realpath(self.root / path.parent) != str(self.root / path.parent):
            return "lies behind a link"
        if not self._stays_inside(member, path):
            return f"is a link that leaves the folder: {member.linkname!r}"
        return None

    def _stays_inside(self, member: tarfile.TarInfo, path: PurePosixPath) -> bool:
        """Whether a link stays inside; anything but a link does."""
        target = PurePosixPath(member.linkname)
        if member.issym():
            up = next((index for index, part in enumerate(target.parts) if part != ".."), len(target.parts))
            depth = len(path.parent.parts) - len(self.kept.parts)
            return not target.is_absolute() and up <= depth and ".." not in target.parts[up:]
        return not member.islnk() or (target.is_relative_to(self.kept) and ".." not in target.parts)


class _BoundedStream:
    """A tar's bytes as tarfile wants them; refuses to go further than `most` bytes, whatever the headers say."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, file: Path, most: int) -> None:
        self.stream, self.file, self.most = stream, file, most

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MOST_AT_ONCE:
            _refuse(self.file, f"one of its headers says that it is {size:,} bytes long")
        self._check(self.stream.tell() + size)
        return self.stream.read(size)

    def seek(self, position: int) -> int:
        self._check(position)
        return self.stream.seek(position)

    def tell(self) -> int:
        return self.stream.tell()

    def _check(self, position: int) -> None:
        if position > self.most:
            _refuse(self.file, f"it holds more than {self.most:,} bytes")


def _refuse(file: Path, what: str) -> NoReturn:
    raise DataError(f"{file} is not extracted: {what}", "nothing was written; get the archive from another source")
