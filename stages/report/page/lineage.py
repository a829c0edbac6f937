"""From a score back to the network that was scored."""

from __future__ import annotations

from collections.abc import Mapping

from artifacts.manifest import Manifest

WEIGHTS = "weights.pt"


def network_of(name: str, made: Mapping[str, Manifest]) -> str | None:
    """The nearest artifact with weights among those that this one was made from; None where there is none."""
    seen, front = {name}, [name]
    while front:
        for reached in front:
            if reached in made and WEIGHTS in made[reached].items:
                return reached
        read = [source["artifact"] for reached in front if reached in made for source in made[reached].inputs.values()]
        front = [source for source in dict.fromkeys(read) if source not in seen]
        seen.update(front)
    return None
