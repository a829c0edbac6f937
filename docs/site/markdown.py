"""Pieces of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def cell(text: str) -> str:
    """A text as one cell of a table; it says what it says in `semiseg config`, so its signs are no markup."""
    escaped = text if "`" in text else text.replace("*", r"\*").replace("_", r"\_").replace("<", "&lt;")
    return " ".join(escaped.replace("|", r"\|").split())


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
