"""What the networks saw in training: sheets of batches, and predictions of val."""

from __future__ import annotations

from collections.abc import Sequence

from stages.report.page.graph_section import artifact_id
from stages.report.page.markup import Markup, join, tag
from stages.report.page.thumbnails import Thumbnail
from stages.report.page.training_sheets import TrainingSheets


def batch_section(trainings: Sequence[TrainingSheets]) -> Markup:
    return join(map(_training, trainings))


def _training(training: TrainingSheets) -> Markup:
    figures = [
        tag("figure", tag("button", _image(training, words, sheet), type="button", class_="enlarge"), _caption(words))
        for words, sheet in training.sheets
    ]
    link = tag("a", training.artifact, href=f"#{artifact_id(training.artifact)}")
    return tag("div", tag("h3", link), tag("div", figures, class_="tiles", style=f"--columns:{len(figures)}"))


def _image(training: TrainingSheets, words: str, sheet: Thumbnail) -> Markup:
    return tag(
        "img",
        src=sheet.uri,
        alt=f"{training.artifact}: {words}",
        width=sheet.width,
        height=sheet.height,
        loading="lazy",
        decoding="async",
    )


def _caption(words: str) -> Markup:
    return tag("figcaption", words)
