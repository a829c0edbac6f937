"""SBD's .mat files to index masks: the stage prepare-data on a devkit whose masks are all SBD's."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import scipy.io
import scipy.sparse
from PIL import Image

from artifacts.dataset import Dataset
from artifacts.masks import IGNORE, encode_mask
from artifacts.store import Artifact, Workspace
from stages.contract import default_workers
from tests.benchmarks import inputs
from tests.benchmarks.measure import WALL, Result, alone

# (.mat files, different ones among them, their size, repeats)
SIZES = {
    "tiny": (6, 2, (48, 64), 1),
    "quick": (400, 12, inputs.VOC_SIZE, 1),
    "full": (11_355, 24, inputs.VOC_SIZE, 1),
}


def sbd(scale: str, folder: Path) -> Result:
    """Reading and checking every image's header, converting and writing every mask, lists and figures."""
    count, different, size, repeats = SIZES[scale]
    truths = [inputs.drawn_image(number, size)[1] for number in range(different)]
    truths = [np.where(truth == IGNORE, 0, truth).astype(np.uint8) for truth in truths]
    devkit = folder / "devkit"
    _draw(devkit, truths, count)
    workspace, workers = Workspace(folder / "ws"), default_workers()
    config = {
        "dataset": {"name": "voc-aug", "source": str(devkit), "sbd": str(devkit / "sbd")},
        "allow_subset": True,
        "tag_source": "masks",
    }

    def convert() -> Artifact:
        return inputs.stage(workspace, "prepare-data", "data", config, force=True, workers=workers)

    ours, artifact = alone(convert, repeats, WALL)
    dataset = Dataset(artifact)
    equal = all(
        np.array_equal(dataset.mask(f"s{number:05d}"), truths[number % different]) for number in range(0, count, 97)
    )
    return Result(
        "sbd",
        f"prepare-data on SBD's .mat files, {workers} processes",
        f"{count} .mat files of {size[0]}x{size[1]}, compressed, with boundaries",
        None,
        ours,
        "every 97th mask with the drawn one",
        equal and len(dataset.ids("weak")) == count,
        target_most=120.0,
        figures={"workers": workers, "files_per_s": count / ours.median},
    )


def _draw(devkit: Path, truths: list[np.ndarray], count: int) -> None:
    """A devkit of one training and one val image, and `count` images of SBD that are links to a few files."""
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation", "sbd/cls"):
        (devkit / name).mkdir(parents=True)
    image = Image.new("RGB", truths[0].shape[::-1], "grey")
    for name in ("t", "v"):
        (devkit / "ImageSets" / "Segmentation" / ("train.txt" if name == "t" else "val.txt")).write_text(f"{name}\n")
        image.save(devkit / "JPEGImages" / f"{name}.jpg")
        (devkit / "SegmentationClass" / f"{name}.png").write_bytes(encode_mask(truths[0]))
    for number, truth in enumerate(truths):
        boundaries = np.empty((20, 1), object)
        for label in range(20):
            edge = (truth == label + 1) & (np.roll(truth, 1, axis=0) != truth)
            boundaries[label, 0] = scipy.sparse.csc_matrix(edge.astype(np.float64))
        content = {"Segmentation": truth, "Boundaries": boundaries, "CategoriesPresent": np.unique(truth[truth > 0])}
        scipy.io.savemat(devkit / f"{number}.mat", {"GTcls": content}, do_compression=True)
    for number in range(count):
        os.link(devkit / f"{number % len(truths)}.mat", devkit / "sbd" / "cls" / f"s{number:05d}.mat")
        os.link(devkit / "JPEGImages" / "t.jpg", devkit / "JPEGImages" / f"s{number:05d}.jpg")
