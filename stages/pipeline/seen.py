"""A workspace as it is now, read once: `Seen.read(workspace)`."""

from __future__ import annotations

from dataclasses import dataclass

from artifacts.errors import ArtifactError
from artifacts.store import Workspace
from stages.pipeline.run_recipe import Record, read_record
from stages.pipeline.status import State, unfinished_states, workspace_states


@dataclass(frozen=True)
class Seen:
    """The record of the recipe that was run in a workspace, and the state of everything in it."""

    workspace: Workspace
    record: Record | None
    states: list[State]
    unfinished: list[State]
    problem: str = ""  # why there is no record, where it is damaged

    @classmethod
    def read(cls, workspace: Workspace, strict: bool = False) -> Seen:
        """A damaged record is the `problem`; strict: ArtifactError."""
        record, problem = None, ""
        try:
            record = read_record(workspace)
        except ArtifactError as error:
            if strict:
                raise
            problem = f"without its recipe: {error.message} ({error.hint})"
        expected = record.expected if record else {}
        states, unfinished = workspace_states(workspace, expected), unfinished_states(workspace, expected)
        return cls(workspace, record, states, unfinished, problem)
