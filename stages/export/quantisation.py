"""An ONNX file whose convolutions and matrix products compute in int8, by onnxruntime's quantisation.

Convolutional networks are quantised statically: the ranges of the activations are those found on images of the data set
(Jacob et al. 2018); weights have a scale for each output channel (Krishnamoorthi 2018). In transformers, most of whose
weights are matrices, the range of an activation is taken from each image as it is predicted.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from artifacts.errors import ConfigError

PRODUCTS = ("MatMul", "Gemm")
# What a convolutional network consists of: without the sums and limits, every product would be converted and back.
LAYERS = ("Conv", *PRODUCTS, "Add", "Clip", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat")


def require_runtime() -> None:
    """ConfigError without the package onnxruntime, which quantises and with which files are compared."""
    try:
        import onnxruntime  # noqa: F401  (only whether it is there)
    except ImportError:
        raise ConfigError("fp16 and int8 need the package onnxruntime", "pip install 'semiseg[onnx]'") from None


def is_transformer(network: nn.Module) -> bool:
    """Whether most weights are those of matrices."""
    matrices = sum(layer.weight.numel() for layer in network.modules() if isinstance(layer, nn.Linear))
    return matrices > sum(layer.weight.numel() for layer in network.modules() if isinstance(layer, nn.Conv2d))


def quantise(source: Path, target: Path, network: nn.Module, images: Iterable[np.ndarray]) -> None:
    """Writes `source`, an ONNX file of `network`, in int8. images: uint8 (H, W, 3), whose activations give the ranges.

    The metadata is not copied.
    """
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static

    onnxruntime.set_default_logger_severity(3)  # errors: it warns of every constant that it can leave out
    with _quiet():
        if is_transformer(network):
            quantize_dynamic(
                source, target, op_types_to_quantize=list(PRODUCTS), per_channel=True, weight_type=QuantType.QInt8
            )
        else:
            quantize_static(
                source,
                target,
                _reader(images),
                op_types_to_quantize=list(LAYERS),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )


def _reader(images: Iterable[np.ndarray]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.images = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.images, None)
            return None if image is None else {"image": image.transpose(2, 0, 1)[None]}

    return Reader()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice that onnxruntime logs on every quantisation."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(previous)
