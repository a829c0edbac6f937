from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from artifacts.errors import DataError
from stages.localization.saliency import boundary_connectivity, encode_saliency, read_saliency


def picture(shape=(60, 80), object_at=(slice(20, 42), slice(28, 56))):
    generator = np.random.default_rng(0)
    image = np.full((*shape, 3), (60, 120, 60), dtype=float)
    image[object_at] = (200, 60, 40)
    return (image + generator.normal(0, 6, image.shape)).clip(0, 255).astype(np.uint8)


def test_an_object_apart_from_the_border_is_salient_and_the_ground_is_not():
    saliency = boundary_connectivity(picture())
    inside = np.zeros(saliency.shape, bool)
    inside[22:40, 30:54] = True
    outside = np.ones(saliency.shape, bool)
    outside[16:46, 24:60] = False
    assert saliency.shape == (60, 80)
    assert saliency.min() == 0
    assert saliency.max() == pytest.approx(1)
    assert saliency[inside].min() > 0.8
    assert np.quantile(saliency[outside], 0.95) < 0.06
    assert saliency[outside].max() < 0.15


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 2), (5, 90)])
@pytest.mark.parametrize("flat", [True, False])
def test_tiny_and_flat_pictures_have_finite_saliency(shape, flat):
    image = np.full((*shape, 3), 77, np.uint8)
    if not flat:
        image = np.random.default_rng(1).integers(0, 256, (*shape, 3)).astype(np.uint8)
    saliency = boundary_connectivity(image)
    assert saliency.shape == shape
    assert np.isfinite(saliency).all()
    assert saliency.min() >= 0
    assert saliency.max() <= 1 + 1e-6


def test_saliency_survives_its_png_within_half_a_grey_level(tmp_path):
    saliency = np.random.default_rng(0).random((9, 7)).astype(np.float32)
    (tmp_path / "x.png").write_bytes(encode_saliency(saliency))
    np.testing.assert_allclose(read_saliency(tmp_path / "x.png", (9, 7)), saliency, atol=0.5 / 255 + 1e-6)


def test_unusable_saliency_files_are_named(tmp_path):
    (tmp_path / "whole.png").write_bytes(encode_saliency(np.random.default_rng(0).random((64, 64))))
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    Image.new("RGB", (64, 64)).save(tmp_path / "colour.png")
    with pytest.raises(DataError, match=r"no saliency map .*gone\.png"):
        read_saliency(tmp_path / "gone.png", (64, 64))
    with pytest.raises(DataError, match=r"cut\.png is damaged"):
        read_saliency(tmp_path / "cut.png", (64, 64))
    with pytest.raises(DataError, match=r"colour\.png has mode RGB"):
        read_saliency(tmp_path / "colour.png", (64, 64))
    with pytest.raises(DataError, match=r"whole\.png is 64x64 .* expected 60x64"):
        read_saliency(tmp_path / "whole.png", (64, 60))


@pytest.mark.real
def test_background_below_the_threshold_is_background_on_real_pictures(real_data):
    folder = real_data / "data" / "voc-animals"
    ids = (folder / "ImageSets" / "Segmentation" / "train.txt").read_text().split()[::2]
    right = taken = background = 0
    for image_id in ids:
        saliency = boundary_connectivity(np.array(Image.open(folder / "JPEGImages" / f"{image_id}.jpg")))
        mask = np.array(Image.open(folder / "SegmentationClass" / f"{image_id}.png"))
        below = (saliency < 0.06) & (mask != 255)
        taken += below.sum()
        right += (below & (mask == 0)).sum()
        background += (mask == 0).sum()
    assert right / taken > 0.87  # 0.89 on these 219 pictures, where background is 0.68 of all pixels
    assert right / background > 0.3  # 0.33
