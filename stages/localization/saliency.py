"""Saliency maps without a network: boundary connectivity of superpixels, or 8-bit PNG files made elsewhere.

A saliency map says how little a pixel looks like background, 0..1. Seeds take the pixels below a small threshold
as background; DSRG used 0.06 on the maps of DRFI, whose trained forest is not needed here.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import sparse
from scipy.sparse import csgraph

from artifacts.errors import DataError
from artifacts.masks import read_png

# Zhu et al. 2014: widths of colour (Lab units), boundary connectivity and space (share of the longer side).
COLOUR_WIDTH = 10.0
CONNECTIVITY_WIDTH = 1.0
SPACE_WIDTH = 0.25
SMOOTHNESS_FLOOR = 0.1  # between neighbours of any colour; "mu" there


def boundary_connectivity(image: NDArray, superpixels: int = 200) -> NDArray[np.float32]:
    """Saliency by robust background detection (Zhu et al., CVPR 2014): uint8 (H, W, 3) -> float32 (H, W), 0..1.

    A region is background in so far as much of the area that looks alike touches the picture's border. Foreground
    is what differs in colour from such background nearby; both are joined by a least-squares fit that is smooth
    between neighbours of similar colour. A picture of one region has no saliency: all 0.
    """
    from skimage.color import rgb2lab  # a second to import, which those who only read maps need not wait for
    from skimage.segmentation import slic

    regions = slic(image, n_segments=superpixels, compactness=20.0, start_label=0)
    regions = np.unique(regions, return_inverse=True)[1].reshape(image.shape[:2])
    count = int(regions.max()) + 1
    if count == 1:
        return np.zeros(regions.shape, dtype=np.float32)
    colour_distance = _distances(_region_means(regions, rgb2lab(image), count))
    places = np.stack(list(np.indices(regions.shape)), axis=-1) / max(regions.shape)
    space_distance = _distances(_region_means(regions, places, count))
    border = np.zeros(count, dtype=bool)
    border[np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])] = True
    touching = _neighbours(regions, count)
    around_border = border[:, None] & border[None] & ~np.eye(count, dtype=bool)

    background = _background_probability(colour_distance, touching, touching | around_border, border)
    nearness = np.exp(-(space_distance**2) / (2 * SPACE_WIDTH**2))
    contrast = _stretch((colour_distance * nearness * background).sum(axis=1))

    second = (touching.astype(np.int64) @ touching.astype(np.int64)) > 0
    linked = (touching | second | around_border) & ~np.eye(count, dtype=bool)
    smoothness = np.where(linked, np.exp(-(colour_distance**2) / (2 * COLOUR_WIDTH**2)) + SMOOTHNESS_FLOOR, 0.0)
    # minimise sum_i b_i s_i^2 + c_i (s_i - 1)^2 + sum_ij w_ij (s_i - s_j)^2 / 2
    system = np.diag(background + contrast + smoothness.sum(axis=1) + 1e-9) - smoothness
    saliency: NDArray[np.float32] = _stretch(np.linalg.solve(system, contrast)).astype(np.float32)[regions]
    return saliency


def _background_probability(
    colour_distance: NDArray, touching: NDArray, linked: NDArray, border: NDArray
) -> NDArray[np.float64]:
    """Per region, from its boundary connectivity: length along the border / sqrt(area), both soft."""
    count = len(border)
    # Differences as small as those between the most alike neighbours are noise: they must not add up on long paths.
    noise = np.where(touching, colour_distance, np.inf).min(axis=1)
    steps = np.maximum(colour_distance - noise[np.isfinite(noise)].mean(), 0) + 1e-9  # 0 would mean "no edge"
    one, other = np.nonzero(linked)
    graph = sparse.csr_matrix((steps[one, other], (one, other)), shape=(count, count))
    alike = np.exp(-(csgraph.shortest_path(graph, directed=False) ** 2) / (2 * COLOUR_WIDTH**2))
    connectivity = alike[:, border].sum(axis=1) / np.sqrt(alike.sum(axis=1))
    probability: NDArray[np.float64] = 1 - np.exp(-(connectivity**2) / (2 * CONNECTIVITY_WIDTH**2))
    return probability


def _region_means(regions: NDArray, values: NDArray, count: int) -> NDArray:
    """(count, D): mean of values (H, W, D) in each region."""
    flat = regions.ravel()
    sums = [np.bincount(flat, values[..., d].ravel(), minlength=count) for d in range(values.shape[-1])]
    return np.stack(sums, axis=1) / np.bincount(flat, minlength=count)[:, None]


def _distances(points: NDArray) -> NDArray:
    distances: NDArray = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return distances


def _neighbours(regions: NDArray, count: int) -> NDArray[np.bool_]:
    touching = np.zeros((count, count), dtype=bool)
    for one, other in ((regions[1:], regions[:-1]), (regions[:, 1:], regions[:, :-1])):
        touching[one, other] = touching[other, one] = True
    np.fill_diagonal(touching, False)
    return touching


def _stretch(values: NDArray) -> NDArray:
    return (values - values.min()) / max(float(np.ptp(values)), 1e-9)


def encode_saliency(saliency: NDArray) -> bytes:
    """The bytes of a grey 8-bit PNG: 0..1 -> 0..255, rounded."""
    buffer = io.BytesIO()
    Image.fromarray(np.rint(np.clip(saliency, 0, 1) * 255).astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def read_saliency(path: Path | str, size: tuple[int, int]) -> NDArray[np.float32]:
    """Saliency float32 (H, W) in 0..1 from a grey 8-bit PNG; size = (H, W) of its picture.

    Raises DataError, with the file's name: missing, damaged, another mode than L, another size.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"there is no saliency map {path}", "put it there, or choose another background, such as saliency"
        )
    mode, _, values = read_png(path, "saliency map", ("L",), (size[1], size[0]))
    if values is None:
        raise DataError(
            f"saliency map {path} has mode {mode}, expected L: one channel of 8 bits, 0 background, 255 salient",
            "save it as a grey 8-bit PNG",
        )
    return values.astype(np.float32) / np.float32(255)
