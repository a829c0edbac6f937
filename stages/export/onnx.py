"""A trained segmenter as one ONNX file, for programs without torch; its function is that of `whole_network`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from artifacts.disk_errors import disk_error
from artifacts.errors import ConfigError
from stages.export.whole_network import CHECKED, WholeNetwork, image_to_try, metadata
from stages.networks.segmenter import Segmenter

OPSET = 17
EXAMPLE = (1, 3, 96, 128)  # of the image that the network is traced with


class _BicubicByMatrices(TorchFunctionMode):
    """Resizes maps by two matrix products where torch's antialiased bicubic interpolation is asked for.

    Transformers resize their position embedding to the image with it, and torch's exporter does not know it.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.interpolate and kwargs.get("antialias") and kwargs.get("mode") == "bicubic":
            rows, columns = kwargs["size"]
            maps = args[0]
            down, across = bicubic_matrix(maps.shape[-2], rows), bicubic_matrix(maps.shape[-1], columns)
            return down.to(maps.dtype) @ maps @ across.T.to(maps.dtype)
        return func(*args, **kwargs)


def bicubic_matrix(length: int, wanted: int) -> Tensor:
    """(wanted, length): resizes `length` cells as torch's antialiased bicubic interpolation does.

    Keys 1981 with a = -1/2, as wide as a cell of the coarser grid; the weights of a row sum to 1.
    """
    step = torch.as_tensor(length) / torch.as_tensor(wanted)
    centres = (torch.arange(wanted) + 0.5) * step
    distance = ((torch.arange(length) + 0.5)[None] - centres[:, None]).abs() / step.clamp(min=1.0)
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(far)))
    return weights / weights.sum(1, keepdim=True)


def _require_free_sizes(model: nn.Module, path: Path, tolerance: float) -> None:
    """RuntimeError if the written network, run by onnx's own evaluator, does not do on other images what torch does."""
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(path))
    if _fault(model, evaluator, image_to_try(CHECKED[0]), tolerance) is not None:
        fault = _fault(model, evaluator, image_to_try(EXAMPLE), tolerance)
        raise RuntimeError(fault or "its operators depend on the size of the image")


def _fault(model: nn.Module, evaluator: Any, image: Tensor, tolerance: float) -> str | None:
    """What is wrong with the result of onnx's evaluator on an image; None: nothing."""
    with torch.no_grad():
        expected = model(image)
    try:
        (found,) = evaluator.run(None, {"image": image.numpy()})
    except Exception as error:  # of any type, by the operator
        return f"onnx's evaluator cannot run it: {str(error) or type(error).__name__}"
    if found.shape != expected.shape or np.abs(found - expected.numpy()).max() > tolerance:
        return "by onnx's evaluator its output differs from torch's"
    return None


def export_onnx(network: Segmenter, path: Path, half: bool = False) -> None:
    """Writes `network` with its metadata (see `whole_network.metadata`); half: it computes in float16.

    ConfigError without the package onnx, and for networks that ONNX cannot hold: whose operators it does not have, or
    depend on the size of the image in a way that tracing cannot see.
    """
    try:
        import onnx  # noqa: F401  (torch's exporter needs it)
    except ImportError:
        raise ConfigError("writing ONNX needs the package onnx", "pip install 'semiseg[onnx]'") from None
    model = WholeNetwork(network, half)
    free = {"image": {0: "n", 2: "height", 3: "width"}, "probabilities": {0: "n", 2: "height", 3: "width"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns about every size; all of them are free in the result
        try:
            with _BicubicByMatrices():
                torch.onnx.export(
                    model,
                    (torch.zeros(EXAMPLE, dtype=torch.uint8),),
                    str(path),
                    input_names=["image"],
                    output_names=["probabilities"],
                    dynamic_axes=free,
                    opset_version=OPSET,
                    dynamo=False,  # the newer exporter needs another package, and fixes sizes that should stay free
                )
            _require_free_sizes(model, path, tolerance=0.1 if half else 1e-3)
        except (TypeError, ValueError, RuntimeError) as error:
            if (mended := disk_error(error, path)) is not error:  # torch reports a full disk as a RuntimeError
                raise mended from error
            raise ConfigError(
                f"a network on {network.config.backbone} cannot be written as ONNX: {str(error).splitlines()[0]}",
                "others can: ResNets, HRNets, EfficientNets, ConvNeXt, Swin, ViT, DINOv2, DINOv3",
            ) from error
    write_metadata(path, metadata(network, "fp16" if half else "fp32"))


def write_metadata(path: Path, entries: Mapping[str, str]) -> None:
    """Puts entries into an ONNX file, in place of those it has, once the file is found valid."""
    import onnx

    written = onnx.load(str(path))
    onnx.checker.check_model(written)
    onnx.helper.set_model_props(written, dict(entries))
    onnx.save(written, str(path))
