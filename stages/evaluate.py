"""`evaluate`: masks against ground truth, as one confusion matrix over a split; or score maps, at every threshold.

    semiseg evaluate --predictions predictions
    semiseg evaluate --maps seeds --choose-on holdout --split train
    semiseg evaluate --predictions DIR --ground-truth DIR --num-classes 21

The result is `metrics.json`: mean IoU, pixel accuracy, IoU, precision and recall of each class (fractions 0..1), the
shares of ignored pixels and of pixels without a prediction, and the confusion matrix. Of score maps these are of the
masks at the threshold that was best on the images to choose by; the curve over all thresholds stands beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from artifacts.dataset import Dataset, Split
from artifacts.errors import ConfigError, DataError
from artifacts.store import Artifact, Writer
from stages.config import Config
from stages.contract import Execution, Input, Inputs, Stage, default_workers
from stages.evaluation.stored_masks import find_pairs, ids_with_truth, shown
from stages.parallel.share import PART, record_pieces

if TYPE_CHECKING:
    from artifacts.score_maps import ScoreMaps
    from stages.evaluation.confusion import Scores

Advance = Callable[..., None]


class Thresholds(Config):
    """Scores of the background that are tried on score maps: start, start + step, ... up to stop."""

    start: float = Field(0.0, ge=0, le=1, description="The lowest.")
    stop: float = Field(0.59, ge=0, le=1, description="The highest (SEAM's evaluation: 0.00, 0.01, ... 0.59).")
    step: float = Field(0.01, ge=0.001, le=1, description="From one to the next.")

    @model_validator(mode="after")
    def _ascending(self) -> Thresholds:
        if self.stop < self.start:
            raise ValueError(f"stop {self.stop} is below start {self.start}")
        return self

    def values(self) -> tuple[float, ...]:
        """The thresholds, each the nearest number to its decimals: 0.29, not 0.29000000000000004."""
        count = int((self.stop - self.start) / self.step + 1e-6) + 1
        return tuple(round(self.start + index * self.step, 9) for index in range(count))


class EvaluateConfig(Config):
    """What is scored."""

    splits: tuple[Split, ...] = Field(
        ("val",),
        min_length=1,
        description="Splits that are scored, together. val for a trained network; train for pseudo labels, whose\n"
        "published figures are on VOC's 1,464 training images.",
    )
    classes: tuple[str, ...] = Field(
        (),
        description="Names of the classes that enter the mean IoU; empty: all. All are listed.",
    )
    bootstrap: int = Field(
        0,
        ge=0,
        description="Of masks: how often the images are drawn again for an interval of 95 % of the mean IoU; 0: none.",
    )
    choose_on: tuple[Split, ...] = Field(
        (),
        description="With maps: splits the threshold is chosen on, by the mean IoU there, such as holdout. Empty: the\n"
        "splits that are scored, which flatters, and is said.",
    )
    thresholds: Thresholds = Field(
        Thresholds(), description="With maps: the thresholds tried. One alone is no choice: start and stop alike."
    )


def class_ids(class_names: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
    """Ids of the wanted class names; None for "all". ConfigError for a name that is not a class."""
    if unknown := [name for name in wanted if name not in class_names]:
        raise ConfigError(
            f"classes: {', '.join(unknown)} is not a class here", f"the classes are {', '.join(class_names)}"
        )
    return [class_names.index(name) for name in wanted] or None


@dataclass(frozen=True)
class OpenMaps:
    """Score maps, the ids to choose the threshold by, and those to score."""

    maps: ScoreMaps
    choosing: list[str]
    scored: list[str]


def find_maps(config: EvaluateConfig, dataset: Dataset, data: Artifact, maps: Artifact) -> OpenMaps:
    """DataError where score maps or true masks are missing, or where the maps have a background of their own."""
    from stages.localization.complete_maps import score_background
    from stages.localization.known_images import score_maps_of

    dataset.require_background("a threshold of score maps")
    scored = ids_with_truth(dataset, config.splits)
    choosing = ids_with_truth(dataset, config.choose_on) if config.choose_on else scored
    opened = score_maps_of(maps, {*scored, *choosing}, data)
    if score_background(opened):
        raise DataError(
            f"the score maps of {maps.name!r} score the background, too: no threshold is to be chosen",
            f"score the masks that were made of them: semiseg evaluate --predictions {maps.name}",
        )
    return OpenMaps(opened, choosing, scored)


def headline(scores: Scores) -> dict[str, Any]:
    """The main figures; fractions 0..1."""
    full = scores.to_json()
    return {
        "mean_iou": full["mean_iou"],
        "pixel_accuracy": full["pixel_accuracy"],
        "images": full["images"],
        "unanswered_share": full["pixels"]["unanswered_share"],
        "iou": {scores.class_names[c]: full["classes"][scores.class_names[c]]["iou"] for c in scores.classes},
    }


@dataclass(frozen=True)
class EvaluateInputs(Inputs):
    data: Annotated[Artifact, Input(("dataset",), "the data set with the ground truth", default=("data",))]
    predictions: Annotated[
        Artifact | None,
        Input(
            ("predictions", "masks", "seeds", "refined"),
            "the masks to score",
            default=("predictions", "predict", "masks"),
            needed=lambda config, given: "maps" not in given,
        ),
    ]
    maps: Annotated[Artifact | None, Input(("seeds", "refined"), "score maps to judge at every threshold instead")]


def check(config: EvaluateConfig, inputs: EvaluateInputs) -> None:
    """Checks that every image of the splits has a prediction and a ground truth."""
    dataset = Dataset(inputs.data)
    class_ids(dataset.class_names, config.classes)
    if inputs.maps is not None:
        if inputs.predictions is not None:
            raise ConfigError("predictions and maps are both given", "score masks, or judge score maps: leave one out")
        if config.bootstrap:
            raise ConfigError("bootstrap: no effect on score maps", "leave it out, or score masks")
        find_maps(config, dataset, inputs.data, inputs.maps)
        return
    if idle := [key for key in ("choose_on", "thresholds") if getattr(config, key) != getattr(EvaluateConfig(), key)]:
        raise ConfigError(f"{' and '.join(idle)}: no effect on masks", "leave it out, or judge score maps: --maps NAME")
    assert inputs.predictions is not None  # needed without maps
    find_pairs(dataset, inputs.predictions, config.splits)


def run(config: EvaluateConfig, inputs: EvaluateInputs, writer: Writer, execution: Execution) -> dict[str, Any]:
    """Scores what is still missing; under torchrun each rank its share of the images."""
    from stages.evaluation.confusion import ConfusionMatrix, remarks
    from stages.evaluation.image_scores import IMAGE_IOU, ImageIou, MasksRecord, score_with_images
    from stages.evaluation.pixel_counts import packed, record_of, unpacked

    dataset = Dataset(inputs.data)
    if inputs.maps is not None:
        return judge_maps(config, dataset, find_maps(config, dataset, inputs.data, inputs.maps), writer, execution)
    assert inputs.predictions is not None  # as in `check`
    pairs = find_pairs(dataset, inputs.predictions, config.splits)

    def score(ids: Sequence[str], advance: Advance) -> dict[str, Any]:
        own = replace(pairs, ids=ids)
        found = score_with_images(own, dataset.num_classes, execution.own_workers, advance, config.bootstrap > 0)
        matrix, single, counts = found
        return {"all": record_of(matrix), "mean_iou": single.mean_iou, "counts": packed(np.array(counts, np.int64))}

    records = record_pieces(writer, execution, "evaluate", pairs.ids, PART, score)
    if execution.rank != 0:
        return {}
    matrix, iou, counts = ConfusionMatrix(dataset.num_classes), dict[str, float | None](), list[np.ndarray]()
    for record in records:
        part, file = writer.read_json(record, MasksRecord), writer.path / record
        part.all.add_to(matrix, file)
        iou |= part.mean_iou
        counts.extend(unpacked(part.counts, (-1, 2, dataset.num_classes), file))
    chosen = class_ids(dataset.class_names, config.classes)
    scores = matrix.scores(dataset.class_names, chosen)
    for sentence in [*remarks(scores), *filter(None, [one_class_alone(scores)])]:
        execution.progress.note(sentence)
    interval = _interval(config, counts, chosen)
    writer.write_json("metrics.json", {"splits": list(config.splits), **scores.to_json(), **interval})
    writer.write_json(IMAGE_IOU, ImageIou(mean_iou=iou).model_dump(by_alias=True))
    return headline(scores) | interval


def _interval(config: EvaluateConfig, counts: list[np.ndarray], classes: list[int] | None) -> dict[str, list[float]]:
    """The interval of the mean IoU, where it is asked for and something is scored."""
    from stages.evaluation.intervals import mean_iou_interval

    if not config.bootstrap or not any(one.any() for one in counts):
        return {}
    return {"mean_iou_interval": list(mean_iou_interval(counts, config.bootstrap, classes))}


def judge_maps(
    config: EvaluateConfig, dataset: Dataset, maps: OpenMaps, writer: Writer, execution: Execution
) -> dict[str, Any]:
    """Scores the masks at the threshold that is best on the images to choose by, and the curve over all of them."""
    from stages.evaluation.confusion import remarks
    from stages.evaluation.pixel_counts import CountsRecord, record_of
    from stages.evaluation.threshold_sweep import ThresholdSweep, judge
    from stages.localization.swept_maps import sweep_maps

    groups, thresholds = (frozenset(maps.choosing), frozenset(maps.scored)), config.thresholds.values()

    def sweep(ids: Sequence[str], advance: Advance) -> list[dict[str, Any]]:
        members = [group.intersection(ids) for group in groups]
        return list(map(record_of, sweep_maps(dataset, maps.maps, members, thresholds, execution.own_workers, advance)))

    records = record_pieces(writer, execution, "evaluate", sorted(groups[0] | groups[1]), PART, sweep)
    if execution.rank != 0:
        return {}
    choosing, scoring = sweeps = [ThresholdSweep(dataset.num_classes, thresholds) for _ in groups]
    for record in records:
        for total, part in zip(sweeps, writer.read_json(record, list[CountsRecord]), strict=True):
            part.add_to(total, writer.path / record)
    shared = len({*maps.choosing} & {*maps.scored})
    judged = judge(choosing, scoring, shared, dataset.class_names, class_ids(dataset.class_names, config.classes))
    for sentence in [*remarks(judged.scores), *judged.sentences()]:
        execution.progress.note(sentence)
    metrics = judged.to_json(config.choose_on or config.splits)
    writer.write_json("metrics.json", {"splits": list(config.splits), **metrics})
    chosen = {key: metrics["sweep"][key] for key in ("threshold", "chosen_on", "remark")}
    return headline(judged.scores) | chosen


def one_class_alone(scores: Scores) -> str:
    """A sentence where all pixels are predicted as one class although there are others, as of a network that has not
    learned yet; else "".
    """
    predicted = np.flatnonzero(scores.counts[:, :-1].sum(0))
    there = np.flatnonzero(scores.counts.sum(1))
    if len(predicted) != 1 or len(there) < 2:
        return ""
    return f"every pixel is predicted as {scores.class_names[predicted[0]]}, though {len(there)} classes are there"


def evaluate_folders(
    predictions: Path | str,
    ground_truth: Path | str,
    num_classes: int,
    class_names: Sequence[str] | None = None,
    classes: Sequence[str] = (),
    common_only: bool = False,
    workers: int | None = None,
    mask_format: Literal["auto", "ids", "binary"] = "auto",
    note: Callable[[str], object] = lambda sentence: None,
) -> dict[str, Any]:
    """Scores two plain folders of index masks (PNG), matched by file name, without any workspace.

    Returns what `metrics.json` holds. DataError lists every name that lies in one folder only (unless
    `common_only`: then only the common ones are scored), and every file that cannot be read or compared.
    `class_names` (default "0", "1", ...) has `num_classes` names; `classes`: those that enter the mean IoU.
    mask_format: "binary": the ground truth is black and white, and white is class 1; "ids": 255 is ignored; "auto": the
    latter, and a DataError where the ground truth holds 0 and 255 alone. note: called with each remark.
    """
    from stages.evaluation.confusion import remarks
    from stages.evaluation.scoring import score_pairs

    if mask_format == "binary" and num_classes != 2:
        raise ConfigError(f"black-and-white masks have two classes, num_classes is {num_classes}", "--num-classes 2")
    found, truth = _masks_in(Path(predictions), note), _masks_in(Path(ground_truth), note)
    common = sorted(found.keys() & truth.keys())
    only = {
        f"without a prediction in {predictions}": sorted(truth.keys() - found.keys()),
        f"without a ground truth in {ground_truth}": sorted(found.keys() - truth.keys()),
    }
    if not common or (any(only.values()) and not common_only):
        lines = [f"  {len(names)} {what}: {shown(names)}" for what, names in only.items() if names]
        raise DataError(
            "the folders do not hold the same masks:\n" + "\n".join(lines),
            "masks are matched by file name; to score only the common ones say so (--common-only)",
        )
    for what, left_out in only.items():
        if left_out:
            note(f"left out of the score: {len(left_out)} {what}")
    names = tuple(class_names) if class_names is not None else tuple(map(str, range(num_classes)))
    averaged = class_ids(names, classes)
    pairs = {name: (found[name], truth[name]) for name in common}
    workers = default_workers() if workers is None else workers
    scores = score_pairs(pairs, num_classes, workers, binary=mask_format == "binary").scores(names, averaged)
    if scores.looks_binary and mask_format == "auto":
        raise DataError(
            f"the ground truth in {ground_truth} holds 0 and 255 alone, as black-and-white masks do: 255 would be "
            f"ignored, and class {names[0]} be the only one that is scored",
            "if white (255) is the object, say --mask-format binary (it becomes class 1); if it is to be ignored, "
            "--mask-format ids",
        )
    for sentence in remarks(scores):
        note(sentence)
    return scores.to_json()


def _masks_in(folder: Path, note: Callable[[str], object]) -> dict[str, Path]:
    """The masks of a folder by name; other files are reported."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder", "name a folder of index masks (PNG)")
    files: dict[str, Path] = {}
    others: list[str] = []
    for path in sorted(path for path in folder.iterdir() if path.name[0] != "."):
        if path.suffix.lower() != ".png":
            others.append(path.name)
            continue
        if path.stem in files:
            raise DataError(f"{folder} has two masks: {files[path.stem].name} and {path.name}", "remove one of them")
        files[path.stem] = path
    if not files:
        there = f", but {len(others)} other files or folders: {shown(others[:5])}" if others else ""
        raise DataError(f"{folder} holds no PNG{there}", "name a folder of index masks (PNG)")
    if others:
        note(f"{folder}: {len(others)} files or folders are not PNG files and not used: {shown(others[:5])}")
    return files


STAGE = Stage(
    name="evaluate",
    version=1,
    summary="Score masks or score maps against ground truth: IoU of each class, mean IoU, pixel accuracy.",
    config=EvaluateConfig,
    inputs=EvaluateInputs,
    output="metrics",
    run=run,
    check=check,
)
