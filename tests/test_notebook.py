"""docs/walk.ipynb runs from the first cell to the last, and its stored outputs name no place on anybody's disk."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest

from artifacts.store import Workspace
from tests.documented import ROOT

nbformat = pytest.importorskip("nbformat", reason="the extra docs is not installed")
nbclient = pytest.importorskip("nbclient", reason="the extra docs is not installed")
NOTEBOOK = nbformat.read(ROOT / "docs" / "walk.ipynb", as_version=4)
CODE = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]


def texts(cell: dict) -> str:
    return "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell["outputs"])


def test_every_cell_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made = nbclient.NotebookClient(
        copy.deepcopy(NOTEBOOK), timeout=500, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    workspace = Workspace(tmp_path / "runs" / "walk")
    assert {"data", "seeds", "weak-labels", "dual-branch", "predictions", "evaluation"} <= set(workspace.names())
    images = [cell for cell in made.cells if "in_rows(" in cell.source]
    assert len(images) == 4
    assert all("image/png" in cell.outputs[-1].data for cell in images)
    scores = next(texts(cell) for cell in made.cells if "scores = " in cell.source)
    assert re.search(r"'background': '(\d+)%'", scores)


def test_the_stored_outputs_name_no_place() -> None:
    for cell in CODE:
        assert not re.search(r"(?<![\w.])/\w+", texts(cell)), texts(cell)
        assert not [output for output in cell.outputs if output.get("name") == "stderr"]
    assert (ROOT / "docs" / "walk.ipynb").stat().st_size < 300_000
