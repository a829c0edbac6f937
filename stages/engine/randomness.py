"""Stateless randomness: every draw is derived from (seed, purpose, ...), so order and worker count never matter."""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose; different purposes give unrelated seeds."""
    text = "/".join([str(seed), *(str(part) for part in purpose)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """A NumPy generator for one purpose, for example `generator(seed, "augment", stream, epoch, index)`."""
    return np.random.Generator(np.random.PCG64(derive_seed(seed, *purpose)))
