"""The figure of README.md: from an image to its mask, stage by stage, on images of the embedded data set.

    semiseg run demo
    semiseg predict --data data --segmenter train-dual-s0 --split weak --name predict-dual-weak --workspace runs/demo
    python -m docs.draw_cam_to_mask runs/demo docs/images/cam-to-mask.png

Every column is what a stage of the demo wrote for images of which it had the image-level labels alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from io import BytesIO
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


def columns(workspace: Path) -> dict[str, Callable[[str], Pixels]]:
    """Title of each column -> what it shows of an image."""
    data = Dataset(workspace / "data")
    maps = score_maps(workspace / "seeds")

    def masks_of(artifact: str) -> Callable[[str], Pixels]:
        return lambda image_id: coloured(read_mask(workspace / artifact / "masks" / f"{image_id}.png"), data.palette)

    return {
        "image": data.image,
        "class-activation map": lambda image_id: heated(data.image(image_id), first_map(maps, image_id)),
        "seeds": masks_of("seeds"),
        "grown by DSRG": lambda image_id: coloured(likeliest(workspace / "weak-probabilities", image_id), data.palette),
        "after the CRF": masks_of("weak-labels"),
        "dual branch": masks_of("predict-dual-weak"),
        "truth": lambda image_id: coloured(data.mask(image_id), data.palette),
    }


def score_maps(artifact: Path) -> ScoreMaps:
    return ScoreMaps(artifact, next(artifact.glob("*/index.json")).parent.name)


def coloured(mask: Pixels, palette: bytes) -> Pixels:
    return np.frombuffer(palette, np.uint8).reshape(256, 3)[mask]


def first_map(maps: ScoreMaps, image_id: str) -> NDArray[np.float32]:
    """The map of the first image-level label, float32 (H, W) of 0..1."""
    found = maps[image_id]
    return resize_maps(found.scores[:1], found.size, found.stride)[0].clip(0, 1)


def heated(image: Pixels, scores: NDArray[np.float32]) -> Pixels:
    """The image in grey with the scores on it: the higher, the more of the colour map's colour."""
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float32)[..., None].repeat(3, 2)
    heat = 255 * matplotlib.colormaps["jet"](scores)[..., :3]
    return ((1 - HEAT) * grey + HEAT * heat).round().astype(np.uint8)


def likeliest(artifact: Path, image_id: str) -> Pixels:
    """The class of the highest probability, uint8 (H, W)."""
    found = score_maps(artifact)[image_id]
    return found.classes[resize_maps(found.scores, found.size, found.stride).argmax(0)]


def draw(workspace: Path, path: Path) -> None:
    data, shown = Dataset(workspace / "data"), columns(workspace)
    canvas = matplotlib.figure.Figure(figsize=(11, 4.2), dpi=118, layout="constrained")
    canvas.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.02)
    places = canvas.subplots(len(IMAGE_IDS), len(shown), squeeze=False)
    for row, image_id in zip(places, IMAGE_IDS, strict=True):
        for axes, look in zip(row, shown.values(), strict=True):
            axes.imshow(look(image_id), interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_color("0.8")
        row[0].set_ylabel("\n".join(data.class_names[class_id] for class_id in data.tags(image_id)), fontsize=9)
    for axes, title in zip(places[0], shown, strict=True):
        axes.set_title(title, fontsize=11)
    drawn = BytesIO()
    canvas.savefig(drawn)
    figure = Image.open(drawn).convert("RGB")
    figure.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw the figure of README.md.")
    parser.add_argument("workspace", type=Path, help="workspace of the recipe demo, with predict-dual-weak")
    parser.add_argument("image", type=Path, help="PNG file to write")
    given = parser.parse_args()
    draw(given.workspace, given.image)
