"""The probe: which batch is tried next, and trials of real trainings below simulated limits of memory."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from artifacts.errors import ConfigError, SemisegError
from artifacts.store import Artifact
from stages.planning.fingerprint import fingerprint
from stages.planning.plan_file import plan_text
from stages.planning.probe import EXHAUSTED, HEADROOM, measure, next_batch, probed_plan
from stages.planning.proposal import make_plan
from stages.planning.records import GIB, Machine, Plan, Wishes

MACHINE = Machine(memory=16 * GIB, cores=1)
ROOT = Path(__file__).parents[3]


def tried(memory: Callable[[int], float], least: int, most: int, limit: float) -> list[int]:
    """The batches that are tried, in order."""
    seen: dict[int, float] = {0: memory(0)}
    while (batch := next_batch(seen, least, most, limit)) is not None:
        assert batch not in seen
        seen[batch] = memory(batch)
    return [batch for batch in seen if batch]


@pytest.mark.parametrize("limit", range(500, 1300, 20))
@pytest.mark.parametrize("most", [2, 16, 15, 64])
def test_memory_in_proportion_to_the_batch_is_never_exceeded_and_the_largest_batch_found(limit: int, most: int):
    def memory(batch: int) -> float:
        return 400 + 50 * batch

    batches = tried(memory, 2, most, limit)
    fitting = [batch for batch in range(2, most + 1) if memory(batch) <= limit and (batch % 2 == 0 or batch == most)]
    assert all(memory(batch) <= limit for batch in batches)
    assert batches[-1] == max(fitting)


def test_memory_that_grows_faster_is_exceeded_in_a_trial_alone():
    def memory(batch: int) -> float:
        return 400 + 50 * batch if batch <= 4 else EXHAUSTED

    assert tried(memory, 2, 16, 2000) == [2, 4, 8, 6]
    assert tried(lambda batch: EXHAUSTED if batch else 400, 2, 16, 2000) == [2]


# --- real trainings ---


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Drawn images of 128 pixels, all with masks."""
    from artifacts.store import Workspace
    from stages.config import build
    from stages.contract import Execution, load_stage
    from stages.pipeline.run_stage import run_stage

    stage = load_stage("prepare-data")
    shapes = {"name": "shapes", "train": 12, "weak": 0, "val": 2, "long_side": 128}
    workspace = Workspace(tmp_path_factory.mktemp("runs"))
    doing = Execution("cpu", workers=1)
    return run_stage(stage, build(stage.config, {"dataset": shapes}, "test"), workspace, "data", {}, doing).artifact


def peak_of_training(artifact: Artifact, plan: Plan, folder: Path) -> int:
    """Bytes: the highest resident memory of `semiseg train --config plan.yaml` as a process of its own."""
    file = folder / "plan.yaml"
    file.write_text(plan_text(plan, []), encoding="utf-8")
    code = (
        "import pathlib, re, sys\n"
        "from semiseg_cli.main import main\n"
        f"code = main(['train', '--config', {str(file)!r}, '--device', 'cpu', '--workspace', "
        f"{str(artifact.path.parent)!r}, '--name', {folder.name!r}, '--set', 'iterations=4'])\n"
        "status = pathlib.Path('/proc/self/status').read_text()\n"  # ru_maxrss would count the parent's memory, too
        "print('peak', re.search(r'VmHWM:\\s*(\\d+)', status)[1])\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = re.search(r"peak (\d+)", done.stdout)
    assert found is not None
    return int(found[1]) * 1024


def test_a_training_with_the_planned_batch_stays_below_three_limits(drawn: Artifact, tmp_path: Path):
    data, wishes = fingerprint(drawn), Wishes(weights="none", batch_size=32, crop_size=96)
    free = measure(make_plan(data, MACHINE, wishes), drawn, MACHINE, data)
    assert free.batch_size == 32
    low, high = free.memory[2], free.memory[32]
    batches = []
    for number, share in enumerate((0.1, 0.4, 0.8)):
        limit = int((low + share * (high - low)) / HEADROOM)
        plan = probed_plan(drawn, data, replace(MACHINE, memory=limit), wishes)
        batches.append(plan.batch_size)
        (tmp_path / f"limit-{number}").mkdir()
        assert peak_of_training(drawn, plan, tmp_path / f"limit-{number}") <= limit
    assert batches == sorted(batches)
    assert 2 <= batches[0] < batches[2] < 32


def test_smaller_crops_are_tried_where_no_batch_fits_and_at_last_the_limit_is_named(drawn: Artifact):
    data, notes = fingerprint(drawn), list[str]()
    with pytest.raises(ConfigError, match=r"crops of 80 pixels, needs \d\.\d\d GiB; 0\.10 GiB may be used"):
        probed_plan(drawn, data, replace(MACHINE, memory=GIB // 10), Wishes(weights="none"), note=notes.append)
    assert [note.rpartition("; ")[2] for note in notes] == ["trying crops of 80 pixels"]


def test_every_kind_of_training_is_measured_without_the_artifacts_of_earlier_stages(drawn: Artifact, bench):
    """bench: 4 images with masks, 5 with labels."""
    data = fingerprint(bench.workspace.artifact("data"))
    for wishes, names in (
        (Wishes(weights="none", batch_size=4), {"supervised", "self-training"}),
        (Wishes(weights="none", batch_size=4, method="dsrg"), {"classifier", "dsrg", "retrained"}),
    ):
        plan = make_plan(data, MACHINE, wishes)
        found = measure(plan, bench.workspace.artifact("data"), MACHINE, data)
        assert found.trials.keys() == names
        assert all(trial.step_s > 0 and trial.start_s > 0 for trial in found.trials.values())
        assert found.process_s > 0
        others = {step.name for step in plan.steps if not step.trains}
        assert found.paces.keys() == {*others, "predict", "evaluate", "review"}


def test_a_mistake_of_a_training_is_one_error(drawn: Artifact, tmp_path: Path):
    file = tmp_path / "mobilenet_v2.pth"
    file.write_bytes(b"no weights")
    data = fingerprint(drawn)
    with pytest.raises(SemisegError, match=r"the probe: .*mobilenet_v2.pth"):
        measure(make_plan(data, MACHINE, Wishes(weights=str(file))), drawn, MACHINE, data)
