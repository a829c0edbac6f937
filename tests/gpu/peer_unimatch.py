"""UniMatch as its authors train it, written plainly: the peer of our loop, on the same images and the same network.

Yang et al., CVPR 2023, and their public code: Pillow and torchvision on the CPU for every view, three loaders, fp32
with TF32 convolutions, cudnn.benchmark, images in torch's default layout, four values read from the device a step.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms

from artifacts.dataset import Dataset as OurDataset
from stages.networks import build_segmenter
from stages.networks.config import NetworkConfig
from tests.gpu import rows
from tests.gpu.data import of_voc
from tests.gpu.inside import empty_gpu
from tests.gpu.place import Place
from tests.gpu.training import BATCH, CROP, network

WANTED = 1.5
OUTSIDE = 255  # padding and unknown pixels
THRESHOLD = 0.95
RATE, HEAD_FACTOR, POWER = 1e-3, 10.0, 0.9
WARM, TIMED = 6, 16


class Photographs(Dataset[Any]):
    """Images of a split; `labelled` ones with their mask, the others as a weak view, two strong ones and two boxes."""

    def __init__(self, folder: Path, ids: Sequence[str], crop: int, labelled: bool) -> None:
        self.folder, self.ids, self.crop, self.labelled = folder, ids, crop, labelled
        self.tensor = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
        )
        self.jitter = transforms.ColorJitter(0.5, 0.5, 0.5, 0.25)
        self.grey = transforms.RandomGrayscale(p=0.2)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        name = self.ids[index]
        with Image.open(self.folder / f"images/{name}.jpg") as file:
            image = file.convert("RGB")
        with Image.open(self.folder / f"masks/{name}.png") as file:
            mask = Image.fromarray(np.array(file))
        image, mask, shown = self._weak(image, mask)
        if self.labelled:
            return self.tensor(image), torch.from_numpy(np.array(mask)).long()
        outside = torch.from_numpy(np.array(shown)).long()
        views = [self.tensor(self._strong(image)) for _ in range(2)]
        return self.tensor(image), *views, outside, self._box(), self._box()

    def _weak(self, image: Image.Image, mask: Image.Image) -> tuple[Image.Image, Image.Image, Image.Image]:
        """Scaled by .5 to 2, cut, mirrored; the third is 255 outside the image, else 0."""
        factor = random.uniform(0.5, 2.0)
        size = (max(round(image.width * factor), 1), max(round(image.height * factor), 1))
        missing = (0, 0, max(self.crop - size[0], 0), max(self.crop - size[1], 0))
        parts = [
            ImageOps.expand(image.resize(size, Image.Resampling.BILINEAR), missing, 0),
            ImageOps.expand(mask.resize(size, Image.Resampling.NEAREST), missing, OUTSIDE),
            ImageOps.expand(Image.new("L", size, 0), missing, OUTSIDE),
        ]
        left, top = (random.randint(0, side - self.crop) for side in parts[0].size)
        parts = [part.crop((left, top, left + self.crop, top + self.crop)) for part in parts]
        if random.random() < 0.5:
            parts = [ImageOps.mirror(part) for part in parts]
        return parts[0], parts[1], parts[2]

    def _strong(self, image: Image.Image) -> Image.Image:
        if random.random() < 0.8:
            image = self.jitter(image)
        image = self.grey(image)
        if random.random() < 0.5:
            image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))
        return image

    def _box(self) -> Tensor:
        """1 in a box of 2 to 40 % of the crop, in half of the cases."""
        box = torch.zeros(self.crop, self.crop)
        if random.random() < 0.5:
            return box
        area = random.uniform(0.02, 0.4) * self.crop**2
        while True:
            ratio = random.uniform(0.3, 1 / 0.3)
            wide, tall = int(math.sqrt(area / ratio)), int(math.sqrt(area * ratio))
            x, y = random.randrange(self.crop), random.randrange(self.crop)
            if x + wide <= self.crop and y + tall <= self.crop:
                box[y : y + tall, x : x + wide] = 1
                return box


class Training:
    """The network, its optimiser and one step."""

    def __init__(self, place: Place, precision: torch.dtype | None) -> None:
        config = NetworkConfig.model_validate(network(place) | {"freeze_batch_norm": False})
        self.device, self.precision = place.device, precision
        self.network = build_segmenter(config, 21, seed=0).to(place.device).train()
        trunk = list(self.network.backbone.parameters())
        rest = [p for name, p in self.network.named_parameters() if not name.startswith("backbone.")]
        groups = [{"params": trunk, "lr": RATE}, {"params": rest, "lr": RATE * HEAD_FACTOR}]
        self.optimizer = torch.optim.SGD(groups, lr=RATE, momentum=0.9, weight_decay=1e-4)
        self.unreduced = nn.CrossEntropyLoss(reduction="none")

    def logits(self, images: Tensor) -> Tensor:
        return self._resized(self.network(images), images)

    def perturbed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and logits of features that lost half of their channels."""
        features = self.network.trunk(images)
        both = {name: torch.cat([level, F.dropout2d(level, 0.5)]) for name, level in features.items()}
        plain, dropped = self._resized(self.network.head(both), images).chunk(2)
        return plain, dropped

    @staticmethod
    def _resized(logits: Tensor, images: Tensor) -> Tensor:
        return F.interpolate(logits.float(), size=images.shape[-2:], mode="bilinear", align_corners=True)

    def step(self, batches: Sequence[Sequence[Tensor]], progress: float) -> dict[str, float]:
        (image, mask), unlabelled, partner = ([part.to(self.device) for part in batch] for batch in batches)
        weak, outside, boxes = unlabelled[0], unlabelled[3], unlabelled[4:]
        with torch.autocast(self.device, self.precision, enabled=self.precision is not None):
            self.network.eval()
            with torch.no_grad():
                others = self._labels(self.logits(partner[0]))
            self.network.train()
            strong = [_pasted(unlabelled[1 + n], partner[1 + n], boxes[n][:, None]) for n in (0, 1)]
            plain, dropped = self.perturbed(torch.cat([image, weak]))
            of_strong = self.logits(torch.cat(strong)).chunk(2)
        known, of_weak = plain.split([len(image), len(weak)])
        own = self._labels(of_weak.detach())
        supervised = F.cross_entropy(known, mask, ignore_index=OUTSIDE)
        views = []
        for logits, box in zip(of_strong, boxes, strict=True):
            label, confidence = (_pasted(mine, theirs, box) for mine, theirs in zip(own, others, strict=True))
            views.append(self._confident(logits, label, confidence, _pasted(outside, partner[3], box)))
        features = self._confident(dropped[len(image) :], *own, outside)
        loss = (supervised + 0.25 * views[0] + 0.25 * views[1] + 0.5 * features) / 2
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        for group, factor in zip(self.optimizer.param_groups, (1.0, HEAD_FACTOR), strict=True):
            group["lr"] = RATE * (1 - progress) ** POWER * factor
        sure = (own[1] >= THRESHOLD) & (outside != OUTSIDE)
        return {  # for the averages of its log
            "loss": loss.item(),
            "supervised": supervised.item(),
            "strong": (views[0].item() + views[1].item()) / 2,
            "features": features.item(),
            "confident": sure.sum().item() / (outside != OUTSIDE).sum().item(),
        }

    @staticmethod
    def _labels(logits: Tensor) -> tuple[Tensor, Tensor]:
        return logits.argmax(dim=1), logits.softmax(dim=1).max(dim=1)[0]

    def _confident(self, logits: Tensor, label: Tensor, confidence: Tensor, outside: Tensor) -> Tensor:
        loss = self.unreduced(logits, label) * ((confidence >= THRESHOLD) & (outside != OUTSIDE))
        return loss.sum() / (outside != OUTSIDE).sum().item()


def _pasted(image: Tensor, second: Tensor, box: Tensor) -> Tensor:
    """The second image where the box is 1, by boolean indexing."""
    image, inside = image.clone(), box.expand(image.shape) == 1
    image[inside] = second[inside]
    return image


def loaded(place: Place, steps: int, workers: int) -> Iterable[Any]:
    """The batches of three loaders: labelled, unlabelled, and unlabelled to paste from."""
    artifact = of_voc(place)
    dataset = OurDataset(artifact)
    half, crop = place.size(BATCH, 4) // 2, place.size(CROP, 48)
    labelled, unlabelled = (
        Photographs(artifact.path, dataset.ids(split), crop, split == "train") for split in ("train", "weak")
    )
    loaders = [
        DataLoader(
            part,
            batch_size=half,
            sampler=RandomSampler(part, replacement=True, num_samples=steps * half),
            num_workers=workers,
            pin_memory=place.on_gpu,
            drop_last=True,
        )
        for part in (labelled, unlabelled, unlabelled)
    ]
    return zip(*loaders, strict=True)


def cycled(batches: Sequence[Any], steps: int) -> Iterator[Any]:
    return (batches[number % len(batches)] for number in range(steps))


def timed(
    place: Place, what: str, precision: torch.dtype | None, batches: Iterable[Any], steps: int, warm: int
) -> None:
    """Adds a row: steps after the first `warm` ones."""
    empty_gpu()
    place.forget_peak()
    torch.backends.cudnn.benchmark = True
    training, losses = Training(place, precision), {}
    begin = time.perf_counter()
    for number, batch in enumerate(batches):
        if number == warm:
            place.wait()
            begin = time.perf_counter()
        losses = training.step(batch, number / steps)
    place.wait()
    step = (time.perf_counter() - begin) / (steps - warm)
    figures = {"images/s": place.size(BATCH, 4) / step, "ms a step": 1e3 * step, "GiB": place.peak_gib()}
    place.rows.add(what, figures, losses=losses)


def peer(place: Place) -> None:
    warm, count = place.size((WARM, TIMED), (1, 1))
    steps = warm + count
    many, one = place.size((5, 1), (0, 0))
    bf16 = torch.bfloat16
    for what, precision, workers in (
        (f"fp32, {many} workers a loader", None, many),
        (f"bf16, {many} workers a loader", bf16, many),
    ):
        with place.rows.guarded(what):
            timed(place, what, precision, loaded(place, steps, workers), steps, warm)
    _compare(place, many)
    with place.rows.guarded("batches on the device"):
        ready = [
            [[part.to(place.device) for part in batch] for batch in batches]
            for batches in loaded(place, place.size(4, 1), many)
        ]
        for name, precision in (("fp32", None), ("bf16", bf16)):
            timed(place, f"{name}, batches on the device", precision, cycled(ready, steps), steps, warm)
    with place.rows.guarded("fp32, as published: one worker a loader"):
        less = place.size(12, 2)
        timed(place, "fp32, as published: one worker a loader", None, loaded(place, less, one), less, place.size(4, 1))


def _compare(place: Place, many: int) -> None:
    """Ours over theirs, from the rows of the step training."""
    folder = place.rows.file.parent
    ours = rows.figure(rows.read(folder, "training"), "unimatch", "images/s")
    theirs = rows.read(folder, "peer")
    if ours is None:
        place.rows.fail("unimatch, ours to theirs", "there is no row of ours: run the step training before")
        return
    names = {
        "fp32": f"fp32, {many} workers a loader",
        "bf16": f"bf16, {many} workers a loader",
    }
    found = {name: rows.figure(theirs, what, "images/s") for name, what in names.items()}
    ratios = {name: ours / value for name, value in found.items() if value}
    place.rows.add("unimatch, ours to theirs", ratios, {"fp32": WANTED})
