"""The contract of a stage, and the list of all stages.

Importing this module, or any stage module, loads no torch: `--help` and `status` need the configs only.

A new setting must not make what exists stale, so its default keeps what was computed before there was the setting, in
every config that has it, or the config says in `before` what this was; a stage that cannot hold to this raises its
version. Artifacts are compared accordingly: a key that a recorded config lacks counts as what was done before, else as
its default of today, and a default that is changed later makes stale.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import os
import sys
import time
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from artifacts.canonical import digest, file_digest
from artifacts.errors import ConfigError
from artifacts.folder_digests import KnownFolders
from artifacts.manifest import KINDS
from artifacts.store import Artifact, Writer
from artifacts.text import did_you_mean, visible
from stages.config import Config, external_files


class Tracker(Protocol):
    """One running task as a person sees it."""

    def advance(self, count: int = 1, **fields: Any) -> None:
        """`count` more units are done; `fields` (loss=..., ...) are shown beside the bar."""


class Progress(Protocol):
    """Where a stage says what it does. Never part of a result."""

    def track(
        self, total: int, description: str, unit: str = "images", done: int = 0
    ) -> AbstractContextManager[Tracker]: ...

    def note(self, text: str) -> None: ...


FEW_UNITS = 5
"""So many must be done before a rate and the time left are shown: the first ones include the loading of networks."""


class _PlainTracker:
    def __init__(self, total: int, description: str, unit: str, done: int, every_s: float) -> None:
        self.total, self.description, self.unit, self.every_s = total, description, unit, every_s
        self.done = self.first = done
        self.begin = self.last = time.monotonic()

    def advance(self, count: int = 1, **fields: Any) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.last < self.every_s:
            return
        self.last = now
        line = f"{self.description}: {self.done}/{self.total} {self.unit}"
        if self.done - self.first >= FEW_UNITS:
            rate = (self.done - self.first) / max(now - self.begin, 1e-9)
            line += f", {rate:.3g}/s, {(self.total - self.done) / rate:.0f} s left"
        shown = " ".join(
            f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in fields.items()
        )
        print(visible(f"{line} {shown}".rstrip()), file=sys.stderr, flush=True)


@dataclass(frozen=True)
class PlainProgress:
    """A plain line each half minute, for logs."""

    every_s: float = 30.0

    @contextmanager
    def track(self, total: int, description: str, unit: str = "images", done: int = 0) -> Iterator[Tracker]:
        yield _PlainTracker(total, description, unit, done, self.every_s)

    def note(self, text: str) -> None:
        print(visible(text), file=sys.stderr, flush=True)


def default_workers() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Execution:
    """What may not change a result: where and how fast the work runs, and what is shown of it."""

    device: str = "auto"  # "auto", "cpu", "cuda", "cuda:1", ...
    workers: int = field(default_factory=default_workers)
    checkpoint_every_s: float = 60.0
    progress: Progress = field(default_factory=PlainProgress)

    @property
    def rank(self) -> int:
        return int(os.environ.get("RANK", "0"))

    @property
    def world_size(self) -> int:
        return int(os.environ.get("WORLD_SIZE", "1"))

    @property
    def local_world_size(self) -> int:
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

    @property
    def own_workers(self) -> int:
        """Of the workers, which the ranks of a machine share, those of this rank."""
        return max(self.workers // self.local_world_size, 1)


def has_snapshots(segmenter: Artifact) -> bool:
    """Whether a segmenter was trained with snapshots."""
    return any(path.startswith("snapshots/") for path in segmenter.items)


def has_masks(artifact: Artifact) -> bool:
    """Whether an artifact holds masks: predictions may be probabilities alone."""
    return any(path.startswith("masks/") for path in artifact.manifest.items)


@dataclass(frozen=True)
class Input:
    """Which artifacts an input takes, and how one is found where none is named; see `Inputs`.

    Attributes:
        default: artifact names tried, in order; where none of them is there, the only artifact that fits is taken.
        fits: whether an artifact of one of the kinds can be taken at all, by its manifest.
        needed: of an optional input, whether a config cannot do without it, given the names of the inputs there are.
        made_by: the command that makes one, by config; "": those of the stages that make its kinds.
        optional: filled in from the type.
    """

    kinds: tuple[str, ...]
    help: str
    default: tuple[str, ...] = ()
    fits: Callable[[Artifact], bool] = lambda artifact: True
    needed: Callable[[Any, Collection[str]], bool] = lambda config, given: False
    made_by: Callable[[Any], str] = lambda config: ""
    optional: bool = False


@dataclass(frozen=True)
class Inputs:
    """Base of the inputs of a stage, a frozen dataclass of artifacts; itself those of a stage without any.

    The type of a field says whether it is optional::

        @dataclass(frozen=True)
        class CrfInputs(Inputs):
            data: Annotated[Artifact | None, Input(("dataset",), "the data set with the images", default=("data",))]
            predictions: Annotated[Artifact, Input(("predictions", "seeds"), "what is refined")]
    """


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline: reads artifacts, writes one artifact.

    Files outside the workspace (weights, lists) are marked on the fields of the config, see `stages.config.External`.

    Attributes:
        version: raised by hand when results change for an unchanged config, or for one that lacks a new key.
        inputs: the class of the artifacts it reads.
        output: the kind of artifact it makes.
        run: does the work, item by item, continuing what `writer.has`; returns the summary for people (JSON).
        check: cheap tests of config against inputs, made before any work.
        takes: what `inputs` declares of each, by its name.
    """

    name: str
    version: int
    summary: str
    config: type[Config]
    inputs: type[Inputs]
    output: str
    run: Callable[[Any, Any, Writer, Execution], dict[str, Any]]
    check: Callable[[Any, Any], None] = lambda config, inputs: None

    takes: Mapping[str, Input] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "takes", declared_inputs(self.inputs))

    def open(self, artifacts: Mapping[str, Artifact | None]) -> Inputs:
        """The inputs as `check` and `run` take them; one that is not given is None."""
        return self.inputs(**{name: artifacts.get(name) for name in self.takes})


def declared_inputs(inputs: type[Inputs]) -> dict[str, Input]:
    """What is declared of each input, by its name. TypeError for a field that declares none."""
    hints = typing.get_type_hints(inputs, include_extras=True)
    if hints.keys() != {field.name for field in dataclasses.fields(inputs)}:
        raise TypeError(f"{inputs.__name__} has fields and is no dataclass: write @dataclass(frozen=True) above it")
    return {name: _declaration(hint, f"{inputs.__name__}.{name}") for name, hint in hints.items()}


def _declaration(hint: Any, place: str) -> Input:
    declared = [mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, Input)]
    if len(declared) != 1 or hint.__origin__ not in (Artifact, Artifact | None):
        raise TypeError(f"{place}: expected Annotated[Artifact, Input(...)] or Annotated[Artifact | None, Input(...)]")
    if not declared[0].kinds or not set(declared[0].kinds) <= KINDS.keys():
        raise TypeError(f"{place}: the kinds {declared[0].kinds!r} are not some of {', '.join(KINDS)}")
    return dataclasses.replace(declared[0], optional=hint.__origin__ != Artifact)


# The pipeline, in order: command name -> module with `STAGE`.
STAGE_MODULES: dict[str, str] = {
    "prepare-data": "stages.prepare_data",
    "train-classifier": "stages.train_classifier",
    "seeds": "stages.seeds",
    "train-refiner": "stages.train_refiner",
    "refine": "stages.refine",
    "instances": "stages.instances",
    "features": "stages.features",
    "train": "stages.train",
    "reliability": "stages.reliability",
    "predict": "stages.predict",
    "pseudo-labels": "stages.pseudo_labels",
    "crf": "stages.crf",
    "segments": "stages.segments",
    "vote": "stages.vote",
    "import-masks": "stages.import_masks",
    "retrain": "stages.retrain",
    "select": "stages.select",
    "review": "stages.review",
    "evaluate": "stages.evaluate",
    "evaluate-instances": "stages.evaluate_instances",
}


def required_inputs(stage: Stage, config: Config, given: Collection[str]) -> list[str]:
    """The inputs that must be there: those of the stage, and those its config asks for."""
    return [key for key, declared in stage.takes.items() if not declared.optional or declared.needed(config, given)]


def load_stage(name: str) -> Stage:
    """The stage with this command name."""
    if name not in STAGE_MODULES:
        meant = did_you_mean(name, STAGE_MODULES, list_known=False)
        raise ConfigError(f"there is no stage {name!r}{meant}", f"stages: {', '.join(STAGE_MODULES)}")
    return importlib.import_module(STAGE_MODULES[name]).STAGE


def external_digests(stage: Stage, config: Config, known: KnownFolders | None = None) -> dict[str, str]:
    """SHA-256 of every external file (or of the files of a folder) the config names.

    ConfigError names a missing one and its key. known: digests of folders that were taken before.
    """
    known = KnownFolders() if known is None else known
    digests = {}
    for key, path in sorted(external_files(config).items()):
        if not path.exists():
            raise ConfigError(f"{stage.name}: {key} names {path}, which is not there", f"correct {key}")
        try:
            digests[key] = known.digest(path) if path.is_dir() else file_digest(path)
        except OSError as error:
            file = Path(error.filename or path)
            inside = f"{file.name}: " if file != path else ""
            raise ConfigError(
                f"{stage.name}: {key} names {path}, unreadable: {inside}{error.strerror}",
                f"correct the permissions of {file}" if isinstance(error, PermissionError) else f"copy {file} again",
            ) from None
    return digests


FINGERPRINT_SCHEMA = 1  # of what `fingerprint` digests: another number would make all artifacts stale


def fingerprint(
    stage: Stage,
    config: Config,
    inputs: Mapping[str, str | None],
    externals: Mapping[str, str],
    recorded: Mapping[str, Any] | None = None,
) -> str:
    """What a result depends on, as one SHA-256: stage, version, config, contents of inputs and external files.

    The output's kind and its version are part of it, so that unfinished work in an older format is not continued.

    Args:
        inputs: content digest of each given input by input name; absent inputs are left out.
        externals: digest of each external file by config key; it replaces the path in the config.
        recorded: the config as it was written when it had fewer keys, for the fingerprint it had then.
    """
    values = config.model_dump(mode="json") if recorded is None else copy.deepcopy(dict(recorded))
    for key, file in externals.items():
        place: Any = values
        *parents, last = key.split(".")
        for parent in parents:
            place = place[int(parent) if isinstance(place, list) else parent]
        place[int(last) if isinstance(place, list) else last] = f"sha256:{file}"
    return digest(
        {
            "schema": FINGERPRINT_SCHEMA,
            "stage": stage.name,
            "version": stage.version,
            "output": [stage.output, KINDS[stage.output]],
            "config": values,
            "inputs": {name: content for name, content in inputs.items() if content is not None},
        }
    )
