"""A recipe as a workflow of Snakemake, which runs each node as a job: on this machine, Slurm, Kubernetes or a cloud.

`semiseg export snakemake RECIPE` writes it. A rule runs `semiseg run RECIPE --only NODE`, so each artifact is the one
that `semiseg run RECIPE` makes. What is fresh is decided by semiseg; Snakemake sees an empty file for each node.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from artifacts.errors import ArtifactError
from artifacts.store import Workspace
from stages.pipeline.recipe import Node, Recipe

MADE = ".snakemake-nodes"  # the folder of the empty files, in the workspace
ON_A_GPU = frozenset({  # stages that are faster there
    "train-classifier",
    "seeds",
    "train-refiner",
    "refine",
    "instances",
    "features",
    "train",
    "reliability",
    "predict",
    "crf",
    "segments",
    "retrain",
    "select",
    "review",
})  # fmt: skip
SPARE = 2.0  # times what was measured: other nodes of a cluster are slower
LEAST_MINUTES = 10  # that a job may take, since its start alone takes some of the first


@dataclass(frozen=True)
class Resources:
    """What a job asks for, as far as it is known."""

    gpu: int = 0
    mem_mb: int | None = None
    runtime: int | None = None  # minutes

    def __str__(self) -> str:
        values = {"gpu": self.gpu or None, "mem_mb": self.mem_mb, "runtime": self.runtime}
        return ", ".join(f"{key}={value}" for key, value in values.items() if value is not None)


def resources(node: Node, workspace: Workspace, gpus: int) -> Resources:
    """The GPUs of a node, by its stage, and the memory and time that it took if it was made in this workspace."""
    on_gpu = gpus if node.stage.name in ON_A_GPU else 0
    try:
        manifest = workspace.artifact(node.name).manifest
    except ArtifactError:
        return Resources(on_gpu)
    if manifest.stage != node.stage.name:
        return Resources(on_gpu)
    peak = manifest.summary.get("peak_memory_mib")
    on_cpu = str(manifest.made_by["device"]).startswith("cpu")  # on a GPU the peak is that of its memory
    memory = math.ceil(SPARE * peak) if on_cpu and isinstance(peak, int | float) and peak else None
    return Resources(on_gpu, memory, max(LEAST_MINUTES, math.ceil(SPARE * manifest.seconds / 60)))


def snakefile(recipe: Recipe, workspace: Workspace, command: Sequence[str], threads: int, gpus: int) -> str:
    """The text of a Snakefile.

    command: `run RECIPE` with its options, as words, without semiseg. threads: of each job. gpus: of each job that is
    faster with them.
    """
    rules = _rule_names(recipe.nodes)
    parts = [
        f"""\
# {recipe.name}: {recipe.description}
# A rule for each node. Run it in this folder: snakemake --snakefile FILE --cores N
# semiseg decides what is fresh: after changes of settings write this file anew, or add --forceall.

semiseg = config.get("semiseg", "semiseg")  # --config semiseg=/path/to/semiseg
RUN = semiseg + {_text(" " + shlex.join(command))}
MADE = {_text(str(workspace.path / MADE) + "/")}


localrules:
    report,


rule report:  # all nodes are made: writes the table and the page
    input:
{_lines(f"MADE + {_text(name)}" for name in recipe.nodes)}
    shell:
        "{{RUN}}"
"""
    ]
    for name, node in recipe.nodes.items():
        sources = list(dict.fromkeys(node.inputs.values()))
        rule = f"\n\nrule {rules[name]}:  # {node.stage.name}\n"
        rule += f"    input:\n{_lines(f'MADE + {_text(source)}' for source in sources)}\n" if sources else ""
        rule += f"    output:\n        touch(MADE + {_text(name)}),\n    threads: {threads}\n"
        if asked := str(resources(node, workspace, gpus)):
            rule += f"    resources:\n{_lines(asked.split(', '))}\n"
        only = f"--only {name} --workers {{threads}}"
        parts.append(f'{rule}    shell:\n        "OMP_NUM_THREADS={{threads}} {{RUN}} {only}"\n')
    return "".join(parts)


def _rule_names(nodes: Mapping[str, Any]) -> dict[str, str]:
    """A Python name for each node: "train-s0" is node_train_s0."""
    names: dict[str, str] = {}
    for name in nodes:
        rule = "node_" + re.sub(r"\W", "_", name)
        names[name] = rule if rule not in names.values() else f"{rule}_{len(names)}"
    return names


def _lines(values: Any) -> str:
    return "\n".join(f"        {value}," for value in values)


def _text(text: str) -> str:
    return repr(text) if '"' in text or "\\" in text or not text.isprintable() else f'"{text}"'
