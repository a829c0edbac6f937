"""Runs one step in this process: `python -m tests.gpu.one_step STEP FOLDER DEVICE [--tiny]`; its rows go to a file."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from tests.gpu.place import Place
from tests.gpu.rows import Rows
from tests.gpu.steps import STEPS


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("device")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    rows = Rows(given.folder, given.step)
    module, function = STEPS[given.step].place.split(":")
    with rows.guarded("the step itself"):
        run = getattr(importlib.import_module(f"tests.gpu.{module}"), function)
        run(Place(given.folder, given.device, given.tiny, rows))


if __name__ == "__main__":
    main()
