"""A trained segmenter as one ONNX file, for programs without torch.

Input `image`: uint8 (N, 3, H, W), RGB. Output `probabilities`: float32 (N, C, H, W). N, H and W are free; normalisation
and upsampling are part of the file, so that its output equals that of `semiseg predict` at one scale without flip.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from artifacts.errors import ConfigError
from stages.networks.blocks import upsample
from stages.networks.normalisation import normalise
from stages.networks.segmenter import Segmenter

OPSET = 17
EXAMPLE = (1, 3, 96, 128)  # of the image that the network is traced with


class _Probabilities(nn.Module):
    def __init__(self, network: Segmenter) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        resizing: AbstractContextManager[Any] = _BicubicByMatrices() if torch.jit.is_tracing() else nullcontext()
        with resizing:
            logits = upsample(self.network(normalise(image)), (image.shape[2], image.shape[3]), self.network.stride)
            return logits.softmax(1)


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
            return bicubic_matrix(maps.shape[-2], rows) @ maps @ bicubic_matrix(maps.shape[-1], columns).T
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


def _require_free_sizes(model: nn.Module, path: Path) -> None:
    """RuntimeError if the written network, run by onnx's own evaluator, does not do on other images what torch does."""
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(path))
    if _fault(model, evaluator, (2, 3, 75, 50)) is not None:
        raise RuntimeError(_fault(model, evaluator, EXAMPLE) or "its operators depend on the size of the image")


def _fault(model: nn.Module, evaluator: Any, size: tuple[int, ...]) -> str | None:
    """What is wrong with the result of onnx's evaluator on an image of this size; None: nothing."""
    image = torch.arange(math.prod(size), dtype=torch.int32).remainder(251).to(torch.uint8).view(size)
    with torch.no_grad():
        expected = model(image)
    try:
        (found,) = evaluator.run(None, {"image": image.numpy()})
    except Exception as error:  # of any type, by the operator
        return f"onnx's evaluator cannot run it: {str(error) or type(error).__name__}"
    if found.shape != expected.shape or not torch.allclose(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-4):
        return "by onnx's evaluator its output differs from torch's"
    return None


def export_onnx(network: Segmenter, path: Path) -> None:
    """Writes `network` with its class names (metadata `class_names`, JSON).

    ConfigError without the package onnx, and for networks that ONNX cannot hold: whose operators it does not have, or
    depend on the size of the image in a way that tracing cannot see.
    """
    try:
        import onnx
    except ImportError:
        raise ConfigError("writing ONNX needs the package onnx", "pip install 'semiseg[onnx]'") from None
    model = _Probabilities(network).eval()
    free = {"image": {0: "n", 2: "height", 3: "width"}, "probabilities": {0: "n", 2: "height", 3: "width"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns about every size; all of them are free in the result
        try:
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
            _require_free_sizes(model, path)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"a network on {network.config.backbone} cannot be written as ONNX: {str(error).splitlines()[0]}",
                "others can: ResNets, HRNets, EfficientNets, ConvNeXt, Swin, ViT, DINOv2, DINOv3",
            ) from error
    written = onnx.load(str(path))
    entry = written.metadata_props.add()
    entry.key, entry.value = "class_names", json.dumps(list(network.class_names))
    onnx.checker.check_model(written)
    onnx.save(written, str(path))
