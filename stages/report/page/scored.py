"""The evaluations of a workspace: figures of each class, confusion matrix, and the mean IoU of each image.

The mean IoU of the images is read from the evaluation; for one that was made before evaluations kept it, it is computed
from the masks.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from artifacts.dataset import SCORED, Dataset
from artifacts.errors import ArtifactError, SemisegError
from artifacts.json_items import Count, Shape, read_record
from artifacts.store import Artifact, Workspace
from stages.contract import Execution
from stages.evaluation.image_scores import IMAGE_IOU, ImageIou, score_with_images
from stages.evaluation.stored_masks import find_pairs


class ClassFigures(Shape):
    iou: float | None
    precision: float | None
    recall: float | None
    truth: Count
    predicted: Count


class Metrics(Shape):
    """metrics.json of `evaluate`, docs/formats.md section 9."""

    splits: list[str]
    mean_iou: float | None
    pixel_accuracy: float | None
    images: Count
    class_names: list[str]
    classes: dict[str, ClassFigures]
    confusion_matrix: list[list[Count]]
    mean_iou_interval: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    sweep: dict[str, Any] | None = None


@dataclass(frozen=True)
class Evaluation:
    """One evaluation.

    Attributes:
        scored: the artifact whose masks or maps were scored; data: the data set with the truth.
        images: image id -> mean IoU, None where the truth is 255 everywhere; None: not known, `why` says why.
    """

    artifact: str
    scored: str | None
    data: str | None
    metrics: Metrics
    images: dict[str, float | None] | None = None
    why: str = ""

    @property
    def of_scored_split(self) -> bool:
        """Whether it is of images that nothing was trained on."""
        return set(self.metrics.splits) <= set(SCORED)

    @property
    def same_images(self) -> tuple[Any, ...]:
        """Equal for evaluations whose figures can be compared: splits, number of images, classes."""
        return tuple(self.metrics.splits), self.metrics.images, tuple(self.metrics.class_names)

    @property
    def of_maps(self) -> bool:
        return self.metrics.sweep is not None


def read_evaluation(workspace: Workspace, artifact: Artifact, execution: Execution) -> Evaluation:
    """Raises ArtifactError where metrics.json is damaged or has no figures of classes."""
    inputs = artifact.manifest.inputs
    named = {key: inputs[key]["artifact"] for key in ("predictions", "maps", "data") if key in inputs}
    metrics = artifact.json("metrics.json", Metrics)
    names, matrix = metrics.class_names, metrics.confusion_matrix
    if metrics.classes.keys() != set(names) or [len(row) for row in matrix] != [len(names) + 1] * len(names):
        raise ArtifactError(f"metrics.json of {artifact.name!r} is damaged: its classes do not fit", "rerun evaluate")
    found = Evaluation(artifact.name, named.get("predictions", named.get("maps")), named.get("data"), metrics)
    if found.of_maps:
        return _with_images(found, None, "score maps were judged, not masks")
    try:
        return _with_images(found, _image_iou(workspace, artifact, found, execution), "")
    except SemisegError as error:
        return _with_images(found, None, error.message)


def _with_images(found: Evaluation, images: dict[str, float | None] | None, why: str) -> Evaluation:
    return Evaluation(found.artifact, found.scored, found.data, found.metrics, images, why)


def _image_iou(
    workspace: Workspace, artifact: Artifact, found: Evaluation, execution: Execution
) -> dict[str, float | None]:
    """SemisegError where it is not kept and the masks that were scored are not there any more."""
    kept = read_record(artifact.path / IMAGE_IOU, ImageIou)
    if kept is not None:
        return kept.mean_iou
    if not found.of_scored_split:
        raise ArtifactError("not computed for images of these splits: evaluate again to have it")
    inputs = {}
    for key in ("data", "predictions"):
        record = artifact.manifest.inputs.get(key)
        if record is None:
            raise ArtifactError("it was not made of masks and a data set")
        inputs[key] = workspace.artifact(record["artifact"])
        if inputs[key].manifest.content != record["content"]:
            raise ArtifactError(f"{record['artifact']} was made anew since")
    dataset = Dataset(inputs["data"])
    pairs = find_pairs(dataset, inputs["predictions"], found.metrics.splits)
    with execution.progress.track(len(pairs), "evaluate") as tracker:
        _, single, _ = score_with_images(pairs, dataset.num_classes, execution.workers, tracker.advance)
    return single.mean_iou


def best_of(evaluations: list[Evaluation]) -> Evaluation | None:
    """The evaluation of masks with the highest mean IoU among those that can be compared with it.

    These are of val where one is, else of a split like it; of several sets of images or classes the one that was scored
    most often is taken, then the one with more images.
    """
    able = [e for e in evaluations if e.of_scored_split and not e.of_maps and e.metrics.mean_iou is not None]
    times = Counter(e.same_images for e in able)

    def rank(e: Evaluation) -> tuple[Any, ...]:
        return e.metrics.splits == ["val"], times[e.same_images], e.metrics.images, e.same_images, e.metrics.mean_iou

    return max(able, key=rank, default=None)
