"""A trained segmenter as one ONNX file, for programs without torch.

Input `image`: uint8 (N, 3, H, W), RGB. Output `probabilities`: float32 (N, C, H, W). N, H and W are free; normalisation
and upsampling are part of the file, so that what it gives is what `semiseg predict` gives at one scale without flip.
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
EXAMPLE = (1, 3, 96, 128)  # of the picture the network is traced with


class _Probabilities(nn.Module):
    def __init__(self, network: Segmenter) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        logits = upsample(self.network(normalise(image)), (image.shape[2], image.shape[3]), self.network.stride)
        return logits.softmax(1)


def export_onnx(network: Segmenter, path: Path) -> None:
    """Writes `network` with its class names (metadata `class_names`, JSON). ConfigError without the package onnx."""
    try:
        import onnx
    except ImportError:
        raise ConfigError("writing ONNX needs the package onnx", "pip install 'semiseg[onnx]'") from None
    model = _Probabilities(network).eval()
    free = {"image": {0: "n", 2: "height", 3: "width"}, "probabilities": {0: "n", 2: "height", 3: "width"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of every size; all of them are free in the result
        torch.onnx.export(
            model,
            (torch.zeros(EXAMPLE, dtype=torch.uint8),),
            str(path),
            input_names=["image"],
            output_names=["probabilities"],
            dynamic_axes=free,
            opset_version=OPSET,
            dynamo=False,  # the newer exporter needs a further package, and fixes sizes it should leave free
        )
    written = onnx.load(str(path))
    entry = written.metadata_props.add()
    entry.key, entry.value = "class_names", json.dumps(list(network.class_names))
    onnx.checker.check_model(written)
    onnx.save(written, str(path))
