"""The inputs of a stage: declared on the fields of a dataclass, whose types say which are optional."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pytest

from artifacts.errors import ConfigError
from artifacts.store import Artifact, Workspace
from stages.config import Config
from stages.contract import STAGE_MODULES, Execution, Input, Inputs, Stage, declared_inputs, load_stage, required_inputs
from stages.methods.settings import METHODS, TrainConfig, check_taken
from stages.pipeline.run_stage import run_stage
from tests.stages.conftest import publish


class SharpConfig(Config):
    sharp: bool = False


@dataclass(frozen=True)
class Images(Inputs):
    data: Annotated[Artifact, Input(("dataset",), "the data set", default=("data",))]


@dataclass(frozen=True)
class ImagesAndMasks(Images):
    masks: Annotated[
        Artifact | None,
        Input(("masks", "seeds"), "masks", needed=lambda config, given: config.sharp or "more" in given),
    ]
    more: Annotated[Artifact | None, Input(("masks",), "more of them")]


def stage(run: Any) -> Stage:
    return Stage("toy", 1, "A toy.", SharpConfig, ImagesAndMasks, "masks", run)


def test_the_type_says_which_are_optional() -> None:
    declared = declared_inputs(ImagesAndMasks)
    assert {name: entry.optional for name, entry in declared.items()} == {"data": False, "masks": True, "more": True}
    assert (declared["data"].kinds, declared["data"].default) == (("dataset",), ("data",))
    assert declared_inputs(Inputs) == {}


@pytest.mark.parametrize(
    ("sharp", "given", "required"),
    [
        (False, [], ["data"]),
        (True, [], ["data", "masks"]),
        (False, ["more"], ["data", "masks"]),
        (False, ["data"], ["data"]),
    ],
)
def test_what_a_config_and_the_other_inputs_need(sharp: bool, given: list[str], required: list[str]) -> None:
    assert required_inputs(stage(None), SharpConfig(sharp=sharp), given) == required


def test_they_reach_check_and_run_by_their_names(workspace: Workspace, execution: Execution) -> None:
    data = publish(workspace, "images", "dataset", lambda writer: writer.write_bytes("x.txt", b"x"))
    seen: list[Any] = []

    def run(config: SharpConfig, inputs: ImagesAndMasks, writer: Any, execution: Execution) -> dict[str, Any]:
        seen.append(inputs)
        return {}

    toy = Stage("toy", 1, "", SharpConfig, ImagesAndMasks, "masks", run, lambda config, inputs: seen.append(inputs))
    run_stage(toy, SharpConfig(), workspace, "m", {"data": "images", "masks": None}, execution)
    assert len(seen) == 2
    for inputs in seen:
        assert isinstance(inputs, ImagesAndMasks)
        assert (inputs.data.path, inputs.masks, inputs.more) == (data.path, None, None)


@dataclass(frozen=True)
class Bare(Inputs):
    data: Artifact


@dataclass(frozen=True)
class WithoutKinds(Inputs):
    data: Annotated[Artifact, Input((), "the data set")]


@dataclass(frozen=True)
class OneWord(Inputs):
    data: Annotated[Artifact, Input("dataset", "the data set")]  # type: ignore[arg-type]


@dataclass(frozen=True)
class UnknownKind(Inputs):
    data: Annotated[Artifact, Input(("dataset", "datasets"), "the data set")]


@dataclass(frozen=True)
class NoArtifact(Inputs):
    data: Annotated[str, Input(("dataset",), "the data set")]


class Undecorated(Inputs):
    data: Annotated[Artifact, Input(("dataset",), "the data set")]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (Bare, r"Bare\.data: expected Annotated\[Artifact, Input"),
        (NoArtifact, r"NoArtifact\.data: expected Annotated\[Artifact, Input"),
        (WithoutKinds, r"WithoutKinds\.data: the kinds \(\) are not some of dataset"),
        (OneWord, r"OneWord\.data: the kinds 'dataset' are not"),
        (UnknownKind, r"UnknownKind\.data: the kinds \('dataset', 'datasets'\) are not"),
        (Undecorated, "Undecorated has fields and is no dataclass"),
    ],
)
def test_a_wrong_declaration_is_told_where_the_stage_is_defined(inputs: type[Inputs], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        Stage("toy", 1, "A toy.", SharpConfig, inputs, "masks", lambda *_: {})


# --- those of the stages ---

# stage -> (inputs that are always needed, and those that may be)
DECLARED = {
    "prepare-data": ("", ""),
    "train-classifier": ("data", "predictions features"),
    "seeds": ("data", "classifier maps predictions"),
    "train-refiner": ("data seeds", "initial"),
    "refine": ("data seeds", "refiner segmenter"),
    "features": ("data", ""),
    "train": ("data", "weak_labels seeds initial features"),
    "reliability": ("data segmenter", ""),
    "review": ("data segmenter", ""),
    "predict": ("segmenter", "data classifier selection keep"),
    "pseudo-labels": ("predictions", ""),
    "crf": ("predictions", "data threshold"),
    "segments": ("data", ""),
    "vote": ("data masks", "segments"),
    "import-masks": ("data", ""),
    "retrain": ("data", "segmenter weak_labels features"),
    "select": ("data segmenter", ""),
    "evaluate": ("data", "predictions maps"),
    "instances": ("data seeds refiner", ""),
    "evaluate-instances": ("data instances", ""),
}


def test_the_inputs_of_the_stages() -> None:
    declared = {name: load_stage(name).takes for name in STAGE_MODULES}
    assert {name: {key for key in takes if not takes[key].optional} for name, takes in declared.items()} == {
        name: set(needed.split()) for name, (needed, _) in DECLARED.items()
    }
    assert {name: {key for key in takes if takes[key].optional} for name, takes in declared.items()} == {
        name: set(optional.split()) for name, (_, optional) in DECLARED.items()
    }


GRADIENT = {"labels": {"background": {"kind": "gradient"}}}


@pytest.mark.parametrize(
    ("name", "values", "given", "required"),
    [
        ("seeds", {}, "", "data classifier"),
        ("seeds", {}, "maps", "data"),
        ("seeds", GRADIENT, "maps", "data classifier"),
        ("refine", {}, "", "data seeds refiner"),
        ("predict", {}, "", "data segmenter"),
        ("predict", {"images": "photos"}, "", "segmenter"),
        ("predict", {"part": "reliable"}, "", "data segmenter selection"),
        ("crf", {}, "", "data predictions"),
        ("crf", {"images": "photos"}, "", "predictions"),
        ("evaluate", {}, "", "data predictions"),
        ("evaluate", {}, "maps", "data"),
        ("retrain", {}, "", "data segmenter"),
        ("retrain", {}, "weak_labels", "data"),
        ("retrain", {"start": "segmenter"}, "weak_labels", "data segmenter"),
        ("train", {"method": "supervised"}, "", "data"),
        ("train", {"method": "dsrg"}, "", "data seeds"),
        ("train", {"method": "dual-branch"}, "", "data weak_labels"),
    ],
)
def test_what_the_settings_of_a_stage_need(name: str, values: dict[str, Any], given: str, required: str) -> None:
    found = load_stage(name)
    assert required_inputs(found, found.config.model_validate(values), given.split()) == required.split()


def test_a_method_says_how_its_weak_labels_are_made() -> None:
    declared = load_stage("train").takes["weak_labels"]
    config = TrainConfig.model_validate({"method": "dual-branch"})
    assert declared.made_by(config) == METHODS["dual-branch"].labels_from != ""
    assert load_stage("train").takes["seeds"].made_by(config) == ""


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        ({"name": "fixmatch"}, "method.guidance.weight=0.1"),
        ({"name": "unimatch"}, "method.guidance.weight=0.1"),
        ({"name": "unimatch-v2"}, "method.guidance.weight=0.1"),
        ({"name": "supervised"}, "method.labels to weak"),
        ({"name": "dual-branch", "weak_weight": 0}, "method.weak_weight above 0"),
        ({"name": "self-training", "weight": 0}, "method.weight above 0"),
        ({"name": "st-plus-plus", "weight": 0}, "method.weight above 0"),
        ({"name": "dmt", "weight": 0}, "method.weight above 0"),
    ],
)
def test_estimated_masks_that_would_not_be_used_are_refused_with_what_uses_them(
    method: dict[str, Any], setting: str
) -> None:
    with pytest.raises(ConfigError, match="does not use the input 'weak_labels'") as caught:
        check_taken(TrainConfig.model_validate({"method": method}).method, ["weak_labels"])
    assert (caught.value.hint or "").startswith(f"leave --weak-labels out, or set {setting}")


def test_missing_estimated_masks_are_made_by_more_than_one_stage() -> None:
    """fixmatch with guidance named the commands of dual-branch, which a recipe of a table makes."""
    made_by = load_stage("train").takes["weak_labels"].made_by
    guided = made_by(TrainConfig.model_validate({"method": {"name": "fixmatch", "guidance": {}}}))
    assert "dsrg" not in guided
    assert "leave method.guidance out" in guided
    for text in (guided, made_by(TrainConfig.model_validate({"method": "dual-branch"}))):
        for command in ("semiseg predict --segmenter", "semiseg crf --predictions", "semiseg import-masks --folder"):
            assert command in text
