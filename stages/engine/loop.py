"""The one training loop.

    result = fit(method, maker, config, writer, execution)

It owns the optimiser, the schedule, mixed precision, processes, logging and checkpoints. A run killed at any line
and started again continues from its last checkpoint; on a CPU it ends in the same bits as one that was not killed:
samples and random numbers depend on the step only, and the checkpoint holds everything else (weights, optimiser,
scaler, averages, sums of the log).
"""

from __future__ import annotations

import contextlib
import copy
import math
import re
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, get_worker_info

from artifacts import checkpoint
from artifacts.errors import ArtifactError, ConfigError, DataError, SemisegError
from artifacts.store import Writer
from stages.contract import Execution
from stages.engine import distributed
from stages.engine.batch import to_device
from stages.engine.batch_norm import join_batch_norm, single_values_refused
from stages.engine.checkpoints import CheckpointWriter
from stages.engine.config import TrainingConfig
from stages.engine.cuda_graphs import PARTS, CudaGraphs, GpuRecorder
from stages.engine.device import autocast_dtype, describe_device, select_device
from stages.engine.interruption import Interruption
from stages.engine.memory import PeakMemory
from stages.engine.method import Method
from stages.engine.optimizers import MAIN, build_optimizers, check_state, lay_out_state, learning_rate_factor
from stages.engine.randomness import derive_seed
from stages.engine.streams import PackedBatches, SampleMaker
from stages.engine.teacher import update_average
from stages.engine.training_images import TrainingImages
from stages.engine.training_log import Means, TrainingLog
from stages.engine.watching import lessons, watched
from stages.networks.config import NetworkConfig
from stages.networks.weights import load_strictly

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class Fitted:
    """The result of a training: the module to publish and figures for the summary."""

    predictor: nn.Module
    summary: dict[str, Any]


class TrainingStep(nn.Module):
    """All networks of a method behind one forward, so that DistributedDataParallel sees every parameter."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.networks = method.networks
        self._method = [method]  # in a list: a Method is not a module and must not look like a child

    def forward(self, batch: Mapping[str, Any], step: int) -> dict[str, Tensor]:
        return self._method[0].losses(batch, step)


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

    `keep(step, predictor)` is called in the main process after the steps `keep_at` (counted from 1), to write the
    network as it is then; a resumed training may call it again for a step it had finished, with the same weights.

    Raises SemisegError if a loss is not a number (with step and term), ArtifactError for a damaged checkpoint.
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
        self.dtype = autocast_dtype(config.precision, self.device, execution.progress.note)
        self.on_gpu = self.device.type == "cuda"
        self.memory = PeakMemory(self.device)
        self.main = distributed.rank() == 0
        if distributed.world_size() > 1:  # statistics of the joint batch; frozen layers keep theirs
            joined = nn.SyncBatchNorm.convert_sync_batchnorm if self.on_gpu else join_batch_norm
            for name, network in method.networks.items():
                method.networks[name] = joined(network)
        # Convolutions are fastest in it, on GPUs and on CPUs (MobileNetV2: a quarter less time).
        method.networks.to(self.device)
        method.networks.to(memory_format=torch.channels_last)
        method.networks.train()
        step_module: nn.Module = TrainingStep(method)
        if distributed.world_size() > 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # broadcast_buffers: its successor is not in torch 2.11
                step_module = nn.parallel.DistributedDataParallel(
                    step_module,
                    device_ids=[self.device.index] if self.on_gpu else None,
                    broadcast_buffers=False,
                )
        self.graphs: CudaGraphs | None = None
        if config.compile:
            _compile(method.networks)
        elif config.cuda_graphs and self.on_gpu and distributed.world_size() == 1:
            self.graphs = CudaGraphs(method.networks, GpuRecorder(self.device), execution.progress.note)
        self.module = step_module
        self.groups = method.parameter_groups()
        self.optimizers = build_optimizers(config.optimizer, method.optimizers(), self.groups)
        self.base_lr = [group["lr"] for optimizer in self.optimizers.values() for group in optimizer.param_groups]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.average = copy.deepcopy(method.predictor).eval().requires_grad_(False) if config.ema_decay else None
        self.keep: Callable[[int, nn.Module], None] | None = None
        self.keep_at: frozenset[int] = frozenset()
        self.step = 0
        self.checkpoints = CheckpointWriter(writer.scratch / CHECKPOINT, self.device)
        self.means = Means()
        self.images: TrainingImages | None = None
        first = next(iter(maker.orders.values())).stream
        self.epoch_steps = math.ceil(len(first.entries) / first.batch_size)

    def run(self) -> Fitted:
        self._resume()
        begin, first_step = time.monotonic(), self.step
        with contextlib.ExitStack() as stack:
            stack.enter_context(_deaths_of_readers())
            if self.config.compile:
                stack.enter_context(_failures_to_compile())
            if self.graphs:
                stack.callback(self.graphs.close)
            stack.enter_context(self.checkpoints)
            # One of several processes cannot stop alone: the others would wait for it in the step.
            interruption = stack.enter_context(Interruption(distributed.world_size() == 1))
            log = stack.enter_context(TrainingLog(self.writer, self.step)) if self.main else None
            tracker = None
            if log and self.config.log_images:
                self.images = stack.enter_context(TrainingImages(log.folder, log.board, self.maker, self.config))
            if self.main:
                tracker = stack.enter_context(
                    self.execution.progress.track(self.config.iterations, "training", "steps", done=self.step)
                )
                self.writer.advance_to(self.step)
                self.writer.expect(self.config.iterations)
            last_save = time.monotonic()
            for samples in self._batches():
                losses = self._one_step(samples)
                self.step += 1
                self.means.add(self.step, losses, self.method.observed)
                reported = self.step % self.config.log_every == 0 or self.step == self.config.iterations
                if reported:
                    self._report(log)
                if self.step % self.epoch_steps == 0 or self.step == self.config.iterations:
                    self._epoch_end(log)
                if self.keep is not None and self.step in self.keep_at:
                    self.keep(self.step, self._predictor)
                if tracker is not None:
                    tracker.advance(1, **self.means.losses, **self.means.observed)
                    self.writer.advance_to(self.step)
                self.checkpoints.check()
                if self._checkpoint_due(time.monotonic() - last_save, reported):
                    self._save()
                    last_save = time.monotonic()
                if interruption.asked is not None:
                    self._save()
                    self.checkpoints.wait()
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
                "images_seen": self.step * self._batch_size(),
                "images_per_second": round(steps * self._batch_size() / seconds, 2) if steps else None,
                "losses": self.means.losses,
                **({"observed": self.means.observed} if self.means.observed else {}),
                "peak_memory_mib": self.memory.mib(),
                "device": describe_device(self.device),
            },
        )

    @property
    def _predictor(self) -> nn.Module:
        """The network to publish: the average, if there is one."""
        return self.average if self.average is not None else self.method.predictor

    def _batch_size(self) -> int:
        return sum(order.stream.images for order in self.maker.orders.values())

    def _batches(self) -> Iterator[dict[str, dict[str, Any]]]:
        steps = range(self.step, self.config.iterations)
        # With a GPU one worker for each core except that of this process. On a CPU none: the threads of the training
        # use all cores and wait for each other, so a worker that takes the core of one stops them all (two cores: up
        # to 1.5 times slower).
        workers = max(self.execution.own_workers - 1, 0) if self.on_gpu else 0
        loader: DataLoader[Any] = DataLoader(
            _Samples(self.maker),  # type: ignore[arg-type]  # a map from step to batch is all a DataLoader needs
            batch_size=None,
            sampler=steps,
            num_workers=min(workers, len(steps)),
            prefetch_factor=4 if min(workers, len(steps)) else None,
            pin_memory=self.on_gpu,
            generator=torch.Generator(),  # otherwise it would draw from the generator of dropout
        )
        for samples in loader:
            if isinstance(samples, SemisegError):
                raise samples
            yield samples.unpack() if isinstance(samples, PackedBatches) else samples

    def _one_step(self, samples: dict[str, dict[str, Any]]) -> dict[str, Tensor]:
        factor = learning_rate_factor(self.config.schedule, self.step, self.config.iterations)
        groups = [group for optimizer in self.optimizers.values() for group in optimizer.param_groups]
        for group, lr in zip(groups, self.base_lr, strict=True):
            group["lr"] = lr * factor
        # In every process the dropout of a step depends on the step alone: a resumed run needs no generator state.
        torch.manual_seed(derive_seed(self.config.seed, "training", distributed.rank(), self.step))
        batch = {name: to_device(sample, self.device) for name, sample in samples.items()}
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        images = self.images if self.images is not None and self.step in self.images.steps else None
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            self.method.observed = {}
            replayed = self.graphs.step() if self.graphs else contextlib.nullcontext()
            with single_values_refused(), watched() if images else contextlib.nullcontext(), replayed:
                losses = self.module(batch, self.step)
            total = torch.stack(list(losses.values())).sum()
        if images:
            images.draw(self.step, batch, lessons(losses))
        self.scaler.scale(total).backward()
        for optimizer in self.optimizers.values():
            if self.config.clip_grad_norm is not None:
                self.scaler.unscale_(optimizer)
                parameters = [p for group in optimizer.param_groups for p in group["params"]]
                nn.utils.clip_grad_norm_(parameters, self.config.clip_grad_norm, foreach=True)
            self.scaler.step(optimizer)
        self.scaler.update()
        if self.average is not None:
            update_average(self.average, self.method.predictor, self.config.ema_decay or 0.0, self.step)
        self.method.after_step(self.step)
        if images and isinstance(self.method.setup.network, NetworkConfig):
            try:
                images.draw_val(self.step, self._predictor, self.device)
            except DataError as error:  # the training reads no image of val
                self.execution.progress.note(f"no images of val are drawn: {error.message}")
        return losses

    # --- log ---

    def _report(self, log: TrainingLog | None) -> None:
        self._refuse(self.means.close(self.step))
        if log:
            rate = self.optimizers[MAIN].param_groups[0]["lr"]
            log.write(self.step, self.means.losses | self.means.observed | {"lr": rate})

    def _refuse(self, bad: tuple[int, list[str]] | None) -> None:
        """SemisegError if the losses of a step were not finite."""
        if bad is not None:
            step, terms = bad
            raise SemisegError(
                f"the loss {', '.join(terms)} is not a finite number at step {step}",
                f"lower optimizer.lr, or clip gradients (clip_grad_norm); {self._last_good()}",
            )

    def _last_good(self) -> str:
        with contextlib.suppress(SemisegError):  # what went wrong with the network is told, not what with the disk
            self.checkpoints.wait()
        if self.checkpoints.written is None:
            return "there is no checkpoint before that step"
        return f"the checkpoint before it, of step {self.checkpoints.written}, is {self.checkpoints.path}"

    def _check_weights(self) -> None:
        """SemisegError when a weight is not finite: a NaN in the last gradient shows in no loss."""
        state = self.method.networks.state_dict()
        weights = {name: value for name, value in state.items() if value.is_floating_point() and value.numel()}
        extremes = torch.stack([torch.stack(torch.aminmax(value)) for value in weights.values()])  # NaN stays NaN
        for name, finite in zip(weights, torch.isfinite(extremes).all(1).tolist(), strict=True):
            if not finite:
                raise SemisegError(
                    f"the weight {name} is not a finite number after step {self.step}",
                    f"lower optimizer.lr, or clip gradients (clip_grad_norm); {self._last_good()}",
                )

    def _epoch_end(self, log: TrainingLog | None) -> None:
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
            **self.means.state(),
        }

    def _checkpoint_due(self, seconds: float, reported: bool) -> bool:
        """Whether to save, `seconds` after the last time; the same answer in every process.

        Several processes save only at the steps that are logged: they synchronise there anyway, and no sums are open.
        """
        due = seconds >= self.execution.checkpoint_every_s
        if distributed.world_size() == 1:
            return due
        if not reported:
            return False
        answer = torch.tensor(float(due and self.main), device=self.device)
        return bool(distributed.sum_over_processes(answer) > 0)

    def _save(self) -> None:
        """Begins to write the checkpoint, in every process at the same step; never one with NaN."""
        self._refuse(self.means.not_finite(self.step))
        self._check_weights()
        state = self._state()
        if self.main:
            self.checkpoints.write(self.step, state)
        else:
            self.checkpoints.written = self.step

    def _resume(self) -> None:
        path = self.checkpoints.path
        if not path.is_file():
            return
        cure = "delete it to start this training again from its first step"
        try:
            state = checkpoint.load(path)
            if state["kind"] != type(self.method).__name__:
                raise ArtifactError(f"the checkpoint {path} is of {state['kind']}, not of {type(self.method).__name__}")
            load_strictly(self.method.networks, state["networks"], str(path), "this training")
            for name, optimizer in self.optimizers.items():
                optimizer.load_state_dict(state["optimizers"][name])
                check_state(optimizer)
                lay_out_state(optimizer)
            self.scaler.load_state_dict(state["scaler"])
            if self.average is not None:
                load_strictly(self.average, state["average"], str(path), "this training")
            self.method.restore(state["method"])
            self.means.restore(state, self.device)
            if type(step := state["step"]) is not int or not 0 <= step <= self.config.iterations:
                raise ValueError(f"step {step!r} of {self.config.iterations}")
            self.step = self.checkpoints.written = step
        except (ArtifactError, ConfigError) as error:
            raise ArtifactError(error.message, cure) from error
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
            raise ArtifactError(f"the checkpoint {path} does not fit this training: {error!r}", cure) from error
        if self.main:
            self.execution.progress.note(f"continuing from step {self.step} of {self.config.iterations}")

    def _synchronise(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)


class _Samples:
    """The batches by step; errors in the data are returned, since a DataLoader would wrap them in a traceback."""

    def __init__(self, maker: SampleMaker) -> None:
        self.maker = maker

    def __getitem__(self, step: int) -> dict[str, dict[str, Any]] | PackedBatches | SemisegError:
        try:
            batches = self.maker[step]
        except SemisegError as error:
            return error
        return batches if get_worker_info() is None else PackedBatches.pack(batches)


@contextlib.contextmanager
def _deaths_of_readers() -> Iterator[None]:
    """SemisegError if a process that reads images died: torch raises RuntimeError, at whatever line is running."""
    try:
        yield
    except RuntimeError as error:
        found = re.search(r"DataLoader worker \(pid\S* ([\d, ]+)\)(?: is killed by signal: (\w+))?", str(error))
        if found is None:
            raise
        how = f"was killed by a signal ({found[2]})" if found[2] else "ended unexpectedly"
        raise SemisegError(
            f"the process {found[1]}, which read images for the training, {how}",
            "this usually means too little memory: use fewer workers (--workers); the same command continues",
        ) from error


@contextlib.contextmanager
def _failures_to_compile() -> Iterator[None]:
    """ConfigError where torch cannot compile a network: without a compiler, or for an operation it does not know."""
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        raise ConfigError(
            f"the networks cannot be compiled: {str(error).strip().splitlines()[0]}",
            "compile=false trains without it; `semiseg doctor` says whether a compiler is missing",
        ) from error


def _compile(networks: nn.ModuleDict) -> None:
    """torch.compile in place: backbones, necks and heads, which methods call separately; else the whole network."""
    # A network runs in training and in eval mode, with and without gradients, on batches of a few sizes. Each of these
    # is compiled for itself; beyond the limit, of 8, torch goes on without compiling and only warns.
    torch._dynamo.config.recompile_limit = 64
    for network in networks.values():
        parts = [part for name, part in network.named_modules() if name.rpartition(".")[2] in PARTS]
        for part in parts or [network]:
            part.compile(dynamic=False)


__all__ = ["CHECKPOINT", "Fitted", "TrainingStep", "fit"]
