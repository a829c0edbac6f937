"""The steps, most telling first. No torch."""

from __future__ import annotations

from typing import NamedTuple


class Step(NamedTuple):
    """A step: module and function, the seconds it may take, and the steps whose files it reads."""

    place: str
    limit: float
    needs: tuple[str, ...] = ()


STEPS = {
    "machine": Step("machine:machine", 40),
    "data": Step("data:data", 60),
    "training": Step("training:training", 170, ("data",)),
    "peer": Step("peer_unimatch:peer", 100, ("data",)),
    "methods": Step("methods:methods", 150),
    "offline": Step("offline:offline", 100, ("data",)),
    "crf": Step("offline:mean_field", 60),
    "equality": Step("equality:equality", 90, ("data",)),
    "compiled": Step("training:compiled", 150, ("data",)),
    "averages": Step("training:averages", 60, ("data",)),
}
LEAST = 15.0  # seconds: with less left no step is begun
