"""stages/engine/distributed.py: two gloo processes under torchrun do what one does on the joint batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from artifacts.errors import ConfigError
from stages.contract import Execution
from stages.engine.device import autocast_dtype, select_device
from stages.pipeline.run_stage import run_stage
from stages.select import STAGE as SELECT_STAGE
from stages.select import SelectConfig
from tests.artifacts.small_artifacts import leftovers
from tests.stages import drawn_training as drawn
from tests.stages.engine import joint_batch_norm, joint_losses
from tests.stages.engine.torchrun import torchrun

SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """What two_processes.py found, and the drawn workspace with the artifacts it made."""
    folder = tmp_path_factory.mktemp("two")
    training = drawn.Training(drawn.fill(drawn.Workspace(folder / "runs")))
    torchrun(SCRIPT, folder, timeout=400)
    return training, json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("case", [*drawn.CASES, "batch-norm"])
def test_the_gradient_is_that_of_one_process_on_the_joint_batch(case, done):
    """Also where the processes have different numbers of labelled pixels: a mean of means would differ."""
    found = done[1][case]
    assert found["gradient"] < 1e-5
    assert found["parameters"] > 20
    alone, two = found["losses"]
    assert 0 not in alone.values()  # or the gradients would be those of the other terms alone
    assert two == pytest.approx(alone, rel=1e-5)


def of_both(done, name):
    """What each of the processes computed on its share."""
    folder = done[0].space.path.parent
    return [torch.load(folder / f"{name}-{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", joint_losses.LOSSES)
def test_two_processes_give_the_loss_of_one(name, done):
    """The mean of the processes' losses and of their gradients, with unequal numbers of pixels in them."""
    shares = of_both(done, "losses")
    value, slope = joint_losses.computed(slice(0, 4))[name]
    torch.testing.assert_close((shares[0][name][0] + shares[1][name][0]) / 2, value)
    torch.testing.assert_close(torch.cat([share[name][1] for share in shares]) / 2, slope)
    assert value > 0


def test_two_processes_normalise_as_one_does_on_all_maps(done):
    """Outputs, gradients and running statistics, with five maps in one process and three in the other."""
    ranks = of_both(done, "batch-norm")
    whole = joint_batch_norm.computed(joint_batch_norm.network(), slice(0, 8))
    assert len(whole) == 13
    for name, expected in whole.items():
        if name in ("output", "input", "evaluated"):
            found = torch.cat([share[name] for share in ranks])
        elif name.startswith("gradient"):
            found = ranks[0][name] + ranks[1][name]
        else:
            torch.testing.assert_close(ranks[0][name], ranks[1][name], rtol=0, atol=0)
            found = ranks[0][name]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_a_stage_under_torchrun_publishes_one_artifact(done):
    training, _ = done
    artifact = training.space.artifact("whole")
    assert artifact.verify() == []
    assert leftovers(training.space) == []
    lines = [json.loads(line) for line in artifact.file("local/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "lr" in line] == [2, 4]
    drawn = sorted(path.name for path in (artifact.path / "local" / "batches").iterdir())
    assert drawn == ["batch-1.jpg", "batch-4.jpg", "val-1.jpg", "val-4.jpg"]
    assert training.space.artifact("classifier").summary["mean_average_precision"] is not None


def test_two_processes_select_what_one_does(done, monkeypatch):
    training, _ = done
    for key in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(key, raising=False)
    chosen = training.space.artifact("chosen")
    inputs = {"data": "data", "segmenter": "teacher"}
    config, alone = SelectConfig(splits=("train",)), Execution(device="cpu", workers=1)
    again = run_stage(SELECT_STAGE, config, training.space, "chosen-by-one", inputs, alone).artifact
    assert chosen.manifest.content == again.manifest.content
    assert len(chosen.json("selection.json")["mean_iou"]) == 2


def test_a_training_of_two_processes_continues_to_the_same_bits(done):
    """With dropout in both processes, and with the counts of both in the log."""
    training, _ = done
    whole, cut = training.space.artifact("whole"), training.space.artifact("cut")
    assert cut.manifest.content == whole.manifest.content
    assert cut.manifest.resumed == 1
    logs = []
    for artifact in (whole, cut):
        lines = [json.loads(line) for line in artifact.file("local/metrics.jsonl").read_text().splitlines()]
        logs.append([{k: v for k, v in line.items() if k != "time"} for line in lines])
    assert logs[0] == logs[1]


def test_devices_that_are_not_there_are_named():
    with pytest.raises(ConfigError, match="'gpu' is not a device"):
        select_device("gpu")
    assert select_device("cpu").type == "cpu"
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        autocast_dtype("fp16", select_device("cpu"))
    assert autocast_dtype("auto", select_device("cpu")) is None
