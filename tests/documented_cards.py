"""What docs/methods.md takes from the cards and formulas of methods and refiners; written anew by `make docs`.

    <!-- cards -->                a table of all
    <!-- formula of cps -->       the formula of one, as its class has it

each up to `<!-- end -->`. A section on a method is optional; where there is one, the table leads to it.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from stages.methods import METHODS
from stages.refiners import REFINERS

PAGE = Path(__file__).parent.parent / "docs" / "methods.md"
ALL = {**METHODS, **REFINERS}
BLOCK = re.compile(r"<!-- (cards|formula of ([a-z0-9-]+)) -->\n.*?<!-- end -->", re.DOTALL)
USES = {"masks": "masks", "tags": "image labels", "images": "images alone"}


def updated(text: str) -> str:
    """The page with all blocks as the cards are now."""
    sections = set(re.findall(r"^## (\S+)$", text, re.MULTILINE))

    def block(found: re.Match[str]) -> str:
        inner = formula(found[2]) if found[2] else table(sections)
        return f"<!-- {found[1]} -->\n{inner}\n<!-- end -->"

    return BLOCK.sub(block, text)


def table(sections: set[str]) -> str:
    lines = ["| method | gives a | learns from | passes | what it is | paper |", "|---|---|---|---|---|---|"]
    for name, settings in ALL.items():
        card, link = settings.card, f"[{name}](#{name})" if name in sections else name
        uses, passes = ", ".join(USES[part] for part in card.uses), f"{card.forward} / {card.backward}"
        lines.append(f"| {link} | {card.output} | {uses} | {passes} | {card.title} | {card.paper} |")
    return "\n".join(lines)


def formula(name: str) -> str:
    """Of the docstring all before its first empty line, as a block of code."""
    return "\n" + textwrap.indent(ALL[name].formula().split("\n\n")[0], "    ") + "\n"


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
