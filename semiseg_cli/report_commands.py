"""`semiseg report`: the table of a recipe, and the page of a workspace."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from artifacts.errors import ConfigError, UsageError
from artifacts.store import Workspace
from semiseg_cli.console import bullets, json_text, out, write_json, written
from semiseg_cli.options import JsonOption, WorkersOption, WorkspaceOption, execution, existing_workspace
from semiseg_cli.shipped import shipped_recipes
from semiseg_cli.tables import table_json, table_markdown, table_text
from stages.pipeline.run_recipe import Record
from stages.pipeline.seen import Seen
from stages.report.figures import Results, not_fresh, read_results
from stages.report.how_made import HowMade, how_made
from stages.report.leads import leads_of

PAGE = "report.html"  # in the workspace


def report(
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write the table as Markdown ('-': stdout).")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw the table's plot, where it has one.")
    ] = None,
    html: Annotated[
        bool, typer.Option("--html", help="Write a page of the whole workspace: FILE, or report.html in the workspace.")
    ] = False,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE.html", help="With --html: the file of the page.", show_default=False)
    ] = None,
    workers: WorkersOption = None,
) -> None:
    """Print the table of the recipe that was run in a workspace: ours, published, difference.

    With --html: a page to look at, for any workspace, with or without a recipe. It needs no network.
    """
    if file is not None and not html:
        raise UsageError(f"a file, {file}, is only written with --html", "semiseg report --html FILE")
    target = existing_workspace(workspace)
    if html:
        seen = Seen.read(target)
        if not seen.states and not seen.unfinished:
            raise ConfigError(f"the workspace {target.path} is empty: there is nothing to show", "semiseg run RECIPE")
        write_report_page(seen, file or target.path / PAGE, workers)
        return
    found = Report.of(Seen.read(target, strict=True))
    if as_json:
        write_json(found.json())
    elif markdown is not None:
        text = table_markdown(found.results, found.made)
        if str(markdown) == "-":
            print(text, end="")
        else:
            with written(markdown):
                markdown.write_text(text, encoding="utf-8")
    elif plot is not None:
        if found.results.table.plot is None:
            raise ConfigError(f"the table of {found.record.name!r} has no plot", "leave --plot out")
        with written(plot):
            found.draw(plot)
    else:
        found.show()


def _results(seen: Seen) -> Results | None:
    if seen.record is None or seen.record.table is None:
        return None
    return read_results(seen.record.table, seen.workspace, not_fresh(seen.states))


def _made(seen: Seen) -> HowMade | None:
    if seen.record is None:
        return None
    shipped = shipped_recipes().get(seen.record.name)
    named = Path(seen.record.source).name
    if shipped and Path(seen.record.source) == shipped:
        named = seen.record.name
    return how_made(seen.record, seen.workspace, named)


def write_report_page(seen: Seen, path: Path, workers: int | None) -> None:
    """The page of the workspace; its path is the last line that is printed."""
    from stages.report.page.document import write_page
    from stages.report.page.facts import gather

    facts = gather(seen, _results(seen), _made(seen), execution("cpu", workers))
    with written(path):
        write_page(facts, path)


@dataclass(frozen=True)
class Report:
    """The figures of the table of the recipe that was run in a workspace."""

    workspace: Workspace
    record: Record
    results: Results
    made: HowMade

    @classmethod
    def of(cls, seen: Seen) -> Report:
        """Raises ConfigError where no recipe with a table was run."""
        record, place = seen.record, seen.workspace.path
        if record is None:
            raise ConfigError(
                f"no recipe was run in {place}, so there is no table", "semiseg run RECIPE, or semiseg status"
            )
        results, made = _results(seen), _made(seen)
        if results is None or made is None:
            raise ConfigError(f"the recipe {record.name!r} of {place} has no table", "semiseg status lists results")
        return cls(seen.workspace, record, results, made)

    def json(self) -> dict[str, Any]:
        return {
            "recipe": self.record.name,
            "profile": self.record.profile,
            **table_json(self.results, self.made),
        }

    def draw(self, path: Path) -> None:
        from semiseg_cli.plots import draw_plot

        draw_plot(self.results, path, self.made)

    def show(self) -> None:
        console = out()
        parts, lines = table_text(self.results, console.width)
        for part in parts:
            console.print(part)
        if leads := leads_of(self.results):
            console.print("Highest in each column:")
            console.print(bullets([lead.words for lead in leads]))
        console.print(bullets(lines))

    def write(self) -> None:
        """report.json, report.md and, where the table has a plot, report.png in the workspace."""
        folder = self.workspace.path
        with written(folder / "report.json") as file:
            file.write_text(json_text(self.json()) + "\n", encoding="utf-8")
        with written(folder / "report.md") as file:
            file.write_text(table_markdown(self.results, self.made), encoding="utf-8")
        if self.results.table.plot is not None:
            with written(folder / "report.png") as file:
                self.draw(file)
