"""Kinds of network: what network.json names is built again, whatever module defines it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from artifacts import checkpoint
from artifacts.errors import ArtifactError
from stages.networks import build_classifier, build_segmenter, load_network, network_kind, network_spec
from stages.networks.config import ClassifierConfig, NetworkConfig

NAMES = ("background", "cat", "dog")


@network_kind("edges-of-a-test")
class Edges(nn.Module):
    """A network of this test alone."""

    def __init__(self, config: ClassifierConfig, width: int) -> None:
        super().__init__()
        self.config, self.width, self.pretrained = config, width, ()
        self.layer = nn.Conv2d(3, width, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images)

    def spec(self, class_names: tuple[str, ...]) -> dict:
        return network_spec(self, class_names, width=self.width)

    @classmethod
    def from_spec(cls, spec: dict) -> Edges:
        return cls(ClassifierConfig.model_validate(spec["network"]), **spec["options"])


def publish(network: nn.Module, spec: dict, folder: Path) -> Path:
    (folder / "network.json").write_text(json.dumps(spec))
    checkpoint.save(folder / "weights.pt", network.state_dict())
    return folder


def test_a_kind_of_network_defined_anywhere_is_loaded_without_an_edit_of_the_loading_code(tmp_path: Path) -> None:
    network = Edges(ClassifierConfig.model_validate("tiny"), width=5)
    again = load_network(publish(network, network.spec(NAMES), tmp_path))
    images = torch.rand(1, 3, 8, 8)
    assert isinstance(again, Edges)
    assert again.class_names == NAMES
    assert torch.equal(again(images), network(images))


def test_files_of_the_first_schema_stay_readable(tmp_path: Path) -> None:
    segmenter = build_segmenter(NetworkConfig.model_validate("tiny"), 3, seed=1)
    classifier = build_classifier(ClassifierConfig.model_validate("tiny"), 2, seed=1)
    for network, task in ((segmenter, "segmentation"), (classifier, "classification")):
        spec = network.spec(NAMES)
        first = {key: spec[key] for key in ("network", "num_classes", "class_names", "pretrained")}
        again = load_network(publish(network, {"schema": 1, "task": task, **first}, tmp_path))
        assert type(again) is type(network)
        assert all(torch.equal(value, again.state_dict()[key]) for key, value in network.state_dict().items())


def test_the_kinds_of_the_product_are_named_in_network_json() -> None:
    assert build_segmenter(NetworkConfig.model_validate("tiny"), 3, 0).spec(NAMES)["kind"] == "segmenter"
    assert build_classifier(ClassifierConfig.model_validate("tiny"), 2, 0).spec(NAMES)["kind"] == "classifier"


def test_a_class_that_is_no_kind_of_network_cannot_be_published() -> None:
    class Derived(Edges):
        pass

    with pytest.raises(TypeError, match="@network_kind"):
        Derived(ClassifierConfig.model_validate("tiny"), width=1).spec(NAMES)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "no-such-kind"}, "unknown kind of network 'no-such-kind'"),
        ({"kind": "no-such-kind", "module": "stages.methods.no_such_file"}, "which this version does not have"),
        ({"kind": "no-such-kind", "module": "os.path"}, "unknown kind of network 'no-such-kind'"),
        ({"kind": None}, "it lacks kind, which schema 2 has"),
        ({"kind": ["seam"]}, "at kind: expected text"),
        ({"module": 3}, "at module: expected text"),
        ({"schema": 1}, "it lacks task, which schema 1 has"),
        ({"options": {"height": 4}}, "does not describe a network"),
    ],
)
def test_a_network_json_of_an_unknown_kind_is_one_clear_error(tmp_path: Path, change: dict, said: str) -> None:
    network = Edges(ClassifierConfig.model_validate("tiny"), width=5)
    with pytest.raises(ArtifactError, match=said):
        load_network(publish(network, {**network.spec(NAMES), **change}, tmp_path))
