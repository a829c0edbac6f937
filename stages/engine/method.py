"""The contract between engine and method.

A method owns its networks and its losses. The engine owns optimiser, schedule, mixed precision, processes,
checkpoints and logging.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from artifacts.dataset import Dataset
from artifacts.errors import ConfigError, DataError
from artifacts.score_maps import ScoreMaps
from stages.engine.batch import Batch
from stages.engine.config import HardExamples, OptimizerConfig
from stages.engine.known import Known
from stages.engine.losses import cross_entropy, hard_cross_entropy
from stages.engine.randomness import derive_seed
from stages.engine.streams import Entry, MaskFolder, Stream
from stages.engine.watching import shown
from stages.networks import Classifier, Segmenter, build_classifier, build_segmenter, parameter_groups, upsample
from stages.networks.config import BackboneConfig, NetworkConfig
from stages.networks.weights import load_strictly


@dataclass(frozen=True)
class Setup:
    """The arguments that a method is built from.

    Attributes:
        network: the network's config: a NetworkConfig for segmenters, a ClassifierConfig for classifiers.
        num_classes: with background.
        seed: of the initial weights.
        iterations: all optimiser steps.
        workers: CPU processes that the method may use in addition to its own.
        initial: weights to start from instead (a segmenter's state dict).
        hard_examples: OHEM on exact masks; None: plain cross-entropy.
        crop_size: side of the square training crops, pixels.
    """

    network: BackboneConfig
    num_classes: int
    seed: int
    iterations: int
    workers: int = 1
    initial: Mapping[str, Tensor] | None = None
    hard_examples: HardExamples | None = None
    crop_size: int = 256

    @property
    def segmenter_config(self) -> NetworkConfig:
        assert isinstance(self.network, NetworkConfig)
        return self.network

    def segmenter(self, which: int = 0) -> Segmenter:
        """A segmenter with the config's initial weights; `which` = 1, 2, ... gives different random layers.

        Further networks take all given weights except those of the head: networks that start equal would stay equal.
        """
        seed = self.seed if which == 0 else derive_seed(self.seed, "network", which)
        network = build_segmenter(self.segmenter_config, self.num_classes, seed)
        if self.initial is not None:
            own = {} if which == 0 else network.head.state_dict(prefix="head.")
            load_strictly(network, {**self.initial, **own}, "the input 'initial'", "the network of this config")
        return network

    def classifier(self) -> Classifier:
        """A classifier of the foreground classes, whose class-activation maps are exact."""
        return build_classifier(self.network, self.num_classes - 1, self.seed)


@dataclass(frozen=True)
class Sources:
    """The image lists and label maps that a method may draw from.

    Attributes:
        strong: ids with masks; weak: ids with image-level labels only; unlabelled: ids without any.
        available: label sources that were given: "masks", "weak_labels", "seeds", "predictions", and "confidence" of
            the weak labels.
        folders: the label maps of "weak_labels", "seeds", "predictions", "confidence".
        maps: the score maps that came with "weak_labels" or "seeds"; a stream carries them by its `MapSource`.
        tagged: ids whose image-level labels a classifier learns, those with masks among them.
        dataset: tells which images have masks, where they may be read to log the quality of labels.
    """

    strong: Sequence[str]
    weak: Sequence[str]
    available: frozenset[str]
    dataset: Dataset | None = None
    unlabelled: Sequence[str] = ()
    tagged: Sequence[str] = ()
    folders: Mapping[str, MaskFolder] = field(default_factory=dict)
    maps: Mapping[str, ScoreMaps] = field(default_factory=dict)

    @property
    def without_masks(self) -> list[str]:
        """All images whose masks are not used: the unlabelled images of semi-supervised methods."""
        return sorted({*self.weak, *self.unlabelled})

    def require(self, method: str, *names: str) -> None:
        """ConfigError if data that the method needs is missing, with the command that provides it."""
        what = {
            "strong": "images with masks",
            "weak": "images with image-level labels only",
            "without_masks": "images without masks",
            "weak_labels": "estimated masks",
            "seeds": "seeds",
            "confidence": "estimated masks with confidences",
        }
        cure = {
            "strong": "the data set's split 'train' is empty: prepare it with --labelled",
            "weak": "the data set's split 'weak' is empty: prepare it with fewer labelled images",
            "without_masks": "the data set's splits 'weak' and 'unlabelled' are empty: prepare it with fewer labelled "
            "images, or with unlabelled ones",
            "weak_labels": "give estimated masks: --weak-labels NAME "
            "(made by predict, crf, vote, seeds, refine or import-masks)",
            "seeds": "give seeds: --seeds NAME (made by the stage seeds)",
            "confidence": "make them with predict --set confidence=true, then pseudo-labels",
        }
        for name in names:
            there = bool(getattr(self, name)) if name in ("strong", "weak", "without_masks") else name in self.available
            if not there and name in self.maps:
                raise DataError(
                    f"method {method} needs {what[name]}; the artifact given as {name} has no masks",
                    "make it with masks (predict --output masks)",
                )
            if not there:
                raise ConfigError(f"method {method} needs {what[name]}", cure[name])

    def with_map(self, source: str, ids: Sequence[str]) -> list[str]:
        """Those of `ids` that have a label map in a source."""
        missing = set(self.folders[source].missing(ids))
        return [image_id for image_id in ids if image_id not in missing]

    def entries(self, ids: Sequence[str], label: str | None) -> list[Entry]:
        return [Entry(image_id, label) for image_id in ids]


class Method:
    """Base of the methods: a subclass writes two parts, the rest has defaults."""

    networks: nn.ModuleDict
    """Every module with parameters or buffers: trained ones and frozen ones (teachers, requires_grad False)."""

    def __init__(self, settings: Any, setup: Setup) -> None:
        self.settings, self.setup = settings, setup
        self.observed: dict[str, Tensor] = {}
        """Figures of this step that are logged in addition to the losses; see `observe`."""

    def observe(self, **figures: Tensor) -> None:
        """Records figures of a step, scalars, for the log: the share of confident pixels, of chosen images."""
        self.observed |= {name: value.detach().float() for name, value in figures.items()}

    @classmethod
    def streams(cls, settings: Any, sources: Sources, batch_size: int) -> dict[str, Stream]:
        """The streams of images the method draws from; their batch sizes add up to `batch_size`.

        A stream may give groups of images (`Stream.group`), and may carry score maps (`Stream.maps`).
        """
        raise NotImplementedError  # every method says where its images come from

    prepared: ClassVar[tuple[str, ...]] = ()
    """Names of the label maps that `prepare` makes: sources that streams may name."""

    @staticmethod
    def prepare(settings: Any, known: Known) -> dict[str, NDArray[np.uint8]]:
        """Label maps of one image, uint8 (H, W), by the names in `prepared`.

        They are made once, before the first step, in other processes: by a function of a module that loads no torch.
        The artifact keeps them, for inspection: NAME/<image id>.png.
        """
        return {}

    def start(self, sources: Sources) -> None:
        """Called once in every run, before the first step: computes what the networks hold of all label maps."""

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        """Named loss terms of one step, already weighted: the engine minimises their sum.

        Every trained parameter takes part in every step, if need be with a gradient of 0: several processes exchange
        all gradients. A network that the settings do not use is not built.
        """
        raise NotImplementedError  # every method has a loss

    def after_step(self, step: int) -> None:
        """Called after each optimiser step (teachers are averaged here)."""

    def after_training(self, predictor: nn.Module, sources: Sources) -> None:
        """Called in every process before `predictor`, in eval mode, is published: what it measures of all images."""

    def epoch_metrics(self) -> dict[str, float]:
        """Further figures for the log, gathered over the epoch of the first stream that just ended."""
        return {}

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep in addition to the networks (tensors and plain values).

        Every process calls it at the same step; the result of rank 0 is kept, and restored in all processes.
        """
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Restores the result of `state`."""

    @property
    def predictor(self) -> nn.Module:
        """The network that is evaluated, exported and saved for inference; it has `spec(class_names)`."""
        return self.networks["segmenter"]

    def optimizers(self) -> dict[str, OptimizerConfig]:
        """Networks with their own optimiser, by name (discriminators); all others use that of the training."""
        return {}

    def supervised(self, logits: Tensor, label: Tensor) -> Tensor:
        """The loss on exact masks: cross-entropy, over the hard pixels only if `hard_examples` is set."""
        hard = self.setup.hard_examples
        if hard is None:
            return cross_entropy(logits, label)
        return hard_cross_entropy(logits, label, hard.threshold, hard.min_kept)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimiser groups of all networks: {"name": "segmenter.new.weights", "params": [...]}, ..."""
        return [
            {**group, "name": f"{name}.{group['name']}"}
            for name, network in self.networks.items()
            for group in parameter_groups(network, getattr(network, "pretrained", ()))
        ]

    def close(self) -> None:
        """Releases the resources of the method (process pools)."""


def segment(network: nn.Module, batch: Batch) -> Tensor:
    """Logits (B, C, H, W) of a segmenter at the size of the images, fp32."""
    logits = network(batch.image, batch.encoded) if batch.encoded else network(batch.image)
    return at_size(logits, batch, network)


def at_size(logits: Tensor, batch: Batch, network: nn.Module) -> Tensor:
    """Logits of a head of `network`, (B, C, h, w), at the size of the images, fp32."""
    height, width = batch.image.shape[-2:]
    logits = upsample(logits.float(), (height, width), cast(Segmenter, network).stride)
    shown(logits, batch)
    return logits
