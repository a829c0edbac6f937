"""A segmenter as an ONNX file in fp16 or int8, compared with fp32 on images of a data set before it is kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from artifacts.dataset import Dataset
from artifacts.errors import ConfigError, DataError
from stages.export.onnx import export_onnx, write_metadata
from stages.export.quantisation import quantise, require_runtime
from stages.export.whole_network import metadata
from stages.networks.segmenter import Segmenter
from stages.serving.measured_loss import measured_loss


def export_smaller(
    network: Segmenter,
    path: Path,
    precision: Literal["fp16", "int8"],
    dataset: Dataset,
    images: int,
    least_agreement: float,
) -> dict[str, Any]:
    """Writes `network`; returns the figures of `measured_loss`, which are in the file's metadata, too.

    Calibrated on `images` images that are not in val, measured on `images` of val (without any: of all), both spread
    evenly over the sorted ids. ConfigError, and no file, where the agreement is below `least_agreement`.
    """
    require_runtime()
    if list(network.class_names) != list(dataset.class_names):
        raise ConfigError(f"the network has other classes than the data set {dataset.name!r}", "give its own (--data)")
    others = sorted({image_id for split in ("train", "weak", "unlabelled") for image_id in dataset.ids(split)})
    measured = spread(sorted(dataset.ids("val")) or others, images)
    if not measured or not others:
        raise DataError(f"the data set {dataset.name!r} has no images to calibrate and to measure on", "give another")
    with TemporaryDirectory(dir=path.parent, prefix=".partial-") as folder:
        whole, smaller = Path(folder, "fp32.onnx"), Path(folder, f"{precision}.onnx")
        export_onnx(network, whole)
        if precision == "fp16":
            export_onnx(network, smaller, half=True)
        else:
            quantise(whole, smaller, network, (dataset.image(image_id) for image_id in spread(others, images)))
        write_metadata(smaller, metadata(network, precision))
        figures = measured_loss(whole, smaller, dataset, measured)
        if figures["agreement"] < least_agreement:
            raise ConfigError(
                f"in {precision} the network predicts the same class as in fp32 for only {figures['agreement']:.2%} of "
                f"the pixels of {len(measured)} images, less than {least_agreement:.2%}{_in_words(figures)}",
                f"use fp16, train longer, or accept it: --least-agreement {int(1000 * figures['agreement']) / 1000}",
            )
        write_metadata(smaller, metadata(network, precision) | {"measured": json.dumps(figures)})
        smaller.rename(path)
    return figures


def spread(ids: Sequence[str], count: int) -> list[str]:
    """`count` of the ids, or all if there are fewer, evenly over the list."""
    step = max(len(ids) / count, 1)
    return [ids[int(number * step)] for number in range(min(count, len(ids)))]


def _in_words(figures: dict[str, Any]) -> str:
    if figures["mean_iou_before"] is None:
        return ""
    return f" (mean IoU {100 * figures['mean_iou_before']:.1f} before, {100 * figures['mean_iou_after']:.1f} after)"
