"""Images of what a training shows its networks: `local/batches/batch-N.jpg`, and the same in TensorBoard.

    with TrainingImages(folder, board, maker, config) as images:
        images.draw(step, batch, lessons)
        images.draw_val(step, network, device)

A sheet has the images of each stream as they were drawn, with their label maps and image-level labels; beside them what
became of them (strong views, mixed images), and what each term of the loss teaches there. What is shown is taken from
the device at once and in its small size; a thread draws and writes it while the training goes on. `val-N.jpg` has a few
images of val with the predictions after the same steps.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artifacts.dataset import first_label
from artifacts.disk_errors import disk_errors
from artifacts.masks import IGNORE
from stages.engine.batch import Batch, to_device
from stages.engine.config import AugmentationConfig, TrainingConfig
from stages.engine.device import autocast_dtype
from stages.engine.inference import evaluating
from stages.engine.method import segment
from stages.engine.streams import Entry, Order, SampleMaker, Stream
from stages.engine.training_sheet import TILE, Example, Section, Tile, draw_sheet
from stages.engine.watching import Lesson
from stages.networks.normalisation import pixels_of

FOLDER = "batches"  # below local/
MOST_TILES, MOST_IMAGES, FEWEST_IMAGES = 32, 16, 3  # of a stream
VAL_IMAGES = 8
QUALITY = 88
LABELS = {"masks": "mask", "weak_labels": "estimated mask", "predictions": "predicted mask"}

Place = tuple[str, int]  # a stream, and the place in its batch
Taught = tuple[int, int]  # the number of a lesson, and the row in it


def steps_to_draw(iterations: int, number: int) -> frozenset[int]:
    """The first step (0), the last one, and the others of `number` evenly between them."""
    return frozenset(round(k * (iterations - 1) / max(number - 1, 1)) for k in range(number))


def val_samples(maker: SampleMaker, config: TrainingConfig) -> dict[str, Any]:
    """Images evenly from val that have masks, cut as in training but not changed otherwise; {} without any."""
    dataset = maker.dataset
    ids = [image_id for image_id in dataset.splits.get("val", ()) if dataset.has_mask(image_id)]
    count = min(VAL_IMAGES, config.batch_size, len(ids))
    if not count:
        return {}
    stream = Stream([Entry(ids[len(ids) * k // count], "masks") for k in range(count)], count)
    augmentation = AugmentationConfig(mode=config.augmentation.mode, scale=(1.0, 1.0), flip=False)
    return SampleMaker(dataset, {"val": stream}, {"masks": dataset}, augmentation, config.crop_size, 0)[0]["val"]


class TrainingImages:
    """Draws `config.log_images` steps, the batch and what is predicted after it; `steps`: their numbers, from 0."""

    def __init__(self, folder: Path, board: Any, maker: SampleMaker, config: TrainingConfig) -> None:
        """board: TensorBoard's SummaryWriter."""
        self.folder, self.board, self.maker, self.config = folder / FOLDER, board, maker, config
        self.steps = steps_to_draw(config.iterations, config.log_images)
        self._val: dict[str, Any] | None = None  # the samples; {}: there are none
        self._threads = ThreadPoolExecutor(1)
        self._drawing: list[Future[None]] = []

    def __enter__(self) -> TrainingImages:
        return self

    def __exit__(self, *_: object) -> None:
        """Waits until everything is written; the first error of it is raised."""
        self._threads.shutdown()
        for drawing in self._drawing:
            drawing.result()

    def draw(self, step: int, batch: Mapping[str, Batch], lessons: Sequence[Lesson]) -> None:
        sections = sections_of(batch, lessons, self.maker.orders, self.maker.dataset.class_names)
        self._submit("batch", step + 1, sections)

    def draw_val(self, step: int, network: nn.Module, device: torch.device) -> None:
        """A few images of val, the same ones at every step: their masks, and what a segmenter predicts.

        DataError, once, where one of them cannot be read.
        """
        if self._val is None:
            self._val = {}  # also after an error
            self._val = val_samples(self.maker, self.config)
        if not self._val:
            return
        samples, dtype = to_device(self._val, device), autocast_dtype(self.config.precision, device)
        with (
            torch.no_grad(),
            torch.compiler.set_stance("force_eager"),
            torch.autocast(device.type, dtype, enabled=dtype is not None),
            evaluating(network),
        ):
            predicted = segment(network, samples).argmax(1).byte()
        first = first_label(self.maker.dataset.class_names)
        examples = [
            Example(
                image_id,
                _classes(samples.tags[row], first),
                [
                    *_drawn_tiles(samples, row, "masks"),
                    Tile("prediction", small_image(samples.image[row]), small_labels(predicted[row])),
                ],
            )
            for row, image_id in enumerate(samples.ids)
        ]
        self._submit("val", step + 1, [Section(f"val: {len(examples)} images, after this step", examples)])

    def _submit(self, name: str, step: int, sections: Sequence[Section]) -> None:
        self._drawing.append(self._threads.submit(self._write, name, step, sections))

    def _write(self, name: str, step: int, sections: Sequence[Section]) -> None:
        dataset = self.maker.dataset
        sheet = draw_sheet(f"step {step} of {self.config.iterations}", sections, dataset.class_names, dataset.palette)
        content = io.BytesIO()
        sheet.save(content, format="JPEG", quality=QUALITY, subsampling=0)
        path = self.folder / f"{name}-{step}.jpg"
        with disk_errors(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.partial")
            temporary.write_bytes(content.getvalue())
            os.replace(temporary, path)
        add_jpeg(self.board, name, content.getvalue(), sheet.size, step)


def add_jpeg(board: Any, name: str, content: bytes, size: tuple[int, int], step: int) -> None:
    """An image in TensorBoard; `add_image` would store it as PNG, ten times the size."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    image = Summary.Image(width=size[0], height=size[1], colorspace=3, encoded_image_string=content)
    board.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)


# ------------------------------------------------------------------------------------------------ what is on a sheet


@torch.no_grad()
def sections_of(
    batch: Mapping[str, Batch], lessons: Sequence[Lesson], orders: Mapping[str, Order], class_names: Sequence[str]
) -> list[Section]:
    """The rows of a sheet, on the CPU: a section for each stream."""
    taught: dict[Place, list[Taught]] = {}
    changed: set[tuple[int, str]] = set()  # lessons and streams whose images are no longer those that were drawn
    for number, lesson in enumerate(lessons):
        for row, (place, equal) in enumerate(_places(lesson, batch)):
            taught.setdefault(place, []).append((number, row))
            changed |= set() if equal else {(number, place[0])}
    sections = []
    for name, order in orders.items():
        samples = batch[name]
        sources = {entry.image_id: entry.label for entry in order.stream.entries}
        known = samples.label[samples.label != IGNORE]
        classes = not bool((known >= len(class_names)).any())  # not regions
        examples: list[Example] = []
        for row in range(min(len(samples), MOST_IMAGES)):
            if examples and len(examples) >= max(FEWEST_IMAGES, MOST_TILES // len(examples[0].tiles)):
                break
            image_id = samples.ids[row]
            tiles = list(_drawn_tiles(samples, row, sources[image_id] if classes else None))
            tiles += [Tile(other, small_image(batch[other].image[row])) for other in order.stream.apart]
            of_lessons = [(lessons[n], place, (n, name) in changed) for n, place in taught.get((name, row), ())]
            tiles += _taught_tiles(of_lessons, samples.label[row] if sources[image_id] else None)
            examples.append(Example(image_id, _classes(samples.tags[row], first_label(class_names)), tiles))
        sections.append(Section(f"{name}: {len(examples)} of {len(samples)} images", examples))
    return sections


def _places(lesson: Lesson, batch: Mapping[str, Batch]) -> Iterator[tuple[Place, bool]]:
    """Of each row of a lesson the image it was made of, and whether it is still equal to it.

    An image may be in the batch several times, in several crops: each is taken once, equal ones before others.
    """
    taken: set[Place] = set()
    for samples, row in lesson.rows:
        image_id, image = samples.ids[row], samples.image[row]
        places = [
            (name, place)
            for name, drawn in batch.items()
            for place, other in enumerate(drawn.ids)
            if other == image_id and (name, place) not in taken
        ]
        equal = [(name, place) for name, place in places if torch.equal(batch[name].image[place], image)]
        if places:
            taken.add((equal or places)[0])
            yield (equal or places)[0], bool(equal)


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


def _taught_tiles(lessons: Sequence[tuple[Lesson, int, bool]], label: Tensor | None) -> Iterator[Tile]:
    """Each image that the network saw, if it was changed; what it is taught there, if it is not its label map alone.

    lessons: those of an image, each with its row in it and whether its images were changed.
    """
    terms: dict[tuple[int, int], list[str]] = {}  # of each image that was shown
    for lesson, row, _ in lessons:
        samples, place = lesson.rows[row]
        terms.setdefault((id(samples), place), []).extend(lesson.terms)
    for lesson, row, changed in lessons:
        samples, place = lesson.rows[row]
        found, confidence = lesson.labels(row)
        if not changed and label is not None and torch.equal(found, label.byte()) and confidence is None:
            continue
        image = small_image(samples.image[place])
        if changed and (of_image := terms.pop((id(samples), place), None)):
            yield Tile(f"shown: {_words(of_image)}", image)
        yield Tile(f"taught: {_words(lesson.terms)}", image, small_labels(found))
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
