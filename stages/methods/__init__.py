"""Training methods, one file each. `METHODS` is all the rest of semiseg knows of them.

A new method is one file with its class, and one settings class with its card in `settings`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, get_args

from artifacts.errors import ConfigError
from stages.methods.settings import AnyMethodSettings
from stages.methods.settings.base import MethodSettings

if TYPE_CHECKING:
    from stages.engine.method import Method

METHODS: dict[str, type[MethodSettings]] = {
    settings.model_fields["name"].default: settings for settings in get_args(get_args(AnyMethodSettings)[0])
}
"""The settings class of every method, by name; its `card` says what the method is."""


def load_method(name: str) -> type[Method]:
    """The class that implements a method."""
    if name not in METHODS:
        raise ConfigError(f"there is no method {name!r}", f"methods: {', '.join(METHODS)}")
    module, _, attribute = METHODS[name].card.place.partition(":")
    return getattr(importlib.import_module(module), attribute)
