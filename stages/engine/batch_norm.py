"""BatchNorm over the images of all processes on CPUs, where torch's SyncBatchNorm does not run.

    network = join_batch_norm(network)
    with single_values_refused():        # a clear error if a layer gets one value a channel
        losses = method.losses(batch, step)

With one process nothing is converted: the plain layer sees the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from artifacts.errors import ConfigError
from stages.engine import distributed

_ONE_VALUE = "Expected more than 1 value per channel when training"  # torch's message, for every kind of BatchNorm


class JointBatchNorm(_BatchNorm):
    """BatchNorm2d with mean and variance of the joint batch; in eval mode (frozen layers too) the plain one.

    All processes must call it equally often, in forward and backward. Parameters and buffers are those of BatchNorm2d.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim != 4:
            raise ValueError(f"expected maps (B, C, H, W), got {input.ndim} dimensions")

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or distributed.world_size() == 1:
            return super().forward(x)
        self._check_input_dim(x)
        found = x.float()  # (B, C, H, W)
        count = distributed.sum_over_processes(found.new_tensor(found[:, 0].numel()))
        mean = _joint_sum(found.sum((0, 2, 3))) / count
        centred = found - mean[:, None, None]
        # In two passes: E[x^2] - E[x]^2 would lose digits.
        variance = _joint_sum(centred.square().sum((0, 2, 3))) / count
        self._average(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        normalised = centred * torch.rsqrt(variance + self.eps)[:, None, None]
        if self.affine:
            normalised = normalised * self.weight[:, None, None] + self.bias[:, None, None]
        return normalised.to(x.dtype)

    def _average(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        """Moves the running statistics towards those of this batch, as BatchNorm2d does."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        step = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, step)
        self.running_var.lerp_(unbiased_variance, step)


class _JointSum(torch.autograd.Function):
    """The sum of a tensor over all processes, given to each of them. Its gradient is the sum of their gradients."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        return distributed.sum_over_processes(values)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return distributed.sum_over_processes(gradient)


def _joint_sum(values: Tensor) -> Tensor:
    return _JointSum.apply(values)


def join_batch_norm(module: nn.Module) -> nn.Module:
    """The module, where each BatchNorm2d is replaced by a JointBatchNorm of the same weights and buffers."""
    if isinstance(module, nn.BatchNorm2d):
        joint = JointBatchNorm(
            module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats
        )
        joint.weight, joint.bias = module.weight, module.bias
        for name, buffer in module.named_buffers():
            setattr(joint, name, buffer)
        joint.training = module.training
        return joint
    for name, child in module.named_children():
        setattr(module, name, join_batch_norm(child))
    return module


@contextmanager
def single_values_refused() -> Iterator[None]:
    """ConfigError in place of torch's ValueError if BatchNorm has to normalise one value a channel: a batch of
    one image whose map is 1 x 1, as after image pooling or in the last layers of a small crop.
    """
    try:
        yield
    except ValueError as error:
        if not str(error).startswith(_ONE_VALUE):
            raise
        raise ConfigError(
            "BatchNorm cannot train on a batch of one image whose map is 1 x 1 in that layer"
            + str(error).removeprefix(_ONE_VALUE),
            "use a larger batch_size or crop_size, network.head_norm: group where the head has BatchNorm, or "
            "network.freeze_batch_norm: true with pretrained weights",
        ) from error


__all__ = ["JointBatchNorm", "join_batch_norm", "single_values_refused"]
