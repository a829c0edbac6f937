"""artifacts/json_items.py: a JSON file is read right, or refused in words that name file and place."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field

from artifacts import json_items
from artifacts.errors import ArtifactError
from artifacts.item_shapes import Classes, NetworkSpec, Reliability
from artifacts.json_items import Anything, Shape, read_json, read_record
from artifacts.store import Workspace
from tests.artifacts.small_artifacts import change_json, make, work


class Toy(Shape):
    schema_version: Literal[2] = Field(alias="schema")
    tags: dict[str, list[int]]
    share: float = 0.5


GOOD: dict[str, Any] = {"schema": 2, "tags": {"a": [1, 2]}}


def refusal(path: Path, data: bytes | Any, shape: Any = Toy) -> str:
    path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    with pytest.raises(ArtifactError) as caught:
        read_json(path, shape)
    assert str(path) in caught.value.message
    assert caught.value.hint
    assert read_record(path, shape) is None
    return caught.value.message.partition(f"{path} ")[2]


def test_a_good_file_is_read_with_its_defaults(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(GOOD | {"unknown": 1}))
    found = read_json(tmp_path / "x.json", Toy)
    assert (found.tags, found.share, found.schema_version) == ({"a": [1, 2]}, 0.5, 2)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is damaged: Expecting value"),
        (b'{"a"', "is damaged: Expecting ':'"),
        (b"\xff{}", "is damaged: byte 0 is not UTF-8"),
        (b"\xef\xbb\xbf{}", "is damaged: Unexpected UTF-8 BOM"),
        (b'{"share": NaN}', "is damaged: NaN is not JSON"),
        (b'{"share": -Infinity}', "is damaged: -Infinity is not JSON"),
        (b'{"share": 1e999}', "is damaged: the number 1e999 is too large"),
        (b'{"share": ' + b"9" * 5000 + b"}", "is damaged: Exceeds the limit"),
        (b'{"tags": 1, "tags": 2}', "is damaged: the key 'tags' occurs twice"),
        (b"[" * 100_000, "is damaged: it is nested too deep"),
        (b"[1]", "is damaged: expected an object, found [1]"),
        ({"schema": 3}, "has schema 3, this version of semiseg reads 2"),
        ({"schema": "2"} | GOOD | {"schema": "2"}, 'has schema "2"'),
        ({"schema": 2}, "lacks tags"),
        (GOOD | {"tags": []}, "is damaged at tags: expected an object, found []"),
        (GOOD | {"tags": {"a": [1, "2"]}}, 'is damaged at tags.a[1]: expected a whole number, found "2"'),
        (GOOD | {"tags": {"a": [True]}}, "is damaged at tags.a[0]: expected a whole number, found true"),
        (
            GOOD | {"tags": {"a": [1.5, None]}},
            "is damaged at tags.a[0]: expected a whole number, found 1.5 (and",
        ),
        (GOOD | {"share": "0.5"}, 'is damaged at share: expected a number, found "0.5"'),
    ],
)
def test_what_is_no_json_or_of_another_shape_is_refused_with_its_place(tmp_path, data, words):
    assert refusal(tmp_path / "x.json", data).startswith(words)


def test_an_object_of_anything_is_refused_where_nobody_could_walk_through_it(tmp_path):
    deep: Any = 1
    for _ in range(json_items.MAX_DEPTH + 5):
        deep = [deep]
    assert "nested deeper than 100 levels" in refusal(tmp_path / "x.json", {"a": deep}, Anything)
    assert "a whole number beyond" in refusal(tmp_path / "x.json", {"a": 10**400}, Anything)


def test_what_is_no_readable_file_is_refused_and_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "large.json").write_text(json.dumps(GOOD))
    monkeypatch.setattr(json_items, "MAX_BYTES", 10)
    for name, words in {
        "pipe.json": "it is not a file",
        "folder.json": "it is not a file",
        "large.json": "at most 10 are read",
        "none.json": f"{tmp_path} has no none.json",
    }.items():
        with pytest.raises(ArtifactError, match=words):
            read_json(tmp_path / name, Toy)


@pytest.fixture
def published(workspace: Workspace) -> Path:
    with workspace.writing("m", work()) as writer:
        writer.write_json("x.json", {"ids": ["a", "b"]})
        return workspace.publish("m", writer, work(), {}).path


def test_an_item_that_was_edited_is_refused_although_it_is_good_json(workspace, published):
    assert workspace.artifact("m").json("x.json") == {"ids": ["a", "b"]}
    change_json(published, "x.json", lambda record: record["ids"].pop(), sign=False)
    with pytest.raises(ArtifactError, match=r"x\.json is damaged: it was changed since it was published") as caught:
        workspace.artifact("m").json("x.json")
    assert "semiseg clean" in (caught.value.hint or "")


def test_an_item_that_nobody_published_is_refused(workspace, published):
    (published / "y.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"y\.json was added since 'm' was published"):
        workspace.artifact("m").json("y.json")


# --- the shapes of items ---

CLASSES = {"class_names": ["background", "cat"], "ids": ["a", "b"], "splits": ["val"]}
ODD = "not every image with a score is in one of the two parts: "
RANKED = {"scores": {"a": 0.5, "b": 1.0}, "reliable": ["b"], "unreliable": ["a"]}
SPEC = {
    "schema": 1,
    "task": "segmentation",
    "network": {},
    "num_classes": 2,
    "pretrained": [],
    "class_names": ["a", "b"],
}


@pytest.mark.parametrize(
    ("shape", "record", "words"),
    [
        (Classes, CLASSES | {"class_names": ["cat", "cat"]}, "expected distinct names"),
        (Classes, CLASSES | {"class_names": {"0": "cat"}}, "at class_names: expected a list"),
        (
            Classes,
            CLASSES | {"class_names": ["\ud800"]},
            "cannot be a class name: it has control characters, or characters that cannot be shown",
        ),
        (Classes, CLASSES | {"ids": ["a", "../b"]}, "'../b' cannot be an image id"),
        (Classes, CLASSES | {"ids": ["a", "a"]}, "at ids: 'a' occurs twice"),
        (Classes, CLASSES | {"ids": "a"}, 'at ids: expected a list, found "a"'),
        (NetworkSpec, SPEC | {"num_classes": 3}, "it has 2 class_names for num_classes 3"),
        (NetworkSpec, SPEC | {"task": "other"}, "at task: expected 'segmentation' or 'classification'"),
        (NetworkSpec, SPEC | {"schema": 2}, "it lacks kind and module, which schema 2 has"),
        (NetworkSpec, SPEC | {"network": None}, "at network: expected an object, found null"),
        (Reliability, RANKED | {"scores": {"a": "0.5", "b": 1}}, 'at scores.a: expected a number, found "0.5"'),
        (Reliability, RANKED | {"scores": {"a": 0.5, "b": 7}}, "at scores.b: expected less than or equal to"),
        (Reliability, RANKED | {"unreliable": []}, f"{ODD}a"),
        (
            Reliability,
            RANKED | {"unreliable": ["a", "b"]},
            f"{ODD}b",
        ),
        (Reliability, RANKED | {"scores": {"b": 1.0}}, f"{ODD}a"),
    ],
)
def test_an_item_that_contradicts_itself_is_refused(tmp_path, shape, record, words):
    assert words in refusal(tmp_path / "x.json", record, shape)


# --- records of the store: a damaged one counts as absent ---


@pytest.mark.parametrize("name", [".asked.json", ".work.json", ".progress.json"])
@pytest.mark.parametrize("data", [b"{", b"[" * 100_000, b"[]", b'{"done": "x", "seconds": {}, "work": 1}', None])
def test_a_damaged_record_of_unfinished_work_is_none_and_the_work_goes_on(workspace, name, data):
    with workspace.writing("m", work()) as writer:
        writer.write_bytes("half.txt", b"1")
        writer.expect(2)
    (path := workspace.partials("m")[0] / name).unlink()
    path.mkdir() if data is None else path.write_bytes(data)
    (unfinished,) = workspace.unfinished("m")
    assert unfinished.folder == path.parent
    assert unfinished.total == (None if name == ".progress.json" else 2)
    assert (unfinished.work is None) == (name == ".asked.json")
    if data is not None:
        assert make(workspace).file("half.txt").read_bytes() == b"1"
