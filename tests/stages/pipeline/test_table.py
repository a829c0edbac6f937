"""Reading a table, repeated rows and columns; means, spreads, costs, missing runs; the sentence on the rows' order."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts.errors import ConfigError
from artifacts.store import Work, Workspace
from stages.pipeline.recipe import resolve
from stages.pipeline.run_recipe import read_record, save_record
from stages.pipeline.table import Plot, Row, Table, read_table
from stages.report.figures import Cost, Figure, StageCost, order_sentence, row_cost


def table(*order: str) -> Table:
    rows = [Row(label, {"ours": []}, None) for label in ("a", "b", "c")]
    return Table("T", "mean_iou", ["ours"], rows, list(order))


def figures(**runs: list[float]) -> dict[str, dict[str, Figure]]:
    return {
        label: {"ours": Figure({f"{label}{i}": value for i, value in enumerate(values)}, [])}
        for label, values in runs.items()
    }


def test_mean_and_spread_of_runs() -> None:
    figure = Figure({"s0": 40.0, "s1": 46.0, "s2": 43.0}, [])
    assert figure.mean == pytest.approx(43.0)
    assert figure.spread == (40.0, 46.0)
    assert Figure({"s0": 40.0}, []).spread is None
    assert Figure({}, ["s0"]).mean is None


def test_the_papers_order_is_said_when_it_is_met() -> None:
    sentence = order_sentence(table("b", "a", "c"), figures(a=[50], b=[60], c=[40]), "ours")
    assert sentence == "Order of the rows (ours): b 60.0 > a 50.0 > c 40.0: the paper's order."


def test_every_swapped_pair_is_named_when_it_is_not() -> None:
    sentence = order_sentence(table("a", "b", "c"), figures(a=[50], b=[40], c=[60]), "ours")
    assert sentence is not None
    assert "not the paper's order: c is above a; c is above b" in sentence


def test_overlapping_runs_are_named() -> None:
    sentence = order_sentence(table("a", "b", "c"), figures(a=[50, 60], b=[51, 53], c=[10, 11]), "ours")
    assert sentence is not None
    assert sentence.endswith("the paper's order (the runs of a and b overlap).")


def test_level_rows_do_not_count_as_the_papers_order() -> None:
    sentence = order_sentence(table("a", "b", "c"), figures(a=[50.01], b=[50.02], c=[40]), "ours")
    assert sentence is not None
    assert sentence.endswith("c 40.0: not against the paper's order, but a and b are equal.")


def test_missing_rows_are_named_instead_of_compared() -> None:
    sentence = order_sentence(table("a", "b"), figures(a=[50], b=[], c=[1]), "ours")
    assert sentence == "Order of the rows (ours): not yet known, b missing."


def test_without_a_published_order_nothing_is_said() -> None:
    assert order_sentence(table(), figures(a=[1], b=[2], c=[3]), "ours") is None


# --- rows and columns that stand for repeated values ---

REPEATED: dict[str, Any] = {
    "columns": ["{labelled} labels", "{labelled} labels, CRF"],
    "plot": {"over": "labelled", "column": "{labelled} labels", "label": "labelled images"},
    "rows": [
        {
            "label": "{method}",
            "nodes": {
                "{labelled} labels": "evaluate-{method}-n{labelled}-s{seed}",
                "{labelled} labels, CRF": "crf-{method}-n{labelled}-s{seed}",
            },
            "costs": ["teacher-n{labelled}", "train-{method}-n{labelled}-s{seed}"],
        }
    ],
}


def nodes_of(repeat: dict[str, list[Any]]) -> dict[str, str | None]:
    """The nodes that the table refers to, by plain loops, with the kinds they make."""
    kinds: dict[str, str | None] = {}
    for number in repeat["labelled"]:
        kinds[f"teacher-n{number}"] = "segmenter"
        for method in repeat["method"]:
            for seed in repeat["seed"]:
                kinds[f"train-{method}-n{number}-s{seed}"] = "segmenter"
                for stage in ("evaluate", "crf"):
                    kinds[f"{stage}-{method}-n{number}-s{seed}"] = "metrics"
    return kinds


def read(values: dict[str, Any], repeat: dict[str, list[Any]]) -> tuple[Table, list[str]]:
    mistakes: list[str] = []
    table = read_table(values, repeat, nodes_of(repeat), lambda key, text: mistakes.append(f"{key}: {text}"))
    return table, mistakes


def mistake_in(change: dict[str, Any], **of_the_row: Any) -> str:
    row = {**REPEATED["rows"][0], **of_the_row}
    repeat = {"method": ["cps", "cct"], "labelled": [30, 120], "seed": [0, 1]}
    return "; ".join(read({**REPEATED, "rows": [row], **change}, repeat)[1])


@given(
    st.lists(st.sampled_from(["cps", "cct", "fixmatch"]), unique=True),
    st.lists(st.integers(1, 2000), unique=True, max_size=4),
    st.lists(st.integers(0, 3), unique=True, max_size=3),
)
def test_rows_and_columns_are_repeated_and_what_is_left_is_averaged(methods, numbers, seeds):
    table, mistakes = read(REPEATED, {"method": methods, "labelled": numbers, "seed": seeds})
    assert not mistakes
    assert table.columns == [f"{n} labels" for n in numbers] + [f"{n} labels, CRF" for n in numbers]
    assert [row.label for row in table.rows] == methods  # an empty list leaves them out
    for row in table.rows:
        assert set(row.nodes) == set(table.columns)
        for n in numbers:
            assert row.nodes[f"{n} labels"] == [f"evaluate-{row.label}-n{n}-s{seed}" for seed in seeds]
            assert row.nodes[f"{n} labels, CRF"] == [f"crf-{row.label}-n{n}-s{seed}" for seed in seeds]
        assert sorted(row.costs) == sorted(
            [f"teacher-n{n}", f"train-{row.label}-n{n}-s{seed}"] for n in numbers for seed in seeds
        )
    assert table.plot == Plot("labelled images", {f"{n} labels": str(n) for n in numbers})


def test_an_empty_list_leaves_nodes_and_rows_out(raw_recipe: dict[str, Any]) -> None:
    raw_recipe["repeat"] = {"seed": [0, 1], "kind": [], "row": ["plain", []]}
    node = {"stage": "toy-score", "inputs": {"sum": "sum-s{seed}"}}
    raw_recipe["nodes"] |= {"score-{kind}-s{seed}": node, "of-{row}-s{seed}": node}
    raw_recipe["table"]["rows"] += [
        {"label": "{kind}", "nodes": {"ours": "score-{kind}-s{seed}"}, "costs": ["score-{kind}-s{seed}"]},
        {"label": "{row}", "nodes": {"ours": "of-{row}-s{seed}"}},
    ]
    recipe = resolve(raw_recipe, "toy.yaml")
    assert [name for name in recipe.nodes if name.startswith(("score", "of"))] == [
        "score-s0",
        "score-s1",
        "of-plain-s0",
        "of-plain-s1",
    ]
    assert recipe.table is not None
    assert [row.label for row in recipe.table.rows] == ["sum", "plain"]
    raw_recipe["repeat"]["kind"] = ["a"]
    recipe = resolve(raw_recipe, "toy.yaml")
    assert {"score-a-s0", "score-a-s1"} <= set(recipe.nodes)


def test_panels_of_a_plot_are_columns() -> None:
    plot = {"panels": ["30 labels"], "note": "n"}
    table, mistakes = read({**REPEATED, "plot": plot}, {"method": ["cps"], "labelled": [30], "seed": [0]})
    assert not mistakes
    assert table.plot == Plot("", {"30 labels": "30 labels"}, "n", panels=True)
    table, mistakes = read(
        {**REPEATED, "plot": {"panels": ["{labelled} labels"]}}, {"method": ["cps"], "labelled": [30, 120], "seed": [0]}
    )
    assert not mistakes
    assert table.plot is not None
    assert list(table.plot.points) == ["30 labels", "120 labels"]
    assert "table.plot.panels: no such column: x; columns: " in mistake_in({"plot": {"panels": ["x"]}})
    assert "expected panels: [COLUMN, ...]" in mistake_in({"plot": {"panels": "30 labels"}})
    assert "expected panels: [COLUMN, ...]" in mistake_in({"plot": {"panels": ["30 labels"], "over": "labelled"}})


def test_costs_and_plot_come_back_from_the_record(raw_recipe: dict[str, Any], workspace: Workspace) -> None:
    raw_recipe["table"] |= {
        "columns": ["seed {seed}"],
        "plot": {"over": "seed", "column": "seed {seed}", "label": "seed"},
        "rows": [
            {"label": "sum", "nodes": {"seed {seed}": "score-s{seed}"}, "costs": ["sum-s{seed}", "score-s{seed}"]}
        ],
    }
    recipe = resolve(raw_recipe, "toy.yaml")
    save_record(workspace, recipe)
    record = read_record(workspace)
    assert record is not None
    assert record.table == recipe.table
    assert recipe.table is not None
    assert recipe.table.rows[0].costs == [["sum-s0", "score-s0"], ["sum-s1", "score-s1"]]
    path = workspace.path / ".recipe.json"  # as written before there were costs and plots
    old = json.loads(path.read_text())
    del old["table"]["plot"], old["table"]["rows"][0]["costs"]
    path.write_text(json.dumps(old))
    record = read_record(workspace)
    assert record is not None
    assert record.table == replace(recipe.table, plot=None, rows=[replace(recipe.table.rows[0], costs=[])])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"plot": {"over": "labeled", "column": "x", "label": "y"}},
            "table.plot: expected over, column, label; over: ",
        ),
        ({"plot": {"over": ["labelled"], "column": "x", "label": "y"}}, "over: one of method, labelled, seed"),
        ({"plot": {"over": "labelled"}}, "table.plot: expected over, column, label"),
        ({"plot": "labelled"}, "table.plot: expected over, column, label"),
        (
            {"plot": {"over": "labelled", "column": "{labelled} masks", "label": "y"}},
            "table.plot.column: no such column: 30 masks, 120 masks; columns: 30 labels, 120 labels, 30 labels, CRF",
        ),
        (
            {"plot": {"over": "labelled", "column": "30 labels", "label": "y"}},
            "table.plot.column: '30 labels' does not refer to {labelled}",
        ),
        ({"rows": REPEATED["rows"] * 2}, "table.rows: 2 rows are called 'cps'; give each its own label"),
    ],
)
def test_a_mistake_in_a_repeated_table_is_named(change: dict[str, Any], expected: str) -> None:
    assert expected in mistake_in(change)


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        (
            ["trian-cps-n30-s0"],
            "table.rows.0.costs: there is no node 'trian-cps-n30-s0', did you mean 'train-cps-n30-s0'?",
        ),
        ("train-cps-n30-s0", "table.rows.0.costs: expected a list of nodes, or up_to: NODE, found 'train-cps-n30-s0'"),
    ],
)
def test_a_mistake_in_the_costs_is_named(costs: Any, expected: str) -> None:
    assert expected in mistake_in({}, costs=costs)


def test_a_column_that_a_row_does_not_fix_is_a_mistake() -> None:
    text = mistake_in({}, nodes={"{labelled} masks": "evaluate-{method}-n{labelled}-s{seed}"})
    assert "table.rows.0.nodes.{labelled} masks: no such column; columns: 30 labels, 120 labels" in text


# --- costs ---


def test_costs_up_to_a_node_are_those_of_all_it_was_made_from_without_data_sets(raw_recipe: dict[str, Any]) -> None:
    (row,) = raw_recipe["table"]["rows"]
    row["costs"] = {"up_to": "score-s{seed}"}
    table = resolve(raw_recipe, "toy.yaml").table
    assert table is not None
    assert table.rows[0].costs == [["sum-s0", "score-s0"], ["sum-s1", "score-s1"]]  # numbers is a data set
    row["costs"] = {"up_to": "scor-s{seed}"}
    with pytest.raises(ConfigError, match=r"table.rows.0.costs: there is no node 'scor-s0', did you mean 'score-s0'"):
        resolve(raw_recipe, "toy.yaml")
    row["costs"] = {"up_to": "score-s{seed}", "and": "more"}
    with pytest.raises(ConfigError, match=r"table.rows.0.costs: expected a list of nodes, or up_to: NODE"):
        resolve(raw_recipe, "toy.yaml")


def publish_run(workspace: Workspace, name: str, seconds: float, stage: str = "train", **summary: Any) -> None:
    """A stage's artifact; `seconds` are written into its manifest, as its clock cannot be set."""
    work = Work(stage, 1, "segmenter", name.encode().hex().ljust(64, "0")[:64], {}, {}, {})
    with workspace.writing(name, work) as writer:
        writer.write_json("network.json", {})
        workspace.publish(name, writer, work, summary)
    path = workspace.path / name / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "seconds": seconds}))


def test_costs_are_means_over_the_runs_that_are_there(workspace: Workspace) -> None:
    publish_run(workspace, "teacher", 10.0, images_per_second=99.0, peak_memory_mib=5000)
    publish_run(workspace, "s0", 100.0, images_per_second=20.0, peak_memory_mib=3000)
    publish_run(workspace, "s1", 140.0, images_per_second=30.0, peak_memory_mib=6000)
    row = Row("a", {}, None, [["teacher", "s0"], ["teacher", "s1"], ["teacher", "s2"]])
    mib = len("{}\n") / 2**20  # of network.json, the only item of each
    assert row_cost(row, workspace) == Cost(130.0, 25.0, 5500.0, None, 2 * mib, {"train": StageCost(130.0, 2 * mib)})
    assert row_cost(replace(row, costs=[["teacher", "s2"]]), workspace) is None
    assert row_cost(replace(row, costs=[]), workspace) is None


def test_steps_and_images_are_those_of_all_trainings_of_a_run(workspace: Workspace) -> None:
    publish_run(workspace, "teacher", 10.0, iterations=300, images_seen=2400)
    publish_run(workspace, "labels", 5.0, images=7)
    publish_run(workspace, "s0", 100.0, iterations=200, images_seen=3200)
    publish_run(workspace, "s1", 100.0, iterations=400, images_seen=6400)
    row = Row("a", {}, None, [["teacher", "labels", "s0"], ["teacher", "labels", "s1"]])
    cost = row_cost(row, workspace)
    assert cost is not None
    assert (cost.steps, cost.images) == (600.0, 7200.0)
    publish_run(workspace, "s0", 100.0, iterations=200)  # of a version that did not count images
    cost = row_cost(replace(row, costs=row.costs[:1]), workspace)
    assert cost is not None
    assert (cost.steps, cost.images) == (500.0, None)
    cost = row_cost(replace(row, costs=[["labels"]]), workspace)
    assert cost is not None
    assert (cost.steps, cost.images) == (None, None)


def test_on_a_cpu_no_memory_is_told(workspace: Workspace) -> None:
    publish_run(workspace, "s0", 100.0, images_per_second=20.0, peak_memory_mib=None)
    publish_run(workspace, "labels", 5.0, images=7)  # no training: no images/s
    row = Row("a", {}, None, [["labels", "s0"]])
    cost = row_cost(row, workspace)
    assert cost is not None
    assert (cost.seconds, cost.images_per_second, cost.peak_memory_mib) == (105.0, 20.0, None)
    turned = row_cost(replace(row, costs=[["s0", "labels"]]), workspace)
    assert turned == replace(cost, images_per_second=None)


def test_costs_are_told_stage_by_stage(workspace: Workspace) -> None:
    for seed, seconds in enumerate((100.0, 140.0)):
        publish_run(workspace, f"maps-{seed}", 8.0 + seconds / 10, stage="seeds")
        publish_run(workspace, f"again-{seed}", 2.0, stage="seeds")
        publish_run(workspace, f"s{seed}", seconds)
    row = Row("a", {}, None, [[f"maps-{seed}", f"again-{seed}", f"s{seed}"] for seed in (0, 1, 2)])
    cost = row_cost(row, workspace)
    assert cost is not None
    assert {stage: one.seconds for stage, one in cost.stages.items()} == {"seeds": 22.0, "train": 120.0}
    assert cost.disk_mib == pytest.approx(sum(one.disk_mib for one in cost.stages.values()))
