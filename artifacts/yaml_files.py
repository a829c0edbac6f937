"""YAML files and texts that people write: read without the pitfalls of version 1.1, within limits, and written again.

values = read_yaml(Path("settings.yaml"))
parse_yaml(yaml_text(values), "again") == values
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pydantic
import yaml

from artifacts.errors import ConfigError

MOST_WRITTEN = 1_000_000  # characters of a YAML text, and of what it says with every alias written out
DEEPEST = 100  # mappings and lists inside each other


class _Loader(yaml.SafeLoader):
    """YAML without the pitfalls of version 1.1, and a key that occurs twice in a mapping is an error.

    `1e-3` is a number (1.1 reads text); `2007_000033`, `0o17`, `1:30`, `no` and `2012-01-01` are text (1.1 reads an
    integer, an integer, 90, false and a date). What is small in the file and huge in memory is an error: aliases of
    aliases (a "billion laughs"), an alias inside its own anchor, nesting that exhausts the stack, numbers of more
    than 64 bits.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._written: dict[yaml.Node, int] = {}  # a whole node -> its characters, aliases written out

    def compose_node(self, parent: yaml.Node | None, index: Any) -> Any:
        mark, is_alias = self.peek_event().start_mark, self.check_event(yaml.AliasEvent)
        self._depth += 1
        if self._depth > DEEPEST:
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {DEEPEST} levels", problem_mark=mark)
        node: Any = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and node not in self._written:
            raise yaml.MarkedYAMLError(problem="an alias is inside its own anchor", problem_mark=mark)
        if not is_alias:
            self._written[node] = self._characters(node)
        if self._written[node] > MOST_WRITTEN:
            problem = f"with its aliases written out it has more than {MOST_WRITTEN:,} characters"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        return node

    def _characters(self, node: yaml.Node) -> int:
        if isinstance(node, yaml.ScalarNode):
            return 1 + len(node.value)
        parts = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        return 1 + sum(self._written[part] for part in parts)

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if (key.tag, key.value) in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} occurs twice, first on line {seen[key.tag, key.value]}",
                    problem_mark=key.start_mark,
                )
            seen[key.tag, key.value] = line
        return node


_BOOL, _INT, _FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_KEPT = ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")

_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _KEPT]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(_INT, re.compile(r"^[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(r"^[-+]?(([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.inf|\.Inf)$|^\.nan$"),
    list("-+0123456789."),
)


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    number = int(node.value)
    if not -(2**63) <= number < 2**63:
        raise yaml.MarkedYAMLError(problem="a whole number of more than 64 bits", problem_mark=node.start_mark)
    return number


_Loader.add_constructor(_INT, _whole_number)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back: quotes what it would take for something else. Text stays on one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if any(not character.isprintable() for character in text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers
_Dumper.add_representer(str, _represent_text)


def parse_yaml(text: str, source: str) -> Any:
    """The value of a YAML text. ConfigError names `source`, line and column of a syntax error."""
    if len(text) > MOST_WRITTEN:
        raise ConfigError(f"{source} has more than {MOST_WRITTEN:,} characters, the most that are read")
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader: no Python objects
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{source}{where}: not YAML: {getattr(error, 'problem', None) or error}") from None
    except (ValueError, KeyError, AttributeError) as error:  # thousands of digits; a value unlike its tag (!!bool abc)
        raise ConfigError(f"{source}: not YAML: {error}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping (or nothing)."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MOST_WRITTEN + 1)  # one more than is accepted
    except OSError as error:
        raise ConfigError(f"cannot read the config {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read the config {path}: not UTF-8 text ({error.reason})") from None
    value = parse_yaml(text, str(path))
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds a {type(value).__name__}, expected keys and values")
    return value


def yaml_text(value: Any) -> str:
    """A value as one line of YAML that `parse_yaml` reads back."""
    plain = pydantic.TypeAdapter(Any).dump_python(value, mode="json")
    text = yaml.dump(plain, Dumper=_Dumper, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...").strip()
