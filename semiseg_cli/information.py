"""`semiseg config` and `semiseg methods`: what can be set and chosen."""

from __future__ import annotations

from typing import Annotated

import typer

from artifacts.errors import UsageError
from semiseg_cli.console import out, plain_table, write_json
from semiseg_cli.options import JsonOption
from stages.config import describe_config
from stages.contract import STAGE_MODULES, load_stage
from stages.pipeline.recipe import did_you_mean


def config(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help=f"One of {', '.join(STAGE_MODULES)}.")],
) -> None:
    """Print every setting of a stage with its meaning and default, as YAML for --config."""
    if stage not in STAGE_MODULES:
        raise UsageError(f"there is no stage {stage!r}{did_you_mean(stage, STAGE_MODULES)}")
    record = load_stage(stage)
    print(f"# {record.summary}")
    print(describe_config(record.config))


def methods(as_json: JsonOption = False) -> None:
    """List the training methods: what each needs and which paper it is from."""
    from stages.methods import METHODS

    if as_json:
        write_json(
            [
                {"name": method.name, "title": method.title, "paper": method.paper, "needs": list(method.needs)}
                for method in METHODS.values()
            ]
        )
        return
    table = plain_table("method", "needs", "what it is", "paper")
    for method in METHODS.values():
        table.add_row(method.name, ", ".join(method.needs) or "-", method.title, method.paper)
    out().print(table)
