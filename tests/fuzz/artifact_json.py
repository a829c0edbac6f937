"""JSON of a workspace that was damaged or edited: read as it was, or refused; `status` shows the rest whatever it is.

One file is changed: an item (as it is, or with a manifest that was made to fit), a manifest, or a record.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from artifacts.dataset import Dataset, write_dataset
from artifacts.errors import ArtifactError, DataError
from artifacts.item_shapes import NetworkSpec, Reliability, predicted
from artifacts.manifest import read_manifest
from artifacts.masks import encode_mask
from artifacts.score_maps import ScoreMaps, ScoreMapWriter
from artifacts.store import Work, Workspace, Writer
from stages.config import build
from stages.contract import load_stage
from stages.pipeline.run_recipe import read_record
from stages.pipeline.status import unfinished_states, workspace_states
from stages.report.figures import read_results
from tests.artifacts.small_artifacts import sign_again

IDS = ["a", "b", "c", "d"]
CLASSES = ["background", "cat", "dog"]
FILES = {
    "data/dataset.json": lambda space: _all_of(Dataset(space.artifact("data"))),
    "data/local/images.json": lambda space: Dataset(space.artifact("data")).image_path("a"),
    "guesses/scores/index.json": lambda space: ScoreMaps(space.artifact("guesses")).ids,
    "guesses/classes.json": lambda space: predicted(space.artifact("guesses")),
    "ranks/reliability.json": lambda space: space.artifact("ranks").json("reliability.json", Reliability),
    "network/network.json": lambda space: space.artifact("network").json("network.json", NetworkSpec),
    **{
        f"{name}/manifest.json": lambda space, name=name: read_manifest(space.path / name)
        for name in ("data", "guesses", "ranks")
    },
    ".recipe.json": read_record,
    ".ranks.bbbbbbbbbbbb.partial/.work.json": lambda space: space.unfinished("ranks"),
    ".ranks.bbbbbbbbbbbb.partial/.asked.json": lambda space: space.unfinished("ranks"),
    ".ranks.bbbbbbbbbbbb.partial/.progress.json": lambda space: space.unfinished("ranks"),
}
VALUES = [None, True, -1, 0, 0.5, 10**400, "", "x", "../x", "/etc", "\ud800", "a\0", [], [1], ["a"] * 3, {}, {"a": []}]
BYTES = [b"", b"{", b"{}", b"[]", b"null", b"\xff", b"[" * 50_000, b'{"a": NaN}', b'{"a": 1e999}', b"\xef\xbb\xbf{}"]


def _all_of(dataset: Dataset) -> list[object]:
    known = [image_id for image_id in IDS if any(image_id in ids for ids in dataset.splits.values())]
    labels = [dataset.tags(image_id) for image_id in known if dataset.has_tags(image_id)]
    each = [(dataset.has_mask(image_id), dataset.image_path(image_id)) for image_id in known]
    head = [dataset.name, dataset.class_names, dataset.splits, dataset.tag_source, dataset.facts]
    return [*head, labels, each, dataset._table.sizes.tolist()]


def fuzz(rng: random.Random, folder: Path) -> str:
    space = Workspace(shutil.copytree(_template(), folder / "work", copy_function=os.link))
    relative, read = rng.choice(list(FILES.items()))
    path = space.path / relative
    for file in {path, space.path / relative.split("/")[0] / "manifest.json"}:
        if file.is_file():  # what is changed must be a file of its own
            data = file.read_bytes()
            file.unlink()
            file.write_bytes(data)
    before = _read(read, space)
    assert before is not None
    rng.choice([_change_value, _change_value, _change_bytes])(rng, path)
    is_item = path.name not in ("manifest.json", "images.json") and not relative.startswith(".")
    signed = is_item and rng.random() < 0.7 and path.is_file()
    if signed:
        sign_again(space.path / relative.split("/")[0])
    found = _read(read, space)
    _look_at(space, "" if path.exists() else relative.split("/")[0])
    if found is None:
        return "refused"
    same = str(found) == str(before)
    assert same or signed or not is_item, f"{relative} was changed and is read as {found}"
    return "read" if same else "read as another value that fits"


def _read(read: Callable[[Workspace], Any], space: Workspace) -> Any:
    with contextlib.suppress(ArtifactError, DataError):
        return read(space)
    return None


def _look_at(space: Workspace, missing: str) -> None:
    """What `semiseg status` and `semiseg report` read."""
    record = _read(read_record, space)
    expected = record.expected if record else {}
    states = {state.name for state in workspace_states(space, expected)}
    assert set(space.names()) <= states
    assert {"data", "guesses", "ranks", "network"} - states <= {missing}
    unfinished_states(space, expected)
    if record and record.table:
        read_results(record.table, space)
    for name in space.names():
        with contextlib.suppress(ArtifactError):
            space.artifact(name).verify()


def _change_bytes(rng: random.Random, path: Path) -> None:
    data = path.read_bytes()
    where = rng.randrange(len(data))
    kind = rng.choice(["flip", "cut", "folder", "missing", "other", "twice"])
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        changed = {"flip": data[:where] + bytes([data[where] ^ (1 << rng.randrange(8))]) + data[where + 1 :]}
        changed |= {"cut": data[:where], "other": rng.choice(BYTES), "twice": data[:-2] + b"," + data.strip()[1:]}
        path.write_bytes(changed[kind])


def _change_value(rng: random.Random, path: Path) -> None:
    """Changes, drops or adds one value somewhere in the file."""
    record = json.loads(path.read_bytes())
    holder = rng.choice(_holders(record))
    key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    kind = rng.choice(["value", "value", "drop", "add", "nest"])
    if kind == "value":
        holder[key] = rng.choice(VALUES)
    elif kind == "drop":
        del holder[key]
    elif kind == "nest":
        for _ in range(rng.choice([1, 90, 400])):
            holder[key] = [holder[key]]
    elif isinstance(holder, dict):
        holder[rng.choice(["", "x", "a/b"])] = rng.choice(VALUES)
    else:
        holder.append(rng.choice([*VALUES, holder[key]]))
    path.write_text(json.dumps(record))


def _holders(value: Any) -> list[Any]:
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return ([value] if inner else []) + [holder for part in inner for holder in _holders(part)]


@functools.lru_cache(maxsize=1)
def _made() -> tempfile.TemporaryDirectory[str]:
    """A workspace with a data set, predictions, a ranking, a network, unfinished work and the record of a recipe."""
    kept = tempfile.TemporaryDirectory()
    space = Workspace(Path(kept.name) / "work")
    (Path(kept.name) / "images").mkdir()
    for image_id in IDS:
        (Path(kept.name) / "images" / f"{image_id}.png").write_bytes(b"")
    configs = {
        stage: build(load_stage(stage).config, values, "fuzz").model_dump(mode="json")
        for stage, values in {
            "prepare-data": {"dataset": {"name": "shapes"}},
            "predict": {"splits": ["val"]},
            "reliability": {},
            "train": {"method": "supervised"},
        }.items()
    }

    def publish(stage: str, name: str, kind: str, write: Callable[[Writer], None], source: str = "") -> None:
        version = load_stage(stage).version
        record = {"artifact": source, "kind": "dataset", "kind_version": 2, "content": "c", "fingerprint": "f"}
        work = Work(stage, version, kind, "a" * 64, configs[stage], {"data": record} if source else {}, {})
        with space.writing(name, work) as writer:
            write(writer)
            space.publish(name, writer, work, {"mean_iou": 0.5, "images_per_second": 3.0, "images": {"val": 2}})

    publish("prepare-data", "data", "dataset", _write_data)
    publish("predict", "guesses", "predictions", _write_guesses, "data")
    parts = {"reliable": ["b"], "unreliable": ["a"]}
    record = {"scores": {"a": 0.25, "b": 1.0}, **parts}
    publish("reliability", "ranks", "reliability", lambda writer: writer.write_json("reliability.json", record), "data")
    spec = {"schema": 1, "task": "segmentation", "network": {"head": "x"}, "num_classes": 3, "class_names": CLASSES}
    spec["pretrained"] = ["backbone."]
    publish("train", "network", "segmenter", lambda writer: writer.write_json("network.json", spec), "data")
    unfinished = Work("reliability", 1, "reliability", "b" * 64, configs["reliability"], {}, {})
    with space.writing("ranks", unfinished) as writer:
        writer.write_bytes("half", b"")
        writer.expect(3)
    node = {"stage": "prepare-data", "config": configs["prepare-data"], "inputs": {}}
    row = {"label": "ours", "nodes": {"all": ["guesses"]}, "published": None, "costs": [["data", "guesses"]]}
    table = {"title": "t", "metric": "mean_iou", "columns": ["all"], "rows": [row], "order": ["ours"]}
    recipe = {"schema": 1, "name": "r", "source": "r.yaml", "profile": None, "nodes": {"data": node}, "table": table}
    (space.path / ".recipe.json").write_text(json.dumps(recipe))
    return kept


def _template() -> Path:
    return Path(_made().name) / "work"


def _write_data(writer: Writer) -> None:
    for image_id in IDS:
        writer.write_bytes(f"masks/{image_id}.png", encode_mask(np.zeros((2, 3), np.uint8)))
    write_dataset(
        writer,
        name="drawn",
        class_names=CLASSES,
        splits={"train": ["a"], "weak": ["b"], "val": ["c", "d"]},
        tags={"a": [1], "b": [1, 2]},
        tag_source="masks",
        mask_ids=["a", "c", "d"],
        image_root=writer.path.parents[1] / "images",
        image_pattern="{id}.png",
        sizes=dict.fromkeys(IDS, (2, 3)),
        facts={"counts": {"train": 1}},
    )


def _write_guesses(writer: Writer) -> None:
    with ScoreMapWriter(writer, class_names=CLASSES, shard_size=1, meaning="probability") as maps:
        maps.plan(["c", "d"])
        for image_id in ("c", "d"):
            maps.add(image_id, np.ones((1, 1, 1)), [0], size=(2, 3), stride=4)
            writer.write_bytes(f"masks/{image_id}.png", encode_mask(np.zeros((2, 3), np.uint8)))
    writer.write_json("classes.json", {"class_names": CLASSES, "ids": ["c", "d"], "splits": ["val"]})
