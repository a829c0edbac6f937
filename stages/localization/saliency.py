"""Saliency maps without a network: boundary connectivity of superpixels, or 8-bit PNG files made elsewhere.

A saliency map is low, 0..1, where a pixel looks like background. Seeds use the pixels below a small threshold
as background; DSRG used 0.06 on the maps of DRFI, whose trained forest is not needed here.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import sparse
from scipy.sparse import csgraph
from scipy.spatial.distance import cdist

from artifacts.errors import DataError
from artifacts.masks import read_png
from stages.localization.grid import reduced, resized
from stages.localization.superpixels import neighbours, region_means, superpixels_of

Terms = Literal["code", "paper"]

CONNECTIVITY_WIDTH = 1.0  # of boundary connectivity, in the paper and the code
SMOOTHNESS_FLOOR = 0.1  # between neighbours of any colour; "mu" in the paper

PIXELS_EACH = 80  # of a superpixel: a larger image is reduced, since the time grows with the pixels

# The paper's widths: of colour (Lab units) and of space (share of the longer side), on 200 superpixels.
COLOUR_WIDTH = 10.0
SPACE_WIDTH = 0.25
SUPERPIXELS = 200
COMPACTNESS = 20.0

# The authors' code.
CODE_PIXELS = 600  # of a superpixel
MOST_SUPERPIXELS = 500  # our limit: the time grows with the square of the number
CODE_BORDER = 8  # pixels: superpixels this near to a side of the image touch it
CODE_SPACE_WIDTH = 0.4  # share of each side
CODE_BACKGROUND = 5.0  # weight of the background against the foreground
CODE_SURE = (3.0, 1000.0)  # from this boundary connectivity on, this weight instead of the probability


def boundary_connectivity(image: NDArray, superpixels: int | None = None, terms: Terms = "code") -> NDArray[np.float32]:
    """Saliency by robust background detection (Zhu et al., CVPR 2014): uint8 (H, W, 3) -> float32 (H, W), 0..1.

    A region is more likely background the longer the area of similar colour around it touches the border of the image.
    Foreground differs in colour from such background nearby. Both are combined by a least-squares fit that is smooth
    between neighbours of similar colour. An image of one region has saliency 0 everywhere.

    `terms`: the published text and the authors' code differ in each of these parts. The code finds far more
    background: it computes the mean colour of a region before Lab; counts a band of 8 pixels as border; clips small
    differences over two rings of neighbours, not one; takes its colour widths from the contrast of the image and
    sets every weight beyond three widths to 0; sets contrast below Otsu's threshold to 0; weighs background 5 times,
    and sure background 5,000 times. It also removes drawn frames around an image, which is not done here.
    `superpixels`: None: 200 (paper), or one per 600 pixels (code), but at least 200 and at most 500 (our limits).
    An image of more than 80 pixels a superpixel is reduced to so many, and its saliency is resized. Photos of 500
    pixels differ from maps of all pixels by 0.04, as much as with 3 % more superpixels.
    """
    if superpixels is None:
        area = image.shape[0] * image.shape[1]
        by_area = min(max(round(area / CODE_PIXELS), SUPERPIXELS), MOST_SUPERPIXELS)
        superpixels = by_area if terms == "code" else SUPERPIXELS
    small = reduced(image, PIXELS_EACH * superpixels)
    regions = superpixels_of(small, superpixels, COMPACTNESS)
    count = int(regions.max()) + 1
    if count == 1:
        return np.zeros(image.shape[:2], dtype=np.float32)
    if terms == "code":
        border = _border(regions, count, max(round(CODE_BORDER * max(small.shape) / max(image.shape)), 1))
        values = _by_code(small, regions, border)
    else:
        values = _by_paper(small, regions, _border(regions, count, 1))
    return resized(_stretch(values).astype(np.float32)[regions], image.shape[:2])


def _by_paper(image: NDArray, regions: NDArray, border: NDArray) -> NDArray[np.float64]:
    """Saliency (N,) of the regions, by the paper's formulas."""
    from skimage.color import rgb2lab

    count = len(border)
    colour_distance = _distances(region_means(regions, rgb2lab(image), count))
    places = np.stack(list(np.indices(regions.shape)), axis=-1) / max(regions.shape)
    space_distance = _distances(region_means(regions, places, count))
    touching, rings, around_border = _links(regions, count, border)
    clip = _smallest(colour_distance, touching)
    # Differences as small as those between the most similar neighbours are noise: they must not add up on long paths.
    connectivity = _connectivity(colour_distance, clip, touching | around_border, border, COLOUR_WIDTH)
    background = 1 - _weights(connectivity, CONNECTIVITY_WIDTH)
    contrast = _stretch((colour_distance * _weights(space_distance, SPACE_WIDTH) * background).sum(axis=1))
    linked = rings | around_border
    smoothness = np.where(linked, _weights(colour_distance, COLOUR_WIDTH) + SMOOTHNESS_FLOOR, 0.0)
    return _fit(background, contrast, smoothness)


def _by_code(image: NDArray, regions: NDArray, border: NDArray) -> NDArray[np.float64]:
    """Saliency (N,) of the regions, as the authors' code computes it."""
    from skimage.color import rgb2lab
    from skimage.filters import threshold_otsu

    count = len(border)
    colour_distance = _distances(rgb2lab(region_means(regions, image, count) / 255))
    rows, columns = (np.arange(side) / side for side in regions.shape)
    places = np.stack(np.broadcast_arrays(rows[:, None], columns[None]), axis=-1)
    space_distance = _distances(region_means(regions, places, count))
    touching, rings, around_border = _links(regions, count, border)
    one_ring, clip = _smallest(colour_distance, touching), _smallest(colour_distance, rings)
    steps = np.sort(colour_distance[np.tril(touching)])
    largest = steps[-max(round(0.01 * len(steps)), 1) :].mean()
    path_width = max(min(10.0, 3 * one_ring, largest / 10), 5.0)
    smooth_width = max(min(3 * one_ring, 0.2 * largest, 20.0), 1e-9)
    connectivity = _connectivity(colour_distance, clip, touching | around_border, border, path_width, cut=True)
    probability = 1 - _weights(connectivity, CONNECTIVITY_WIDTH)
    nearness = _weights(space_distance, CODE_SPACE_WIDTH, cut=True)
    contrast = _stretch((colour_distance * nearness * probability).sum(axis=1))
    contrast = np.where(contrast < threshold_otsu(contrast), 0.0, contrast)
    background = CODE_BACKGROUND * np.where(connectivity > CODE_SURE[0], CODE_SURE[1], probability)
    smoothness = np.where(rings | around_border, _weights(colour_distance, smooth_width, cut=True), 0.0)
    return _fit(background, contrast, smoothness + SMOOTHNESS_FLOOR * touching)


def _connectivity(
    colour_distance: NDArray, clip: float, linked: NDArray, border: NDArray, width: float, cut: bool = False
) -> NDArray[np.float64]:
    """Boundary connectivity (N,): length along the border / sqrt(area), both soft, over the smoothest paths."""
    count = len(border)
    steps = np.maximum(colour_distance - clip, 0) + 1e-9  # 0 would mean "no edge"
    longest = 3 * width if cut else np.inf
    one, other = np.nonzero(linked & (steps <= longest))
    graph = sparse.csr_matrix((steps[one, other], (one, other)), shape=(count, count))
    paths = csgraph.dijkstra(graph, limit=longest)  # the graph holds both directions
    alike = _weights(paths, width, cut)
    connectivity: NDArray[np.float64] = alike[:, border].sum(axis=1) / np.sqrt(alike.sum(axis=1))
    return connectivity


def _fit(background: NDArray, contrast: NDArray, smoothness: NDArray) -> NDArray[np.float64]:
    """The s that minimise sum_i b_i s_i^2 + c_i (s_i - 1)^2 + sum_ij w_ij (s_i - s_j)^2 / 2."""
    system = np.diag(background + contrast + smoothness.sum(axis=1) + 1e-9) - smoothness
    return np.linalg.solve(system, contrast)


def _weights(distances: NDArray, width: float, cut: bool = False) -> NDArray[np.float64]:
    """Gaussian weights of distances; with `cut`, 0 beyond three widths."""
    weights: NDArray[np.float64] = np.exp(-(distances**2) / (2 * width**2))
    return np.where(distances > 3 * width, 0.0, weights) if cut else weights


def _border(regions: NDArray, count: int, band: int) -> NDArray[np.bool_]:
    """bool (N,): which regions have a pixel among the `band` outermost ones of a side."""
    border = np.zeros(count, dtype=bool)
    for part in (regions[:band], regions[-band:], regions[:, :band], regions[:, -band:]):
        border[part] = True
    return border


def _links(regions: NDArray, count: int, border: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """bool (N, N) each, diagonals false: regions that touch; touch or share a neighbour; are both at the border."""
    touching = neighbours(regions, count)
    other = ~np.eye(count, dtype=bool)
    second = (touching.astype(np.float32) @ touching.astype(np.float32)) > 0
    return touching, (touching | second) & other, border[:, None] & border[None] & other


def _smallest(colour_distance: NDArray, linked: NDArray) -> float:
    """Mean over the regions of the distance to the most similar one of the regions linked to each."""
    nearest = np.where(linked, colour_distance, np.inf).min(axis=1)
    mean: float = nearest[np.isfinite(nearest)].mean()
    return mean


def _distances(points: NDArray) -> NDArray:
    distances: NDArray = cdist(points, points)
    return distances


def _stretch(values: NDArray) -> NDArray:
    return (values - values.min()) / max(float(np.ptp(values)), 1e-9)


def encode_saliency(saliency: NDArray) -> bytes:
    """The bytes of a grey 8-bit PNG: 0..1 -> 0..255, rounded."""
    buffer = io.BytesIO()
    Image.fromarray(np.rint(np.clip(saliency, 0, 1) * 255).astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def read_saliency(path: Path | str, size: tuple[int, int]) -> NDArray[np.float32]:
    """Saliency float32 (H, W) in 0..1 from a grey 8-bit PNG; size = (H, W) of its image.

    Raises DataError, with the file's name, if it is missing, damaged, of a mode other than L, or of a different size.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"there is no saliency map {path}", "add the file, or choose a different background, such as saliency"
        )
    mode, _, values = read_png(path, "saliency map", ("L",), (size[1], size[0]))
    if values is None:
        raise DataError(
            f"saliency map {path} has mode {mode}, expected L: one channel of 8 bits, 0 background, 255 salient",
            "save it as a grey 8-bit PNG",
        )
    return values.astype(np.float32) / np.float32(255)
