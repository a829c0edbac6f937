"""stages/data/archives/download.py: servers that cut, stall, lie and exchange files, disks, processes that die."""

from __future__ import annotations

import dataclasses
import email.utils
import hashlib
import os
import re
import signal
import socket
import tarfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts.errors import ArtifactError, BusyError, ConfigError, DataError
from artifacts.masks import read_mask
from stages.data.archives.download import alone, download, fetch
from stages.data.archives.published import Archive
from stages.data.archives.transfer import Patience
from tests.stages.data.archives.made_archives import (
    GOOD,
    Seen,
    archive_of,
    entry,
    free_bytes,
    md5,
    names,
    noise,
    python,
    tar_of,
)
from tests.stages.data.archives.web_server import Handler, serving, status, whole

QUICK = Patience(tries=3, first_wait_s=0.001, longest_wait_s=0.05, silence_s=5.0)


def get(archive: Archive, folder: Path, seen: Seen | None = None, **options: Any) -> bytes:
    with alone(archive, folder):
        file = fetch(archive, folder, progress=seen or Seen(), **{"patience": QUICK, **options})
    assert file == folder / archive.file
    assert not list(folder.glob("*.part*"))
    return file.read_bytes()


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


@pytest.mark.parametrize("record", [b"", b"[" * 100_000, b"[1]", b'{"size": 1000}', b"\xff", b'{"size": NaN}'])
def test_a_damaged_record_of_a_checked_file_counts_as_none(tmp_path, record):
    data, seen = noise(1000), Seen()
    archive = archive_of(data, "http://127.0.0.1:1/a.tar")
    (tmp_path / "a.tar").write_bytes(data)
    (tmp_path / "a.tar.verified").write_bytes(record)
    assert get(archive, tmp_path, seen) == get(archive, tmp_path, seen) == data
    assert len(seen.tasks) == 1  # hashed once, then the record is whole again


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
    with pytest.raises(ConfigError, match=r"the mirror .* is not an address that begins with http"):
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


@settings(max_examples=40)
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


def test_a_proxy_of_the_environment_is_not_asked_for_the_server_of_a_test(tmp_path, monkeypatch):
    """urllib keeps the proxies it has once seen, so that a test of a dead proxy made the downloads after it fail."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setattr(urllib.request, "_opener", None)
    with serving() as site:
        site.files["/a.tar"] = b"bytes"
        assert get(archive_of(b"bytes", f"{site.address}/a.tar"), tmp_path) == b"bytes"


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
    with pytest.raises(DataError, match="the server does not give the size of the file"):
        get(archive_of(data, f"{site.address}/a.tar", bytes=None), tmp_path / "other")


def test_what_follows_the_last_byte_is_not_taken(site, tmp_path):
    data = noise(1000)
    site.files["/a.tar"] = data + b"more"
    site.orders = [whole(tell_size=False)]
    assert get(archive_of(data, f"{site.address}/a.tar"), tmp_path) == data


# --- disks ---


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


def test_a_disk_that_fills_up_meanwhile(site, tmp_path):
    """A limit on the size of files stands for the full disk: the same error path, without a disk to fill."""
    data = noise(2_000_000)
    site.files["/a.tar"] = data
    code = """
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    try:
        with alone(archive, folder):
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
    code = "with alone(archive, folder): fetch(archive, folder, progress=Dying())"
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
    code = "with alone(archive, folder): fetch(archive, folder, progress=PlainProgress())"
    process = python(code, tmp_path, site.address, md5(data))
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


def test_a_child_that_outlives_a_killed_download_does_not_hold_the_archive(tmp_path):
    """It inherits the open lock file, and the folder stayed busy until it ended."""
    code = """
    with alone(archive, folder):
        child = os.fork()
        if child == 0:
            signal.pause()
        print(child, flush=True)
        signal.pause()
    """
    process = python(code, tmp_path, "", "")
    child = int(process.stdout.readline())
    try:
        process.kill()
        process.wait()
        os.kill(child, 0)  # alive
        with alone(archive_of(b"x", "http://127.0.0.1:1/a.tar"), tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        process.communicate()


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
def test_real_images_arrive_as_they_are(real_data, site, tmp_path):
    source = real_data / "data" / "voc-animals"
    masks = sorted((source / "SegmentationClass").glob("*.png"))[:40]
    images = [source / "JPEGImages" / f"{mask.stem}.jpg" for mask in masks]
    with tarfile.open(tmp_path / "benchmark.tgz", "w:gz") as tar:
        for path in [*masks, *images, *sorted((source / "ImageSets").rglob("*.txt"))]:
            tar.add(path, Path("VOCdevkit/VOC2012") / path.relative_to(source))
    data = (tmp_path / "benchmark.tgz").read_bytes()
    site.files["/benchmark.tgz"], site.orders = data, [whole(stop=len(data) // 3), status(503)]
    archive = archive_of(data, f"{site.address}/benchmark.tgz", file="benchmark.tgz", to="VOCdevkit/VOC2012")
    place = download([archive], tmp_path / "data", progress=Seen(), patience=QUICK)["kit"]
    for path in [*masks, *images]:
        assert (place / path.relative_to(source)).read_bytes() == path.read_bytes()
    assert read_mask(place / "SegmentationClass" / masks[0].name, num_classes=21).ndim == 2
