"""One file from one address: continued where it was interrupted, never joined to bytes of another file.

    Transfer(address, archive, Path("data/a.tar.part"), progress, patience).complete()

The standard library does the work because no library does all of it: pooch and torchvision.datasets.utils begin a cut
download anew, requests neither resumes nor checks, huggingface_hub resumes from its own servers only.
"""

from __future__ import annotations

import email.utils
import http.client
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from pathlib import Path
from typing import Any

from stages.contract import Progress
from stages.data.archives.disk import check_space, every_disk_error, in_gb, size_of
from stages.data.archives.files import BLOCK, bytes_needed, file_digest, read_record, write_record
from stages.data.archives.megabytes import MEGABYTE, megabytes
from stages.data.archives.published import Archive


@dataclass(frozen=True)
class Patience:
    """How long to wait for servers. Times in seconds.

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


PATIENCE = Patience()


class _CutError(Exception):
    """A temporary failure: the same address is tried again, after `wait_s` if the server asked for it."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class UselessError(Exception):
    """A permanent failure: this address cannot give the file, the next one may."""


@dataclass(frozen=True)
class Transfer:
    """From one address into the unfinished file `part`. Next to it, `part`.json records where its bytes come from."""

    address: str
    archive: Archive
    part: Path
    progress: Progress
    patience: Patience

    def complete(self) -> None:
        """Fills `part` until its digest is right; UselessError otherwise.

        If bytes of an earlier run or of another address are wrong, it starts again from the beginning, once.
        """
        continued = size_of(self.part) > 0
        while True:
            self._fill()
            found, wanted = file_digest(self.archive, self.part, self.progress), self.archive.digest
            if found == wanted:
                return
            drop(self.part)
            if not continued:
                raise UselessError(f"the file has the digest {found}, expected {wanted}")
            self.progress.note(f"{self.part.name} has the digest {found}, expected {wanted}: from the beginning")
            continued = False

    def _fill(self) -> None:
        """Requests until no byte is missing; UselessError after `patience.tries` failures without gain."""
        failures, furthest = 0, size_of(self.part)
        while True:
            try:
                return self._request()
            except _CutError as cut:
                if size_of(self.part) - furthest >= MEGABYTE:  # progress was made: a bad connection, but it continues
                    failures, furthest = 0, size_of(self.part)
                failures += 1
                if failures >= self.patience.tries:
                    raise UselessError(f"{cut} ({failures} tries)") from None
                wait = self.patience.first_wait_s * 2 ** (failures - 1) if cut.wait_s is None else cut.wait_s
                wait = min(wait, self.patience.longest_wait_s)
                self.progress.note(f"{self.address}: {cut}; next try in {wait:.0f} s")
                time.sleep(wait)

    def _request(self) -> None:
        """One request for the bytes that are missing. _CutError when some still are."""
        if self.archive.bytes is not None and size_of(self.part) >= self.archive.bytes:
            if size_of(self.part) == self.archive.bytes:  # killed after the last byte
                return
            drop(self.part)
        have, origin = size_of(self.part), read_record(_origin_of(self.part))
        request = urllib.request.Request(self.address, headers=_request_headers(self.address, have, origin))
        try:
            response = urllib.request.urlopen(request, timeout=self.patience.silence_s)
        except urllib.error.HTTPError as refusal:
            with refusal:
                if refusal.code == 416 and have and _content_range(refusal.headers) == (None, have):
                    return  # a request beyond the last byte: none is missing
                raise self._refused(refusal, have) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._not_reached(error) from None
        with response:
            begin, total = self._check_offer(response, have, origin)
            if begin == 0:
                drop(self.part)
                with every_disk_error(self.part):
                    write_record(_origin_of(self.part), {"address": self.address, **_version(response.headers)})
            self._receive(response, begin, total)

    def _refused(self, refusal: urllib.error.HTTPError, have: int) -> Exception:
        """An HTTP error as a failure that may pass, or not."""
        reason = f"HTTP {refusal.code} {refusal.reason}".strip()
        if refusal.code == 416 and have:
            drop(self.part)
            return _CutError(f"{reason}: there is nothing after byte {have:,}; from the beginning", wait_s=0)
        if refusal.code in (408, 425, 429) or refusal.code >= 500:
            return _CutError(reason, _retry_after(refusal.headers))
        return UselessError(reason)

    def _not_reached(self, error: Exception) -> Exception:
        """A readable message for a network error."""
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            return UselessError(f"its certificate is not valid: {reason.verify_message}")
        if isinstance(reason, http.client.InvalidURL):
            return UselessError(f"it is not an address: {reason}")
        if isinstance(reason, TimeoutError):
            return _CutError(f"no answer for {self.patience.silence_s:g} s")
        if isinstance(reason, ConnectionResetError | http.client.IncompleteRead):
            return _CutError("the connection was cut")
        words = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        return _CutError(" ".join(words.split())[:200])  # for a server that does not speak HTTP, its reply

    def _check_offer(self, response: http.client.HTTPResponse, have: int, origin: Mapping[str, Any]) -> tuple[int, int]:
        """(first byte that is sent, bytes of the whole file) of an answer.

        The answer 200 brings the whole file: the server does not support ranges, or the file has changed.
        """
        if response.status == 206:
            self._check_range(response, have, origin)
            begin, total = have, _content_range(response.headers)[1]
        elif response.status == 200:
            length = response.headers.get("Content-Length", "")
            begin, total = 0, int(length) if length.isdecimal() else None
        else:
            raise UselessError(f"HTTP {response.status} {response.reason}")
        expected = self.archive.bytes
        total = expected if total is None else total
        if total is None:
            raise UselessError("the server does not give the size of the file")
        if expected not in (None, total):
            raise UselessError(f"the file there has {total:,} bytes, expected {expected:,}")
        needed = bytes_needed(self.archive, self.part.parent, total)
        check_space(self.part.parent, needed, f"downloading and extracting {self.archive.file}")
        return begin, total

    def _check_range(self, response: http.client.HTTPResponse, have: int, origin: Mapping[str, Any]) -> None:
        """The answer 206 continues after the `have` bytes, and of the same file; else _CutError, and they are dropped.

        Not every server that supports ranges knows If-Range, so its ETag is compared here too.
        """
        begin, now = _content_range(response.headers)[0], _version(response.headers)
        same_place = origin.get("address") == self.address
        if same_place and any(now[key] and now[key] != origin.get(key) for key in now):
            what = "the file on the server has changed"
        elif begin != have:
            what = f"it did not continue at byte {have:,}"
        else:
            return
        drop(self.part)
        raise _CutError(f"{what}; from the beginning", wait_s=0)

    def _receive(self, response: http.client.HTTPResponse, begin: int, total: int) -> None:
        """Appends the bytes received. _CutError if they end before the last byte."""
        position = begin
        with (
            every_disk_error(self.part),
            open(self.part, "ab") as file,
            megabytes(self.progress, total, f"downloading {self.archive.file}", done=begin) as count,
        ):
            while position < total:
                try:
                    block = response.read1(min(BLOCK, total - position))
                except (OSError, http.client.HTTPException) as error:
                    raise self._not_reached(error) from None
                if not block:
                    raise _CutError(f"the connection was cut after {in_gb(position)} of {in_gb(total)}")
                file.write(block)
                position += len(block)
                count.reach(position)


def _origin_of(part: Path) -> Path:
    """The record of where the bytes of an unfinished file come from."""
    return part.with_name(f"{part.name}.json")


def drop(part: Path) -> None:
    """Deletes the unfinished file and its record."""
    with every_disk_error(part):
        part.unlink(missing_ok=True)
        _origin_of(part).unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------- headers


def _request_headers(address: str, have: int, origin: Mapping[str, Any]) -> dict[str, str]:
    """Of a request that continues after `have` bytes, if the file is still the one they came from (RFC 9110, 13.1.5).

    If-Range does not accept weak ETags. Another address has different ETags: there only the digest can tell.
    """
    headers = {"User-Agent": "semiseg", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        etag = str(origin.get("etag", ""))
        version = str(origin.get("last_modified", "")) if etag.startswith("W/") or not etag else etag
        if version.isascii() and version.isprintable() and version and origin.get("address") == address:
            headers["If-Range"] = version
    return headers


def _version(headers: Message) -> dict[str, str]:
    """What identifies the version of a file on a server; empty if the server does not give it."""
    return {"etag": headers.get("ETag", ""), "last_modified": headers.get("Last-Modified", "")}


def _content_range(headers: Message) -> tuple[int | None, int | None]:
    """(first byte, bytes of the whole file) of `Content-Range: bytes 5-9/10`; None for missing parts."""
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
