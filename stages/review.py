"""`review`: what a network says about the images and masks it was made from.

    semiseg review --segmenter final

The result, `review.json`, lists the images worth labelling next, the masks that look wrong, and the class that more
masks would help most.

Worth labelling are images without masks of which the network is unsure (least confidence: 1 - the mean over pixels of
the largest probability) and that differ from what has been labelled: they are taken one by one, the largest product of
doubt and distance first, the distance being 1 - the cosine of the pooled features to the nearest image that has a mask
or was taken before (k-center, Sener & Savarese, ICLR 2018). A mask looks wrong where the network is sure of another
class than the mask has (confident learning, Northcutt et al., JAIR 2021). Of images that it was trained on, a network
repeats their mistakes to some degree, so the list tells them apart.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from artifacts.dataset import MASKED, Dataset
from artifacts.errors import DataError
from artifacts.masks import IGNORE
from artifacts.store import Artifact, Writer
from stages.contract import Execution, Input, Inputs, Stage
from stages.data.images import images_of_splits
from stages.engine.config import InferenceConfig
from stages.parallel.share import record_pieces

if TYPE_CHECKING:
    from torch import Tensor, nn

_AT_A_TIME = 1024
PART = 200  # images between two records: what a killed run predicts again
WITHOUT_MASKS = ("weak", "unlabelled", "test")
MORE = 10  # masks that a class might get


class ReviewConfig(InferenceConfig):
    """How long the lists are, and when a network counts as sure."""

    next: int = Field(20, ge=1, description="Images listed as worth labelling next, at most.")
    doubtful: int = Field(20, ge=1, description="Masks listed as looking wrong, at most.")
    sure: float = Field(0.9, gt=0.5, lt=1, description="Probability from which the network contradicts a mask.")
    least: float = Field(
        0.02, ge=0, le=1, description="Share of a mask's pixels that must be contradicted for it to be listed."
    )


@dataclass(frozen=True)
class ReviewInputs(Inputs):
    data: Annotated[Artifact, Input(("dataset",), "the data set", default=("data",))]
    segmenter: Annotated[Artifact, Input(("segmenter",), "a trained network")]


def check(config: ReviewConfig, inputs: ReviewInputs) -> None:
    from stages.networks.loading import check_classes

    dataset, _ = images_of_splits(inputs.data, (*MASKED, *WITHOUT_MASKS))
    if not any(dataset.ids(split) for split in MASKED):
        raise DataError(f"no image of {dataset.name!r} has a mask: nothing to compare with", "review needs masks")
    check_classes(inputs.segmenter, dataset.class_names)


def run(config: ReviewConfig, inputs: ReviewInputs, writer: Writer, execution: Execution) -> dict[str, Any]:
    """Looks at what is still missing; under torchrun each rank at its share of the images."""
    from stages.engine.device import autocast_dtype, select_device
    from stages.networks import load_network
    from stages.networks.folding import for_inference

    dataset, ids = images_of_splits(inputs.data, (*MASKED, *WITHOUT_MASKS))
    device = select_device(execution.device)
    network = for_inference(load_network(inputs.segmenter), device, autocast_dtype(config.precision, device))

    def look(own: Sequence[str], advance: Callable[..., None]) -> dict[str, Any]:
        found = dict(_looks(network, dataset, own, config, execution))
        advance(len(own))
        return found

    records = record_pieces(writer, execution, "review", ids, PART, look)
    if execution.rank != 0:
        return {}
    looks: dict[str, Any] = {}
    for record in records:
        looks |= writer.read_json(record, dict[str, Any])
    split_of = {image_id: split for split in (*MASKED, *WITHOUT_MASKS) for image_id in dataset.ids(split)}
    found = {
        "next": worth_labelling(looks, [i for i in ids if not dataset.has_mask(i)], config.next),
        "doubtful": doubtful_masks(looks, split_of, dataset.class_names, config),
        **classes_to_help(looks, split_of, dataset.class_names),
    }
    writer.write_json("review.json", found)
    return {
        "images": len(ids),
        "worth_labelling": [one["id"] for one in found["next"][:5]],
        "doubtful": len(found["doubtful"]),
        "help_most": found["help_most"],
    }


# ------------------------------------------------------------------------------------------------- looking


def _looks(
    network: nn.Module, dataset: Dataset, ids: Sequence[str], config: ReviewConfig, execution: Execution
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(id, {"doubt", "features", and with a mask "confusion", "sure"}) of each image.

    confusion, sure: (C, C) counts of pixels by class of the mask and predicted class; sure: of confident ones.
    """
    from stages.engine.device import select_device
    from stages.engine.inference import predict_probabilities

    device, pooled = select_device(execution.device), _Pooled(network)
    with pooled:
        for names, probabilities in predict_probabilities(
            network, dataset, ids, config, device, workers=execution.own_workers
        ):
            best, masks = (one.cpu().numpy() for one in probabilities.max(1))
            features = pooled.take(probabilities)
            for name, sure, mask, vector in zip(names, best, masks, features, strict=True):
                look: dict[str, Any] = {"doubt": float(1 - sure.mean()), "features": vector}
                if dataset.has_mask(name):
                    truth = dataset.mask(name)
                    counted_ = truth != IGNORE
                    look["confusion"] = _pairs(truth[counted_], mask[counted_], dataset.num_classes)
                    confident = counted_ & (sure >= config.sure)
                    look["sure"] = _pairs(truth[confident], mask[confident], dataset.num_classes)
                yield name, look


class _Pooled:
    """The mean over pixels of what the network's head reads, of the images predicted since it was last asked."""

    def __init__(self, network: nn.Module) -> None:
        self._layer = getattr(network, "neck", None)  # of a Segmenter; others are described by what they predict
        self._seen: list[Tensor] = []

    def __enter__(self) -> None:
        if self._layer is not None:
            self._hook = self._layer.register_forward_hook(
                lambda layer, given, result: self._seen.append(result.float().mean((2, 3)))
            )

    def __exit__(self, *error: object) -> None:
        if self._layer is not None:
            self._hook.remove()

    def take(self, probabilities: Tensor) -> list[str]:
        """One vector of length 1 for each of the B images, see `_vector`; all views of an image count."""
        import torch
        import torch.nn.functional as F

        count = len(probabilities)
        views = [seen.view(-1, count, seen.shape[1]) for seen in self._seen]
        self._seen.clear()
        vectors = torch.cat(views).mean(0) if views else probabilities.mean((2, 3))
        rows = F.normalize(vectors).cpu().numpy().astype(np.float16)
        return [base64.b64encode(row.tobytes()).decode() for row in rows]


def _vector(text: str) -> np.ndarray:
    """A vector as it is kept in a record: float16 in base64."""
    return np.frombuffer(base64.b64decode(text), np.float16).astype(np.float32)


def _pairs(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> list[list[int]]:
    pairs = np.bincount(truth.astype(np.int64) * num_classes + predicted, minlength=num_classes**2)
    counts: list[list[int]] = pairs.reshape(num_classes, num_classes).tolist()
    return counts


# ------------------------------------------------------------------------------------------------- the three answers


def worth_labelling(looks: Mapping[str, Any], candidates: Sequence[str], count: int) -> list[dict[str, Any]]:
    """At most `count` of the candidates, the most useful first: {"id", "doubt", "distance"}."""
    left = sorted(candidates)
    if not left:
        return []
    vectors = np.stack([_vector(looks[image_id]["features"]) for image_id in left])
    doubt = np.array([looks[image_id]["doubt"] for image_id in left])
    known = [_vector(looks[image_id]["features"]) for image_id in looks.keys() - set(left)]
    nearest = np.ones(len(left), np.float32)
    for first in range(0, len(known), _AT_A_TIME):
        nearest = np.minimum(nearest, 1 - (vectors @ np.stack(known[first : first + _AT_A_TIME]).T).max(1))
    chosen = []
    for _ in range(min(count, len(left))):
        index = int(np.argmax(doubt * nearest.clip(1e-6)))  # of equal ones the first id
        chosen.append({"id": left[index], "doubt": float(doubt[index]), "distance": float(nearest[index].clip(0))})
        nearest = np.minimum(nearest, 1 - vectors @ vectors[index])
        doubt[index] = -1
    return chosen


def doubtful_masks(
    looks: Mapping[str, Any], split_of: Mapping[str, str], class_names: Sequence[str], config: ReviewConfig
) -> list[dict[str, Any]]:
    """The masks that the network contradicts most, by the share of their pixels.

    {"id", "split", "share", "mask", "network", "pixels"}: the last three are the largest contradiction: `pixels` that
    are class `mask` in the mask, and `network` to the network.
    """
    found: list[dict[str, Any]] = []
    for image_id, look in looks.items():
        if "sure" not in look:
            continue
        against = np.array(look["sure"])
        np.fill_diagonal(against, 0)
        share = float(against.sum() / max(np.sum(look["confusion"]), 1))
        if share < config.least or not against.any():
            continue
        given, seen = divmod(int(against.argmax()), len(class_names))
        found.append(
            {
                "id": image_id,
                "split": split_of[image_id],
                "share": share,
                "mask": class_names[given],
                "network": class_names[seen],
                "pixels": int(against[given, seen]),
            }
        )
    return sorted(found, key=lambda one: (-one["share"], one["id"]))[: config.doubtful]


def classes_to_help(
    looks: Mapping[str, Any], split_of: Mapping[str, str], class_names: Sequence[str]
) -> dict[str, Any]:
    """{"classes": {name: {"masks", "iou"}}, "help_most": the class whose error more masks would mend most, or None}.

    masks: of split train that show the class. iou: on the images with masks that are not trained on, None where no such
    image or prediction has the class. The error is taken to fall with the square root of the number of masks (a rule of
    thumb), and MORE are added.
    """
    total = np.zeros((len(class_names), len(class_names)), np.int64)
    masks = np.zeros(len(class_names), np.int64)
    for image_id, look in looks.items():
        if "confusion" not in look:
            continue
        counts = np.array(look["confusion"])
        if split_of[image_id] == "train":
            masks += counts.any(1)
        else:
            total += counts
    shared, joint = total.diagonal(), total.sum(0) + total.sum(1) - total.diagonal()
    iou = [float(a / b) if b else None for a, b in zip(shared, joint, strict=True)]
    gain = {
        name: (1 - value) * (1 - math.sqrt(max(n, 1) / (max(n, 1) + MORE)))
        for name, value, n in zip(class_names, iou, masks.tolist(), strict=True)
        if value is not None and name != "background"
    }
    return {
        "classes": {
            name: {"masks": n, "iou": value} for name, n, value in zip(class_names, masks.tolist(), iou, strict=True)
        },
        "help_most": max(gain, key=lambda name: gain[name]) if gain else None,
    }


STAGE = Stage(
    name="review",
    version=2,
    summary="List the images worth labelling next, masks that look wrong, and the class that needs masks most.",
    config=ReviewConfig,
    inputs=ReviewInputs,
    output="review",
    run=run,
    check=check,
)
