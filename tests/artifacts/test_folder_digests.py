"""The digest of a folder is kept only as long as no file in it can have changed."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from artifacts.canonical import digest, file_digest
from artifacts.folder_digests import NAME, KnownFolders


def taken(folder):
    return digest({path.name: file_digest(path) for path in folder.iterdir() if path.is_file()})


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for name in ("a.png", "b c.png", "é.png"):
        (tmp_path / "photos" / name).write_bytes(name.encode())
    return tmp_path / "photos"


@pytest.fixture
def settled(monkeypatch):
    monkeypatch.setattr("artifacts.folder_digests._SETTLED_S", -1)  # as if the files were written long ago


def test_the_digest_is_that_of_names_and_bytes(photos, tmp_path, settled):
    known = KnownFolders(tmp_path / NAME)
    assert known.digest(photos) == KnownFolders().digest(photos) == taken(photos)
    assert known.digest(photos) == taken(photos)
    (tmp_path / "empty").mkdir()
    assert known.digest(tmp_path / "empty") == taken(tmp_path / "empty")


def test_a_folder_that_did_not_change_is_not_read_again(photos, tmp_path, settled):
    expected = KnownFolders(tmp_path / NAME).digest(photos)
    record = json.loads((tmp_path / NAME).read_text())
    record["folders"][str(photos)]["digest"] = "as it was kept"
    (tmp_path / NAME).write_text(json.dumps(record))
    assert KnownFolders(tmp_path / NAME).digest(photos) == "as it was kept"
    assert KnownFolders().digest(photos) == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda photos: (photos / "a.png").write_bytes(b"A.png"),  # the same size
        lambda photos: (photos / "d.png").write_bytes(b""),
        lambda photos: (photos / "a.png").unlink(),
        lambda photos: (photos / "a.png").rename(photos / "z.png"),
        lambda photos: [shutil.copy2(photos / "a.png", photos / "x"), os.replace(photos / "x", photos / "b c.png")],
    ],
)
def test_every_change_is_noticed(photos, tmp_path, settled, change):
    known = KnownFolders(tmp_path / NAME)
    before = known.digest(photos)
    change(photos)
    assert known.digest(photos) == taken(photos) != before


def test_links_that_lead_nowhere_are_no_files(photos, tmp_path, settled):
    expected = taken(photos)
    (photos / "loop.png").symlink_to("loop.png")
    (photos / "broken.png").symlink_to("nowhere.png")
    (photos / "folder.png").symlink_to("sub")
    assert KnownFolders(tmp_path / NAME).digest(photos) == expected


def test_files_that_were_just_written_are_read_again(photos, tmp_path):
    known = KnownFolders(tmp_path / NAME)
    for number in range(10, 30):  # faster than a file system's clock ticks
        (photos / "a.png").write_text(str(number))
        assert known.digest(photos) == taken(photos)
    assert not (tmp_path / NAME).exists()


def test_a_damaged_record_and_a_folder_without_rights_change_nothing(photos, tmp_path, settled):
    for text in ("", "{", '{"folders": 3}', '{"folders": {"x": {}}}'):
        (tmp_path / NAME).write_text(text)
        assert KnownFolders(tmp_path / NAME).digest(photos) == taken(photos)
    later = KnownFolders(tmp_path / "later" / NAME)
    assert later.digest(photos) == taken(photos)
    (tmp_path / "later").mkdir()
    later.keep()
    assert json.loads((tmp_path / "later" / NAME).read_text())["folders"][str(photos)]["digest"] == taken(photos)
    with pytest.raises(OSError, match="No such file"):
        KnownFolders().digest(tmp_path / "none")
