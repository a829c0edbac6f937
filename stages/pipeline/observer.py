"""What happens to the nodes of a recipe: told to an observer while it runs, and reported at its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from artifacts.store import Artifact
from stages.pipeline.changes import Change
from stages.pipeline.recipe import Node


class Observer(Protocol):
    """Called with what happens to each node; several may have started before the first of them is finished."""

    def fresh(self, node: Node, artifact: Artifact) -> None: ...

    def replacing(self, node: Node, made: str, changes: list[Change]) -> None:
        """Before `started`; made: when the artifact that is replaced was finished (UTC, ISO 8601)."""

    def started(self, node: Node, resumed: int) -> None: ...

    def finished(self, node: Node, artifact: Artifact) -> None: ...

    def failed(self, node: Node, error: Exception) -> None: ...

    def skipped(self, node: Node, because: list[str]) -> None: ...


@dataclass
class RunReport:
    """The outcome of every node."""

    fresh: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    failed: dict[str, Exception] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def joined(self, later: RunReport) -> RunReport:
        """The outcome of two parts of a run."""
        return RunReport(
            self.fresh + later.fresh,
            self.made + later.made,
            self.failed | later.failed,
            self.skipped + later.skipped,
        )
