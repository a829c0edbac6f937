"""The JSON items that more than one stage reads, as the shapes they are checked against when they are opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from artifacts.dataset import ClassNames, check_image_id
from artifacts.errors import ArtifactError
from artifacts.json_items import MAKE_AGAIN, Anything, Distinct, Shape
from artifacts.store import Artifact, read_item
from artifacts.text import amount


def _ids(ids: list[str]) -> list[str]:
    for image_id in ids:
        check_image_id(image_id)
    return ids


Ids = Annotated[Distinct, AfterValidator(_ids)]


class Classes(Shape):
    """classes.json of predictions and masks: what was predicted."""

    class_names: ClassNames
    ids: Ids
    splits: list[str]


class NetworkSpec(Shape):
    """network.json: enough to rebuild the network around the tensors of weights.pt."""

    schema_version: Literal[1, 2] = Field(alias="schema")
    task: Literal["segmentation", "classification"] | None = None  # in schema 1
    kind: str | None = None  # in schema 2, as is module: the module of this program that defines the kind
    module: str | None = None
    network: Anything
    options: Anything = Field(default_factory=dict)
    num_classes: Annotated[int, Field(ge=1, le=255)]
    class_names: ClassNames
    pretrained: list[str]
    inference: Anything = Field(default_factory=dict)  # how its images are predicted where nothing else is said

    def class_of_network(self) -> tuple[str, str]:
        """The kind of network and the module that defines it."""
        kind = {"segmentation": "segmenter", "classification": "classifier"}.get(self.task or "", self.kind or "")
        return kind, self.module or f"stages.networks.{kind}"

    @model_validator(mode="after")
    def _kind_as_the_schema_has_it(self) -> NetworkSpec:
        wanted = ["task"] if self.schema_version == 1 else ["kind", "module"]
        if missing := [key for key in wanted if getattr(self, key) is None]:
            raise ValueError(f"it lacks {' and '.join(missing)}, which schema {self.schema_version} has")
        return self

    @model_validator(mode="after")
    def _a_name_for_each_class(self) -> NetworkSpec:
        if len(self.class_names) != self.num_classes:
            raise ValueError(f"it has {len(self.class_names)} class_names for num_classes {self.num_classes}")
        return self


class Reliability(Shape):
    """reliability.json: the score of every image that was ranked, and the part that it is in."""

    scores: dict[str, Annotated[float, Field(ge=0, le=1.000001)]]  # a mean is rounded
    reliable: Ids
    unreliable: Ids

    @model_validator(mode="after")
    def _each_is_in_one_part(self) -> Reliability:
        parts = [*self.reliable, *self.unreliable]
        if len(parts) != len(self.scores) or set(parts) != self.scores.keys():
            odd = sorted(set(parts) ^ self.scores.keys()) or sorted(set(self.reliable) & set(self.unreliable))
            raise ValueError(f"not every image with a score is in one of the two parts: {some(odd)}")
        return self


class WorthLabelling(Shape):
    """An image without a mask, how unsure the network is of it, and how far it is from what is labelled (0..1)."""

    id: str
    doubt: float
    distance: float


class DoubtfulMask(Shape):
    """A mask of which a share is contradicted; `pixels` of class `mask` are `network` to the network."""

    id: str
    split: str
    share: float
    mask: str
    network: str
    pixels: int


class ClassReview(Shape):
    """What is known of a class: masks of the training that show it, and its IoU on images that were not trained on."""

    masks: int
    iou: float | None


class Review(Shape):
    """review.json, see `stages/review.py`."""

    next: list[WorthLabelling]
    doubtful: list[DoubtfulMask]
    classes: dict[str, ClassReview]
    help_most: str | None


def some(ids: Sequence[str]) -> str:
    """The first ids, and how many more there are."""
    return ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")


def network_inference(network: Artifact | Path) -> dict[str, Any]:
    """The settings of prediction that travel with a network: those that differ from the defaults."""
    return dict(read_item(network, "network.json", NetworkSpec, "give an artifact of train or retrain").inference)


def network_class_names(network: Artifact) -> tuple[str, ...]:
    """The class names that travel with a network."""
    return tuple(network.json("network.json", NetworkSpec).class_names)


def predicted(artifact: Artifact) -> Classes:
    """Class names and ids of predictions or masks; ArtifactError unless each of the ids has its mask."""
    classes = artifact.json("classes.json", Classes)
    masks = {item[6:-4] for item in artifact.items if item.startswith("masks/") and item.endswith(".png")}
    if masks and (odd := sorted(masks ^ set(classes.ids))):
        raise ArtifactError(
            f"artifact {artifact.name!r} has {amount(len(masks), 'mask')}, "
            f"classes.json {amount(len(classes.ids), 'id')}; only one of both has {some(odd)}",
            MAKE_AGAIN,
        )
    return classes
