"""The recipe labels-league: what its rows are made from, that nothing is chosen on val, and a whole small run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from artifacts.errors import ConfigError
from semiseg_cli.main import app
from semiseg_cli.recipe_commands import shipped_recipes
from stages.pipeline.recipe import Recipe, read_recipe

PROFILES = [(None, []), ("shapes", []), ("small", ["data=devkit", "weights=net.pth"])]
ONE = ["labelled=[30]", "seeds=[0]"]


def league(*settings: str, profile: str | None = None) -> Recipe:
    return read_recipe(shipped_recipes()["labels-league"], profile, settings)


def labels(recipe: Recipe) -> list[str]:
    assert recipe.table is not None
    return [row.label for row in recipe.table.rows]


def costs(recipe: Recipe) -> dict[str, list[list[str]]]:
    assert recipe.table is not None
    return {row.label: row.costs for row in recipe.table.rows}


@pytest.mark.parametrize(("profile", "given"), PROFILES)
def test_trainings_differ_in_method_batch_and_labels_alone(profile: str | None, given: list[str]) -> None:
    nodes = league(*given, "online=[fixmatch,unimatch]", "rounds=[1,2,3]", "longer=[]", profile=profile).nodes
    configs = {name: node.config.model_dump() for name, node in nodes.items() if name.startswith("train-")}
    same = [
        {key: value for key, value in config.items() if key not in ("method", "batch_size", "seed")}
        for config in configs.values()
    ]
    assert all(config == same[0] for config in same)
    halves = {name for name, config in configs.items() if config["batch_size"] == 8}
    assert halves == {name for name, config in configs.items() if config["method"]["name"] == "supervised"}


def test_a_longer_baseline_differs_in_its_steps_alone() -> None:
    nodes = league("iterations=70", "longer=[2,3]", *ONE).nodes
    short = nodes["train-supervised-n30-s0"].config.model_dump()
    for times, steps in ((2, 140), (3, 210)):
        assert nodes[f"train-longer-{times}-n30-s0"].config.model_dump() == {**short, "iterations": steps}


def test_a_round_is_labelled_by_the_student_of_the_one_before_with_its_own_image_labels() -> None:
    nodes = league("rounds=[1,2,3]", *ONE).nodes
    for how in ("ignore", "share"):
        teachers = ["train-supervised-n30-s0", *(f"train-self-{number}-{how}-n30-s0" for number in (1, 2))]
        for number, teacher in enumerate(teachers, 1):
            labelling = nodes[f"labels-{number}-{how}-n30-s0"]
            assert (labelling.inputs["segmenter"], labelling.config.image_labels) == (teacher, how)
            assert nodes[f"train-self-{number}-{how}-n30-s0"].inputs["weak_labels"] == labelling.name


def test_online_methods_are_told_what_image_labels_are_for() -> None:
    nodes = league("online=[fixmatch,cps]", "image_labels=[ignore,share,exclude]", *ONE).nodes
    for online in ("fixmatch", "cps"):
        for how in ("ignore", "share", "exclude"):
            assert nodes[f"train-{online}-{how}-n30-s0"].config.method.image_labels == how
    assert nodes["labels-fixmatch-share-n30-s0"].inputs["segmenter"] == "train-fixmatch-share-n30-s0"
    assert nodes["labels-fixmatch-share-n30-s0"].config.image_labels == "share"


def test_the_costs_of_a_row_are_those_of_its_teachers_too() -> None:
    found = costs(league(*ONE))
    rounds = ["labels-1-share", "train-self-1-share", "labels-2-share", "train-self-2-share"]
    assert found["self-training, share, round 2"] == [[f"{n}-n30-s0" for n in ("train-supervised", *rounds)]]
    assert found["dual-branch on round 1, share"] == [
        ["train-supervised-n30-s0", "labels-1-share-n30-s0", "train-dual-1-share-n30-s0"]
    ]
    (seam,) = found["dual-branch, seam masks"]
    assert seam == [
        "classifier-seam-s0",
        "maps-seam-s0",
        "evaluate-maps-seam-n30-s0",
        "masks-seam-n30-s0",
        "train-dual-seam-n30-s0",
    ]


@pytest.mark.parametrize(("profile", "given"), PROFILES)
def test_nothing_is_chosen_on_val(profile: str | None, given: list[str]) -> None:
    for name, node in league(*given, profile=profile).nodes.items():
        if "val" in getattr(node.config, "splits", ()):
            assert name.startswith(("predict-", "evaluate-")), name
        if name.startswith("evaluate-maps-"):
            assert (node.config.splits, node.config.choose_on) == (("weak",), ("train",))
        assert node.stage.name != "select"


def test_empty_lists_leave_rows_out() -> None:
    none = ["image_labels=[]", "online=[]", "rounds=[]", "classifiers=[]", "combinations=[]", "longer=[]"]
    assert labels(league(*none)) == ["supervised"]
    assert labels(league(*none[1:])) == ["supervised"]
    assert labels(league(*none[:2], *none[3:], "rounds=[1]")) == ["supervised"]
    assert labels(league(*none[1:2], *none[3:], "rounds=[1]")) == [
        "supervised",
        "self-training, ignore, round 1",
        "self-training, share, round 1",
    ]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            ["combinations=[exclude]"],
            "--set combinations: combinations reads the results of image_labels, which has no exclude: "
            "--set image_labels=[ignore,share,exclude] or --set combinations=[]",
        ),
        (
            ["image_labels=[]"],
            "--set image_labels: combinations reads the results of image_labels, which has no share: "
            "--set image_labels=[share] or --set combinations=[]",
        ),
        (
            ["rounds=[3]"],
            "--set rounds: each value reads the results of the one before, and there is no 1 and no 2: "
            "--set rounds=[1,2,3]",
        ),
        (
            ["labelled=[30,1000]"],
            "--set labelled: expected at most 120, which is data.dataset.train, found 1000: a smaller number, "
            "or --set data.dataset.train=1000",
        ),
    ],
)
def test_a_value_that_needs_another_is_one_mistake_which_says_what_to_set(settings: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        league(*settings)
    head, *lines = caught.value.message.splitlines()
    assert (head.endswith(": 1 mistake"), lines) == (True, [f"  {line}"])


def test_the_advice_of_these_mistakes_helps() -> None:
    league("combinations=[exclude]", "image_labels=[ignore,share,exclude]", *ONE)
    league("image_labels=[]", "combinations=[]", *ONE)
    league("labelled=[1000]", "data.dataset.train=1000", "seeds=[0]")
    league("labelled=[1000]", "seeds=[0]", *PROFILES[2][1], profile="small")  # how many there are, the devkit tells


def test_more_of_anything_leaves_what_was_made_fresh() -> None:
    few = league("rounds=[1]", "online=[fixmatch]", "longer=[]", *ONE)
    many = league("rounds=[1,2,3]", "online=[fixmatch,unimatch]", "image_labels=[ignore,share,exclude]", "seeds=[0,1]")
    for name, node in few.nodes.items():
        assert (many.nodes[name].config, many.nodes[name].inputs) == (node.config, node.inputs)


def test_the_same_images_serve_all_counts_of_masks() -> None:
    nodes = league(*PROFILES[2][1], profile="small").nodes
    given = {name: node.config.model_dump() for name, node in nodes.items() if node.stage.name == "prepare-data"}
    assert {name: config.pop("labelled") for name, config in given.items()} == {
        "data-n50": "50",
        "data-n200": "200",
        "data": "",
    }
    assert given["data-n50"] == given["data-n200"] == given["data"]


SMALL = ["labelled=[4]", "seeds=[0]", "iterations=2", "classifier_iterations=2", "batch_size=4", "crop_size=48"]
SMALL += ["classifiers=[cam]", "longer=[2]", "data.dataset.train=6"]
SMALL += [f"data*.dataset.{key}={value}" for key, value in (("weak", 6), ("val", 3), ("long_side", 64))]


def run(workspace: Path, *settings: str) -> str:
    given = [part for setting in (*SMALL, *settings) for part in ("--set", setting)]
    command = ["run", "labels-league", *given, "--workspace", str(workspace), "--device", "cpu", "--workers", "1"]
    done = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.output


def test_a_league_on_drawn_images_is_continued_and_reported(tmp_path: Path) -> None:
    workspace = tmp_path / "runs"
    begun = run(workspace, "online=[]", "combinations=[]", "rounds=[1]", "image_labels=[share]", "longer=[]")
    assert "18 made, 0 fresh" in begun
    text = run(workspace, "rounds=[1]", "image_labels=[share]")
    assert "14 made, 18 fresh" in text
    report = json.loads((workspace / "report.json").read_text())
    rows = {row["label"]: row for row in report["rows"]}
    assert list(rows) == [
        "supervised",
        "supervised, 2 x steps",
        "dual-branch, cam masks",
        "fixmatch, share",
        "self-training, share, round 1",
        "self-training from fixmatch, share",
        "dual-branch on round 1, share",
    ]
    steps = {label: row["cost"]["steps"] for label, row in rows.items()}
    assert list(steps.values()) == [2, 4, 4, 2, 4, 4, 4]
    # of 2 images a step, 2, 32 and 4, 6 (labelled, unlabelled and partners), 2 and 4, 6 and 4, 2 and 4
    assert [row["cost"]["images"] for row in rows.values()] == [4, 8, 72, 12, 12, 20, 12]
    for row in rows.values():
        for column, figure in row["ours"].items():
            labelled = "labels" in column and row["label"].startswith(("supervised", "fixmatch"))
            assert figure["missing"] == []
            assert (figure["mean"] is None) == labelled, (row["label"], column)
    assert (workspace / "report.png").stat().st_size > 10_000
