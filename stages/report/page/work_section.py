"""What is not fresh and why, and which stages took longest."""

from __future__ import annotations

from collections.abc import Sequence

from stages.pipeline.status import BLOCKED, FRESH, State
from stages.report.page.facts import ArtifactFacts
from stages.report.page.graph_section import artifact_id
from stages.report.page.markup import Markup, tag
from stages.report.words import duration

LONGEST = 10
NOT_FRESH = "not-fresh"  # the id of the list


def not_fresh(artifacts: Sequence[ArtifactFacts], unfinished: Sequence[State]) -> Markup | None:
    """Each artifact that is not fresh with its state and reasons, what only waits for others last; None without any."""
    lines = [
        tag(
            "li",
            tag("a", facts.name, href=f"#{artifact_id(facts.name)}"),
            f" ({facts.state.stage}): {_why(facts.state)}",
        )
        for facts in sorted(artifacts, key=lambda facts: facts.state.state == BLOCKED)
        if facts.state.state != FRESH
    ]
    lines += [tag("li", f"{state.name} ({state.stage}), unfinished work: {_why(state)}") for state in unfinished]
    if not lines:
        return None
    return tag("div", tag("h3", "Not fresh"), tag("ul", lines, class_="rows", tabindex=0), id=NOT_FRESH)


def _why(state: State) -> str:
    return "; ".join(filter(None, [state.words, *state.reasons]))


def longest(artifacts: Sequence[ArtifactFacts]) -> Markup | None:
    """The artifacts that took longest; None where no time is known."""
    known = [(facts.state.seconds, facts) for facts in artifacts if facts.state.seconds]
    total = sum(seconds for seconds, _ in known)
    if not known:
        return None
    head = [
        tag("th", "artifact", scope="col", class_="label"),
        tag("th", "stage", scope="col", class_="label"),
        tag("th", "time", scope="col"),
        tag("th", "of all, %", scope="col"),
    ]
    rows = []
    for seconds, facts in sorted(known, key=lambda one: (-one[0], one[1].name))[:LONGEST]:
        name = tag("a", facts.name, href=f"#{artifact_id(facts.name)}")
        cells = [tag("td", duration(seconds)), tag("td", f"{100 * seconds / total:.0f}")]
        rows.append(
            tag("tr", tag("th", name, scope="row", class_="label"), tag("td", facts.state.stage, class_="words"), cells)
        )
    table = tag("table", tag("thead", tag("tr", head)), tag("tbody", rows))
    scroll = tag("div", table, class_="scroll", tabindex=0, role="region", aria_label="What took longest")
    return tag("details", tag("summary", f"What took longest, of {duration(total)}"), scroll)
