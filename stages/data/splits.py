"""Which images are labelled: a list, a number or a fraction, drawn once and nested.

The order in which images are drawn is that of SHA-256("seed:id"). So for one seed 1/16 lies inside 1/8 inside 1/4,
and an image keeps its rank when others are missing.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from artifacts.errors import ConfigError


def parse_labelled(text: str) -> int | Fraction | Path:
    """`183` is a number, `1/8` or `0.125` a fraction, anything else the path of a list file.

    ConfigError for a number below 1 and a fraction outside (0, 1].
    """
    text = text.strip()
    if re.fullmatch(r"[-+]?\d+", text):
        number = int(text)
        if number < 1:
            raise ConfigError(f"labelled is {text}, expected at least 1 image", "give a number, a fraction or a list")
        return number
    if re.fullmatch(r"[-+]?\d+\s*/\s*\d+|[-+]?\d*\.\d+([eE][-+]?\d+)?|\d+\.\d*", text):
        try:
            fraction = Fraction(text.replace(" ", ""))
        except ZeroDivisionError:
            fraction = Fraction(0)
        if not 0 < fraction <= 1:
            raise ConfigError(f"labelled is {text}, expected a fraction above 0 and up to 1", "for example 1/8")
        return fraction
    return Path(text).expanduser()


def draw_labelled(pool: Sequence[str], amount: int | Fraction, seed: int) -> list[str]:
    """`amount` ids of the pool, sorted. A fraction is rounded up, as the published lists are (1/8 of 10,582: 1,323)."""
    count = math.ceil(amount * len(pool)) if isinstance(amount, Fraction) else amount
    if count > len(pool):
        raise ConfigError(
            f"labelled asks for {count} images, the list to draw from has {len(pool)}",
            "ask for fewer, or draw from trainaug (labelled_from: trainaug)",
        )
    return sorted(sorted(pool, key=lambda image_id: _rank(seed, image_id))[:count])


def _rank(seed: int, image_id: str) -> bytes:
    return hashlib.sha256(f"{seed}:{image_id}".encode()).digest()
