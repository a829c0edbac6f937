"""artifacts/canonical.py: one value, one text of bytes; different values, different bytes."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts.canonical import canonical_json, digest, file_digest, json_ready, pretty_json, write_pretty_json
from artifacts.errors import ArtifactError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def test_known_bytes():
    value = {"b": [1, 2.5, None], "a": "é"}
    assert canonical_json(value) == '{"a":"é","b":[1,2.5,null]}'.encode()
    assert digest(value) == hashlib.sha256(canonical_json(value)).hexdigest()


@given(st.dictionaries(st.text(max_size=3), values, max_size=4))
def test_the_order_of_keys_does_not_matter_and_nothing_is_lost(value):
    backwards = dict(reversed(value.items()))
    assert canonical_json(value) == canonical_json(backwards)
    assert json.loads(canonical_json(value)) == value == json.loads(pretty_json(value))


@pytest.mark.parametrize("value", [float("nan"), {"a": [float("inf")]}])
def test_what_is_not_json_is_refused(value):
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json(value)


def test_a_number_key_is_refused_since_its_digest_would_equal_that_of_the_text():
    with pytest.raises(TypeError, match="keys are text, found 1"):
        digest({"a": [{1: "x"}]})


def test_json_ready_makes_null_of_nan_and_numbers_of_numpy_scalars():
    value = {"iou": (0.5, float("nan"), np.float32(0.25), np.nan), "n": np.int64(3), 0: True, "z": -float("inf")}
    ready = json_ready(value, "summary")
    assert ready == {"iou": [0.5, None, 0.25, None], "n": 3, "0": True, "z": None}
    json.loads(pretty_json(ready))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": {"b": [1, {2}]}}, r"summary\.a\.b\[1\] is a set"),
        ({"a": np.zeros(2)}, r"summary\.a is a ndarray"),
        ({None: 1}, "key None"),
        ({1: 1, "1": 2}, "distinct"),
        (object(), "summary is a object"),
    ],
)
def test_json_ready_names_the_place_of_what_json_cannot_hold(value, words):
    with pytest.raises(ArtifactError, match=words):
        json_ready(value, "summary")


def test_file_digest(tmp_path):
    (tmp_path / "f").write_bytes(b"abc" * 10**6)
    assert file_digest(tmp_path / "f") == hashlib.sha256(b"abc" * 10**6).hexdigest()


@pytest.mark.parametrize("value", [{}, [], {"b": [1, 2.5, None], "a": {"ü\u2028": "\udc80"}}, "x", [[[]]], {"a": True}])
def test_a_file_holds_the_pretty_text(tmp_path, value):
    write_pretty_json(tmp_path / "x.json", value)
    assert (tmp_path / "x.json").read_bytes() == pretty_json(value).encode()


def test_what_is_no_json_is_not_written(tmp_path):
    for value in (float("nan"), {1, 2}):
        with pytest.raises((ValueError, TypeError)):
            write_pretty_json(tmp_path / "x.json", [value])
