"""Confidences of predicted masks in 8 bits, with small steps near 1.

A trained network gives most pixels a probability above .998. In equal steps of 1/255 these would all be equal, and the
most confident fifth of a class could not be selected. So the fourth root of 1 - p is stored:

    index k = round(255 (1 - (1 - p)^(1/4))),    p = 1 - (1 - k / 255)^4

Steps of p are .009 at p = .5, .003 at .9, .0005 at .99, .00002 at .9999.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Values = TypeVar("Values", np.ndarray, "Tensor")


def index_of_doubt(doubt: Values) -> Values:
    """The index, 0..255 as floats, of each 1 - p in 0..1.

    1 - p, since single precision is coarse near 1: sum the probabilities of all other classes.
    """
    return ((1 - doubt**0.25) * 255).round()


def probability_of_index(index: Values) -> Values:
    """The probability of each index; float32 of a Tensor of whole numbers, float64 of an array."""
    return 1 - (1 - index / 255) ** 4


def lowest_index(probability: float) -> int:
    """The lowest index that means `probability`, 0..1, or more."""
    return math.ceil(255 * (1 - (1 - probability) ** 0.25) - 1e-9)
