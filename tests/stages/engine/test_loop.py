"""stages/engine/loop.py: schedules by hand, parameter groups, errors."""

from __future__ import annotations

import dataclasses
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from artifacts import checkpoint
from artifacts.errors import ArtifactError, ConfigError
from artifacts.store import Writer
from stages.engine.config import OptimizerConfig, ScheduleConfig, TrainingConfig
from stages.engine.loop import CHECKPOINT, _Trainer, fit
from stages.engine.method import Method, Setup
from stages.engine.optimizers import build_optimizer, lay_out_state, learning_rate_factor
from stages.engine.streams import Entry, SampleMaker, Stream
from stages.methods.dual_branch import DualBranch
from stages.methods.settings.dual_branch import DualBranchSettings
from stages.methods.settings.supervised import SupervisedSettings
from stages.methods.supervised import Supervised
from stages.networks.config import NetworkConfig


def factors(config, iterations):
    return [learning_rate_factor(config, step, iterations) for step in range(iterations)]


def test_poly_by_hand():
    assert factors(ScheduleConfig(power=1.0), 4) == [1, 0.75, 0.5, 0.25]
    assert factors(ScheduleConfig(power=0.9), 10)[5] == pytest.approx(0.5**0.9)
    assert factors(ScheduleConfig(power=0.9), 1) == [1]


def test_cosine_by_hand():
    """MLMT: from .03 to 1e-4 along half a cosine."""
    assert factors(ScheduleConfig(name="cosine"), 4) == pytest.approx([1, (2 + 2**0.5) / 4, 0.5, (2 - 2**0.5) / 4])
    found = factors(ScheduleConfig(name="cosine", last=0.1), 1000)
    assert (found[0], found[500]) == (1, pytest.approx(0.55))
    assert found[999] == pytest.approx(0.1, abs=1e-5)


def test_step_by_hand():
    config = ScheduleConfig(name="step", milestones=(0.5, 0.75), gamma=0.1)
    assert factors(config, 8) == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize(("milestone", "iterations"), [(0.07, 100), (0.6, 2000), (0.29, 100), (0.14, 50)])
def test_a_milestone_is_not_late_by_a_rounding_error(milestone, iterations):
    """0.07 * 100 is 7.000000000000001."""
    config = ScheduleConfig(name="step", milestones=(milestone,), gamma=0.5)
    assert factors(config, iterations).index(0.5) == round(milestone * iterations)


def test_warm_up_by_hand():
    assert factors(ScheduleConfig(name="constant", warmup=4), 6) == [0.25, 0.5, 0.75, 1, 1, 1]
    assert factors(ScheduleConfig(power=1.0, warmup=2), 4) == [0.5, 0.75, 0.5, 0.25]


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        (ScheduleConfig, {"name": "step"}, "step needs some"),
        (ScheduleConfig, {"name": "poly", "milestones": (0.5,)}, "belong to the schedule step"),
        (ScheduleConfig, {"name": "step", "milestones": (0.7, 0.5)}, "rising"),
        (ScheduleConfig, {"name": "step", "milestones": (1.0,)}, "between 0 and 1"),
        (OptimizerConfig, {"nesterov": True, "momentum": 0.0}, "nesterov"),
        (OptimizerConfig, {"nesterov": True, "name": "adam"}, "nesterov"),
        (OptimizerConfig, {"betas": (0.9, 1.0)}, "below 1"),
        (TrainingConfig, {"augmentation": {"scale": (2, 1)}}, "smaller first"),
        (TrainingConfig, {"augmentation": {"scales": (1, 0)}}, "greater than 0"),
        (TrainingConfig, {"ema_decay": 1.0}, "less than 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(model, values, message):
    with pytest.raises(ValidationError, match=message):
        model.model_validate(values)


# --- parameter groups ---


@pytest.fixture
def method():
    network = NetworkConfig.model_validate({"preset": "tiny", "neck_layers": 1, "neck_channels": 8})
    method = DualBranch(DualBranchSettings(), Setup(network, num_classes=4, seed=0, iterations=5))
    method.networks["segmenter"].pretrained = ("backbone.",)
    return method


def lr_and_decay(optimizer, parameters):
    """The settings of every parameter by name; each must be in exactly one group."""
    found = {}
    for name, parameter in parameters:
        (group,) = [g for g in optimizer.param_groups if any(parameter is p for p in g["params"])]
        found[name] = (group["lr"], group["weight_decay"])
    assert len(found) == sum(len(g["params"]) for g in optimizer.param_groups)
    return found


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_learning_rates_and_decay_of_every_parameter(name, method):
    config = OptimizerConfig(name=name, lr=0.01, new_lr_factor=10, bias_lr_factor=2, weight_decay=0.1)
    optimizer = build_optimizer(config, method.parameter_groups(), fused=True)
    found = lr_and_decay(optimizer, method.networks.named_parameters())
    norms = {f"{n}.weight" for n, m in method.networks.named_modules() if isinstance(m, nn.GroupNorm)}
    for parameter, (lr, decay) in found.items():
        bias = parameter.endswith(".bias") or parameter in norms
        pretrained = parameter.startswith("segmenter.backbone.")
        assert lr == pytest.approx(0.01 * (1 if pretrained else 10) * (2 if bias else 1)), parameter
        assert decay == (0 if bias else 0.1), parameter
    assert sorted({round(lr, 9) for lr, _ in found.values()}) == [0.01, 0.02, 0.1, 0.2]
    assert any(parameter.startswith("weak_head.") for parameter in found)


def test_decay_of_biases_is_a_choice(method):
    config = OptimizerConfig(weight_decay=0.1, decay_biases=True)
    optimizer = build_optimizer(config, method.parameter_groups(), fused=True)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.1}


def test_sgd_step_by_hand():
    """Two steps with gradient 1 on a weight of 1, lr 0.1, momentum 0.5, decay 0.2: g = 1 + 0.2 w, b = 0.5 b + g."""
    weight = nn.Parameter(torch.ones(1))
    config = OptimizerConfig(lr=0.1, new_lr_factor=1, momentum=0.5, weight_decay=0.2)
    optimizer = build_optimizer(config, [{"name": "n.new.weights", "params": [weight]}], fused=True)
    for expected in (1 - 0.1 * 1.2, 0.88 - 0.1 * (0.6 + 1 + 0.2 * 0.88)):
        weight.grad = torch.ones(1)
        optimizer.step()
        assert weight.item() == pytest.approx(expected)


def test_adam_adds_decay_to_the_gradient_and_adamw_does_not():
    """With gradient 0 adam moves a weight of 1 by its lr, adamw by lr * decay."""
    for name, expected in (("adam", 1 - 0.1), ("adamw", 1 - 0.1 * 0.2)):
        weight = nn.Parameter(torch.ones(1))
        config = OptimizerConfig(name=name, lr=0.1, new_lr_factor=1, weight_decay=0.2)
        optimizer = build_optimizer(config, [{"name": "n.new.weights", "params": [weight]}], fused=True)
        weight.grad = torch.zeros(1)
        optimizer.step()
        assert weight.item() == pytest.approx(expected, abs=1e-6)


def test_the_betas_reach_adam_by_hand():
    """Gradients 1, 0 with betas .5, .9: m = .25 / (1 - .25), v = .09 / (1 - .81) after the second step."""
    weight = nn.Parameter(torch.ones(1))
    config = OptimizerConfig(name="adam", lr=0.1, new_lr_factor=1, weight_decay=0, betas=(0.5, 0.9))
    optimizer = build_optimizer(config, [{"name": "n.new.weights", "params": [weight]}], fused=True)
    for gradient, expected in ((1.0, 0.9), (0.0, 0.9 - 0.1 * (0.25 / 0.75) / (0.09 / 0.19) ** 0.5)):
        weight.grad = torch.tensor([gradient])
        optimizer.step()
        assert weight.item() == pytest.approx(expected, abs=1e-6)


# --- the loop itself, on a method of three numbers ---


class Recorded(Method):
    """L = 5 sum(w^2): the gradient is 10 w. Notes what the loop gives it."""

    def __init__(self, second: bool = False) -> None:
        """second: another network like it, with an optimiser of its own."""
        self.setup = SimpleNamespace(network=None)  # no segmenter: no image of val is drawn
        names = ["only", "second"] if second else ["only"]
        self.networks = nn.ModuleDict({name: nn.Linear(3, 1, bias=False) for name in names})
        for network in self.networks.values():
            nn.init.ones_(network.weight)
        self.draws, self.steps, self.after, self.closed = [], [], [], False
        self.weights = []  # as they are after each step

    @property
    def predictor(self):
        return self.networks["only"]

    def losses(self, batch, step):
        assert self.networks.training
        self.steps.append((step, tuple(batch["images"].ids)))
        self.draws.append(torch.rand(1).item())
        squares = {name: 5 * (network.weight**2).sum() for name, network in self.networks.items()}
        return {"square": squares.pop("only"), "zero": torch.zeros(()), **squares}

    def optimizers(self):
        config = OptimizerConfig(lr=0.02, new_lr_factor=1, momentum=0, weight_decay=0)
        return {"second": config} if "second" in self.networks else {}

    def after_step(self, step):
        self.after.append(step)
        self.weights.append(self.networks["only"].weight[0, 0].item())

    def epoch_metrics(self):
        return {"epochs_seen": float(len(self.after))}

    def close(self):
        self.closed = True


@pytest.fixture
def prepare(training, tmp_path):
    """What `fit` takes: a Recorded method, its samples, the config and the writer."""

    def act(folder="a", second=False, **values):
        config = TrainingConfig.model_validate(
            {
                "iterations": 4,
                "batch_size": 2,
                "crop_size": 16,
                "log_every": 2,
                "optimizer": {"lr": 0.01, "new_lr_factor": 1, "momentum": 0.0, "weight_decay": 0.0},
                "schedule": "constant",
            }
            | values
        )
        stream = Stream([Entry(image_id, None) for image_id in training.dataset.ids("train")], config.batch_size)
        maker = SampleMaker(training.dataset, {"images": stream}, {}, config.augmentation, 16, config.seed)
        return Recorded(second), maker, config, Writer(tmp_path / folder)

    return act


@pytest.fixture
def run(prepare, execution):
    """Trains a Recorded method: the method, the result, the writer."""

    def act(folder="a", second=False, **values):
        method, maker, config, writer = prepare(folder, second, **values)
        return method, fit(method, maker, config, writer, execution), writer

    return act


def test_every_step_is_a_step_down_the_gradient(run):
    """w <- w - 0.01 * 10 w: 0.9^4 after four steps."""
    method, fitted, _ = run()
    torch.testing.assert_close(fitted.predictor.weight.detach(), torch.full((1, 3), 0.9**4))
    assert [step for step, _ in method.steps] == method.after == [0, 1, 2, 3]
    assert method.weights == pytest.approx([0.9, 0.9**2, 0.9**3, 0.9**4])  # `after_step` sees what the step has made
    assert method.closed
    assert not fitted.predictor.training
    assert fitted.summary["iterations"] == 4
    assert fitted.summary["epochs"] == pytest.approx(4 / 3, abs=0.01)


def test_random_numbers_differ_from_step_to_step_and_seed_to_seed(run):
    draws = [run(f"seed-{seed}", seed=seed)[0].draws for seed in (0, 0, 1)]
    assert len(set(draws[0] + draws[2])) == 8


def test_a_finished_training_is_not_trained_again(run):
    _, first, _ = run("same", ema_decay=0.5)
    method, again, _ = run("same", ema_decay=0.5)
    assert method.steps == []
    assert torch.equal(first.predictor.weight, again.predictor.weight)
    assert again.summary["losses"] == first.summary["losses"]


def test_the_gradient_is_clipped_to_its_total_norm(run):
    """|10 w| is 10 sqrt(3) at w = 1; clipped to 1 a step of 0.01 moves each weight by 0.01 / sqrt(3)."""
    _, fitted, _ = run(clip_grad_norm=1.0, iterations=1)
    torch.testing.assert_close(fitted.predictor.weight.detach(), torch.full((1, 3), 1 - 0.01 / 3**0.5))


def test_the_average_is_what_is_given_back(run):
    """Weights 0.9, 0.81, 0.729; copied, then half and half, then 2/3 of the old (a = min(1 - 1/(t+1), 0.75))."""
    _, fitted, writer = run(ema_decay=0.75, iterations=3)
    expected = ((0.9 + 0.81) / 2) * 2 / 3 + 0.729 / 3
    torch.testing.assert_close(fitted.predictor.weight.detach(), torch.full((1, 3), expected))
    last = checkpoint.load(writer.scratch / CHECKPOINT)["networks"]["only.weight"]
    torch.testing.assert_close(last, torch.full((1, 3), 0.729))


def test_the_log_holds_means_learning_rate_and_the_figures_of_epochs(run):
    """Losses 15 * 0.81^t. Six images in batches of two: an epoch ends with step 3, and the rest with step 4."""
    _, fitted, writer = run()
    lines = [json.loads(line) for line in (writer.path / "local/metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], *sorted(set(line) - {"step", "time"})) for line in lines] == [
        (2, "lr", "square", "zero"),
        (3, "epochs_seen"),
        (4, "lr", "square", "zero"),
        (4, "epochs_seen"),
    ]
    assert lines[0]["square"] == pytest.approx(15 * (1 + 0.81) / 2, rel=1e-4)
    assert lines[2]["square"] == pytest.approx(15 * (0.81**2 + 0.81**3) / 2, rel=1e-4)
    assert fitted.summary["losses"]["square"] == pytest.approx(lines[2]["square"], rel=1e-4)
    assert list((writer.path / "local" / "tensorboard").iterdir())


def test_an_epoch_ends_when_every_image_was_seen(run):
    """Six images in batches of four: the second batch of an epoch is filled up from the next one."""
    _, fitted, writer = run("epochs", batch_size=4)
    lines = [json.loads(line) for line in (writer.path / "local/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "epochs_seen" in line] == [2, 4]
    assert fitted.summary["epochs"] == 2


@pytest.mark.parametrize("line", [b'{"step": 3, "squ', b"[3]", b'{"step": "3"}', b"\xff", b"[" * 100_000, b"null"])
def test_a_cut_last_line_of_the_log_is_dropped(run, line):
    _, _, writer = run("cut")
    file = writer.path / "local/metrics.jsonl"
    whole = file.read_text()
    file.write_bytes(whole.encode() + line)
    run("cut")
    assert file.read_text() == whole


def test_the_schedule_reaches_the_optimiser(run):
    """poly with power 1 over two steps: 0.01 and 0.005."""
    _, fitted, _ = run(iterations=2, schedule={"name": "poly", "power": 1.0})
    torch.testing.assert_close(fitted.predictor.weight.detach(), torch.full((1, 3), 0.9 * 0.95))


def test_the_schedule_reaches_a_networks_own_optimiser(run):
    """Its own 0.02, and 0.01 in the second step, on the same gradient 10 w."""
    method, _, _ = run("own", second=True, iterations=2, schedule={"name": "poly", "power": 1.0})
    assert method.networks["only"].weight[0].tolist() == pytest.approx([0.9 * 0.95] * 3)
    assert method.networks["second"].weight[0].tolist() == pytest.approx([0.8 * 0.9] * 3)


def test_a_checkpoint_that_cannot_be_written_ends_the_training_with_a_clear_error(prepare, execution):
    """Found by the thread that writes, told by the loop."""
    method, maker, config, writer = prepare("blocked", iterations=40)
    (writer.scratch / CHECKPOINT).mkdir(parents=True)
    often = dataclasses.replace(execution, checkpoint_every_s=0.0)
    with pytest.raises(ArtifactError, match="a folder is where a file should be"):
        fit(method, maker, config, writer, often)
    assert len(method.steps) < 40
    assert method.closed


def test_the_scale_of_gradients_in_half_precision_is_kept(prepare, execution):
    """fp16 needs a GPU; the scaler that belongs to it does not."""

    def trainer(scale):
        made = _Trainer(*prepare("scaled"), execution)
        made.scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=True)
        return made

    first = trainer(1024.0)
    first._save()
    first.checkpoints.wait()
    again = trainer(2.0)
    again._resume()
    assert again.scaler.get_scale() == 1024


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_moments_from_a_checkpoint_have_the_layout_of_channels_last_weights(name):
    """A fused optimiser goes by addresses: contiguous moments of a channels_last weight would be mixed up."""
    config = OptimizerConfig(name=name, lr=0.1, momentum=0.9)

    def trained(steps, state=None, start=0):
        torch.manual_seed(0)
        layer = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        if state:
            layer.load_state_dict(state[0])
        optimizer = build_optimizer(config, [{"name": "n.new.weights", "params": [layer.weight, layer.bias]}], True)
        if state:
            optimizer.load_state_dict(state[1])
            lay_out_state(optimizer)
        for step in range(start, steps):
            optimizer.zero_grad()
            torch.manual_seed(step)
            (layer(torch.randn(2, 3, 5, 5)) ** 2).sum().backward()
            optimizer.step()
        states = list(optimizer.state_dict()["state"].values())
        contiguous = {"state": dict(enumerate({k: contiguous_copy(v) for k, v in s.items()} for s in states))}
        saved = {k: v.clone().contiguous() for k, v in layer.state_dict().items()}
        return saved, contiguous | {"param_groups": optimizer.state_dict()["param_groups"]}

    whole, _ = trained(4)
    continued, _ = trained(4, trained(2), 2)
    assert all(torch.equal(whole[key], continued[key]) for key in whole)


def contiguous_copy(value):
    """As a checkpoint keeps a tensor."""
    return value.clone().contiguous() if isinstance(value, torch.Tensor) else value


# --- compiled networks ---


@pytest.fixture
def compiled(training, tmp_path, execution):
    """Trains a small network without dropout for three steps, compiled or not: what `fit` gives."""
    network = NetworkConfig.model_validate({"preset": "tiny", "dropout": 0.0})

    def act(compile):
        config = TrainingConfig(iterations=3, batch_size=2, crop_size=32, compile=compile, log_images=0)
        stream = Stream([Entry(image_id, "masks") for image_id in training.dataset.ids("train")], 2)
        sources = {"masks": training.dataset}
        maker = SampleMaker(training.dataset, {"all": stream}, sources, config.augmentation, 32, config.seed)
        method = Supervised(SupervisedSettings(), Setup(network, training.dataset.num_classes, 0, 3))
        return fit(method, maker, config, Writer(tmp_path / f"compiled-{compile}"), execution)

    return act


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_networks_learn_the_same(compiled):
    """Up to rounding: another order of sums."""
    plain, made = compiled(False), compiled(True)
    assert made.summary["losses"] == pytest.approx(plain.summary["losses"], rel=1e-3)
    found = made.predictor.state_dict()
    assert list(found) == list(plain.predictor.state_dict())  # no name says that it was compiled
    for name, value in plain.predictor.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=1e-2, atol=1e-3)


@pytest.mark.filterwarnings("ignore:dynamo_pgo force disabled")
def test_a_missing_compiler_is_told(compiled):
    from torch._inductor import config

    with config.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}):
        torch.compiler.reset()
        with pytest.raises(ConfigError, match=r"the networks cannot be compiled.*no-such-compiler") as caught:
            compiled(True)
    assert "compile=false" in caught.value.hint
