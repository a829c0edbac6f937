"""How good seeds and refined masks are on the images whose true masks are known, class by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from artifacts.errors import ArtifactError
from artifacts.json_items import Count, Shape, shaped
from artifacts.text import amount
from stages.report.page.facts import ArtifactFacts
from stages.report.page.graph_section import artifact_id
from stages.report.page.markup import Markup, join, tag

FIGURES = ("iou", "precision", "recall", "coverage")
_NOTE = (
    "Recall: the share of a class's pixels that have its label; what is missing of it is the rest. Coverage: the share "
    "that has any label at all, and is not left open (255). Known only where true masks are."
)


class ClassQuality(Shape):
    iou: float | None
    precision: float | None
    recall: float | None
    coverage: float | None


class SplitQuality(Shape):
    """The quality of one split in the summary of `seeds` or `refine`, see `stages/evaluation/label_quality.py`."""

    images: Count
    mean: dict[str, float | None]
    per_class: dict[str, ClassQuality]


def qualities(artifacts: Sequence[ArtifactFacts]) -> dict[str, dict[str, SplitQuality]]:
    """Artifact -> split -> quality; what another version wrote differently is left out."""
    found: dict[str, dict[str, SplitQuality]] = {}
    for artifact in artifacts:
        splits = artifact.manifest.summary.get("quality") if artifact.manifest else None
        for split, values in splits.items() if isinstance(splits, Mapping) else ():
            try:
                found.setdefault(artifact.name, {})[split] = shaped(values, SplitQuality, artifact.name)
            except ArtifactError:
                continue
    return found


def quality_section(artifacts: Sequence[ArtifactFacts]) -> Markup | None:
    """None where no artifact has a quality."""
    found = qualities(artifacts)
    if not found:
        return None
    parts = [
        _quality(name, split, quality, opened=len(found) == 1)
        for name, splits in found.items()
        for split, quality in splits.items()
    ]
    return join([tag("p", _NOTE, class_="faint"), parts])


def _quality(name: str, split: str, quality: SplitQuality, opened: bool) -> Markup:
    mean = quality.mean.get("iou")
    summary = tag(
        "summary",
        tag("span", name, class_="name"),
        tag("span", f"{100 * mean:.1f} %", class_="value") if mean is not None else None,
        tag("span", f"{split}, {amount(quality.images, 'image')} with true masks", class_="faint"),
    )
    names = [tag("th", "IoU" if figure == "iou" else figure, scope="col") for figure in FIGURES]
    head = tag("tr", tag("th", "class", scope="col", class_="label"), names)
    rows = [
        tag(
            "tr", tag("th", label, scope="row", class_="label"), [tag("td", _percent(getattr(one, f))) for f in FIGURES]
        )
        for label, one in quality.per_class.items()
    ]
    table = tag("table", tag("thead", head), tag("tbody", rows), class_="classes")
    scroll = tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=f"Quality of {name}, {split}")
    link = tag("p", tag("a", "settings", href=f"#{artifact_id(name)}"), class_="links")
    return tag("details", summary, link, scroll, open=opened)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
