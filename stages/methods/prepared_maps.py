"""The label maps that a method prepares of each image before its training (`Method.prepare`). Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from artifacts.masks import encode_mask
from artifacts.store import Writer
from stages.contract import Execution
from stages.localization.known_images import KnownImages
from stages.parallel.processes import map_in_processes
from stages.parallel.share import counted, share_of

if TYPE_CHECKING:
    from stages.engine.method import Method
    from stages.engine.streams import MaskFolder


@dataclass(frozen=True)
class Preparation:
    """What a process needs to prepare the label maps of images; travels to it once."""

    images: KnownImages
    prepare: Callable[..., dict[str, Any]]
    settings: Any
    writer: Writer


def prepare_image(task: Preparation, image_id: str) -> None:
    """Writes the label maps of one image."""
    for name, labels in task.prepare(task.settings, task.images[image_id]).items():
        task.writer.write_bytes(f"{name}/{image_id}.png", encode_mask(labels, task.images.dataset.palette))


def prepared_folders(
    kind: type[Method], settings: Any, images: KnownImages, ids: Sequence[str], writer: Writer, execution: Execution
) -> dict[str, MaskFolder]:
    """The folders of the label maps that a method prepares, by name: what is missing is made, in processes.

    Under torchrun each rank makes its share, and all wait for each other.
    """
    from stages.engine.streams import MaskFolder
    from stages.parallel.meeting import barrier

    names = kind.prepared
    if not names:
        return {}
    task = Preparation(images, kind.prepare, settings, writer)
    left = share_of(ids, execution, lambda image_id: all(writer.has(f"{name}/{image_id}.png") for name in names))
    with counted(writer, execution, ", ".join(names), left) as advance:
        for _ in map_in_processes(prepare_image, task, left.left, execution.own_workers):
            advance()
    barrier()
    return {name: MaskFolder(writer.path / name, None) for name in names}
