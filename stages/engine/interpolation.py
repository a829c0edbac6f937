"""Bilinear interpolation between the cells of a map, as a small matrix for each of its two directions.

Cell i of a map with a given stride is centred on pixel `stride * i`, as in strided convolutions with symmetric
padding (see `stages.networks.upsample`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def interpolation_matrix(positions: NDArray, stride: float, count: int) -> NDArray[np.float32]:
    """Bilinear weights (n, count): row i reads the map's value at pixel coordinate `positions[i]`.

    Positions beyond the first and last cell's centre take that cell's value.
    """
    place = np.clip(np.asarray(positions, dtype=np.float64) / stride, 0, count - 1)
    left = np.minimum(place.astype(np.int64), max(count - 2, 0))
    share = place - left
    matrix = np.zeros((len(place), count), dtype=np.float32)
    rows = np.arange(len(place))
    matrix[rows, left] = 1 - share
    matrix[rows, np.minimum(left + 1, count - 1)] += share
    return matrix
