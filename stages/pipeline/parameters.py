"""A recipe's parameters: the possible values, the given values, and the parameters that a mistake comes from.

    parameters:
      batch_size: {default: 16, help: "Images of a step."}
      seeds: {default: [0, 1], help: "..."}                    # a single value is read as a list of one
      methods:
        default: [cps]
        choices: [cps, fixmatch]                               # all that may be given, or stand in the list
        instead: {dmt: "dmt trains in rounds: semiseg run dmt"}  # said where one of these is given
      others:
        choices: {methods_using: [masks, images]}            # every method of train that learns from these alone;
        instead: {cps: "the parameter mutual has it"}          # but these
      refiners:
        choices: {methods_of: refine, and: [segments]}         # every method of a stage, and what the recipe adds
      combined: {default: [cps], within: methods}              # nodes of its values read those of the same of methods
      rounds: {default: [1, 2], gapless: true}                 # nodes of a round read those of the round before
      labelled: {default: [30], most: data.dataset.train}      # at most this number of the config of the node data

`${batch_size}` is replaced by the value, `${batch_size / 2}` by half of it, which must be a whole number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from artifacts.text import did_you_mean
from artifacts.yaml_files import parse_yaml
from stages.config import parse_assignment

AddMistake = Callable[[str, str], None]

METHODS_OF = {"train": "segmenter", "train-classifier": "classifier", "refine": "refiner"}  # stage -> what methods give

_KEYS = ("default", "help", "required", "choices", "instead", "within", "gapless", "most")
_PLACEHOLDER = re.compile(r"\$\{([^{}]*)\}")
_SHARE = re.compile(r"(.*?)\s*/\s*([1-9][0-9]*)")
REPEATED = re.compile(
    r"(?<!\$)\{([A-Za-z_][A-Za-z0-9_]*)((?:[-+*/]\d+(?:\.\d+)?)*)\}"
)  # {seed}, {round-1}, {round*0.2}
_OPERATION = re.compile(r"([-+*/])(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Parameter:
    """One parameter with its value: the default of recipe and profile, or the value of --set."""

    name: str
    value: Any
    help: str = ""
    required: bool = False
    choices: tuple[str, ...] = ()
    instead: Mapping[str, str] | None = None
    given: bool = False
    within: str = ""
    gapless: bool = False
    most: str = ""

    @property
    def missing(self) -> bool:
        return self.required and not self.given and self.value is None


@dataclass(frozen=True)
class NodeSetting:
    """`--set NODE.KEY=VALUE`."""

    text: str
    pattern: str
    path: list[str]
    value: Any

    @property
    def place(self) -> str:
        return f"--set {self.text.partition('=')[0].strip()}"


def read_parameters(
    declared: Mapping[str, Mapping[str, Any]], settings: Iterable[str], add_mistake: AddMistake
) -> tuple[dict[str, Parameter], list[NodeSetting]]:
    """Every parameter with its value, and the settings of nodes. A value that is a mistake is replaced or left out."""
    parameters = {name: _declared(name, record, add_mistake) for name, record in declared.items()}
    for parameter in parameters.values():
        if parameter.within and parameter.within not in parameters:
            meant = did_you_mean(parameter.within, parameters)
            add_mistake(f"parameters.{parameter.name}.within", f"no parameter {parameter.within!r}{meant}")
    for_nodes: list[NodeSetting] = []
    for text in settings:
        keys, value = parse_assignment(text)
        if len(keys) > 1:
            for_nodes.append(NodeSetting(text, keys[0], keys[1:], value))
        elif keys[0] not in parameters:
            add_mistake(
                f"--set {text}",
                f"no parameter {keys[0]!r}{did_you_mean(keys[0], declared)} (a node's config: NODE.KEY=VALUE)",
            )
        else:
            parameters[keys[0]] = _given(parameters[keys[0]], declared[keys[0]].get("default"), value, add_mistake)
    return parameters, for_nodes


def _declared(name: str, record: Mapping[str, Any], add_mistake: AddMistake) -> Parameter:
    for key in record:
        if key not in _KEYS:
            add_mistake(f"parameters.{name}.{key}", f"unknown key{did_you_mean(str(key), _KEYS)}")
    choices, instead = record.get("choices") or [], record.get("instead") or {}
    if not isinstance(instead, Mapping):
        add_mistake(f"parameters.{name}.instead", f"expected values and what to do instead, found {instead!r}")
        instead = {}
    if isinstance(choices, Mapping):
        found = _methods(choices)
        if found is None:
            from stages.methods.settings.base import USES

            expected = (
                f"{{methods_using: [{', '.join(USES)}]}}, some of these, or {{methods_of: {' | '.join(METHODS_OF)}}}, "
                "with `and: [...]` for values that are no methods"
            )
            add_mistake(f"parameters.{name}.choices", f"expected {expected}, found {choices!r}")
        choices = [method for method in found or () if method not in instead]
    elif not isinstance(choices, list):
        add_mistake(f"parameters.{name}.choices", f"expected a list of values, found {choices!r}")
        choices = []
    return Parameter(
        name,
        record.get("default"),
        str(record.get("help", "")),
        bool(record.get("required")),
        tuple(map(str, choices)),
        {str(value): str(text) for value, text in instead.items()},
        within=str(record.get("within", "")),
        gapless=bool(record.get("gapless")),
        most=str(record.get("most", "")),
    )


def _methods(choices: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The methods that such choices stand for; None if they stand for nothing."""
    # imported here: the settings of all methods take longer to load than all that `status` does otherwise
    from stages.methods.settings import learning_from, trained_by
    from stages.methods.settings.base import USES
    from stages.refiners.settings import REFINERS

    match dict(choices):
        case {"methods_using": [*uses], **others} if uses and not others and all(part in USES for part in uses):
            return learning_from(uses)
        case {"methods_of": str(stage), **others} if stage in METHODS_OF and isinstance(others.pop("and", []), list):
            found = tuple(REFINERS) if stage == "refine" else trained_by(METHODS_OF[stage])
            return None if others else (*found, *map(str, choices.get("and", [])))
    return None


def _given(parameter: Parameter, default: Any, value: Any, add_mistake: AddMistake) -> Parameter:
    """The parameter with the value of --set; if the default is a list, `a` and `a,b` are lists, too."""
    place = f"--set {parameter.name}"
    if isinstance(default, list) and not isinstance(value, list):
        if value is None:
            add_mistake(place, "expected a list of values, found nothing; [] for none")
            return parameter
        value = [parse_yaml(part, place) for part in value.split(",")] if isinstance(value, str) else [value]
    if parameter.choices:
        options = value if isinstance(value, list) else [value]
        wrong = [option for option in options if str(option) not in parameter.choices]
        for option in wrong:
            add_mistake(place, _not_a_choice(parameter, str(option)))
        if wrong:
            kept = [option for option in options if option not in wrong]
            value = kept if isinstance(value, list) else parameter.value
    return replace(parameter, value=value, given=True)


def _not_a_choice(parameter: Parameter, option: str) -> str:
    if parameter.instead and option in parameter.instead:
        return f"{option!r} cannot be given here: {parameter.instead[option]}"
    meant = did_you_mean(option, parameter.choices, list_known=False)
    return f"{option!r} is not one of {', '.join(filter(None, parameter.choices))}{meant}{_why_not(parameter, option)}"


def _why_not(parameter: Parameter, option: str) -> str:
    """What a method learns from and gives, if it is not among the choices because these differ; else ""."""
    from stages.methods.settings import METHODS

    def kind(method: str) -> str:
        settings = METHODS[method]
        parts = [*settings.card.uses, *settings.model_validate({"name": method}).inputs()]
        return f"learns from {', '.join(parts)} and gives a {settings.card.output}"

    known = {kind(choice) for choice in parameter.choices if choice in METHODS}
    if option not in METHODS or not known or kind(option) in known:
        return ""
    return f": {option} {kind(option)}"


def values_needed(parameters: Mapping[str, Parameter]) -> Iterator[tuple[str, str]]:
    """What parameters need of each other by `within` and `gapless` and do not have: its place and what to set."""
    for name, parameter in parameters.items():
        values = _as_list(parameter.value)
        if parameter.gapless and (numbers := [value for value in values if type(value) is int]):
            whole = list(range(1, max(numbers) + 1))
            if missing := [number for number in whole if number not in numbers]:
                text = f"each value reads the results of the one before, and there is no {_in_words(missing)}"
                yield _place_of_any([parameter]), f"{text}: --set {name}={_as_setting(whole)}"
        if parameter.within in parameters:
            outer = parameters[parameter.within]
            if missing := [value for value in values if value not in _as_list(outer.value)]:
                here, there = [value for value in values if value not in missing], [*outer.value, *missing]
                yield (
                    _place_of_any([parameter, outer]),
                    f"{name} reads the results of {outer.name}, which has no {_in_words(missing)}: "
                    f"--set {outer.name}={_as_setting(there)} or --set {name}={_as_setting(here)}",
                )


def _place_of_any(parameters: Iterable[Parameter]) -> str:
    """The options of those that were given; else the key of the first in the recipe."""
    parameters = list(parameters)
    given = [parameter.name for parameter in parameters if parameter.given]
    return place_of(given) if given else f"parameters.{parameters[0].name}"


def _in_words(values: Iterable[Any]) -> str:
    return " and no ".join(map(str, values))


def _as_setting(values: Iterable[Any]) -> str:
    return f"[{','.join(map(str, values))}]"


def substitute(value: Any, parameters: Mapping[str, Parameter], key: str, add_mistake: AddMistake) -> Any:
    """`value` with every `${name}` replaced; a whole `${name}` keeps the parameter's type."""
    if isinstance(value, Mapping):
        return {k: substitute(v, parameters, f"{key}.{k}", add_mistake) for k, v in value.items()}
    if isinstance(value, list):
        return [substitute(v, parameters, f"{key}.{i}", add_mistake) for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value
    for name in names_in(value):
        if name not in parameters:
            add_mistake(key, f"unknown parameter ${{{name}}}{did_you_mean(name, parameters)}")
            return value
    whole = _PLACEHOLDER.fullmatch(value)
    if whole:
        return _value(whole[1], parameters, add_mistake)
    return _PLACEHOLDER.sub(lambda match: str(_value(match[1], parameters, add_mistake)), value)


def _value(text: str, parameters: Mapping[str, Parameter], add_mistake: AddMistake) -> Any:
    """The value of the text between the braces: a parameter, or a whole fraction of one.

    A value that is not a number is left as it is, so that it is reported where it is used.
    """
    share = _SHARE.fullmatch(text)
    if share is None:
        return parameters[text].value
    parameter, divisor = parameters[share[1]], int(share[2])
    value = parameter.value
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if value % divisor:
        place = f"--set {parameter.name}" if parameter.given else f"parameters.{parameter.name}"
        add_mistake(place, f"expected a multiple of {divisor}, as the recipe uses ${{{text}}} (found {value})")
        return value
    return value // divisor


def repeated_in(text: str) -> list[str]:
    """The names of repeated values that a text refers to, as in `{seed}` and `{round-1}`."""
    return [match[1] for match in REPEATED.finditer(text)]


def fill_repeated(text: str, chosen: Mapping[str, Any]) -> Any:
    """`text` with `{seed}` and `{round-1}` replaced if they are chosen; a placeholder that is the whole text keeps its
    type.

    ValueError for a calculation with a value that is not a number.
    """
    whole = REPEATED.fullmatch(text)
    if whole and whole[1] in chosen:
        return _calculated(whole, chosen)
    return REPEATED.sub(lambda match: str(_calculated(match, chosen)) if match[1] in chosen else match[0], text)


def _calculated(match: re.Match[str], chosen: Mapping[str, Any]) -> Any:
    """The chosen value, or the result of `{round*0.2-1}`: products first, exact in decimals."""
    value = chosen[match[1]]
    if not match[2]:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{match[0]} calculates with {value!r}, which is not a number")
    terms = [Fraction(str(value))]
    for sign, number in _OPERATION.findall(match[2]):
        if sign in "+-":
            terms.append(Fraction(sign + number))
        elif sign == "*":
            terms[-1] *= Fraction(number)
        elif Fraction(number):
            terms[-1] /= Fraction(number)
        else:
            raise ValueError(f"{match[0]} divides by 0")
    total = sum(terms, Fraction(0))
    return int(total) if total.denominator == 1 else float(total)


def names_in(text: str) -> list[str]:
    """The parameters that a text refers to."""
    inner = _PLACEHOLDER.findall(text)
    return [share[1] if (share := _SHARE.fullmatch(name)) else name for name in inner]


@dataclass(frozen=True)
class Origins:
    """The origin of a recipe's values: finds the options of the command line that a mistake comes from."""

    parameters: Mapping[str, Parameter]
    repeat: Mapping[str, Any]  # as written, with `${...}`

    def of_text(self, text: str, chosen: Mapping[str, Any]) -> list[str]:
        """The given parameters that a text with `${name}` and `{repeated}` gets its value from."""
        names = names_in(text)
        for key in repeated_in(text):
            names += self.of_repeated(key, chosen.get(key))
        return [name for name in dict.fromkeys(names) if name in self.parameters and self.parameters[name].given]

    def of_repeated(self, key: str, value: Any = None) -> list[str]:
        """The given parameters among the values of `repeat.key`; with `value` those that hold it."""
        names = [name for text in _all_texts(self.repeat.get(key)) for name in names_in(text)]
        given = [self.parameters[name] for name in names if name in self.parameters and self.parameters[name].given]
        holding = [p for p in given if value is None or value == p.value or value in _as_list(p.value)]
        return [parameter.name for parameter in holding]

    def choices_of_repeated(self, key: str) -> list[str]:
        """What may stand in `repeat.key` by the choices of its parameters."""
        names = [name for text in _all_texts(self.repeat.get(key)) for name in names_in(text)]
        return [choice for name in names if name in self.parameters for choice in self.parameters[name].choices]

    def of_config(self, config: Any, path: list[str], chosen: Mapping[str, Any]) -> list[str]:
        """The given parameters behind the value at `path` of a node's config as written."""
        for key in path:
            if isinstance(config, list) and key.isdigit() and int(key) < len(config):
                config = config[int(key)]
            elif isinstance(config, Mapping) and key in config:
                config = config[key]
            else:
                break
        return self.of_text(config, chosen) if isinstance(config, str) else []


def place_of(names: Iterable[str]) -> str:
    """The name of these parameters in a message about a mistake."""
    return f"--set {', '.join(names)}"


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _all_texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for inner in value:
            yield from _all_texts(inner)
