"""Training methods, one file each. `METHODS` is all the rest of semiseg knows of them.

A new method is one file with its class, and one file of the same name in `settings` with its settings and its card.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from artifacts.errors import ConfigError
from stages.methods.settings import METHODS

if TYPE_CHECKING:
    from stages.engine.method import Method


def load_method(name: str) -> type[Method]:
    """The class that implements a method: the one in the module of the method's name."""
    from stages.engine.method import Method

    if name not in METHODS:
        raise ConfigError(f"there is no method {name!r}", f"methods: {', '.join(METHODS)}")
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    assert len(found) == 1, f"{module.__name__} has {len(found)} methods"
    return found[0]


__all__ = ["METHODS", "load_method"]
