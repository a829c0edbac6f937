"""Runs the benchmarks: `python -m tests.benchmarks --help`."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.benchmarks.measure import CPU, SCALES, WALL, Result

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
    "peers-cams": "peers:cams",
    "peers-crf": "peers:crf",
    "peers-crf-pair": "peers:crf_pair",
    "saliency": "prediction:computed_saliency",
    "predict": "prediction:predict",
    "predict-batches": "prediction_parts:batches",
    "predict-folded": "prediction_parts:folded",
    "predict-main-thread": "prediction_parts:main_thread",
    "predict-memory": "prediction_parts:memory",
    "predict-records": "prediction:predict_records",
    "evaluation": "evaluation:evaluation",
    "evaluation-sklearn": "evaluation:evaluation_sklearn",
    "threshold-sweep": "evaluation:threshold_sweep",
    "dataset-open": "data_sets:opening",
    "dataset-memory": "data_sets:memory",
    "fresh-manifest": "data_sets:manifest",
    "status-reads": "data_sets:status_reads",
    "cli-help": "command_line:help_page",
    "cli-status": "command_line:status",
    "stage-start": "command_line:start_of_a_stage",
    "stages-together": "command_line:stages_together",
    "training": "training:training",
    "training-mobilenet": "training:training_mobilenet",
    "bf16-step": "arithmetic:bf16_step",
    "depthwise-gradients": "arithmetic:depthwise",
    "checkpoint": "steps:checkpoints",
    "average": "steps:average",
    "strong-views": "steps:views",
    "calls-fixmatch": "step_calls:fixmatch",
    "calls-unimatch": "step_calls:unimatch",
    "calls-cps": "step_calls:cps",
    "frozen-mobilenet": "frozen:frozen_mobilenet",
    "frozen-transformer": "frozen:frozen_transformer",
    "score-maps": "formats:score_maps",
    "sbd": "sbd:sbd",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 where results that should be equal are not, or a benchmark failed; a missed target is only shown."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--scale", choices=SCALES, default="full", help="how much work (tiny: only whether it runs)")
    parser.add_argument("--only", choices=BENCHMARKS, action="append", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--out", type=Path, default=Path(".bench/benchmarks.json"), help="the JSON file")
    given = parser.parse_args(arguments)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin would count as CPU seconds
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of numpy, as in the processes of stages: its threads spin

    load_before = os.getloadavg()
    results: list[Result] = []
    failed: dict[str, str] = {}
    for name in given.only or BENCHMARKS:
        print(f"{name} ...", end="", file=sys.stderr, flush=True)
        begin = time.monotonic()
        try:
            with tempfile.TemporaryDirectory(prefix="semiseg-bench-") as folder:
                results.append(benchmark(name)(given.scale, Path(folder)))
        except Exception as error:  # the others are measured all the same
            traceback.print_exc()
            failed[name] = f"{type(error).__name__}: {error}"
        print(f" {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
        write(results, failed, given.out, given.scale, load_before)
    print(f"wrote {given.out}", file=sys.stderr)
    show(results, failed, given.scale)
    return 0 if all(result.equal for result in results) and not failed else 1


def benchmark(name: str) -> Callable[[str, Path], Result]:
    module, _, function = BENCHMARKS[name].partition(":")
    return getattr(importlib.import_module(f"tests.benchmarks.{module}"), function)


def write(
    results: Sequence[Result], failed: Mapping[str, str], file: Path, scale: str, load_before: tuple[float, ...]
) -> None:
    """After every benchmark, so that a run that is stopped has left what it measured."""
    from artifacts.provenance import package_versions
    from stages.contract import default_workers

    report = {
        "scale": scale,
        "versions": package_versions(),
        "cores": default_workers(),
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "benchmarks": [result.to_json() for result in results],
        "failed": dict(failed),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def show(results: Sequence[Result], failed: Mapping[str, str], scale: str) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"benchmarks, scale {scale}", box=SIMPLE_HEAD)
    for heading in ("pair", "before", "after", "ratio", "target"):
        table.add_column(heading, justify="left" if heading == "pair" else "right", no_wrap=True)
    table.add_column("reached")
    for result in results:
        targets = _targets(result)
        table.add_row(
            result.name,
            shown(result.baseline.median, result.baseline.unit) if result.baseline else "",
            shown(result.ours.median, result.ours.unit),
            f"{result.ratio:.2f}" if result.ratio is not None else "",
            ", ".join(targets),
            ("yes" if result.reached else "NO") if targets and result.equal else ("" if result.equal else "NOT EQUAL"),
        )
    for name in failed:
        table.add_row(name, "", "", "", "", "FAILED")
    console = Console()
    if not console.is_terminal:
        console.width = 120
    console.print(table)
    for result in results:
        text = f"[bold]{result.name}[/bold]: {result.what}. Input: {result.input}. Compared: {result.equality}."
        console.print(text, highlight=False)
    for name, error in failed.items():
        console.print(f"[bold]{name}[/bold] failed: {escape(error)}", highlight=False)


def _targets(result: Result) -> list[str]:
    found = [] if result.target_ratio is None else [f">= {result.target_ratio:g}"]
    return found if result.target_most is None else [*found, f"<= {shown(result.target_most, result.ours.unit)}"]


def shown(value: float, unit: str) -> str:
    """A value with its unit; seconds in milliseconds where they are few."""
    if unit in (WALL.unit, CPU.unit):
        if value < 0.1:
            return f"{1000 * value:.3g} {unit[:-1]}ms"
        return f"{value:.2f} {unit}"
    return f"{value:,.0f} {unit}" if value >= 100 or value == int(value) else f"{value:.2g} {unit}"


if __name__ == "__main__":
    sys.exit(main())
