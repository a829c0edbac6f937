"""`semiseg export snakemake`: a recipe as a workflow that runs each node as a job of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from artifacts.errors import UsageError
from artifacts.store import Workspace
from artifacts.text import amount
from semiseg_cli.console import say, written
from semiseg_cli.options import ParameterOption, ProfileOption, RecipeWorkspaceOption
from semiseg_cli.recipe_commands import recipe_words, workspace_of
from semiseg_cli.shipped import find_recipe, shipped_recipes
from stages.pipeline.recipe import read_recipe
from stages.pipeline.snakefile import snakefile


def snakemake(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE|FILE.yaml", help="Name or file of the recipe.")],
    file: Annotated[Path, typer.Argument(help="A new file.")] = Path("Snakefile"),
    profile: ProfileOption = None,
    settings: ParameterOption = None,
    threads: Annotated[int, typer.Option(metavar="N", min=1, help="Cores of each job.")] = 4,
    gpus: Annotated[int, typer.Option(metavar="N", min=0, help="GPUs of each job that is faster with one.")] = 1,
    workspace: RecipeWorkspaceOption = None,
) -> None:
    """Write a recipe as a Snakefile, which runs each node as a job: on this machine, Slurm, Kubernetes or a cloud.

    A job asks for the time and memory that its node took, doubled, where it was made in this workspace before.
    """
    path = find_recipe(recipe)
    if path == shipped_recipes()["own"]:
        raise UsageError("the nodes of own follow from a plan, which is made as it runs", "as one job: semiseg run own")
    if file.exists():
        raise UsageError(f"{file} exists already", "name a new file")
    resolved = read_recipe(path, profile, settings or [])
    place = workspace_of(path, profile, workspace)
    words = recipe_words(recipe, profile, settings, place)
    text = snakefile(resolved, Workspace(place), words, threads, gpus)
    with written(file):
        file.write_text(text, encoding="utf-8")
    say(f"{amount(len(resolved.nodes), 'rule')}; to run here: snakemake --snakefile {file} --cores {threads}")
