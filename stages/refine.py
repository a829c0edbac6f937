"""`refine`: better score maps from class-activation maps, and masks from them.

    semiseg refine --data data --seeds seeds --refiner train-refiner
    semiseg refine --seeds seeds --refiner train-refiner --name sharper --set method.beta=12
    semiseg refine --seeds refine --method par --name along-colours

The artifact holds the refined maps (scores/, HDF5), label maps made from them (masks/, indexed PNG; unknown pixels
only with `method.margin`) and classes.json. One result of `train-refiner` serves all settings: beta, steps and
background are chosen here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from artifacts.dataset import SPLITS, Dataset
from artifacts.errors import ArtifactError, ConfigError
from artifacts.item_shapes import network_class_names
from artifacts.masks import IGNORE, encode_mask
from artifacts.store import Artifact, Writer
from stages.contract import Execution, Input, Inputs, Stage
from stages.localization.grid import resize_maps
from stages.localization.seed_labels import dense_labels, lead
from stages.parallel.processes import map_in_processes
from stages.parallel.share import counted, images_of, share_of_maps
from stages.refiners.settings import REFINERS, RefineConfig
from stages.refiners.settings.base import ForegroundRefinerSettings, RefinerSettings

if TYPE_CHECKING:
    from artifacts.score_maps import ScoreMaps
    from stages.localization.known_images import KnownImages

SHARD_SIZE = 500  # images in one file of score maps


@dataclass(frozen=True)
class RefineInputs(Inputs):
    data: Annotated[Artifact, Input(("dataset",), "the data set", default=("data",))]
    seeds: Annotated[
        Artifact,
        Input(
            ("seeds", "refined", "predictions"),
            "the score maps to refine; refined maps and probabilities for refiners that read them",
            default=("seeds",),
            fits=lambda artifact: artifact.kind == "seeds",
            made_by=lambda config: "semiseg seeds",
        ),
    ]
    refiner: Annotated[
        Artifact | None,
        Input(
            ("refiner",),
            "the trained network of the refiner",
            default=("train-refiner", "refiner"),
            needed=lambda config, given: config.method.training is not None,
        ),
    ]
    segmenter: Annotated[
        Artifact | None,
        Input(
            ("segmenter",),
            "a segmenter that learned from the images with masks, for refiners that ask it",
            default=("train", "segmenter"),
            needed=lambda config, given: "segmenter" in config.method.inputs(),
        ),
    ]


def check(config: RefineConfig, inputs: RefineInputs) -> None:
    """Checks that the score maps are of the data set, and that the networks are for this refiner and these classes."""
    method = config.method
    _check_maps(method, inputs.seeds)
    dataset, _, ids = _open(config, inputs)
    method.check_images(ids)
    for key, artifact, taken in (
        ("refiner", inputs.refiner, method.training is not None),
        ("segmenter", inputs.segmenter, "segmenter" in method.inputs()),
    ):
        if artifact is None:
            continue
        if not taken:
            raise ConfigError(f"{method.name} does not use the input {key!r}", f"leave --{key} out")
        if key == "refiner":
            _check_training(artifact, config)
        known = network_class_names(artifact)
        if list(known) != list(dataset.class_names):
            raise ConfigError(
                f"{artifact.name!r} knows the classes {', '.join(known)}; the data set has "
                f"{', '.join(dataset.class_names)}",
                f"give a {key} that was trained on this data set",
            )


def _check_maps(method: RefinerSettings, seeds: Artifact) -> None:
    from artifacts.score_maps import INDEX

    if seeds.kind not in method.reads:
        able = [name for name, settings in REFINERS.items() if seeds.kind in settings.reads]
        raise ConfigError(
            f"{method.name} refines class-activation maps alone; {seeds.name!r} has {seeds.kind}",
            f"give what seeds made, or choose --method {' or '.join(able)}",
        )
    if INDEX not in seeds.items:  # predictions may be masks alone
        raise ArtifactError(
            f"artifact {seeds.name!r} ({seeds.kind}) has masks only, refine needs score maps",
            "predict with output=probabilities or output=both",
        )


def _check_training(refiner: Artifact, config: RefineConfig) -> None:
    wanted, trained = config.method.training().name, refiner.recorded("config", "method", dict).get("name")
    if trained != wanted:
        raise ConfigError(
            f"{refiner.name!r} was trained for {trained}; {config.method.name} takes what was trained for {wanted}",
            f"give what train-refiner --method {wanted} made, or choose --method {trained}",
        )


def _open(config: RefineConfig, inputs: RefineInputs) -> tuple[Dataset, KnownImages, list[str]]:
    from stages.localization.known_images import known_images

    method = config.method
    images, ids = known_images(
        inputs.data, inputs.seeds, config.splits, "masks" in method.card.uses, method.takes_unlabelled
    )
    return images.dataset, images, ids


def run(config: RefineConfig, inputs: RefineInputs, writer: Writer, execution: Execution) -> dict[str, Any]:
    """Refines shard by shard what is still missing, then makes the masks; under torchrun each rank its share."""
    from artifacts.score_maps import ScoreMaps, ScoreMapWriter
    from stages.evaluation.mask_quality import quality_of_masks
    from stages.localization.complete_maps import count_empty_maps
    from stages.localization.predicted_masks import ignored_labels
    from stages.parallel.meeting import barrier
    from stages.refiners.first_pass import decide_first

    dataset, images, ids = _open(config, inputs)
    if execution.rank == 0 and (remark := ignored_labels(inputs.seeds)):
        execution.progress.note(remark)
    scores = ScoreMapWriter(writer, class_names=dataset.class_names, shard_size=SHARD_SIZE, meaning="refined")
    shards = share_of_maps(scores, ids, execution, partial(images.batches_of, batch_size=_batch_size(config)))
    barrier()  # every rank reads the index
    masks = images_of(shards, made=lambda image_id: writer.has(f"masks/{image_id}.png"))
    whole_set, figures = config.method.whole_set, {}
    batches_of = partial(images.batches, batch_size=_batch_size(config), threads=execution.own_workers)
    refiner: Any = _refiner(config, inputs, images, execution) if shards.left or whole_set else None
    if whole_set:
        figures = decide_first(refiner, ids, batches_of, writer, execution)
    with counted(writer, execution, "refine", shards, masks, unit="maps and masks") as advance:
        with scores:
            for shard in shards.left:
                for found in refiner.refine(batches_of(shard)):
                    scores.add(found.image_id, found.scores, found.classes, size=found.size, stride=found.stride)
                    advance()
        barrier()  # the parts of every rank are written
        scores.join()
        barrier()
        task = MaskJob(dataset, ScoreMaps(writer.path), *_background(config), writer)
        for _ in map_in_processes(write_mask_of, task, masks.left, execution.own_workers):
            advance()
    barrier()  # the masks of every rank are written
    splits: Sequence[str] = config.splits or tuple(split for split in SPLITS if set(dataset.ids(split)) & set(ids))
    quality = quality_of_masks(dataset, writer, splits, execution)
    if execution.rank != 0:
        return {}
    writer.write_json("classes.json", {"class_names": list(dataset.class_names), "ids": ids, "splits": list(splits)})
    empty = count_empty_maps(task.maps, execution.progress.note)
    found = {"images": len(ids), "method": config.method.name, "empty_maps": empty, "quality": quality}
    return found | ({"whole_set": figures} if whole_set else {})


def _batch_size(config: RefineConfig) -> int:
    return int(getattr(config.method, "batch_size", 1))


def _background(config: RefineConfig) -> tuple[float, float]:
    """The score that a class must exceed, also where the background has a map of its own, and by how much."""
    method = config.method
    return (method.background, method.margin) if isinstance(method, ForegroundRefinerSettings) else (0.0, 0.0)


def _refiner(config: RefineConfig, inputs: RefineInputs, images: KnownImages, execution: Execution) -> Any:
    """The refiner with its network on the device, ready to start."""
    from stages.engine.device import autocast_dtype, select_device
    from stages.networks import load_network
    from stages.refiners import load_refiner
    from stages.refiners.refiner import Means

    device = select_device(execution.device)
    trained = inputs.refiner
    dtype = autocast_dtype(config.precision, device, execution.progress.note)
    means = Means(device, dtype, execution.own_workers)
    more = {"segmenter": load_network(inputs.segmenter)} if inputs.segmenter else {}
    refiner = load_refiner(config.method.name)(config.method, load_network(trained) if trained else None, means, **more)
    refiner.start(images.dataset, images.scores)
    return refiner


@dataclass(frozen=True)
class MaskJob:
    """What a process needs to make masks of refined maps. Made of what is stored, so that a continued run agrees."""

    dataset: Dataset
    maps: ScoreMaps
    background: float
    margin: float
    writer: Writer


def write_mask_of(task: MaskJob, image_id: str) -> None:
    """Writes masks/<id>.png: the class with the highest score, or background where none exceeds its score."""
    found = task.maps[image_id]
    scores = resize_maps(found.scores, found.size, found.stride)
    background = 0.0 if 0 in found.classes else task.background  # it has a map of its own
    labels = dense_labels(scores, found.classes, background)
    if task.margin > 0:
        labels[lead(scores, background) < task.margin] = IGNORE
    task.writer.write_bytes(f"masks/{image_id}.png", encode_mask(labels, task.dataset.palette))


STAGE = Stage(
    name="refine",
    version=2,
    summary="Refine class-activation maps: better score maps, and masks made of them.",
    config=RefineConfig,
    inputs=RefineInputs,
    output="refined",
    run=run,
    check=check,
)
