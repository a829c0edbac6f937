"""Training methods, one file each. All other modules use `METHODS` alone.

A new method is one file with its class, and one file of the same name in `settings` with its settings and its card.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from artifacts.errors import ConfigError
from stages.methods.settings import METHODS
from stages.methods.settings.base import implementation

if TYPE_CHECKING:
    from stages.engine.method import Method


def load_method(name: str) -> type[Method]:
    """The class that implements a method: the one in the module of the method's name."""
    from stages.engine.method import Method

    if name not in METHODS:
        raise ConfigError(f"there is no method {name!r}", f"methods: {', '.join(METHODS)}")
    return implementation(__name__, name, Method)


__all__ = ["METHODS", "load_method"]
