"""One stream's share of a step on the device."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from stages.engine.colour import change_colours
from stages.engine.streams import ENCODED
from stages.networks import normalise
from stages.networks.freezing import joined

NO_MAPS = torch.empty(0)


@dataclass(frozen=True)
class Batch:
    """Images and labels of one stream.

    Attributes:
        ids: image ids, B of them.
        image: float (B, 3, H, W), normalised; padding is 0.
        pixels: uint8 (B, 3, H, W), the same images as RGB bytes (for the dense CRF).
        label: int64 (B, H, W), class ids, 255 where unknown or padded.
        valid: bool (B, H, W), false on padding.
        tags: float (B, K), image-level labels; column k is class k + 1.
        extra: further label maps by name, int64 (B, H, W).
        maps: float (B, C, h, w), score maps cut as the images are, empty where the stream carries none: channel c is
            class id c, cell i is centred on pixel stride * i. `valid[:, ::stride, ::stride]` is false on their padding.
        group: how many rows, one after the other, are a group: `image.unflatten(0, (-1, group))` is (groups, group,
            3, H, W), and the same for all tensors here. 1: there are no groups.
        encoded: what a frozen encoder makes of `image`, where it is kept: maps (B, _, h, w) by name; else empty.
    """

    ids: list[str]
    image: Tensor
    pixels: Tensor
    label: Tensor
    valid: Tensor
    tags: Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)
    maps: Tensor = NO_MAPS
    group: int = 1
    encoded: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def replace(self, **changes: Any) -> Batch:
        """With other images it loses what is kept of these."""
        return replace(self, **({"encoded": {}} if "image" in changes else {}) | changes)


def together(*parts: Batch) -> Batch:
    """The images of several batches in one, for one pass; without `extra` and score maps.

    `encoded` is what is kept of the first of them, as far as there is something.
    """

    def of_all(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    kept = [part.encoded for part in takewhile(lambda part: part.encoded, parts)]
    return Batch(
        ids=[image_id for part in parts for image_id in part.ids],
        image=of_all("image"),
        pixels=of_all("pixels"),
        label=of_all("label"),
        valid=of_all("valid"),
        tags=of_all("tags"),
        encoded=joined(kept) if kept else {},
    )


def as_seen(pixels: Tensor, valid: Tensor, colour: Tensor) -> tuple[Tensor, Tensor]:
    """Coloured bytes (B, 3, H, W) and what a network sees of them, on the device of `pixels`.

    Args:
        pixels: uint8 (B, 3, H, W), as they were cut. valid: bool (B, H, W). colour: (B, 3), on the CPU.
    """
    if not bool((colour == 1).all()):  # on the CPU: asking the GPU would wait for it
        coloured = change_colours(pixels.float(), colour.to(pixels.device, non_blocking=True))
        pixels = torch.where(valid[:, None], coloured.round().to(torch.uint8), pixels)
    return pixels, (normalise(pixels) * valid[:, None]).contiguous(memory_format=torch.channels_last)


def to_device(sample: dict[str, Any], device: torch.device) -> Batch:
    """The stacked samples of one stream as a `Batch`: moved as bytes, then coloured and normalised there.

    The images have channels_last memory.
    """
    tensors = {key: value for key, value in sample.items() if key not in ("id", "colour", "group")}
    moved = {key: value.to(device, non_blocking=True) for key, value in tensors.items()}
    encoded = {key.removeprefix(ENCODED): moved.pop(key) for key in list(moved) if key.startswith(ENCODED)}
    pixels, image = as_seen(moved.pop("image"), moved["valid"], sample["colour"])
    known = {"label", "valid", "tags", "maps"}
    return Batch(
        ids=sample["id"],
        image=image,
        pixels=pixels,
        label=moved["label"].long(),
        valid=moved["valid"],
        tags=moved["tags"],
        extra={key: value.long() for key, value in moved.items() if key not in known},
        maps=moved.get("maps", NO_MAPS),
        group=sample.get("group", 1),
        encoded=encoded,
    )
