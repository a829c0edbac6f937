"""Fixtures for the stages that predict, refine and score: a small drawn data set and an untrained segmenter.

Those for the stages that train are in drawn_training.py.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

import pytest

from artifacts import checkpoint
from artifacts.dataset import Dataset
from artifacts.store import Artifact, Work, Workspace, Writer
from stages.config import build
from stages.contract import Execution, load_stage
from stages.networks import build_segmenter
from stages.networks.config import NetworkConfig
from stages.pipeline.run_stage import Outcome, run_stage
from tests.stages import drawn_training

training, own_training = drawn_training.training, drawn_training.own_training


def publish(
    workspace: Workspace,
    name: str,
    kind: str,
    write: Callable[[Writer], None],
    summary: Mapping[str, Any] | None = None,
) -> Artifact:
    """An artifact of `kind` with what `write` writes."""
    work = Work("by hand", 1, kind, sha256(name.encode()).hexdigest(), {}, {}, {})
    with workspace.writing(name, work) as writer:
        write(writer)
        return workspace.publish(name, writer, work, summary or {})


def write_segmenter(writer: Writer, class_names: tuple[str, ...], files: Mapping[str, int] | None = None) -> None:
    """An untrained small network, whose scores are spread enough that several classes win.

    files: weights to write, each with the seed of its last layer.
    """
    import torch

    network = build_segmenter(NetworkConfig.model_validate("tiny"), len(class_names), seed=1)
    for file, seed in (files or {"weights.pt": 0}).items():
        with torch.no_grad():
            for parameter in list(network.head.parameters())[-2:]:
                parameter.normal_(std=1.0, generator=torch.Generator().manual_seed(seed))
        with writer.item(file) as temporary:
            checkpoint.save(temporary, network.state_dict())
    writer.write_json("network.json", network.spec(class_names))


class Bench:
    """A workspace with `data` (shapes, 64 pixels) and `segmenter`; runs stages in it."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.run(
            "prepare-data",
            "data",
            {"dataset": {"name": "shapes", "train": 4, "weak": 5, "val": 6, "long_side": 64}},
            {},
        )
        self.dataset = Dataset(workspace.artifact("data"))
        self.add_segmenter("segmenter", self.dataset.class_names)

    def add_segmenter(self, name: str, class_names: tuple[str, ...]) -> Artifact:
        return self.publish(name, "segmenter", lambda writer: write_segmenter(writer, class_names))

    def add_snapshots(
        self, name: str, seeds: Mapping[int, int], class_names: tuple[str, ...] | None = None
    ) -> Artifact:
        """A segmenter with weights of several steps, {step: seed of the last layer}; the last step's are weights.pt."""
        names = self.dataset.class_names if class_names is None else class_names
        last = max(seeds)
        files = {"weights.pt" if step == last else f"snapshots/{step}.pt": seed for step, seed in seeds.items()}
        write = functools.partial(write_segmenter, class_names=names, files=files)
        return publish(self.workspace, name, "segmenter", write, {"iterations": last})

    def publish(self, name: str, kind: str, write: Callable[[Writer], None]) -> Artifact:
        return publish(self.workspace, name, kind, write)

    def outcome(
        self,
        stage: str,
        name: str,
        values: Mapping[str, Any],
        inputs: Mapping[str, str | None] | None = None,
        **execution: Any,
    ) -> Outcome:
        record = load_stage(stage)
        config = build(record.config, values, "test")
        chosen = {key: {"data": "data", "segmenter": "segmenter"}.get(key) for key in record.takes}
        if inputs is not None:
            chosen |= inputs
        doing = Execution(**({"device": "cpu", "workers": 1} | execution))
        return run_stage(record, config, self.workspace, name, chosen, doing)

    def run(self, *arguments: Any, **options: Any) -> Artifact:
        return self.outcome(*arguments, **options).artifact


@pytest.fixture
def by_two_ranks(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[dict[str, Any], dict[str, Any], list[str]]]:
    """Runs a stage's module as two ranks would, the first one last, as behind the barrier.

    by_two_ranks(module, values, inputs) -> (JSON files written, the first rank's summary, ids of the images read)
    """

    def run(module: Any, values: Mapping[str, Any], inputs: Mapping[str, Artifact]) -> Any:
        read, reads = type(bench.dataset).image, []
        monkeypatch.setattr(type(bench.dataset), "image", lambda self, one: reads.append(one) or read(self, one))
        config = build(module.STAGE.config, values, "test")
        work = Work(module.STAGE.name, 1, module.STAGE.output, "0" * 64, {}, {}, {})
        with bench.workspace.writing("by-two", work) as writer:
            for rank in (1, 0):
                monkeypatch.setenv("RANK", str(rank))
                monkeypatch.setenv("WORLD_SIZE", "2")
                summary = module.run(config, module.STAGE.open(inputs), writer, Execution(device="cpu", workers=1))
                assert summary or rank == 1
            written = {file.name: json.loads(file.read_bytes()) for file in writer.path.glob("*.json")}
            writer.discard()
        return written, summary, reads

    return run


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(Workspace(tmp_path_factory.mktemp("bench") / "runs"))
