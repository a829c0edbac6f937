"""The cells of a recipe's results table, and the sentences below it, as every report shows them."""

from __future__ import annotations

from stages.pipeline.table import Row, Table
from stages.report.figures import Cost, Figure, Figures, Results, order_sentence

NAMED = 8  # at most this many missing artifacts are named
STALE = "*"  # marks figures made with different settings
COST_COLUMNS = (
    ("steps", "steps", "{:.0f}"),
    ("images", "images", "{:.0f}"),
    ("steps/s", "steps_per_second", "{:.2f}"),
    ("images/s", "images_per_second", "{:.1f}"),
    ("seconds a run", "seconds", "{:.0f}"),
    ("peak MiB", "peak_memory_mib", "{:.0f}"),
    ("disk MiB", "disk_mib", "{:.1f}"),
)

Costs = dict[str, Cost | None]


def headers_of(table: Table, costs: Costs) -> list[str]:
    headers = [table.metric.replace("_", " ").replace("iou", "IoU"), *table.columns]
    if any(row.published for row in table.rows):
        headers += ["published", "difference"]
    return headers + [header for header, _, _ in cost_columns(costs)]


def cost_columns(costs: Costs) -> list[tuple[str, str, str]]:
    """Header, field and format of the columns that have a value in at least one row."""
    known = [cost for cost in costs.values() if cost]
    return [column for column in COST_COLUMNS if any(getattr(cost, column[1]) is not None for cost in known)]


def _cost_cell(cost: Cost | None, name: str, form: str) -> str:
    value = getattr(cost, name) if cost else None
    return "-" if value is None else form.format(value) + (STALE if cost and cost.stale else "")


def cells_of(table: Table, figures: Figures, costs: Costs) -> list[list[str]]:
    published_columns = any(row.published for row in table.rows)
    rows = []
    for row in table.rows:
        cells = [row.label, *(figure_text(figures[row.label][column]) for column in table.columns)]
        if published_columns:
            difference = difference_of(row, figures)
            cells.append("-" if row.published is None else f"{row.published.value:.1f}")
            cells.append("-" if difference is None else f"{difference:+.1f}{_stale_mark(row, figures)}")
        cells += [_cost_cell(costs[row.label], name, form) for _, name, form in cost_columns(costs)]
        rows.append(cells)
    return rows


def figure_text(figure: Figure) -> str:
    """53.0; 53.0 (50.0-56.0); 53.0 (1 of 2 runs); 53.0* where a run is stale."""
    if figure.mean is None:
        return "-"
    text = f"{figure.mean:.1f}{STALE if figure.stale else ''}"
    about = [f"{figure.spread[0]:.1f}-{figure.spread[1]:.1f}"] if figure.spread else []
    about += [f"{len(figure.runs)} of {figure.planned} runs"] if figure.missing else []
    return f"{text} ({'; '.join(about)})" if about else text


def difference_of(row: Row, figures: Figures) -> float | None:
    if row.published is None:
        return None
    ours = figures[row.label][row.published.column].mean
    return None if ours is None else ours - row.published.value


def _stale_mark(row: Row, figures: Figures) -> str:
    return STALE if row.published and figures[row.label][row.published.column].stale else ""


def lines_below(results: Results) -> list[str]:
    table, figures = results.table, results.figures
    lines = [*_runs_line(results), *_stale_line(results), *_cost_line(results)]
    lines += [sentence for column in table.columns if (sentence := order_sentence(table, figures, column))]
    lines += [results.equality.sentence] if results.equality else []
    if table.order and table.order_source:
        lines.append(f"The paper's order: {' > '.join(table.order)} ({table.order_source}).")
    for source in dict.fromkeys(row.published.source for row in table.rows if row.published):
        lines.append(f"Published: {source}.")
    missing = sorted({name for figure in results.cells for name in figure.missing})
    if missing:
        more = f" and {len(missing) - NAMED} more (semiseg status)" if len(missing) > NAMED else ""
        lines.append(f"Not made yet: {', '.join(missing[:NAMED])}{more}.")
    return lines + table.notes


def _runs_line(results: Results) -> list[str]:
    """How many runs a figure is the mean of; figures of fewer runs than planned are marked in the table."""
    numbers = sorted({figure.planned for figure in results.cells if figure.runs})
    if not numbers:
        return []
    if numbers == [1]:
        return ["Ours: one run per figure, in percent; the spread between runs is not known."]
    return [f"Ours: mean of {' or '.join(map(str, numbers))} runs (lowest-highest), in percent."]


def _stale_line(results: Results) -> list[str]:
    costs = any(cost and cost.stale for cost in results.costs.values())
    if not costs and not any(figure.stale for figure in results.cells):
        return []
    return [
        f"{STALE} made with different settings, inputs or versions than a run would use now: semiseg status lists them."
    ]


def _cost_line(results: Results) -> list[str]:
    if not any(results.costs.values()):
        return []
    seconds = (
        "Seconds a run: all stages that make one run's segmenter, a teacher's training and predictions included; "
        "a mean over the row's runs."
    )
    if any(cost and cost.steps for cost in results.costs.values()):
        seconds += " Steps and images: of all trainings among them, an image as often as it is seen."
    if not any(cost and cost.images_per_second for cost in results.costs.values()):
        return [seconds]
    return [
        f"{seconds} steps/s and images/s: of the run's last training. Every image of a step's batch counts, labelled "
        "or not: rows with batches of different sizes compare by steps/s."
    ]
