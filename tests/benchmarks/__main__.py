"""Runs the benchmarks: `python -m tests.benchmarks --help`."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.benchmarks.measure import SCALES, Result

# name -> module and function; loaded when it runs
BENCHMARKS = {
    "crf": "crf:crf",
    "crf-deeplab-v2": "crf:crf_deeplab_v2",
    "crf-torch": "crf:crf_torch",
    "crf-pair": "crf:crf_pair",
    "pixel-adaptive": "pixel_adaptive:pixel_adaptive",
    "region-growing": "localization:region_growing",
    "random-walk": "random_walk:random_walk",
    "cell-graph": "graphs:cell_graph",
    "superpixel-attention": "graphs:superpixel_attention",
    "cams": "localization:cams",
    "cams-mobilenet": "localization:cams_mobilenet",
    "saliency": "prediction:computed_saliency",
    "predict": "prediction:predict",
    "predict-records": "prediction:predict_records",
    "evaluation": "evaluation:evaluation",
    "evaluation-sklearn": "evaluation:evaluation_sklearn",
    "threshold-sweep": "evaluation:threshold_sweep",
    "cli-help": "command_line:help_page",
    "cli-status": "command_line:status",
    "stage-start": "command_line:start_of_a_stage",
    "training": "training:training",
    "training-mobilenet": "training:training_mobilenet",
    "checkpoint": "steps:checkpoints",
    "average": "steps:average",
    "strong-views": "steps:views",
    "frozen-mobilenet": "frozen:frozen_mobilenet",
    "frozen-transformer": "frozen:frozen_transformer",
    "score-maps": "formats:score_maps",
    "sbd": "sbd:sbd",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 where results that should be equal are not; a missed target is shown, not punished."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--scale", choices=SCALES, default="full", help="how much work (tiny: only whether it runs)")
    parser.add_argument("--only", choices=BENCHMARKS, action="append", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--out", type=Path, default=Path(".bench/benchmarks.json"), help="the JSON file")
    given = parser.parse_args(arguments)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads would take the cores from other processes

    load_before = os.getloadavg()
    results = []
    for name in given.only or BENCHMARKS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="semiseg-bench-") as folder:
            results.append(benchmark(name)(given.scale, Path(folder)))
    write(results, given.out, given.scale, load_before)
    show(results, given.scale)
    return 0 if all(result.equal for result in results) else 1


def benchmark(name: str) -> Callable[[str, Path], Result]:
    module, _, function = BENCHMARKS[name].partition(":")
    return getattr(importlib.import_module(f"tests.benchmarks.{module}"), function)


def write(results: Sequence[Result], file: Path, scale: str, load_before: tuple[float, ...]) -> None:
    from artifacts.provenance import package_versions
    from stages.contract import default_workers

    report = {
        "scale": scale,
        "versions": package_versions(),
        "cores": default_workers(),
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "benchmarks": [result.to_json() for result in results],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {file}", file=sys.stderr)


def show(results: Sequence[Result], scale: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"benchmarks, scale {scale}")
    for heading in ("benchmark", "baseline", "ours", "ratio", "target", "reached", "equal"):
        table.add_column(heading, justify="right" if heading in ("baseline", "ours", "ratio", "target") else "left")
    for result in results:
        if result.target_ratio is not None:
            target = f">= {result.target_ratio:g}x"
        else:
            target = f"< {result.target_seconds:g} s" if result.target_seconds is not None else ""
        table.add_row(
            result.name,
            _seconds(result.baseline.median) if result.baseline else "",
            _seconds(result.ours.median),
            f"{result.ratio:.2f}x" if result.ratio is not None else "",
            target,
            ("yes" if result.reached else "NO") if target else "",
            "yes" if result.equal else "NO",
        )
    console = Console()
    console.print(table)
    for result in results:
        text = f"[bold]{result.name}[/bold]: {result.what}. Input: {result.input}. Compared: {result.equality}."
        console.print(text, highlight=False)


def _seconds(value: float) -> str:
    return f"{1000 * value:.1f} ms" if value < 0.1 else f"{value:.2f} s"


if __name__ == "__main__":
    sys.exit(main())
