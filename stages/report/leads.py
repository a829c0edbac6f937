"""Which row of a table leads in each column, by how much, and whether that is more than the spread of the runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stages.report.figures import Figure, Results


@dataclass(frozen=True)
class Difference:
    """The lead of the highest rows over another row, in points of the mean, as it is shown.

    apart: whether every run of the leading row is above every run of the other; None with fewer than two runs of one.
    """

    label: str
    points: float
    apart: bool | None

    @property
    def known(self) -> str:
        return {True: "no runs overlap", False: "the runs overlap", None: "one run"}[self.apart]


@dataclass(frozen=True)
class Lead:
    """The highest rows of a column.

    Attributes:
        highest: their labels, several where they are equal as shown.
        runs: of the first of them.
        second: the row with the next lower figure; first: the table's first row that has a figure, None if it leads.
    """

    column: str
    highest: tuple[str, ...]
    mean: float
    runs: int
    second: Difference
    first: Difference | None

    @property
    def words(self) -> str:
        """One line: val: fixmatch 53.0, +1.5 above cps (the runs overlap), +12.0 above supervised (no runs overlap)."""
        others = [self.second, *([self.first] if self.first and self.first.label != self.second.label else [])]
        above = [f"{difference.points:+.1f} above {difference.label} ({difference.known})" for difference in others]
        return f"{self.column}: {' = '.join(self.highest)} {self.mean:.1f}, {', '.join(above)}"


def leads_of(results: Results) -> list[Lead]:
    """A lead for each column in which some row is lower than another; figures count as they are shown."""
    found = []
    for column in results.table.columns:
        figures = {label: columns[column] for label, columns in results.figures.items()}
        means = {label: round(figure.mean, 1) for label, figure in figures.items() if figure.mean is not None}
        top = max(means.values(), default=0.0)
        highest = tuple(label for label, mean in means.items() if mean == top)
        lower = {label: mean for label, mean in means.items() if mean < top}
        if lower:
            second, first = max(lower, key=lambda label: lower[label]), next(iter(means))
            found.append(
                Lead(
                    column,
                    highest,
                    top,
                    len(figures[highest[0]].runs),
                    _difference(figures, means, highest[0], second),
                    None if first in highest else _difference(figures, means, highest[0], first),
                )
            )
    return found


def _difference(figures: Mapping[str, Figure], means: Mapping[str, float], high: str, low: str) -> Difference:
    above, below = figures[high].spread, figures[low].spread
    return Difference(low, means[high] - means[low], above[0] > below[1] if above and below else None)
