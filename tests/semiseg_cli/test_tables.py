"""The results table: ours, published, difference; on a terminal, as Markdown, as JSON, half made."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from artifacts.store import Work, Workspace
from semiseg_cli.tables import table_json, table_markdown, table_text
from stages.pipeline.table import Published, Row, Table

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


def publish(workspace: Workspace, name: str, mean_iou: float | None) -> None:
    work = Work("evaluate", 1, "metrics", name.ljust(12, "0"), {}, {}, {})
    with workspace.writing(name, work) as writer:
        writer.write_json("metrics.json", {"mean_iou": mean_iou})
        workspace.publish(name, writer, work, {"mean_iou": mean_iou})


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    place = Workspace(tmp_path / "work")
    for name, value in (("strong-s0", 0.50), ("strong-s1", 0.56), ("mixed-s0", 0.60), ("strong-crf", None)):
        publish(place, name, value)
    return place


def test_markdown_holds_means_spreads_published_figures_and_differences(workspace: Workspace) -> None:
    lines = table_markdown(TABLE, workspace).splitlines()
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
    table = json.loads(json.dumps(table_json(TABLE, workspace)))
    strong = table["rows"][0]
    assert strong["ours"]["plain"]["runs"] == {"strong-s0": 50.0, "strong-s1": pytest.approx(56.0)}
    assert strong["published"]["difference"] == pytest.approx(53.0 - 68.9)
    assert table["rows"][1]["published"] is None


def test_the_table_fits_80_columns(workspace: Workspace) -> None:
    buffer = io.StringIO()
    Console(file=buffer, width=80).print(table_text(TABLE, workspace)[0])
    assert max(map(len, buffer.getvalue().splitlines())) <= 80
    assert "53.0 (50.0-56.0)" in buffer.getvalue()
