"""The figures of README.md and docs/weak.md: from an image to its mask, stage by stage, on the embedded data set.

    semiseg run demo
    semiseg predict --data data --segmenter train-dual-s0 --split weak --name predict-dual-weak --workspace runs/demo
    python -m docs.draw_cam_to_mask demo runs/demo docs/images/cam-to-mask.png

    semiseg run weak-league --set classifiers=[cam]
    python -m docs.draw_cam_to_mask weak runs/weak-league docs/images/maps-to-masks.png

Every column is what a stage of the recipe wrote for images of which it had the image-level labels alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from io import BytesIO
from itertools import islice
from pathlib import Path

import matplotlib
import matplotlib.figure
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from artifacts.dataset import Dataset
from artifacts.masks import read_mask
from artifacts.score_maps import ScoreMaps
from stages.localization.grid import resize_maps

IMAGE_IDS = ("weak_00170", "weak_00506", "weak_00095")
HEAT = 0.6  # opacity of a map where it is 1

Pixels = NDArray[np.uint8]  # RGB (H, W, 3)
Columns = dict[str, Callable[[str], Pixels]]  # title of each column -> what it shows of an image


class Look:
    """What columns show of the artifacts of a workspace."""

    def __init__(self, workspace: Path) -> None:
        self.workspace, self.data = workspace, Dataset(workspace / "data")

    def masks(self, artifact: str) -> Callable[[str], Pixels]:
        folder = self.workspace / artifact / "masks"
        return lambda image_id: self.coloured(read_mask(folder / f"{image_id}.png"))

    def map(self, artifact: str) -> Callable[[str], Pixels]:
        """The map of the first image-level label, over the image."""
        return lambda image_id: heated(self.data.image(image_id), self.scores(artifact, image_id)[1][0].clip(0, 1))

    def likeliest(self, artifact: str) -> Callable[[str], Pixels]:
        """The class of the highest probability."""

        def label_map(image_id: str) -> Pixels:
            classes, scores = self.scores(artifact, image_id)
            return self.coloured(classes[scores.argmax(0)])

        return label_map

    def truth(self, image_id: str) -> Pixels:
        return self.coloured(self.data.mask(image_id))

    def scores(self, artifact: str, image_id: str) -> tuple[Pixels, NDArray[np.float32]]:
        """Class ids (K,), and their scores (K, H, W)."""
        found = ScoreMaps(self.workspace / artifact)[image_id]
        return found.classes, resize_maps(found.scores, found.size, found.stride)

    def coloured(self, mask: Pixels) -> Pixels:
        return np.frombuffer(self.data.palette, np.uint8).reshape(256, 3)[mask]


def heated(image: Pixels, scores: NDArray[np.float32]) -> Pixels:
    """The image in grey with the scores on it: the higher, the more of the colour map's colour."""
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float32)[..., None].repeat(3, 2)
    heat = 255 * matplotlib.colormaps["jet"](scores)[..., :3]
    return ((1 - HEAT) * grey + HEAT * heat).round().astype(np.uint8)


def demo(look: Look) -> tuple[Sequence[str], Columns]:
    """README.md: by way of DSRG to the dual-branch network."""
    return IMAGE_IDS, {
        "image": look.data.image,
        "class-activation map": look.map("seeds"),
        "seeds": look.masks("seeds"),
        "grown by DSRG": look.likeliest("weak-probabilities"),
        "after the CRF": look.masks("weak-labels"),
        "dual branch": look.masks("predict-dual-weak"),
        "truth": look.truth,
    }


def weak(look: Look) -> tuple[Sequence[str], Columns]:
    """docs/weak.md: by way of IRNet, on the first three weak images that have two classes or more."""
    several = (image_id for image_id in sorted(look.data.ids("weak")) if len(look.data.tags(image_id)) > 1)
    return tuple(islice(several, 3)), {
        "image": look.data.image,
        "class-activation map": look.map("maps-cam-s0"),
        "its label map": look.masks("maps-cam-s0"),
        "after the CRF": look.masks("masks-cam-plain-s0"),
        "refined map": look.map("refined-cam-irn-s0"),
        "after the CRF ": look.masks("masks-cam-irn-s0"),
        "truth": look.truth,
    }


FIGURES = {"demo": demo, "weak": weak}


def draw(figure: str, workspace: Path, path: Path) -> None:
    look = Look(workspace)
    image_ids, shown = FIGURES[figure](look)
    canvas = matplotlib.figure.Figure(figsize=(11, 4.2), dpi=118, layout="constrained")
    canvas.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.02)
    places = canvas.subplots(len(image_ids), len(shown), squeeze=False)
    for row, image_id in zip(places, image_ids, strict=True):
        for axes, column in zip(row, shown.values(), strict=True):
            axes.imshow(column(image_id), interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_color("0.8")
        row[0].set_ylabel("\n".join(look.data.class_names[c] for c in look.data.tags(image_id)), fontsize=9)
    for axes, title in zip(places[0], shown, strict=True):
        axes.set_title(title, fontsize=11)
    drawn = BytesIO()
    canvas.savefig(drawn)
    image = Image.open(drawn).convert("RGB")
    image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw the figure of README.md (demo) or of docs/weak.md (weak).")
    parser.add_argument("figure", choices=FIGURES)
    parser.add_argument(
        "workspace", type=Path, help="workspace of the recipe demo, with predict-dual-weak; or weak-league"
    )
    parser.add_argument("image", type=Path, help="PNG file to write")
    given = parser.parse_args()
    draw(given.figure, given.workspace, given.image)
