"""The parts of a page by themselves: escaping, thinned curves, the graph, chosen images, errors, axes."""

from __future__ import annotations

import itertools
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest

from stages.report.page.charts import Axis, axis_of, curves_chart, histogram
from stages.report.page.curves import curves_of, read_training, thinned
from stages.report.page.document import _own_file
from stages.report.page.markup import Markup, script_json, tag
from stages.report.page.shown_images import choose_fixed, choose_worst
from stages.report.page.stage_graph import depths, grouped, layout, reduced
from stages.report.page.thumbnails import (
    ADDED,
    CONFUSED,
    IGNORED,
    MISSED,
    RIGHT,
    UNANSWERED,
    error_words,
    errors_of,
    mask_thumbnail,
)


def test_no_text_can_be_markup() -> None:
    assert tag("p", "a < b & c", Markup("<b>d</b>"), None, ["<", 3], title='"x" <y>', hidden=True, lang=None) == (
        '<p title="&quot;x&quot; &lt;y&gt;" hidden>a &lt; b &amp; c<b>d</b>&lt;3</p>'
    )
    assert tag("img", src="x", data_of=1, class_="c") == '<img src="x" data-of="1" class="c">'
    assert tag("p", "\x1b[31m") == "<p>\\x1b[31m</p>"
    assert json.loads(script_json({"a": "</script>"})) == {"a": "</script>"}
    assert "</script>" not in script_json({"a": "</script>"})


def test_a_thinned_curve_is_the_mean_of_consecutive_points() -> None:
    points = [(10 * k, float(k)) for k in range(1, 8)]
    assert thinned(points, 3) == [(20, 1.5), (40, 3.5), (70, 6.0)]  # of 2, 2 and 3 points
    assert thinned(points, 300) == points
    many = [(k, random.Random(k).random()) for k in range(2017)]
    found = thinned(many)
    assert len(found) == 300
    assert found[-1][0] == 2016
    assert {step for step, _ in found} <= {step for step, _ in many}


def test_a_damaged_line_of_a_log_is_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    lines = ['{"step": 1, "time": 5.0, "loss": 2.0, "lr": 0.1}', '{"step": 2, "loss": 1}', "[1]", '{"step": 3, "lo']
    assert curves_of(lines) == ({"loss": [(1, 2.0), (2, 1.0)], "lr": [(1, 0.1)]}, 2)
    assert read_training("t", tmp_path, {}) is None
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "metrics.jsonl").write_text("\n".join(lines))
    training = read_training("t", tmp_path, {"losses": {"loss": 1.0}})
    assert training is not None
    assert (training.steps, training.unread, training.losses) == (2, 2, frozenset({"loss"}))


def test_edges_that_longer_ways_imply_are_left_out() -> None:
    reads = {"data": [], "train": ["data"], "predict": ["data", "train"], "evaluate": ["data", "predict"]}
    assert reduced(reads) == {"data": [], "train": ["data"], "predict": ["train"], "evaluate": ["predict"]}
    assert depths(reads) == {"data": 0, "train": 1, "predict": 2, "evaluate": 3}


@pytest.mark.parametrize("most", [60, 10, 3])
def test_boxes_of_the_graph_do_not_overlap_and_edges_lead_to_the_right(most: int) -> None:
    chance = random.Random(most)
    names = [f"node-{k % 7}-s{k}" for k in range(40)]
    reads = {name: chance.sample(names[:k], min(k, chance.randrange(4))) for k, name in enumerate(names)}
    placed = layout(reads, dict.fromkeys(names, "train"), most)
    members = [name for place in placed.places.values() for name in place.members]
    assert sorted(members) == sorted(names)
    by_layer: dict[int, list[float]] = {}
    for place in placed.places.values():
        assert 0 <= place.layer < placed.layers
        assert 0 <= place.row <= placed.rows - 1 + 1e-9
        by_layer.setdefault(place.layer, []).append(place.row)
    for rows in by_layer.values():
        assert all(b - a > 1 - 1e-9 for a, b in itertools.pairwise(sorted(rows)))
    for (source, target), points in placed.edges.items():
        assert [layer for layer, _ in points] == list(
            range(placed.places[source].layer, placed.places[target].layer + 1)
        )
    if most == 60:  # each artifact reaches what it reached before
        above = {name: {s for s, t in placed.edges if t == name} for name in names}
        assert {name: closure(above, name) for name in names} == {name: closure(reads, name) for name in names}


def closure(reads: dict, name: str) -> set[str]:
    return set(reads[name]).union(*(closure(reads, source) for source in reads[name]))


def test_artifacts_that_differ_by_their_seed_share_a_box() -> None:
    reads: dict[str, list[str]] = {"data": []}
    for method, seed in itertools.product("ab", range(40)):
        reads[f"train-{method}-s{seed}"] = ["data"]
    groups = grouped(reads, {}, 60)
    assert sorted(map(len, groups.values())) == [1, 40, 40]
    assert layout({"a": ["a-missing"]}, {}).places["a"].layer == 0
    assert layout({}, {}).layers == 0


def test_the_fixed_images_do_not_depend_on_order_or_scores_and_the_worst_are_the_lowest() -> None:
    ids = [f"image-{k}" for k in range(50)]
    fixed = choose_fixed(ids)
    assert fixed == choose_fixed(ids[::-1]) == sorted(fixed)
    assert len(set(fixed)) == 12
    iou = {image_id: (k * 37 % 50) / 50 for k, image_id in enumerate(ids)} | {"blank": None}
    worst = choose_worst(iou)
    assert [iou[image_id] for image_id in worst] == [k / 50 for k in range(12)]


def test_errors_by_hand() -> None:
    truth = np.array([[0, 0, 1, 1, 2, 255, 1]], np.uint8)
    found = np.array([[0, 1, 1, 0, 1, 1, 255]], np.uint8)
    expected = [[RIGHT, ADDED, RIGHT, MISSED, CONFUSED, IGNORED, UNANSWERED]]
    assert errors_of(found, truth, True).tolist() == expected
    assert error_words(errors_of(found, truth, True)) == "missed 17 %, added 17 %"  # of six scored pixels
    assert error_words(np.array([[RIGHT, IGNORED]])) == ""
    assert error_words(np.array([[CONFUSED] * 3 + [MISSED] + [IGNORED] * 9])) == "confused 75 %, missed 25 %"
    assert errors_of(found, truth, False).tolist() == [
        [RIGHT, CONFUSED, RIGHT, CONFUSED, CONFUSED, IGNORED, UNANSWERED]
    ]


def test_a_mask_keeps_its_colours_and_has_few_bytes() -> None:
    import base64
    import io

    from PIL import Image

    from artifacts.masks import voc_palette

    mask = np.zeros((375, 500), np.uint8)
    mask[100:200, 100:300] = 15
    mask[200:210] = 255
    small = mask_thumbnail(mask, voc_palette())
    assert (small.width, small.height) == (320, 240)
    data = base64.b64decode(small.uri.partition(",")[2])
    assert len(data) < 700
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert {tuple(colour) for colour in pixels.reshape(-1, 3).tolist()} == {(0, 0, 0), (192, 128, 128), (224, 224, 192)}


@pytest.mark.parametrize(
    ("values", "low", "high", "log"),
    [([0.2, 1.0], 0, 1, False), ([-1.0, 1.0], -1, 1, False), ([3.0], 3, 3, False), ([1e-5] * 5 + [1.0], 1e-5, 1, True)],
)
def test_axes(values: list[float], low: float, high: float, log: bool) -> None:
    axis = axis_of(values)
    assert (axis.low, axis.high, axis.log) == (low, high, log)
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in axis.ticks)
    assert axis.ticks
    assert Axis(0, 10).place(5) == Axis(1, 100, log=True).place(10) == 0.5


def test_charts_have_a_point_for_each_value_and_two_for_a_dot() -> None:
    chart = curves_chart("loss", {"one": [(1, 2.0), (2, 1.0)], "two": [(2, 3.0)]}, {"one": 0, "two": 1})
    assert [len(found.split()) for found in re.findall('points="([^"]*)"', chart)] == [2, 2]
    bars = histogram([0.0, 0.04, 0.5, 1.0], 0.385)
    assert re.findall(r"<title>(.*?)</title>", bars) == [
        "0 to 5 %: 2 images",
        "50 to 55 %: 1 image",
        "95 to 100 %: 1 image",
        "mean 38.5 %",
    ]


def test_colours_of_text_are_distinct_from_their_ground() -> None:
    """WCAG AA: 4.5 to 1, in the light and in the dark theme."""
    colours = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", _own_file("page.css"))
    assert len(colours) > 20
    for theme in (1, 2):
        named = {colour[0]: luminance(colour[theme]) for colour in colours}
        pairs = [(text, ground) for text in ("ink", "faint", "accent") for ground in ("paper", "panel")]
        pairs += [
            ("ink", "soft"),
            ("ink", "right"),
            ("ink", "wrong"),
            ("ink", "damaged-soft"),
            ("accent", "accent-soft"),
        ]
        pairs += [("mark", "mark-soft"), ("mark", "panel"), ("stale", "stale-soft"), ("faint", "mark-soft")]
        for text, ground in pairs:
            high, low = sorted((named[text], named[ground]), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (theme, text, ground)


def luminance(colour: str) -> float:
    channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
