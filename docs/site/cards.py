"""What the pages on methods take from the cards and formulas of methods and refiners; written anew by `make docs`.

    <!-- cards -->                in docs/methods.md: a table of all
    <!-- formula of cps -->       the formula of one, as its class has it

each up to `<!-- end -->`. A page docs/methods/NAME.md is optional; where there is one, the table leads to it.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from stages.methods import METHODS
from stages.refiners import REFINERS

DOCS = Path(__file__).parents[1]
ALL = {**METHODS, **REFINERS}
BLOCK = re.compile(r"<!-- (cards|formula of ([a-z0-9-]+)) -->\n.*?<!-- end -->", re.DOTALL)
USES = {"masks": "masks", "tags": "image labels", "images": "images alone"}


def pages() -> list[Path]:
    return [DOCS / "methods.md", *sorted((DOCS / "methods").glob("*.md"))]


def updated(text: str) -> str:
    """A page with all blocks as the cards are now."""

    def block(found: re.Match[str]) -> str:
        inner = formula(found[2]) if found[2] else table({page.stem for page in pages()})
        return f"<!-- {found[1]} -->\n{inner}\n<!-- end -->"

    return BLOCK.sub(block, text)


def table(described: set[str]) -> str:
    """Of all methods; those of `described` have a page."""
    lines = ["| method | gives a | learns from | passes | what it is | paper |", "|---|---|---|---|---|---|"]
    for name, settings in ALL.items():
        card, link = settings.card, f"[{name}](methods/{name}.md)" if name in described else name
        uses, passes = ", ".join(USES[part] for part in card.uses), f"{card.forward} / {card.backward}"
        lines.append(f"| {link} | {card.output} | {uses} | {passes} | {card.title} | {card.paper} |")
    return "\n".join(lines)


def formula(name: str) -> str:
    """Of the docstring all before its first empty line, as a block of code."""
    return "\n" + textwrap.indent(ALL[name].formula().split("\n\n")[0], "    ") + "\n"


if __name__ == "__main__":
    for page in pages():
        page.write_text(updated(page.read_text(encoding="utf-8")), encoding="utf-8")
