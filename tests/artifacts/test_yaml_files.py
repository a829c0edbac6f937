"""YAML as people write it: scalars mean what they look like, mistakes have a place, and bombs are refused."""

from __future__ import annotations

import itertools

import pytest

from artifacts.errors import ConfigError
from artifacts.yaml_files import parse_yaml, read_yaml


def yaml_of(text: str):
    return parse_yaml(text, "t.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-1.5e+2", -150.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("1", 1),
        ("-7", -7),
        ("0", 0),
        ("2007_000033", "2007_000033"),
        ("000123", "000123"),
        ("0o17", "0o17"),
        ("0x1F", "0x1F"),
        ("1:30", "1:30"),
        ("2012-01-01", "2012-01-01"),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("=", "="),
        ("e3", "e3"),
        ("1e", "1e"),
        ("-", [None]),
        ("[2007_000033, 1e-2]", ["2007_000033", 1e-2]),
    ],
)
def test_yaml_scalars_read_as_a_person_means_them(text, value):
    found = yaml_of(text)
    assert found == value
    assert type(found) is type(value)


def test_a_key_that_stands_twice_is_an_error_with_its_line():
    with pytest.raises(ConfigError, match=r"t\.yaml, line 4, column 1.*'lr' occurs twice, first on line 1"):
        yaml_of("lr: 1\nnetwork:\n  lr: 3\nlr: 2\n")
    with pytest.raises(ConfigError, match=r"line 3.*'dropout' occurs twice"):
        yaml_of("network:\n  dropout: 1\n  dropout: 2\n")


def test_anchors_and_merge_keys_work_and_may_be_overridden():
    text = "base: &base {lr: 1, steps: 2}\none: *base\ntwo:\n  <<: *base\n  lr: 3\nthree:\n  <<: *base\n  steps: 9\n"
    value = yaml_of(text)
    assert value["one"] == {"lr": 1, "steps": 2}
    assert value["two"] == {"lr": 3, "steps": 2}
    assert value["three"] == {"lr": 1, "steps": 9}


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system [echo]",
        "!!python/name:os.system",
        "!own {a: 1}",
        "a: [1",
        "a: b: c",
        "\tx: 1",
        "{[1]: 2}",
        "a: *nothing",
        "x: " + "1" * 5000,
        "[" * 3000,
        "a\x00b",
    ],
)
def test_what_is_not_plain_yaml_is_refused_with_the_file(text):
    with pytest.raises(ConfigError, match=r"^t\.yaml.*not YAML"):
        yaml_of(text)


def test_files_that_are_empty_missing_binary_or_lists(tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    (tmp_path / "comment.yaml").write_text("# nothing\n")
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert read_yaml(tmp_path / "empty.yaml") == read_yaml(tmp_path / "comment.yaml") == {}
    with pytest.raises(ConfigError, match="holds a list, expected keys and values"):
        read_yaml(tmp_path / "list.yaml")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_yaml(tmp_path / "binary.yaml")
    with pytest.raises(ConfigError, match="No such file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="Is a directory"):
        read_yaml(tmp_path)


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in itertools.pairwise("abcdefghi")
)
MERGED = "a: &a {k: v}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 10)}]}}\n" for before, name in itertools.pairwise("abcdefghi")
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LAUGHS, "with its aliases written out it has more than 1,000,000 characters"),
        (MERGED, "with its aliases written out it has more than 1,000,000 characters"),
        ("a: &a [1, *a]", "line 1, column 11: not YAML: an alias is inside its own anchor"),
        ("[" * 100_000, "nested deeper than 100 levels"),
        ("- " * 3_000 + "a", "nested deeper than 100 levels"),
        ("a: " + "9" * 20, "line 1, column 4: not YAML: a whole number of more than 64 bits"),
        ("a: " + "9" * 5_000, "not YAML"),
        ("a: !!bool maybe", "not YAML"),
        ("a: !!timestamp soon", "not YAML"),
        ("a: " + "x" * 1_000_000, "has more than 1,000,000 characters, the most that are read"),
    ],
)
def test_what_is_small_in_a_yaml_text_and_huge_in_memory_is_refused(text, expected, tmp_path):
    path = tmp_path / "bomb.yaml"
    path.write_text(text)
    for read in (lambda: parse_yaml(text, "bomb.yaml"), lambda: read_yaml(path)):
        with pytest.raises(ConfigError) as caught:
            read()
        assert "bomb.yaml" in caught.value.message
        assert expected in caught.value.message


def test_aliases_of_ordinary_size_are_read():
    assert parse_yaml("a: &a {k: [1, 2]}\nb: *a\nc: {<<: *a, l: 3}", "f") == {
        "a": {"k": [1, 2]},
        "b": {"k": [1, 2]},
        "c": {"k": [1, 2], "l": 3},
    }
    assert parse_yaml("[" * 99 + "]" * 99, "f")
