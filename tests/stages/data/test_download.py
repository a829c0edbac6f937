"""stages/data/download.py: a web server that cuts, stalls, lies and exchanges files; archives that attack."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import email.utils
import gzip
import hashlib
import http.server
import importlib.util
import io
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts.errors import ArtifactError, BusyError, ConfigError, DataError
from artifacts.masks import read_mask
from stages.data.download import SBD, VOC2012, Archive, Patience, download, extract, fetch

ROOT = Path(__file__).parents[3]
QUICK = Patience(tries=3, first_wait_s=0.001, longest_wait_s=0.05, silence_s=5.0)
MEGABYTE = 1_000_000


# --- a web server on this machine ---


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `site.files`; the next of `site.orders`, if any, says how."""

    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self) -> None:
        self.close_connection = True
        self.site.requests.append((self.path, dict(self.headers.items())))
        order = self.site.orders.pop(0) if self.site.orders else whole()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            order(self)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()


Order = Callable[[Handler], None]


@dataclass
class Site:
    """What the server holds, what it was asked, and how it is to misbehave."""

    address: str
    files: dict[str, bytes] = field(default_factory=dict)
    etag: str = '"one"'
    modified: str = "Fri, 11 May 2012 10:00:00 GMT"
    orders: list[Order] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.requests]


def whole(
    stop: int | None = None,
    ranges: bool = True,
    if_range: bool = True,
    reset: bool = False,
    pause: threading.Event | None = None,
    shift: int = 0,
    tell_size: bool = True,
    chunked: bool = False,
) -> Order:
    """A good answer, less what the arguments take from it: `stop` cuts after so many bytes, `pause` stalls there,
    `reset` cuts hard, `shift` answers a range from another byte on."""

    def answer(handler: Handler) -> None:
        site, headers = handler.site, handler.headers
        if handler.path not in site.files:
            return handler.head(404, Content_Length=0)
        data, begin, status = site.files[handler.path], 0, 200
        named: dict[str, object] = {"ETag": site.etag} if site.etag else {}
        named |= {"Last_Modified": site.modified} if site.modified else {}
        asked = re.fullmatch(r"bytes=(\d+)-", headers.get("Range", ""))
        same = headers.get("If-Range", site.etag) in (site.etag, site.modified)
        if asked and ranges and (same or not if_range):
            begin, status = int(asked[1]) + shift, 206
            if begin >= len(data):
                return handler.head(416, Content_Range=f"bytes */{len(data)}", Content_Length=0)
            named["Content_Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        if chunked:
            named["Transfer_Encoding"] = "chunked"
        elif tell_size:
            named["Content_Length"] = len(data) - begin
        handler.head(status, **named)
        body = data[begin:][:stop]
        handler.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body)
        handler.wfile.flush()
        if pause is not None:
            pause.wait(20)
        if reset:
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return None

    return answer


def status(code: int, **headers: object) -> Order:
    return lambda handler: handler.head(code, **{"Content_Length": 0, **headers})


@contextlib.contextmanager
def serving() -> Iterator[Site]:
    handler = type("SiteHandler", (Handler,), {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads, server.block_on_close = True, False
        handler.site = Site(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield handler.site
        server.shutdown()
        thread.join()


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as running:
        yield running


@dataclass
class Seen:
    """Progress that remembers: notes, and for each task [description, unit, total, done]."""

    notes: list[str] = field(default_factory=list)
    tasks: list[list[Any]] = field(default_factory=list)

    @contextlib.contextmanager
    def track(self, total: int, description: str, unit: str = "images", done: int = 0) -> Iterator[Any]:
        task = [description, unit, total, done]
        self.tasks.append(task)

        class Task:
            def advance(self, count: int = 1, **fields: Any) -> None:
                task[3] += count

        yield Task()

    def note(self, text: str) -> None:
        self.notes.append(text)

    def said(self) -> str:
        return "\n".join(self.notes)


def md5(data: bytes) -> str:
    return f"md5:{hashlib.md5(data).hexdigest()}"


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def archive_of(data: bytes, *urls: str, bytes: int | None = -1, file: str = "a.tar", to: str = "kit") -> Archive:
    return Archive("kit", file, urls, len(data) if bytes == -1 else bytes, md5(data), to)


def get(archive: Archive, folder: Path, seen: Seen | None = None, **options: Any) -> bytes:
    file = fetch(archive, folder, progress=seen or Seen(), **{"patience": QUICK, **options})
    assert file == folder / archive.file
    assert not list(folder.glob("*.part*"))
    return file.read_bytes()


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# --- facts ---


@pytest.mark.parametrize(("archive", "module"), [(VOC2012, "voc"), (SBD, "sbd")])
def test_digests_and_addresses_are_those_of_torchvision(archive, module):
    origin = importlib.util.find_spec("torchvision").origin
    source = ast.parse((Path(origin).parent / "datasets" / f"{module}.py").read_text())
    texts = {node.value for node in ast.walk(source) if isinstance(node, ast.Constant)}
    assert archive.digest.removeprefix("md5:") in texts
    assert {archive.file, archive.urls[0]} <= texts
    assert all(url.endswith(f"/{archive.file}") for url in archive.urls)


# --- a download that goes well ---


def test_downloaded_once_checked_once(site, tmp_path):
    data, seen = noise(2_500_000), Seen()
    site.files["/a.tar"] = data
    archive = archive_of(data, f"{site.address}/a.tar")
    assert get(archive, tmp_path, seen) == data
    assert site.ranges() == [None]
    assert seen.tasks == [["downloading a.tar", "MB", 2, 2], ["checking a.tar", "MB", 2, 2]]
    assert names(tmp_path) == {"a.tar", "a.tar.verified", ".a.tar.lock"}
    assert get(archive, tmp_path, seen) == data
    assert len(site.requests) == 1
    assert len(seen.tasks) == 2  # not even hashed again


def test_a_file_put_there_by_hand_is_checked_and_used(tmp_path):
    data, seen = noise(1000), Seen()
    archive = archive_of(data, "http://127.0.0.1:1/a.tar")
    (tmp_path / "a.tar").write_bytes(data)
    assert get(archive, tmp_path, seen) == get(archive, tmp_path, seen) == data
    os.utime(tmp_path / "a.tar", (1, 1))
    assert get(archive, tmp_path, seen) == data  # touched: hashed again
    assert [task[0] for task in seen.tasks] == ["checking a.tar"] * 2


@pytest.mark.parametrize(
    ("there", "message"),
    [
        (b"half", r"is not a.tar of kit: it has 4 bytes, expected 1,000"),
        (noise(1000, seed=1), r"its digest is md5:[0-9a-f]{32}, expected md5:[0-9a-f]{32}"),
    ],
)
def test_a_wrong_file_of_that_name_is_never_overwritten(tmp_path, there, message):
    (tmp_path / "a.tar").write_bytes(there)
    with pytest.raises(DataError, match=message):
        get(archive_of(noise(1000), "http://127.0.0.1:1/a.tar"), tmp_path)
    assert (tmp_path / "a.tar").read_bytes() == there


def test_mirrors_come_first(site, tmp_path):
    data = noise(1000)
    site.files["/pub/voc/a.tar"] = data
    archive = archive_of(data, f"{site.address}/official/a.tar")
    assert get(archive, tmp_path, mirrors=[f"{site.address}/none", f"{site.address}/pub/voc/"]) == data
    assert [path for path, _ in site.requests] == ["/none/a.tar", "/pub/voc/a.tar"]


@pytest.mark.parametrize(
    "mirror", ["/mnt/mirror", "file:///mnt", "ftp://host/x", "http://", "http://a b/", "http://a:x"]
)
def test_a_mirror_is_a_web_address(tmp_path, mirror):
    with pytest.raises(ConfigError, match=r"the mirror .* is no address that begins with http"):
        get(archive_of(b"", "http://127.0.0.1:1/a.tar"), tmp_path, mirrors=[mirror])


def test_a_redirect_keeps_the_range(site, tmp_path):
    data = noise(1000)
    site.files["/moved/a.tar"] = data
    there = status(302, Location=f"{site.address}/moved/a.tar")
    site.orders = [there, whole(stop=400), there]
    assert get(archive_of(data, f"{site.address}/a.tar"), tmp_path) == data
    assert site.ranges() == [None, None, "bytes=400-", "bytes=400-"]


# --- a download that is cut ---


@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_download_continues(site, tmp_path, reset):
    data, seen = noise(3_500_000), Seen()
    site.files["/a.tar"] = data
    site.orders = [whole(stop=2_200_000, reset=reset)]
    assert get(archive_of(data, f"{site.address}/a.tar"), tmp_path, seen) == data
    _, second = site.requests[1]
    have = int(second["Range"].removeprefix("bytes=").removesuffix("-"))
    assert have == 2_200_000 or (reset and have < 2_200_000)  # a reset drops what was on its way
    assert second["If-Range"] == '"one"'
    assert seen.tasks[1] == ["downloading a.tar", "MB", 3, 3]
    assert "the connection was cut" in seen.said()
    assert "next try in 0 s" in seen.said()


def test_a_server_that_falls_silent_is_left(site, tmp_path):
    data, seen, end = noise(1000), Seen(), threading.Event()
    site.files["/a.tar"] = data
    begin = time.monotonic()
    site.orders = [whole(stop=300, pause=end)]
    assert get(archive_of(data, f"{site.address}/a.tar"), tmp_path, seen, patience=fast(silence_s=1.0)) == data
    end.set()
    assert site.ranges() == [None, "bytes=300-"]
    assert "no answer for 1 s" in seen.said()
    assert time.monotonic() - begin < 12


def fast(**changes: Any) -> Patience:
    return dataclasses.replace(QUICK, **changes)


def test_a_server_without_ranges_begins_anew(site, tmp_path):
    data = noise(1000)
    site.files["/a.tar"] = data
    site.orders = [whole(stop=600), whole(ranges=False)]
    assert get(archive_of(data, f"{site.address}/a.tar"), tmp_path) == data
    assert site.ranges() == [None, "bytes=600-"]


def test_a_range_from_another_byte_is_not_glued(site, tmp_path):
    data = noise(1000)
    site.files["/a.tar"] = data
    site.orders = [whole(stop=600), whole(shift=-100)]
    assert get(archive_of(data, f"{site.address}/a.tar"), tmp_path) == data
    assert site.ranges() == [None, "bytes=600-", None]


@pytest.mark.parametrize("if_range", [True, False], ids=["server knows If-Range", "server ignores it"])
@pytest.mark.parametrize("by", ["etag", "modified"])
def test_an_exchanged_file_is_not_glued_to_old_bytes(site, tmp_path, if_range, by):
    old, new, seen = noise(1000), noise(1000, seed=1), Seen()
    site.files["/a.tar"] = old
    setattr(site, {"etag": "modified", "modified": "etag"}[by], "")

    def exchange(handler: Handler) -> None:
        whole(stop=600)(handler)
        site.files["/a.tar"] = new
        setattr(site, by, {"etag": '"two"', "modified": "Sat, 12 May 2012 10:00:00 GMT"}[by])

    site.orders = [exchange, whole(if_range=if_range)]
    assert get(archive_of(new, f"{site.address}/a.tar"), tmp_path, seen) == new
    assert site.ranges() == [None, "bytes=600-"] + ([] if if_range else [None])
    assert [task[0] for task in seen.tasks].count("checking a.tar") == 1  # seen before the digest had to tell


def test_without_any_version_the_digest_tells_and_it_begins_anew(site, tmp_path):
    old, new, seen = noise(1000), noise(1000, seed=1), Seen()
    site.files["/a.tar"], site.etag, site.modified = new, "", ""
    (tmp_path / "a.tar.part").write_bytes(old[:600])
    assert get(archive_of(new, f"{site.address}/a.tar"), tmp_path, seen) == new
    assert site.ranges() == ["bytes=600-", None]
    assert re.search(r"a.tar.part has the digest md5:\w+, expected md5:\w+: from the beginning", seen.said())


def test_a_weak_etag_is_no_if_range(site, tmp_path):
    data = noise(1000)
    site.files["/a.tar"], site.etag = data, 'W/"one"'
    site.orders = [whole(stop=600)]
    assert get(archive_of(data, f"{site.address}/a.tar"), tmp_path) == data
    assert site.requests[1][1]["If-Range"] == site.modified


@pytest.mark.parametrize("size_known", [True, False])
def test_killed_after_the_last_byte(site, tmp_path, size_known):
    data = noise(1000)
    site.files["/a.tar"] = data
    (tmp_path / "a.tar.part").write_bytes(data)
    archive = archive_of(data, f"{site.address}/a.tar", bytes=len(data) if size_known else None)
    assert get(archive, tmp_path) == data
    assert site.ranges() == ([] if size_known else ["bytes=1000-"])  # the answer is 416


@pytest.mark.parametrize("size_known", [True, False])
def test_more_bytes_than_the_file_has(site, tmp_path, size_known):
    data = noise(1000)
    site.files["/a.tar"] = data
    (tmp_path / "a.tar.part").write_bytes(noise(1100))
    archive = archive_of(data, f"{site.address}/a.tar", bytes=len(data) if size_known else None)
    assert get(archive, tmp_path) == data
    assert site.ranges() == ([None] if size_known else ["bytes=1100-", None])


def test_416_for_a_range_that_is_there(site, tmp_path):
    data = noise(1000)
    site.files["/a.tar"] = data
    site.orders = [whole(stop=600), status(416)]
    assert get(archive_of(data, f"{site.address}/a.tar"), tmp_path) == data
    assert site.ranges() == [None, "bytes=600-", None]


def test_a_line_that_is_cut_often_but_gains_gets_there(site, tmp_path):
    data = noise(6_000_000)
    site.files["/a.tar"] = data
    site.orders = [whole(stop=1_100_000) for _ in range(5)]
    assert get(archive_of(data, f"{site.address}/a.tar"), tmp_path, patience=fast(tries=2)) == data
    assert len(site.requests) == 6


def test_a_server_without_ranges_that_always_cuts_is_left(site, tmp_path):
    data = noise(3_000_000)
    site.files["/a.tar"] = data
    site.orders = [whole(stop=2_000_000, ranges=False) for _ in range(9)]
    with pytest.raises(DataError, match=r"cut after 2 MB of 3 MB \(3 tries\)") as caught:
        get(archive_of(data, f"{site.address}/a.tar"), tmp_path)
    assert "the same command tries again and continues after 2 MB" in caught.value.hint
    assert len(site.requests) == 3
    site.orders.clear()
    assert get(archive_of(data, f"{site.address}/a.tar"), tmp_path) == data
    assert site.ranges()[-1] == "bytes=2000000-"


def test_another_address_continues_what_the_first_began(site, tmp_path):
    data = noise(1000)
    site.files |= {"/one/a.tar": data, "/two/a.tar": data}
    site.orders = [whole(stop=600), status(503), status(500)]
    archive = archive_of(data, f"{site.address}/one/a.tar", f"{site.address}/two/a.tar")
    assert get(archive, tmp_path) == data
    path, headers = site.requests[-1]
    assert (path, headers["Range"]) == ("/two/a.tar", "bytes=600-")
    assert "If-Range" not in headers  # the ETag of the other server


def refuse_range(handler: Handler) -> None:
    if "Range" in handler.headers:
        return handler.head(416, Content_Range="bytes */4000", Content_Length=0)
    return whole()(handler)


CUTS = st.one_of(
    st.builds(
        whole,
        stop=st.integers(0, 5000),
        ranges=st.booleans(),
        if_range=st.booleans(),
        shift=st.sampled_from([0, 0, -7, 7]),
    ),
    st.sampled_from([status(503), status(429), status(500), refuse_range]),
    st.builds(whole, chunked=st.just(True)),
)


@settings(max_examples=40, deadline=None)
@given(orders=st.lists(CUTS, max_size=6), begun=st.integers(0, 6000), right=st.booleans(), seed=st.integers(0, 9))
def test_whatever_happens_the_bytes_are_right(tmp_path_factory, orders, begun, right, seed):
    data, folder = noise(5000, seed), tmp_path_factory.mktemp("any")
    (folder / "a.tar.part").write_bytes((data if right else noise(6000, seed=99))[:begun])
    with serving() as site:
        site.files["/a.tar"], site.orders = data, list(orders)
        archive = archive_of(data, f"{site.address}/a.tar")
        assert get(archive, folder, patience=Patience(tries=20, first_wait_s=0, silence_s=5)) == data


# --- servers that refuse ---


def test_busy_servers_are_asked_again(site, tmp_path):
    data, seen = noise(1000), Seen()
    site.files["/a.tar"] = data
    site.orders = [status(503), status(429)]
    assert get(archive_of(data, f"{site.address}/a.tar"), tmp_path, seen) == data
    assert "HTTP 503 Service Unavailable; next try" in seen.said()
    assert "HTTP 429 Too Many Requests; next try" in seen.said()


def retry_date(seconds: float) -> str:
    return email.utils.formatdate(time.time() + seconds, usegmt=True)


@pytest.mark.parametrize(
    ("asked", "least", "said"),
    [
        ("0", 0.0, "0"),
        ("1", 1.0, "1"),
        (lambda: retry_date(2), 0.9, "[12]"),  # whole seconds
        (lambda: retry_date(-60), 0.0, "0"),
        ("9999999", 1.2, "1"),  # bounded by longest_wait_s
        ("soon", 0.6, "1"),  # no number: the wait is our own
    ],
)
def test_retry_after_is_respected_within_bounds(site, tmp_path, asked, least, said):
    data, seen = noise(100), Seen()
    site.files["/a.tar"] = data
    site.orders = [status(503, Retry_After=asked() if callable(asked) else asked)]
    begin = time.monotonic()
    patience = Patience(tries=3, first_wait_s=0.6, longest_wait_s=1.2 if asked == "9999999" else 60)
    get(archive_of(data, f"{site.address}/a.tar"), tmp_path, seen, patience=patience)
    assert time.monotonic() - begin >= least
    assert re.search(rf"HTTP 503 Service Unavailable; next try in {said} s", seen.said())


def test_waits_double_up_to_a_bound(site, tmp_path):
    site.orders = [status(500) for _ in range(6)]
    begin = time.monotonic()
    with pytest.raises(DataError):
        get(archive_of(b"x", f"{site.address}/a.tar"), tmp_path, patience=Patience(6, 0.01, 0.05))
    assert 0.01 + 0.02 + 0.04 + 0.05 + 0.05 <= time.monotonic() - begin < 5


@pytest.mark.parametrize("code", [404, 403, 410, 204])
def test_what_is_not_there_is_looked_for_elsewhere_at_once(site, tmp_path, code):
    data = noise(1000)
    site.files["/two/a.tar"] = data
    site.orders = [status(code)]
    archive = archive_of(data, f"{site.address}/one/a.tar", f"{site.address}/two/a.tar")
    assert get(archive, tmp_path) == data
    assert len(site.requests) == 2


def test_when_nothing_helps_every_address_has_its_reason(site, tmp_path):
    with socket.socket() as closed:  # bound, not listening
        closed.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{closed.getsockname()[1]}"
        site.orders = [status(500)] * 3 + [status(404)]
        archive = archive_of(b"x", f"{site.address}/one/a.tar", f"{site.address}/two/a.tar", f"{dead}/a.tar")
        with pytest.raises(DataError) as caught:
            get(archive, tmp_path)
    assert caught.value.message == (
        f"a.tar could not be downloaded. {site.address}/one/a.tar: HTTP 500 Internal Server Error (3 tries); "
        f"{site.address}/two/a.tar: HTTP 404 Not Found; {dead}/a.tar: Connection refused (3 tries)"
    )
    assert f"Or put the file into {tmp_path}" in caught.value.hint


def test_what_is_no_web_server(site, tmp_path):
    def babble(handler: Handler) -> None:
        handler.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")

    site.orders = [babble] * 3
    with pytest.raises(DataError, match=r"a.tar: SSH-2.0-OpenSSH_9.6 \(3 tries\)"):
        get(archive_of(b"x", f"{site.address}/a.tar"), tmp_path)


# --- servers that send something else ---


def test_wrong_bytes_are_deleted_and_named(site, tmp_path):
    data, wrong = noise(1000), noise(1000, seed=1)
    site.files["/a.tar"] = wrong
    with pytest.raises(DataError) as caught:
        get(archive_of(data, f"{site.address}/a.tar"), tmp_path)
    assert f"the file has the digest {md5(wrong)}, expected {md5(data)}" in caught.value.message
    assert names(tmp_path) == {".a.tar.lock"}
    assert len(site.requests) == 1  # they would be wrong again


def test_after_wrong_bytes_comes_the_next_address(site, tmp_path):
    data = noise(1000)
    site.files |= {"/one/a.tar": noise(1000, seed=1), "/two/a.tar": data}
    archive = archive_of(data, f"{site.address}/one/a.tar", f"{site.address}/two/a.tar")
    assert get(archive, tmp_path) == data


def test_sha256_digests(site, tmp_path):
    data = noise(1000)
    site.files["/a.tar"] = data
    archive = dataclasses.replace(
        archive_of(data, f"{site.address}/a.tar"), digest=f"sha256:{hashlib.sha256(data).hexdigest()}"
    )
    assert get(archive, tmp_path) == data


def test_a_file_of_another_size_is_not_downloaded(site, tmp_path):
    data = noise(1000)
    site.files["/a.tar"] = b"<html>Please accept our terms</html>"
    (tmp_path / "a.tar.part").write_bytes(data[:600])
    site.orders = [whole(ranges=False)]
    with pytest.raises(DataError, match=r"the file there has 36 bytes, expected 1,000"):
        get(archive_of(data, f"{site.address}/a.tar"), tmp_path)
    assert (tmp_path / "a.tar.part").read_bytes() == data[:600]  # a good server can continue it


def test_a_server_that_does_not_tell_the_size(site, tmp_path):
    data = noise(1000)
    site.files["/a.tar"] = data
    site.orders = [whole(tell_size=False, stop=500), whole(tell_size=False, ranges=False)]
    assert get(archive_of(data, f"{site.address}/a.tar"), tmp_path) == data
    site.orders = [whole(tell_size=False)]
    with pytest.raises(DataError, match="it does not tell the size of the file"):
        get(archive_of(data, f"{site.address}/a.tar", bytes=None), tmp_path / "other")


def test_what_follows_the_last_byte_is_not_taken(site, tmp_path):
    data = noise(1000)
    site.files["/a.tar"] = data + b"more"
    site.orders = [whole(tell_size=False)]
    assert get(archive_of(data, f"{site.address}/a.tar"), tmp_path) == data


# --- disks ---


def free_bytes(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12 - free, free))


@pytest.mark.parametrize(
    ("file", "needed"), [("a.tar", 3_000_000 + 3_000_000), ("a.tgz", 3_000_000 + 4_500_000)], ids=["tar", "tgz"]
)
@pytest.mark.parametrize("there", [0, 1_000_000])
def test_the_disk_must_hold_the_archive_and_what_is_in_it(site, tmp_path, monkeypatch, file, needed, there):
    data = noise(3_000_000)
    site.files[f"/{file}"] = data
    archive = archive_of(data, f"{site.address}/{file}", bytes=None, file=file)
    (tmp_path / f"{file}.part").write_bytes(data[:there])
    free_bytes(monkeypatch, needed - there - 1)
    with pytest.raises(
        DataError, match=rf"downloading and extracting {file} needs {(needed - there) / 1e6:g} MB"
    ) as caught:
        get(archive, tmp_path)
    assert "or choose a folder on another disk" in caught.value.hint
    assert (tmp_path / f"{file}.part").stat().st_size == there
    free_bytes(monkeypatch, needed - there)
    assert get(archive, tmp_path) == data


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process of its own: `site` and `folder` are its arguments, `Dying` a progress that kills at the nth advance."""
    head = """
    import os, resource, signal, sys
    from contextlib import contextmanager
    from pathlib import Path
    from stages.contract import PlainProgress
    from stages.data.download import *
    folder, address, digest = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    archive = Archive("kit", "a.tar", (address + "/a.tar",), None, digest, "kit")

    class Dying(PlainProgress):
        @contextmanager
        def track(self, total, description, unit="images", done=0):
            class Task:
                left = int(sys.argv[4]) if description.startswith(sys.argv[5]) else 10 ** 9
                def advance(self, count=1, **fields):
                    self.left -= count
                    if self.left <= 0:
                        os.kill(os.getpid(), signal.SIGKILL)
            yield Task()
    """
    text = textwrap.dedent(head) + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-c", text, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_disk_that_fills_up_meanwhile(site, tmp_path):
    """A limit on the size of files stands for the full disk: the same error path, without a disk to fill."""
    data = noise(2_000_000)
    site.files["/a.tar"] = data
    code = """
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    try:
        fetch(archive, folder, progress=PlainProgress())
    except Exception as error:
        print(type(error).__name__, error)
    """
    process = python(code, tmp_path, site.address, md5(data))
    said, _ = process.communicate(timeout=60)
    assert re.match(r"ArtifactError .*a.tar.part could not be written: it exceeds the file size limit", said)
    assert 0 < (tmp_path / "a.tar.part").stat().st_size <= 1_000_000
    assert get(archive_of(data, f"{site.address}/a.tar"), tmp_path) == data


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ArtifactError, match="cannot be written: Permission denied"):
        get(archive_of(b"x", "http://127.0.0.1:1/a.tar"), tmp_path)


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(ArtifactError, match="a file is where a folder should be"):
        get(archive_of(b"x", "http://127.0.0.1:1/a.tar"), tmp_path / "data")


# --- processes that die, and two at once ---


def test_killed_in_the_middle_of_a_download_and_continued(site, tmp_path):
    data = noise(8_000_000)
    site.files["/a.tar"] = data
    code = "fetch(archive, folder, progress=Dying())"
    process = python(code, tmp_path, site.address, md5(data), 3, "downloading")
    _, trouble = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, trouble
    have = (tmp_path / "a.tar.part").stat().st_size
    assert 1_000_000 < have < 8_000_000
    assert not (tmp_path / "a.tar").exists()
    assert get(archive_of(data, f"{site.address}/a.tar"), tmp_path) == data  # the lock died with the process
    assert site.ranges() == [None, f"bytes={have}-"]
    assert site.requests[1][1]["If-Range"] == '"one"'


def test_a_second_process_is_told_who_is_at_it(site, tmp_path):
    data, end = noise(1000), threading.Event()
    site.files["/a.tar"], site.orders = data, [whole(stop=500, pause=end)]
    archive = archive_of(data, f"{site.address}/a.tar")
    process = python("fetch(archive, folder, progress=PlainProgress())", tmp_path, site.address, md5(data))
    try:
        deadline = time.monotonic() + 30
        while not site.requests and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(BusyError, match=rf"downloaded or extracted by process {process.pid}"):
            get(archive, tmp_path)
        with pytest.raises(BusyError):
            download([archive], tmp_path, progress=Seen())
    finally:
        process.kill()
        process.communicate()
        end.set()
    assert get(archive, tmp_path) == data


# --- extracting ---


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes], zipped: bool = False, **options: Any) -> Archive:
    """A tar of these members, below kit or anywhere; its archive record."""
    with tarfile.open(path, "w:gz" if zipped else "w", **options) as tar:
        for member, data in members:
            member.size = len(data) if member.isreg() else member.size
            tar.addfile(member, io.BytesIO(data) if data else None)
    return archive_of(path.read_bytes(), file=path.name)


def entry(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, **changes: Any) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type = kind
    for key, value in changes.items():
        setattr(member, key, value)
    return member, data


FOLDER = entry("kit", kind=tarfile.DIRTYPE, mode=0o755)
GOOD = (FOLDER, entry("kit/a.txt", b"alpha"), entry("kit/deep/er/b.txt", b"beta"), entry("README", b"not kept"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("zipped", [False, True])
def test_the_folder_is_there_whole_and_extracted_once(tmp_path, zipped):
    archive, seen = tar_of(tmp_path / "a.tar", *GOOD, zipped=zipped), Seen()
    place = extract(archive, tmp_path / "a.tar", tmp_path, seen)
    assert place == tmp_path / "kit"
    found = contents(place)
    assert f'"digest": "{archive.digest}"'.encode() in found.pop(".extracted.json")
    assert found == {"a.txt": b"alpha", "deep/er/b.txt": b"beta"}
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar", "a.tar.verified", ".a.tar.lock", "kit"}
    (tmp_path / "a.tar").unlink()
    assert extract(archive, tmp_path / "a.tar", tmp_path, seen) == place  # not even looked at
    assert [task[0] for task in seen.tasks] == ["checking a.tar", "extracting a.tar"]


PARTS = st.text("abcxyz .-_", min_size=1, max_size=6).filter(lambda text: text not in (".", "..", ".extracted.json"))


@settings(max_examples=25, deadline=None)
@given(
    files=st.dictionaries(st.lists(PARTS, min_size=1, max_size=3).map(tuple), st.binary(max_size=2000), max_size=8),
    zipped=st.booleans(),
    style=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_what_gnu_tar_packs_is_what_comes_out(tmp_path_factory, files, zipped, style):
    """GNU tar is the reference, where there is one; else Python's own."""
    folder = tmp_path_factory.mktemp("tree")
    for parts, data in files.items():
        path = folder.joinpath("kit", *parts)
        if not any(folder.joinpath("kit", *parts[:n]).is_file() for n in range(1, len(parts))) and not path.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    (folder / "kit").mkdir(exist_ok=True)
    packed = folder / "a.tar"
    if program := shutil.which("tar"):
        kind = {tarfile.USTAR_FORMAT: "ustar", tarfile.GNU_FORMAT: "gnu", tarfile.PAX_FORMAT: "posix"}[style]
        options = [f"--format={kind}", "-czf" if zipped else "-cf"]
        subprocess.run([program, *options, packed, "-C", folder, "kit"], check=True)
    else:
        with tarfile.open(packed, "w:gz" if zipped else "w", format=style) as tar:
            tar.add(folder / "kit", "kit")
    archive = archive_of(packed.read_bytes())
    place = extract(archive, packed, folder / "out", Seen())
    found = contents(place)
    found.pop(".extracted.json")
    assert found == contents(folder / "kit")


def test_links_that_stay_inside_are_kept(tmp_path):
    links = [
        entry("kit/deep/up", kind=tarfile.SYMTYPE, linkname="../a.txt"),
        entry("kit/same", kind=tarfile.SYMTYPE, linkname="deep"),
        entry("kit/hard", kind=tarfile.LNKTYPE, linkname="kit/a.txt"),
    ]
    place = extract(tar_of(tmp_path / "a.tar", *GOOD, *links), tmp_path / "a.tar", tmp_path, Seen())
    assert (place / "deep" / "up").read_bytes() == (place / "hard").read_bytes() == b"alpha"
    assert (place / "same" / "er" / "b.txt").read_bytes() == b"beta"


def test_no_member_gets_rights_it_should_not_have(tmp_path):
    archive = tar_of(tmp_path / "a.tar", FOLDER, entry("kit/tool", b"x", mode=0o7777), entry("kit/shut", b"y", mode=0))
    place = extract(archive, tmp_path / "a.tar", tmp_path, Seen())
    assert (place / "tool").stat().st_mode & 0o7777 == 0o755
    assert (place / "shut").read_bytes() == b"y"


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, kind=kind, linkname=target)


ATTACKS = {
    "parent": ([entry("../evil.txt", b"x")], "has '..' in its name"),
    "parent inside": ([entry("kit/../../evil.txt", b"x")], "has '..' in its name"),
    "absolute": ([entry("/tmp/evil.txt", b"x")], "has an absolute name"),
    "symlink out": ([link("kit/evil", "../../evil")], "is a link that leaves the folder: '../../evil'"),
    "symlink beside": ([link("kit/evil", "../mine.txt")], "is a link that leaves the folder"),
    "symlink absolute": ([link("kit/evil", "/etc/passwd")], "is a link that leaves the folder: '/etc/passwd'"),
    "symlink round": ([link("kit/evil", "a/../../../x")], "is a link that leaves the folder"),
    "the folder is a link": ([link("kit", "/tmp")], "is a link that leaves the folder"),
    "hardlink out": ([link("kit/evil", "../mine.txt", tarfile.LNKTYPE)], "is a link that leaves the folder"),
    "hardlink beside": ([link("kit/evil", "mine.txt", tarfile.LNKTYPE)], "is a link that leaves the folder"),
    "hardlink absolute": ([link("kit/evil", "/etc/passwd", tarfile.LNKTYPE)], "is a link that leaves the folder"),
    "behind a link": ([link("kit/l", "deep"), entry("kit/l/evil.txt", b"x")], "lies behind a link"),
    # Each link alone seems to stay inside; together they lead out.
    "chain": ([link("kit/deep/er/e", "d/../.."), link("kit/deep/er/d", "../..")], "is a link that leaves the folder"),
    "chain behind": ([link("kit/deep/er/d", "../.."), link("kit/deep/er/d/e", "../../..")], "lies behind a link"),
    "pipe": ([entry("kit/pipe", kind=tarfile.FIFOTYPE)], "is a device, a pipe"),
    "character device": ([entry("kit/null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3)], "is a device, a pipe"),
    "block device": ([entry("kit/disk", kind=tarfile.BLKTYPE, devmajor=8)], "is a device, a pipe"),
    "unknown kind": ([entry("kit/odd", kind=b"Q")], "is a device, a pipe or of an unknown kind"),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused_and_leaves_nothing(tmp_path, attack, zipped):
    members, message = ATTACKS[attack]
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    before = GOOD[1:] if attack == "the folder is a link" else GOOD
    archive = tar_of(folder / "a.tar", *([] if attack == "the folder is a link" else before), *members, zipped=zipped)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        extract(archive, folder / "a.tar", folder, Seen())
    assert "its member" in caught.value.message
    assert "nothing was written" in caught.value.hint
    assert names(tmp_path) == {"data", *(f"data/{n}" for n in ("a.tar", "a.tar.verified", ".a.tar.lock", "mine.txt"))}
    assert (folder / "mine.txt").read_text() == "mine"


def raw_header(name: str, size: bytes, kind: bytes = b"0") -> bytes:
    """A tar header with a size field that no library would write."""
    block = name.encode().ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + size.rjust(12, b"0") + b"00000000000\0"
    block += b" " * 8 + kind + b"\0" * 100 + b"ustar\00000" + b"\0" * 247
    checksum = b"%06o\0 " % sum(block)
    return block[:148] + checksum + block[156:]


def large(size: int) -> bytes:
    """A size as tar writes large numbers: base 256."""
    return b"\x80" + size.to_bytes(11, "big") if size >= 0 else (256**12 + size).to_bytes(12, "big")


ZEROS = 50_000_000
BOMBS = {
    "many files": (b"".join(raw_header(f"kit/{n}", b"0\0") for n in range(60)), "has more than 50 members"),
    "claims much": (raw_header("kit/a", large(10**13)), "holds more than 1,000,000 bytes"),
    "holds much": (raw_header("kit/a", large(ZEROS)) + bytes(ZEROS), "holds more than 1,000,000 bytes"),
    "much in sum": (
        b"".join(raw_header(f"kit/{n}", large(102_400)) + bytes(102_400) for n in range(20)),
        "holds more than 1,000,000 bytes",
    ),
    "much in a file that is not kept": (raw_header("x", large(ZEROS)) + bytes(ZEROS), "holds more than 1,000,000"),
    "huge header": (raw_header("h", large(ZEROS), b"x") + bytes(ZEROS), "one of its headers says that it is 50,000,"),
    "huge name": (raw_header("n", large(ZEROS), b"L") + bytes(ZEROS), "one of its headers says that it is 50,000,"),
    "many headers": (raw_header("h", large(MEGABYTE * 2), b"x") + bytes(ZEROS), "holds more than"),
    "skips much": (raw_header("kit/a", large(10**13), b"S"), "holds more than"),  # sparse: an empty file, it says
    "negative": (raw_header("kit/a", large(-1024)), "has a size of -1024 bytes|is damaged"),  # newer tarfile
    "negative header": (raw_header("h", large(-1024), b"x"), "says that it is -1,024 bytes long|is damaged"),
    "headers for ever": (raw_header("h", b"0\0", b"g") * 5000, "is damaged|holds no folder kit"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_before_it_goes_off(tmp_path, bomb):
    data, message = BOMBS[bomb]
    (tmp_path / "a.tgz").write_bytes(packed := gzip.compress(data, 6))
    archive = archive_of(packed, file="a.tgz")
    with pytest.raises(DataError, match=message):
        extract(archive, tmp_path / "a.tgz", tmp_path, Seen(), most_bytes=MEGABYTE, most_members=50)
    assert names(tmp_path) == {"a.tgz", "a.tgz.verified", ".a.tgz.lock"}


def test_a_sparse_file_counts_with_what_it_pretends_to_hold(tmp_path):
    program = shutil.which("tar")
    if not program:
        pytest.skip("there is no tar program to pack a sparse file")
    (tmp_path / "kit").mkdir()
    with open(tmp_path / "kit" / "hole", "wb") as file:
        file.truncate(10**10)
    subprocess.run([program, "--sparse", "-cf", tmp_path / "a.tar", "-C", tmp_path, "kit"], check=True)
    shutil.rmtree(tmp_path / "kit")
    assert (tmp_path / "a.tar").stat().st_size < 100_000
    archive = archive_of((tmp_path / "a.tar").read_bytes())
    with pytest.raises(DataError, match="holds more than 9,000,000,000 bytes"):
        extract(archive, tmp_path / "a.tar", tmp_path, Seen(), most_bytes=9 * 10**9)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data[: len(data) // 2], "is damaged"),
        (lambda data: data[:40] + b"\xff" * 40 + data[80:], "is damaged"),
        (lambda data: gzip.compress(gzip.decompress(data)[:4000]), "is damaged: unexpected end of data"),
        (lambda data: b"<html>Please accept our terms</html>", "is damaged"),
        (lambda data: b"", "is damaged: empty file"),
    ],
    ids=["cut", "garbled", "cut inside", "html", "empty"],
)
def test_a_damaged_archive_leaves_nothing(tmp_path, spoil, message):
    """Its digest is right, so the archive itself was published damaged."""
    tar_of(tmp_path / "a.tar", *GOOD[:2], entry("kit/noise", noise(5000)), zipped=True)
    (tmp_path / "a.tar").write_bytes(spoiled := spoil((tmp_path / "a.tar").read_bytes()))
    with pytest.raises(DataError, match=message):
        extract(archive_of(spoiled), tmp_path / "a.tar", tmp_path, Seen())
    assert not {path.name for path in tmp_path.iterdir()} - {"a.tar", "a.tar.verified", ".a.tar.lock"}


def test_a_file_in_the_way_of_a_folder(tmp_path):
    archive = tar_of(tmp_path / "a.tar", FOLDER, entry("kit/a", b"x"), entry("kit/a/b", b"y"))
    with pytest.raises((DataError, ArtifactError), match="partial"):
        extract(archive, tmp_path / "a.tar", tmp_path, Seen())
    assert "kit" not in names(tmp_path)


def test_an_archive_of_something_else(tmp_path):
    archive = tar_of(tmp_path / "a.tar", entry("other/a.txt", b"x"))
    with pytest.raises(DataError, match="it holds no folder kit"):
        extract(archive, tmp_path / "a.tar", tmp_path, Seen())
    with pytest.raises(DataError, match=r"its digest is md5:.*, expected md5:"):
        extract(dataclasses.replace(archive, digest=md5(b"")), tmp_path / "a.tar", tmp_path, Seen())


def test_somebody_elses_folder_is_left_alone(tmp_path):
    archive = tar_of(tmp_path / "a.tar", *GOOD)
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match=r"kit is there, but was not extracted from a.tar here") as caught:
        extract(archive, tmp_path / "a.tar", tmp_path, Seen())
    assert caught.value.hint == "give it as source instead of downloading, or move it away"
    with pytest.raises(DataError, match="kit is there"):
        download([archive], tmp_path, progress=Seen())
    (tmp_path / "kit" / "mine.txt").unlink()
    assert (
        extract(archive, tmp_path / "a.tar", tmp_path, Seen()) / "a.txt"
    ).exists()  # an empty one is in nobody's way


def test_the_folder_of_another_archive_is_left_alone(tmp_path):
    old = tar_of(tmp_path / "old.tar", *GOOD)
    extract(old, tmp_path / "old.tar", tmp_path, Seen())
    new = tar_of(tmp_path / "new.tar", *GOOD[:2])
    with pytest.raises(
        DataError, match=rf"was not extracted from new.tar here: it comes from old.tar \({old.digest}\)"
    ):
        extract(new, tmp_path / "new.tar", tmp_path, Seen())


@pytest.mark.parametrize("zipped", [False, True])
def test_the_disk_must_hold_what_is_extracted(tmp_path, monkeypatch, zipped):
    archive = tar_of(tmp_path / "a.tar", FOLDER, entry("kit/zeros", bytes(5_000_000)), zipped=zipped)
    free_bytes(monkeypatch, 4_900_000)
    with pytest.raises(DataError, match=r"extracting a.tar needs 5.0\d MB in .*, 4.9 MB are free"):
        extract(archive, tmp_path / "a.tar", tmp_path, Seen())
    free_bytes(monkeypatch, 5_200_000)
    extract(archive, tmp_path / "a.tar", tmp_path, Seen())


def test_a_killed_extraction_starts_over(tmp_path):
    members = [entry(f"kit/{n}.bin", noise(500_000, seed=n)) for n in range(10)]
    archive = tar_of(tmp_path / "a.tar", FOLDER, *members)
    code = "extract(archive, folder / 'a.tar', folder, Dying())"
    process = python(code, tmp_path, "-", archive.digest, 3, "extracting")
    _, trouble = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, trouble
    left = list((tmp_path / ".a.tar.partial" / "kit").iterdir())
    assert 3 <= len(left) < 10
    assert not (tmp_path / "kit").exists()
    (tmp_path / ".a.tar.partial" / "kit" / "stale.bin").write_bytes(b"of an older archive")
    place = extract(archive, tmp_path / "a.tar", tmp_path, Seen())
    found = contents(place)
    found.pop(".extracted.json")
    assert found == {member.name.removeprefix("kit/"): data for member, data in members}
    assert not (tmp_path / ".a.tar.partial").exists()


# --- all together ---


def test_two_archives_each_once(site, tmp_path):
    one = tar_of(tmp_path / "one.tar", *GOOD)
    two = tar_of(tmp_path / "two.tgz", entry("set/c.txt", b"gamma"), zipped=True)
    site.files = {f"/{name}": (tmp_path / name).read_bytes() for name in ("one.tar", "two.tgz")}
    one = dataclasses.replace(one, name="one", urls=(f"{site.address}/one.tar",))
    two = dataclasses.replace(two, name="two", urls=("http://127.0.0.1:1/two.tgz",), unpacks_to="set")
    folder = tmp_path / "new" / "data"
    for _ in range(2):
        places = download((one, two), folder, [site.address], progress=Seen(), patience=QUICK)
        assert places == {"one": folder / "kit", "two": folder / "set"}
        for file in folder.glob("*.t*"):
            file.unlink()  # what is extracted needs no archive
    assert (places["two"] / "c.txt").read_bytes() == b"gamma"
    assert len(site.requests) == 2


def test_the_disk_is_asked_for_everything_before_the_first_byte(site, tmp_path, monkeypatch):
    one = dataclasses.replace(archive_of(noise(10**6), f"{site.address}/a.tar"), name="one")
    two = dataclasses.replace(archive_of(noise(10**6), f"{site.address}/b.tgz", file="b.tgz", to="b"), name="two")
    free_bytes(monkeypatch, 4_400_000)
    with pytest.raises(DataError, match=r"downloading and extracting one and two needs 4.5 MB in .*, 4.4 MB are free"):
        download((one, two), tmp_path, progress=Seen())
    assert not site.requests


@pytest.mark.real
def test_real_pictures_arrive_as_they_are(real_data, site, tmp_path):
    source = real_data / "data" / "voc-animals"
    masks = sorted((source / "SegmentationClass").glob("*.png"))[:40]
    pictures = [source / "JPEGImages" / f"{mask.stem}.jpg" for mask in masks]
    with tarfile.open(tmp_path / "benchmark.tgz", "w:gz") as tar:
        for path in [*masks, *pictures, *sorted((source / "ImageSets").rglob("*.txt"))]:
            tar.add(path, Path("VOCdevkit/VOC2012") / path.relative_to(source))
    data = (tmp_path / "benchmark.tgz").read_bytes()
    site.files["/benchmark.tgz"], site.orders = data, [whole(stop=len(data) // 3), status(503)]
    archive = archive_of(data, f"{site.address}/benchmark.tgz", file="benchmark.tgz", to="VOCdevkit/VOC2012")
    place = download([archive], tmp_path / "data", progress=Seen(), patience=QUICK)["kit"]
    for path in [*masks, *pictures]:
        assert (place / path.relative_to(source)).read_bytes() == path.read_bytes()
    assert read_mask(place / "SegmentationClass" / masks[0].name, num_classes=21).ndim == 2
