"""The items of an artifact with many of them lie in items.jsonl, and nothing but `verify` reads them all."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path

import pytest

from artifacts.artifact import Artifact
from artifacts.canonical import digest, file_digest
from artifacts.errors import ArtifactError
from artifacts.item_list import ITEMS_NAME, MOST_IN_MANIFEST, ListedItems, content_digest, list_items
from artifacts.store import Workspace
from stages.pipeline.status import at_first_sight
from tests.artifacts.small_artifacts import work

COUNT = MOST_IN_MANIFEST + 200
NAMES = ["a-b/x", "a/x", "a.txt", "über", 'quo"te', "\U0001f408", "\uffff", "z/" + "y" * 200]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """An artifact of many files, which no test changes."""
    space = Workspace(tmp_path_factory.mktemp("many"))
    names = [*NAMES, *(f"masks/{number}.png" for number in range(COUNT - len(NAMES)))]
    with space.writing("m", work()) as writer:
        for number, name in enumerate(names):
            writer.write_bytes(name, b"x" * (number % 7))
        space.publish("m", writer, work(), {})
    return space.folder("m")


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    """The same with files that may be changed."""
    target = tmp_path / "copy" / "m"
    for path in folder.rglob("*"):
        if path.is_file():
            (target / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (target / path.relative_to(folder)).write_bytes(path.read_bytes())
    return target


def test_the_manifest_does_not_grow_with_the_items(folder):
    assert (folder / "manifest.json").stat().st_size < 5000
    record = json.loads((folder / "manifest.json").read_text())
    assert record["schema"] == 2
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.parent != folder]
    sizes += [(folder / name).stat().st_size for name in NAMES if "/" not in name]
    expected = {"count": COUNT, "bytes": sum(sizes), "sha256": file_digest(folder / ITEMS_NAME)}
    assert record["items"] == expected


def test_the_items_are_those_of_the_files(folder):
    artifact, expected = Artifact(folder), list_items(folder)
    assert isinstance(artifact.items, ListedItems)
    assert len(artifact.items) == len(expected) == COUNT
    assert dict(artifact.items.items()) == expected
    assert list(artifact.items) == sorted(expected)
    for relative, item in expected.items():
        assert artifact.items[relative] == item
    for absent in ("", "a", "masks/", "masks/0.pn", "zz", "\U0010ffff"):
        assert absent not in artifact.items
    assert artifact.manifest.content == digest({path: item["sha256"] for path, item in expected.items()})
    assert content_digest(artifact.items) == content_digest(expected) == artifact.manifest.content
    assert (artifact.manifest.count, artifact.manifest.bytes) == (COUNT, sum(i["bytes"] for i in expected.values()))
    assert pickle.loads(pickle.dumps(artifact)).items["a.txt"] == expected["a.txt"]


def test_a_sample_is_spread_over_the_items(folder):
    items = Artifact(folder).items
    assert isinstance(items, ListedItems)
    sample = list(items.sample(50))
    assert 40 <= len(sample) <= 50
    assert all(items[relative] == item for relative, item in sample)
    assert list(items.sample(10**5)) == list(items.items())


def test_status_counts_the_files_and_looks_at_the_sizes_of_a_sample(copy):
    assert at_first_sight(Artifact(copy)) == []
    (copy / "masks" / "7.png").unlink()
    (copy / "local").mkdir()
    (copy / "local" / "log").write_text("")  # no item
    assert f"it has {COUNT - 1:,} files, expected {COUNT:,}" in at_first_sight(Artifact(copy))
    for path in (copy / "masks").iterdir():
        path.write_bytes(b"longer than all")
    assert len(at_first_sight(Artifact(copy))) > 500


def test_verify_finds_every_change(copy):
    assert Artifact(copy).verify() == []
    (copy / "a.txt").write_bytes(b"changed")
    (copy / "über").unlink()
    (copy / "masks" / "new.png").write_bytes(b"")
    found = ["über is missing", "masks/new.png was added", "a.txt was changed"]
    assert Artifact(copy).verify() == found


def test_verify_finds_a_list_that_was_edited(copy):
    lines = (copy / ITEMS_NAME).read_text().splitlines(keepends=True)
    for changed in (
        lines[:-1],
        [*lines, lines[-1]],
        [*lines[1:], lines[0]],
        [line.replace(", 3,", ", 4,") for line in lines],
    ):
        (copy / ITEMS_NAME).write_text("".join(changed))
        assert f"{ITEMS_NAME} was changed" in Artifact(copy).verify()
    (copy / ITEMS_NAME).write_text("".join(lines))
    assert Artifact(copy).verify() == []


@pytest.mark.parametrize("text", [b"", b"[", b"[1]\n", b'["../x",1,"' + b"0" * 64 + b'"]\n', b"\xff\n", b'{"a":1}\n'])
def test_a_damaged_list_is_named(copy, text):
    (copy / ITEMS_NAME).write_bytes(text)
    with pytest.raises(ArtifactError, match=r"items\.jsonl"):
        list(Artifact(copy).items)
    with pytest.raises(ArtifactError, match=r"items\.jsonl"):
        Artifact(copy).json("a.txt")
    assert ITEMS_NAME in Artifact(copy).verify()[0]
    assert ITEMS_NAME in at_first_sight(Artifact(copy))[0]


def test_a_missing_list_is_named(copy):
    (copy / ITEMS_NAME).unlink()
    with pytest.raises(ArtifactError, match=r"items\.jsonl cannot be read"):
        Artifact(copy).items["x"]
    assert "cannot be read" in Artifact(copy).verify()[0]


def test_a_run_that_was_killed_before_the_first_rename_is_continued(tmp_path):
    space = Workspace(tmp_path)
    with space.writing("m", work()) as writer:
        writer.path.joinpath(ITEMS_NAME).write_text("[]")
        assert not writer.has_work()  # it says nothing of what is made
        writer.write_bytes("x.txt", b"1")
    with space.writing("m", work()) as writer:
        assert not writer.has(ITEMS_NAME)
        assert space.publish("m", writer, work(), {}).verify() == []


def test_random_names_are_found_by_halving(tmp_path):
    rng = random.Random(0)
    names = sorted({"".join(rng.choices("ab/é\U0001f408 '", k=5)).strip("/") or "x" for _ in range(400)})
    item = {"bytes": 1, "sha256": "0" * 64}
    lines = [json.dumps([name, item["bytes"], item["sha256"]], ensure_ascii=rng.random() < 0.5) for name in names]
    (tmp_path / ITEMS_NAME).write_text("\n".join(lines) + "\n" * rng.randint(0, 1))
    items = ListedItems(tmp_path, len(names))
    assert all(items[name] == item for name in names if name[0] != "/")
