"""Mean field of the fully connected CRF with torch: several images at once, on a CPU or a GPU.

The equations are those of `stages.localization.dense_crf`, whose functions call this; the two kernels are filtered by
the permutohedral lattice (`stages.localization.permutohedral`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.engine.device import sent
from stages.engine.to_host import Transfer
from stages.localization.crf_parameters import CrfParameters
from stages.localization.permutohedral import Kernel, normalised_kernel

MANY_LABELS = 16  # torch computes the softmax of so many values in registers
KEPT_PIXELS = 2**19  # position kernels of larger images are not kept: 72 bytes a pixel


def mean_fields(
    images: Sequence[NDArray[np.uint8]],
    unaries: Sequence[NDArray[np.float32]],
    parameters: CrfParameters,
    device: str | torch.device = "cpu",
) -> list[NDArray[np.float32]]:
    """The marginals of several CRFs for each image.

    images: (H, W, 3) each; unaries: (S, K, H, W) energies of S CRFs with K labels for each of them. The CRFs of an
    image share its kernels; images of different sizes may be given, S and K are the same for all. Returns (S, K, H, W)
    for each image.
    """
    return list(begun_mean_fields(images, unaries, parameters, device).arrays().values())


def begun_mean_fields(
    images: Sequence[NDArray[np.uint8]],
    unaries: Sequence[NDArray[np.float32]],
    parameters: CrfParameters,
    device: str | torch.device,
) -> Transfer:
    """`mean_fields` on their way to the host, each under its number."""
    device = torch.device(device)
    sizes = tuple((image.shape[0], image.shape[1]) for image in images)
    with torch.inference_mode():
        kernels = _kernels(images, sizes, parameters, device)
        flat = [sent(np.ascontiguousarray(unary), device).flatten(2) for unary in unaries]
        energies = torch.cat(flat, 2).permute(2, 0, 1).contiguous()  # (N, S, K): the kernels filter whole rows
        q = _softmax(-energies)
        for _ in range(parameters.iterations):
            logits = -energies
            for kernel in kernels:
                logits += kernel(q.flatten(1)).view_as(q)
            q = _softmax(logits)
        parts = q.permute(1, 2, 0).split([height * width for height, width in sizes], 2)
        whole = (part.unflatten(2, size) for part, size in zip(parts, sizes, strict=True))
        return Transfer(**{str(number): part for number, part in enumerate(whole)})


def _softmax(logits: Tensor) -> Tensor:
    """Over the last dimension, by columns where rows are too short for torch's own to be fast on a CPU."""
    if logits.shape[2] >= MANY_LABELS or logits.is_cuda:
        return logits.softmax(2)
    columns = logits.permute(1, 2, 0).contiguous()  # (S, K, N)
    columns.sub_(columns.amax(1, keepdim=True)).exp_()
    return columns.div_(columns.sum(1, keepdim=True)).permute(2, 0, 1).contiguous()


def _kernels(
    images: Sequence[NDArray[np.uint8]],
    sizes: tuple[tuple[int, int], ...],
    parameters: CrfParameters,
    device: torch.device,
) -> list[Kernel]:
    kernels = []
    if parameters.gaussian_compat > 0:
        few = sum(height * width for height, width in sizes) <= KEPT_PIXELS
        position = _position_kernel if few else _position_kernel.__wrapped__
        kernels.append(position(sizes, parameters.gaussian_sxy, parameters.gaussian_compat, device))
    if parameters.bilateral_compat > 0:
        colours = [sent(torch.tensor(image), device).reshape(-1, 3) for image in images]
        colour = torch.cat(colours).T.float() / parameters.bilateral_srgb
        features = torch.cat([_positions(sizes, device) / parameters.bilateral_sxy, colour])
        kernels.append(normalised_kernel(features, parameters.bilateral_compat, _groups(sizes, device)))
    return kernels


@functools.lru_cache(maxsize=8)  # most images of a data set have one of a few sizes
def _position_kernel(sizes: tuple[tuple[int, int], ...], sxy: float, weight: float, device: torch.device) -> Kernel:
    return normalised_kernel(_positions(sizes, device) / sxy, weight, _groups(sizes, device))


def _positions(sizes: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """float32 (2, N): column and row of every pixel of all images."""
    grids = []
    for height, width in sizes:
        rows, columns = (torch.arange(n, dtype=torch.float32, device=device) for n in (height, width))
        grids.append(torch.stack([columns.repeat(height), rows.repeat_interleave(width)]))
    return torch.cat(grids, 1)


def _groups(sizes: Sequence[tuple[int, int]], device: torch.device) -> Tensor | None:
    """int64 (N,): the image of every pixel; None for a single image."""
    if len(sizes) == 1:
        return None
    return torch.cat([torch.full((height * width,), n, device=device) for n, (height, width) in enumerate(sizes)])
