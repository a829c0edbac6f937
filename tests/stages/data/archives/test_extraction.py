"""stages/data/archives/extraction.py: what GNU tar packs, damage, processes that die."""

from __future__ import annotations

import dataclasses
import gzip
import shutil
import signal
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts.errors import ArtifactError, DataError
from stages.contract import Progress
from stages.data.archives import extraction
from stages.data.archives.download import alone, download
from stages.data.archives.published import Archive
from tests.stages.data.archives.made_archives import (
    FOLDER,
    GOOD,
    Seen,
    archive_of,
    contents,
    entry,
    free_bytes,
    md5,
    names,
    noise,
    python,
    tar_of,
)


def extract(archive: Archive, file: Path, folder: Path, progress: Progress) -> Path:
    with alone(archive, folder):
        return extraction.extract(archive, file, folder, progress)


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


@settings(max_examples=25)
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


def test_only_the_folder_that_was_asked_for_is_written(tmp_path):
    """Members with names that lead elsewhere are no part of it."""
    others = [entry("kit2/a.txt", b"x"), entry("../evil.txt", b"x"), entry("/tmp/evil.txt", b"x")]
    folder = tmp_path / "data"
    folder.mkdir()
    place = extract(tar_of(folder / "a.tar", *GOOD, *others), folder / "a.tar", folder, Seen())
    assert names(place) == {".extracted.json", "a.txt", "deep", "deep/er", "deep/er/b.txt"}
    assert names(tmp_path) - {f"data/kit/{name}" for name in names(place)} == {
        "data",
        *(f"data/{name}" for name in ("a.tar", "a.tar.verified", ".a.tar.lock", "kit")),
    }


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data[: len(data) // 2], "is damaged"),
        (lambda data: data[:40] + b"\xff" * 40 + data[80:], "is damaged"),
        (lambda data: gzip.compress(gzip.decompress(data)[:4000]), "is damaged: unexpected end of data"),
        (lambda data: b"<html>Please accept our terms</html>", "is damaged"),
        (lambda data: b"", "is damaged"),
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
    with pytest.raises(DataError, match=r"kit exists, but was not extracted from a.tar here") as caught:
        extract(archive, tmp_path / "a.tar", tmp_path, Seen())
    assert caught.value.hint == "give it as source instead of downloading, or move it away"
    with pytest.raises(DataError, match=r"kit exists, but was not extracted from a\.tar here"):
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
    code = "with alone(archive, folder): extract(archive, folder / 'a.tar', folder, Dying())"
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
