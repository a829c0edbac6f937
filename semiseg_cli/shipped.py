"""The recipes that come with semiseg, and how a recipe is found by its name or file."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from artifacts.errors import UsageError
from artifacts.text import did_you_mean


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with semiseg, by name; files whose name begins with _ are extended by them."""
    folder = Path(str(importlib.resources.files("semiseg_cli") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("[!_]*.yaml"))}


def find_recipe(text: str) -> Path:
    """The file of a recipe named or given as a path."""
    path = Path(text)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise UsageError(f"there is no recipe file {path}", "semiseg run lists the shipped recipes")
        return path
    shipped = shipped_recipes()
    if text not in shipped:
        raise UsageError(f"there is no recipe {text!r}{did_you_mean(text, shipped)}", "or give a file: recipe.yaml")
    return shipped[text]
