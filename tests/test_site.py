"""The documentation as a site: it is built without a warning, loads nothing from the network, and its search works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from docs.site import cards
from stages.contract import STAGE_MODULES
from tests.documented import ROOT
from tests.stages.report.page.test_page import browsed, needs_browser

pytest.importorskip("mkdocs", reason="the extra docs is not installed")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


class Loaded(HTMLParser):
    """What a browser would load for a page, and the texts of its paragraphs."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.paragraphs: list[str] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.sources += [str(values[key]) for key in ("src", "srcset", "poster") if key in values]
        if name == "link" and values.get("rel") not in ("canonical", "prev", "next"):
            self.sources.append(str(values["href"]))
        if name == "p":
            self.inside = True
            self.paragraphs.append("")

    def handle_endtag(self, name: str) -> None:
        self.inside = self.inside and name != "p"

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.paragraphs[-1] += data


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 70
    for page in pages:
        loaded = Loaded(page.read_text(encoding="utf-8")).sources
        assert loaded
        assert not [source for source in loaded if re.match(r"(?!data:)(\w+:|//)", source)], page
    for style in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:|//)[^)]*", style.read_text(encoding="utf-8")), (
            style
        )


def test_lists_and_tables_are_none_of_the_words(site: Path) -> None:
    """Where an empty line is missing before a list or a table, the site has it as a paragraph (GitHub does not)."""
    for page in site.rglob("*.html"):
        for text in Loaded(page.read_text(encoding="utf-8")).paragraphs:
            assert not re.search(r"\n(- |\* |\d+\. |\||```)", text), f"{page}: {text}"


def test_every_stage_and_method_has_a_page_with_its_settings(site: Path) -> None:
    for name in STAGE_MODULES:
        page = (site / "reference" / "stages" / f"{name}.html").read_text(encoding="utf-8")
        assert '<h2 id="settings">' in page
    for name, settings in cards.ALL.items():
        page = (site / "methods" / f"{name}.html").read_text(encoding="utf-8")
        assert all(f"<code>{key}</code>" in page for key in settings.model_fields)
    assert "hard_examples.min_kept" in (site / "reference" / "stages" / "train.html").read_text(encoding="utf-8")
    assert 'id="stages.serving.Segmenter.load"' in (site / "reference" / "python.html").read_text(encoding="utf-8")


SEARCH = """
  seen.overflow = document.documentElement.scrollWidth - innerWidth;
  const box = document.querySelector('.md-search__input');
  document.getElementById('__search').click();
  box.focus(); box.value = 'CutMix'; box.dispatchEvent(new KeyboardEvent('keyup', { bubbles: true }));
  const find = () => {
    seen.found = [...document.querySelectorAll('.md-search-result__link')].map((link) => link.href);
    parent.postMessage(seen, '*');
  };
  setTimeout(find, 2500);
"""


@needs_browser
def test_the_search_works_on_files(site: Path) -> None:
    seen, messages = browsed(site / "index.html", SEARCH, 390)
    assert messages == []
    assert any("methods/cutmix-seg.html" in link for link in seen["found"])
    assert seen["overflow"] <= 0
