"""A recipe that extends a different recipe's file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from artifacts.errors import ConfigError
from stages.pipeline.recipe import declared_parameters, read_recipe


@pytest.fixture
def write(tmp_path: Path, raw_recipe: dict[str, Any]):
    """Writes recipes into one folder, where the recipe of conftest.py is base.yaml."""

    def made(name: str, values: dict[str, Any]) -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(values))
        return path

    made("base.yaml", raw_recipe)
    return made


def test_a_recipe_that_extends_a_file_says_only_what_differs(write) -> None:
    path = write("more.yaml", {"extends": "base.yaml", "name": "more", "nodes": {"numbers": {"config": {"count": 9}}}})
    recipe, base = read_recipe(path), read_recipe(path.parent / "base.yaml")
    assert (recipe.name, recipe.source) == ("more", str(path))
    assert recipe.nodes["numbers"].config.count == 9
    assert recipe.table == base.table
    assert {name: node.inputs for name, node in recipe.nodes.items()} == {
        name: node.inputs for name, node in base.nodes.items()
    }


def test_profiles_are_extended_too_and_null_removes(write) -> None:
    changes = {"many": {"nodes": {"sum-s{seed}": {"config": {"plus": 3}}}}, "one": None}
    path = write("more.yaml", {"extends": "base.yaml", "profiles": changes})
    many = read_recipe(path, "many")
    assert many.nodes["numbers"].config.count == 10  # of the base's profile
    assert many.nodes["sum-s0"].config.plus == 3
    with pytest.raises(ConfigError, match="no profile 'one'"):
        read_recipe(path, "one")


def test_a_default_replaced_in_its_short_form_keeps_the_help_of_the_base(write) -> None:
    (base,) = [p for p in declared_parameters(write("same.yaml", {"extends": "base.yaml"})) if p.name == "count"]
    assert base.help
    path = write("more.yaml", {"extends": "base.yaml", "parameters": {"count": 8}})
    (count,) = [parameter for parameter in declared_parameters(path) if parameter.name == "count"]
    assert (count.value, count.help) == (8, base.help)
    assert read_recipe(path).nodes["numbers"].config.count == 8


def test_a_base_may_extend_a_file_of_its_own_folder(write) -> None:
    folder = write("middle.yaml", {}).parent / "inner"
    folder.mkdir()
    write("inner/middle.yaml", {"extends": "../base.yaml", "parameters": {"count": 5}})
    path = write("last.yaml", {"extends": "inner/middle.yaml", "name": "last"})
    assert read_recipe(path).nodes["numbers"].config.count == 5


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("nothing.yaml", "last.yaml: extends: there is no file .*nothing.yaml"),
        (["base.yaml"], r"last.yaml: extends: expected a recipe's file, relative to this one, found \['base.yaml'\]"),
        (None, "last.yaml: extends: expected a recipe's file"),
        ("last.yaml", "last.yaml: extends: last.yaml is extended by itself"),
        ("ring.yaml", "ring.yaml: extends: last.yaml is extended by itself"),
        ("list.yaml", "list.yaml holds a list"),
    ],
)
def test_what_cannot_be_extended_is_one_mistake_with_its_place(write, base: Any, expected: str) -> None:
    write("ring.yaml", {"extends": "last.yaml"})
    write("list.yaml", [1])  # type: ignore[arg-type]
    path = write("last.yaml", {"extends": base, "name": "last"})
    for read in (read_recipe, declared_parameters):
        with pytest.raises(ConfigError, match=expected):
            read(path)


def test_mistakes_in_the_shape_of_either_file_are_reported(write) -> None:
    path = write("wrong.yaml", {"extends": "base.yaml", "nodes": [1], "parameters": 3, "profiles": {"many": 4}})
    with pytest.raises(ConfigError) as caught:
        read_recipe(path)
    for key in ("nodes", "parameters", "profiles.many"):
        assert f"\n  {key}: expected keys and values, found" in caught.value.message
