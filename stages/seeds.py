"""`seeds`: localises the objects with a classifier and the image-level labels.

    semiseg seeds --data data --classifier classifier
    semiseg seeds --data data --maps seeds --name dense --set labels=dense --set labels.background.score=0.3
    semiseg seeds --data data --set source=clip --set source.weights=ViT-B-16.pt

The artifact holds multi-scale class-activation maps (scores/, HDF5), the saliency that was computed (saliency/, PNG)
and the label maps made of both (masks/, indexed PNG, 255 = unknown). `maps` takes the maps of earlier
seeds, or refined ones, so that thresholds can be tried without the network. With source=clip they are of CLIP, and no
classifier is needed. A classifier of conta is given predicted masks with the images (--predictions).
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from artifacts.errors import ArtifactError, ConfigError, DataError
from artifacts.item_shapes import network_class_names
from artifacts.store import Artifact, Writer
from stages.config import mistakes
from stages.contract import Execution, Input, Inputs, Stage, has_snapshots
from stages.localization.map_source import MapSource
from stages.localization.seeds_config import (
    ActivationBackground,
    ActivationMapConfig,
    ClipSource,
    ComputedSaliency,
    ConstantBackground,
    DenseRule,
    GradientBackground,
    NoBackground,
    SaliencyFolder,
    SaliencyRule,
    SeedRule,
    SeedsConfig,
)
from stages.parallel.jobs import Jobs
from stages.parallel.meeting import barrier
from stages.parallel.processes import process_pool
from stages.parallel.share import counted, images_of, share_of_maps

AHEAD = 2  # shards whose saliency is begun before their maps
SHARD_SIZE = 500  # images in one file of class-activation maps


def _classifier_needed(config: SeedsConfig, given: Collection[str]) -> bool:
    """Unless score maps are reused or of CLIP, and the background does not come from the classifier."""
    by_classifier = "maps" not in given and not isinstance(config.source, ClipSource)
    return by_classifier or isinstance(config.labels.background, GradientBackground)


@dataclass(frozen=True)
class SeedsInputs(Inputs):
    data: Annotated[Artifact, Input(("dataset",), "the data set", default=("data",))]
    classifier: Annotated[
        Artifact | None,
        Input(
            ("classifier",),
            "the network whose activation maps are taken",
            default=("classifier",),
            needed=_classifier_needed,
        ),
    ]
    maps: Annotated[
        Artifact | None, Input(("seeds", "refined"), "maps of earlier seeds, or refined ones, that are used")
    ]
    predictions: Annotated[
        Artifact | None,
        Input(
            ("predictions", "masks", "refined"),
            "predicted masks of the images, for a classifier that needs them (conta)",
        ),
    ]


def check(config: SeedsConfig, inputs: SeedsInputs) -> None:
    """Refuses inputs that do not belong together, and a saliency folder with missing files."""
    from artifacts.dataset import Dataset
    from stages.data.images import ids_of
    from stages.localization.clip_texts import check_clip

    dataset, classifier, maps = Dataset(inputs.data), inputs.classifier, inputs.maps
    dataset.require_background("the stage seeds")
    ids = ids_of(dataset, config.splits)
    background = config.labels.background
    if classifier is not None:
        found = network_class_names(classifier)
        _same_classes(found, dataset.class_names, f"classifier {classifier.name!r}")
    _check_predictions(inputs, dataset, ids)
    if isinstance(config.source, ClipSource) and maps is None:
        if classifier is not None and not isinstance(background, GradientBackground):
            raise ConfigError("the input classifier has no effect with source: clip", "leave out --classifier")
        check_clip(config.source, dataset.class_names)
    joined = config.cam.snapshots == "all" and maps is None
    if classifier is not None and joined and not has_snapshots(classifier):
        raise ConfigError(
            f"cam.snapshots is all, and the classifier {classifier.name!r} has the last weights only",
            "train it with snapshots (train-classifier --set snapshots=15), or leave cam.snapshots out",
        )
    if maps is not None:
        _check_maps(config, maps, dataset.class_names, ids)
    if isinstance(background, SaliencyFolder):
        missing = [image_id for image_id in ids if not (background.folder / f"{image_id}.png").is_file()]
        if missing:
            raise DataError(
                f"{background.folder} has no saliency map for {len(missing)} of {len(ids)} images, "
                f"e.g. {missing[0]}.png",
                "add the files, or choose another labels.background.kind, such as saliency",
            )


def _check_predictions(inputs: SeedsInputs, dataset: Any, ids: Sequence[str]) -> None:
    """Masks are given if the classifier needs them, of all images; otherwise they are refused."""
    from stages.localization.predicted_masks import masks_of
    from stages.networks.loading import needs_masks

    classifier, predictions = inputs.classifier, inputs.predictions
    needed = classifier is not None and needs_masks(classifier)
    if predictions is None and classifier is not None and needed:
        raise ConfigError(
            f"classifier {classifier.name!r} needs predicted masks of the images, as it was trained with",
            "--predictions NAME, the artifact that it was trained with, or one of predict for further images",
        )
    if predictions is not None and not needed:
        raise ConfigError(
            "predictions has no effect: no classifier that needs predicted masks is used", "leave out --predictions"
        )
    if predictions is not None:
        masks_of(predictions, dataset, ids)


def _check_maps(config: SeedsConfig, maps: Artifact, class_names: Sequence[str], ids: Sequence[str]) -> None:
    from artifacts.score_maps import ScoreMaps
    from stages.localization.complete_maps import score_background

    earlier = ScoreMaps(maps)
    _same_classes(earlier.class_names, class_names, f"maps {maps.name!r}")
    if score_background(earlier):
        raise ArtifactError(
            f"maps {maps.name!r} score the background, too: no rule is to find it",
            f"use its masks, or semiseg crf --predictions {maps.name}",
        )
    if missing := sorted(set(ids) - set(earlier.ids)):
        raise ArtifactError(
            f"maps {maps.name!r} has no class-activation maps for {len(missing)} of {len(ids)} images, "
            f"e.g. {missing[0]}",
            "choose the splits it was made for, or compute the maps: leave out --maps",
        )
    if isinstance(config.source, ClipSource):
        raise ConfigError("source has no effect with the input maps", "leave out source, or --maps")
    made = maps.recorded("config", "cam", dict) if maps.kind == "seeds" else {}
    if config.cam not in (ActivationMapConfig.model_validate({}), mistakes(ActivationMapConfig, made)[0]):
        raise ConfigError(
            f"cam differs from the settings that made maps {maps.name!r}, and would have no effect",
            "leave cam out, or compute the maps: leave out --maps",
        )


def large_images(dataset: Any, ids: Sequence[str], max_pixels: int) -> int:
    """How many of the images have more pixels than that."""
    sizes = (dataset.size(image_id) for image_id in ids)
    return sum(height * width > max_pixels for height, width in sizes)


def _same_classes(found: Sequence[str], expected: Sequence[str], what: str) -> None:
    if list(found) != list(expected):
        raise ArtifactError(
            f"{what} has the classes {', '.join(found)}; the data set has {', '.join(expected)}",
            "use artifacts that were made from the same data set",
        )


def run(config: SeedsConfig, inputs: SeedsInputs, writer: Writer, execution: Execution) -> dict[str, Any]:
    """Class-activation maps shard by shard on the device; saliency and label maps in other processes meanwhile."""
    from artifacts.dataset import Dataset
    from artifacts.score_maps import ScoreMaps, ScoreMapWriter
    from stages.data.images import ids_of
    from stages.evaluation.mask_quality import quality_of_masks
    from stages.localization.complete_maps import UNTRAINED, count_empty_maps

    dataset, maps = Dataset(inputs.data), inputs.maps
    _opened_maps.cache_clear()  # of another run in this process
    everything = ids_of(dataset, config.splits)
    same = maps.path if maps and _same_saliency(config, maps) else None
    job = LabelJob(dataset, writer, config.labels, same)
    source = MapSource(
        config, dataset, everything, inputs.maps, inputs.classifier, inputs.predictions, writer, execution
    )
    if execution.rank == 0 and (large := large_images(dataset, everything, config.max_pixels)):
        execution.progress.note(
            f"{large:,} of {len(everything):,} images have more than {config.max_pixels:,} pixels: a copy of so many "
            "pixels stands for each (max_pixels); maps and labels have the image's size"
        )

    meaning = ScoreMaps(maps).meaning if maps else "cam"
    scores = ScoreMapWriter(writer, class_names=dataset.class_names, shard_size=SHARD_SIZE, meaning=meaning)
    shards = share_of_maps(scores, everything, execution, source.batches, dataset.size)
    if execution.rank == 0 and source.partners:
        writer.write_json("partners.json", source.partners)
    if execution.rank == 0 and source.clip is not None:
        source.clip.store_vectors()
    barrier()  # every rank reads the index
    masks = images_of(shards, made=lambda image_id: writer.has(f"masks/{image_id}.png"))
    unlabelled, parts = set(masks.left), []
    counting = counted(writer, execution, "seeds", shards, masks, unit="maps and masks")
    with _pool(execution.own_workers) as pool, counting as advance:
        jobs = Jobs(pool, advance)

        def begin(function: Callable[[Sequence[str]], int], shard: tuple[str, ...]) -> None:
            jobs.submit(function, [image_id for image_id in shard if image_id in unlabelled])

        for shard in shards.own[:AHEAD]:
            begin(job.prepare_saliency, shard)
        if isinstance(config.labels.background, GradientBackground):
            source.write_gradients(writer, [image_id for shard in shards.own for image_id in shard])
        with scores:
            for number, shard in enumerate(shards.own):
                for ahead in shards.own[number + AHEAD : number + AHEAD + 1]:
                    begin(job.prepare_saliency, ahead)
                for found in source.maps(left) if (left := scores.left(shard)) else ():
                    scores.add(found.image_id, found.scores, found.classes, size=found.size, stride=found.stride)
                    advance()
                if scores.holds(shard):
                    begin(job.label, shard)
                else:
                    parts.append(shard)
        barrier()  # every rank's parts are written
        scores.join()
        barrier()
        for shard in parts:
            begin(job.label, shard)
        jobs.finish()
        barrier()  # every rank's label maps are written
    quality, empty = quality_of_masks(dataset, writer, config.splits, execution), 0
    if execution.rank == 0:
        cause = "CLIP finds none of their classes; try other texts (source.texts)" if source.clip else UNTRAINED
        empty = count_empty_maps(ScoreMaps(writer.path), execution.progress.note, cause)
    return {
        "images": {split: len(dataset.ids(split)) for split in config.splits},
        "mode": config.labels.mode,
        "background": config.labels.background.kind,
        "maps": f"of artifact {maps.name}" if maps else "of CLIP" if source.clip else "computed",
        "empty_maps": empty,
        "quality": quality,
        "device": source.device_name,
    }


@functools.lru_cache(maxsize=1)
def _opened_maps(folder: Path) -> Any:
    """The score maps that are being made. Their index is whole before the first image, and each shard that is read."""
    from artifacts.score_maps import ScoreMaps

    return ScoreMaps(folder)


@dataclass(frozen=True)
class LabelJob:
    """What a pool process needs to make saliency and label maps of images known by id. Loads no torch.

    Label maps are always made of what is stored (float16 scores, 8-bit saliency), so a run that was cut off and
    continued writes the same bytes.
    """

    data: Any  # the data set
    writer: Writer
    rule: SeedRule | DenseRule | SaliencyRule
    earlier: Path | None  # an artifact whose saliency was computed with the same settings

    def prepare_saliency(self, ids: Sequence[str]) -> int:
        """Computes saliency/<id>.png where it is wanted and missing. Returns 0: no label map was made."""
        if isinstance(self.rule.background, ComputedSaliency):
            for image_id in ids:
                self._compute_saliency(image_id, self.rule.background)
        return 0

    def label(self, ids: Sequence[str]) -> int:
        """Writes masks/<id>.png; returns how many."""
        from artifacts.masks import encode_mask

        maps = _opened_maps(self.writer.path)
        for image_id in ids:
            labels = self._labels(maps[image_id])
            self.writer.write_bytes(f"masks/{image_id}.png", encode_mask(labels, self.data.palette))
        maps.close()  # the files: the next images may be of other shards
        return len(ids)

    def _labels(self, found: Any) -> Any:
        from stages.localization.grid import resize_maps
        from stages.localization.seed_labels import dense_labels, saliency_labels, seed_labels

        scores = resize_maps(found.scores, found.size, found.stride)
        if isinstance(self.rule, DenseRule):
            ground = self.rule.background
            if isinstance(ground, ConstantBackground):
                return dense_labels(scores, found.classes, ground.score)
            return dense_labels(scores, found.classes, alpha=ground.alpha)
        rule = self.rule
        if isinstance(rule, SaliencyRule):
            saliency = self._saliency(found.image_id, rule.background, found.size)
            return saliency_labels(scores, found.classes, saliency, rule.background.threshold, rule)
        background = self._background(found.image_id, scores)
        return seed_labels(scores, found.classes, background, rule.threshold, rule.overlap, rule.conflict)

    def _background(self, image_id: str, scores: Any) -> Any:
        from stages.localization.saliency import read_saliency
        from stages.localization.seed_labels import sure_background

        assert isinstance(self.rule, SeedRule)
        background, size = self.rule.background, scores.shape[1:]
        if isinstance(background, NoBackground):
            return None
        if isinstance(background, ActivationBackground):
            return sure_background(scores, background.alpha)
        if isinstance(background, GradientBackground):
            return read_saliency(self.writer.path / "saliency" / f"{image_id}.png", size) < background.share
        return self._saliency(image_id, background, size) < background.threshold

    def _saliency(self, image_id: str, wanted: ComputedSaliency | SaliencyFolder, size: Any) -> Any:
        """The saliency of an image, from its file: of the folder, or as it was computed and is stored."""
        from stages.localization.saliency import read_saliency

        if isinstance(wanted, SaliencyFolder):
            return read_saliency(wanted.folder / f"{image_id}.png", size)
        self._compute_saliency(image_id, wanted)
        return read_saliency(self.writer.path / "saliency" / f"{image_id}.png", size)

    def _compute_saliency(self, image_id: str, wanted: ComputedSaliency) -> None:
        from stages.localization.saliency import boundary_connectivity, encode_saliency

        relative = f"saliency/{image_id}.png"
        if self.writer.has(relative):
            return
        if self.earlier is not None and (self.earlier / relative).is_file():
            self.writer.write_bytes(relative, (self.earlier / relative).read_bytes())
        else:
            image = self.data.image(image_id)
            found = boundary_connectivity(image, wanted.superpixels, wanted.terms)
            self.writer.write_bytes(relative, encode_saliency(found))


def _same_saliency(config: SeedsConfig, maps: Artifact) -> bool:
    """Whether `maps` holds saliency computed as `config` wants it, whatever its threshold."""
    if maps.kind != "seeds" or maps.manifest.stage_version != STAGE.version:
        return False
    wanted, earlier = config.labels.background, maps.recorded("config", "labels", dict).get("background")
    return (
        isinstance(wanted, ComputedSaliency)
        and isinstance(earlier, dict)
        and all(earlier.get(name) == getattr(wanted, name) for name in ("kind", "terms", "superpixels"))
    )


@contextmanager
def _pool(workers: int) -> Iterator[Executor]:
    """Processes of one thread each; waiting jobs are dropped when the block ends by an error."""
    for name in ("activation_maps", "saliency"):  # scipy, which two threads must not import at a time
        importlib.import_module(f"stages.localization.{name}")
    pool: Executor = process_pool(workers) if workers > 1 else ThreadPoolExecutor(1)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


STAGE = Stage(
    name="seeds",
    version=4,
    summary="Locate objects: class-activation maps, saliency, and seeds or dense masks made of them.",
    config=SeedsConfig,
    inputs=SeedsInputs,
    output="seeds",
    run=run,
    check=check,
)
