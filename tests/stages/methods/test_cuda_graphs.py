"""stages/engine/cuda_graphs.py: trainings with recorded calls give what those with plain calls give, to the bit.

Without a GPU a stand-in replays a call by calling again; everything but CUDA's own recording is the same.
"""

from __future__ import annotations

import copy
import dataclasses
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from artifacts import checkpoint
from stages.engine.cuda_graphs import PLAIN_STEPS, CudaGraphs, GpuRecorder, outermost_parts
from stages.pipeline.run_stage import run_stage
from stages.train import STAGE
from tests.stages.drawn_training import CASES, StopAt, StoppedError

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
DROPS = {"preset": "tiny", "dropout": 0.3}
LEVELS = ("drs", "drs-fixed", "seam", "weclip")  # they take more than the result of a backbone: nothing is recorded
SEVERAL_CALLS = ("unimatch", "cps", "fixmatch", "mean-teacher", "supervised")


class CallsAgain:
    """Replays work by doing it again. As CUDA's recording, the first time changes no number."""

    def __init__(self, networks, room=True):
        self.networks, self.room, self.records, self.forgotten = networks, room, 0, 0

    def pool(self):
        return object()

    def record(self, work, pool):
        self.records += 1
        state = {name: value.clone() for name, value in self.networks.state_dict().items()}
        with torch.random.fork_rng(devices=[]):
            work()
        for name, value in self.networks.state_dict().items():
            value.data.copy_(state[name])  # not seen by autograd
        return work

    def has_room(self):
        return self.room

    def forget(self):
        self.forgotten += 1


class Trained:
    """A method after some steps on one batch: losses, all weights and statistics, and how its calls were made."""

    def __init__(self, case, variant, device, graphs, dtype, steps=6, network=None):
        settings = dict(CASES.get(variant, {"name": variant}))
        made = case(settings.pop("name"), network=network, **settings)
        self.networks = made.method.networks.to(device).to(memory_format=torch.channels_last)
        batch = {stream: on(part, device) for stream, part in made.batch.items()}
        self.notes, self.losses = [], []
        self.recorder = CallsAgain(self.networks) if device == "cpu" else GpuRecorder(torch.device(device))
        self.graphs = CudaGraphs(self.networks, self.recorder, self.notes.append) if graphs else None
        groups = [p for p in self.networks.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9, fused=True)
        for step in range(steps):
            torch.manual_seed(step)
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, dtype, enabled=dtype is not None):
                if self.graphs is None:
                    losses = made.method.losses(batch, step)
                else:
                    with self.graphs.step():
                        losses = made.method.losses(batch, step)
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step()
            made.method.after_step(step)
            self.losses.append({name: float(value.detach()) for name, value in losses.items()})
        self.recordings = [
            recording
            for part in (self.graphs.parts if self.graphs else ())
            for kind in part.kinds.values()
            for recording in kind.recordings
        ]
        if self.graphs:
            self.graphs.close()


def on(batch, device):
    values = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    tensors = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
    return batch.replace(**tensors, extra={name: value.to(device) for name, value in batch.extra.items()})


def different(expected, found):
    """Which weights and statistics are not equal: nothing if all are."""
    assert list(expected) == list(found)
    unequal = [name for name in expected if not torch.equal(expected[name], found[name])]
    if not unequal:
        return ""
    largest, name = max((float((expected[name].double() - found[name].double()).abs().max()), name) for name in unequal)
    return f"{len(unequal)} of {len(expected)} tensors differ, {name} most: by {largest:.3g}"


def assert_equal(plain, recorded):
    assert plain.losses == recorded.losses
    assert different(plain.networks.state_dict(), recorded.networks.state_dict()) == ""


@pytest.mark.parametrize("variant", CASES)
def test_every_method_learns_the_same_from_recorded_calls(variant, case):
    plain, recorded = (Trained(case, variant, "cpu", graphs, torch.bfloat16) for graphs in (False, True))
    assert recorded.notes == []
    assert bool(recorded.recordings) == (variant not in LEVELS)
    assert_equal(plain, recorded)


@pytest.mark.parametrize("variant", SEVERAL_CALLS)
def test_recorded_calls_in_single_precision_with_dropout(variant, case):
    plain, recorded = (Trained(case, variant, "cpu", graphs, None, network=DROPS) for graphs in (False, True))
    assert recorded.recordings
    assert_equal(plain, recorded)


@pytest.fixture
def same_order(monkeypatch):
    """A GPU's slower kernels, whose sums have the same order each time; losses alone may still differ."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@on_gpu
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("variant", SEVERAL_CALLS)
def test_a_gpu_learns_the_same_from_recorded_calls(variant, dtype, case, same_order):
    plain, again, recorded = (
        Trained(case, variant, "cuda", graphs, dtype, 10, DROPS) for graphs in (False, False, True)
    )
    weights = plain.networks.state_dict()
    assert recorded.recordings
    # if two plain trainings differed nothing could be said
    found = [different(weights, other.networks.state_dict()) for other in (again, recorded)]
    assert found + recorded.notes == ["", ""]


@on_gpu
def test_a_stopped_training_on_a_gpu_goes_on_with_recorded_calls(training, execution, same_order):
    """A thread writes a checkpoint after each step, and the average is of the network that is replayed."""

    def train(name, progress, graphs):
        config = training.config("unimatch", iterations=10, precision="bf16", cuda_graphs=graphs)
        how = dataclasses.replace(execution, device="cuda", checkpoint_every_s=0.0, progress=progress)
        return run_stage(STAGE, config, training.space, name, training.inputs(config), how).artifact

    plain, again = (train(f"gpu-{name}", StopAt(None), False) for name in ("plain", "again"))
    with pytest.raises(StoppedError):
        train("gpu-recorded", StopAt(5), True)
    progress = StopAt(None)
    recorded = train("gpu-recorded", progress, True)
    assert recorded.manifest.resumed == 1
    assert not [note for note in progress.notes if "without CUDA graphs" in note]
    weights, *others = (checkpoint.load(artifact.file("weights.pt")) for artifact in (plain, again, recorded))
    assert [different(weights, other) for other in others] == ["", ""]


@on_gpu
def test_a_gpu_replays_two_sizes_with_evaluation_between(same_order):
    networks = [small(nn.Dropout(0.3)).to("cuda") for _ in range(2)]
    notes, outputs = [], []
    graphs = CudaGraphs(networks[1], GpuRecorder(torch.device("cuda")), notes.append)
    inputs = [torch.randn(2, 3, size, size, device="cuda") for size in (8, 12)]
    for network in networks:
        for number in range(8):
            torch.manual_seed(number)
            network.zero_grad()
            with graphs.step():
                found = [network(x) for x in inputs[number % 2 :]]
            sum(output.square().sum() for output in found).backward()
            with torch.no_grad():
                outputs.append([*(output.detach() for output in found), network.eval()(inputs[0])])
            network.train()
    assert notes == []
    assert [len(kind.recordings) for part in graphs.parts for kind in part.kinds.values()] == [1, 1]
    for plain, recorded in zip(outputs[:8], outputs[8:], strict=True):
        assert all(torch.equal(x, y) for x, y in zip(plain, recorded, strict=True))
    plain, recorded = (dict(network.named_parameters()) for network in networks)
    expected, found = ({name: weight.grad for name, weight in weights.items()} for weights in (plain, recorded))
    assert different(expected, found) == ""


@on_gpu
def test_a_gpu_draws_on_after_a_recording_that_failed():
    network = small(Waits()).to("cuda")
    notes = []
    graphs = CudaGraphs(network, GpuRecorder(torch.device("cuda")), notes.append)
    for _ in range(PLAIN_STEPS + 3):
        with graphs.step():
            found = network(torch.randn(2, 3, 8, 8, device="cuda"))
        found.sum().backward()
    assert len(notes) == 1
    assert bool(F.dropout(torch.ones(1000, device="cuda")).eq(0).any())


# --- one part ---


class Waits(nn.Module):
    """Reads a number of the device."""

    def forward(self, x):
        return F.dropout(x) * float(x.detach().mean())


class DrawsOnCpu(nn.Module):
    def forward(self, x):
        return x * torch.rand(())


class Small(nn.Module):
    def __init__(self, last):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), last)

    def forward(self, x):
        return self.backbone(x)


def small(last=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Small(last or nn.Identity())


@pytest.fixture
def made():
    """A network, its graphs, what they note, and a function that takes a step with given inputs."""

    def act(last=None, room=True):
        network, notes = small(last), []
        recorder = CallsAgain(network, room)
        graphs = CudaGraphs(network, recorder, notes.append)

        def step(*inputs):
            with graphs.step():
                outputs = [network(x) for x in inputs]
            sum(output.square().sum() for output in outputs).backward()
            return outputs

        return network, recorder, notes, step

    return act


def test_a_call_is_recorded_in_the_third_step(made):
    _, recorder, _, step = made()
    x = torch.randn(2, 3, 8, 8)
    counts = []
    for _ in range(4):
        step(x)
        counts.append(recorder.records)
    assert counts == [0, 0, 2, 2]  # forward and backward pass


def test_calls_whose_backward_passes_are_to_come_do_not_share_a_recording(made):
    _, recorder, _, step = made()
    first, second = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    for _ in range(3):
        one, two = step(first, second)
    assert recorder.records == 4
    assert not torch.equal(one, two)


def test_gradients_of_several_calls_are_those_of_plain_ones(made):
    network, _, _, step = made()
    plain, inputs = small(), [torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8), torch.randn(1, 3, 9, 9)]
    for _ in range(4):
        step(*inputs)
        sum(plain(x).square().sum() for x in inputs).backward()
    for found, expected in zip(network.parameters(), plain.parameters(), strict=True):
        assert torch.equal(found.grad, expected.grad)
    assert torch.equal(network.backbone[1].running_var, plain.backbone[1].running_var)


def test_a_second_size_is_recorded_when_it_comes_again(made):
    _, recorder, _, step = made()
    for _ in range(3):
        step(torch.randn(2, 3, 8, 8))
    step(torch.randn(2, 3, 9, 9))
    assert recorder.records == 2
    step(torch.randn(2, 3, 9, 9))
    assert recorder.records == 4


def test_modes_and_frozen_weights_are_other_calls(made):
    network, recorder, _, step = made()
    x = torch.randn(2, 3, 8, 8)
    for _ in range(3):
        step(x)
    network.eval()
    expected = network(x)
    assert torch.equal(step(x)[0], expected)
    network.train()
    network.backbone[0].requires_grad_(False)
    network.zero_grad()
    step(x)
    assert network.backbone[0].weight.grad is None
    assert recorder.records == 2


@pytest.mark.parametrize("order", [(False, True), (True, False)], ids=["frozen-first", "frozen-last"])
def test_weights_that_are_frozen_in_one_call_of_a_step_learn_from_the_other(order):
    """The weights of a step are cast once, and the cast of frozen ones passes no gradient."""
    gradients = []
    for recorded in (False, True):
        network = small()
        graphs = CudaGraphs(network, CallsAgain(network), lambda text: None)
        torch.manual_seed(0)
        for _ in range(PLAIN_STEPS + 2):
            network.zero_grad()
            total, x = torch.zeros(()), torch.randn(2, 3, 8, 8)
            with torch.autocast("cpu", torch.bfloat16), graphs.step() if recorded else nullcontext():
                for learns in order:
                    network.backbone[0].requires_grad_(learns)
                    total = total + network(x).float().square().sum()
            network.backbone[0].requires_grad_(True)
            total.backward()
            gradients.append(network.backbone[0].weight.grad.clone())
    half = len(gradients) // 2
    for plain, found in zip(gradients[:half], gradients[half:], strict=True):
        assert torch.equal(plain, found)


def test_outside_of_steps_nothing_is_recorded_and_copies_are_plain(made):
    network, recorder, _, step = made()
    x = torch.randn(2, 3, 8, 8)
    for _ in range(3):
        step(x)
    copied = copy.deepcopy(network)
    copied.load_state_dict(small().state_dict())
    with torch.no_grad():
        assert torch.equal(copied.eval()(x), small().eval()(x))
    assert copied.backbone._compiled_call_impl is None
    assert list(copied.state_dict()) == list(small().state_dict())
    network(x)
    assert recorder.records == 2


def test_hooks_run_in_every_call(made):
    network, recorder, _, step = made()
    seen = []
    network.backbone[0].register_forward_hook(lambda *_: seen.append(1))
    for _ in range(4):
        step(torch.randn(2, 3, 8, 8))
    assert len(seen) == 4
    assert recorder.records == 0


def test_random_numbers_of_the_cpu_are_never_recorded(made):
    network, recorder, notes, step = made(DrawsOnCpu())
    recorder.record = lambda work, pool: (work(), work)[1]  # the generator moves on, as with a GPU
    x = torch.randn(2, 3, 8, 8)
    plain = small(DrawsOnCpu()).eval()
    network.eval()
    outputs = []
    for make in (plain, lambda x: step(x)[0]):
        torch.manual_seed(0)
        outputs.append([make(x).detach() for _ in range(6)])
    assert all(map(torch.equal, *outputs))  # the step that was to be recorded, too
    assert len({float(output.sum()) for output in outputs[1]}) == 6
    assert notes == [
        "this training goes on without CUDA graphs, at the same results: Sequential cannot be recorded "
        "(it draws random numbers on the CPU)"
    ]
    assert recorder.forgotten == 1


def test_without_room_calls_stay_plain(made):
    _, recorder, notes, step = made(room=False)
    for _ in range(5):
        step(torch.randn(2, 3, 8, 8))
    assert (recorder.records, len(notes)) == (0, 1)
    assert "too little free memory" in notes[0]


def test_the_parts_are_the_outermost_ones_with_weights():
    network = nn.ModuleDict({"segmenter": small(), "teacher": nn.ModuleDict({"network": small()})})
    network["segmenter"].neck = nn.Sequential()
    network["segmenter"].backbone.add_module("head", nn.Linear(1, 1))
    assert outermost_parts(network) == [network["segmenter"].backbone, network["teacher"]["network"].backbone]
