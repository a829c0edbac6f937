"""stages/config.py: every mistake at once with its key, and configs that print and read back."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from artifacts.errors import ConfigError
from artifacts.yaml_files import parse_yaml
from stages.config import (
    Config,
    assign,
    build,
    describe_config,
    merge,
    mistakes,
    parse_assignment,
)


class Network(Config):
    shorthand = "preset"
    preset: str = Field("tiny", description="Name.")
    dropout: float = Field(0.5, ge=0, lt=1, description="Probability.\nOf two lines.")


class Cps(Config):
    name: Literal["cps"] = "cps"
    weight: float = 1.5
    network: Network = Network()


class DualBranch(Config):
    name: Literal["dual-branch"] = "dual-branch"
    weak_weight: float = Field(1.0, ge=0)


class Empty(Config):
    """No settings."""


class Settings(Config):
    method: Annotated[Cps | DualBranch, Field(discriminator="name")] = DualBranch()
    network: Network = Network()
    second: Network | None = None
    branches: tuple[Network, ...] = ()
    by_class: dict[str, Network] = Field(default_factory=dict)
    stride: Literal[8, 16] = 8
    lr: float = Field(1e-3, gt=0, description="Learning rate.")
    sure: Annotated[float, Field(ge=0, le=1)] | Network = 0.5
    scale: tuple[float, float] = (0.5, 2.0)
    ids: tuple[str, ...] = ()
    text: str = ""
    empty: Empty = Empty()

    @pydantic.model_validator(mode="after")
    def _check(self) -> Settings:
        if self.text == "VOC":
            raise ValueError("VOC needs a source")
        return self


def lines(values: dict) -> list[str]:
    return mistakes(Settings, values)[1]


# --- mistakes ---


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"strid": 8}, "strid: unknown key, did you mean 'stride'?"),
        ({"network": {"dropuot": 0}}, "network.dropuot: unknown key, did you mean 'dropout'?"),
        ({"second": {"dropuot": 0}}, "second.dropuot: unknown key, did you mean 'dropout'?"),
        ({"branches": [{}, {"dropuot": 0}]}, "branches.1.dropuot: unknown key, did you mean 'dropout'?"),
        ({"by_class": {"cat": {"dropuot": 0}}}, "by_class.cat.dropuot: unknown key, did you mean 'dropout'?"),
        ({"network": {"zzz": 0}}, "network.zzz: unknown key; known: preset, dropout"),
        ({"dropout": 0.1}, "dropout: unknown key, did you mean 'network.dropout'?"),
        ({"weak_weight": 1}, "weak_weight: unknown key, did you mean 'method.weak_weight'?"),
        (
            {"method": {"name": "dual-branch", "weak_wieght": 0.5}},
            "method.weak_wieght: unknown key, did you mean 'weak_weight'?",
        ),
        (
            {"method": {"name": "cps", "network": {"dropuot": 1}}},
            "method.network.dropuot: unknown key, did you mean 'dropout'?",
        ),
        ({"method": {"name": "cps", "cps": 1}}, "method.cps: unknown key; known: name, weight, network"),
        (
            {"method": {"name": "dual-branch", "weak_weight": -1}},
            "method.weak_weight: expected greater than or equal to 0 (found -1)",
        ),
        (
            {"method": "dual-brunch"},
            "method.name: 'dual-brunch' is not one of 'cps', 'dual-branch', did you mean 'dual-branch'?",
        ),
        ({"method": {"weight": 2}}, "method.weight: unknown key, did you mean 'weak_weight'?"),
        ({"method": 3}, "method: expected keys and values (found 3)"),
        ({"sure": 2}, "sure: expected less than or equal to 1 (found 2)"),
        ({"sure": [1]}, "sure: expected a valid number (found [1])"),
        ({"sure": {"dropuot": 0}}, "sure.dropuot: unknown key, did you mean 'dropout'?"),
        ({"sure": {"dropout": 2}}, "sure.dropout: expected less than 1 (found 2)"),
        ({"stride": 7}, "stride: 7 is not one of 8 or 16"),
        ({"network": 3}, "network: expected keys and values (found 3)"),
        ({"scale": [1.0]}, "scale.1: is required"),
        ({"lr": math.inf}, "lr: expected a finite number (found inf)"),
        ({"empty": {"a": 1}}, "empty.a: unknown key; there are none here"),
        ({"text": "VOC"}, "config: VOC needs a source"),
        ({1: 2}, "1: Keys should be strings (found 1)"),
        ({"ids": [2007]}, "ids.0: expected a valid string (found 2007)"),
    ],
)
def test_a_mistake_is_told_with_its_own_key(values, line):
    assert [found.partition(" (found {'method'")[0] for found in lines(values)][:1] == [line] or lines(values)[
        0
    ].startswith(line)
    assert len(lines(values)) == 1


def test_all_mistakes_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        build(Settings, {"strid": 1, "lr": "fast", "network": {"dropout": 2}, "method": {"name": "cpss"}}, "my.yaml")
    message = caught.value.message
    assert message.startswith("my.yaml: 4 mistakes in the config\n")
    for part in ("strid: unknown", "lr: expected a valid number", "network.dropout: ", "method.name: 'cpss'"):
        assert part in message


# --- shorthand, --set, merge ---


def test_a_bare_text_stands_for_a_mapping():
    assert build(Settings, {"network": "vgg"}, "t").network.preset == "vgg"
    assert build(Settings, {"method": "cps"}, "t").method == Cps()
    assert build(Settings, {"method": {"name": "dual-branch", "weak_weight": 0.5}}, "t").method == DualBranch(
        weak_weight=0.5
    )


def test_set_below_a_shorthand_keeps_it():
    values = {"network": "vgg", "method": "cps"}
    assign(values, *parse_assignment("network.dropout=1e-1"))
    assign(values, *parse_assignment("method.weight=2"))
    config = build(Settings, values, "t")
    assert config.network == Network(preset="vgg", dropout=0.1)
    assert config.method == Cps(weight=2.0)


def test_merging_below_a_shorthand_keeps_it():
    values = merge({"network": "vgg", "lr": 1}, {"network": {"dropout": 0.1}})
    assert build(Settings, values, "t").network == Network(preset="vgg", dropout=0.1)


def test_set_in_one_place_does_not_change_another_that_shares_an_anchor():
    values = parse_yaml("base: &b {network: {dropout: 0.5}}\none: *b\ntwo: *b\n", "t.yaml")
    assign(values, *parse_assignment("one.network.dropout=0.1"))
    assert values["one"]["network"]["dropout"] == 0.1
    assert values["two"]["network"]["dropout"] == values["base"]["network"]["dropout"] == 0.5


@pytest.mark.parametrize("text", ["lr", "=3", "", "a..b=1", ".a=1", "a.=1"])
def test_a_set_without_key_or_value_is_refused(text):
    with pytest.raises(ConfigError, match="expected KEY=VALUE"):
        parse_assignment(text)


def test_set_reads_its_value_as_yaml():
    assert parse_assignment("a.b=1e-3") == (["a", "b"], 1e-3)
    assert parse_assignment("ids=[2007_000033]") == (["ids"], ["2007_000033"])
    assert parse_assignment("path=/a=b") == (["path"], "/a=b")
    with pytest.raises(ConfigError, match="--set a"):
        parse_assignment("a=[1")


def test_merge_changes_neither_side():
    base, over = {"a": {"b": 1}}, {"a": {"c": 2}}
    assert merge(base, over) == {"a": {"b": 1, "c": 2}}
    assert (base, over) == ({"a": {"b": 1}}, {"a": {"c": 2}})


# --- describe ---

texts = st.text(max_size=12) | st.sampled_from(
    ["1e-3", "2007_000033", "true", "no", "null", "~", "=", "a: b", "# c", "- x", "'", '"', "{", "*a", "&a", "1:30"]
)
networks = st.builds(Network, preset=texts, dropout=st.floats(0, 0.9))


@given(
    st.builds(
        Settings,
        method=st.builds(Cps, weight=st.floats(-1e30, 1e30), network=networks) | st.builds(DualBranch),
        network=networks,
        second=st.none() | networks,
        branches=st.lists(networks, max_size=2).map(tuple),
        by_class=st.dictionaries(texts, networks, max_size=2),
        lr=st.floats(1e-30, 1e30),
        ids=st.lists(texts, max_size=3).map(tuple),
        text=texts.filter(lambda text: text != "VOC"),
    )
)
def test_what_is_described_builds_the_same_config(config):
    assert build(Settings, parse_yaml(describe_config(Settings, config), "described"), "described") == config


def test_the_description_of_the_defaults_has_every_field_and_meaning():
    text = describe_config(Settings)
    assert "# Learning rate.\nlr: 0.001" in text
    assert "  # Probability.\n  # Of two lines.\n  dropout: 0.5" in text
    assert "method:\n  name: dual-branch\n" in text
    assert build(Settings, parse_yaml(text, "t"), "t") == Settings()


def test_required_fields_are_marked_and_left_empty():
    class Needs(Config):
        source: Path = Field(description="Folder.")
        size: int = 3

    assert describe_config(Needs) == "# Folder.\nsource:  # required\nsize: 3"


def test_configs_are_immutable():
    with pytest.raises(pydantic.ValidationError):
        Settings().lr = 1.0


def test_a_part_that_is_given_leaves_the_rest_of_the_fields_own_default():
    """CPS has three boxes of .25 to .5; CutMix in general one of .5."""
    from stages.methods.settings.cps import CpsSettings
    from stages.methods.settings.self_training import SelfTrainingSettings

    mixing = build(CpsSettings, {"name": "cps", "mixing": {"boxes": 2}}, "test").mixing
    assert (mixing.boxes, mixing.share) == (2, (0.25, 0.5))
    strong = build(SelfTrainingSettings, {"name": "self-training", "strong": {"blur": 0.0}}, "test").strong
    assert (strong.blur, strong.cutout) == (0.0, 0.5)


def test_a_learning_rate_alone_leaves_the_stage_its_optimizer():
    """train-classifier has adamw, optimisers in general sgd: one that is named is taken as it is."""
    from stages.methods.settings import TrainClassifierConfig

    default = TrainClassifierConfig().optimizer
    assert default.name == "adamw"
    changed = build(TrainClassifierConfig, {"optimizer": {"lr": 0.01}}, "test").optimizer
    assert changed == default.model_copy(update={"lr": 0.01})
    for values in ({"optimizer": {"name": "sgd", "momentum": 0.5}}, {"optimizer": {"=": "sgd", "momentum": 0.5}}):
        named = build(TrainClassifierConfig, values, "test").optimizer
        assert named == type(default)(name="sgd", momentum=0.5)
    assert build(TrainClassifierConfig, {"optimizer": "sgd"}, "test").optimizer == type(default)()


def test_a_preset_starts_anew_whatever_the_default_was():
    from stages.methods.settings import TrainConfig

    network = build(TrainConfig, {"network": {"preset": "deeplabv2-resnet101", "weights": "imagenet"}}, "test").network
    assert (network.backbone, network.head_channels) == ("resnet101", 0)


def test_an_alias_bomb_in_set_names_the_key():
    value = "[&a [x,x,x,x,x,x,x,x,x,x]" + "".join(
        f", &{name} [{', '.join([f'*{before}'] * 10)}]" for before, name in itertools.pairwise("abcdefghi")
    )
    with pytest.raises(ConfigError, match=r"--set classes, line 1, column .*aliases written out"):
        parse_assignment(f"classes={value}]")


def test_a_key_of_thousands_of_parts_in_set_is_refused():
    with pytest.raises(ConfigError, match="50,000 keys inside each other; at most 100 are read"):
        parse_assignment(".".join("a" * 50_000) + "=1")


class Louder(Config):
    """A setting `gain` that came later: before, nothing was made louder."""

    before: ClassVar = {"gain": 1.0}
    name: Literal["louder"] = "louder"
    gain: float = 2.0


class LouderAndLonger(Louder):
    before: ClassVar = {"echo": 0}
    echo: int = 3


class Player(Config):
    effect: Louder = Louder()
    effects: tuple[Louder, ...] = ()
    longer: LouderAndLonger = LouderAndLonger()


def test_what_was_recorded_without_a_setting_counts_as_what_was_done_then():
    recorded = {"effect": {"name": "louder"}, "effects": [{"name": "louder"}, {"name": "louder", "gain": 3.0}]}
    then, now = mistakes(Player, recorded, recorded=True)[0], mistakes(Player, recorded)[0]
    assert (then.effect.gain, [effect.gain for effect in then.effects]) == (1, [1, 3])
    longer = mistakes(Player, {"longer": {}}, recorded=True)[0].longer
    assert (longer.gain, longer.echo) == (1, 0)
    assert (now.effect.gain, [effect.gain for effect in now.effects]) == (2, [2, 3])
