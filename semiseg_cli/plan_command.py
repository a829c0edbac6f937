"""`semiseg plan`: proposes the settings of a pipeline for a data set and this machine, with a reason for each."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from artifacts.errors import ArtifactError, UsageError
from artifacts.text import amount
from semiseg_cli.console import bullets, duration, out, plain_table, say, size, write_json, written
from semiseg_cli.data_commands import NameArgument, only_dataset
from semiseg_cli.options import (
    DeviceOption,
    JsonOption,
    WorkersOption,
    WorkspaceOption,
    check_device,
    existing_workspace,
    named_artifact,
    quoted_in,
)
from stages.planning.plan_file import commands_of, plan_text
from stages.planning.records import DataFacts, Machine, Plan, Wishes

_TIMES = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_SIZES = {"MiB": 2**20, "GiB": 2**30, "MB": 10**6, "GB": 10**9}


def plan(
    name: NameArgument = None,
    workspace: WorkspaceOption = None,
    budget: Annotated[
        str | None, typer.Option("--budget", metavar="TIME", help="The time for all of it: 30min, 2h, 1h30min.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="SIZE", help="Memory to stay below: 4GiB. Default: what is free.")
    ] = None,
    network: Annotated[str, typer.Option("--network", metavar="PRESET", help="Take this network.")] = "",
    weights: Annotated[
        str,
        typer.Option(
            "--weights",
            metavar="FILE",
            help="A file of weights, imagenet (downloads them if need be) or none. Default: what is found here.",
        ),
    ] = "",
    method: Annotated[str, typer.Option("--method", metavar="NAME", help="Take this method.")] = "",
    crop_size: Annotated[int | None, typer.Option("--crop-size", min=16, metavar="N", help="Take these crops.")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=2, metavar="N", help="The largest batch to try.")
    ] = None,
    iterations: Annotated[
        int | None, typer.Option("--iterations", min=1, metavar="N", help="Take these iterations (a budget shortens).")
    ] = None,
    precision: Annotated[
        Literal["fp32", "bf16"] | None, typer.Option("--precision", help="Take this arithmetic for trainings.")
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe/--no-probe", help="Measure a few real steps, for the batch that fits and the time.")
    ] = True,
    write: Annotated[
        Path | None, typer.Option("--write", metavar="FILE", help="Write the plan as YAML, for --config.")
    ] = None,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Propose network, crops, batch, iterations and method for a data set and this machine, with the reasons.

    Nothing is trained and nothing downloaded. The plan as a file serves all stages: semiseg train --config plan.yaml.
    """
    check_device(device)
    if budget and not probe:
        raise UsageError(
            "--budget needs the time of a step, which --no-probe does not measure", "leave one of them out"
        )
    wishes = Wishes(
        network=network,
        weights=weights,
        method=method,
        crop_size=crop_size,
        batch_size=batch_size,
        iterations=iterations,
        budget_s=None if budget is None else seconds_in(budget),
        precision=precision or "",
    )
    limit = None if memory is None else bytes_in(memory)
    found = existing_workspace(workspace)
    chosen = name or only_dataset(found)
    named_artifact(found, chosen)
    from stages.planning.fingerprint import fingerprint
    from stages.planning.machine import this_machine
    from stages.planning.probe import probed_plan
    from stages.planning.proposal import make_plan

    with found.reading([chosen]) as artifacts:
        artifact = artifacts[chosen]
        if artifact.kind != "dataset":
            raise ArtifactError(
                f"{chosen!r} is an artifact of kind {artifact.kind}, expected dataset", "semiseg status"
            )
        facts = fingerprint(artifact)
        machine = this_machine(device, limit, workers)
        make_plan(facts, machine, wishes, data_name=chosen)  # mistakes come before the measurements
        if probe:
            say("measuring a few steps of each training (--no-probe leaves this out)")
            proposed = probed_plan(artifact, facts, machine, wishes, chosen, say)
        else:
            proposed = make_plan(facts, machine, wishes, data_name=chosen)
    words = commands_of(proposed, str(write or "plan.yaml"), chosen, facts.val > 0)
    commands = [quoted_in(found.path, *command) for command in words]
    if as_json:
        write_json(
            {"data": asdict(facts), "machine": asdict(machine), "plan": plan_record(proposed), "commands": commands}
        )
    else:
        _show(facts, machine, proposed)
        out().print("commands:" if write else "commands (--write plan.yaml writes the file that they read):")
        for command in commands:
            out().print(f"  {command}", soft_wrap=True)
    if write is not None:
        with written(write) as path:
            path.write_text(plan_text(proposed, commands), encoding="utf-8")


def plan_record(proposed: Plan) -> dict[str, Any]:
    """The plan for other programs: every step with its whole config."""
    record = asdict(proposed)
    record["steps"] = [
        {"stage": step.stage, "name": step.name, "inputs": dict(step.inputs), "config": proposed.config(step)}
        for step in proposed.steps
    ]
    return record


def seconds_in(text: str, option: str = "--budget") -> float:
    """30min, 2h, 1h30min, 45s."""
    return _sum_of(text, _TIMES, option, "30min, 2h or 1h30min")


def bytes_in(text: str, option: str = "--memory") -> int:
    """4GiB, 512MiB."""
    return int(_sum_of(text, _SIZES, option, "4GiB or 512MiB"))


def _sum_of(text: str, units: dict[str, int], option: str, example: str) -> float:
    one = rf"(\d+(?:\.\d+)?)\s*({'|'.join(units)})\s*"
    if not re.fullmatch(f"({one})+", text.strip()):
        raise UsageError(f"{option} {text}: expected a number with a unit", f"for example {example}")
    total = sum(float(number) * units[unit] for number, unit in re.findall(one, text))
    if total <= 0:
        raise UsageError(f"{option} {text}: expected more than 0", f"for example {example}")
    return total


def _show(facts: DataFacts, machine: Machine, proposed: Plan) -> None:
    console = out()
    table = plain_table("data and machine", "")
    for row in _facts(facts, machine):
        table.add_row(*row)
    console.print(table)
    table = plain_table("setting", "value", "because", "source")
    for choice in proposed.choices:
        table.add_row(choice.what, choice.value, choice.reason, choice.source)
    console.print(table)
    if proposed.total_s is not None:
        each = ", ".join(f"{name} {duration(seconds)}" for name, seconds in proposed.seconds.items())
        console.print(f"predicted: {duration(proposed.total_s)} in all; {each}", soft_wrap=True)
    if proposed.remarks:
        console.print(bullets(proposed.remarks))


def _facts(facts: DataFacts, machine: Machine) -> list[tuple[str, str]]:
    assert facts.short is not None
    assert facts.long is not None
    kinds = {
        "masks": facts.masks,
        "image labels": facts.image_labels,
        "nothing": facts.unlabelled,
        "holdout": facts.holdout,
        "val": facts.val,
    }
    rows = [("images with", ", ".join(f"{count:,} {kind}" for kind, count in kinds.items() if count))]
    sides = (
        f"short side {facts.short.low:g} to {facts.short.high:g}, long side {facts.long.low:g} to {facts.long.high:g}"
    )
    rows.append(("pixels", f"{facts.short.median:g} x {facts.long.median:g} ({sides}, 10th to 90th percentile)"))
    if facts.objects is not None:
        o = facts.objects
        text = (
            f"{100 * o.low:.0f} to {100 * o.high:.0f} % of the image's side, half of them below {100 * o.median:.0f} %"
        )
        rows.append(("objects", f"{text} ({facts.object_count:,} in {amount(facts.masks_read, 'mask')})"))
    rows.append(
        ("classes", f"{len(facts.classes)}: {', '.join(facts.classes[:8])}{', ...' * (len(facts.classes) > 8)}")
    )
    rows.append(("machine", f"{machine.name}, {size(machine.memory)} may be used, {machine.cores} cores"))
    return rows


__all__ = ["bytes_in", "plan", "plan_record", "seconds_in"]
