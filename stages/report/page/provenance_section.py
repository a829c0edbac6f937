"""What every artifact was made from, with which settings and versions, and the commands that made it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from artifacts.manifest import Manifest
from stages.pipeline.status import State
from stages.report.how_made import HowMade, how_made_lines
from stages.report.page.facts import ArtifactFacts
from stages.report.page.graph_section import artifact_id, group_id
from stages.report.page.markup import Markup, command_block, join, tag
from stages.report.page.stage_graph import Layout
from stages.report.words import duration, headline, size

DIGITS = 12  # of digests


def provenance_section(artifacts: Sequence[ArtifactFacts], unfinished: Sequence[State], placed: Layout) -> Markup:
    by_name = {facts.name: facts for facts in artifacts}
    parts: list[Markup] = []
    for key, place in placed.places.items():
        members = [_artifact(by_name[name], by_name) for name in place.members]
        if len(members) == 1:
            parts += members
        else:
            parts.append(tag("section", tag("h3", f"{place.label} ({len(members)})"), members, id=group_id(key)))
    if unfinished:
        lines = [tag("li", tag("b", state.name), f" ({state.stage}): {_words(state)}") for state in unfinished]
        parts.append(tag("div", tag("h3", "Unfinished work"), tag("ul", lines)))
    return join(parts)


def command_section(made: HowMade | None, artifacts: Sequence[ArtifactFacts]) -> Markup:
    """How the recipe was made, and each command that made an artifact, to be copied."""
    parts = []
    if made is not None:
        lines = [line for line in how_made_lines(made) if not line.startswith("Command: ")]
        parts.append(command_block(made.command, "made the recipe") if made.command else None)
        parts.append(tag("ul", [tag("li", line) for line in lines], class_="notes"))
    commands: dict[str, list[str]] = {}
    for facts in artifacts:
        if facts.command and not (made and facts.command == made.command):
            commands.setdefault(facts.command, []).append(facts.name)
    for command, names in commands.items():
        links = [join([" ", tag("a", name, href=f"#{artifact_id(name)}")]) for name in names]
        made_it = f"{len(names)} artifacts" if len(names) > 1 else "made"
        listed = (
            tag("p", "made", links) if len(names) <= 4 else tag("details", tag("summary", made_it), tag("p", links))
        )
        parts.append(tag("div", command_block(command, f"made {names[0]}"), listed))
    if not parts:
        parts.append(tag("p", "No artifact records a command of semiseg.", class_="missing"))
    parts.append(tag("p", "Folders of the machine are left out: .../NAME stands for one.", class_="faint"))
    return join(parts)


def _artifact(facts: ArtifactFacts, known: Mapping[str, ArtifactFacts]) -> Markup:
    state = facts.state
    took = "" if state.seconds is None else duration(state.seconds)
    summary = tag(
        "summary",
        tag("span", class_=f"state {state.state}"),
        tag("span", facts.name, class_="name"),
        tag("span", " · ".join(filter(None, [state.stage, state.words, took])), class_="faint"),
        tag("span", headline(facts.manifest.summary), class_="headline") if facts.manifest else None,
    )
    rows = [("why", "; ".join(state.reasons)), ("remarks", "; ".join(state.remarks))]
    rows = [(name, text) for name, text in rows if text]
    terms = [join([tag("dt", name), tag("dd", text)]) for name, text in rows]
    if facts.inputs:
        links = [_input(key, name, known) for key, name in facts.inputs.items()]
        terms.append(join([tag("dt", "inputs"), tag("dd", links)]))
    if facts.manifest:
        terms += [join([tag("dt", name), tag("dd", text)]) for name, text in _facts(facts.manifest)]
        settings = [tag("div", tag("code", key), " ", _value(value)) for key, value in facts.settings]
        terms.append(join([tag("dt", "settings"), tag("dd", settings or "all defaults")]))
    else:
        terms.append(join([tag("dt", "made"), tag("dd", "not yet")]))
    return tag("details", summary, tag("dl", terms), id=artifact_id(facts.name), class_="artifact")


def _input(key: str, name: str, known: Mapping[str, ArtifactFacts]) -> Markup:
    to = tag("a", name, href=f"#{artifact_id(name)}") if name in known else join([name, " (not in the workspace)"])
    return tag("div", f"{key}: ", to)


def _facts(made: Manifest) -> list[tuple[str, str]]:
    by = made.made_by
    versions = ", ".join(f"{name} {version}" for name, version in sorted((by.get("versions") or {}).items()))
    source = by.get("source")
    commit = f"{source['commit'][:DIGITS]}{' (modified)' if source.get('modified') else ''}" if source else ""
    continued = f", continued {made.resumed} times" if made.resumed else ""
    machine = [by.get("device"), f"{by['cpus']} CPUs" if by.get("cpus") else None, by.get("platform")]
    processes = by.get("processes") or 1
    machine += [f"{processes} processes"] if processes > 1 else []
    rows = [
        ("kind", f"{made.kind}, version {made.kind_version}; stage {made.stage}, version {made.stage_version}"),
        ("time", f"{_minute(made.started)} to {_minute(made.finished)} UTC, {duration(made.seconds)}{continued}"),
        ("files", f"{made.count:,}, {size(made.bytes)}"),
        ("content", made.content[:DIGITS]),
        ("fingerprint", made.fingerprint[:DIGITS]),
        *((f"file of {key}", f"sha256 {digest[:DIGITS]}") for key, digest in sorted(made.externals.items())),
        ("versions", versions),
        ("commit", commit),
        ("machine", ", ".join(filter(None, machine))),
    ]
    return [(name, text) for name, text in rows if text]


def _value(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _words(state: State) -> str:
    return "; ".join(filter(None, [state.words, *state.reasons]))


def _minute(time: str) -> str:
    return time[:16].replace("T", " ")
