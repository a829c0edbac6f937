"""The results table: ours, published, difference, costs; on a terminal, as Markdown, as JSON, as a plot, half made."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from artifacts.errors import UsageError
from artifacts.store import Work, Workspace
from semiseg_cli.plots import LABELS, draw_plot, plot_figures, positions, row_styles, subtitle
from semiseg_cli.tables import table_json, table_markdown, table_text
from stages.pipeline.table import Plot, Published, Row, Table
from stages.report.figures import Figure, Results, read_results
from stages.report.how_made import Data, HowMade

TABLE = Table(
    "Rows",
    "mean_iou",
    ["plain", "CRF"],
    [
        Row(
            "strong", {"plain": ["strong-s0", "strong-s1"], "CRF": ["strong-crf"]}, Published(68.9, "plain", "a paper")
        ),
        Row("mixed", {"plain": ["mixed-s0"], "CRF": ["mixed-crf"]}, None),
    ],
    ["strong", "mixed"],
    "a paper, VOC val",
    ["A note."],
)


def publish(
    workspace: Workspace,
    name: str,
    mean_iou: float | None,
    summary: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
) -> None:
    work = Work("evaluate", 1, "metrics", name.ljust(12, "0"), config or {}, {}, {})
    with workspace.writing(name, work) as writer:
        writer.write_json("metrics.json", {"mean_iou": mean_iou})
        workspace.publish(name, writer, work, summary or {"mean_iou": mean_iou})


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    place = Workspace(tmp_path / "work")
    for name, value in (("strong-s0", 0.50), ("strong-s1", 0.56), ("mixed-s0", 0.60), ("strong-crf", None)):
        publish(place, name, value)
    return place


def test_markdown_holds_means_spreads_published_figures_and_differences(workspace: Workspace) -> None:
    lines = table_markdown(read_results(TABLE, workspace)).splitlines()
    assert lines[0] == "### Rows"
    assert lines[2] == "| mean IoU | plain | CRF | published | difference |"
    assert lines[4] == "| strong | 53.0 (50.0-56.0) | - | 68.9 | -15.9 |"
    assert lines[5] == "| mixed | 60.0 | - | - | - |"
    text = "\n".join(lines)
    assert "Order of the rows (plain): mixed 60.0 > strong 53.0: not the paper's order: mixed is above strong." in text
    assert "Order of the rows (CRF): not yet known, strong, mixed missing." in text
    assert "Published: a paper." in text
    assert "Not made yet: mixed-crf, strong-crf." in text
    assert "A note." in text


def test_json_holds_every_run(workspace: Workspace) -> None:
    table = json.loads(json.dumps(table_json(read_results(TABLE, workspace))))
    strong = table["rows"][0]
    assert strong["ours"]["plain"]["runs"] == {"strong-s0": 50.0, "strong-s1": pytest.approx(56.0)}
    assert strong["published"]["difference"] == pytest.approx(53.0 - 68.9)
    assert table["rows"][1]["published"] is None


def shown(table: Table, workspace: Workspace, width: int) -> str:
    buffer = io.StringIO()
    console = Console(file=buffer, width=width)
    for part in table_text(read_results(table, workspace), width)[0]:
        console.print(part)
    return buffer.getvalue()


def test_the_table_fits_80_columns(workspace: Workspace) -> None:
    text = shown(TABLE, workspace, 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "53.0 (50.0-56.0)" in text


# --- costs, many columns, the plot ---

METHODS = ("supervised", "other teacher", "cps", "self-training")
NUMBERS = ("30", "120", "480")


def wide(methods: tuple[str, ...] = METHODS, numbers: tuple[str, ...] = NUMBERS, costs: bool = True) -> Table:
    rows = []
    for method in methods:
        nodes = {f"{n} labels": [f"{method[:4]}-n{n}-s{seed}" for seed in (0, 1)] for n in numbers}
        runs = [[f"train-{node}"] for column in nodes.values() for node in column] if costs else []
        rows.append(Row(method, nodes, None, runs))
    points = {f"{n} labels": n for n in numbers}
    return Table("Methods", "mean_iou", list(points), rows, plot=Plot("labelled images", points))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Figures and trainings of `wide`: method 1 has 40.0 to 41.0 with 30 labels, and so on; 12 GiB of memory."""
    place = Workspace(tmp_path_factory.mktemp("full") / "work")
    for index, row in enumerate(wide().rows):
        for step, nodes in enumerate(row.nodes.values()):
            for seed, node in enumerate(nodes):
                publish(place, node, 0.4 + 0.01 * index + 0.1 * step + 0.01 * seed)
                summary = {"images_per_second": 10.0 * (index + 1), "peak_memory_mib": 12288}
                publish(place, f"train-{node}", None, summary, {"batch_size": 8})
    return place


def test_costs_stand_beside_the_figures(full: Workspace) -> None:
    lines = table_markdown(read_results(wide(), full)).splitlines()
    assert lines[2] == (
        "| mean IoU | 30 labels | 120 labels | 480 labels | steps/s | images/s | seconds a run | peak MiB | disk MiB |"
    )
    seconds = lines[5].split(" | ")[6]
    assert lines[5] == (
        f"| other teacher | 41.5 (41.0-42.0) | 51.5 (51.0-52.0) | 61.5 (61.0-62.0) | 2.50 | 20.0 | {seconds} | 12288 | "
        "0.0 |"
    )
    assert "rows with batches of different sizes compare by steps/s" in lines[-1]
    record = json.loads(json.dumps(table_json(read_results(wide(), full))))
    assert record["rows"][1]["cost"]["images_per_second"] == 20.0
    assert record["rows"][1]["cost"]["peak_memory_mib"] == 12288
    assert record["rows"][1]["cost"]["seconds"] >= 0


def test_steps_stand_beside_the_figures_where_trainings_are_known(full: Workspace) -> None:
    table = wide(methods=METHODS[:2], numbers=("30",))
    for method, name in ((0, "short"), (1, "long")):
        work = Work("train", 1, "segmenter", "0" * 64, {}, {}, {})
        with full.writing(name, work) as writer:
            writer.write_json("network.json", {})
            full.publish(name, writer, work, {"iterations": 300 * (method + 1), "images_seen": 4800})
        table.rows[method] = replace(table.rows[method], costs=[[name]])
    lines = table_markdown(read_results(table, full)).splitlines()
    assert lines[2].startswith("| mean IoU | 30 labels | steps | images | seconds a run |")
    assert [line.split(" | ")[2:4] for line in lines[4:6]] == [["300", "4800"], ["600", "4800"]]
    assert "Steps and images: of all trainings among them" in "\n".join(lines)


def test_of_runs_of_several_stages_each_is_told(full: Workspace) -> None:
    work = Work("seeds", 1, "seeds", "0" * 64, {}, {}, {})
    with full.writing("maps", work) as writer:
        writer.write_json("classes.json", "x" * 2**20)
        full.publish("maps", writer, work, {})
    table = wide()
    table.rows[0] = replace(table.rows[0], costs=[["maps", "supe-n30-s0"]])
    lines = table_markdown(read_results(table, full)).splitlines()
    start = lines.index("| stage by stage | seeds | evaluate |")
    assert re.fullmatch(r"\| supervised \| \d+ s, 1.0 MiB \| \d+ s, 0.0 MiB \|", lines[start + 2])
    assert lines[start + 3] == ""  # the other rows have one stage each
    stages = table_json(read_results(table, full))["rows"][0]["cost"]["stages"]
    assert list(stages) == ["seeds", "evaluate"]
    assert stages["seeds"]["disk_mib"] == pytest.approx(1, abs=0.01)
    assert "stage by stage" not in table_markdown(read_results(wide(), full))


def test_rows_without_costs_have_a_dash_and_a_table_without_any_no_columns(full: Workspace) -> None:
    mixed = wide()
    mixed.rows[2] = wide(costs=False).rows[2]
    lines = table_markdown(read_results(mixed, full)).splitlines()
    assert lines[6].endswith("| - | - | - | - | - |")
    assert "cost" not in table_json(read_results(mixed, full))["rows"][2]
    assert "images/s" not in table_markdown(read_results(wide(costs=False), full))


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 120, 200])
def test_a_table_of_any_width_breaks_no_figure(full: Workspace, width: int) -> None:
    """Columns that do not fit stand in a further table, with the labels of the rows again."""
    table = wide()
    parts, _ = table_text(read_results(table, full), width)
    text = shown(table, full, width)
    assert max(map(len, text.splitlines())) <= width
    headers = [str(column.header) for part in parts for column in part.columns[1:]]
    assert headers == [*wide().columns, "steps/s", "images/s", "seconds a run", "peak MiB", "disk MiB"]
    words = text.split()
    for label in METHODS:
        for word in label.split():
            assert words.count(word) == len(parts)
    for row in table_json(read_results(table, full))["rows"]:
        for figure in row["ours"].values():
            low, high = min(figure["runs"].values()), max(figure["runs"].values())
            assert f"({low:.1f}-{high:.1f})" in words
    assert text.count("Methods") == 1
    assert (len(parts) == 1) == (width >= 120)


# --- what is stale, what is half made ---


def test_what_was_made_with_other_settings_is_marked_wherever_it_stands(workspace: Workspace) -> None:
    results = read_results(TABLE, workspace, {"strong-s1", "mixed"})
    lines = table_markdown(results).splitlines()
    assert lines[4] == "| strong | 53.0* (50.0-56.0) | - | 68.9 | -15.9* |"
    assert lines[5] == "| mixed | 60.0 | - | - | - |"
    text = "\n".join(lines)
    assert (
        "* made with different settings, inputs or versions than a run would use now: semiseg status lists them."
        in text
    )
    assert "mixed is above strong (with figures marked *)." in text
    strong, mixed = (row["ours"]["plain"] for row in table_json(results)["rows"])
    assert (strong["stale"], mixed["stale"]) == (["strong-s1"], [])
    assert "different settings" not in table_markdown(read_results(TABLE, workspace))


def test_the_cost_of_a_stale_training_is_marked(full: Workspace) -> None:
    results = read_results(wide(), full, {"train-othe-n30-s0"})
    supervised, other = table_markdown(results).splitlines()[4:6]
    assert "*" not in supervised
    assert "| 2.50* | 20.0* |" in other
    assert table_json(results)["rows"][1]["cost"]["stale"] is True
    assert "semiseg status lists them" in table_markdown(results)


def test_a_cell_of_fewer_runs_than_planned_says_how_many(workspace: Workspace) -> None:
    rows = [
        Row("a", {"plain": ["strong-s0", "later"]}, None),
        Row("b", {"plain": ["strong-s0", "strong-s1", "later"]}, None),
    ]
    results = read_results(Table("T", "mean_iou", ["plain"], rows), workspace, {"strong-s0"})
    lines = table_markdown(results).splitlines()
    assert lines[4] == "| a | 50.0* (1 of 2 runs) |"
    assert lines[5] == "| b | 53.0* (50.0-56.0; 2 of 3 runs) |"
    assert "- Ours: mean of 2 or 3 runs (lowest-highest), in percent." in lines
    cells = [row["ours"]["plain"] for row in table_json(results)["rows"]]
    assert [(cell["made"], cell["planned"]) for cell in cells] == [(1, 2), (2, 3)]


def test_of_many_missing_runs_a_few_are_named(workspace: Workspace) -> None:
    names = [f"run-{index:02d}" for index in range(30)]
    results = read_results(Table("T", "mean_iou", ["plain"], [Row("a", {"plain": names}, None)]), workspace)
    assert table_markdown(results).splitlines()[-1] == (
        f"- Not made yet: {', '.join(names[:8])} and 22 more (semiseg status)."
    )
    assert table_json(results)["rows"][0]["ours"]["plain"]["missing"] == names


def test_a_table_of_single_runs_says_so(workspace: Workspace) -> None:
    table = Table("T", "mean_iou", ["plain"], [Row("a", {"plain": ["strong-s0"]}, None)])
    text = table_markdown(read_results(table, workspace))
    assert "Ours: one run per figure, in percent; the spread between runs is not known." in text


def overlaps(first: Any, second: Any) -> bool:
    return first.x0 < second.x1 and second.x0 < first.x1 and first.y0 < second.y1 and second.y0 < first.y1


def test_the_plot_shows_means_and_spreads_and_nothing_covers_anything(full: Workspace) -> None:
    canvas = plot_figures(read_results(wide(), full))
    canvas.draw_without_rendering()
    (axes,) = canvas.axes
    (legend,) = canvas.legends
    assert [text.get_text() for text in axes.get_xticklabels()] == list(NUMBERS)
    assert axes.get_xlabel() == "labelled images"
    assert axes.get_ylabel() == "mean IoU, %"
    names = [text.get_text() for text in legend.get_texts()]
    assert names == list(reversed(METHODS))  # as the lines end
    for index, container in enumerate(axes.containers):
        line, _, (bars,) = container.lines
        assert list(line.get_ydata()) == pytest.approx([40.5 + index, 50.5 + index, 60.5 + index])
        ends = [sorted(y for _, y in segment) for segment in bars.get_segments()]
        assert ends == [pytest.approx([40 + index + step, 41 + index + step]) for step in (0, 10, 20)]
        places = list(line.get_xdata())
        assert places[2] - places[1] == pytest.approx(places[1] - places[0])  # 30, 120, 480: by their logarithms
    page, shown_legend = canvas.bbox, legend.get_window_extent()
    assert not overlaps(shown_legend, axes.get_window_extent())
    for part in (shown_legend, axes.get_tightbbox()):
        assert page.x0 <= part.x0
        assert page.y0 <= part.y0
        assert part.x1 <= page.x1
        assert part.y1 <= page.y1


def test_panels_show_a_column_each_with_the_rows_below_each_other(full: Workspace) -> None:
    table = replace(wide(), plot=Plot("", {f"{n} labels": f"{n} labels" for n in reversed(NUMBERS)}, panels=True))
    results = read_results(table, full, {"cps-n30-s0"})
    canvas = plot_figures(results)
    canvas.draw_without_rendering()
    assert [axes.get_title() for axes in canvas.axes] == list(table.columns)
    labels = [text.get_text() for text in canvas.axes[0].get_yticklabels()]
    assert labels == ["supervised", "other teacher", "cps *", "self-training"]
    for step, axes in enumerate(canvas.axes):
        (points,) = axes.lines
        assert list(points.get_xdata()) == pytest.approx([40.5 + index + 10 * step for index in range(4)])
        assert list(points.get_ydata()) == [0, 1, 2, 3]
        (bars,) = axes.collections
        first = bars.get_segments()[0]
        assert sorted(x for x, _ in first) == pytest.approx([40 + 10 * step, 41 + 10 * step])
        assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first row on top
    empty = {label: {column: Figure({}, ["later"]) for column in table.columns} for label in METHODS}
    plot_figures(Results(table, empty, {}))  # nothing made yet: no mistake


def test_every_line_of_a_plot_looks_different(tmp_path: Path) -> None:
    methods = tuple(f"m{index:02d}" for index in range(14))
    place = Workspace(tmp_path / "work")
    for method in methods:
        publish(place, f"{method}-n30-s0", 0.5)
    canvas = plot_figures(read_results(wide(methods, ("30", "120"), costs=False), place))
    lines = [container.lines[0] for container in canvas.axes[0].containers]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 14
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 14
    assert all(len(line.get_xdata()) == 1 for line in lines)  # what is not made yet is left out
    assert all(not container.has_yerr for container in canvas.axes[0].containers)  # one run has no spread
    assert all(not container.lines[2] for container in canvas.axes[0].containers)


def test_a_row_looks_the_same_whatever_stands_beside_it() -> None:
    alone = {label: row_styles([label])[label] for label in LABELS}
    assert row_styles(list(reversed(LABELS))) == alone
    assert len({tuple(style.values()) for style in alone.values()}) == len(LABELS)
    assert row_styles(["mine", "cps", "supervised"])["cps"] == alone["cps"]
    assert row_styles(["mine", "cps"])["mine"] == row_styles(["cct", "mine"])["mine"]
    many = [f"row {index}" for index in range(100)]  # more than there are looks
    assert set(row_styles(many)) == set(many)


def test_the_subtitle_says_what_points_and_bars_are(full: Workspace, workspace: Workspace) -> None:
    made = HowMade("", {}, [Data("data", "shapes", None)], [], {900: 4}, [], {}, [], None, None, [])
    table = wide()
    assert table.plot is not None
    table = replace(table, plot=replace(table.plot, note="points: last weights"))
    canvas = plot_figures(read_results(table, full), made)
    expected = "shapes; 900 steps; 2 runs a point; points: last weights; bars: lowest to highest run"
    assert [text.get_text() for text in canvas.axes[0].texts] == [expected]
    single = Table("T", "mean_iou", ["5"], [Row("a", {"5": ["strong-s0"]}, None)], plot=Plot("labels", {"5": "5"}))
    assert (
        subtitle(read_results(single, workspace, {"strong-s0"}), None)
        == "1 run a point; * stale: a run would make it anew"
    )


def test_a_plot_without_any_figure_is_empty_and_no_mistake(workspace: Workspace, tmp_path: Path) -> None:
    draw_plot(read_results(wide(), workspace), tmp_path / "empty.png")
    draw_plot(read_results(wide(numbers=()), workspace), tmp_path / "no-columns.png")
    with Image.open(tmp_path / "empty.png") as image:
        assert image.size == (1200, 750)


def test_the_suffix_says_the_format(full: Workspace, tmp_path: Path) -> None:
    draw_plot(read_results(wide(), full), tmp_path / "plot.svg")
    assert "<svg" in (tmp_path / "plot.svg").read_text()
    for name in ("plot.docx", "plot"):
        with pytest.raises(UsageError, match="cannot be written as") as caught:
            draw_plot(read_results(wide(), full), tmp_path / name)
        assert "png" in caught.value.hint


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["10", "100", "1000"], [1, 2, 3]),
        (["0.1", "10"], [-1, 1]),
        (["0", "5", "20"], [0, 5, 20]),  # zero has no logarithm
        (["-1", "2"], [-1, 2]),
        (["1/8", "1/4", "full"], [0, 1, 2]),
        (["10", "all"], [0, 1]),
        (["nan", "1", "inf"], [0, 1, 2]),
        (["²", "."], [0, 1]),
        ([], []),
    ],
)
def test_values_stand_by_their_logarithm_where_they_have_one(texts: list[str], expected: list[float]) -> None:
    assert positions(texts) == pytest.approx(expected)


@pytest.mark.parametrize("label", ["a|b", "$x^$", "[b]", "*", "<i>", "`", "\\frac{", "one\ntwo"])
def test_labels_are_text_in_a_terminal_a_markdown_table_and_a_plot(
    tmp_path: Path, workspace: Workspace, label: str
) -> None:
    rows = [Row(label, {"plain": ["strong-s0"], "CRF": ["strong-crf"]}, None)]
    plot = Plot(label, {"plain": label, "CRF": "CRF"})
    table = replace(TABLE, title=label, rows=rows, order=[], plot=plot)
    results = read_results(table, workspace)
    parts, _ = table_text(results, 100)
    console = Console(file=io.StringIO(), width=100)
    for part in parts:
        console.print(part)
    markdown = table_markdown(results).splitlines()
    (row,) = [line for line in markdown if line.startswith("| ") and "50.0" in line]
    assert len(re.split(r"(?<!\\)\|", row)) == 2 + len(results.table.columns) + 1
    draw_plot(results, tmp_path / "plot.png")
    assert Image.open(tmp_path / "plot.png").size > (100, 100)
