"""stages/serving: what a program gets is what `semiseg predict` writes; images of every kind; wrong ones."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from artifacts import checkpoint
from artifacts.errors import ArtifactError, ConfigError, DataError, SemisegError, UsageError
from artifacts.masks import read_mask
from artifacts.score_maps import ScoreMaps
from stages.data.overlays import draw_overlay
from stages.networks import build_classifier, load_network
from stages.networks.config import ClassifierConfig
from stages.serving import Prediction, Segmenter

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # of ImageNet


@pytest.fixture(scope="module")
def segmenter(bench) -> Segmenter:
    return Segmenter.load(bench.workspace.artifact("segmenter").path, device="cpu")


@pytest.fixture
def pixels(bench) -> np.ndarray:
    return bench.dataset.image(bench.dataset.ids("val")[0])


# --- the same as the command ---

VIEWS = [
    {},
    {"scales": [0.5, 1.25], "flip": True},
    {"flip": True, "merge": "probabilities", "min_confidence": 0.4},
    {"scales": [0.75, 1], "merge": "logits-sum"},
    {"window": 32},
    {"whole_pixels": 1000, "precision": "bf16"},
]


@pytest.mark.parametrize("settings", VIEWS, ids=str)
def test_masks_are_byte_for_byte_those_of_predict(bench, tmp_path, settings):
    written = bench.run("predict", "written", {"output": "masks", **settings})
    segmenter = Segmenter.load(bench.workspace.artifact("segmenter").path, device="cpu", **settings)
    ids = bench.dataset.ids("val")
    for image_id, prediction in zip(ids, segmenter([bench.dataset.image(i) for i in ids]), strict=True):
        prediction.save(tmp_path / "mask.png")
        assert (tmp_path / "mask.png").read_bytes() == written.file(f"masks/{image_id}.png").read_bytes()


@pytest.mark.parametrize("how", ["share", "exclude"])
def test_image_labels_act_as_in_predict(bench, how):
    maps = ScoreMaps(bench.run("predict", "labelled", {"splits": ["weak"], "image_labels": how, "stride": 1}))
    segmenter = Segmenter.load(bench.workspace.artifact("segmenter").path, image_labels=how)
    ids = bench.dataset.ids("weak")
    images = [bench.dataset.image(image_id) for image_id in ids]
    labels = [[bench.dataset.class_names[tag] for tag in bench.dataset.tags(image_id)] for image_id in ids]
    for image_id, prediction in zip(ids, segmenter(images, labels), strict=True):
        record = maps[image_id]
        np.testing.assert_allclose(prediction.probabilities[record.classes], record.scores, atol=5e-4)
    free, held = segmenter(images[:2], [None, labels[1]])
    np.testing.assert_array_equal(free.mask, Segmenter.load(bench.workspace.artifact("segmenter").path)(images[0]).mask)
    np.testing.assert_array_equal(held.mask, segmenter(images[1], labels[1]).mask)


@pytest.mark.parametrize("settings", [{"scale": 4.0}, {"parameters": "irn", "max_pixels": 1500}], ids=str)
def test_refined_masks_are_those_of_the_stage_crf(bench, segmenter, settings):
    """Up to the rounding of the stored probabilities to float16."""
    bench.run("predict", "whole", {"output": "probabilities", "stride": 1, "min_class_probability": 0})
    refined = bench.run("crf", "refined", settings, {"data": "data", "predictions": "whole"})
    for image_id in bench.dataset.ids("val"):
        prediction = segmenter(bench.dataset.image(image_id))
        found = prediction.refined(**settings)
        assert (found.mask == read_mask(refined.file(f"masks/{image_id}.png"))).mean() > 0.99
        np.testing.assert_array_equal(found.probabilities, prediction.probabilities)


def test_a_prediction_is_refined_only_with_probabilities_and_known_settings(segmenter, pixels):
    with pytest.raises(UsageError, match="not kept"):
        segmenter(pixels, probabilities=False).refined()
    with pytest.raises(ConfigError, match=r"Prediction\.refined"):
        segmenter(pixels).refined(width=3)


def test_preprocessing_is_the_formula_of_imagenet_and_nothing_else(bench, segmenter, pixels):
    network = load_network(bench.workspace.artifact("segmenter"))
    inputs = torch.from_numpy(((pixels / 255.0 - MEAN) / STD).transpose(2, 0, 1)[None].astype(np.float32))
    with torch.no_grad():
        cells = network(inputs)[0].double().numpy()
    found = segmenter(pixels).probabilities[:, :: network.stride, :: network.stride]  # cell i lies on pixel stride * i
    powers = np.exp(cells - cells.max(0))
    np.testing.assert_allclose(found, powers / powers.sum(0), atol=1e-5)


# --- images of every kind ---


def test_an_array_a_pillow_image_and_a_file_are_one_image(segmenter, pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "image.png")
    given = [pixels, Image.fromarray(pixels), tmp_path / "image.png", str(tmp_path / "image.png")]
    alone = segmenter(pixels)
    assert isinstance(alone, Prediction)
    for prediction in [*segmenter(given), *segmenter(np.stack([pixels, pixels]))]:
        np.testing.assert_array_equal(prediction.mask, alone.mask)
        np.testing.assert_array_equal(prediction.image, pixels)
    assert segmenter([]) == []


def test_images_of_many_sizes_come_back_in_their_order(segmenter, pixels):
    images = [pixels[:40, :30], pixels, pixels[:20], pixels[:40, :30] // 2, pixels[::2]]
    for image, prediction in zip(images, segmenter(images), strict=True):
        assert prediction.mask.shape == image.shape[:2]
        assert prediction.probabilities.shape == (len(segmenter.names), *image.shape[:2])
        np.testing.assert_allclose(prediction.probabilities, segmenter(image).probabilities, atol=1e-5)


def test_files_and_pillow_images_are_turned_by_exif(segmenter, pixels, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned left: shown, it is turned right
    Image.fromarray(pixels[:40]).save(tmp_path / "turned.png", exif=exif)
    for given in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        np.testing.assert_array_equal(segmenter(given).image, np.rot90(pixels[:40], -1))


def test_transparent_parts_are_white_and_what_is_odd_is_a_warning(segmenter, pixels, tmp_path):
    alpha = np.full(pixels.shape[:2], 100, np.uint8)
    alpha[:5] = 0
    image = Image.fromarray(np.dstack([pixels, alpha]))
    image.save(tmp_path / "half.png")
    for given in (image, tmp_path / "half.png"):
        with pytest.warns(UserWarning, match="half transparent"):
            prediction = segmenter(given)
        assert (prediction.image[:5] == 255).all()
    grey = Image.fromarray(pixels[..., 0])
    np.testing.assert_array_equal(segmenter(grey).image, np.dstack([pixels[..., 0]] * 3))


def test_white_says_how_16_bits_are_read(bench, pixels, tmp_path):
    values = pixels[..., 0].astype(np.uint16) * 16  # of 0..4095
    Image.fromarray(values).save(tmp_path / "deep.png")
    segmenter = Segmenter.load(bench.workspace.artifact("segmenter").path, white=4095)
    np.testing.assert_array_equal(segmenter(tmp_path / "deep.png").image[..., 0], pixels[..., 0])
    with pytest.raises(DataError, match="mode I;16") as caught:
        segmenter(Image.open(tmp_path / "deep.png"))
    assert "path" in str(caught.value.hint)


# --- the result ---


def test_names_colours_and_overlay(bench, segmenter, pixels):
    prediction = segmenter(pixels)
    assert prediction.names == bench.dataset.class_names
    assert prediction.palette[:3].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]  # VOC's
    assert prediction.palette.shape == (256, 3)
    drawn = np.asarray(prediction.overlay())
    background = prediction.mask == 0
    assert background.any()
    np.testing.assert_array_equal(drawn[background], pixels[background])
    assert (drawn[~background] != pixels[~background]).any(1).mean() > 0.9


def test_an_overlay_with_the_names_is_what_predict_draws(bench, segmenter, pixels):
    prediction = segmenter(pixels)
    named = prediction.overlay(opacity=0.3, legend=True)
    expected = draw_overlay(pixels, prediction.mask, bench.dataset.class_names, bench.dataset.palette, 0.3)
    np.testing.assert_array_equal(np.asarray(named), np.asarray(expected))
    plain = np.asarray(prediction.overlay(opacity=0.3))
    left = (named.width - plain.shape[1]) // 2
    np.testing.assert_array_equal(np.asarray(named)[: len(plain), left : left + plain.shape[1]], plain)


def test_probabilities_are_left_out_on_request(segmenter, pixels):
    prediction = segmenter(pixels, probabilities=False)
    with pytest.raises(UsageError, match="not kept"):
        _ = prediction.probabilities
    with pytest.raises(UsageError, match=r"mask\.jpg is not a PNG"):
        prediction.save("mask.jpg")


def test_a_folder_that_is_missing_and_an_opacity_that_is_none(segmenter, pixels, tmp_path):
    prediction = segmenter(pixels)
    with pytest.raises(UsageError, match=r"there is no folder .*later"):
        prediction.save(tmp_path / "later" / "mask.png")
    for opacity in (-0.1, 30):
        with pytest.raises(UsageError, match=f"opacity={opacity}"):
            prediction.overlay(opacity)


# --- what goes wrong ---


def wrong_images(pixels: np.ndarray) -> dict[str, tuple[object, str]]:
    return {
        "float": (pixels / 255, "0..1"),
        "deep": (pixels.astype(np.uint16) << 8, ">> 8"),
        "grey": (pixels[..., 0], "np.stack"),
        "channels first": (pixels.transpose(2, 0, 1), "transpose"),
        "alpha": (np.dstack([pixels, pixels[..., :1]]), r"\.\.\., :3"),
        "empty": (pixels[:0], "no pixel"),
        "torch": (torch.from_numpy(pixels), "permute"),
        "missing": ("nowhere.jpg", "add the file"),
    }


@pytest.mark.parametrize("kind", wrong_images(np.zeros((4, 4, 3), np.uint8)))
def test_what_is_no_image_is_one_error_with_a_cure(segmenter, pixels, kind):
    image, cure = wrong_images(pixels)[kind]
    with pytest.raises(DataError) as caught:
        segmenter([pixels, image])
    assert "images[1]" in caught.value.message or "nowhere.jpg" in caught.value.message
    assert re.search(cure, caught.value.hint)


@pytest.mark.parametrize(("image", "cure"), [(None, "OpenCV gives None"), (3, "permute")])
def test_what_is_no_image_by_itself_is_the_same_error(segmenter, image, cure):
    with pytest.raises(DataError, match=f"image is a builtins.{type(image).__name__}, expected") as caught:
        segmenter(image)
    assert cure in caught.value.hint


def test_a_damaged_file_is_named(segmenter, pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:300])
    with pytest.raises(DataError, match=r"cut\.png cannot be read"):
        segmenter([tmp_path / "whole.png", tmp_path / "cut.png"])


def test_wrong_labels_and_settings(bench, segmenter, pixels):
    path = bench.workspace.artifact("segmenter").path
    with pytest.raises(UsageError, match="no effect"):
        segmenter(pixels, ["star"])
    shared = Segmenter.load(path, image_labels="share")
    with pytest.raises(DataError, match="'sta' is not a class, did you mean 'star'"):
        shared(pixels, ["sta"])
    with pytest.raises(UsageError, match="give a list"):
        shared(pixels, "star")
    with pytest.raises(UsageError, match="2 images and labels of 1"):
        shared([pixels, pixels], [["star"]])
    with pytest.raises(ConfigError, match="did you mean 'scales'"):
        Segmenter.load(path, scale=[1])  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r"flip.*\n?.*merge|2 mistakes"):
        Segmenter.load(path, flip="often", merge="best")  # type: ignore[arg-type]
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA GPU"):
            Segmenter.load(path, device="cuda")


def test_folders_that_hold_no_segmenter(bench, tmp_path):
    source = bench.workspace.artifact("segmenter").path
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("network.json", "weights.pt"):  # without the manifest
        shutil.copy(source / name, copy / name)
    assert Segmenter.load(copy).names == bench.dataset.class_names
    with pytest.raises(ArtifactError, match=r"name one of its networks: .*segmenter"):
        Segmenter.load(bench.workspace.path)
    with pytest.raises(ArtifactError, match="there is no"):
        Segmenter.load(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match="no network"):
        Segmenter.load(tmp_path)
    data = (copy / "weights.pt").read_bytes()
    for damaged in (data[:1000], data[:5000] + bytes(100) + data[5100:]):
        (copy / "weights.pt").write_bytes(damaged)
        with pytest.raises(SemisegError, match=r"weights\.pt is damaged"):
            Segmenter.load(copy)
    (copy / "weights.pt").unlink()
    with pytest.raises(ArtifactError, match=r"weights\.pt is missing"):
        Segmenter.load(copy)


def test_a_classifier_is_not_a_segmenter(bench):
    names = bench.dataset.class_names

    def write(writer):
        network = build_classifier(ClassifierConfig.model_validate("tiny"), len(names) - 1, seed=0)
        with writer.item("weights.pt") as temporary:
            checkpoint.save(temporary, network.state_dict())
        writer.write_json("network.json", network.spec(names))

    artifact = bench.publish("a-classifier", "classifier", write)
    with pytest.raises(ArtifactError, match="holds a classifier"):
        Segmenter.load(artifact.path)


# --- imports ---


def test_importing_it_loads_no_torch():
    code = "import sys; from stages.serving import Segmenter; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


def test_no_warning_about_ordinary_images(segmenter, pixels):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segmenter([pixels, Image.fromarray(pixels)])
