"""Three small stages that really run: numbers -> their sum with an offset -> a figure."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from artifacts.errors import DataError
from artifacts.store import Artifact, Workspace
from stages.config import Config, ExternalFile
from stages.contract import STAGE_MODULES, Execution, Input, Inputs, PlainProgress, Stage


class NumbersConfig(Config):
    count: int = Field(3, ge=1, description="How many.")
    source: ExternalFile = Field("", description="A file of one number a line.")


class SumConfig(Config):
    plus: float = Field(0.0, description="Added to the sum.")
    mode: Literal["good", "bad", "broken", "interrupted"] = Field("good", description="How the stage ends.")


class ScoreConfig(Config):
    scale: float = Field(0.01, description="Factor.")


@dataclass(frozen=True)
class SumInputs(Inputs):
    numbers: Annotated[Artifact, Input(("dataset",), "numbers to add", default=("numbers",))]
    more: Annotated[Artifact | None, Input(("dataset", "seeds"), "more of them")]


@dataclass(frozen=True)
class ScoreInputs(Inputs):
    sum: Annotated[Artifact, Input(("masks",), "what is scored")]


def make_numbers(config: NumbersConfig, inputs: Inputs, writer: Any, execution: Execution) -> dict[str, Any]:
    writer.expect(config.count)
    for index in range(config.count):
        if not writer.has(f"{index}.txt"):
            writer.write_bytes(f"{index}.txt", str(index).encode())
        writer.advance()
    return {"numbers": config.count}


def make_sum(config: SumConfig, inputs: SumInputs, writer: Any, execution: Execution) -> dict[str, Any]:
    writer.expect(2)
    writer.write_bytes("begun.txt", b"begun")
    writer.advance()
    if config.mode == "bad":
        raise DataError("numbers are odd", "make them even")
    if config.mode == "broken":
        raise ZeroDivisionError("nothing to divide by")
    if config.mode == "interrupted":
        raise KeyboardInterrupt
    total = config.plus + sum(float(path.read_text()) for path in sorted(inputs.numbers.path.glob("*.txt")))
    writer.write_json("sum.json", {"sum": total})
    return {"sum": total}


def make_score(config: ScoreConfig, inputs: ScoreInputs, writer: Any, execution: Execution) -> dict[str, Any]:
    score = config.scale * inputs.sum.json("sum.json")["sum"]
    writer.write_json("metrics.json", {"mean_iou": score})
    return {"mean_iou": score}


STAGES = {
    "toy-numbers": Stage("toy-numbers", 1, "Make numbers.", NumbersConfig, Inputs, "dataset", make_numbers),
    "toy-sum": Stage("toy-sum", 1, "Add them.", SumConfig, SumInputs, "masks", make_sum),
    "toy-score": Stage("toy-score", 1, "Score it.", ScoreConfig, ScoreInputs, "metrics", make_score),
}


@pytest.fixture
def toy_stages(monkeypatch: pytest.MonkeyPatch) -> dict[str, Stage]:
    """The stages, known to recipes by their names."""
    for name, stage in STAGES.items():
        module = types.ModuleType(f"toy_{name.replace('-', '_')}")
        module.STAGE = stage  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(STAGE_MODULES, name, module.__name__)
    return STAGES


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "work")


@pytest.fixture
def execution() -> Execution:
    return Execution(device="cpu", workers=1, progress=PlainProgress())


@pytest.fixture
def raw_recipe(toy_stages: dict[str, Stage]) -> dict[str, Any]:
    """numbers -> sum-s0, sum-s1 -> score-s0, score-s1, with a table."""
    return {
        "name": "toy",
        "description": "Adds numbers.",
        "parameters": {"count": {"default": 4, "help": "How many numbers."}, "scale": 0.01},
        "repeat": {"seed": [0, 1]},
        "nodes": {
            "numbers": {"stage": "toy-numbers", "config": {"count": "${count}"}},
            "sum-s{seed}": {"stage": "toy-sum", "inputs": {"numbers": "numbers"}, "config": {"plus": "{seed}"}},
            "score-s{seed}": {
                "stage": "toy-score",
                "inputs": {"sum": "sum-s{seed}"},
                "config": {"scale": "${scale}"},
            },
        },
        "profiles": {"many": {"parameters": {"count": 10}}, "one": {"repeat": {"seed": [0]}}},
        "table": {
            "title": "Toy table",
            "columns": ["ours"],
            "rows": [{"label": "sum", "nodes": {"ours": "score-s{seed}"}}],
        },
    }
