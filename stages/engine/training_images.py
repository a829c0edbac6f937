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
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn

from artifacts.disk_errors import disk_errors
from stages.engine.batch import Batch, to_device
from stages.engine.config import AugmentationConfig, TrainingConfig
from stages.engine.device import autocast_dtype
from stages.engine.inference import evaluating
from stages.engine.method import segment
from stages.engine.streams import Entry, SampleMaker, Stream
from stages.engine.training_sheet import Section, draw_sheet
from stages.engine.training_tiles import batch_sections, prediction_section
from stages.engine.watching import Lesson

FOLDER = "batches"  # below local/
VAL_IMAGES = 8
QUALITY = 88


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
        """The batch of a step, before its backward."""
        sections = batch_sections(batch, lessons, self.maker.orders, self.maker.dataset.class_names)
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
        self._submit("val", step + 1, [prediction_section(samples, predicted, self.maker.dataset.class_names)])

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
