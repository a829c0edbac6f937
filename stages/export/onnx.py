"""A trained segmenter as one ONNX file, for programs without torch.

Input `image`: uint8 (N, 3, H, W), RGB. Output `probabilities`: float32 (N, C, H, W). N, H and W are free; normalisation
and upsampling are part of the file, so that its output equals that of `semiseg predict` at one scale without flip.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

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
        logits = upsample(self.network(normalise(image)), (image.shape[2], image.shape[3]), self.network.stride)
        return logits.softmax(1)


def _require_free_sizes(model: nn.Module) -> None:
    """RuntimeError if a traced network differs from the network on images of a different size.

    Also if a position embedding is resized with antialiasing: torch's exporter would print all operators first.
    """
    traced = torch.jit.trace(model, torch.zeros(EXAMPLE, dtype=torch.uint8), check_trace=False)
    if "_upsample_bicubic2d_aa" in str(traced.inlined_graph):
        raise RuntimeError("its position embedding is resized to the image")
    image = torch.arange(2 * 3 * 75 * 50, dtype=torch.int32).remainder(251).to(torch.uint8).view(2, 3, 75, 50)
    with torch.no_grad():
        found, expected = traced(image), model(image)
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-3, atol=1e-4):
        raise RuntimeError("its operators depend on the size of the image")


def export_onnx(network: Segmenter, path: Path) -> None:
    """Writes `network` with its class names (metadata `class_names`, JSON).

    ConfigError without the package onnx, and for networks that ONNX cannot hold (transformers, whose position
    embedding is resized to the image).
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
            _require_free_sizes(model)
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
        except (TypeError, RuntimeError) as error:
            raise ConfigError(
                f"a network on {network.config.backbone} cannot be written as ONNX: {str(error).splitlines()[0]}",
                "networks of convolutions can: ResNets, HRNets, ConvNeXt, EfficientNets and others",
            ) from error
    written = onnx.load(str(path))
    entry = written.metadata_props.add()
    entry.key, entry.value = "class_names", json.dumps(list(network.class_names))
    onnx.checker.check_model(written)
    onnx.save(written, str(path))
