"""A trained segmenter as one function from pixels to probabilities: what the exporters write.

Input `image`: uint8 (N, 3, H, W), RGB. Output `probabilities`: float32 (N, C, H, W). N, H and W are free; normalisation
and upsampling are part of the function, so that its output equals that of `semiseg predict` at one scale without flip.
"""

from __future__ import annotations

import copy
import json
from typing import Any, Literal

import torch
from torch import Tensor, nn

from artifacts.masks import voc_palette
from stages.networks.blocks import upsample
from stages.networks.normalisation import MEAN, STD, normalise
from stages.networks.segmenter import Segmenter

Precision = Literal["fp32", "fp16", "int8"]
CHECKED = ((2, 3, 75, 50), (1, 3, 130, 97))  # sizes of the images that a written network is tried on


class WholeNetwork(nn.Module):
    """See the module. half: the network computes in float16; its logits become probabilities in float32."""

    def __init__(self, network: Segmenter, half: bool = False) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).half() if half else network
        self.dtype = torch.float16 if half else torch.float32
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        logits = self.network(normalise(image).to(self.dtype)).float()
        return upsample(logits, (image.shape[2], image.shape[3]), self.network.stride).softmax(1)


def metadata(network: Segmenter, precision: Precision = "fp32") -> dict[str, str]:
    """What an exported file says of itself, as JSON texts; specified in docs/formats.md."""
    colours = voc_palette()
    entries: dict[str, Any] = {
        "class_names": list(network.class_names),
        "palette": [list(colours[start : start + 3]) for start in range(0, 768, 3)],
        "mean": MEAN,
        "std": STD,
        "precision": precision,
    }
    if scales := getattr(network, "inference", {}).get("scales"):  # of one that was loaded
        entries["scales"] = scales
    return {key: json.dumps(value) for key, value in entries.items()}


def image_to_try(size: tuple[int, ...]) -> Tensor:
    """An image (N, 3, H, W) of many values."""
    return torch.arange(torch.Size(size).numel(), dtype=torch.int32).remainder(251).to(torch.uint8).view(size)
