"""The overlays of predict: of a data set, and of photos of every kind in a folder."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from artifacts.errors import ConfigError
from artifacts.masks import read_mask
from stages.config import build
from stages.data.overlays import draw_overlay
from stages.data.pixels import read
from stages.predict import PredictConfig


def test_each_mask_is_drawn_on_its_image(bench):
    values = {"output": "masks", "overlays": "png", "opacity": 0.3, "legend": False}
    plain = bench.run("predict", "not-drawn", {"output": "masks"})
    artifact = bench.run("predict", "drawn", values)
    assert sorted(path.name for path in artifact.path.glob("overlays/*")) == [
        f"{image_id}.png" for image_id in bench.dataset.ids("val")
    ]
    for image_id in bench.dataset.ids("val"):
        mask_file = artifact.file(f"masks/{image_id}.png")
        assert mask_file.read_bytes() == plain.file(f"masks/{image_id}.png").read_bytes()
        mask, image = read_mask(mask_file), bench.dataset.image(image_id)
        with Image.open(artifact.file(f"overlays/{image_id}.png")) as drawn:
            pixels = np.asarray(drawn).astype(int)
        np.testing.assert_array_equal(pixels[mask == 0], image[mask == 0])
        colours = np.frombuffer(bench.dataset.palette, np.uint8).reshape(256, 3)[mask]
        mixed = np.abs(pixels - (0.7 * image + 0.3 * colours)).max(2) < 1
        opaque = (pixels == colours).all(2)
        assert (mixed | opaque)[mask != 0].all()
    assert artifact.verify() == []


def test_photos_of_every_kind_are_drawn_as_the_network_saw_them(bench, tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (30, 44, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(pixels)).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(np.dstack([pixels, pixels[..., 0]])).save(tmp_path / "clear.png")
    Image.fromarray(pixels[:1]).save(tmp_path / "row.png")
    Image.fromarray(pixels).convert("CMYK").save(tmp_path / "bands.tif")
    values = {"images": str(tmp_path), "output": "masks", "overlays": "png"}
    artifact = bench.run("predict", "photos", values, {"data": None})
    for file in sorted(tmp_path.iterdir()):
        mask = read_mask(artifact.file(f"masks/{file.stem}.png"))
        expected = draw_overlay(read(file).pixels, mask, bench.dataset.class_names, bench.dataset.palette)
        with Image.open(artifact.file(f"overlays/{file.stem}.png")) as drawn:
            np.testing.assert_array_equal(np.asarray(drawn), np.asarray(expected))
    assert read_mask(artifact.file("masks/turned.png")).shape == (30, 44)


def test_jpegs_are_close_to_what_was_drawn(bench):
    png, jpg = (bench.run("predict", f"as-{kind}", {"output": "masks", "overlays": kind}) for kind in ("png", "jpg"))
    for image_id in bench.dataset.ids("val"):
        drawn = [np.asarray(Image.open(a.path / f"overlays/{image_id}.{a.config['overlays']}")) for a in (png, jpg)]
        assert np.abs(drawn[0].astype(int) - drawn[1]).mean() < 12


def test_overlays_without_masks_are_refused(bench):
    with pytest.raises(ConfigError, match="overlays need masks"):
        build(PredictConfig, {"output": "probabilities", "overlays": "png"}, "test")
    with pytest.raises(ConfigError, match="opacity and legend have no effect without overlays"):
        build(PredictConfig, {"opacity": 0.2}, "test")
    bench.run("predict", "before", {"output": "masks"})
    with pytest.raises(ConfigError, match="not drawn again"):
        bench.run("predict", "x", {"output": "masks", "overlays": "png"}, {"keep": "before"})
    with pytest.raises(ConfigError, match="overlays"):
        build(PredictConfig, {"overlays": "gif"}, "test")
