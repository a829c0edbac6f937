"""What is on the sheets of a training: tiles of the images of a batch, their labels, and what they are taught.

    sections = batch_sections(batch, lessons, maker.orders, class_names)

They are made on the device of the batch, in the size in which they are drawn, and lie on the CPU then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from artifacts.dataset import first_label
from artifacts.masks import IGNORE
from artifacts.text import amount
from stages.engine.batch import Batch
from stages.engine.streams import Order
from stages.engine.training_sheet import TILE, Example, Section, Tile
from stages.engine.watching import Lesson
from stages.networks.normalisation import pixels_of

MOST_TILES, MOST_IMAGES, FEWEST_IMAGES = 32, 16, 3  # of a stream
LABELS = {"masks": "mask", "weak_labels": "estimated mask", "predictions": "predicted mask"}

Place = tuple[str, int]  # a stream, and the place in its batch


@dataclass(frozen=True)
class _Learned:
    """What a row of a lesson teaches of an image. changed: images of its stream are no longer those that were drawn."""

    lesson: Lesson
    row: int
    changed: bool

    @property
    def shown(self) -> tuple[Batch, int]:
        return self.lesson.rows[self.row]

    @property
    def key(self) -> tuple[int, int]:
        """The same for lessons of one image that was shown."""
        samples, place = self.shown
        return id(samples), place


@torch.no_grad()
def batch_sections(
    batch: Mapping[str, Batch], lessons: Sequence[Lesson], orders: Mapping[str, Order], class_names: Sequence[str]
) -> list[Section]:
    """A section for each stream; the images of other members of a group stand beside those of the first."""
    learned: dict[Place, list[_Learned]] = {}
    for lesson in lessons:
        found = list(_places(lesson, batch))
        changed = {name for _, (name, _), equal in found if not equal}  # all images of a stream have the same tiles
        for row, place, _ in found:
            learned.setdefault(place, []).append(_Learned(lesson, row, place[0] in changed))
    sections = []
    for name, order in orders.items():
        samples, partners = batch[name], {other: batch[other] for other in order.stream.apart}
        sources = {entry.image_id: entry.label for entry in order.stream.entries}
        known = samples.label[samples.label != IGNORE]
        if bool((known >= len(class_names)).any()):  # regions, not classes
            sources = dict.fromkeys(sources)
        rows = [learned.get((name, row), []) for row in range(len(samples))]
        examples = _examples(samples, partners, sources, rows, first_label(class_names))
        sections.append(Section(f"{name}: {len(examples)} of {len(samples)} images", examples))
    return sections


@torch.no_grad()
def prediction_section(samples: Batch, predicted: Tensor, class_names: Sequence[str]) -> Section:
    """Images with their masks and what is predicted, uint8 (B, H, W)."""
    examples = []
    for row, image_id in enumerate(samples.ids):
        prediction = Tile("prediction", small_image(samples.image[row]), small_labels(predicted[row]))
        tiles = [*_drawn_tiles(samples, row, "masks"), prediction]
        examples.append(Example(image_id, _classes(samples.tags[row], first_label(class_names)), tiles))
    return Section(f"val: {amount(len(examples), 'image')}, after this step", examples)


def _examples(
    samples: Batch,
    partners: Mapping[str, Batch],
    sources: Mapping[str, str | None],
    learned: Sequence[Sequence[_Learned]],
    first: int,
) -> list[Example]:
    """The first images of a batch, as many as there is space for."""
    examples: list[Example] = []
    for row, image_id in enumerate(samples.ids[:MOST_IMAGES]):
        if examples and len(examples) >= max(FEWEST_IMAGES, MOST_TILES // len(examples[0].tiles)):
            break
        tiles = [
            *_drawn_tiles(samples, row, sources[image_id]),
            *(Tile(other, small_image(images.image[row])) for other, images in partners.items()),
            *_taught_tiles(learned[row], samples.label[row] if sources[image_id] else None),
        ]
        examples.append(Example(image_id, _classes(samples.tags[row], first), tiles))
    return examples


def _places(lesson: Lesson, batch: Mapping[str, Batch]) -> Iterator[tuple[int, Place, bool]]:
    """Rows of a lesson, the image that each was made of, and whether it is still equal to it.

    An image may be in the batch several times, in several crops: each is taken once, equal ones before others.
    """
    taken: set[Place] = set()
    for row, (samples, number) in enumerate(lesson.rows):
        image_id, image = samples.ids[number], samples.image[number]
        places = [
            (name, place)
            for name, drawn in batch.items()
            for place, other in enumerate(drawn.ids)
            if other == image_id and (name, place) not in taken
        ]
        equal = [(name, place) for name, place in places if torch.equal(batch[name].image[place], image)]
        if places:
            taken.add((equal or places)[0])
            yield row, (equal or places)[0], bool(equal)


def _drawn_tiles(samples: Batch, row: int, source: str | None) -> Iterator[Tile]:
    """The image as it was drawn, its label map and its score maps."""
    image = small_image(samples.image[row])
    yield Tile("image", image)
    if source is not None:
        yield Tile(LABELS.get(source, source), image, small_labels(samples.label[row].byte()))
    if samples.maps.numel():
        scores, label = samples.maps[row].max(0)
        yield Tile("score maps", image, small_labels(label.byte().masked_fill(scores <= 0, IGNORE)))
        yield Tile("score", scores=small_scores(scores))


def _taught_tiles(learned: Sequence[_Learned], label: Tensor | None) -> Iterator[Tile]:
    """Each image that was shown, if it was changed; what is taught of it, if this is not its label map alone."""
    terms: dict[tuple[int, int], list[str]] = {}  # of each image that was shown
    for one in learned:
        terms.setdefault(one.key, []).extend(one.lesson.terms)
    for one in learned:
        found, confidence = one.lesson.labels(one.row)
        if not one.changed and label is not None and torch.equal(found, label.byte()) and confidence is None:
            continue
        samples, place = one.shown
        image = small_image(samples.image[place])
        if one.changed and (of_image := terms.pop(one.key, None)):
            yield Tile(f"shown: {_words(of_image)}", image)
        yield Tile(f"taught: {_words(one.lesson.terms)}", image, small_labels(found))
        if confidence is not None:
            yield Tile("confidence", scores=small_scores(confidence.float()))


def _words(terms: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(terms)).replace("_", " ")


def _classes(tags: Tensor, first: int) -> tuple[int, ...] | None:
    """The image-level labels, whose smallest is `first`; None: not known."""
    return None if bool(tags.isnan().any()) else tuple((tags.nonzero()[:, 0] + first).tolist())


def small_image(image: Tensor) -> np.ndarray:
    """A normalised image (3, H, W) as RGB uint8, no side longer than a tile."""
    return pixels_of(_small(image[None].float(), "area"))[0].permute(1, 2, 0).cpu().numpy()


def small_labels(labels: Tensor) -> np.ndarray:
    """uint8 labels (H, W), no side longer than a tile."""
    return _small(labels[None, None].float(), "nearest-exact")[0, 0].byte().cpu().numpy()


def small_scores(scores: Tensor) -> np.ndarray:
    """Values 0..1 (H, W) as uint8, no side longer than a tile."""
    return (_small(scores[None, None].float(), "area")[0, 0].clamp(0, 1) * 255).byte().cpu().numpy()


def _small(maps: Tensor, mode: str) -> Tensor:
    height, width = maps.shape[2:]
    scale = TILE / max(height, width)
    if scale >= 1:
        return maps
    return F.interpolate(maps, (max(round(height * scale), 1), max(round(width * scale), 1)), mode=mode)
