"""Streams of training samples: which pictures a step takes, stateless, so that a step can be made again alone.

A method asks for one or more streams (strong, weak, unlabelled, ...). Step k of a stream is a fixed slice of an endless
sequence of shuffled epochs; the shuffle of each epoch depends only on (seed, stream, epoch). A resumed run, another
number of workers or of processes therefore sees the same joint batches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from artifacts.dataset import Dataset
from artifacts.errors import ConfigError, DataError
from artifacts.masks import read_mask
from stages.engine.augmentation import (
    IGNORE,
    cut_label,
    cut_picture,
    draw_colour,
    draw_geometry,
    valid_area,
)
from stages.engine.config import AugmentationConfig
from stages.engine.randomness import generator

if TYPE_CHECKING:
    from torch import Tensor

PLACE = 64  # bytes: where a tensor may begin in a parcel


class Entry(NamedTuple):
    """One picture of a stream and where its label map comes from: a key of the label sources, or None."""

    image_id: str
    label: str | None


@dataclass(frozen=True)
class Stream:
    """An endless, reshuffled sequence of pictures.

    Attributes:
        entries: the pictures of one epoch; an id may occur several times (oversampling).
        batch_size: pictures per step over all processes.
        partner_of: take the pictures of that stream, but at every place another one than it has there (CutMix).
        extra: further label maps by name ("reference": the true masks, to log the quality of pseudo labels).
    """

    entries: Sequence[Entry]
    batch_size: int
    partner_of: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)


class Place(NamedTuple):
    """A position in the endless sequence: the epoch, the place in it and which entry stands there."""

    epoch: int
    position: int
    entry: int


class Order:
    """The endless order of a stream's entries."""

    def __init__(self, name: str, stream: Stream, seed: int) -> None:
        self.name, self.stream, self.seed = name, stream, seed
        self._epochs: dict[int, np.ndarray] = {}

    def _epoch(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            while len(self._epochs) >= 2:  # a batch spans at most two epochs, or many tiny ones in turn
                del self._epochs[next(iter(self._epochs))]
            count = len(self.stream.entries)
            order = generator(self.seed, "order", self.stream.partner_of or self.name, epoch).permutation(count)
            if self.stream.partner_of and count > 1:
                # Rolling the same permutation moves every picture to another place: no picture meets itself.
                order = np.roll(order, int(generator(self.seed, "partner", self.name, epoch).integers(1, count)))
            self._epochs[epoch] = order
        return self._epochs[epoch]

    def step(self, step: int, rank: int = 0, world_size: int = 1) -> list[Place]:
        """The places of this process's share of the joint batch of `step`."""
        share = self.stream.batch_size // world_size
        first = step * self.stream.batch_size + rank * share
        count, places = len(self.stream.entries), []
        for sequence_position in range(first, first + share):
            epoch, position = divmod(sequence_position, count)
            places.append(Place(epoch, position, int(self._epoch(epoch)[position])))
        return places


class MaskFolder:
    """Label maps of an artifact with `masks/<id>.png` (kinds masks, seeds, predictions).

    Without `num_classes` any value passes: maps of confidences.
    """

    def __init__(self, folder: Path, num_classes: int | None) -> None:
        self.folder, self.num_classes = folder, num_classes

    def mask(self, image_id: str) -> np.ndarray:
        """uint8 (H, W), 255 where unknown."""
        return read_mask(self.folder / f"{image_id}.png", self.num_classes)

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Those of `ids` without a label map, sorted."""
        return sorted(image_id for image_id in ids if not (self.folder / f"{image_id}.png").is_file())


class SampleMaker:
    """Makes the batches of steps, on the CPU: `maker[step]` is {stream: {"image", "label", "valid", ...}}.

    A map-style data set for torch's DataLoader with `batch_size=None`: one item is one step. Decoded pictures and
    labels are kept in memory up to `cache_bytes` per worker process.
    """

    def __init__(
        self,
        dataset: Dataset,
        streams: Mapping[str, Stream],
        sources: Mapping[str, Any],
        augmentation: AugmentationConfig,
        crop_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        cache_bytes: int = 1 << 30,
    ) -> None:
        for name, stream in streams.items():
            check_stream(name, stream, world_size)
        self.dataset, self.sources, self.augmentation = dataset, sources, augmentation
        self.crop_size, self.seed, self.rank, self.world_size = crop_size, seed, rank, world_size
        self.orders = {name: Order(name, stream, seed) for name, stream in streams.items()}
        self.cache_bytes = cache_bytes
        self._cache: dict[tuple[str, str], np.ndarray] = {}
        self._cached = 0

    def _read(self, source: str, image_id: str) -> np.ndarray:
        key = (source, image_id)
        if key not in self._cache:
            value = self.dataset.image(image_id) if source == "image" else self.sources[source].mask(image_id)
            if self._cached + value.nbytes > self.cache_bytes:
                return value
            self._cache[key] = value
            self._cached += value.nbytes
        return self._cache[key]

    def __getitem__(self, step: int) -> dict[str, dict[str, Any]]:
        return {
            name: self._stack([self.sample(name, place) for place in order.step(step, self.rank, self.world_size)])
            for name, order in self.orders.items()
        }

    def sample(self, name: str, place: Place) -> dict[str, Any]:
        """One augmented sample: image uint8 (3, S, S), label maps uint8 (S, S), valid bool (S, S), tags, colour."""
        stream = self.orders[name].stream
        entry = stream.entries[place.entry]
        random = generator(self.seed, "augment", name, place.epoch, place.position)
        picture = self._read("image", entry.image_id)
        geometry = draw_geometry(self.augmentation, picture.shape[:2], self.crop_size, random)
        sample: dict[str, Any] = {
            "id": entry.image_id,
            "image": cut_picture(picture, geometry, self.crop_size).transpose(2, 0, 1),
            "valid": valid_area(geometry, self.crop_size),
            "tags": self.dataset.tags_vector(entry.image_id),
            "colour": draw_colour(self.augmentation, random),
        }
        for key, source in {"label": entry.label, **stream.extra}.items():
            if source is None:
                sample[key] = np.full((self.crop_size, self.crop_size), IGNORE, np.uint8)
                continue
            label = self._read(source, entry.image_id)
            if label.shape != picture.shape[:2]:
                raise DataError(
                    f"{source} of {entry.image_id} is {label.shape[1]}x{label.shape[0]} pixels, "
                    f"its picture {picture.shape[1]}x{picture.shape[0]}",
                    "a label map has the size of its picture: rerun the stage that made it",
                )
            sample[key] = cut_label(label, geometry, self.crop_size)
        return sample

    @staticmethod
    def _stack(samples: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        def joined(key: str) -> Any:
            values = [sample[key] for sample in samples]
            if key == "id":
                return values
            if key == "image":  # channels_last, as they were cut and as convolutions like them
                return torch.from_numpy(np.stack([value.transpose(1, 2, 0) for value in values])).permute(0, 3, 1, 2)
            return torch.from_numpy(np.stack(values))

        return {key: joined(key) for key in samples[0]}


@dataclass(frozen=True)
class Parcel:
    """The batches of a step with all tensors in one block of bytes: sent between processes as one piece.

    Sending a tensor to another process costs as much as making two samples, however small it is.
    """

    block: Tensor  # uint8 (bytes,)
    contents: dict[str, dict[str, Any]]  # stream -> name -> ids, or a tensor's (dtype, shape, strides, first byte)

    @classmethod
    def pack(cls, batches: Mapping[str, Mapping[str, Any]]) -> Parcel:
        """`batches` as `SampleMaker` makes them; tensors keep their strides."""
        import torch

        end, contents, tensors = 0, {}, []
        for stream, batch in batches.items():
            contents[stream] = dict(batch)
            for name, value in batch.items():
                if isinstance(value, torch.Tensor):
                    contents[stream][name] = place = (value.dtype, tuple(value.shape), value.stride(), end)
                    tensors.append((value, place))
                    end += -(-value.numel() * value.element_size() // PLACE) * PLACE
        parcel = cls(torch.empty(end, dtype=torch.uint8), contents)
        for value, place in tensors:
            parcel._tensor(place).copy_(value)
        return parcel

    def unpack(self) -> dict[str, dict[str, Any]]:
        """The batches again; their tensors are views of the block."""
        return {
            stream: {name: self._tensor(value) if isinstance(value, tuple) else value for name, value in batch.items()}
            for stream, batch in self.contents.items()
        }

    def pin_memory(self) -> Parcel:
        """Called by DataLoader where there is a GPU."""
        return Parcel(self.block.pin_memory(), self.contents)

    def _tensor(self, place: tuple[Any, tuple[int, ...], tuple[int, ...], int]) -> Tensor:
        dtype, shape, strides, first = place
        whole = self.block[first : first + math.prod(shape) * dtype.itemsize]
        return whole.view(dtype).as_strided(shape, strides)


def check_stream(name: str, stream: Stream, world_size: int) -> None:
    """ConfigError for an empty stream or a batch that does not divide over the processes."""
    if not stream.entries:
        raise ConfigError(f"the stream {name!r} has no pictures", "check the splits of the data set")
    if stream.batch_size < 1:
        raise ConfigError(f"the stream {name!r} gets no share of the batch", "raise batch_size")
    if stream.batch_size % world_size:
        raise ConfigError(
            f"the stream {name!r} has {stream.batch_size} pictures a step: not divisible by {world_size} processes",
            f"choose a batch_size whose shares are multiples of {world_size}",
        )
    if stream.partner_of and len({entry.image_id for entry in stream.entries}) < 2:
        raise ConfigError(f"the stream {name!r} needs at least two different pictures to mix")
