"""HTML from Python values: every text is escaped, so that no name or label can be markup.

tag("a", "cats & dogs", href="#images", class_="link")     # <a href="#images" class="link">cats &amp; dogs</a>
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from typing import Any

from artifacts.text import visible

_VOID = {"br", "col", "hr", "img", "input", "link", "meta"}


class Markup(str):
    """Text that is HTML already, and is not escaped again."""

    __slots__ = ()


Child = Markup | str | int | None | Iterable[Any]


def tag(element: str, /, *children: Child, **attributes: Any) -> Markup:
    """An element. `class_` and `for_` stand for attributes that are words of Python, `_` for `-` in all names.

    An attribute that is None or False is left out, one that is True has no value; a child may be a list of children.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if element in _VOID:
        return Markup(f"<{element}{written}>")
    return Markup(f"<{element}{written}>{join(children)}</{element}>")


def join(children: Iterable[Child]) -> Markup:
    """The children one after the other, texts escaped."""
    return Markup("".join(map(_escaped, children)))


def command_block(command: str, does: str) -> Markup:
    """A command, or lines of code, with a button that copies it; `does` is said of it to a screen reader."""
    copy = tag("button", "Copy", type="button", class_="copy", aria_label=f"Copy the command that {does}")
    code = tag("pre", tag("code", command), tabindex=0, role="region", aria_label=f"Command that {does}")
    return tag("div", code, copy, class_="command")


def script_json(value: Any) -> Markup:
    """JSON for the inside of a script element, where `<` could end it."""
    return Markup(json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"))


def _escaped(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, str | int):
        return html.escape(visible(str(child)), quote=False)
    return join(child)


def _attribute(key: str, value: Any) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(visible(str(value)))}"'
