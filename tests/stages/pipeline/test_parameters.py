"""Parameters of a recipe: single values as lists, choices, halves, and mistakes named by what was given."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts.errors import ConfigError
from stages.pipeline.parameters import Parameter, fill_repeated, read_parameters, repeated_in, substitute
from stages.pipeline.recipe import resolve


def lines_of(raw: dict[str, Any], *settings: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        resolve(raw, "toy.yaml", None, settings)
    return [line.strip() for line in caught.value.message.splitlines()[1:]]


def value_of(default: Any, setting: str) -> tuple[Any, list[str]]:
    mistakes: list[str] = []
    parameters, _ = read_parameters(
        {"p": {"default": default}}, [setting], lambda key, text: mistakes.append(f"{key}: {text}")
    )
    return parameters["p"].value, mistakes


# --- a list by one value or several ---


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("p=0", [0]),
        ("p=cps", ["cps"]),
        ("p=cps,fixmatch", ["cps", "fixmatch"]),
        ("p=0, 2", [0, 2]),
        ("p=[3, a]", [3, "a"]),
        ("p=[]", []),
        ("p=1e-3", [0.001]),
    ],
)
def test_where_the_default_is_a_list_single_values_are_lists_too(setting: str, expected: list[Any]) -> None:
    assert value_of([1], setting) == (expected, [])


def test_elsewhere_a_value_stays_what_it_is() -> None:
    assert value_of("", "p=cat,cow") == ("cat,cow", [])
    assert value_of(3, "p=[1, 2]") == ([1, 2], [])


def test_no_value_for_a_list_is_a_mistake() -> None:
    assert value_of([1], "p=") == ([1], ["--set p: expected a list of values, found nothing; [] for none"])


def test_a_method_that_is_no_choice_is_told_with_what_it_learns_from() -> None:
    """The league listed what is allowed, and not why dual-branch is not."""
    mistakes: list[str] = []
    declared: dict[str, Any] = {"methods": {"default": [], "choices": {"methods_using": ["masks", "images"]}}}
    declared["one"] = {"default": [], "choices": ["fixmatch"]}
    settings = ["methods=[dual-branch]", "methods=[mlmt]", "one=[cps]"]
    read_parameters(declared, settings, lambda key, text: mistakes.append(text))
    branch, teacher, same = mistakes
    assert branch.endswith(": dual-branch learns from masks, tags, weak_labels and gives a segmenter")
    assert teacher.endswith(": mlmt learns from masks, images and gives a classifier")
    assert same == "'cps' is not one of fixmatch"


# --- shares ---


@given(st.integers(-50, 50), st.integers(1, 9))
def test_a_share_is_a_whole_number_or_a_mistake(number: int, divisor: int) -> None:
    mistakes: list[str] = []
    parameters = {"p": Parameter("p", number, given=True)}
    found = substitute(
        {"x": f"${{p / {divisor}}}"}, parameters, "k", lambda key, text: mistakes.append(f"{key}: {text}")
    )
    if number % divisor == 0:
        assert (found["x"] * divisor, mistakes) == (number, [])
    else:
        expected = f"expected a multiple of {divisor}, as the recipe uses ${{p / {divisor}}} (found {number})"
        assert mistakes == [f"--set p: {expected}"]


def test_a_share_of_what_is_no_number_is_one_mistake_of_the_config(raw_recipe: dict[str, Any]) -> None:
    raw_recipe["nodes"]["numbers"]["config"]["count"] = "${count / 2}"
    assert resolve(raw_recipe, "toy.yaml", None, ["count=6"]).nodes["numbers"].config.count == 3
    (line,) = lines_of(raw_recipe, "count=ten")
    assert line.startswith("--set count: expected a valid integer")
    assert lines_of(raw_recipe, "count=7") == [
        "--set count: expected a multiple of 2, as the recipe uses ${count / 2} (found 7)"
    ]
    raw_recipe["nodes"]["numbers"]["config"]["count"] = "${coutn / 2}"
    assert "unknown parameter ${coutn}, did you mean 'count'?" in lines_of(raw_recipe)[0]


# --- choices ---

CHOICES = {
    "kinds": {
        "default": ["plain"],
        "choices": ["plain", "double"],
        "instead": {"triple": "semiseg run triple"},
    }
}


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("kinds=[plian]", "--set kinds: 'plian' is not one of plain, double, did you mean 'plain'?"),
        ("kinds=x", "--set kinds: 'x' is not one of plain, double"),
        ("kinds=plain,triple", "--set kinds: 'triple' cannot be given here: semiseg run triple"),
    ],
)
def test_a_value_that_is_no_choice_is_named_with_what_there_is(
    raw_recipe: dict[str, Any], setting: str, expected: str
) -> None:
    raw_recipe["parameters"] |= CHOICES
    raw_recipe["repeat"] |= {"kind": "${kinds}"}
    raw_recipe["nodes"]["of-{kind}"] = {"stage": "toy-numbers"}
    assert "of-plain" in resolve(raw_recipe, "toy.yaml").nodes
    assert {"of-plain", "of-double"} <= resolve(raw_recipe, "toy.yaml", None, ["kinds=plain,double"]).nodes.keys()
    assert lines_of(raw_recipe, setting) == [expected]


def test_mistakes_of_choices_in_the_file_are_named(raw_recipe: dict[str, Any]) -> None:
    raw_recipe["parameters"]["kinds"] = {"default": [], "choices": "plain", "instead": ["x"]}
    assert lines_of(raw_recipe) == [
        "parameters.kinds.instead: expected values and what to do instead, found ['x']",
        "parameters.kinds.choices: expected a list of values, found 'plain'",
    ]


def test_what_a_parameter_is_within_must_be_a_parameter(raw_recipe: dict[str, Any]) -> None:
    raw_recipe["parameters"]["kinds"] = {"default": [], "within": "cuont"}
    with pytest.raises(ConfigError, match=r"parameters.kinds.within: no parameter 'cuont', did you mean 'count'\?"):
        resolve(raw_recipe, "toy.yaml")


def test_choices_may_be_the_methods_that_use_some_parts_of_a_data_set(raw_recipe: dict[str, Any]) -> None:
    """Found by their cards: those that need nothing beside the data set, and are not told of elsewhere."""
    kinds = {"choices": {"methods_using": ["masks", "images"]}, "instead": {"cps": "x"}, "default": []}
    raw_recipe["parameters"]["kinds"] = kinds
    resolve(raw_recipe, "toy.yaml", None, ["kinds=fixmatch,gct"])
    (line,) = lines_of(raw_recipe, "kinds=dmt")  # needs estimated masks
    choices = line.partition("one of ")[2].partition(": ")[0].split(", ")
    assert {"fixmatch", "gct", "vat"} < set(choices)
    assert not {"cps", "self-training", "supervised", "dual-branch", "dsrg", "mlmt"} & set(choices)
    for wrong in ({"methods_using": ["photos"]}, {"methods_using": "masks"}, {"methods": ["masks"]}):
        kinds["choices"] = wrong
        (line,) = lines_of(raw_recipe)
        assert "expected {methods_using: [masks, tags, images]}" in line


# --- whose mistake it is ---


@pytest.fixture
def repeated(raw_recipe: dict[str, Any]) -> dict[str, Any]:
    """Parameters behind repeated values, in names, texts and lists."""
    raw_recipe["parameters"] |= {"seeds": [0, 1], "mode": "good", "more": [], "folder": "lists"}
    raw_recipe["repeat"] = {"seed": "${seeds}", "any": ["first", "${more}"]}
    raw_recipe["nodes"]["sum-s{seed}"]["config"] = {"plus": "{seed}", "mode": "${mode}"}
    raw_recipe["nodes"]["of-{any}"] = {"stage": "toy-sum", "inputs": {"numbers": "numbers"}, "config": {"mode": "good"}}
    raw_recipe["nodes"]["by-{any}"] = {"stage": "toy-sum", "inputs": {"numbers": "numbers"}}
    return raw_recipe


def test_a_mistake_is_named_by_the_parameter_that_was_given_and_once(repeated: dict[str, Any]) -> None:
    (line,) = lines_of(repeated, "mode=goof")
    assert line == "--set mode: 'goof' is not one of 'good', 'bad', 'broken' or 'interrupted', did you mean 'good'?"


def test_a_mistake_in_a_repeated_value_is_named_by_its_parameter(repeated: dict[str, Any]) -> None:
    (line,) = lines_of(repeated, "seeds=0,one")
    assert line.startswith("--set seeds: expected a valid number")
    repeated["nodes"]["of-{any}"]["config"] = {"mode": "{any}"}
    lines = lines_of(repeated, "more=[bad,worse]")
    assert lines[0].startswith("nodes.of-{any}.config.mode: 'first' is not one of")  # the file's own
    assert lines[1].startswith("--set more: 'worse' is not one of")


def test_a_mistake_of_the_file_keeps_its_key(repeated: dict[str, Any]) -> None:
    repeated["parameters"]["mode"] = "goof"
    assert lines_of(repeated)[0].startswith("nodes.sum-s{seed}.config.mode: 'goof' is not one of")


def test_a_setting_of_a_node_is_named_itself(repeated: dict[str, Any]) -> None:
    (line,) = lines_of(repeated, "mode=bad", "sum-*.mode=goof")
    assert line.startswith("--set sum-*.mode: 'goof' is not one of")


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("seeds=[]", "--set seeds: expected at least one value: without any, there is nothing to make"),
        ("seeds=0,0", "--set seeds: 0 occurs 2 times"),
        ("seeds=1/8", "--set seeds: '1/8' cannot be in a node's name (letters, digits, '-' and '_')"),
    ],
)
def test_a_list_that_cannot_be_run_is_one_mistake(repeated: dict[str, Any], setting: str, expected: str) -> None:
    assert lines_of(repeated, setting) == [expected]
    del repeated["table"]
    repeated["nodes"] = {name: node for name, node in repeated["nodes"].items() if "{seed}" in name or name == "x"}
    repeated["nodes"]["sum-s{seed}"]["inputs"] = {"numbers": "numbers-s{seed}"}
    repeated["nodes"]["numbers-s{seed}"] = {"stage": "toy-numbers"}
    assert lines_of(repeated, setting) == [expected]


# --- recurrence ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train-a{round-1}-s{seed}", "train-a2-s0"),
        ("{round-1}", 2),
        ("{round*0.2}", 0.6),  # not 0.6000000000000001
        ("{round*0.2+0.4}", 1),
        ("{round+1*2}", 5),  # products first
        ("{round/2}", 1.5),
        ("{seed}", 0),
        ("{other-1} ${round-1}", "{other-1} ${round-1}"),
        ("{round-x} {round -1}", "{round-x} {round -1}"),
    ],
)
def test_repeated_values_are_calculated_with(text: str, expected: object) -> None:
    found = fill_repeated(text, {"round": 3, "seed": 0})
    assert found == expected
    assert type(found) is type(expected)
    if "round" in text and "x}" not in text and "$" not in text:
        assert "round" in repeated_in(text)


@pytest.mark.parametrize(("text", "value"), [("{row-1}", "supervised"), ("{row*2}", True), ("{row/0}", 4)])
def test_a_calculation_that_cannot_be_made_is_refused(text: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"not a number|divides by 0"):
        fill_repeated(text, {"row": value})
