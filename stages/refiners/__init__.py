"""Refiners, one file for each paper: from score maps to better ones. All other modules use `REFINERS` alone.

A new refiner is one file with its class (and the class of its training, if it has one), and one file of the same name
in `settings` with its settings and its card.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from artifacts.errors import ConfigError
from stages.methods.settings.base import implementation
from stages.refiners.settings import REFINERS

if TYPE_CHECKING:
    from stages.refiners.refiner import Refiner


def load_refiner(name: str) -> type[Refiner]:
    """The class that implements a refiner: the one in the module of the refiner's name."""
    from stages.refiners.refiner import Refiner

    if name not in REFINERS:
        raise ConfigError(f"there is no refiner {name!r}", f"refiners: {', '.join(REFINERS)}")
    return implementation(__name__, name, Refiner)


__all__ = ["REFINERS", "load_refiner"]
