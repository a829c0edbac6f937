"""The graph of stages as SVG: a box for each artifact, or for each group of like ones, with its state and time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from stages.pipeline.status import BLOCKED, DAMAGED, FRESH, MISSING, PARTIAL, RUNNING, STALE, State
from stages.report.page.facts import ArtifactFacts
from stages.report.page.markup import Markup, join, tag
from stages.report.page.stage_graph import MOST_NODES, Layout, Place, layout
from stages.report.words import duration

HIGH = 44  # a box
STEP = (36, 56)  # between the boxes of two layers, and from one row to the next
MARGIN = 8
WIDE = (160, 270)  # boxes are as wide as the longest text needs, within these bounds
LETTER = (6.8, 5.9)  # width of a letter of the name, and of the line below it
INDENT = 14  # of texts in a box
ORDER = (DAMAGED, RUNNING, PARTIAL, STALE, BLOCKED, MISSING, FRESH)  # a group has the first state that one of it has


def graph_of(artifacts: Sequence[ArtifactFacts]) -> Layout:
    reads = {facts.name: [] if facts.state.state == DAMAGED else list(facts.inputs.values()) for facts in artifacts}
    return layout(reads, {facts.name: facts.state.stage for facts in artifacts})


def graph_section(artifacts: Sequence[ArtifactFacts], placed: Layout) -> Markup:
    by_name = {facts.name: facts for facts in artifacts}
    texts = {
        key: _texts(place, [by_name[name].state for name in place.members]) for key, place in placed.places.items()
    }
    needed = max(
        (len(text) * wide for pair in texts.values() for text, wide in zip(pair, LETTER, strict=True)), default=0
    )
    wide = min(max(round(needed) + 2 * INDENT, WIDE[0]), WIDE[1])
    width = placed.layers * (wide + STEP[0]) - STEP[0] + 2 * MARGIN
    height = round(placed.rows * STEP[1] - (STEP[1] - HIGH) + 2 * MARGIN)
    edges = [tag("path", d=_curve(points, wide)) for points in placed.edges.values()]
    boxes = [
        _box(key, place, [by_name[name].state for name in place.members], texts[key], wide)
        for key, place in placed.places.items()
    ]
    drawing = tag(
        "svg",
        tag("g", edges, class_="edges"),
        boxes,
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        aria_label="Graph of the artifacts, from data on the left to scores on the right",
        role="group",
        class_="graph",
    )
    counts = Counter(facts.state.state for facts in artifacts)
    key = [
        tag("li", tag("span", class_=f"state {state}"), f"{state} {counts[state]:,}", class_="key")
        for state in reversed(ORDER)
        if counts[state]
    ]
    note = "Each box leads to the artifact's settings. Edges that longer ways imply are left out."
    if len(placed.places) < len(artifacts):
        note += f" More than {MOST_NODES} artifacts: like ones of one depth share a box."
    scroll = tag("div", drawing, class_="scroll wide", tabindex=0, role="region", aria_label="Graph of the artifacts")
    return join([tag("ul", key, class_="keys"), scroll, tag("p", note, class_="faint")])


def group_id(key: str) -> str:
    """The id of the part of the page that lists the artifacts of a box."""
    return f"group-{key.replace(' ', '-')}"


def artifact_id(name: str) -> str:
    return f"artifact-{name}"


def _texts(place: Place, states: Sequence[State]) -> tuple[str, str]:
    """The name of a box; its stage, states and time."""
    seconds = [state.seconds for state in states if state.seconds is not None]
    took = duration(sum(seconds)) if seconds else ""
    stage = states[0].stage if states[0].stage != place.label else ""
    if len(states) == 1:
        return place.label, " · ".join(filter(None, [stage, states[0].words.partition(" (")[0], took]))
    words = ", ".join(f"{n} {state}" for state, n in Counter(state.state for state in states).items())
    return f"{place.label} ({len(states)})", " · ".join(filter(None, [stage, words, took]))


def _box(key: str, place: Place, states: Sequence[State], texts: tuple[str, str], wide: int) -> Markup:
    found = {state.state for state in states}
    state = next((state for state in ORDER if state in found), MISSING)
    left, top = MARGIN + place.layer * (wide + STEP[0]), MARGIN + place.row * STEP[1]
    name, below = (_short(text, int((wide - 1.5 * INDENT) / each)) for text, each in zip(texts, LETTER, strict=True))
    return tag(
        "a",
        tag("title", ": ".join(texts)),
        tag("rect", x=left, y=f"{top:.1f}", width=wide, height=HIGH, rx=7),
        tag("rect", x=left, y=f"{top:.1f}", width=5, height=HIGH, rx=2, class_="edge"),
        tag("text", name, x=left + INDENT, y=f"{top + 18:.1f}", class_="name"),
        tag("text", below, x=left + INDENT, y=f"{top + 34:.1f}", class_="about"),
        href=f"#{artifact_id(place.members[0]) if len(states) == 1 else group_id(key)}",
        class_=f"node {state}",
        aria_label=": ".join(texts),
    )


def _short(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    kept = most - 1
    return f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"


def _curve(points: Sequence[tuple[int, float]], wide: int) -> str:
    """A smooth line from the right side of a box to the left side of another, over the bends between them."""
    places = [(MARGIN + layer * (wide + STEP[0]), MARGIN + row * STEP[1] + HIGH / 2) for layer, row in points]
    x, y = places[0][0] + wide, places[0][1]
    parts = [f"M{x} {y:.1f}"]
    for number, (left, middle) in enumerate(places[1:], 1):
        bend = (left - x) / 2
        parts.append(f"C{x + bend:.0f} {y:.1f} {left - bend:.0f} {middle:.1f} {left} {middle:.1f}")
        x, y = left, middle
        if number < len(places) - 1:
            x += wide
            parts.append(f"H{x}")
    return "".join(parts)
