"""CLIP as settings describe it: its network, and the vectors of its texts; and as the source of maps for `seeds`."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from artifacts.dataset import Dataset
from artifacts.errors import ConfigError
from artifacts.store import Writer
from stages.contract import Execution
from stages.engine.device import autocast_dtype, describe_device, select_device
from stages.localization.activation_maps import ActivationMaps
from stages.localization.clip_config import NO_WEIGHTS, ClipConfig, ClipSource
from stages.localization.clip_maps import ClipTexts, clip_batches, clip_maps
from stages.localization.clip_texts import (
    Texts,
    names_of_rows,
    read_vectors,
    remaining_background,
    sentences_of_rows,
    texts_of_classes,
)
from stages.networks.clip import (
    ClipImageTower,
    download_clip,
    image_tower,
    random_tower,
    random_vectors,
    read_clip,
    text_vectors,
)

Vectors = NDArray[np.float32]

VECTORS = "text_vectors.npz"  # item of the artifact; settings of further runs take it as source.vectors


def read_state(settings: ClipConfig) -> dict[str, Tensor] | None:
    """The weights of both sides; None for random ones."""
    if settings.weights == NO_WEIGHTS:
        return None
    file = settings.file_of_weights
    return download_clip(settings.weights) if file is None else read_clip(file)


def load_tower(settings: ClipConfig, state: dict[str, Tensor] | None) -> ClipImageTower:
    """The image side of `read_state`, on the CPU, in eval mode, without gradients."""
    tower = random_tower() if state is None else image_tower(state, settings.activation, settings.weights)
    return tower.requires_grad_(False)


def load_vectors(settings: ClipConfig, texts: Texts, state: dict[str, Tensor] | None) -> Vectors:
    """The vectors of `names_of_rows`: given ones, or those of the text side."""
    names = names_of_rows(settings, texts)
    if settings.vectors:
        return read_vectors(Path(settings.vectors).expanduser(), names)
    if state is None:
        return random_vectors(names).numpy()
    return text_vectors(state, sentences_of_rows(settings, texts), settings.activation).numpy()


def texts_for(tower: ClipImageTower, vectors: Vectors, texts: Texts, key: str) -> ClipTexts:
    """The vectors of `texts` and of the background, which are of one network with the tower, or it is a ConfigError."""
    unit = F.normalize(torch.from_numpy(vectors), dim=-1)
    if unit.shape[1] != tower.project.out_features:
        raise ConfigError(
            f"the vectors of texts have {unit.shape[1]} numbers, those of images {tower.project.out_features}",
            f"give {key}.vectors and {key}.weights of the same network",
        )
    return ClipTexts(unit[: len(texts)], unit[len(texts) :])


class ClipMaps:
    """Maps of images by CLIP, whose weights are read before anything is written: ConfigError if they do not fit.

    `store_vectors` first, in one process; it keeps the vectors in the artifact, where all processes read them.
    """

    def __init__(
        self, settings: ClipSource, dataset: Dataset, max_pixels: int, writer: Writer, execution: Execution
    ) -> None:
        self.settings, self.dataset, self.max_pixels = settings, dataset, max_pixels
        self.writer, self.execution = writer, execution
        self.texts = texts_of_classes(settings, dataset.class_names)
        self.names = names_of_rows(settings, self.texts)
        self.device = select_device(execution.device)
        self.device_name = describe_device(self.device)
        state = read_state(settings)
        self.vectors: Vectors | None = None
        tower = load_tower(settings, state)
        if execution.rank == 0 and not writer.has(VECTORS):
            self.vectors = load_vectors(settings, self.texts, state)
            texts_for(tower, self.vectors, self.texts, settings.key)
        self.tower = tower.to(self.device)

    def store_vectors(self) -> None:
        """The vectors of the texts as items of the artifact. Says which are left out, and if weights are random."""
        note = self.execution.progress.note
        if self.settings.weights == NO_WEIGHTS:
            note("source.weights is none: a small network with random weights, whose maps mean nothing")
        kept = remaining_background(self.settings, self.texts)
        if dropped := [text for text in self.settings.background if text not in kept]:
            note(f"not background, since the data set has such classes: {', '.join(dropped)}")
        if self.vectors is not None:
            content = io.BytesIO()
            np.savez(content, names=np.array(self.names), vectors=self.vectors)
            self.writer.write_bytes(VECTORS, content.getvalue())

    def batches(self, ids: Sequence[str]) -> list[list[str]]:
        """The images in batches; each without a label is one of its own."""
        found = clip_batches(self.tower, self.dataset, ids, self.settings, self.max_pixels)
        return [[image_id] for image_id in ids if not self.dataset.tags(image_id)] + found

    def maps(self, ids: Sequence[str]) -> Iterator[ActivationMaps]:
        device = self.device
        vectors = read_vectors(self.writer.path / VECTORS, self.names)
        texts = texts_for(self.tower, vectors, self.texts, self.settings.key)
        return clip_maps(
            self.tower,
            ClipTexts(texts.classes.to(device), texts.background.to(device)),
            self.dataset,
            ids,
            self.settings,
            max_pixels=self.max_pixels,
            device=device,
            dtype=autocast_dtype(self.settings.precision, device),
            threads=self.execution.own_workers,
        )
