"""The folder `model` that `semiseg run own` writes: a network, and how its images are predicted.

path, settings = network_in(Path("runs/own/model"))
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from artifacts.json_items import Shape, read_json

MODEL, SUMMARY, NETWORK = "model", "summary.json", "network"  # MODEL: where nothing else is asked for


class ModelSummary(Shape):
    """What a program needs of the summary. scales: the factors on the sides of images, as the model was scored."""

    scales: list[float]


def network_in(path: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of the network, and the settings that go with it; `path` and none where it is no such folder."""
    network = path / NETWORK if (path / SUMMARY).is_file() else path
    summary = network.parent / SUMMARY
    if network.name != NETWORK or not summary.is_file():
        return path, {}
    return network, {"scales": read_json(summary, ModelSummary, "run semiseg run own again").scales}
