"""From a config to a trained network on disk: the common part of the stages that train."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from artifacts import checkpoint
from artifacts.dataset import Dataset
from artifacts.errors import ConfigError, DataError
from artifacts.feature_maps import FeatureMaps
from artifacts.score_maps import ScoreMaps
from artifacts.store import Artifact, Writer
from artifacts.text import amount
from stages.contract import Execution
from stages.engine import distributed
from stages.engine.config import InferenceConfig
from stages.engine.device import select_device
from stages.engine.kept_features import made_with, open_features
from stages.engine.loop import fit
from stages.engine.method import Method, Setup, Sources
from stages.engine.randomness import derive_seed
from stages.engine.streams import MaskFolder, SampleMaker, Stream
from stages.methods import load_method
from stages.methods.settings.base import LabellingSettings
from stages.networks.weights import read_state

if TYPE_CHECKING:
    from stages.methods.settings import MethodTraining


def train_network(
    config: MethodTraining,
    dataset: Dataset,
    sources: Sources,
    writer: Writer,
    execution: Execution,
    initial: Artifact | None = None,
    kind: type[Method] | None = None,
    features: Artifact | None = None,
) -> dict[str, Any]:
    """Trains and writes weights.pt and network.json; returns the summary.

    initial: a network to start from. kind: the method's class, if it is not one of METHODS. features: kept ones of the
    frozen encoder.
    """
    kind = kind or load_method(config.method.name)
    streams = kind.streams(config.method, sources, config.batch_size)
    check_labels(streams, sources.folders, dataset)
    check_maps(streams, sources.maps, dataset)
    setup = Setup(
        network=config.network,
        num_classes=dataset.num_classes,
        seed=derive_seed(config.seed, "network"),
        iterations=config.iterations,
        workers=execution.own_workers,
        initial=read_state(initial.file("weights.pt")) if initial else None,
        hard_examples=getattr(config, "hard_examples", None),
        crop_size=config.crop_size,
    )
    method = kind(config.method, setup)
    method.start(sources)
    as_drawn = {name: stream for name, stream in streams.items() if name in config.method.as_drawn}
    kept = _kept_features(features, method, config, as_drawn, execution) if features else None
    maker = SampleMaker(
        dataset,
        on_cells_of(method, streams),
        {"masks": dataset, **sources.folders},
        config.augmentation,
        config.crop_size,
        config.seed,
        distributed.rank(),
        distributed.world_size(),
        maps=sources.maps,
        features=kept,
        encoded=as_drawn,
    )
    if distributed.rank() == 0:
        if note := use_of_image_labels(config.method, streams, dataset):
            execution.progress.note(note)
        for name, stream in streams.items():
            if (number := len({entry.image_id for entry in stream.entries})) < stream.batch_size:
                execution.progress.note(
                    f"{name}: {amount(number, 'image')} for batches of {stream.batch_size}, which hold some twice"
                )
            alike = maker.orders[name].alike
            if alike is not None and (few := alike.short(stream.group - 1)):
                execution.progress.note(
                    f"{name}: {few} of {number} images share an image-level label with fewer than {stream.group - 1} "
                    "others, their groups hold images twice"
                )
    steps = snapshot_steps(config.iterations, getattr(config, "snapshots", 1))
    try:
        fitted = fit(
            method,
            maker,
            config,
            writer,
            execution,
            lambda step, network: _write_weights(writer, f"snapshots/{step}.pt", network),
            steps,
        )
    finally:
        for maps in sources.maps.values():
            maps.close()  # what follows may fork
    method.after_training(fitted.predictor, sources)
    if distributed.rank() == 0:
        publish_network(writer, fitted.predictor, dataset.class_names, getattr(config, "inference", None))
    counts = {name: len({entry.image_id for entry in stream.entries}) for name, stream in streams.items()}
    summary = {"method": config.method.name, "images": counts, **fitted.summary}
    return summary | ({"snapshots": [*steps, config.iterations]} if steps else {})


def _kept_features(
    artifact: Artifact, method: Method, config: MethodTraining, streams: Mapping[str, Stream], execution: Execution
) -> FeatureMaps:
    """The features of the images of these streams, if they are those that the method's encoder would make."""
    network = cast(Any, method.predictor)
    settings = (config.network.backbone, config.crop_size, config.augmentation, config.precision)
    wanted = made_with(network.backbone, *settings, select_device(execution.device))
    ids = {entry.image_id for stream in streams.values() for entry in stream.entries}
    return open_features(artifact, network.reads, wanted, ids)


def label_sources(
    dataset: Dataset,
    strong: Sequence[str],
    weak: Sequence[str],
    mask_folders: Mapping[str, Path],
    unlabelled: Sequence[str] = (),
    maps: Mapping[str, ScoreMaps] | None = None,
) -> Sources:
    """The image lists and label maps of a segmenter's training.

    Args:
        strong: ids trained on with the data set's masks; weak: ids without; unlabelled: ids without any label.
        mask_folders: label sources beside the data set's own masks: "weak_labels", "seeds", "confidence".
        maps: score maps that came with them.
    """
    folders = {
        name: MaskFolder(folder, None if name == "confidence" else dataset.num_classes)
        for name, folder in mask_folders.items()
    }
    return Sources(strong, weak, frozenset({"masks", *folders}), dataset, unlabelled, folders=folders, maps=maps or {})


def use_of_image_labels(settings: Any, streams: Mapping[str, Stream], dataset: Dataset) -> str:
    """What `settings` make of the image-level labels of the images that the networks label; "" where nothing."""
    if not isinstance(settings, LabellingSettings) or settings.image_labels == "ignore":
        return ""
    masked = settings.labels_masked()
    labelled = {e.image_id for stream in streams.values() for e in stream.entries if masked or e.label != "masks"}
    known = sum(dataset.has_tags(image_id) for image_id in labelled)
    if known == 0 or getattr(settings, "weight", 1) == 0:
        return ""
    does = {"share": "share the foreground among", "exclude": "leave out the classes that are not among"}
    return (
        f"pseudo labels {does[settings.image_labels]} the image-level labels of {known} of {len(labelled)} "
        f"{'' if masked else 'unlabelled '}images; --set method.image_labels=ignore: as published"
    )


def snapshot_steps(iterations: int, snapshots: int) -> list[int]:
    """Steps after which snapshots are kept, evenly spaced, without the last step."""
    steps = {round(iterations * i / snapshots) for i in range(1, snapshots)}
    return sorted(steps - {0, iterations})


def check_labels(streams: Mapping[str, Stream], folders: Mapping[str, MaskFolder], dataset: Dataset) -> None:
    """One DataError, before the first step, for all missing label maps of the streams."""
    for stream in streams.values():
        for source in sorted({entry.label for entry in stream.entries if entry.label is not None}):
            wanted = sorted({entry.image_id for entry in stream.entries if entry.label == source})
            if source in folders:
                missing, place = folders[source].missing(wanted), f" in {folders[source].folder}"
            else:
                missing, place = [image_id for image_id in wanted if not dataset.has_mask(image_id)], ""
            if missing:
                raise DataError(
                    f"{source}: {len(missing)} of {len(wanted)} images have no label map{place}: "
                    f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}",
                    "make them for the whole split that the method trains on",
                )


def check_maps(streams: Mapping[str, Stream], maps: Mapping[str, ScoreMaps], dataset: Dataset) -> None:
    """DataError when the score maps that streams carry are not all there, or are of other classes."""
    for name, stream in streams.items():
        if stream.maps is None:
            continue
        source = stream.maps.source
        if source not in maps:
            raise ConfigError(
                f"the stream {name!r} carries score maps, and the input {source!r} has none",
                f"give --{source.replace('_', '-')} an artifact of seeds, refine, or predict with probabilities",
            )
        if maps[source].class_names != dataset.class_names:
            raise DataError(
                f"the score maps {source} are of the classes {', '.join(maps[source].class_names)}; "
                f"the data set has {', '.join(dataset.class_names)}",
                "use artifacts that were made from the same data set",
            )
        wanted = {entry.image_id for entry in stream.entries}
        if missing := sorted(wanted - set(maps[source].ids)):
            raise DataError(
                f"{source}: {len(missing)} of {len(wanted)} images have no score maps in {maps[source].path}: "
                f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}",
                "make them for the whole split the method trains on",
            )


def on_cells_of(method: Method, streams: Mapping[str, Stream]) -> dict[str, Stream]:
    """The streams, whose score maps lie on the cells of the method's network where they ask for no others."""
    given = {}
    for name, stream in streams.items():
        if stream.maps is not None and stream.maps.stride is None:
            stride = cast(int, method.predictor.stride)
            stream = dataclasses.replace(stream, maps=dataclasses.replace(stream.maps, stride=stride))
        given[name] = stream
    return given


def publish_network(
    writer: Writer, network: nn.Module, class_names: Sequence[str], inference: InferenceConfig | None = None
) -> None:
    """Writes weights.pt (fp32, on the CPU) and network.json, which `load_network` reads.

    inference: how its images are to be predicted where nothing else is said.
    """
    _write_weights(writer, "weights.pt", network)
    settings = inference.model_dump(mode="json", exclude_defaults=True) if inference else {}
    recorded = {"inference": settings} if settings else {}
    writer.write_json("network.json", {**cast(Any, network).spec(class_names), **recorded})


def _write_weights(writer: Writer, item: str, network: nn.Module) -> None:
    state = {name: value.detach().cpu() for name, value in network.state_dict().items()}
    with writer.item(item) as temporary:
        checkpoint.save(temporary, state)


__all__ = ["check_labels", "check_maps", "label_sources", "publish_network", "snapshot_steps", "train_network"]
