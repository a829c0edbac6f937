"""`crf`: masks refined by the dense CRF, from class probabilities (predict) or class-activation maps (seeds).

    semiseg crf --predictions predictions --set parameters=deeplab-v2

Only the labels that can win a pixel of an image take part, which is several times faster than all of them and changes
almost nothing. Images are distributed over processes; a GPU refines several at once. The result has `masks/<id>.png`
and `classes.json`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from artifacts.dataset import SPLITS, Dataset, Split
from artifacts.errors import ArtifactError, ConfigError, DataError, SemisegError, about
from artifacts.masks import IGNORE, write_mask
from artifacts.store import Artifact, Writer
from artifacts.text import amount
from stages.config import ExternalFile
from stages.contract import Execution, Input, Inputs, Stage
from stages.data.images import Images, open_images, unless_images
from stages.localization.config import CrfConfig
from stages.localization.crf_batches import gpu_for, refined_on_gpu
from stages.localization.crf_parameters import CrfParameters
from stages.localization.dense_crf import CrfProblem, crf_problem, present
from stages.localization.grid import reduced_size, resize_maps
from stages.localization.seed_labels import activation_background
from stages.parallel.processes import map_in_processes
from stages.parallel.share import counted, share_of

if TYPE_CHECKING:
    from artifacts.score_maps import ScoreMap, ScoreMaps


class CrfStageConfig(CrfConfig):
    """The CRF, and the labels of each image that take part."""

    labels: Literal["predicted", "tags", "all"] = Field(
        "predicted",
        description="Labels that take part in an image, plus background. predicted: those that win a pixel or\n"
        "reach present_threshold somewhere. tags: the image-level labels. all: every class that has a score map.",
    )
    present_threshold: float = Field(
        0.2,
        ge=0,
        le=1,
        description="For labels: predicted. A class that wins no pixel takes part if it reaches this somewhere.",
    )
    min_confidence: float = Field(
        0.0, ge=0, lt=1, description="Pixels whose highest probability after the CRF is below this become 255."
    )
    background_score: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="For seeds and refined maps without background: its constant score (PSA 0.2, IRNet 0.15, of\n"
        "refined maps 0.25). No effect on the refined maps of psa, which have a background. The input threshold\n"
        "takes its place.",
    )
    background_alpha: float | None = Field(
        None,
        gt=0,
        description="For seeds and refined maps without background, instead of a constant:\n"
        "background = (1 - highest map)^alpha (PSA 4..32).",
    )
    splits: tuple[Split, ...] = Field(
        (), description="Only the images of these splits of the data set; empty: every image that has score maps."
    )
    images: ExternalFile = Field("", description="Folder of images, as given to predict, instead of a data set.")
    white: float = Field(0, ge=0, description="With images: what is white in them, as given to predict.")


@dataclass(frozen=True)
class Refinement:
    """What a process needs to refine images; travels to it once. Score maps open on first use there."""

    images: Images
    maps: ScoreMaps
    parameters: CrfParameters
    config: CrfStageConfig
    writer: Writer


def refine(task: Refinement, image_id: str) -> None:
    """Writes the refined mask of one image."""
    key, problem = prepare(task, image_id)
    write(task, key, problem, problem.marginals())


def prepare(task: Refinement, image_id: str) -> tuple[tuple[str, np.ndarray], CrfProblem]:
    """The labels that take part in an image, uint8 (K,), and what the CRF gets of it."""
    try:
        labels, scores = label_scores(task, image_id)
        problem = crf_problem(task.images.image(image_id), scores, task.parameters, task.config.max_pixels)
    except SemisegError as error:
        raise about(image_id, error) from None
    return (image_id, labels), problem


def write(task: Refinement, key: tuple[str, np.ndarray], problem: CrfProblem, marginals: np.ndarray) -> None:
    """Writes the mask of the image `key`, of the most probable of its labels."""
    image_id, labels = key
    best, confidence = problem.labels(marginals)
    mask = labels[best]
    if task.config.min_confidence > 0:
        mask[confidence < task.config.min_confidence] = IGNORE
    with task.writer.item(f"masks/{image_id}.png") as temporary:
        write_mask(temporary, mask)


def label_scores(task: Refinement, image_id: str) -> tuple[np.ndarray, np.ndarray]:
    """The labels that take part, uint8 (K,), background first, and their scores float32 (K, H, W), 0..1.

    (H, W) is the size of the image, or of its reduced copy where it has more than `max_pixels` pixels.
    """
    from artifacts.score_maps import check_fits, check_size

    config, record = task.config, task.maps[image_id]
    if isinstance(task.images, Dataset):
        check_fits(record, task.images)
    else:
        check_size(record, task.images.size(image_id), "give the images that were predicted, or predict these")
    chance = np.ones(len(record.classes), bool)
    if config.labels == "predicted" and record.meaning == "probability":
        chance = contenders(record.scores, config.present_threshold) | (record.classes == 0)
    seen = reduced_size(record.size, config.max_pixels)
    scores = resize_maps(record.scores[chance], record.size, record.stride, seen)
    classes = record.classes[chance]
    if record.meaning != "probability":
        classes, scores = _with_background(record, scores, config)
    if config.labels == "tags":
        if not isinstance(task.images, Dataset):
            raise ConfigError("labels: tags needs a data set; a folder of images has no labels")
        keep = np.isin(classes, task.images.possible_classes(image_id))
        if not keep.any():
            raise DataError(
                f"none of the labels of {image_id} has a score map: all were too improbable to be kept",
                "predict with image_labels=share, or with min_class_probability=0",
            )
    elif config.labels == "predicted":
        keep = present(scores, config.present_threshold) | (classes == 0)
    else:
        keep = np.ones(len(classes), bool)
    return classes[keep], scores[keep]


def contenders(scores: np.ndarray, threshold: float) -> np.ndarray:
    """bool (K,): which of the small maps (K, h, w) may be `present` at full size; the others need not be resized.

    Resizing takes means, so at every pixel the K scores have at least the smallest sum there is, and the winner at
    least a K-th of it.
    """
    winner: float = scores.sum(axis=0).min() / len(scores)
    chance: np.ndarray = scores.max(axis=(1, 2)) >= 0.999 * min(winner, threshold)  # rounding must not decide
    return chance


def _with_background(record: ScoreMap, scores: np.ndarray, config: CrfStageConfig) -> tuple[np.ndarray, np.ndarray]:
    """Activation maps with a background score as first map, as in AffinityNet (alpha) and IRNet (constant)."""
    if 0 in record.classes:  # of a refiner that scores the background
        return record.classes, scores
    if config.background_alpha is not None:
        background = activation_background(scores, config.background_alpha)
    else:
        background = np.full(scores.shape[1:], config.background_score)
    classes = np.concatenate([[0], record.classes]).astype(np.uint8)
    return classes, np.concatenate([background[None].astype(np.float32), scores])


@dataclass(frozen=True)
class CrfInputs(Inputs):
    data: Annotated[
        Artifact | None, Input(("dataset",), "the data set with the images", default=("data",), needed=unless_images)
    ]
    predictions: Annotated[
        Artifact,
        Input(
            ("predictions", "seeds", "refined"),
            "probabilities, activation maps or refined maps",
            default=("predictions", "predict"),
        ),
    ]
    threshold: Annotated[
        Artifact | None,
        Input(
            ("metrics",),
            "these maps as judged at every threshold (evaluate --maps): the one it chose is the background score",
            fits=lambda metrics: "threshold" in metrics.manifest.summary,
        ),
    ]


def _open(config: CrfStageConfig, inputs: CrfInputs) -> tuple[Images, ScoreMaps, list[str]]:
    from artifacts.score_maps import FOLDER, ScoreMaps
    from stages.localization.complete_maps import check_complete

    predictions = inputs.predictions
    if not (predictions.path / FOLDER).is_dir():
        raise ArtifactError(
            f"artifact {predictions.name!r} ({predictions.kind}) has masks only, the CRF needs probabilities",
            "predict with output=probabilities or output=both",
        )
    maps = ScoreMaps(predictions)
    check_complete(predictions, maps, inputs.data)
    images, known = open_images(inputs.data, config.images, config.splits or SPLITS, config.white)
    ids = known if config.splits else list(maps.ids)
    if missing := sorted(set(ids) - set(maps.ids)):
        raise DataError(
            f"{predictions.name!r} has no score maps of {amount(len(missing), 'image')}: {_shown(missing)}",
            "predict these splits too, or name fewer splits",
        )
    if unknown := sorted(set(ids) - set(known)):
        raise DataError(
            f"{predictions.name!r} has score maps of {amount(len(unknown), 'image')} not in the data set or folder: "
            f"{_shown(unknown)}",
            "give the data set (or the folder) that was predicted",
        )
    return images, maps, ids


def _shown(ids: Sequence[str]) -> str:
    return ", ".join(ids[:10]) + (f" and {len(ids) - 10} more" if len(ids) > 10 else "")


def check(config: CrfStageConfig, inputs: CrfInputs) -> None:
    """Checks that score maps, images and labels belong together, and that the parameters are valid."""
    config.resolve()
    with_threshold(config, inputs)
    if config.white and not config.images:
        raise ConfigError("white has no effect without images", "a data set says it itself (dataset.white)")
    images, maps, ids = _open(config, inputs)
    if config.labels == "tags":
        if not isinstance(images, Dataset):
            raise ConfigError("labels: tags needs a data set; a folder of images has no labels")
        for image_id in ids:
            images.tags(image_id)
    if isinstance(images, Dataset) and images.class_names != maps.class_names:
        raise ConfigError(
            f"the score maps are of the classes {', '.join(maps.class_names)}; "
            f"the data set has {', '.join(images.class_names)}",
            "give the data set that was predicted",
        )


def with_threshold(config: CrfStageConfig, inputs: CrfInputs) -> CrfStageConfig:
    """The config with the background score that was chosen for these maps, where one is given."""
    judged, maps = inputs.threshold, inputs.predictions
    if judged is None:
        return config
    given = {"background_score", "background_alpha"} & config.model_fields_set
    if idle := [key for key in sorted(given) if getattr(config, key) != getattr(CrfStageConfig(), key)]:
        raise ConfigError(
            f"{' and '.join(idle)} and the threshold of {judged.name!r} are both given", "leave one of them out"
        )
    source = judged.manifest.inputs.get("maps")
    if source is None or "threshold" not in judged.summary:
        raise ArtifactError(
            f"{judged.name!r} scores masks: it has chosen no threshold",
            f"judge the maps: semiseg evaluate --maps {maps.name} --choose-on holdout",
        )
    if source["content"] != maps.manifest.content:
        raise ArtifactError(
            f"the threshold of {judged.name!r} was chosen for other maps than those of {maps.name!r} "
            f"({source['artifact']!r}, as it was then)",
            f"judge these: semiseg evaluate --maps {maps.name} --choose-on holdout",
        )
    return config.model_copy(update={"background_score": judged.summary["threshold"]})


def run(config: CrfStageConfig, inputs: CrfInputs, writer: Writer, execution: Execution) -> dict[str, Any]:
    """Refines what is still missing; under torchrun each rank its share of the images."""
    from stages.localization.predicted_masks import ignored_labels

    images, maps, ids = _open(config, inputs)
    config = with_threshold(config, inputs)
    masks = share_of(ids, execution, made=lambda image_id: writer.has(f"masks/{image_id}.png"))
    task = Refinement(images, maps, config.resolve(), config, writer)
    if execution.rank == 0 and (large := sum(math.prod(images.size(i)) > config.max_pixels for i in ids)):
        execution.progress.note(
            f"{large:,} of {len(ids):,} images have more than {config.max_pixels:,} pixels: each is refined on a "
            "copy of so many (max_pixels)"
        )
    if execution.rank == 0 and config.labels == "tags" and (remark := ignored_labels(inputs.predictions)):
        execution.progress.note(remark)
    device = gpu_for(task.parameters, execution.device)
    with counted(writer, execution, "crf", masks) as advance:
        for _ in (
            map_in_processes(refine, task, masks.left, execution.own_workers)
            if device is None
            else refined_on_gpu(
                partial(prepare, task), zip(masks.left), partial(write, task), device, execution.own_workers
            )
        ):
            advance()
    if execution.rank == 0:
        writer.write_json(
            "classes.json", {"class_names": list(maps.class_names), "ids": ids, "splits": list(config.splits)}
        )
    summary = {"images": len(ids), "parameters": config.parameters, "labels": config.labels}
    return summary if inputs.threshold is None else summary | {"background_score": config.background_score}


STAGE = Stage(
    name="crf",
    version=2,
    summary="Refine predictions or activation maps with the dense CRF.",
    config=CrfStageConfig,
    inputs=CrfInputs,
    output="masks",
    run=run,
    check=check,
)
