"""Loads a trained network from its artifact: network.json + weights.pt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from artifacts.errors import ArtifactError, ConfigError
from artifacts.item_shapes import NetworkSpec, network_class_names
from artifacts.json_items import MAKE_AGAIN
from artifacts.store import Artifact, read_item
from stages.networks.registry import class_of
from stages.networks.segmenter import seeded
from stages.networks.weights import load_strictly, read_state


def load_network(source: Any, weights: str = "weights.pt") -> Any:
    """The network of an artifact (or of a folder with network.json and weights.pt), on the CPU, in eval mode.

    Its class is the one that registered the kind in network.json: `Segmenter`, a `CamNetwork`, or another.
    `weights` may name a snapshot ("snapshots/300.pt", see `snapshots_of`).
    `network.class_names` holds the class names (background first), `network.inference` the settings of prediction that
    it records. Raises ArtifactError: a file is missing or damaged, or the two disagree.
    """
    folder = Path(getattr(source, "path", source))
    file = folder / "network.json"
    spec = read_item(source, file.name, NetworkSpec, "give an artifact of train, train-classifier or retrain")
    network = _rebuild(spec, file)
    try:
        load_strictly(network, read_state(folder / weights), str(folder / weights), f"{file}")
    except ConfigError as error:
        raise ArtifactError(error.message, "the two files belong to different runs: rerun the stage") from error
    return network.eval()


def needs_masks(source: Any) -> bool:
    """Whether the classifier of an artifact must be given predicted masks with the images (see `CamNetwork`)."""
    file = Path(getattr(source, "path", source)) / "network.json"
    spec = read_item(source, file.name, NetworkSpec, "give an artifact of train-classifier")
    return bool(getattr(_class_of(spec, file), "needs_masks", False))


def snapshots_of(source: Any) -> dict[int, str]:
    """The snapshots in an artifact of `train`, without the last weights: {step: file below the artifact}, ascending."""
    folder = Path(getattr(source, "path", source))
    steps = sorted(int(file.stem) for file in (folder / "snapshots").glob("*.pt"))
    return {step: f"snapshots/{step}.pt" for step in steps}


def check_classes(segmenter: Artifact, class_names: Sequence[str]) -> None:
    """ConfigError if the classes of a segmenter differ from those of a data set."""
    known = network_class_names(segmenter)
    if list(known) != list(class_names):
        raise ConfigError(
            f"the network knows the classes {', '.join(known)}; the data set has {', '.join(class_names)}",
            "give a network trained on this data set's classes",
        )


def _rebuild(spec: NetworkSpec, file: Path) -> Any:
    """The architecture of a network.json with weights that are about to be overwritten."""
    kind = _class_of(spec, file)
    try:
        with seeded(0):
            network = kind.from_spec(spec.model_dump(by_alias=True))
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{file} does not describe a network: {error}", MAKE_AGAIN) from error
    network.pretrained = tuple(spec.pretrained)
    network.class_names = tuple(spec.class_names)
    network.inference = dict(spec.inference)
    return network


def _class_of(spec: NetworkSpec, file: Path) -> Any:
    try:
        return class_of(*spec.class_of_network())
    except ValueError as error:
        raise ArtifactError(f"{file} does not describe a network: {error}", MAKE_AGAIN) from error
