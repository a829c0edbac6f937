"""CUDA graphs of the networks in training: a pass through a backbone, neck or head is one launch instead of hundreds.

    graphs = CudaGraphs(method.networks, GpuRecorder(device), note)
    with graphs.step():
        losses = method.losses(batch, step)
    total.backward()
    ...
    graphs.close()

A GPU that is fast for a network waits for the host, which launches the operations one by one. Here the operations of a
call, and those of its backward pass, are recorded once and then replayed. The results are those of plain calls, to
the bit: the same operations run in the same order, with the same random numbers.

- A call is recorded when it comes again in a later step: same shapes, layout, modes, and weights at the same addresses.
- Each of several calls of a step whose backward passes are still to come has a recording of its own.
- Whatever cannot be recorded (hooks, unknown arguments, random numbers of the CPU) is called as it is.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.conv import _ConvNd

PARTS = ("backbone", "neck", "head")  # the modules of networks that are called as a whole, by name
PLAIN_STEPS = 2  # libraries and kernels are loaded in these, and the use of memory becomes known
MOST_KINDS = 8  # of calls of a part; a part that is called in more ways gains nothing
LOWERED = (_ConvNd, nn.Linear, nn.MultiheadAttention)  # whose parameters autocast casts

Args = tuple[Tensor | dict[str, Tensor], ...]


class Recorder(Protocol):
    """What records work and replays it."""

    def pool(self) -> Any:
        """Memory for recordings of which none is replayed while another one's results are needed."""

    def record(self, work: Callable[[], None], pool: Any) -> Callable[[], None]:
        """What repeats the operations of `work`, with the same tensors. `work` itself changes no tensor."""

    def has_room(self) -> bool:
        """Whether memory suffices for recordings in addition to what was needed so far."""

    def forget(self) -> None:
        """Mends what a recording that failed has left."""


class GpuRecorder:
    """Records CUDA graphs."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def pool(self) -> Any:
        return torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], None], pool: Any) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        # thread_local: threads that read images and write checkpoints may go on allocating and copying
        with torch.cuda.graph(graph, pool=pool, stream=self.stream, capture_error_mode="thread_local"):
            work()
        return graph.replay

    def has_room(self) -> bool:
        """Recordings keep the activations of all networks reserved: at most as much as the plain steps needed."""
        free, _ = torch.cuda.mem_get_info(self.device)
        usable = free + torch.cuda.memory_reserved(self.device)
        return 2 * torch.cuda.max_memory_allocated(self.device) <= usable

    def forget(self) -> None:
        # A recording that failed may have left torch's generator in recording, where it refuses to draw.
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        generator.graphsafe_set_state(generator.clone_state())
        torch.cuda.empty_cache()


class CudaGraphs:
    """Replays calls of the parts of networks, in training steps only; everywhere else the parts are as they were."""

    def __init__(self, networks: nn.Module, recorder: Recorder, note: Callable[[str], None]) -> None:
        self.recorder, self.note = recorder, note
        self.active = False
        self.number = 0  # of the step in this process, from 1
        self.given_up = self.roomy = False
        self.passing = recorder.pool()  # of all calls without gradient: their results are copied at once
        self.parts = [_Part(module, self) for module in outermost_parts(networks)]

    @contextmanager
    def step(self) -> Iterator[None]:
        """The forward passes of a step. A recording is used once in it, until the next step begins."""
        self.number += 1
        for part in self.parts:
            part.begin()
        self.active = not self.given_up
        try:
            yield
        finally:
            self.active = False

    def may_record(self) -> bool:
        if self.given_up or self.number <= PLAIN_STEPS:
            return False
        if not self.roomy:
            self.roomy = self.recorder.has_room()
            if not self.roomy:
                self.give_up("there is too little free memory")
        return self.roomy

    def give_up(self, why: str) -> None:
        """From now on all calls are plain ones."""
        self.given_up, self.active = True, False
        for part in self.parts:
            part.kinds.clear()
        self.recorder.forget()
        self.note(f"this training goes on without CUDA graphs, at the same results: {why}")

    def close(self) -> None:
        """Takes the graphs away from the networks."""
        for part in self.parts:
            part.kinds.clear()
            part.module._compiled_call_impl = None


def outermost_parts(networks: nn.Module) -> list[nn.Module]:
    """The modules called backbone, neck or head that have parameters, none inside another one."""
    found: dict[str, nn.Module] = {}
    for name, module in networks.named_modules():
        inside = any(name.startswith(f"{other}.") for other in found)
        if name.rpartition(".")[2] in PARTS and not inside and next(module.parameters(), None) is not None:
            found[name] = module
    return list(found.values())


@dataclass
class _Kind:
    """Calls that are alike, and their recordings: one for each such call of a step.

    Attributes:
        first: the step in which such a call was first seen. calls: how many there were in this step.
        layouts: the strides with which the gradients of outputs arrived, by call of a step and output: in another
            layout the sums of a backward pass may have another order.
    """

    first: int
    recordings: list[_Recording] = field(default_factory=list)
    calls: int = 0
    layouts: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)

    def watch(self, outputs: Sequence[Tensor]) -> None:
        """Notes the layouts of the gradients of a plain call's outputs."""
        for number, output in enumerate(outputs):
            if output.requires_grad:
                output.register_hook(functools.partial(self._note, (self.calls, number)))

    def _note(self, place: tuple[int, int], gradient: Tensor) -> None:
        self.layouts[place] = gradient.stride()

    def arriving(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Where the gradients of this call's outputs will lie."""
        found = []
        for number, output in enumerate(outputs):
            strides = self.layouts.get((self.calls, number), ())
            buffer = torch.empty_like(output, requires_grad=False)
            if strides and 0 not in strides:  # not of a gradient that is the same everywhere
                buffer = torch.empty_strided(output.shape, strides, dtype=output.dtype, device=output.device)
            found.append(buffer)
        return found


class _Part:
    """A module and the recordings of its calls.

    Attributes:
        parameters: of the module, each once. places: where they are, with their index.
        lowers: indices of the parameters that autocast casts.
    """

    def __init__(self, module: nn.Module, graphs: CudaGraphs) -> None:
        self.module, self.graphs = module, graphs
        self.modules = list(module.modules())
        self.parameters = list(module.parameters())
        index = {id(parameter): number for number, parameter in enumerate(self.parameters)}
        self.places: list[tuple[nn.Module, str, int]] = [
            (owner, name, index[id(parameter)])
            for owner in self.modules
            for name, parameter in owner._parameters.items()
            if parameter is not None
        ]
        castable = {number for owner, _, number in self.places if isinstance(owner, LOWERED)}
        self.lowers = [n for n in sorted(castable) if self.parameters[n].dtype == torch.float32]
        self.kinds: dict[Any, _Kind] = {}
        self._buffers: dict[torch.dtype, list[Tensor]] = {}
        self._weights: dict[Any, list[Tensor]] = {}  # of this step, by type and what learns
        # The place of torch.compile: copies of the module are plain ones, and no name of a weight changes.
        module._compiled_call_impl = self.call

    def begin(self) -> None:
        self._weights.clear()
        for kind in self.kinds.values():
            kind.calls = 0

    def call(self, *args: Any, **named: Any) -> Any:
        graphs = self.graphs
        inputs = None if named or not graphs.active or torch.is_inference_mode_enabled() else tensors_of(args)
        if inputs is None or self._hooked():
            return self.module._call_impl(*args, **named)
        device = inputs[0].device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        key = self._key(args, inputs, dtype)
        if key not in self.kinds:
            if len(self.kinds) == MOST_KINDS:
                return self._plainly(args, dtype)
            self.kinds[key] = _Kind(graphs.number)
        kind = self.kinds[key]
        if len(kind.recordings) > kind.calls or (kind.first < graphs.number and self._record(kind, args, dtype)):
            recording = kind.recordings[kind.calls]
            weights = self.weights(dtype)  # first of all cast
            if not recording.learns:
                return recording.packed(recording.run(inputs))
            found = recording.packed(_Replay.apply(recording, *inputs, *weights))
        else:
            found = self._plainly(args, dtype)
            kind.watch(tensors_of((found,)) or [])
        if torch.is_grad_enabled():
            kind.calls += 1  # the activations are needed until the backward pass
        return found

    def _plainly(self, args: Args, dtype: torch.dtype | None) -> Any:
        """A call as it is. Its weights are cast once in a step for all calls, whose gradients are then added alike."""
        if dtype not in self._buffers or self.graphs.given_up:
            return self.module._call_impl(*args)
        with self.holding(self.weights(dtype)):
            return self.module._call_impl(*args)

    def _hooked(self) -> bool:
        return any(
            module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
            for module in self.modules
        )

    def _key(self, args: Args, inputs: Sequence[Tensor], dtype: torch.dtype | None) -> Any:
        grad = torch.is_grad_enabled()
        return (
            tuple(tuple(arg) if isinstance(arg, dict) else None for arg in args),
            tuple((x.shape, x.stride(), x.dtype, grad and x.requires_grad) for x in inputs),
            (grad, dtype),
            tuple(module.training for module in self.modules),
            tuple(p.requires_grad for p in self.parameters),
            tuple(p.data_ptr() for p in self.parameters),
        )

    def _record(self, kind: _Kind, args: Args, dtype: torch.dtype | None) -> bool:
        """Whether there is one recording more."""
        graphs = self.graphs
        if len(kind.recordings) < kind.calls or not graphs.may_record():
            return False
        try:
            with _nothing_drawn():
                recording = _Recording(self, kind, args, dtype)
        except RuntimeError as error:
            graphs.give_up(f"{type(self.module).__name__} cannot be recorded ({str(error).strip().splitlines()[0]})")
            return False
        kind.recordings.append(recording)
        return True

    def buffers(self, dtype: torch.dtype) -> list[Tensor]:
        """Where the cast weights lie, at the same addresses in all steps."""
        if dtype not in self._buffers:
            self._buffers[dtype] = [
                torch.empty_like(self.parameters[n], dtype=dtype, requires_grad=False) for n in self.lowers
            ]
        return self._buffers[dtype]

    def weights(self, dtype: torch.dtype | None) -> list[Tensor]:
        """The parameters, under autocast those of convolutions and linear layers cast: once a step, as it does."""
        if dtype is None:
            return list(self.parameters)
        key = dtype, *(parameter.requires_grad for parameter in self.parameters)
        if key not in self._weights:
            weights: list[Tensor] = list(self.parameters)
            full = any(known is dtype for known, *_ in self._weights)  # the buffers, which may be in use
            with torch.enable_grad():  # a later call may need the gradient
                cast = _Lower.apply(self.buffers(dtype), full, *(self.parameters[n] for n in self.lowers))
            for number, weight in zip(self.lowers, cast, strict=True):
                weights[number] = weight
            self._weights[key] = weights
        return self._weights[key]

    def leaves(self, dtype: torch.dtype | None) -> list[Tensor]:
        """Tensors at the addresses of `weights`, without their history: what a recording reads."""
        found: list[Tensor] = list(self.parameters)
        if dtype is not None:
            for number, buffer in zip(self.lowers, self.buffers(dtype), strict=True):
                found[number] = buffer
        return [
            leaf.detach().requires_grad_(parameter.requires_grad)
            for leaf, parameter in zip(found, self.parameters, strict=True)
        ]

    @contextmanager
    def holding(self, weights: Sequence[Tensor]) -> Iterator[None]:
        """The module with other weights."""
        for owner, name, number in self.places:
            owner._parameters[name] = weights[number]  # type: ignore[assignment]  # a tensor is all a forward needs
        try:
            yield
        finally:
            for owner, name, number in self.places:
                owner._parameters[name] = self.parameters[number]


class _Recording:
    """One call of a part, and its backward pass.

    Attributes:
        inputs, leaves: the tensors that the recorded operations read.
        outputs: those that they write; arriving: the gradients of the outputs.
        gradients: of what learns among inputs and leaves.
        learns: whether there is a backward pass.
    """

    def __init__(self, part: _Part, kind: _Kind, args: Args, dtype: torch.dtype | None) -> None:
        self.part, self.dtype, self.grad = part, dtype, torch.is_grad_enabled()
        given = tensors_of(args) or []
        self.inputs = [x.detach().clone().requires_grad_(self.grad and x.requires_grad) for x in given]
        if any(x.stride() != own.stride() for x, own in zip(given, self.inputs, strict=True)):
            raise RuntimeError("its input has gaps")
        self.args, self.leaves = like(args, self.inputs), part.leaves(dtype)
        self.names: tuple[str, ...] | None = None
        self.outputs: list[Tensor] = []
        self.arriving: list[Tensor] = []
        self.gradients: tuple[Tensor | None, ...] = ()
        recorder = part.graphs.recorder
        pool = recorder.pool() if self.grad else part.graphs.passing
        self._forward = recorder.record(self._run_forward, pool)
        self.learns = any(output.requires_grad for output in self.outputs)
        if self.learns:
            self.arriving = kind.arriving(self.outputs)
            self._backward = recorder.record(self._run_backward, pool)

    def _run_forward(self) -> None:
        kind, enabled = self.inputs[0].device.type, self.dtype is not None
        lowered = torch.autocast(kind, self.dtype, enabled, cache_enabled=False)
        with torch.set_grad_enabled(self.grad), lowered, self.part.holding(self.leaves):
            found = self.part.module._call_impl(*self.args)
        self.names = tuple(found) if isinstance(found, dict) else None
        outputs = tensors_of((found,))
        if outputs is None:
            raise RuntimeError("its result is neither a tensor nor a dict of tensors")
        self.outputs = outputs

    def _run_backward(self) -> None:
        pairs = [(o, g) for o, g in zip(self.outputs, self.arriving, strict=True) if o.requires_grad]
        wanted = [x for x in (*self.inputs, *self.leaves) if x.requires_grad]
        outputs, arriving = zip(*pairs, strict=True)
        with torch.autocast(self.inputs[0].device.type, enabled=False):
            self.gradients = torch.autograd.grad(outputs, wanted, arriving, allow_unused=True)

    def run(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The results, which nothing overwrites later."""
        with torch.no_grad():
            for own, given in zip(self.inputs, inputs, strict=True):
                own.copy_(given)
        self._forward()
        return tuple(output.detach().clone() for output in self.outputs)

    def run_backward(self, arriving: Sequence[Tensor]) -> list[Tensor | None]:
        """The gradients of inputs and weights, valid until the next step."""
        with torch.no_grad():
            for own, given in zip(self.arriving, arriving, strict=True):
                own.copy_(given)
        self._backward()
        found = iter(self.gradients)
        read = ((next(found) if x.requires_grad else None) for x in (*self.inputs, *self.leaves))
        return [gradient.detach() if gradient is not None else None for gradient in read]

    def packed(self, results: Sequence[Tensor]) -> Tensor | dict[str, Tensor]:
        """Results as the module gives them."""
        return results[0] if self.names is None else dict(zip(self.names, results, strict=True))


class _Replay(torch.autograd.Function):
    """A recorded call in the graph of a loss."""

    @staticmethod
    def forward(ctx: Any, recording: _Recording, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.recording, ctx.done = recording, False
        results = recording.run(inputs[: len(recording.inputs)])
        ctx.mark_non_differentiable(
            *(result for result, own in zip(results, recording.outputs, strict=True) if not own.requires_grad)
        )
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *arriving: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.done:
            raise RuntimeError("a recorded call has one backward pass; cuda_graphs=false allows more")
        ctx.done = True
        return (None, *ctx.recording.run_backward(arriving))


class _Lower(torch.autograd.Function):
    """Parameters cast to the type of their buffers, in one operation; their gradients are cast back in one."""

    @staticmethod
    def forward(ctx: Any, buffers: list[Tensor], full: bool, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        if buffers and not full:
            torch._foreach_copy_(buffers, parameters)
        return tuple(buffer.detach() for buffer in buffers)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        known = [gradient for gradient in gradients if gradient is not None]
        full = [torch.empty_like(gradient, dtype=torch.float32) for gradient in known]
        if known:
            torch._foreach_copy_(full, known)
        found = iter(full)
        return (None, None, *(None if gradient is None else next(found) for gradient in gradients))


def tensors_of(args: Sequence[Any]) -> list[Tensor] | None:
    """The tensors of arguments that are tensors or dicts of tensors; None: there are others, or none at all."""
    found: list[Any] = []
    for arg in args:
        found += arg.values() if isinstance(arg, dict) else [arg]
    return found if found and all(isinstance(value, Tensor) for value in found) else None


def like(args: Args, tensors: Sequence[Tensor]) -> Args:
    """Arguments of the form of `args`, with other tensors."""
    rest = iter(tensors)
    return tuple({name: next(rest) for name in arg} if isinstance(arg, dict) else next(rest) for arg in args)


@contextmanager
def _nothing_drawn() -> Iterator[None]:
    """RuntimeError if the block draws from a generator of the CPU: each replay would have the same numbers.

    The generators are then as they were before, for the plain call that follows.
    """
    state, of_numpy, of_python = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
        alike = torch.equal(torch.get_rng_state(), state) and random.getstate() == of_python
        if not alike or repr(np.random.get_state()) != repr(of_numpy):
            raise RuntimeError("it draws random numbers on the CPU")
    finally:
        torch.set_rng_state(state)
        np.random.set_state(of_numpy)
        random.setstate(of_python)


__all__ = ["PARTS", "CudaGraphs", "GpuRecorder", "Recorder", "outermost_parts"]
