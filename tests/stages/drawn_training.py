"""Fixtures of the tests that train: fourteen small drawn images, estimated masks, seeds, and configs."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artifacts.dataset import Dataset, write_dataset
from artifacts.masks import write_mask
from artifacts.store import Work, Workspace
from stages.methods import METHODS

CLASSES = ("background", "red", "green", "blue")
SPLITS = {
    "train": [f"s{index}" for index in range(6)],
    "weak": [f"w{index}" for index in range(5)],
    "val": [f"v{index}" for index in range(3)],
}
IGNORE = 255

CCT_KINDS = ("vat", "dropout", "cutout", "context", "object", "feature_drop", "feature_noise")

# Settings of every method, as in a YAML file, and of variants that have code of their own. All are trained, stopped
# and continued, and compared between one process and two.
CASES: dict[str, Any] = {name: {"name": name} for name in METHODS} | {
    "supervised": {"name": "supervised", "labels": "oversampled"},
    "dual-branch": {"name": "dual-branch", "weak_weight": 0.7},
    "cps-plain": {"name": "cps", "cutmix": False},
    "cpc": {"name": "cpc", "ramp": 0.0},
    "cpc-cutmix": {"name": "cpc", "cutmix": True, "ramp": 0.0, "reduction": "sum"},
    "dsrg": {"name": "dsrg", "expansion_weight": 0.5},
    "mean-teacher": {"name": "mean-teacher", "strong": {}, "weight": 1e3},
    "mean-teacher-sure": {"name": "mean-teacher", "strong": {}, "reduction": "sum", "threshold": 0.26},
    "mean-teacher-logits": {
        "name": "mean-teacher",
        "consistency": "logits",
        "image_labels": "ignore",
        "reduction": "sum",
        "images": "unlabelled",
        "weight": 10.0,
        "ramp": 0.5,
        "teacher": {"mode": "eval", "average": "floats", "warmup": True},
        "joint_pass": True,
        "strong": {"cutout": 0.5},
        "evaluate": "teacher",
    },
    # Weights that make the gradient of the consistency felt: at the start the two networks hardly differ.
    "cutmix-seg": {"name": "cutmix-seg", "threshold": 0.26, "weight": 1e4},
    "vat": {"name": "vat", "threshold": 0.26, "weight": 1e4},
    "vat-feature": {"name": "vat", "level": "feature", "threshold": 0.26, "confidence": "pixel", "weight": 1e4},
    "cct": {"name": "cct", "decoders": dict.fromkeys(CCT_KINDS, 1), "ramp": 0.0, "min_contour": 8},
    "cct-heads": {"name": "cct", "decoder": "head", "decoders": dict.fromkeys(CCT_KINDS, 1), "min_contour": 8},
    "gct": {"name": "gct", "visible": 0.0, "ramp": 0.0, "flaw_detector": {"channels": [8, 8]}},
    "advsemseg": {
        "name": "advsemseg",
        "start": 0.0,
        "adversarial": 1.0,
        "adversarial_unlabelled": 1.0,
        "discriminator": {"channels": [8, 8, 8, 8]},
    },
    # dropout draws by process, and no score is above .6 yet
    "s4gan": {"name": "s4gan", "threshold": 0.45, "dropout": 0.0, "discriminator": {"channels": [8, 8, 8, 8]}},
    "puzzle-cam": {"name": "puzzle-cam", "ramp": 0.0},
    "ficklenet-one-choice": {"name": "ficklenet", "expand": False, "window": 3},
    "drs-fixed": {"name": "drs", "delta": 0.55},
    "mlmt": {"name": "mlmt", "start": 0.0, "ramp": 0.0, "mirror": 0.5, "teacher": {"decay": 0.5}},
    "dmt": {"name": "dmt", "labelled_share": 0.25},  # two of eight: one each process
    # thresholds in reach of a network that has not learned: a quarter is the least that four classes can have
    "fixmatch": {"name": "fixmatch", "threshold": 0.26},
    "fixmatch-teacher": {"name": "fixmatch", "threshold": 0.26, "teacher": {"decay": 0.5}},
    "unimatch": {"name": "unimatch", "threshold": 0.26},
    "unimatch-v2": {"name": "unimatch-v2", "threshold": 0.26},
    "fixmatch-guided": {"name": "fixmatch", "threshold": 0.26, "guidance": {"weight": 0.5}},
    "unimatch-adaptive": {"name": "unimatch", "threshold": {"start": 0.26, "momentum": 0.9}, "guidance": {}},
    "supervised-clamped": {"name": "supervised", "labels": "mixed", "clamp": {"start": 5.0, "patches": 3}},
    # dropout draws by process; from the middle on, the affinity takes part
    "weclip": {"name": "weclip", "clip": {"weights": "none"}, "decoder": {"channels": 16, "heads": 2, "dropout": 0.0}},
    "self-training-clamped": {"name": "self-training", "clamp": {"start": 5.0, "patches": 3}},
    "dual-branch-clamped": {"name": "dual-branch", "clamp": {"start": 5.0, "patches": 3}},
}
for _settings in CASES.values():
    if "image_labels" in METHODS[_settings["name"]].model_fields:
        _settings.setdefault("image_labels", "share")


def draw(index: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image with one or two coloured boxes, and its mask with unlabelled columns: more in later images."""
    from PIL import Image

    random = np.random.default_rng(index)
    height, width = 30 + index % 4 * 5, 44 - index % 3 * 7
    mask = np.zeros((height, width), np.uint8)
    mask[4:18, 3:16] = 1 + index % 3
    if index % 2:
        mask[12:28, 14:26] = 1 + (index + 1) % 3
    colours = np.array([[90, 90, 90], [220, 40, 40], [40, 220, 40], [40, 40, 220]])
    image = np.clip(colours[mask] + random.integers(-40, 40, (height, width, 3)), 0, 255).astype(np.uint8)
    mask[:, : index % 6] = IGNORE
    return np.array(Image.fromarray(image)), mask


def publish(
    workspace: Workspace,
    name: str,
    kind: str,
    masks: dict[str, np.ndarray],
    confidences: dict[str, np.ndarray] | None = None,
) -> None:
    """An artifact of label maps: masks/<id>.png, and confidence/<id>.png where given."""
    work = Work("seeds", 1, kind, name.encode().hex().ljust(64, "0")[:64], {}, {}, {})
    with workspace.writing(name, work) as writer:
        for image_id, mask in masks.items():
            with writer.item(f"masks/{image_id}.png") as temporary:
                write_mask(temporary, mask)
        for image_id, confidence in (confidences or {}).items():
            with writer.item(f"confidence/{image_id}.png") as temporary:
                write_mask(temporary, confidence)
        workspace.publish(name, writer, work, {})


def publish_dataset(
    workspace: Workspace, name: str = "data", splits: Any = None, untagged: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """The data set of drawn images, those of `untagged` without a class; returns the masks by id.

    The labels of images of the split unlabelled are not known.
    """
    from PIL import Image

    splits = SPLITS if splits is None else splits
    ids = [image_id for members in splits.values() for image_id in members]
    drawn = {image_id: draw(index) for index, image_id in enumerate(ids)}
    masks = {image_id: mask for image_id, (_, mask) in drawn.items()}
    work = Work("prepare-data", 1, "dataset", name.encode().hex().ljust(64, "1")[:64], {}, {}, {})
    with workspace.writing(name, work) as writer:
        for image_id, (image, mask) in drawn.items():
            with writer.item(f"images/{image_id}.png") as temporary:
                Image.fromarray(image).save(temporary)
            with writer.item(f"masks/{image_id}.png") as temporary:
                write_mask(temporary, mask)
        tags = {image_id: sorted(set(np.unique(mask).tolist()) - {0, IGNORE}) for image_id, mask in masks.items()}
        tags |= {image_id: [] for image_id in untagged}
        tags = {image_id: labels for image_id, labels in tags.items() if image_id not in splits.get("unlabelled", ())}
        write_dataset(
            writer, name="drawn", class_names=CLASSES, splits=splits, tags=tags, tag_source="masks", mask_ids=ids
        )
        workspace.publish(name, writer, work, {})
    return masks


def fill(workspace: Workspace) -> Workspace:
    """data, weak-labels (noisy masks of the weak images), predictions (masks of all, shifted to the right) and seeds
    (sparse masks of all training images).
    """
    masks = publish_dataset(workspace)
    random = np.random.default_rng(0)
    noisy = {}
    for image_id in SPLITS["weak"]:
        noise = random.random(masks[image_id].shape) < 0.3
        noisy[image_id] = np.where(noise, 0, masks[image_id]).astype(np.uint8)
    confidences = {image_id: random.integers(0, 256, mask.shape).astype(np.uint8) for image_id, mask in noisy.items()}
    publish(workspace, "weak-labels", "masks", noisy, confidences)
    publish(workspace, "predictions", "predictions", {name: np.roll(mask, 2, axis=1) for name, mask in masks.items()})
    sparse = {}
    for image_id in SPLITS["train"] + SPLITS["weak"]:
        kept = random.random(masks[image_id].shape) < 0.5
        sparse[image_id] = np.where(kept, masks[image_id], IGNORE).astype(np.uint8)
    publish(workspace, "seeds", "seeds", sparse)
    return workspace


@dataclasses.dataclass(frozen=True)
class PreparedMaps:
    """The label maps `name` that a method prepares, made when they are read."""

    name: str
    prepare: Any
    settings: Any
    images: Any

    def mask(self, image_id: str) -> np.ndarray:
        return self.prepare(self.settings, self.images[image_id])[self.name]


@dataclasses.dataclass(frozen=True)
class Training:
    """The drawn workspace, and how to train on it.

    Attributes:
        space: artifacts data, weak-labels, predictions, seeds.
    """

    space: Workspace

    @property
    def dataset(self) -> Dataset:
        return Dataset(self.space.artifact("data"))

    @property
    def folders(self) -> dict[str, Any]:
        """The label maps beside the data set's masks, by the names methods know."""
        from stages.engine.streams import MaskFolder

        places = {
            "weak_labels": "weak-labels/masks",
            "seeds": "seeds/masks",
            "predictions": "predictions/masks",
            "confidence": "weak-labels/confidence",
        }
        number = self.dataset.num_classes
        return {
            name: MaskFolder(self.space.path / place, None if name == "confidence" else number)
            for name, place in places.items()
        }

    def label_maps(self, kind: Any, settings: Any) -> dict[str, Any]:
        """All that a stream of a method may name: masks, `folders`, and what the method prepares."""
        from stages.localization.known_images import KnownImages

        images = KnownImages(self.dataset)
        prepared = {name: PreparedMaps(name, kind.prepare, settings, images) for name in kind.prepared}
        return {"masks": self.dataset, **self.folders, **prepared}

    @property
    def sources(self) -> Any:
        from stages.engine.method import Sources

        dataset, folders = self.dataset, self.folders
        given = frozenset({"masks", *folders})
        tagged = sorted([*dataset.ids("train"), *dataset.ids("weak")])
        return Sources(dataset.ids("train"), dataset.ids("weak"), given, dataset, tagged=tagged, folders=folders)

    def values(self, method: Any = "supervised", **changes: Any) -> dict[str, Any]:
        """Values of a TrainConfig: a small net with dropout, momentum, an averaged predictor, crops with padding."""
        return {
            "method": CASES[method] if isinstance(method, str) else method,
            "network": {"preset": "tiny", "dropout": 0.3, "head_channels": 16, "neck_layers": 1, "neck_channels": 16},
            "iterations": 6,
            "batch_size": 4,
            "crop_size": 33,
            "augmentation": {"scale": [0.7, 1.3], "brightness": 0.3, "saturation": 0.2},
            "optimizer": {"name": "sgd", "lr": 0.01},
            "ema_decay": 0.9,
            "log_every": 2,
            "log_images": 0,
        } | changes

    def config(self, method: Any = "supervised", **changes: Any) -> Any:
        from stages.config import build
        from stages.methods.settings import TrainClassifierConfig, TrainConfig
        from stages.networks.config import ClassifierConfig

        values = self.values(method, **changes)
        name = values["method"] if isinstance(values["method"], str) else values["method"]["name"]
        if METHODS[name].own_network:
            pytest.importorskip("timm", reason=f"the network of {name} is built by timm, which is not installed")
            values.pop("network")
        if METHODS[name].card.output == "segmenter":
            return build(TrainConfig, values, "test")
        parts = ("preset", *ClassifierConfig.model_fields)  # a classifier has neither neck nor head
        values["network"] = {key: value for key, value in values["network"].items() if key in parts}
        if name == "puzzle-cam" and "crop_size" not in changes:
            values["crop_size"] = 32  # tiles of whole cells
        return build(TrainClassifierConfig, values, "test")

    def classifier_config(self, **changes: Any) -> Any:
        from stages.config import build
        from stages.methods.settings import TrainClassifierConfig

        values = {
            "network": {"preset": "tiny", "dropout": 0.5},
            "batch_size": 4,
            "crop_size": 33,
            "ema_decay": 0.9,
            "log_every": 2,
        }
        return build(TrainClassifierConfig, values | changes, "test")

    def inputs(self, config: Any) -> dict[str, str | None]:
        """The artifacts a training with this config takes, by input."""
        asked = config.method.inputs() if hasattr(config, "method") else ()
        return {"data": "data"} | {key: key.replace("_", "-") for key in asked}


@pytest.fixture(scope="session")
def training(tmp_path_factory: pytest.TempPathFactory) -> Training:
    return Training(fill(Workspace(tmp_path_factory.mktemp("training") / "runs")))


@pytest.fixture
def own_training(tmp_path: Path) -> Training:
    """A copy of the drawn workspace that a test may damage."""
    return Training(fill(Workspace(tmp_path / "runs")))


class StoppedError(Exception):
    """What the progress tracker raises to stop a training."""


@dataclasses.dataclass
class StopAt:
    """Progress that raises when step `at` is done; None: never."""

    at: int | None
    notes: list[str] = dataclasses.field(default_factory=list)
    shown: list[dict] = dataclasses.field(default_factory=list)

    @contextmanager
    def track(self, total, description, unit="images", done=0):
        self.done = done
        yield self

    def advance(self, count=1, **fields):
        self.done += count
        self.shown.append(fields)
        if self.done == self.at:
            raise StoppedError

    def note(self, text):
        self.notes.append(text)
