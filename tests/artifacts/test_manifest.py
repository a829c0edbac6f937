"""artifacts/manifest.py: whatever is wrong with a manifest is an ArtifactError that names the file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from artifacts.errors import ArtifactError
from artifacts.item_list import MANIFEST_NAME, content_digest, list_items
from artifacts.manifest import read_manifest
from artifacts.store import Artifact, Work, Workspace

WORK = Work("toy", 1, "masks", "f" * 64, {"a": 1}, {}, {})


@pytest.fixture
def folder(workspace: Workspace) -> Path:
    with workspace.writing("m", WORK) as writer:
        writer.write_bytes("a/b.txt", b"one")
        writer.write_bytes("c.txt", b"two")
        writer.write_bytes("local/log.txt", b"of this machine")
        workspace.publish("m", writer, WORK, {"n": 2})
    return workspace.folder("m")


def rewrite(folder: Path, **changes) -> None:
    record = json.loads((folder / MANIFEST_NAME).read_text())
    record.update(changes)
    (folder / MANIFEST_NAME).write_text(json.dumps({k: v for k, v in record.items() if v != "absent"}))


def test_a_manifest_reads_back_as_written(folder):
    manifest = read_manifest(folder)
    assert manifest.to_json() == (folder / MANIFEST_NAME).read_text()
    assert manifest.count == 2
    assert manifest.bytes == 6
    assert list(manifest.items) == ["a/b.txt", "c.txt"]


@pytest.mark.parametrize("cut", [0, 1, 10, 100, 300])
def test_a_truncated_manifest_is_damaged(folder, cut):
    text = (folder / MANIFEST_NAME).read_bytes()
    (folder / MANIFEST_NAME).write_bytes(text[:cut])
    with pytest.raises(ArtifactError, match=r"manifest\.json is damaged"):
        read_manifest(folder)


@pytest.mark.parametrize("text", [b"\xff\xfe", b"\x00" * 50, b"[" * 100_000])
def test_garbage_is_damaged(folder, text):
    (folder / MANIFEST_NAME).write_bytes(text)
    with pytest.raises(ArtifactError, match=r"manifest\.json is damaged"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": 3}, "schema 3, this version of semiseg reads 1 or 2"),
        ({"schema": 2}, "items are not as its schema has them"),
        ({"schema": "absent"}, "lacks schema"),
        ({"kind": "images"}, "unknown kind 'images', known: dataset"),
        ({"kind": ["masks"]}, 'damaged at kind: expected text, found \\["masks"\\]'),
        ({"kind_version": 99}, "masks has version 99, this version of semiseg reads version 1"),
        ({"fingerprint": "absent", "items": "absent"}, "lacks fingerprint, items"),
        ({"items": []}, "damaged at items"),
        ({"items": {"a": {"bytes": 1}}}, "item 'a': expected its bytes and its sha256"),
        ({"items": {"a": {"bytes": -1, "sha256": "0" * 64}}}, "item 'a': expected its bytes and its sha256"),
        ({"items": {"a": {"bytes": True, "sha256": "0" * 64}}}, "item 'a': expected its bytes and its sha256"),
        ({"items": {"../a": {"bytes": 1, "sha256": "0" * 64}}}, "'../a' leaves the artifact folder"),
        ({"items": {"/etc/passwd": {"bytes": 1, "sha256": "0" * 64}}}, "'/etc/passwd' leaves the artifact folder"),
        ({"summary": None}, "damaged at summary"),
        ({"inputs": {"data": "data"}}, r"damaged at inputs\.data"),
        ({"inputs": {"data": {"artifact": 1}}}, r"lacks inputs\.data\.content"),
        ({"made_by": {"source": {"commit": None}}}, r"damaged at made_by\.source\.commit"),
        ({"seconds": -1}, "damaged at seconds: expected greater than or equal to 0, found -1"),
        ({"seconds": "3"}, "damaged at seconds: expected a number"),
        ({"resumed": True}, "damaged at resumed"),
        ({"argv": [1]}, r"damaged at argv\[0\]"),
        ({"kind_version": 10**30}, "damaged at kind_version"),
    ],
)
def test_a_wrong_field_is_named(folder, changes, words):
    rewrite(folder, **changes)
    with pytest.raises(ArtifactError, match=words) as caught:
        read_manifest(folder)
    assert str(folder) in caught.value.message


def test_an_older_version_says_which_stage_makes_it_again(folder):
    for version, hint in ((0, "rerun the stage 'toy' that made it"), (99, "use the version of semiseg that made it")):
        rewrite(folder, kind_version=version)
        with pytest.raises(ArtifactError, match=f"masks has version {version}, .* reads version 1") as caught:
            read_manifest(folder)
        assert hint in caught.value.hint


def test_json_that_is_no_object(folder):
    (folder / MANIFEST_NAME).write_text("[1]")
    with pytest.raises(ArtifactError, match="damaged: expected an object"):
        read_manifest(folder)


def test_a_folder_without_manifest_and_a_file_are_no_artifacts(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file", tmp_path / "nothing"):
        with pytest.raises(ArtifactError, match="is not an artifact"):
            read_manifest(path)
    (tmp_path / MANIFEST_NAME).mkdir()
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_manifest(tmp_path)


def test_verify_finds_changed_missing_and_added_files(folder):
    artifact = Artifact(folder)
    assert artifact.verify() == []
    (folder / "local" / "log.txt").write_text("may change")
    (folder / "local" / "more.txt").write_text("may come")
    assert artifact.verify() == []
    (folder / "c.txt").write_bytes(b"tWo")  # same length
    (folder / "a" / "b.txt").unlink()
    (folder / "new.txt").write_text("x")
    assert artifact.verify() == ["a/b.txt is missing", "new.txt was added", "c.txt was changed"]


def test_verify_finds_a_manifest_that_was_edited(folder):
    items = read_manifest(folder).items
    (folder / "c.txt").write_bytes(b"tWo")
    rewrite(folder, items=list_items(folder))
    assert ["content digest does not belong" in line for line in Artifact(folder).verify()] == [True]
    rewrite(folder, items=items)
    assert Artifact(folder).verify() == ["c.txt was changed"]


def test_the_content_digest_depends_on_names_and_bytes_only(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "a").mkdir(parents=True)
        (tmp_path / name / "a" / "x").write_bytes(b"1")
        (tmp_path / name / "y").write_bytes(b"2")
    os.utime(tmp_path / "two" / "y", (1, 1))
    (tmp_path / "two" / ".hidden").write_bytes(b"3")
    one, two = (content_digest(list_items(tmp_path / name)) for name in ("one", "two"))
    assert one == two
    (tmp_path / "two" / "y").rename(tmp_path / "two" / "z")
    assert content_digest(list_items(tmp_path / "two")) != one


def test_a_manifest_is_read_again_only_where_its_file_changed(folder, monkeypatch):
    monkeypatch.setattr("artifacts.manifest._SETTLED_S", -1)  # as if it were written long ago
    before = read_manifest(folder)
    assert read_manifest(folder) is before
    rewrite(folder, summary={"n": 33})
    assert read_manifest(folder).summary == {"n": 33}
    os.replace(folder / MANIFEST_NAME, folder / "kept")
    (folder / MANIFEST_NAME).write_text((folder / "kept").read_text().replace("33", "44"))  # of the same size
    assert read_manifest(folder).summary == {"n": 44}


def test_a_manifest_that_was_just_written_is_always_read(folder):
    for number in range(10, 40):  # faster than a file system's clock ticks
        rewrite(folder, summary={"n": number})
        assert read_manifest(folder).summary == {"n": number}
