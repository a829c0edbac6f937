"""The sheets that trainings drew of what their networks saw (`local/batches/`): the first, and the last ones."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from artifacts.item_list import LOCAL
from stages.report.page.thumbnails import Thumbnail, sheet_thumbnail

MOST = 8  # trainings whose sheets are shown: each adds a fifth of a megabyte
NAMES = {"batch": "batch of step", "val": "images of val after step"}


@dataclass(frozen=True)
class TrainingSheets:
    """The sheets of one training, each with what it shows."""

    artifact: str
    sheets: list[tuple[str, Thumbnail]]


def read_sheets(name: str, folder: Path) -> TrainingSheets | None:
    """The first and the last batch that a training drew, and the last images of val; None where there are none.

    folder: of the artifact, or of unfinished work. A file that cannot be read is left out.
    """
    steps: dict[str, list[int]] = {}
    for path in (folder / LOCAL / "batches").glob("*.jpg"):
        if found := re.fullmatch(r"(batch|val)-([0-9]+)\.jpg", path.name):
            steps.setdefault(found[1], []).append(int(found[2]))
    batches = sorted(steps.get("batch", []))
    wanted = [("batch", step) for step in dict.fromkeys(batches[:1] + batches[-1:])]
    wanted += [("val", step) for step in sorted(steps.get("val", []))[-1:]]
    sheets = []
    for kind, step in wanted:
        with contextlib.suppress(OSError), Image.open(folder / LOCAL / "batches" / f"{kind}-{step}.jpg") as image:
            sheets.append((f"{NAMES[kind]} {step:,}", sheet_thumbnail(image)))
    return TrainingSheets(name, sheets) if sheets else None
