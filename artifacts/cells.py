"""Where the cells of a map lie on its image: cell i of a map with a stride lies on pixel stride * i."""

from __future__ import annotations

from typing import Any


def cells(side: int, stride: int) -> int:
    """How many cells cover `side` pixels: ceil(side / stride).

    Written so that it is exported to ONNX, whose integer division rounds towards zero.
    """
    return (side + stride - 1) // stride


def on_copy(pixels: Any, side: int, copied: float) -> Any:
    """Coordinates of pixels, of an image `side` pixels long, on its copy of `copied` pixels: edges lie on edges.

    pixels: an array of numpy or a tensor of torch, as what is returned; whole or in between.
    """
    return (pixels + 0.5) * copied / side - 0.5
