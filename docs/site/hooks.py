"""What `mkdocs build` does in addition: the README as front page, the generated reference, the notebook as a page.

make site    # python -m mkdocs build --strict, into site/
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from docs.site import cards, notebook, reference

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\(([^)#\s]*)((?:#[^)\s]*)?)\)")


def on_config(config: Any) -> Any:
    """Fills in the lists of generated pages: `stages` and `methods` in the navigation of mkdocs.yml."""
    lists = {
        "stages": [{name: f"reference/stages/{name}.md"} for name in reference.STAGE_MODULES],
        "methods": [{name: f"methods/{name}.md"} for name in sorted(cards.ALL)],
    }

    def filled(entry: Any) -> Any:
        if isinstance(entry, dict):
            return {title: filled(inner) for title, inner in entry.items()}
        if isinstance(entry, list):
            inner = [filled(part) for part in entry]
            return [page for part in inner for page in (part if isinstance(part, list) else [part])]
        return lists.get(entry, entry)

    config.nav = filled(config.nav)
    return config


def on_files(files: Files, config: Any) -> Files:
    generated = {**reference.generated_pages(), "index.md": front_page(), **notebook.pages(ROOT / "docs")}
    for path, content in generated.items():
        files.append(File.generated(config, path, content=content))
    return files


def front_page() -> str:
    """README.md, whose links start at the root of the repository."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return LINK.sub(lambda link: f"]({link[1].removeprefix('docs/')}{link[2]})", text)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links lead to pages of the site; what is generated stands below what is written."""

    def to_page(link: re.Match[str]) -> str:
        target = re.sub(r"\.ipynb$", ".md", link[1])
        if target.endswith("../README.md"):
            target = target.removesuffix("../README.md") + "index.md"
        return f"]({target}{link[2]})"

    return f"{LINK.sub(to_page, markdown)}\n\n{reference.appended(page.file.src_uri)}"
