"""How CLIP is told of the classes: texts by file and by name, background texts, stored vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artifacts.errors import ConfigError, DataError, SemisegError
from stages.localization.clip_config import ClipSource
from stages.localization.clip_texts import (
    check_clip,
    names_of_rows,
    read_vectors,
    sentences_of_rows,
    texts_of_classes,
)

CLASSES = ("background", "cat", "traffic_light", "tree")


def source(**values: Any) -> ClipSource:
    return ClipSource.model_validate({"name": "clip", "weights": "none"} | values)


def test_a_class_is_called_by_its_name_or_by_the_texts_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "texts.yaml"
    file.write_text("cat: [cat, kitten]\ntree: fir\n")
    assert texts_of_classes(source(), CLASSES) == {
        "cat": ("cat",),
        "traffic_light": ("traffic light",),
        "tree": ("tree",),
    }
    settings = source(texts=str(file), templates=["a {}.", "many {}."], background=["sky", "tree", "fir", "sky"])
    texts = texts_of_classes(settings, CLASSES)
    assert texts == {"cat": ("cat", "kitten"), "traffic_light": ("traffic light",), "tree": ("fir",)}
    assert names_of_rows(settings, texts) == ["cat", "traffic_light", "tree", "sky"]  # tree and fir are of a class
    assert sentences_of_rows(settings, texts) == [
        ["a cat.", "many cat.", "a kitten.", "many kitten."],
        ["a traffic light.", "many traffic light."],
        ["a fir.", "many fir."],
        ["a sky.", "many sky."],
    ]


def test_the_texts_of_the_paper_for_voc() -> None:
    texts = texts_of_classes(source(texts="voc"), ("background", "bird", "person", "dog"))
    assert texts == {"bird": ("bird avian",), "person": ("person with clothes,people,human",), "dog": ("dog",)}
    assert len(source().background) == 25


@pytest.mark.parametrize("name", ["c1", "7", "class_3", "x", "a-b"])
def test_a_class_whose_name_is_no_word_needs_a_text(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"the classes {name}: their names are not words") as caught:
        check_clip(source(), ("background", "cat", name))
    assert "source.texts" in str(caught.value.hint)
    file = tmp_path / "texts.yaml"
    file.write_text(f"{name}: dog\n")
    check_clip(source(texts=str(file)), ("background", "cat", name))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("cta: cat", "no class 'cta', did you mean 'cat'"),
        ("background: sky", "no class 'background'"),
        ("cat:", "cat: expected a text or a list of texts, found None"),
        ("cat: []", "cat: expected a text"),
        ("cat: [1]", "cat: expected a text"),
        ("- cat", "holds a list"),
    ],
)
def test_mistakes_in_a_file_of_texts_are_named(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "texts.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        texts_of_classes(source(texts=str(tmp_path / "texts.yaml")), CLASSES)


def test_what_is_missing_is_said_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="has no weights") as caught:
        check_clip(source(weights=""), CLASSES)
    assert "ViT-B-16.pt" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="all of these texts are of classes"):
        check_clip(source(background=["Cat"]) and source(background=["Cat", "tree"], vectors="x.npz"), CLASSES)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "open_clip" else name)
    with pytest.raises(ConfigError, match="need open_clip, which is not installed") as caught:
        check_clip(source(weights="ViT-B-16.pt"), CLASSES)
    assert "semiseg[clip]" in str(caught.value.hint)
    assert "source.vectors" in str(caught.value.hint)
    check_clip(source(), CLASSES)


def test_a_template_has_one_place_for_the_text() -> None:
    with pytest.raises(ValueError, match="where the text of the class goes"):
        source(templates=["a photo"])


def store(file: Path, names: list[str], vectors: Any) -> Path:
    np.savez(file, names=np.array(names), vectors=vectors)
    return file


def test_stored_vectors_are_found_by_name_in_any_order(tmp_path: Path) -> None:
    vectors = np.arange(1.0, 9.0).reshape(4, 2)
    file = store(tmp_path / "v.npz", ["sky", "tree", "cat", "more"], vectors)
    np.testing.assert_array_equal(read_vectors(file, ["cat", "sky"]), vectors[[2, 0]])
    with pytest.raises(DataError, match="has no vectors of fir, dog") as caught:
        read_vectors(file, ["cat", "fir", "dog"])
    assert "text_vectors.npz" in str(caught.value.hint)
    settings = source(vectors=str(file), background=["sky"])
    check_clip(settings, ("background", "cat"))
    with pytest.raises(ConfigError, match=r"source.texts has no effect with source.vectors"):
        check_clip(source(vectors=str(file), background=["sky"], texts="voc"), ("background", "cat"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b"nothing"),
        lambda file: file.unlink(),
        lambda file: np.savez(file, names=["cat"]),
        lambda file: store(file, ["cat", "dog"], np.ones((1, 4))),
        lambda file: store(file, ["cat"], np.ones((1, 4), int)),
        lambda file: store(file, ["cat"], np.full((1, 4), np.nan)),
        lambda file: store(file, ["cat"], np.zeros((1, 4))),
        lambda file: store(file, ["cat"], np.ones(4)),
        lambda file: file.write_bytes(file.read_bytes()[:-40]),
        lambda file: np.savez(file, names=np.array([object()]), vectors=np.ones((1, 4))),
    ],
)
def test_damaged_vectors_are_one_clear_error(damage: Any, tmp_path: Path) -> None:
    file = store(tmp_path / "v.npz", ["cat"], np.ones((1, 4)))
    damage(file)
    with pytest.raises(SemisegError, match=r"v\.npz"):
        read_vectors(file, ["cat"])
