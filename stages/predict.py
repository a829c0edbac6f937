"""`predict`: class probabilities and masks of a trained network, for splits of a data set or a folder of images.

    semiseg predict --set splits=[val]
    semiseg predict --set images=holiday/ --set output=masks

The result has `masks/<id>.png` (index masks of the image's size), `scores/` (score maps: softmax at every
`stride`-th pixel) or both, and `classes.json` with the class names and what was predicted. With `--overlays jpg` each
mask is also drawn on its image, `overlays/<id>.jpg`, to look at.

For pseudo labels, `--set image_labels=share` gives the probability of all objects to the image's own labels. With a
classifier (`--classifier mlmt`) only the classes that it predicts for an image, and the background, may win.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pydantic
from pydantic import Field

from artifacts.dataset import Dataset, Split
from artifacts.errors import ConfigError
from artifacts.item_shapes import Reliability, network_class_names
from artifacts.masks import IGNORE, voc_palette, write_mask
from artifacts.store import Artifact, Writer
from stages.config import ExternalFile
from stages.contract import Execution, Input, Inputs, Stage
from stages.data.images import Images, notes_on, open_images, unless_images
from stages.data.overlays import draw_overlay
from stages.engine.config import ImageConfig, ImageLabels
from stages.parallel.share import Share, counted, share_of, share_of_maps

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from artifacts.score_maps import ScoreMapWriter

Labels = Callable[[Sequence[str]], np.ndarray]  # ids -> (B, K): 1 where an image shows a class, else 0; nan: unknown

QUALITY = 90  # of overlays as JPEG
SHARD_SIZE = 100  # images per file of score maps: what a killed run makes again


class PredictConfig(ImageConfig):
    """What to predict, how, and what to keep of it."""

    splits: tuple[Split, ...] = Field(
        ("val",), description="Splits of the data set to predict. Not used with `images`."
    )
    images: ExternalFile = Field("", description="Folder of images (jpg, png, ...), instead of a data set.")
    output: Literal["masks", "probabilities", "both"] = Field(
        "both", description="masks: index PNGs. probabilities: score maps, what the stage crf refines. both."
    )
    confidence: bool = Field(
        False, description="With masks: also keep the highest probability of each pixel, confidence/<id>.png (255 p)."
    )
    overlays: Literal["none", "jpg", "png"] = Field(
        "none",
        description="With masks: also draw each on its image, overlays/<id>.jpg or .png. Sides of more than 2,048\n"
        "pixels are reduced.",
    )
    opacity: float = Field(
        0.5, ge=0, le=1, description="With overlays: of the classes' colours; their outlines are opaque."
    )
    legend: bool = Field(
        True, description="With overlays: the classes that were found, with their share of the pixels, below the image."
    )
    class_threshold: float = Field(
        0.2,
        ge=0,
        le=1,
        description="With a classifier: classes it gives less than this get probability 0 in the whole image, the\n"
        "background never does (s4GAN with MLMT: 0.2).",
    )
    part: Literal["all", "reliable", "unreliable"] = Field(
        "all", description="Only the reliable or the unreliable images of the input `selection` (ST++)."
    )
    stride: int = Field(4, ge=1, le=32, description="Score maps keep every stride-th pixel in both directions.")
    min_class_probability: float = Field(
        0.01,
        ge=0,
        lt=1,
        description="A class whose probability stays below this in the whole image is left out of its score maps,\n"
        "unless it wins a position (class 0, the background, is always kept).",
    )

    @pydantic.model_validator(mode="after")
    def _one_source(self) -> PredictConfig:
        if self.confidence and self.output == "probabilities":
            raise ValueError("confidence needs masks: set output to masks or both")
        if self.overlays != "none" and self.output == "probabilities":
            raise ValueError("overlays need masks: set output to masks or both")
        if self.overlays == "none" and (self.opacity != 0.5 or not self.legend):
            raise ValueError("opacity and legend have no effect without overlays: set overlays to jpg or png")
        if self.images and self.part != "all":
            raise ValueError("part chooses among the images of a data set, but images is a folder")
        if self.white and not self.images:
            raise ValueError("white has no effect without images (a data set says it itself: dataset.white)")
        if not self.images and not self.splits:
            raise ValueError("nothing to predict: give splits, or a folder of images")
        return self


@dataclass(frozen=True)
class PredictInputs(Inputs):
    data: Annotated[
        Artifact | None, Input(("dataset",), "the data set to predict", default=("data",), needed=unless_images)
    ]
    segmenter: Annotated[Artifact, Input(("segmenter",), "the trained network")]
    classifier: Annotated[Artifact | None, Input(("classifier",), "a classifier whose classes alone may win (MLMT)")]
    selection: Annotated[
        Artifact | None,
        Input(
            ("reliability",),
            "which images are reliable, for `part`",
            needed=lambda config, given: config.part != "all",
        ),
    ]
    keep: Annotated[Artifact | None, Input(("masks", "predictions"), "masks to take over instead of predicting them")]


def check(config: PredictConfig, inputs: PredictInputs) -> None:
    """Checks that there are images, labels if they are needed, and a network for the same classes."""
    from stages.networks.loading import check_classes, needs_masks

    images, ids = open_images(inputs.data, config.images, config.splits, config.white)
    ids = chosen_ids(ids, config, inputs.selection)
    keep = inputs.keep
    if keep is not None and (config.output != "masks" or config.confidence):
        raise ConfigError("masks are taken over from 'keep', probabilities cannot be", "set output=masks")
    if keep is not None and config.overlays != "none":
        raise ConfigError(
            "masks that are taken over from 'keep' are not drawn again", "leave overlays out: semiseg sheet draws masks"
        )
    if keep is not None and not (keep.path / "masks").is_dir():
        raise ConfigError(f"artifact {keep.name!r}, given as keep, holds no masks", "make it with output=masks")
    if config.images and config.image_labels != "ignore" and inputs.classifier is None:
        raise ConfigError(
            f"image_labels: {config.image_labels} needs a data set with labels; a folder of images has none",
            "leave it out, or give a classifier that sees the classes (--classifier NAME)",
        )
    names = network_class_names(inputs.segmenter)
    if len(names) > IGNORE:
        raise ConfigError(
            f"the segmenter knows {len(names)} classes; masks and score maps hold {IGNORE} at most",
            "train on fewer classes",
        )
    if inputs.classifier is not None and (others := network_class_names(inputs.classifier)) != names:
        raise ConfigError(
            f"the classifier knows the classes {', '.join(others)}; the segmenter {', '.join(names)}",
            "use networks that were trained on the same classes",
        )
    if inputs.classifier is not None and needs_masks(inputs.classifier):
        raise ConfigError(
            f"classifier {inputs.classifier.name!r} needs predicted masks of the images, which are only made here",
            "give a classifier of another method, such as cam or mlmt",
        )
    if isinstance(images, Dataset):
        check_classes(inputs.segmenter, images.class_names)


def chosen_ids(ids: list[str], config: PredictConfig, selection: Artifact | None) -> list[str]:
    """The ids of the part of the selection that the config asks for; ConfigError when others were ranked."""
    if config.part == "all" or selection is None:  # which every other part needs
        return ids
    record = selection.json("reliability.json", Reliability)
    if unranked := [image_id for image_id in ids if image_id not in record.scores]:
        raise ConfigError(
            f"{len(unranked)} of the {len(ids)} images of {', '.join(config.splits)} are not ranked in "
            f"{selection.name!r}: {', '.join(unranked[:5])}",
            "predict the splits that were ranked, of the data set that was ranked",
        )
    part = set(record.reliable if config.part == "reliable" else record.unreliable)
    if not (chosen := [image_id for image_id in ids if image_id in part]):
        raise ConfigError(
            f"none of the images of {', '.join(config.splits)} is in the {config.part} part of {selection.name!r}",
            "rank more images, or set another share",
        )
    return chosen


def take_over(kept: Artifact | None, ids: Sequence[str], writer: Writer, main: bool) -> list[str]:
    """Copies the masks that `kept` has (the main process does); returns the ids that remain to be predicted."""
    if kept is None:
        return list(ids)
    there = {file.stem for file in (kept.path / "masks").glob("*.png")}
    if main:
        for image_id in sorted(there & set(ids)):
            if not writer.has(f"masks/{image_id}.png"):
                with writer.item(f"masks/{image_id}.png") as temporary:
                    shutil.copyfile(kept.file(f"masks/{image_id}.png"), temporary)
    return [image_id for image_id in ids if image_id not in there]


def run(config: PredictConfig, inputs: PredictInputs, writer: Writer, execution: Execution) -> dict[str, Any]:
    """Predicts what is still missing; under torchrun each rank its share of the images."""
    from artifacts.score_maps import ScoreMapWriter
    from stages.engine.device import autocast_dtype, describe_device, select_device
    from stages.engine.inference import predict_batches
    from stages.networks import load_network
    from stages.networks.folding import for_inference
    from stages.parallel.meeting import barrier

    images, ids = open_images(inputs.data, config.images, config.splits, config.white)
    ids = chosen_ids(ids, config, inputs.selection)
    if execution.rank == 0:
        for sentence in notes_on(images, execution.workers):
            execution.progress.note(sentence)
    todo = take_over(inputs.keep, ids, writer, execution.rank == 0)
    names = network_class_names(inputs.segmenter)
    if execution.rank == 0:
        for remark in _remarks(config, images, todo):
            execution.progress.note(remark)
    device = select_device(execution.device)
    dtype = autocast_dtype(config.precision, device, execution.progress.note)
    network = for_inference(load_network(inputs.segmenter), device, dtype)
    labels = _labels(config, images, inputs.classifier, device, execution)
    with ScoreMapWriter(writer, class_names=names, shard_size=SHARD_SIZE, meaning="probability") as maps:
        share, batches = _plan(config, images, todo, writer, maps, device, execution)
        files = _Files(writer, images, names, config, maps)
        views = predict_batches(network, images, batches, config, device, workers=execution.own_workers)
        threads = ThreadPoolExecutor(max(2, execution.own_workers))
        with counted(writer, execution, "predict", share) as advance, threads:
            for count in _save(views, config, labels, files, threads):
                advance(count)
        if config.output != "masks":
            barrier()  # the parts of every rank are written
            maps.join()
    if execution.rank == 0:
        writer.write_json(
            "classes.json",
            {
                "class_names": list(names),
                "ids": ids,
                "splits": [] if config.images else list(config.splits),
                "output": config.output,
            },
        )
    return {
        "images": len(ids),
        "splits": "own images" if config.images else ", ".join(config.splits),
        "output": config.output,
        "device": describe_device(device),
    }


def _plan(
    config: PredictConfig,
    images: Images,
    ids: list[str],
    writer: Writer,
    maps: ScoreMapWriter,
    device: torch.device,
    execution: Execution,
) -> tuple[Share[Any], Iterable[list[str]]]:
    """The share of this rank, and the batches of what is left of it. They depend on all ids, not on ranks or kills."""
    from stages.engine.inference import batches_of

    if config.output == "masks":

        def made(batch: list[str]) -> bool:
            return all(writer.has(f"masks/{image_id}.png") for image_id in batch)

        masks = share_of(batches_of(images, ids, config, device), execution, made, len)
        return masks, masks.left
    shards = share_of_maps(maps, ids, execution, lambda shard: batches_of(images, shard, config, device), images.size)
    return shards, (batch for shard in shards.left for batch in batches_of(images, shard, config, device))


def _save(
    views: Iterator[tuple[list[str], Tensor]],
    config: PredictConfig,
    labels: Labels | None,
    files: _Files,
    threads: ThreadPoolExecutor,
) -> Iterator[int]:
    """Writes batch after batch; yields how many images are finished.

    While a GPU computes one batch, the one before is copied to the host, and those before that are written.
    """
    from stages.engine.label_sharing import respect_in_place
    from stages.engine.to_host import Transfer, received

    how: ImageLabels = "exclude" if config.image_labels == "ignore" else config.image_labels  # of a classifier alone

    def sent() -> Iterator[tuple[list[str], Transfer]]:
        for ids, probabilities in views:
            if labels is not None:
                respect_in_place(probabilities, labels(ids), how)
            kept = _kept(probabilities, config)
            del probabilities  # gigabytes for a large image, which the next one needs
            yield ids, Transfer(**kept)

    writing: deque[list[Future[None]]] = deque()

    def finish() -> int:
        futures = writing.popleft()
        for future in futures:
            future.result()
        return len(futures)

    for ids, found in received(sent()):
        parts = [{name: values[row] for name, values in found.items()} for row in range(len(ids))]
        writing.append([threads.submit(files.write, *one) for one in zip(ids, parts, strict=True)])
        while len(writing) > 2:
            yield finish()
    while writing:
        yield finish()


def _kept(probabilities: Tensor, config: PredictConfig) -> dict[str, Tensor]:
    """What is kept of a batch, computed where it is: mask, confidence, and what `stored_maps` takes."""
    import torch

    from stages.engine.inference import confidence_indices, most_probable

    kept = {}
    if config.output != "probabilities":
        kept["mask"] = most_probable(probabilities, config.min_confidence)
    if config.confidence:
        kept["confidence"] = confidence_indices(probabilities)
    if config.output != "masks":
        grids = probabilities[:, :, :: config.stride, :: config.stride].contiguous()
        winners = grids.max(1, keepdim=True).indices
        kept["scores"] = _let_win(grids.half(), winners)  # (B, C, h, w)
        kept["highest"] = kept["scores"].amax((2, 3))  # (B, C)
        kept["wins"] = torch.zeros_like(kept["highest"], dtype=torch.bool).scatter_(1, winners.flatten(1), True)
    return kept


def _remarks(config: PredictConfig, images: Images, ids: Sequence[str]) -> Iterator[str]:
    """Messages about the images that are predicted in an unusual way."""
    from stages.engine.inference import large_images
    from stages.engine.label_sharing import unknown_labels

    if remark := large_images(images, ids, config):
        yield remark
    if isinstance(images, Dataset):
        if remark := unknown_labels(images, ids, config.image_labels):
            yield remark
        unused = sum(map(images.has_tags, ids))
        if unused and "image_labels" not in config.model_fields_set and {*config.splits} <= {"weak", "unlabelled"}:
            yield (
                f"the image-level labels of {unused:,} images are not used; for better pseudo labels: "
                "--set image_labels=share"
            )
    if config.image_labels != "ignore" and (scored := [s for s in ("val", "holdout") if s in config.splits]):
        yield (
            f"the predictions of {' and '.join(scored)} use the image-level labels (image_labels: "
            f"{config.image_labels}): their scores are not those of the network alone"
        )


def _labels(
    config: PredictConfig, images: Images, classifier: Artifact | None, device: torch.device, execution: Execution
) -> Labels | None:
    """What is known of the classes in an image: its image-level labels, what a classifier sees, or both; None: nothing.

    Of both, the labels that the classifier sees; of an image without known labels, what it sees.
    """
    from stages.engine.label_sharing import tags_of
    from stages.localization.class_scores import class_scores
    from stages.networks import load_network

    dataset = images if isinstance(images, Dataset) and config.image_labels != "ignore" else None
    if classifier is None:
        return None if dataset is None else partial(tags_of, dataset)
    network = load_network(classifier).to(device)
    side = classifier.recorded("config", "crop_size", int)  # as it was trained and scored

    def seen(ids: Sequence[str]) -> np.ndarray:
        scores = class_scores(network, images, ids, side, device, execution.own_workers)
        classes = seen_classes(scores, config.class_threshold)
        if dataset is None:
            return classes
        tags = tags_of(dataset, ids)
        return np.where(np.isnan(tags), classes, tags * classes)

    return seen


def seen_classes(logits: np.ndarray, threshold: float) -> np.ndarray:
    """float32: 1 where a logit, as a probability, reaches the threshold, else 0."""
    probabilities = (1 + np.tanh(logits.astype(np.float64) / 2)) / 2  # the sigmoid, without overflow
    return (probabilities >= threshold).astype(np.float32)


def _let_win(rounded: Tensor, winners: Tensor) -> Tensor:
    """Raises, in float16 (B, C, h, w), the class that won each position (B, 1, h, w) where another one is first now.

    Of many classes that are about as probable, several round to one number; the winner gets the next higher one.
    """
    import torch

    won = rounded.gather(1, winners)
    higher = (won.view(torch.int16) + 1).view(torch.float16)  # of numbers above 0, the next one
    first = rounded.float().max(1, keepdim=True).indices
    return rounded.scatter_(1, winners, torch.where(first == winners, won, higher))


def stored_maps(
    scores: np.ndarray, highest: np.ndarray, wins: np.ndarray, min_class_probability: float
) -> tuple[np.ndarray, np.ndarray]:
    """The maps (K, h, w) and classes of one image that are kept, of scores (C, h, w), the highest score of each class,
    and whether it wins a position."""
    keep = (highest >= min_class_probability) | wins
    keep[0] = True
    return scores[keep], np.flatnonzero(keep)


@dataclass(frozen=True)
class _Files:
    """Writes what is kept of an image."""

    writer: Writer
    images: Images
    class_names: tuple[str, ...]
    config: PredictConfig
    maps: ScoreMapWriter

    def write(self, image_id: str, found: Mapping[str, np.ndarray]) -> None:
        """Writes what was found in an image: the mask last, since it says that the image is done.

        Only its score map comes later, so that of a whole shard all masks are there.
        """
        if "confidence" in found:
            with self.writer.item(f"confidence/{image_id}.png") as temporary:
                write_mask(temporary, found["confidence"])
        if self.config.overlays != "none":
            self._draw(image_id, found["mask"])
        if "mask" in found:
            with self.writer.item(f"masks/{image_id}.png") as temporary:
                write_mask(temporary, found["mask"])
        if "scores" in found:
            least = self.config.min_class_probability
            scores, classes = stored_maps(found["scores"], found["highest"], found["wins"], least)
            self.maps.add(image_id, scores, classes, size=self.images.size(image_id), stride=self.config.stride)

    def _draw(self, image_id: str, mask: np.ndarray) -> None:
        image, config = self.images.image(image_id), self.config
        palette = self.images.palette if isinstance(self.images, Dataset) else voc_palette()
        drawn = draw_overlay(image, mask, self.class_names, palette, config.opacity, config.legend)
        with self.writer.item(f"overlays/{image_id}.{config.overlays}") as temporary:
            drawn.save(temporary, quality=QUALITY, compress_level=3)


STAGE = Stage(
    name="predict",
    version=5,
    summary="Predict masks and class probabilities with a trained network.",
    config=PredictConfig,
    inputs=PredictInputs,
    output="predictions",
    run=run,
    check=check,
)
