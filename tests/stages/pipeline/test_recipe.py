"""Recipes: placeholders, repeats, profiles, settings, and every mistake a person can make in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import ConfigError
from stages.pipeline.recipe import read_recipe, resolve


def mistakes_of(raw: dict[str, Any], profile: str | None = None, *settings: str) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(raw, "toy.yaml", profile, settings)
    assert caught.value.message.startswith("toy.yaml: ")
    return caught.value.message


def test_a_recipe_is_expanded_in_an_order_that_can_run(raw_recipe: dict[str, Any]) -> None:
    recipe = resolve(raw_recipe, "toy.yaml")
    assert list(recipe.nodes) == ["numbers", "sum-s0", "sum-s1", "score-s0", "score-s1"]
    assert recipe.nodes["sum-s1"].config.plus == 1.0
    assert recipe.nodes["score-s1"].inputs == {"sum": "sum-s1"}


def test_a_whole_placeholder_keeps_its_type_and_a_part_becomes_text(raw_recipe: dict[str, Any]) -> None:
    raw_recipe["nodes"]["numbers"]["config"]["source"] = "list-${count}.txt"
    config = resolve(raw_recipe, "toy.yaml").nodes["numbers"].config
    assert config.count == 4
    assert config.source == "list-4.txt"


def test_a_profile_is_laid_over_parameters_and_repeat(raw_recipe: dict[str, Any]) -> None:
    assert resolve(raw_recipe, "toy.yaml", "many").nodes["numbers"].config.count == 10
    assert list(resolve(raw_recipe, "toy.yaml", "one").nodes) == ["numbers", "sum-s0", "score-s0"]


def test_null_in_a_profile_removes_nodes_keys_and_the_table(raw_recipe: dict[str, Any]) -> None:
    raw_recipe["profiles"]["less"] = {
        "nodes": {"score-s{seed}": None, "sum-s{seed}": {"config": {"plus": None}}},
        "table": None,
    }
    recipe = resolve(raw_recipe, "toy.yaml", "less")
    assert list(recipe.nodes) == ["numbers", "sum-s0", "sum-s1"]
    assert recipe.nodes["sum-s1"].config.plus == 0.0
    assert recipe.table is None


def test_set_changes_parameters_and_nodes_by_pattern(raw_recipe: dict[str, Any]) -> None:
    recipe = resolve(raw_recipe, "toy.yaml", None, ["count=7", "sum-*.plus=1e1", "score-s0.config.scale=2"])
    assert recipe.nodes["numbers"].config.count == 7
    assert [recipe.nodes[f"sum-s{s}"].config.plus for s in (0, 1)] == [10.0, 10.0]
    assert [recipe.nodes[f"score-s{s}"].config.scale for s in (0, 1)] == [2.0, 0.01]


@pytest.mark.parametrize(
    "settings", [["all.dataset=shapes", "a*.dataset.train=5"], ["a*.dataset.train=5", "all.dataset=shapes"]]
)
def test_set_of_a_mapping_keeps_what_is_set_inside_it(settings: list[str]) -> None:
    raw = {"name": "drawn", "description": "Images.", "nodes": {"all": {"stage": "prepare-data"}}}
    assert resolve(raw, "drawn.yaml", None, settings).nodes["all"].config.dataset.train == 5


def test_set_wins_over_the_profile(raw_recipe: dict[str, Any]) -> None:
    assert resolve(raw_recipe, "toy.yaml", "many", ["count=2"]).nodes["numbers"].config.count == 2


def test_setting_one_seed_does_not_change_the_other(raw_recipe: dict[str, Any]) -> None:
    recipe = resolve(raw_recipe, "toy.yaml", None, ["sum-s0.plus=5"])
    assert [recipe.nodes[f"sum-s{s}"].config.plus for s in (0, 1)] == [5.0, 1.0]


def test_a_repeat_may_come_from_a_parameter(raw_recipe: dict[str, Any]) -> None:
    raw_recipe["parameters"]["seeds"] = {"default": [0]}
    raw_recipe["repeat"] = {"seed": "${seeds}"}
    recipe = resolve(raw_recipe, "toy.yaml", None, ["seeds=[3, 5]"])
    assert list(recipe.nodes) == ["numbers", "sum-s3", "sum-s5", "score-s3", "score-s5"]
    assert recipe.table is not None
    assert recipe.table.rows[0].nodes == {"ours": ["score-s3", "score-s5"]}


def test_every_mistake_is_listed_at_once(raw_recipe: dict[str, Any]) -> None:
    raw_recipe["nodes"]["numbers"]["config"] = {"coumt": 3}
    raw_recipe["nodes"]["sum-s{seed}"]["stage"] = "toy-sun"
    raw_recipe["nodes"]["score-s{seed}"]["inputs"] = {"summ": "sum-s{seed}"}
    text = mistakes_of(raw_recipe, None, "cuont=3")
    for line in (
        "--set cuont=3: no parameter 'cuont', did you mean 'count'?",
        "nodes.numbers.config.coumt: unknown key, did you mean 'count'?",
        "nodes.sum-s{seed}.stage: there is no stage 'toy-sun', did you mean 'toy-sum'?",
        "nodes.score-s{seed}.inputs.summ: toy-score has no such input, did you mean 'sum'?",
        "nodes.score-s{seed}.inputs: toy-score needs the input 'sum' (what is scored)",
    ):
        assert line in text
    assert "5 mistakes" in text  # each once, although two seeds have it


def test_a_cycle_is_named(raw_recipe: dict[str, Any]) -> None:
    raw_recipe["repeat"] = {}
    raw_recipe["table"] = None
    raw_recipe["nodes"] = {
        "a": {"stage": "toy-sum", "inputs": {"numbers": "b"}},
        "b": {"stage": "toy-sum", "inputs": {"numbers": "a"}},
    }
    assert "cycle: a -> b -> a" in mistakes_of(raw_recipe)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"nodes": {"numbers": {"stage": "toy-numbers", "inputs": {"x": "nubmers"}}}}, "there is no node 'nubmers'"),
        ({"nodes": {"numbers": {"config": {}}}}, "nodes.numbers.stage: missing; stages: "),
        ({"nodes": {"numbers": {"stage": "toy-numbers", "confg": {}}}}, "unknown key, did you mean 'config'?"),
        ({"nodes": {"numbers": "toy-numbers"}}, "expected stage, config and inputs"),
        ({"nodes": {"numbers": {"stage": "toy-numbers", "config": 3}}}, "expected keys and values, found 3"),
        ({"nodes": {}}, "nodes: missing"),
        ({"name": None}, "name: missing"),
        ({"tabel": {}}, "tabel: unknown key, did you mean 'table'?"),
        ({"repeat": {"seed": 3}}, "repeat.seed: expected a list of values, found 3"),
        ({"repeat": {"sede": [0]}}, "{seed} is not repeated, did you mean 'sede'?"),
        ({"profiles": {"x": {"nods": {}}}}, "profiles.x.nods: unknown key, did you mean 'nodes'?"),
        ({"parameters": {"count": {"defualt": 3}}}, "parameters.count.defualt: unknown key, did you mean 'default'?"),
        ({"nodes": {"a b": {"stage": "toy-numbers"}}}, "'a b' cannot name a node"),
        ({"nodes": {"../x": {"stage": "toy-numbers"}}}, "'../x' cannot name a node"),
        (
            {"nodes": {"numbers": {"stage": "toy-numbers", "config": {"count": "${cuont}"}}}},
            "nodes.numbers.config.count: unknown parameter ${cuont}, did you mean 'count'?",
        ),
        (
            {"nodes": {"numbers": {"stage": "toy-numbers", "config": {"source": "{seed}"}}}},
            "refers to {seed}, which the node's name does not contain",
        ),
        (
            {"nodes": {"n": {"stage": "toy-numbers"}, "s": {"stage": "toy-score", "inputs": {"sum": "n"}}}},
            "nodes.s.inputs.sum: node 'n' makes dataset, expected masks",
        ),
        (
            {
                "nodes": {
                    "d": {"stage": "prepare-data"},
                    "c": {"stage": "train-classifier", "inputs": {"data": "d"}},
                    "p": {"stage": "predict", "inputs": {"data": "d", "segmenter": "c"}},
                }
            },
            "nodes.p.inputs.segmenter: node 'c' makes classifier, expected segmenter",
        ),
    ],
)
def test_a_mistake_is_named_with_its_key(raw_recipe: dict[str, Any], change: dict[str, Any], expected: str) -> None:
    assert expected in mistakes_of({**raw_recipe, "table": None, **change})


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"colums": []}, "table.colums: unknown key"),
        ({"columns": ["x"], "rows": [{"label": "r", "nodes": {"y": "score-s0"}}]}, "no such column; columns: x"),
        ({"columns": ["x"], "rows": [{"label": "r", "nodes": {"x": "scor-s0"}}]}, "did you mean 'score-s0'?"),
        ({"columns": ["x"], "rows": [{"label": "r", "nodes": {"x": "numbers"}}]}, "makes dataset, expected metrics"),
        ({"columns": ["x"], "rows": [{"label": "r", "nodes": {"x": "score-s0"}, "published": 3}]}, "published"),
        ({"columns": ["x"], "rows": [], "order": ["best"]}, "table.order: there is no row 'best'"),
        ({"columns": ["x"], "rows": ["r"]}, "table.rows.0: expected label and nodes"),
    ],
)
def test_a_mistake_in_the_table_is_named(raw_recipe: dict[str, Any], table: dict[str, Any], expected: str) -> None:
    assert expected in mistakes_of({**raw_recipe, "table": table})


def test_an_unknown_profile_is_named(raw_recipe: dict[str, Any]) -> None:
    assert "there is no profile 'mny', did you mean 'many'?" in mistakes_of(raw_recipe, "mny")


def test_set_of_an_unknown_node_is_named(raw_recipe: dict[str, Any]) -> None:
    assert "no node 'smu-*', did you mean" in mistakes_of(raw_recipe, None, "smu-*.plus=1")


def test_set_of_an_unknown_key_is_named(raw_recipe: dict[str, Any]) -> None:
    for setting in ("sum-s0.plsu=1", "sum-*.plsu=1"):
        place = f"--set {setting.removesuffix('=1')}"
        assert mistakes_of(raw_recipe, None, setting).splitlines()[1:] == [
            f"  {place}: unknown key, did you mean 'plus'?"
        ]


def test_set_without_a_value_is_named(raw_recipe: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected KEY=VALUE"):
        resolve(raw_recipe, "toy.yaml", None, ["count"])


def test_a_required_parameter_must_be_given(raw_recipe: dict[str, Any]) -> None:
    raw_recipe["parameters"]["count"] = {"required": True, "help": "How many."}
    assert mistakes_of(raw_recipe).splitlines()[1:] == [
        "  parameters.count: must be given: --set count=VALUE (How many.)"
    ]
    assert resolve(raw_recipe, "toy.yaml", None, ["count=2"]).nodes["numbers"].config.count == 2


def test_a_file_that_is_not_yaml_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: x\nnodes: [")
    with pytest.raises(ConfigError, match=r"recipe\.yaml, line 2"):
        read_recipe(path)


def test_a_recipe_of_1500_nodes_is_resolved(raw_recipe: dict[str, Any]) -> None:
    numbers = raw_recipe["nodes"]["numbers"]
    sums = {f"sum-{i}": {"stage": "toy-sum", "inputs": {"numbers": "numbers"}} for i in range(1500)}
    recipe = resolve({"name": "many", "nodes": {"numbers": numbers | {"config": {"count": 4}}} | sums}, "toy.yaml")
    assert len(recipe.nodes) == 1501


def test_a_repeat_of_a_million_nodes_is_refused_before_any_is_made(raw_recipe: dict[str, Any]) -> None:
    raw_recipe["repeat"] = {"seed": list(range(1000)), "round": list(range(1000))}
    raw_recipe["nodes"]["sum-{seed}-{round}"] = raw_recipe["nodes"].pop("sum-s{seed}")
    assert "nodes: repeat makes 1,001,001 of them; a recipe has at most 5,000" in mistakes_of(raw_recipe)


def test_a_table_of_a_million_figures_is_refused(raw_recipe: dict[str, Any]) -> None:
    raw_recipe["repeat"]["more"] = list(range(1000))
    raw_recipe["repeat"]["most"] = list(range(1000))
    raw_recipe["table"]["columns"] = ["{more}-{most}"]
    assert "table: repeat makes 1,000,00" in mistakes_of(raw_recipe)


def test_placeholders_that_fill_a_disk_are_refused_before_they_are_filled_in(raw_recipe: dict[str, Any]) -> None:
    raw_recipe["parameters"]["long"] = {"default": "x" * 100_000}
    raw_recipe["nodes"]["numbers"]["config"]["source"] = "-${long}" * 1000
    assert "filled in they have 100,00" in mistakes_of(raw_recipe)


def test_a_node_named_by_a_number_is_read_as_text(raw_recipe: dict[str, Any]) -> None:
    raw_recipe["nodes"][7] = raw_recipe["nodes"]["numbers"]
    assert "7" in resolve(raw_recipe, "toy.yaml").nodes


def test_a_round_takes_what_the_round_before_made(raw_recipe: dict[str, Any]) -> None:
    raw = {
        "name": "rounds",
        "repeat": {"round": [1, 2, 3]},
        "nodes": {
            "data": {"stage": "prepare-data"},
            "train-0": {"stage": "train", "inputs": {"data": "data"}},
            "train-{round}": {
                "stage": "train",
                "inputs": {"data": "data", "initial": "train-{round-1}"},
                "config": {"iterations": "{round*100}"},
            },
        },
    }
    nodes = resolve(raw, "rounds.yaml", None, []).nodes
    assert [nodes[f"train-{n}"].inputs["initial"] for n in (1, 2, 3)] == ["train-0", "train-1", "train-2"]
    assert [nodes[f"train-{n}"].config.iterations for n in (1, 2, 3)] == [100, 200, 300]
    with pytest.raises(ConfigError, match=r"calculates with 'x', which is not a number"):
        resolve({**raw, "repeat": {"round": ["x"]}}, "rounds.yaml", None, [])


def with_cases(raw: dict[str, Any], cases: Any) -> dict[str, Any]:
    node = raw["nodes"]["sum-s{seed}"]
    return raw | {"nodes": raw["nodes"] | {"sum-s{seed}": node | {"cases": cases}}}


def test_a_case_changes_the_nodes_of_its_value_alone(raw_recipe: dict[str, Any]) -> None:
    """Before, a profile could not change one of several repeated nodes."""
    raw = with_cases(raw_recipe, {"seed": {1: {"config": {"plus": "{seed*7}"}}}})
    nodes, plain = resolve(raw, "toy.yaml").nodes, resolve(raw_recipe, "toy.yaml").nodes
    assert nodes["sum-s1"].config.plus == 7.0 != plain["sum-s1"].config.plus
    assert nodes["sum-s0"] == plain["sum-s0"]
    raw["profiles"]["other"] = {"nodes": {"sum-s{seed}": {"cases": {"seed": {0: {"config": {"plus": 3}}}}}}}
    profile = resolve(raw, "toy.yaml", "other").nodes
    assert [profile[f"sum-s{seed}"].config.plus for seed in (0, 1)] == [3.0, 7.0]
    settings = resolve(raw, "toy.yaml", None, ["sum-s1.plus=5"]).nodes
    assert settings["sum-s1"].config.plus == 5.0


def test_null_in_a_case_removes_an_input(raw_recipe: dict[str, Any]) -> None:
    raw = with_cases(raw_recipe, {"seed": {1: {"inputs": dict.fromkeys(raw_recipe["nodes"]["sum-s{seed}"]["inputs"])}}})
    with pytest.raises(ConfigError, match="needs the input"):
        resolve(raw, "toy.yaml")


def test_a_case_without_a_stage_is_no_node_and_nothing_in_the_table(raw_recipe: dict[str, Any]) -> None:
    raw = with_cases(raw_recipe, {"seed": {1: {"stage": None}}})
    raw["nodes"]["score-s{seed}"] = raw["nodes"]["score-s{seed}"] | {"cases": {"seed": {1: {"stage": None}}}}
    recipe = resolve(raw, "toy.yaml")
    assert list(recipe.nodes) == ["numbers", "sum-s0", "score-s0"]
    named = [name for row in recipe.table.rows for names in row.nodes.values() for name in names]
    assert named == ["score-s0"] * len(named) != []
    alone = with_cases(raw_recipe, {"seed": {1: {"stage": None}}})
    assert "there is no node 'sum-s1'" in mistakes_of(alone)


def test_a_node_without_a_stage_is_there_for_the_values_whose_case_has_one(raw_recipe: dict[str, Any]) -> None:
    for name in ("sum-s{seed}", "score-s{seed}"):
        node = raw_recipe["nodes"][name]
        raw_recipe["nodes"][name] = node | {"stage": None, "cases": {"seed": {1: {"stage": node["stage"]}}}}
    assert list(resolve(raw_recipe, "toy.yaml").nodes) == ["numbers", "sum-s1", "score-s1"]


@pytest.mark.parametrize(
    ("cases", "expected"),
    [
        ({"sead": {1: {}}}, "nodes.sum-s{seed}.cases.sead: the node's name does not contain {sead}"),
        ({"seed": {17: {"config": {}}}}, "nodes.sum-s{seed}.cases.seed.17: seed is never 17"),
        ({"seed": 3}, "nodes.sum-s{seed}.cases.seed: expected keys and values, found 3"),
        ({"seed": {1: {"config": 4}}}, "nodes.sum-s{seed}.cases.seed.1.config: expected keys and values, found 4"),
    ],
)
def test_a_case_of_nothing_is_named(raw_recipe: dict[str, Any], cases: Any, expected: str) -> None:
    assert expected in mistakes_of(with_cases(raw_recipe, cases))


def test_a_case_of_a_method_that_was_left_out_is_no_mistake(raw_recipe: dict[str, Any]) -> None:
    """A recipe holds the cases of all its choices; people choose some."""
    raw = with_cases(raw_recipe, {"seed": {1: {"config": {"plus": 7}}}})
    raw["parameters"]["seeds"] = {"default": [0, 1], "choices": [0, 1]}
    raw["repeat"] = {"seed": "${seeds}"}
    nodes = resolve(raw, "toy.yaml", None, ["seeds=[0]"]).nodes
    assert list(nodes) == ["numbers", "sum-s0", "score-s0"]
    raw["parameters"]["seeds"]["default"] = [0]
    assert list(resolve(raw, "toy.yaml").nodes) == ["numbers", "sum-s0", "score-s0"]


@pytest.mark.parametrize(
    ("stage", "known", "never"),
    [("train", "cps", "irn"), ("train-classifier", "puzzle-cam", "cps"), ("refine", "irn", "cam")],
)
def test_choices_may_be_the_methods_of_a_stage(raw_recipe: dict[str, Any], stage: str, known: str, never: str) -> None:
    raw_recipe["parameters"]["kinds"] = {"default": [], "choices": {"methods_of": stage}}
    resolve(raw_recipe, "toy.yaml", None, [f"kinds=[{known}]"])
    assert f"--set kinds: {never!r} is not one of" in mistakes_of(raw_recipe, None, f"kinds=[{never}]")


def test_choices_may_have_values_in_addition_to_the_methods_of_a_stage(raw_recipe: dict[str, Any]) -> None:
    raw_recipe["parameters"]["kinds"] = {"default": [], "choices": {"methods_of": "refine", "and": ["segments"]}}
    resolve(raw_recipe, "toy.yaml", None, ["kinds=[segments,irn]"])
    assert "--set kinds: 'cam' is not one of" in mistakes_of(raw_recipe, None, "kinds=[cam]")


def test_choices_of_a_stage_without_methods_are_a_mistake(raw_recipe: dict[str, Any]) -> None:
    raw_recipe["parameters"]["kinds"] = {"default": [], "choices": {"methods_of": "crf"}}
    assert "parameters.kinds.choices: expected" in mistakes_of(raw_recipe)
