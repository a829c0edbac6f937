"""Notebooks of docs/ as Markdown: text, code and the outputs that are stored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def pages(docs: Path) -> dict[str, str]:
    """Path in the site -> Markdown, of every notebook."""
    return {f"{path.stem}.md": markdown(path) for path in sorted(docs.glob("*.ipynb"))}


def markdown(path: Path) -> str:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join(part for cell in cells for part in parts(cell)) + "\n"


def parts(cell: dict[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    yield f"```python\n{source}\n```"
    for output in cell["outputs"]:
        yield shown(output)


def shown(output: dict[str, Any]) -> str:
    """An output of a cell: an image where it has one, else its text."""
    data = output.get("data", {})
    if "image/png" in data:
        return (
            f'<img alt="What the cell above draws." src="data:image/png;base64,{"".join(data["image/png"]).strip()}">'
        )
    return f"```text\n{''.join(data.get('text/plain', output.get('text', ''))).rstrip()}\n```"
