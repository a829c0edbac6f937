"""The page of a workspace as one HTML document: no file, font, script or image from elsewhere.

page_html(gather(...))
"""

from __future__ import annotations

import importlib.resources
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from artifacts.text import amount
from stages.pipeline.status import FRESH
from stages.report.page.batch_section import batch_section
from stages.report.page.best_section import best_section
from stages.report.page.curve_section import curve_section
from stages.report.page.evaluation_section import evaluation_section
from stages.report.page.facts import PageFacts
from stages.report.page.graph_section import graph_of, graph_section
from stages.report.page.image_section import image_section
from stages.report.page.markup import Markup, join, tag
from stages.report.page.provenance_section import command_section, provenance_section
from stages.report.page.quality_section import quality_section
from stages.report.page.result_section import result_section
from stages.report.page.review_section import review_section
from stages.report.page.work_section import NOT_FRESH, longest, not_fresh
from stages.report.words import duration

# Nothing is loaded from anywhere, whatever a browser might try.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'"


def write_page(facts: PageFacts, path: Path) -> None:
    """Writes the page, whole or not at all. OSError for a failed write."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        temporary.write_text(page_html(facts), encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def page_html(facts: PageFacts) -> str:
    name = facts.record.name if facts.record else facts.workspace
    sections = _sections(facts)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{name}: report of semiseg"),
        tag("style", Markup(_own_file("page.css"))),
    )
    body = tag(
        "body",
        tag("a", "Skip to the content", href="#content", class_="skip"),
        _head(facts, name),
        _navigation(sections),
        tag("main", [part for _, _, part in sections], id="content"),
        tag("footer", f"Written {_minute(facts.written)} UTC by semiseg {facts.version}. This file needs no network."),
        tag("dialog", id="viewer", aria_label="An image, enlarged"),
        tag("script", Markup(_own_file("page.js"))),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _own_file(name: str) -> str:
    return (importlib.resources.files("stages.report.page") / name).read_text(encoding="utf-8")


def _sections(facts: PageFacts) -> list[tuple[str, str, Markup]]:
    """(id, name in the navigation, section), without those that have nothing to show."""
    stale = {artifact.name for artifact in facts.artifacts if artifact.state.state != FRESH}
    placed = graph_of(facts.artifacts)
    there: list[tuple[str, str, str, Markup | None]] = [
        ("problems", "Problems", "Problems", _problems(facts)),
        ("results", "Results", _title(facts), result_section(facts, facts.results) if facts.results else None),
        ("best", "Best network", "The network with the highest mean IoU", best_section(facts)),
        (
            "images",
            "Images",
            "Images",
            image_section(facts.images) if facts.images.groups or facts.images.missing else None,
        ),
        ("advice", "Label next", "What to label next", review_section(facts.advice) if facts.advice else None),
        (
            "evaluations",
            "Evaluations",
            "Evaluations",
            evaluation_section(facts.evaluations, facts.best, stale) if facts.evaluations else None,
        ),
        ("labels", "Seeds", "Seeds and refined masks, against true masks", quality_section(facts.artifacts)),
        ("curves", "Curves", "Training curves", curve_section(facts.trainings) if facts.trainings else None),
        (
            "batches",
            "Batches",
            "What networks saw in training",
            batch_section(facts.batches) if facts.batches else None,
        ),
        (
            "graph",
            "Graph",
            "Graph of the stages",
            join(
                [
                    graph_section(facts.artifacts, placed),
                    not_fresh(facts.artifacts, facts.unfinished),
                    longest(facts.artifacts),
                ]
            ),
        ),
        (
            "artifacts",
            "Artifacts",
            "Artifacts and their settings",
            provenance_section(facts.artifacts, facts.unfinished, placed),
        ),
        ("commands", "Commands", "How it was made", command_section(facts.made, facts.artifacts)),
    ]
    return [
        (key, short, tag("section", tag("h2", long), part, id=key, class_="part"))
        for key, short, long, part in there
        if part
    ]


def _title(facts: PageFacts) -> str:
    return (facts.results.table.title if facts.results else "") or "Results"


def _problems(facts: PageFacts) -> Markup | None:
    return tag("ul", [tag("li", line) for line in facts.problems]) if facts.problems else None


def _head(facts: PageFacts, name: str) -> Markup:
    record, made = facts.record, facts.made
    about = [f"workspace {facts.workspace}"]
    about += [f"profile {record.profile}"] if record and record.profile else []
    about += [] if record else ["no recipe was run here"]
    about += [f"{_minute(made.first)} to {_minute(made.last)} UTC"] if made and made.first and made.last else []
    about += [", ".join(made.devices)] if made and made.devices else []
    about += [f"{what} {', '.join(v)}" for what, v in made.versions.items() if v] if made else []
    theme = tag("button", "Theme: as the system", type="button", id="theme")
    return tag(
        "header",
        tag("div", tag("p", "semiseg report", class_="eyebrow"), theme, class_="bar"),
        tag("h1", name),
        tag("ul", [tag("li", text) for text in about], class_="about"),
        tag("dl", _cards(facts), class_="cards"),
    )


def _cards(facts: PageFacts) -> list[Markup]:
    """The main figures of the workspace."""
    states = Counter(artifact.state.state for artifact in facts.artifacts)
    others = ", ".join(f"{count} {state}" for state, count in states.items() if state != FRESH)
    below = tag("a", others, href=f"#{NOT_FRESH}") if others else "nothing is stale"
    seconds = sum(artifact.state.seconds or 0.0 for artifact in facts.artifacts)
    cards = []
    if facts.best and facts.best.metrics.mean_iou is not None:
        link = tag("a", facts.best.artifact, href="#best")
        splits = ", ".join(facts.best.metrics.splits)
        cards.append(_card(f"highest mean IoU, {splits}", f"{100 * facts.best.metrics.mean_iou:.1f} %", link))
    cards.append(_card("artifacts fresh", f"{states[FRESH]:,} of {len(facts.artifacts):,}", below))
    if facts.trainings:
        steps = sum(training.steps for training in facts.trainings)
        cards.append(_card("trainings", f"{len(facts.trainings):,}", amount(steps, "step")))
    return [*cards, _card("time of all stages", duration(seconds), amount(len(facts.artifacts), "artifact"))]


def _card(name: str, value: str, below: Markup | str) -> Markup:
    return tag("div", tag("dt", name), tag("dd", value, class_="value"), tag("dd", below, class_="faint"))


def _navigation(sections: Sequence[tuple[str, str, Markup]]) -> Markup:
    links = [tag("li", tag("a", short, href=f"#{key}")) for key, short, _ in sections]
    return tag("nav", tag("ul", links), aria_label="Parts of the page")


def _minute(time: str) -> str:
    return time[:16].replace("T", " ")
