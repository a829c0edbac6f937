"""Where the cells of a map lie on its image: cell i lies on pixel stride * i."""

from __future__ import annotations

from typing import Any


def cells(side: int, stride: int) -> int:
    """How many cells cover `side` pixels: ceil(side / stride).

    Written so that it is exported to ONNX, whose integer division rounds towards zero.
    """
    return (side + stride - 1) // stride


def on_copy(pixels: Any, side: int, copied: float) -> Any:
    """Coordinates of pixels of an image, `side` pixels long, on a copy resized to `copied` pixels: edges lie on edges.

    pixels: a numpy array or a torch tensor, which also decides the type of the result; fractions are possible.
    """
    return (pixels + 0.5) * copied / side - 0.5
