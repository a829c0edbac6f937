"""The columns of a data set give what dataset.json says, and are used only if they are of it."""

from __future__ import annotations

import json
import pickle
import random

import numpy as np
import pytest

from artifacts.dataset import SPLITS, Dataset, write_dataset
from artifacts.errors import ArtifactError, DataError
from artifacts.image_table import SortedIds, load
from artifacts.store import Artifact, Work, Workspace, Writer
from tests.artifacts.small_artifacts import change_json, sign_again

COLUMNS = "local/columns.npz"
IDS = ["2007_a", "Straße", "a b", "b", "z" * 200, "é", "猫"]
NAMES = ["background", "cat", "dog"]


def fill(writer: Writer) -> None:
    for image_id in IDS:
        writer.write_bytes(f"images/{image_id}.png", b"")
        writer.write_bytes(f"masks/{image_id}.png", b"")
    writer.write_bytes("images/über.jpg", b"")
    writer.write_bytes("images/copy.png", b"")
    write_dataset(
        writer,
        name="six",
        class_names=NAMES,
        splits={"train": IDS[:2], "weak": IDS[1:5], "val": IDS[5:]},
        tags={image_id: range(1, 1 + number % 3) for number, image_id in enumerate(IDS[:6])},
        tag_source="file",
        mask_ids=[*IDS[:2], *IDS[5:]],
        image_files={"b": "images/über.jpg"},
        copied_images={"猫": "images/copy.png"},
        sizes={image_id: (10 + number, 20) for number, image_id in enumerate(IDS[1:])},
        facts={"counts": [1, 2]},
    )


@pytest.fixture
def data(tmp_path) -> Artifact:
    work = Work("prepare-data", 1, "dataset", "a" * 64, {}, {}, {})
    space = Workspace(tmp_path / "space")
    with space.writing("data", work) as writer:
        fill(writer)
        return space.publish("data", writer, work, {})


def without_columns(data: Artifact) -> Dataset:
    (data.path / COLUMNS).unlink()
    return Dataset(data)


def facts_of(dataset: Dataset) -> dict[str, object]:
    """All that a data set says of its images."""
    each = {
        image_id: (
            dataset.has_tags(image_id) and dataset.tags(image_id),
            np.nan_to_num(dataset.tags_vector(image_id), nan=-1).tolist(),
            dataset.has_mask(image_id),
            dataset.has_mask(image_id) and dataset.mask_path(image_id),
            dataset.image_path(image_id),
            dataset.source_path(image_id),
            image_id != IDS[0] and dataset.size(image_id),
        )
        for ids in dataset.splits.values()
        for image_id in ids
    }
    head = (dataset.name, dataset.class_names, dataset.splits, dataset.tag_source, dataset.facts)
    return {"head": head, "each": each}


def test_columns_say_what_dataset_json_says(data):
    mapped, plain = facts_of(Dataset(data)), facts_of(without_columns(data))
    record = json.loads((data.path / "dataset.json").read_text())
    assert mapped == plain
    assert mapped["head"][2] == {split: tuple(record["splits"][split]) for split in SPLITS}
    for image_id, (labels, _, mask, _, image, _, size) in mapped["each"].items():
        assert (labels is not False and list(labels)) == record["tags"].get(image_id, False)
        assert mask == (image_id in record["masks"])
        files = {"b": "über.jpg", "猫": "copy.png"}
        assert image == data.path / "images" / files.get(image_id, f"{image_id}.png")
        assert (size is not False and list(size)) == record["sizes"].get(image_id, False)


def test_a_process_is_sent_the_place_of_the_columns_only(data):
    dataset = Dataset(data)
    sent = pickle.dumps(dataset)
    assert len(sent) < 1000
    there, again = pickle.loads(sent), pickle.loads(sent)
    assert there is again  # opened once
    assert facts_of(there) == facts_of(dataset)


def test_a_process_opens_a_data_set_without_columns_itself(data):
    plain = without_columns(data)
    assert facts_of(pickle.loads(pickle.dumps(plain))) == facts_of(plain)
    unchecked = Dataset(data, check=False)
    assert facts_of(pickle.loads(pickle.dumps(unchecked))) == facts_of(plain)


def test_unknown_images_are_named(data):
    for dataset in (Dataset(data), without_columns(data)):
        for image_id in ("", "2007_", "2007_a\0", "zz", "\U0010ffff"):
            assert not dataset.has_mask(image_id)
            with pytest.raises(DataError, match="has no image"):
                dataset.tags(image_id)


def test_columns_of_another_dataset_json_are_not_used(data):
    change_json(data.path, "dataset.json", lambda record: record["tags"].update({"2007_a": [2]}))
    assert Dataset(Artifact(data.path)).tags("2007_a") == (2,)
    change_json(data.path, "dataset.json", lambda record: record["tags"].update({"2007_a": [1]}), sign=False)
    with pytest.raises(ArtifactError, match="changed since it was published"):
        Dataset(Artifact(data.path))


def test_damaged_columns_are_passed_over(data):
    expected, whole = facts_of(Dataset(data)), (data.path / COLUMNS).read_bytes()
    rng = random.Random(0)
    for _ in range(100):
        where = rng.randrange(len(whole))
        flipped = bytes([whole[where] ^ 1 << rng.randrange(8)])
        cut = rng.choice([whole[:where], whole[:where] + flipped + whole[where + 1 :], b"", whole[where:]])
        (data.path / COLUMNS).write_bytes(cut)
        assert facts_of(Dataset(data)) == expected
    sign_again(data.path)  # they are no part of the content
    assert facts_of(Dataset(Artifact(data.path))) == expected
    assert not data.verify()


def test_a_file_of_objects_is_not_loaded(tmp_path):
    np.savez(tmp_path / "columns.npz", head=np.array([{"a": 1}], object))
    assert load(tmp_path / "columns.npz") is None
    np.savez_compressed(tmp_path / "columns.npz", head=np.zeros(100))
    assert load(tmp_path / "columns.npz") is None


def test_sorted_ids_find_what_a_dict_finds():
    rng = random.Random(1)
    words = sorted({"".join(rng.choices("ab_é猫\U0001f408", k=rng.randint(1, 6))) for _ in range(300)})
    ids = SortedIds(words)
    rows = {word: row for row, word in enumerate(words)}
    for word in [*words, *("".join(rng.choices("ab_é猫", k=3)) for _ in range(300)), ""]:
        assert ids.row(word) == rows.get(word)
    assert list(ids) == words
    assert ids[2:5] == tuple(words[2:5])
    assert (ids[0], ids[-1], len(ids)) == (words[0], words[-1], len(words))
    assert not SortedIds([])
    assert "a" not in SortedIds([])
