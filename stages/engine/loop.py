"""The one training loop.

    result = fit(method, maker, config, writer, execution)

It owns the optimiser, the schedule, mixed precision, processes, logging and checkpoints. A run killed at any line
and started again continues from its last checkpoint; on a CPU it ends in the same bits as one that was not killed:
samples and random numbers depend on the step alone, and the checkpoint holds everything else (weights, optimiser,
scaler, averages, sums of the log).
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, get_worker_info

from artifacts import checkpoint
from artifacts.disk_errors import disk_errors
from artifacts.errors import ArtifactError, SemisegError
from artifacts.manifest import LOCAL
from artifacts.store import Writer
from stages.contract import Execution
from stages.engine import distributed
from stages.engine.batch import to_device
from stages.engine.batch_norm import join_batch_norm
from stages.engine.config import OptimizerConfig, ScheduleConfig, TrainingConfig
from stages.engine.device import autocast_dtype, describe_device, select_device
from stages.engine.interruption import Interruption
from stages.engine.memory import PeakMemory
from stages.engine.randomness import derive_seed
from stages.engine.streams import Parcel, SampleMaker
from stages.engine.teacher import update_average
from stages.methods.contract import Method

CHECKPOINT = "checkpoint.pt"
MAIN = "training"  # the optimiser of all networks without one of their own
NEVER = 2**62  # a step that no training reaches


@dataclass(frozen=True)
class Fitted:
    """What a training gave: the module to publish and figures for the summary."""

    predictor: nn.Module
    summary: dict[str, Any]


class TrainingStep(nn.Module):
    """All networks of a method behind one forward, so that DistributedDataParallel sees every parameter."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.networks = method.networks
        self._method = [method]  # in a list: a Method is no module and must not look like a child

    def forward(self, batch: Mapping[str, Any], step: int) -> dict[str, Tensor]:
        return self._method[0].losses(batch, step)


def learning_rate_factor(config: ScheduleConfig, step: int, iterations: int) -> float:
    """The factor on every group's learning rate at `step` (0-based) of `iterations`."""
    warm = min((step + 1) / config.warmup, 1.0) if config.warmup else 1.0
    if config.name == "poly":
        return warm * (1 - step / iterations) ** config.power
    if config.name == "cosine":
        return warm * (config.last + (1 - config.last) * (1 + math.cos(math.pi * step / iterations)) / 2)
    if config.name == "step":
        return warm * config.gamma ** sum(step >= round(m * iterations) for m in config.milestones)
    return warm


def build_optimizer(config: OptimizerConfig, groups: list[dict[str, Any]], fused: bool) -> torch.optim.Optimizer:
    """The optimiser over a method's parameter groups, each with its learning rate and decay."""
    prepared = []
    for group in groups:
        name = group["name"]
        biases = name.endswith("biases")
        lr = config.lr * (config.new_lr_factor if ".new." in f".{name}." else 1.0)
        prepared.append(
            {
                "params": group["params"],
                "name": name,
                "lr": lr * (config.bias_lr_factor if biases else 1.0),
                "weight_decay": config.weight_decay if config.decay_biases or not biases else 0.0,
            }
        )
    if config.name == "sgd":
        return torch.optim.SGD(prepared, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=fused)
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(prepared, lr=config.lr, betas=config.betas, fused=fused)


def build_optimizers(
    config: OptimizerConfig, own: Mapping[str, OptimizerConfig], groups: list[dict[str, Any]]
) -> dict[str, torch.optim.Optimizer]:
    """The training's optimiser (`MAIN`), and one for each network in `own`; groups are named "network.origin.role".

    All step at once, from the gradients of one backward pass: in an adversarial pair each then learns against the
    other as it was before the step, which is what the published codes do.
    """
    shares: dict[str, list[dict[str, Any]]] = {MAIN: [], **{name: [] for name in own}}
    for group in groups:
        network = group["name"].partition(".")[0]
        shares[network if network in own else MAIN].append(group)
    return {name: build_optimizer(own.get(name, config), share, fused=True) for name, share in shares.items()}


def lay_out_state(optimizer: torch.optim.Optimizer) -> None:
    """Gives the state of each parameter the parameter's own strides.

    Checkpoints hold contiguous tensors, and a fused optimiser walks through parameter, gradient and state by their
    addresses: without this a resumed training with channels_last weights would mix up its moments, silently.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def fit(
    method: Method,
    maker: SampleMaker,
    config: TrainingConfig,
    writer: Writer,
    execution: Execution,
    keep: Callable[[int, nn.Module], None] | None = None,
    keep_at: Collection[int] = (),
) -> Fitted:
    """Trains `method` for `config.iterations` steps on the samples of `maker`, resuming from the writer's scratch.

    `keep(step, predictor)` is called in the main process after the steps `keep_at` (counted from 1), to write what the
    network is then; a resumed training may call it again for a step it had finished, with the same weights.

    Raises SemisegError when a loss is not a number (naming step and term), ArtifactError for a damaged checkpoint.
    """
    trainer = _Trainer(method, maker, config, writer, execution)
    if keep is not None and trainer.main:
        trainer.keep, trainer.keep_at = keep, frozenset(keep_at)
    try:
        return trainer.run()
    finally:
        method.close()


class _Trainer:
    def __init__(
        self, method: Method, maker: SampleMaker, config: TrainingConfig, writer: Writer, execution: Execution
    ) -> None:
        self.method, self.maker, self.config, self.writer, self.execution = method, maker, config, writer, execution
        self.device = select_device(execution.device)
        self.dtype = autocast_dtype(config.precision, self.device)
        self.on_gpu = self.device.type == "cuda"
        self.memory = PeakMemory(self.device)
        self.main = distributed.rank() == 0
        if distributed.world_size() > 1:  # statistics of the joint batch; frozen layers keep theirs
            joined = nn.SyncBatchNorm.convert_sync_batchnorm if self.on_gpu else join_batch_norm
            for name, network in method.networks.items():
                method.networks[name] = joined(network)
        # What convolutions like best, on GPUs and (a quarter less time with MobileNetV2) on CPUs.
        method.networks.to(self.device)
        method.networks.to(memory_format=torch.channels_last)
        method.networks.train()
        step_module: nn.Module = TrainingStep(method)
        if distributed.world_size() > 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of broadcast_buffers, whose successor torch 2.11 lacks
                step_module = nn.parallel.DistributedDataParallel(
                    step_module,
                    device_ids=[self.device.index] if self.on_gpu else None,
                    broadcast_buffers=False,
                    find_unused_parameters=True,
                )
        if config.compile:
            _compile(method.networks)
        self.module = step_module
        self.groups = method.parameter_groups()
        self.optimizers = build_optimizers(config.optimizer, method.optimizers(), self.groups)
        self.base_lr = [group["lr"] for optimizer in self.optimizers.values() for group in optimizer.param_groups]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.average = copy.deepcopy(method.predictor).eval().requires_grad_(False) if config.ema_decay else None
        self.keep: Callable[[int, nn.Module], None] | None = None
        self.keep_at: frozenset[int] = frozenset()
        self.step = 0
        self.saved: int | None = None  # step of the last checkpoint
        self.sums: dict[str, Tensor] = {}
        self.terms: set[str] = set()  # names of losses among them; the others are figures that the method observed
        self.first_bad: dict[str, Tensor] = {}  # loss -> the first step since the last report when it was not finite
        self.last_losses: dict[str, float] = {}
        self.last_observed: dict[str, float] = {}
        first = next(iter(maker.orders.values())).stream
        self.epoch_steps = math.ceil(len(first.entries) / first.batch_size)

    def run(self) -> Fitted:
        self._resume()
        begin, first_step = time.monotonic(), self.step
        with contextlib.ExitStack() as stack:
            # One of several processes cannot stop alone, and waiting for the others it would never end its step.
            interruption = stack.enter_context(Interruption(distributed.world_size() == 1))
            log = stack.enter_context(_Log(self.writer, self.step)) if self.main else None
            tracker = None
            if self.main:
                tracker = stack.enter_context(
                    self.execution.progress.track(self.config.iterations, "training", "steps", done=self.step)
                )
                self.writer.expect(self.config.iterations)
            last_save = time.monotonic()
            for samples in self._batches():
                losses = self._one_step(samples)
                self.step += 1
                self._collect(losses)
                reported = self.step % self.config.log_every == 0 or self.step == self.config.iterations
                if reported:
                    self._report(log)
                if self.step % self.epoch_steps == 0 or self.step == self.config.iterations:
                    self._epoch_end(log)
                if self.keep is not None and self.step in self.keep_at:
                    self.keep(self.step, self._predictor)
                if tracker is not None:
                    tracker.advance(1, **self.last_losses, **self.last_observed)
                    self.writer.advance_to(self.step)
                if self._checkpoint_due(time.monotonic() - last_save, reported):
                    self._save()
                    last_save = time.monotonic()
                if interruption.asked is not None:
                    self._save()
                    self.execution.progress.note(f"kept up to step {self.step}: the same command continues")
                    interruption.act()
            if self.step > first_step:
                self._synchronise()
                self._save()
        seconds = time.monotonic() - begin
        steps = self.step - first_step
        return Fitted(
            self._predictor.eval(),
            {
                "iterations": self.step,
                "epochs": round(self.step / self.epoch_steps, 2),
                "images_per_second": round(steps * self._batch_size() / seconds, 2) if steps else None,
                "losses": self.last_losses,
                **({"observed": self.last_observed} if self.last_observed else {}),
                "peak_memory_mib": self.memory.mib(),
                "device": describe_device(self.device),
            },
        )

    @property
    def _predictor(self) -> nn.Module:
        """What is published: the average where there is one."""
        return self.average if self.average is not None else self.method.predictor

    def _batch_size(self) -> int:
        return sum(order.stream.batch_size for order in self.maker.orders.values())

    def _batches(self) -> Iterator[dict[str, dict[str, Any]]]:
        steps = range(self.step, self.config.iterations)
        # Beside a GPU one worker per core but this process's own. On a CPU none: the threads of the training fill all
        # cores and wait for each other, so a worker in the place of one stops all (two cores: up to 1.5 times slower).
        workers = max(self.execution.workers // distributed.world_size() - 1, 0) if self.on_gpu else 0
        loader: DataLoader[Any] = DataLoader(
            _Samples(self.maker),  # type: ignore[arg-type]  # a map from step to batch is all a DataLoader needs
            batch_size=None,
            sampler=steps,
            num_workers=min(workers, len(steps)),
            prefetch_factor=4 if min(workers, len(steps)) else None,
            pin_memory=self.on_gpu,
            generator=torch.Generator(),  # or it would draw from the generator of dropout
        )
        for samples in loader:
            if isinstance(samples, SemisegError):
                raise samples
            yield samples.unpack() if isinstance(samples, Parcel) else samples

    def _one_step(self, samples: dict[str, dict[str, Any]]) -> dict[str, Tensor]:
        factor = learning_rate_factor(self.config.schedule, self.step, self.config.iterations)
        groups = [group for optimizer in self.optimizers.values() for group in optimizer.param_groups]
        for group, lr in zip(groups, self.base_lr, strict=True):
            group["lr"] = lr * factor
        # Dropout of a step depends on the step alone, in every process: a resumed run needs no generator's state.
        torch.manual_seed(derive_seed(self.config.seed, "training", distributed.rank(), self.step))
        batch = {name: to_device(sample, self.device) for name, sample in samples.items()}
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            self.method.observed = {}
            losses = self.module(batch, self.step)
            total = torch.stack(list(losses.values())).sum()
        self.scaler.scale(total).backward()
        for optimizer in self.optimizers.values():
            if self.config.clip_grad_norm is not None:
                self.scaler.unscale_(optimizer)
                parameters = [p for group in optimizer.param_groups for p in group["params"]]
                nn.utils.clip_grad_norm_(parameters, self.config.clip_grad_norm)
            self.scaler.step(optimizer)
        self.scaler.update()
        if self.average is not None:
            update_average(self.average, self.method.predictor, self.config.ema_decay or 0.0, self.step)
        self.method.after_step(self.step)
        return losses

    # --- log ---

    def _collect(self, losses: dict[str, Tensor]) -> None:
        for name, value in {**losses, **self.method.observed}.items():  # stays on the device: reading stops a GPU
            self.sums[name] = self.sums.get(name, 0) + value.detach().float()
        self.terms |= losses.keys()
        for name, value in losses.items():
            step = torch.where(torch.isfinite(value.detach()), NEVER, self.step)
            self.first_bad[name] = step if name not in self.first_bad else torch.minimum(self.first_bad[name], step)
        self.sums["steps"] = self.sums.get("steps", torch.zeros(())) + 1

    def _report(self, log: _Log | None) -> None:
        steps = float(self.sums.pop("steps"))
        names = sorted(self.sums)
        values = distributed.sum_over_processes(torch.stack([self.sums[name] for name in names]))
        means = dict(zip(names, (values / (steps * distributed.world_size())).tolist(), strict=True))
        self.last_losses = {name: value for name, value in means.items() if name in self.terms}
        self.last_observed = {name: value for name, value in means.items() if name not in self.terms}
        self._check_losses(self.last_losses)
        self.sums, self.first_bad = {}, {}
        if log:
            rate = self.optimizers[MAIN].param_groups[0]["lr"]
            log.write(self.step, self.last_losses | self.last_observed | {"lr": rate})

    def _check_losses(self, losses: Mapping[str, float]) -> None:
        """SemisegError when a sum or mean of losses since the last report is not finite: the first step and its terms.

        Several processes call it with the same means: all of them find the same.
        """
        if all(math.isfinite(value) for value in losses.values()):
            return
        names = sorted(self.first_bad)
        steps = distributed.least_over_processes(torch.stack([self.first_bad[name] for name in names])).tolist()
        first = min(steps)
        if first == NEVER:  # each of them is finite, and their sum is not
            first, terms = self.step, [name for name, value in losses.items() if not math.isfinite(value)]
        else:
            terms = [name for name, step in zip(names, steps, strict=True) if step == first]
        raise SemisegError(
            f"the loss {', '.join(terms)} is not a finite number at step {first}",
            f"lower optimizer.lr, or clip gradients (clip_grad_norm); {self._last_good()}",
        )

    def _last_good(self) -> str:
        if self.saved is None:
            return "there is no checkpoint before that step"
        return f"the checkpoint before it, of step {self.saved}, is {self.writer.scratch / CHECKPOINT}"

    def _check_weights(self) -> None:
        """SemisegError when a weight is not finite: a last gradient of NaN shows in no loss."""
        for name, value in self.method.networks.state_dict().items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise SemisegError(
                    f"the weight {name} is not a finite number after step {self.step}",
                    f"lower optimizer.lr, or clip gradients (clip_grad_norm); {self._last_good()}",
                )

    def _epoch_end(self, log: _Log | None) -> None:
        figures = self.method.epoch_metrics()
        if log and figures:
            log.write(self.step, figures)

    # --- checkpoints ---

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "kind": type(self.method).__name__,
            "networks": self.method.networks.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "method": self.method.state(),
            "sums": self.sums,
            "last_losses": self.last_losses,
            "last_observed": self.last_observed,
        }

    def _checkpoint_due(self, seconds: float, reported: bool) -> bool:
        """Whether to save, `seconds` after the last time; the same answer in every process.

        Several processes save at the steps of the log only: there they meet anyway, and no sums are pending.
        """
        due = seconds >= self.execution.checkpoint_every_s
        if distributed.world_size() == 1:
            return due
        if not reported:
            return False
        vote = torch.tensor(float(due and self.main), device=self.device)
        return bool(distributed.sum_over_processes(vote) > 0)

    def _save(self) -> None:
        """Writes the checkpoint, in every process at the same step; never one that a NaN has spoilt."""
        if self.sums:
            self._check_losses({name: float(value) for name, value in self.sums.items() if name in self.first_bad})
        self._check_weights()
        state = self._state()
        self.saved = self.step
        if not self.main:
            return
        path = self.writer.scratch / CHECKPOINT
        with disk_errors(path):
            checkpoint.save(path, state)

    def _resume(self) -> None:
        path = self.writer.scratch / CHECKPOINT
        if not path.is_file():
            return
        cure = "delete it to start this training again from its first step"
        try:
            state = checkpoint.load(path)
            if state["kind"] != type(self.method).__name__:
                raise ArtifactError(f"the checkpoint {path} is of {state['kind']}, not of {type(self.method).__name__}")
            self.method.networks.load_state_dict(state["networks"])
            for name, optimizer in self.optimizers.items():
                optimizer.load_state_dict(state["optimizers"][name])
                lay_out_state(optimizer)
            self.scaler.load_state_dict(state["scaler"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
            self.method.restore(state["method"])
            self.step, self.last_losses = state["step"], state["last_losses"]
            self.last_observed = state["last_observed"]
            self.saved = self.step
            self.sums = {n: value.to(self.device if n != "steps" else "cpu") for n, value in state["sums"].items()}
        except ArtifactError as error:
            raise ArtifactError(error.message, cure) from error
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
            raise ArtifactError(f"the checkpoint {path} does not fit this training: {error!r}", cure) from error
        if self.main:
            self.execution.progress.note(f"continuing from step {self.step} of {self.config.iterations}")

    def _synchronise(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)


class _Samples:
    """The batches by step; a mistake in the data comes as a value, or a DataLoader would bury it in a traceback."""

    def __init__(self, maker: SampleMaker) -> None:
        self.maker = maker

    def __getitem__(self, step: int) -> dict[str, dict[str, Any]] | Parcel | SemisegError:
        try:
            batches = self.maker[step]
        except SemisegError as error:
            return error
        return batches if get_worker_info() is None else Parcel.pack(batches)


def _compile(networks: nn.ModuleDict) -> None:
    """torch.compile in place. Of segmenters the parts: methods call trunk and head apart from each other."""
    for network in networks.values():
        parts = [getattr(network, name) for name in ("backbone", "neck", "head") if hasattr(network, "head")]
        for part in parts or [network]:
            part.compile()


class _Log:
    """metrics.jsonl and TensorBoard below `local/`; lines after the resumed step are dropped."""

    def __init__(self, writer: Writer, step: int) -> None:
        self.folder = writer.path / LOCAL
        self.path = self.folder / "metrics.jsonl"
        self.step = step

    def __enter__(self) -> _Log:
        from torch.utils.tensorboard import SummaryWriter

        with disk_errors(self.path):
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.path.is_file():
                lines = [line for line in self.path.read_text().splitlines() if _step_of(line) <= self.step]
                temporary = self.path.with_name(f".{self.path.name}.partial")
                temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
                os.replace(temporary, self.path)
            self.file = open(self.path, "a", encoding="utf-8", buffering=1)
            self.board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.step + 1)
        return self

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        with disk_errors(self.path):
            rounded = {name: float(f"{value:.6g}") for name, value in figures.items()}
            self.file.write(json.dumps({"step": step, "time": round(time.time(), 1), **rounded}) + "\n")
            for name, value in figures.items():
                self.board.add_scalar(name, value, step)

    def __exit__(self, *_: object) -> None:
        self.board.close()
        self.file.close()


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):  # the last line of a killed run may be cut
        return math.inf


__all__ = ["CHECKPOINT", "Fitted", "TrainingStep", "build_optimizer", "build_optimizers", "fit", "learning_rate_factor"]
