"""The steps of each way to train, for the data set `data`: what METHODS' `pipeline` names."""

from __future__ import annotations

from typing import Any

from stages.methods.settings import METHODS
from stages.planning.records import DataFacts, Step


def supervised(data: str) -> tuple[Step, ...]:
    settings = {"method": {"name": "supervised"}}
    return (Step("train", "supervised", {"data": data}, settings, "masks"),)


def self_training(data: str, facts: DataFacts, matched: bool = False) -> tuple[Step, ...]:
    """The baseline labels all images without masks; a student learns from masks and labels.

    matched: of the images with image-level labels, with as much background as in the masks.
    """
    labelling = {"flip": True, "merge": "probabilities", "image_labels": _image_labels(facts)}
    predicted = {"data": data, "segmenter": "supervised"}
    splits = ("weak", "unlabelled")
    labels: tuple[Step, ...]
    if matched:
        settings = {"splits": [*splits], "output": "probabilities", **labelling}
        matching = {"method": {"name": "background-share"}}
        labels = (
            Step("predict", "guesses", predicted, settings, splits=splits),
            Step("refine", "pseudo-labels", {"data": data, "seeds": "guesses"}, matching, splits=splits),
        )
    else:
        settings = {"splits": [*splits], "output": "masks", **labelling}
        labels = (Step("predict", "pseudo-labels", predicted, settings, splits=splits),)
    student = Step(
        "train",
        "self-training",
        {"data": data, "weak_labels": "pseudo-labels"},
        {"method": {"name": "self-training"}},
        "pseudo",
    )
    return (*supervised(data), *labels, student)


def online(method: str, data: str, facts: DataFacts) -> tuple[Step, ...]:
    """The baseline, and a network that labels the images without masks in every step."""
    settings: dict[str, Any] = {"name": method}
    if facts.image_labels == 0:
        settings = settings | _without_labels(method)
    return (*supervised(data), Step("train", method, {"data": data}, {"method": settings}, "pseudo"))


def from_labels(data: str, dsrg: dict[str, Any]) -> tuple[Step, ...]:
    """From image-level labels alone; dsrg: the settings of DSRG's maps."""
    return (
        Step("train-classifier", "classifier", {"data": data}, {}, "labels"),
        Step("seeds", "seeds", {"data": data, "classifier": "classifier"}, splits=("train", "weak")),
        Step("train", "dsrg", {"data": data, "seeds": "seeds"}, {"method": {"name": "dsrg", **dsrg}}, "labels"),
        Step(
            "predict",
            "weak-probabilities",
            {"data": data, "segmenter": "dsrg"},
            {"splits": ["weak"], "output": "probabilities", "image_labels": "exclude"},
            splits=("weak",),
        ),
        Step("crf", "weak-labels", {"data": data, "predictions": "weak-probabilities"}, splits=("weak",)),
        Step(
            "train",
            "retrained",
            {"data": data, "weak_labels": "weak-labels"},
            {"method": {"name": "supervised", "labels": "weak"}},
            "labels",
        ),
    )


def _image_labels(facts: DataFacts) -> str:
    return "share" if facts.image_labels else "ignore"


def _without_labels(method: str) -> dict[str, str]:
    """image_labels: ignore, of a method that has it: images that are known to show no class would count."""
    return {"image_labels": "ignore"} if "image_labels" in METHODS[method].model_fields else {}
