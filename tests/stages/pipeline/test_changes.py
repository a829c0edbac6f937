"""stages/pipeline/changes.py: which artifacts of an earlier version of the settings are still what is asked for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from artifacts.store import Artifact, Workspace
from stages.config import Config
from stages.contract import Execution, Inputs, Stage
from stages.pipeline.changes import Change, differences, external_changes, listed, setting_changes, settings_apart
from stages.pipeline.run_stage import run_stage
from stages.pipeline.status import Expected, workspace_states
from tests.conftest import TakesMasks


class OldSharp(Config):
    name: Literal["sharp"] = "sharp"
    threshold: float = 0.95


class OldSoft(Config):
    name: Literal["soft"] = "soft"
    weight: float = 1.0


class OldSettings(Config):
    lr: float = 0.1
    method: Annotated[OldSharp | OldSoft, Field(discriminator="name")] = OldSharp()
    steps: tuple[Annotated[OldSharp | OldSoft, Field(discriminator="name")], ...] = ()


class Sharp(OldSharp):
    holdout: str = ""


class Soft(OldSoft):
    ramp: int | None = None


class Settings(OldSettings):
    """The settings some versions later: new keys at the top, in a method, in a list of methods."""

    method: Annotated[Sharp | Soft, Field(discriminator="name")] = Sharp()
    steps: tuple[Annotated[Sharp | Soft, Field(discriminator="name")], ...] = ()
    extra: Sharp = Sharp()


class Slower(Settings):
    lr: float = 0.05


def write_one(config: Any, inputs: Any, writer: Any, execution: Any) -> dict[str, Any]:
    writer.write_bytes("x.txt", str(config.lr).encode())
    return {}


def stage_with(config: type[Config], version: int = 1) -> Stage:
    return Stage("toy-numbers", version, "A toy.", config, Inputs, "masks", write_one)


def copy_it(config: Any, inputs: Any, writer: Any, execution: Any) -> dict[str, Any]:
    writer.write_bytes("y.txt", inputs.masks.file("x.txt").read_bytes())
    return {}


READER = Stage("toy-sum", 1, "Reads it.", Config, TakesMasks, "seeds", copy_it)
RECORDED = OldSettings(method=OldSoft(weight=2.0), steps=(OldSharp(), OldSoft()))
SAME = Settings(method=Soft(weight=2.0), steps=(Sharp(), Soft()))


@pytest.fixture
def made(workspace: Workspace, execution: Execution, toy_stages: Any, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    """`m`, made before there were the new keys, and `reader`, made from it; the stages are those of today."""
    import sys

    from stages.contract import STAGE_MODULES

    artifact = run_stage(stage_with(OldSettings), RECORDED, workspace, "m", {}, execution).artifact
    run_stage(READER, Config(), workspace, "reader", {"masks": "m"}, execution)
    monkeypatch.setattr(sys.modules[STAGE_MODULES["toy-numbers"]], "STAGE", stage_with(Settings))
    monkeypatch.setattr(sys.modules[STAGE_MODULES["toy-sum"]], "STAGE", READER)
    return artifact


def test_new_keys_at_their_defaults_leave_everything_fresh_and_as_recorded(
    made: Artifact, workspace: Workspace, execution: Execution
) -> None:
    before = (made.path / "manifest.json").read_bytes()
    assert not run_stage(stage_with(Settings), SAME, workspace, "m", {}, execution).ran
    assert not run_stage(READER, Config(), workspace, "reader", {"masks": "m"}, execution).ran
    wanted = {"m": Expected(stage_with(Settings), SAME, {})}
    for expected in (wanted, {}):  # as a recipe asks for it, and by its own manifest
        assert [(s.name, s.state, s.reasons) for s in workspace_states(workspace, expected)] == [
            ("m", "fresh", []),
            ("reader", "fresh", []),
        ]
    assert (made.path / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (SAME.model_copy(update={"extra": Sharp(holdout="0.2")}), "config extra.holdout: '' -> 0.2"),
        (SAME.model_copy(update={"method": Soft(weight=2.0, ramp=3)}), "config method.ramp: None -> 3"),
        (SAME.model_copy(update={"lr": 0.2}), "config lr: 0.1 -> 0.2"),
        (SAME.model_copy(update={"steps": (Sharp(holdout="x"), Soft())}), "config steps: "),
    ],
)
def test_a_new_key_that_is_set_makes_work(
    made: Artifact, workspace: Workspace, execution: Execution, asked: Settings, reason: str
) -> None:
    state = workspace_states(workspace, {"m": Expected(stage_with(Settings), asked, {})})[0]
    assert state.state == "stale"
    assert state.reasons[0].startswith(reason)
    assert run_stage(stage_with(Settings), asked, workspace, "m", {}, execution).ran


def test_a_default_that_was_changed_makes_work(made: Artifact, workspace: Workspace, execution: Execution) -> None:
    asked = Slower(**SAME.model_dump(exclude={"lr"}))
    state = workspace_states(workspace, {"m": Expected(stage_with(Slower), asked, {})})[0]
    assert state.reasons == ["config lr: 0.1 -> 0.05"]
    assert run_stage(stage_with(Slower), asked, workspace, "m", {}, execution).ran


def test_files_that_count_before_or_now_are_told_in_sentences(made: Artifact) -> None:
    """It said "the file of config dataset.classes is a file now"; a reader's name of a file is no setting."""
    manifest = made.manifest.model_copy(update={"externals": {"dataset.masks": "a", "dataset.lists": "b"}})
    assert [str(change) for change in external_changes(manifest, {"dataset.lists": "c", "dataset.labels": "d"})] == [
        "a file counts now that did not before (dataset.labels)",
        "the file of dataset.lists changed its content",
        "a file does not count any more (dataset.masks)",
    ]


def test_a_raised_version_makes_work(made: Artifact, workspace: Workspace, execution: Execution) -> None:
    state = workspace_states(workspace, {"m": Expected(stage_with(Settings, 2), SAME, {})})[0]
    assert state.reasons == ["stage version 1 -> 2"]
    assert run_stage(stage_with(Settings, 2), SAME, workspace, "m", {}, execution).ran


def test_a_key_that_is_gone_makes_work(made: Artifact, workspace: Workspace, execution: Execution) -> None:
    class Fewer(Config):
        lr: float = 0.1

    stage = stage_with(Fewer)
    assert [change.key for change in setting_changes(stage, made.manifest, Fewer().model_dump())] == ["method", "steps"]
    assert run_stage(stage, Fewer(), workspace, "m", {}, execution).ran


def test_a_manifest_that_was_edited_is_not_taken_for_an_older_one(
    made: Artifact, workspace: Workspace, execution: Execution
) -> None:
    path = made.path / "manifest.json"
    path.write_text(path.read_text().replace('"lr": 0.1', '"lr": 0.3'))
    assert run_stage(stage_with(Settings), SAME.model_copy(update={"lr": 0.3}), workspace, "m", {}, execution).ran


class Whole(Config):
    needed: int
    method: Annotated[Sharp | Soft, Field(discriminator="name")] = Sharp(threshold=0.5)
    steps: tuple[Sharp, ...] = ()


@pytest.mark.parametrize(
    ("config", "apart"),
    [
        (Whole(needed=1), [("needed", 1)]),
        (Whole(needed=1, method=Sharp(threshold=0.5)), [("needed", 1)]),
        (Whole(needed=1, method=Sharp()), [("needed", 1), ("method.threshold", 0.95)]),
        (Whole(needed=1, method=Soft()), [("needed", 1), ("method.name", "soft")]),
        (Whole(needed=1, method=Soft(ramp=2)), [("needed", 1), ("method.name", "soft"), ("method.ramp", 2)]),
        (
            Whole(needed=1, steps=(Sharp(),)),
            [("needed", 1), ("steps", [{"name": "sharp", "threshold": 0.95, "holdout": ""}])],
        ),
    ],
)
def test_settings_apart_from_the_defaults(config: Whole, apart: list[tuple[str, Any]]) -> None:
    assert settings_apart(config) == apart


VALUES = st.dictionaries(st.sampled_from("abc"), st.integers(0, 2) | st.dictionaries(st.sampled_from("xy"), st.none()))


@given(VALUES, VALUES)
def test_there_are_no_differences_exactly_where_two_configs_are_equal(before: Any, now: Any) -> None:
    assert bool(differences(before, now)) == (before != now)


def test_empty_text_is_shown_and_long_text_is_cut() -> None:
    assert differences({"a": "", "b": "x" * 50}, {"a": 1, "b": ""}) == [("a", "''", "1"), ("b", "x" * 37 + "...", "''")]


def test_many_changes_are_told_by_the_first_that_both_sides_have() -> None:
    changes = [
        Change("absent -> 1", "a"),
        Change("1 -> absent", "b"),
        Change("input data changed"),
        Change("1 -> 2", "c"),
    ]
    assert listed(changes) == "input data changed, c 1 -> 2, a absent -> 1 and 1 more"
    assert listed(changes[:1]) == "a absent -> 1"
