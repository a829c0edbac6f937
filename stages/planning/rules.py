"""The rules of planning, one table for each decision: when a row is taken, its values, why, and where it comes from.

The first row whose condition holds is taken. `source` names a section of docs/results.md, a document, a paper, or says
that the rule is reasoned. A new measurement changes a row here and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stages.planning.records import GIB, DataFacts, Machine

REASONED = "reasoned, not measured"
LEAGUE = "docs/results.md, A league on real images"
TABLE_1 = "docs/results.md, Table 1 of the dual-branch paper, at small size"
EMBEDDED = "docs/results.md, Table 1 on the embedded data set"
OWN_DATA = "docs/own-data.md, 4. Train by hand"


# ------------------------------------------------------------------------------------------------- method


@dataclass(frozen=True)
class MethodRule:
    """What is trained for the labels that are there. pipeline: the steps, see stages/planning/pipelines.py."""

    method: str
    pipeline: str
    holds: Callable[[DataFacts], bool]
    reason: str
    source: str


FEW_MASKS = 100  # the geometric mean of the 50 and 200 of the league
# Images without masks from which a method that uses them is taken without proof of the holdout: with 237 and 387 of
# them self-training was better than the baseline, with 60 not (docs/results.md, Few masks and few other images).
MANY_OTHERS = 120

METHODS = (
    MethodRule(
        "dsrg",
        "labels",
        lambda data: data.masks == 0,
        "image-level labels alone: a classifier, seeds, DSRG, and a network trained again on its masks; none of them "
        "needs the threshold on maps that only masks can choose",
        "docs/results.md, Table 2 of DSRG on the embedded data set",
    ),
    MethodRule(
        "supervised",
        "supervised",
        lambda data: data.image_labels + data.unlabelled == 0,
        "every training image has a mask",
        "semiseg methods",
    ),
    MethodRule(
        "self-training",
        "matched",
        lambda data: data.masks < FEW_MASKS and data.image_labels >= max(data.unlabelled, 1) and data.has_background,
        "few masks, and image-level labels of most other images: the baseline labels these, the labels correct it, and "
        "the background gets its share in the masks (with 50 masks 68 mean IoU instead of 60; the student gains 3 to "
        "4)",
        "docs/results.md, What was tried beyond sharing",
    ),
    MethodRule(
        "self-training",
        "self-training",
        lambda data: data.image_labels > 0,
        "masks and image-level labels: the baseline labels the other images, and the labels correct it (60 to 68 mean "
        "IoU instead of 39 to 50 without them)",
        "docs/results.md, What was tried beyond sharing",
    ),
    MethodRule(
        "self-training",
        "self-training",
        lambda data: data.masks < FEW_MASKS,
        "few masks and images without any label: +3.3 over the baseline with 50 masks, the most of 13 methods",
        LEAGUE,
    ),
    MethodRule(
        "cutmix-seg",
        "online",
        lambda data: True,
        "masks and images without any label: above the baseline with 50 and 200 masks (+1.5, +0.9) in one training",
        LEAGUE,
    ),
)


# ------------------------------------------------------------------------------------------------- network


@dataclass(frozen=True)
class NetworkRule:
    """A segmenter's preset, the classifier's preset of the same backbone, and how they learn.

    holds: whether it suits a machine. optimizer, classifier_optimizer: as in a config; lr of sgd is for batches of 16.
    """

    preset: str
    backbone: str
    classifier: str | None
    holds: Callable[[Machine], bool]
    optimizer: dict[str, Any]
    classifier_optimizer: dict[str, Any]
    reason: str
    source: str
    optimizer_source: str


ADAMW = {"name": "adamw", "lr": 1e-4, "new_lr_factor": 10}
SGD = {"name": "sgd", "lr": 1e-3, "new_lr_factor": 10, "momentum": 0.9, "weight_decay": 1e-4}
IRN_SGD = {"name": "sgd", "lr": 0.1, "new_lr_factor": 10, "momentum": 0, "weight_decay": 1e-4, "decay_biases": True}
SGD_BATCH = 16  # lr follows the batch: Goyal et al. 2017
LARGE_GPU = 6 * GIB


def _large(machine: Machine) -> bool:
    return machine.is_gpu and machine.memory >= LARGE_GPU


NETWORKS = (
    NetworkRule(
        "deeplabv3plus-resnet50",
        "resnet50",
        "resnet50",
        _large,
        SGD,
        IRN_SGD,
        "a GPU with room for it: the network of the semi-supervised literature",
        "Chen et al. 2018 (CPS, Chen et al. 2021; UniMatch, Yang et al. 2023)",
        "the code of UniMatch; classifier: that of IRNet",
    ),
    NetworkRule(
        "deeplabv3plus-resnet101",
        "resnet101",
        "resnet101",
        _large,
        SGD,
        IRN_SGD,
        "a GPU with room for it",
        "Chen et al. 2018",
        "the code of UniMatch; classifier: that of IRNet",
    ),
    NetworkRule(
        "mobilenet_v2",
        "mobilenet_v2",
        "mobilenet_v2",
        lambda machine: True,
        ADAMW,
        ADAMW,
        "the smallest network with pretrained weights: minutes on a CPU",
        TABLE_1,
        TABLE_1,
    ),
    NetworkRule(
        "deeplab-aspp-vgg16",
        "vgg16",
        "vgg16-sec",
        lambda machine: _large(machine),
        SGD,
        IRN_SGD,
        "a GPU with room for it",
        "Chen et al. 2018 (DeepLabv2)",
        "the code of UniMatch; classifier: that of IRNet",
    ),
    NetworkRule(
        "tiny",
        "tiny",
        "tiny",
        lambda machine: True,
        {"name": "adamw", "lr": 4e-3, "new_lr_factor": 1, "weight_decay": 0.01},
        {"name": "adamw", "lr": 2e-3, "new_lr_factor": 1, "weight_decay": 0.01},
        "made to be trained from random weights",
        EMBEDDED,
        EMBEDDED,
    ),
)


# ------------------------------------------------------------------------------------------------- crop and scale


@dataclass(frozen=True)
class CropRule:
    """Side of the training crop, pixels; `image_side`: the median long side that images are brought to for it."""

    holds: Callable[[Machine, float], bool]  # machine, median long side
    crop: int
    image_side: int | None  # None: as they are
    reason: str
    source: str


CROPS = (
    CropRule(lambda machine, long: not machine.is_gpu, 128, 160, "a CPU", TABLE_1),
    CropRule(lambda machine, long: long <= 600, 321, None, "images of VOC's size on a GPU", OWN_DATA),
    CropRule(lambda machine, long: long <= 1100, 513, None, "images of COCO's size on a GPU", "the code of UniMatch"),
    CropRule(lambda machine, long: True, 513, 1100, "large images on a GPU, brought to COCO's size and more", REASONED),
)
CELL = 16  # input pixels of a cell of the network's last map: a small object (25th percentile) keeps at least one
LEAST_SIDE = 64  # smaller images are enlarged: four cells of 16 pixels
LARGEST_SCALE = 8.0  # of predict
SCALES = (0.5, 1.5)  # random scale of a training image


# ------------------------------------------------------------------------------------------------- batch, iterations

USEFUL_BATCH = 16
BATCH_SOURCE = TABLE_1
LEAST_BATCH = {"supervised": 2, "labels": 2}  # by pipeline: BatchNorm needs two values; else two of each kind
LEAST_BATCH_OTHERS = 4


@dataclass(frozen=True)
class Passes:
    """How often a training sees its images. Of 'pseudo', both counts have to be reached with half of a batch each."""

    masks: float
    others: float
    source: str


PASSES = {
    # 45 masks: 300 steps of 8 (53 passes); 437: 900 of 16 (33); 200: 600 of 8 (24) beat 300
    "masks": Passes(40, 0, f"{OWN_DATA}; {TABLE_1}; {LEAGUE}"),
    # 600 steps of 8 on 3,081 images
    "pseudo": Passes(40, 1.6, LEAGUE),
    # classifier 600 steps of 16, DSRG 600 and its pupils 900, on 3,131 images; IRNet's classifier 5 passes over VOC
    "labels": Passes(0, 5, f"{TABLE_1}; the code of IRNet"),
}
LEAST_ITERATIONS, MOST_ITERATIONS = 300, 40_000  # docs/own-data.md; the longest schedules of the literature
WORTH_STARTING = 20  # steps of a training; a budget for fewer is refused

SAFETY = 0.9  # of a budget: the rest is what a busy machine takes
DELIVERY_S = 10.0  # of `run own`: the ONNX file, copies, the table and the page; 4 on two idle cores
LEAST_AGAIN = 0.5  # of its iterations: with fewer the choice is not trained again, with the masks of the holdout

CACHE = 1 << 30  # bytes of decoded images that a training keeps at most (SampleMaker.cache_bytes)
PREDICTING = 300 << 20  # bytes of a process that reads images or runs the CRF
