"""A trained segmenter as one file of torch.export (.pt2), for programs with torch alone.

import torch

network = torch.export.load("segmenter.pt2").module()
probabilities = network(image)  # uint8 (N, 3, H, W) -> float32 (N, C, H, W), see `whole_network`
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import is_contiguous_or_false
from torch.fx.experimental import _config
from torch.overrides import TorchFunctionMode

from artifacts.cells import cells
from artifacts.errors import ConfigError
from stages.export.whole_network import CHECKED, WholeNetwork, image_to_try, metadata
from stages.networks.segmenter import Segmenter

EXAMPLE = (2, 3, 96, 130)  # of the images that the network is traced with
shape_config: Any = _config  # a module whose functions are made when it is imported
LAYOUT_MATTERS = (torch.conv2d, Tensor.contiguous, Tensor.reshape)
METADATA = "metadata.json"  # the extra file in the archive


class _ContiguousMaps(TorchFunctionMode):
    """Gives convolutions, and what rearranges maps, maps whose memory is contiguous.

    Of other maps (behind the norms of ConvNeXt, of a transformer's tokens), torch asks whether there is one image or
    one cell, and the answer of the example would hold for all images.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in LAYOUT_MATTERS and not is_contiguous_or_false(args[0]):
            args = (args[0].clone(memory_format=torch.contiguous_format), *args[1:])
        return func(*args, **(kwargs or {}))


def export_torch(network: Segmenter, path: Path) -> None:
    """Writes `network` with its metadata (see `whole_network.metadata`).

    ConfigError for networks whose operators depend on the size of the image: the file is tried on images of two sizes.
    """
    model = WholeNetwork(network)
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    values = {key: json.loads(text) for key, text in metadata(network).items()}
    try:
        # Without the option, comparisons of strides fix what the sizes of the example have in common.
        sizes_stay_free = shape_config.patch(backed_size_oblivious=True)
        with torch.no_grad(), sizes_stay_free, _padding_by_whole_numbers(), _ContiguousMaps():
            example = torch.zeros(EXAMPLE, dtype=torch.uint8)
            program = torch.export.export(model, (example,), dynamic_shapes={"image": free}, strict=False)
        torch.export.save(program, path, extra_files={METADATA: json.dumps(values)})
        written = torch.export.load(path).module()
        for size in CHECKED:
            _require_equal(written(image_to_try(size)), model(image_to_try(size)))
    except Exception as error:  # of any type: torch.export has many, and a guard of a size raises AssertionError
        raise ConfigError(
            f"a network on {network.config.backbone} cannot be written by torch.export: {str(error).splitlines()[0]}",
            "others can: ResNets, HRNets, MobileNets, ConvNeXt, ViT; or write ONNX: semiseg export onnx",
        ) from error


@contextmanager
def _padding_by_whole_numbers() -> Iterator[None]:
    """timm's padding of a side (dilated ConvNeXt, networks named tf_) without math.ceil, which cannot be written."""
    layers: Any = sys.modules.get("timm.layers.padding")  # loaded where the network is timm's
    theirs = layers and layers.get_same_padding
    if layers:
        layers.get_same_padding = lambda side, kernel, stride, dilation: max(
            (cells(side, stride) - 1) * stride + (kernel - 1) * dilation + 1 - side, 0
        )
    try:
        yield
    finally:
        if layers:
            layers.get_same_padding = theirs


@torch.no_grad()
def _require_equal(found: Tensor, expected: Tensor) -> None:
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-3, atol=1e-4):
        raise RuntimeError("its operators depend on the size of the image")
