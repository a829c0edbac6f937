"""Charts as inline SVG: curves over steps, and histograms. They scale with the page and need no script."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from artifacts.text import amount
from stages.report.page.curves import Points
from stages.report.page.markup import Markup, tag

WIDTH, HEIGHT = 360, 214
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 10, 26
COLOURS = 8  # --series-0 to --series-7 of the style sheet
DASHES = ("", "5 3", "1.5 2.5")
LOG_FROM = 30  # times a tenth of the values is below the highest where an axis is logarithmic


@dataclass(frozen=True)
class Axis:
    """Values to places: `low` to `high` become 0 to 1."""

    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        low, high, value = (
            (math.log10(max(v, 1e-300)) for v in (self.low, self.high, value))
            if self.log
            else (self.low, self.high, value)
        )
        return (value - low) / (high - low) if high > low else 0.5

    @property
    def ticks(self) -> list[float]:
        """A few round values between both ends."""
        if self.log:
            powers = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            step = max(1, math.ceil(len(powers) / 4))
            found = [10.0**power for power in powers][::step]
            return found if len(found) > 1 else [self.low, self.high]
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        step = 10 ** math.floor(math.log10(span / 3))
        step *= next((factor for factor in (1, 2, 5) if span / (step * factor) <= 5), 10)
        first = math.ceil(self.low / step - 1e-9)
        return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


def axis_of(values: Sequence[float]) -> Axis:
    """From the lowest to the highest value, or from 0 where that is near; logarithmic where a tenth is far lower."""
    low, high = min(values), max(values)
    if low > 0 and high / sorted(values)[len(values) // 10] > LOG_FROM:
        return Axis(low, high, log=True)
    if 0 < low < 0.5 * high:
        low = 0.0
    return Axis(low, high)


def number_words(value: float) -> str:
    """A tick's value: 1,500; 0.25; 1e-05."""
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.0e}" if value == float(f"{value:.0e}") else f"{value:.2g}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"


def curves_chart(title: str, curves: Mapping[str, Points], series: Mapping[str, int]) -> Markup:
    """A panel of curves; `series` gives each its number, which is its colour and dash, and what the legend hides."""
    points = list(itertools.chain.from_iterable(curves.values()))
    across, up = Axis(0, max(step for step, _ in points)), axis_of([value for _, value in points])
    lines = [
        tag(
            "polyline",
            tag("title", f"{name}: {points_[-1][1]:.4g} after {amount(points_[-1][0], 'step')}"),
            points=" ".join(f"{_x(across, step)},{_y(up, value)}" for step, value in _drawn(points_)),
            style=series_style(series[name]),
            data_series=series[name],
            class_="alone" if len(points_) == 1 else None,
        )
        for name, points_ in curves.items()
    ]
    axes = [*_rules(up), *_steps(across)]
    ends = {"data_steps": across.high, "data_low": up.low, "data_high": up.high, "data_log": up.log}
    label = f"{title} over steps, {amount(len(curves), 'training')}" + (", logarithmic" if up.log else "")
    return _svg(label, *axes, tag("g", *lines, class_="lines"), class_="curves", **ends)


def _drawn(points: Points) -> Points:
    """One point alone is drawn as a line to itself, which is a dot."""
    return points * 2 if len(points) == 1 else points


def series_style(number: int) -> str:
    dash = DASHES[number // COLOURS % len(DASHES)]
    return f"stroke:var(--series-{number % COLOURS})" + (f";stroke-dasharray:{dash}" if dash else "")


def histogram(values: Sequence[float], mean: float, bins: int = 20) -> Markup:
    """How many of the values, 0 to 1, are in each bin, with their mean as a line."""
    counts = [0] * bins
    for value in values:
        counts[min(int(value * bins), bins - 1)] += 1
    across, up = Axis(0, 100), Axis(0, max(counts) or 1)
    wide = (WIDTH - LEFT - RIGHT) / bins
    bars = [
        tag(
            "rect",
            tag("title", f"{100 * k // bins} to {100 * (k + 1) // bins} %: {amount(count, 'image')}"),
            x=f"{LEFT + k * wide + 1:.1f}",
            y=_y(up, count),
            width=f"{wide - 2:.1f}",
            height=f"{HEIGHT - BOTTOM - float(_y(up, count)):.1f}",
            class_="bar",
        )
        for k, count in enumerate(counts)
        if count
    ]
    at = _x(across, 100 * mean)
    line = tag(
        "line", tag("title", f"mean {100 * mean:.1f} %"), x1=at, x2=at, y1=TOP, y2=HEIGHT - BOTTOM, class_="mean"
    )
    label = f"Distribution of the mean IoU of {len(values):,} images; their mean is {100 * mean:.1f} %"
    return _svg(label, *_rules(up), *_steps(across), *bars, line, class_="histogram")


def _svg(label: str, *children: Markup, **attributes: object) -> Markup:
    return tag("svg", *children, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label, **attributes)


def _x(axis: Axis, value: float) -> str:
    return f"{LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT):.1f}"


def _y(axis: Axis, value: float) -> str:
    return f"{HEIGHT - BOTTOM - axis.place(value) * (HEIGHT - TOP - BOTTOM):.1f}"


def _rules(axis: Axis) -> list[Markup]:
    """Horizontal lines with their values."""
    found = []
    for value in axis.ticks:
        y = _y(axis, value)
        found.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="rule"))
        found.append(tag("text", number_words(value), x=LEFT - 6, y=f"{float(y) + 3.5:.1f}", text_anchor="end"))
    return found


def _steps(axis: Axis) -> list[Markup]:
    """Values below the horizontal axis."""
    return [
        tag("text", number_words(value), x=_x(axis, value), y=HEIGHT - 8, text_anchor="middle") for value in axis.ticks
    ]
