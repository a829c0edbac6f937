"""Streams of training samples: which images a step takes. They have no state: any step can be made again alone.

A method asks for one or more streams (strong, weak, unlabelled, ...). Step k of a stream is a fixed slice of an endless
sequence of shuffled epochs; the shuffle of each epoch depends only on (seed, stream, epoch). A resumed run, or one with
a different number of workers or processes, therefore sees the same joint batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from artifacts.dataset import Dataset
from artifacts.errors import ConfigError, DataError
from artifacts.feature_maps import FeatureMaps
from artifacts.masks import read_mask
from artifacts.score_maps import ScoreMap, ScoreMaps, check_fits
from stages.engine.augmentation import (
    IGNORE,
    Geometry,
    cut_image,
    cut_label,
    cut_maps,
    draw_view,
    fixed_view,
    valid_area,
)
from stages.engine.config import AugmentationConfig
from stages.engine.groups import AlikeImages
from stages.engine.randomness import generator

if TYPE_CHECKING:
    from torch import Tensor

ENCODED = "encoded "  # begins the names of kept features in a sample
PLACE = 64  # bytes: where a tensor may begin in packed batches


class Entry(NamedTuple):
    """One image of a stream and where its label map comes from: a key of the label sources, or None."""

    image_id: str
    label: str | None


@dataclass(frozen=True)
class MapSource:
    """The score maps that the images of a stream carry, as targets of a regression: `Batch.maps`.

    Attributes:
        source: which: the input of the stage that brings them, "seeds" or "weak_labels".
        stride: pixels of the crop from the centre of one cell to the next; None: those of the network that the method
            publishes (its attribute `stride`), so that the maps lie on the cells of its output.
        padding: the value of cells whose centre lies outside the image.
    """

    source: str
    stride: int | None = None
    padding: float = 0.0


@dataclass(frozen=True)
class Stream:
    """An endless, reshuffled sequence of images, or of groups of images that are learned from together.

    Attributes:
        entries: the images of one epoch; an id may occur several times (oversampling).
        batch_size: images, or groups, per step over all processes; a group is never spread over processes.
        group: images in a group: the one whose turn it is, and `group` - 1 others of the stream.
        alike: which images these are. None: any; in an epoch each image is once the second, third, ... of a group.
            "tags": those that share at least one image-level label with the first one, see `AlikeImages.others`.
            "same-tags": those that have all labels in common with it; where they do not suffice, as "tags".
        apart: names for these other images: each gives a batch of its own, whose rows belong to those of the batch of
            the first images (CutMix). Without names one batch holds group after group: rows group * i to
            group * (i + 1) - 1.
        extra: further label maps by name ("reference": the true masks, to log the quality of pseudo labels).
        maps: the score maps that the images carry.
    """

    entries: Sequence[Entry]
    batch_size: int
    group: int = 1
    alike: Literal["tags", "same-tags"] | None = None
    apart: Sequence[str] = ()
    extra: Mapping[str, str] = field(default_factory=dict)
    maps: MapSource | None = None

    @property
    def images(self) -> int:
        """Images per step over all processes."""
        return self.batch_size * self.group


class Place(NamedTuple):
    """A position in the endless sequence: the epoch, the place in it, and which entry is the member of its group."""

    epoch: int
    position: int
    entry: int
    member: int = 0


class Order:
    """The endless order of a stream's entries, and their groups."""

    def __init__(
        self, name: str, stream: Stream, seed: int, labels_of: Callable[[str], Sequence[int]] | None = None
    ) -> None:
        """labels_of: the image-level labels of an image, for groups of images that are alike."""
        self.name, self.stream, self.seed = name, stream, seed
        self.names = [name, *(stream.apart or (f"{name}-{member}" for member in range(1, stream.group)))]
        self.alike: AlikeImages | None = None
        if stream.alike is not None and labels_of is not None:
            ids = [entry.image_id for entry in stream.entries]
            self.alike = AlikeImages(ids, labels_of, equal=stream.alike == "same-tags")
        self._epochs: dict[int, tuple[np.ndarray, list[int]]] = {}

    def _epoch(self, epoch: int) -> tuple[np.ndarray, list[int]]:
        """The shuffled entries, and how far behind the first one in them each member of a group is."""
        if epoch not in self._epochs:
            while len(self._epochs) >= 2:  # a batch spans at most two epochs, or many tiny ones one after the other
                del self._epochs[next(iter(self._epochs))]
            count, behind = len(self.stream.entries), [0]
            order = generator(self.seed, "order", self.name, epoch).permutation(count)
            for name in self.names[1:] if self.stream.alike is None else ():
                random = generator(self.seed, "partner", name, epoch)
                while (step := int(random.integers(1, count))) in behind:
                    continue
                behind.append(step)
            self._epochs[epoch] = order, behind
        return self._epochs[epoch]

    def _group(self, epoch: int, position: int) -> list[int]:
        """The entries of the group at a position of an epoch."""
        order, behind = self._epoch(epoch)
        if self.alike is None:
            return [int(order[position - step]) for step in behind]  # the same shuffle: no image meets itself
        random = generator(self.seed, "group", self.name, epoch, position)
        first = int(order[position])
        return [first, *self.alike.others(first, self.stream.group - 1, random)]

    def step(self, step: int, rank: int = 0, world_size: int = 1) -> list[Place]:
        """The places of this process's share of the joint batch of `step`, group after group."""
        share = self.stream.batch_size // world_size
        first = step * self.stream.batch_size + rank * share
        places = []
        for sequence_position in range(first, first + share):
            epoch, position = divmod(sequence_position, len(self.stream.entries))
            group = self._group(epoch, position)
            places += [Place(epoch, position, entry, member) for member, entry in enumerate(group)]
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

    A map-style data set for torch's DataLoader with `batch_size=None`: one item is one step. Decoded images and
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
        maps: Mapping[str, ScoreMaps] | None = None,
        features: FeatureMaps | None = None,
        encoded: Collection[str] = (),
    ) -> None:
        """features: kept features of the images of the streams `encoded`, in the views of `augmentation`."""
        for name, stream in streams.items():
            check_stream(name, stream, world_size)
        self.dataset, self.sources, self.augmentation = dataset, sources, augmentation
        self.crop_size, self.seed, self.rank, self.world_size = crop_size, seed, rank, world_size
        self.maps = maps or {}
        self.features, self.encoded = features, encoded
        self.orders = {name: Order(name, stream, seed, self._labels) for name, stream in streams.items()}
        for order in self.orders.values():
            check_alike(order)
        self.cache_bytes = cache_bytes
        self._cache: dict[tuple[str, str], Any] = {}
        self._cached = 0

    def _labels(self, image_id: str) -> Sequence[int]:
        return self.dataset.tags(image_id) if self.dataset.has_tags(image_id) else ()

    def _read(self, source: str, image_id: str) -> np.ndarray:
        read = self.dataset.image if source == "image" else self.sources[source].mask
        return self._kept((source, image_id), lambda: read(image_id), lambda value: value.nbytes)

    def _read_maps(self, source: str, image_id: str) -> ScoreMap:
        return self._kept((f"maps {source}", image_id), lambda: self.maps[source][image_id], lambda v: v.scores.nbytes)

    def _kept(self, key: tuple[str, str], read: Callable[[], Any], size: Callable[[Any], int]) -> Any:
        """The result of an earlier `read()`, or of one now, which is kept while there is space."""
        if key not in self._cache:
            value = read()
            if self._cached + size(value) > self.cache_bytes:
                return value
            self._cache[key] = value
            self._cached += size(value)
        return self._cache[key]

    def __getitem__(self, step: int) -> dict[str, dict[str, Any]]:
        batches = {}
        for name, order in self.orders.items():
            group, apart = order.stream.group, order.stream.apart
            samples = [self.sample(name, place) for place in order.step(step, self.rank, self.world_size)]
            for member, batch_name in enumerate([name, *apart]):
                batches[batch_name] = self._stack(samples[member::group] if apart else samples)
            if group > 1 and not apart:
                batches[name]["group"] = group
        return batches

    def sample(self, name: str, place: Place) -> dict[str, Any]:
        """One augmented sample: image uint8 (3, S, S), label maps uint8 (S, S), valid bool (S, S), tags, colour."""
        order = self.orders[name]
        stream = order.stream
        entry = stream.entries[place.entry]
        random = generator(self.seed, "augment", order.names[place.member], place.epoch, place.position)
        image = self._read("image", entry.image_id)
        size, views, number = image.shape[:2], self.augmentation.views, 0
        if views is None:
            geometry, colour = draw_view(self.augmentation, size, self.crop_size, random)
        else:
            number = int(random.integers(views))
            geometry, colour = fixed_view(self.augmentation, entry.image_id, number, size, self.crop_size)
        sample: dict[str, Any] = {
            "id": entry.image_id,
            "image": cut_image(image, geometry, self.crop_size).transpose(2, 0, 1),
            "valid": valid_area(geometry, self.crop_size),
            "tags": self.dataset.tags_vector(entry.image_id),
            "colour": colour,
        }
        if self.features is not None and name in self.encoded:
            sample |= self._features(self.features, entry.image_id, number)
        if stream.maps is not None:
            sample["maps"] = self._maps(stream.maps, entry.image_id, geometry)
        for key, source in {"label": entry.label, **stream.extra}.items():
            if source is None:
                sample[key] = np.full((self.crop_size, self.crop_size), IGNORE, np.uint8)
                continue
            label = self._read(source, entry.image_id)
            if label.shape != image.shape[:2]:
                raise DataError(
                    f"{source} of {entry.image_id} is {label.shape[1]}x{label.shape[0]} pixels, "
                    f"its image {image.shape[1]}x{image.shape[0]}",
                    "a label map has the size of its image: rerun the stage that made it",
                )
            sample[key] = cut_label(label, geometry, self.crop_size)
        return sample

    def _features(self, features: FeatureMaps, image_id: str, view: int) -> dict[str, np.ndarray]:
        """The kept features of a view of an image, by the names of the maps."""

        def size(maps: Mapping[str, np.ndarray]) -> int:
            return sum(value.nbytes for value in maps.values())

        maps = self._kept((f"features {view}", image_id), lambda: features.read(image_id, view), size)
        return {f"{ENCODED}{key}": value for key, value in maps.items()}

    def _maps(self, wanted: MapSource, image_id: str, geometry: Geometry) -> np.ndarray:
        """The score maps of an image, cut as it is: float32 (classes, h, w) on the cells of the crop."""
        assert wanted.stride is not None  # None is replaced by `train_network`
        found = self._read_maps(wanted.source, image_id)
        check_fits(found, self.dataset)
        return cut_maps(found, self.dataset.num_classes, geometry, self.crop_size, wanted.stride, wanted.padding)

    @staticmethod
    def _stack(samples: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        def joined(key: str) -> Any:
            values = [sample[key] for sample in samples]
            if key == "id":
                return values
            if key == "image":  # channels_last, as they were cut; convolutions are fastest in it
                return torch.from_numpy(np.stack([value.transpose(1, 2, 0) for value in values])).permute(0, 3, 1, 2)
            return torch.from_numpy(np.stack(values))

        return {key: joined(key) for key in samples[0]}


@dataclass(frozen=True)
class PackedBatches:
    """The batches of a step with all tensors in one block of bytes: sent between processes as one piece.

    Sending a tensor to another process costs as much as making two samples, however small it is.
    """

    block: Tensor  # uint8 (bytes,)
    contents: dict[str, dict[str, Any]]  # stream -> name -> ids, or a tensor's (dtype, shape, strides, first byte)

    @classmethod
    def pack(cls, batches: Mapping[str, Mapping[str, Any]]) -> PackedBatches:
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
        packed = cls(torch.empty(end, dtype=torch.uint8), contents)
        for value, place in tensors:
            packed._tensor(place).copy_(value)
        return packed

    def unpack(self) -> dict[str, dict[str, Any]]:
        """The batches again; their tensors are views of the block."""
        return {
            stream: {name: self._tensor(value) if isinstance(value, tuple) else value for name, value in batch.items()}
            for stream, batch in self.contents.items()
        }

    def pin_memory(self) -> PackedBatches:
        """Called by DataLoader where there is a GPU."""
        return PackedBatches(self.block.pin_memory(), self.contents)

    def _tensor(self, place: tuple[Any, tuple[int, ...], tuple[int, ...], int]) -> Tensor:
        dtype, shape, strides, first = place
        whole = self.block[first : first + math.prod(shape) * dtype.itemsize]
        return whole.view(dtype).as_strided(shape, strides)


def check_stream(name: str, stream: Stream, world_size: int) -> None:
    """ConfigError for an empty stream or a batch that does not divide over the processes."""
    if not stream.entries:
        raise ConfigError(f"the stream {name!r} has no images", "check the splits of the data set")
    if stream.batch_size < 1:
        raise ConfigError(f"the stream {name!r} gets no share of the batch", "raise batch_size")
    if stream.batch_size % world_size:
        raise ConfigError(
            f"the stream {name!r} has {stream.batch_size} images a step: not divisible by {world_size} processes",
            f"choose a batch_size whose shares are multiples of {world_size}",
        )
    if stream.group < 1 or len(stream.apart) not in (0, stream.group - 1):
        raise ValueError(f"the stream {name!r} has groups of {stream.group}, and names for {len(stream.apart)} others")
    if stream.group > 1 and stream.alike is None and len({entry.image_id for entry in stream.entries}) < stream.group:
        raise ConfigError(
            f"the stream {name!r} needs at least {stream.group} different images: it learns from as many together",
            "check the splits of the data set",
        )


def check_alike(order: Order) -> None:
    """ConfigError where images are to be grouped by their image-level labels, and no two share one."""
    count = len({entry.image_id for entry in order.stream.entries})
    if order.alike is not None and order.stream.group > 1 and order.alike.short(1) == count:
        raise ConfigError(
            f"the stream {order.name!r} groups images by their image-level labels, and no two of its {count} share one",
            "prepare the data set with labels (--set tag_source=...), or choose another method",
        )
