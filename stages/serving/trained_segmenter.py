"""A trained segmenter that predicts images as `semiseg predict` does.

segmenter = Segmenter.load("runs/default/dual-branch", scales=[0.75, 1, 1.25], flip=True)
for prediction in segmenter(["a.jpg", "b.jpg"]):
    prediction.save(...)
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

import numpy as np

from artifacts.dataset import first_label
from artifacts.errors import ArtifactError, ConfigError, DataError, UsageError
from artifacts.item_shapes import network_inference
from artifacts.manifest import has_manifest
from artifacts.masks import voc_palette
from artifacts.text import did_you_mean
from stages.config import build
from stages.contract import default_workers
from stages.data.pixels import remarks_in_words
from stages.engine.config import ImageConfig, ImageLabels
from stages.serving.given_images import Given, GivenImages, by_id
from stages.serving.model_folder import network_in
from stages.serving.prediction import Prediction

if TYPE_CHECKING:
    import torch

Labels = Sequence[str]


class Settings(TypedDict, total=False):
    """The settings of `semiseg predict` that concern one image; `semiseg config predict` explains them."""

    scales: Sequence[float]
    flip: bool
    merge: Literal["logits", "logits-sum", "probabilities"]
    window: int | None
    whole_pixels: int
    precision: Literal["auto", "fp32", "bf16"]
    white: float
    min_confidence: float
    image_labels: ImageLabels


class Segmenter:
    """A trained segmenter, on one device.

    Attributes:
        names: the class of each value of a mask; background first, if there is one.
        palette: uint8 (256, 3), RGB of each value of a mask.
        config: the settings.
        device: where it computes.
    """

    def __init__(self, network: Any, palette: bytes, config: ImageConfig, device: torch.device) -> None:
        """network: on `device`, as `predict_probabilities` takes it, with `class_names`. See `load`."""
        self._network, self.config, self.device = network, config, device
        self.names: tuple[str, ...] = tuple(network.class_names)
        self.palette = np.frombuffer(palette, np.uint8).reshape(256, 3)

    @classmethod
    def load(cls, source: str | os.PathLike[str], device: str = "auto", **settings: Unpack[Settings]) -> Segmenter:
        """The segmenter of a folder with network.json and weights.pt, or of an ONNX file.

        Args:
            source: the folder `model` of `semiseg run own`, a published artifact, a copy of either anywhere (`semiseg
                export files`), or an .onnx file of `semiseg export onnx` (needs onnxruntime).
            device: auto (a GPU if there is one), cpu, cuda, cuda:1.
            settings: those of `semiseg predict`, see `Settings`; left out, those that the network records.

        Raises ArtifactError: nothing there, damaged, or no segmenter; ConfigError: a wrong setting, or no such device.
        """
        path, recorded = network_in(Path(source).expanduser())
        config = build(ImageConfig, {**recorded, **settings}, "Segmenter.load")
        from stages.engine.device import autocast_dtype, named_device

        if path.suffix == ".onnx" and path.is_file():
            from stages.serving.exported_network import load_exported

            if config.precision != "auto":
                raise ConfigError(f"the precision of {path} is part of the file", "leave precision out")
            exported = load_exported(path, device)
            config = build(ImageConfig, {**exported.recorded, **settings}, "Segmenter.load")
            return cls(exported, exported.palette, config, named_device("cpu"))
        from stages.networks import Segmenter as SegmentationNetwork
        from stages.networks import load_network
        from stages.networks.folding import for_inference

        chosen = named_device(device)
        _require_network(path)
        config = build(ImageConfig, {**network_inference(path), **recorded, **settings}, "Segmenter.load")
        network = load_network(path)
        if not isinstance(network, SegmentationNetwork):
            raise ArtifactError(f"{path} holds a classifier", "name an artifact of train or retrain")
        quick = for_inference(network, chosen, autocast_dtype(config.precision, chosen))
        return cls(quick, voc_palette(), config, chosen)

    @overload
    def __call__(self, images: Given, labels: Labels | None = None, probabilities: bool = True) -> Prediction: ...

    @overload
    def __call__(
        self,
        images: list[Given] | tuple[Given, ...],
        labels: Sequence[Labels | None] | None = None,
        probabilities: bool = True,
    ) -> list[Prediction]: ...

    def __call__(self, images: Any, labels: Any = None, probabilities: bool = True) -> Prediction | list[Prediction]:
        """The prediction of an image, or those of a list (or an array (N, H, W, 3)), in its order.

        An image is a numpy array, uint8 (H, W, 3) in RGB, a Pillow image, or the path of a file. Files and Pillow
        images are turned by EXIF, transparent parts become white; how unusual files were read is a warning. Images of
        equal size are predicted together; those of more than `whole_pixels` pixels in windows.

        Args:
            labels: the names of the classes that the image shows, or one such list (or None) for each image; for the
                setting image_labels.
            probabilities: keep them, 4 bytes a pixel and class; False: the masks alone.
        """
        given = GivenImages(by_id(images), self.config.white)
        single = given.ids == ["image"]
        each = [labels] if single else [None] * len(given.ids) if labels is None else labels
        if len(each) != len(given.ids):
            raise UsageError(f"there are {len(given.ids)} images and labels of {len(each)}", "give None where unknown")
        found = self._predict(given, self._tags(dict(zip(given.ids, each, strict=True))), probabilities)
        for sentence in remarks_in_words(given.remarks, "white"):
            warnings.warn(sentence, stacklevel=2)
        return found["image"] if single else [found[image_id] for image_id in given.ids]

    def _predict(self, given: GivenImages, tags: Mapping[str, np.ndarray], keep: bool) -> dict[str, Prediction]:
        from stages.engine.inference import most_probable, predict_probabilities
        from stages.engine.label_sharing import respect_in_place

        found, workers = {}, min(default_workers(), len(given.ids))
        views = predict_probabilities(self._network, given, given.ids, self.config, self.device, workers=workers)
        for ids, probabilities in views:
            respect_in_place(probabilities, np.stack([tags[image_id] for image_id in ids]), self.config.image_labels)
            masks = most_probable(probabilities, self.config.min_confidence).cpu().numpy()
            kept = list(probabilities.cpu().numpy()) if keep else [None] * len(ids)
            for image_id, mask, scores in zip(ids, masks, kept, strict=True):
                found[image_id] = Prediction(mask, self.names, self.palette, given.read.pop(image_id), scores)
        return found

    def _tags(self, labels: Mapping[str, Labels | None]) -> dict[str, np.ndarray]:
        """The image-level labels as `respect_in_place` takes them: nan where they are unknown."""
        first = first_label(self.names)
        if self.config.image_labels == "ignore" and any(known is not None for known in labels.values()):
            raise UsageError("labels have no effect with image_labels='ignore'", "load with image_labels='share'")
        tags = {image_id: np.full(len(self.names) - first, np.nan, np.float32) for image_id in labels}
        for image_id, known in labels.items():
            if known is None:
                continue
            if isinstance(known, str):
                raise UsageError(f"the labels of {image_id} are the text {known!r}", f"give a list: [{known!r}]")
            objects = self.names[first:]
            if unknown := [name for name in known if name not in objects]:
                raise DataError(f"{image_id}: {unknown[0]!r} is not a class{did_you_mean(unknown[0], objects)}")
            tags[image_id] = np.isin(objects, list(known)).astype(np.float32)
        return tags


def _require_network(path: Path) -> None:
    """ArtifactError where there cannot be a network; of a workspace, it names the segmenters."""
    if not path.exists():
        raise ArtifactError(f"there is no {path}", "give the folder of a segmenter: runs/default/NAME")
    if not path.is_dir():
        raise ArtifactError(f"{path} is no folder", "give the folder of a segmenter, or an .onnx file")
    if not (path / "network.json").exists() and not has_manifest(path):
        networks = sorted(file.parent.name for file in path.glob("*/network.json") if file.parent.name[0] != ".")
        inside = f"it is a workspace; name one of its networks: {', '.join(networks)}" if networks else None
        raise ArtifactError(f"{path} holds no network", inside or "give the folder of a segmenter: runs/default/NAME")
