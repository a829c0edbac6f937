"""Whole-image inference against one image at a time, and its geometry on networks that can be checked by eye."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artifacts.errors import DataError
from stages.engine import inference
from stages.engine.config import InferenceConfig
from stages.engine.inference import _predict, large_images, predict_probabilities, window_starts
from stages.engine.to_host import Transfer
from stages.networks import build_segmenter, normalise, upsample
from stages.networks.config import NetworkConfig
from stages.networks.normalisation import MEAN, STD
from stages.predict import PredictConfig, _kept
from tests.stages.fake_gpu import FakeTensorMode, move

CPU = torch.device("cpu")
SIZES = {"a": (33, 40), "b": (25, 31), "c": (33, 40), "d": (33, 40), "e": (40, 33), "f": (33, 40)}


class Shelf:
    """Images in memory."""

    def __init__(self, sizes: dict[str, tuple[int, int]] = SIZES) -> None:
        rng = np.random.default_rng(0)
        self.pixels = {name: rng.integers(0, 256, (*size, 3), dtype=np.uint8) for name, size in sizes.items()}
        self.decoded: list[str] = []

    def size(self, image_id: str) -> tuple[int, int]:
        return self.pixels[image_id].shape[0], self.pixels[image_id].shape[1]

    def image(self, image_id: str) -> np.ndarray:
        self.decoded.append(image_id)
        return self.pixels[image_id]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return build_segmenter(NetworkConfig.model_validate("tiny"), 4, seed=3)


def predict(network: nn.Module, images: Shelf, ids: list[str] | None = None, batch_size=None, **protocol):
    results = predict_probabilities(
        network, images, ids or sorted(images.pixels), InferenceConfig(**protocol), CPU, batch_size
    )
    return {name: p for names, batch in results for name, p in zip(names, batch, strict=True)}


@pytest.mark.parametrize("protocol", [{}, {"scales": (0.5, 1.0, 1.5), "flip": True}, {"window": 20, "merge": "logits"}])
def test_probabilities_stay_on_the_device_of_the_images(network: nn.Module, protocol) -> None:
    there = copy.deepcopy(network).eval()
    with FakeTensorMode():
        move(there)
        images = torch.empty(2, 33, 40, 3, dtype=torch.uint8, device="cuda")
        found = _predict(there, images, InferenceConfig(precision="fp32", **protocol))
        assert (found.device.type, tuple(found.shape)) == ("cuda", (2, 4, 33, 40))


def test_plain_inference_is_softmax_of_upsampled_logits(network: nn.Module) -> None:
    images = Shelf()
    found = predict(network, images)
    assert set(found) == set(SIZES)
    network.eval()
    for name, pixels in images.pixels.items():
        inputs = normalise(torch.from_numpy(pixels).permute(2, 0, 1)[None])
        with torch.no_grad():
            expected = upsample(network(inputs), inputs.shape[2:], network.stride).softmax(1)[0]
        assert found[name].shape == (4, *SIZES[name])
        torch.testing.assert_close(found[name], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 2, 3, None])
def test_the_batch_size_changes_nothing(network: nn.Module, batch_size: int | None) -> None:
    settings = {"scales": (0.75, 1.0, 1.5), "flip": True}
    together = predict(network, Shelf(), **settings)
    for name, probabilities in predict(network, Shelf(), batch_size=batch_size, **settings).items():
        torch.testing.assert_close(probabilities, together[name], atol=2e-6, rtol=1e-5)


def test_every_image_is_decoded_once_and_batches_hold_equal_sizes(network: nn.Module) -> None:
    images = Shelf()
    batches = [
        (ids, tuple(p.shape))
        for ids, p in predict_probabilities(network, images, list(SIZES), InferenceConfig(), CPU, 3)
    ]
    assert batches == [
        (["a", "c", "d"], (3, 4, 33, 40)),
        (["f"], (1, 4, 33, 40)),
        (["e"], (1, 4, 40, 33)),
        (["b"], (1, 4, 25, 31)),
    ]
    assert sorted(images.decoded) == sorted(SIZES)


@pytest.mark.parametrize("merge", ["logits", "logits-sum", "probabilities"])
def test_flipping_the_image_flips_the_result(network: nn.Module, merge: str) -> None:
    images = Shelf({"a": (33, 41)})
    found = predict(network, images, flip=True, scales=(0.8, 1.0), merge=merge)["a"]
    images.pixels["a"] = np.ascontiguousarray(images.pixels["a"][:, ::-1])
    mirrored = predict(network, images, flip=True, scales=(0.8, 1.0), merge=merge)["a"]
    torch.testing.assert_close(mirrored.flip(2), found, atol=1e-5, rtol=1e-4)


class Constant(nn.Module):
    """Stride 1; logits (0, red channel in 0..1 * 4): what goes in comes out, so that views can be followed."""

    stride = 1

    def forward(self, images: Tensor) -> Tensor:
        red = images[:, :1] * STD[0] + MEAN[0]
        return torch.cat([torch.zeros_like(red), 4 * red], dim=1)


def test_merging_worked_by_hand() -> None:
    # a flat image: every view has logits (0, 4 r). Two scales and flip: four equal views.
    images = Shelf({"a": (6, 8)})
    images.pixels["a"][:] = 51  # r = 0.2, logit 0.8
    single = torch.tensor(0.8).sigmoid()
    for merge, expected in (
        ("logits", single),
        ("probabilities", single),
        ("logits-sum", torch.tensor(4 * 0.8).sigmoid()),
    ):
        found = predict(Constant(), images, scales=(0.5, 1.0), flip=True, merge=merge)["a"]
        torch.testing.assert_close(found[1], expected.expand(6, 8), atol=1e-5, rtol=1e-5)


def test_merging_unequal_views_worked_by_hand() -> None:
    # left pixel r = 0 (logit 0), right pixel r = 1 (logit 4); this network sees only the left one, and repeats it
    class Left(Constant):
        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            return logits[..., :1].expand_as(logits)

    shelf = Shelf({"a": (1, 2)})
    shelf.pixels["a"][:] = [[[0] * 3, [255] * 3]]
    mean_of_logits = predict(Left(), shelf, flip=True, merge="logits")["a"][1, 0, 0]
    mean_of_probabilities = predict(Left(), shelf, flip=True, merge="probabilities")["a"][1, 0, 0]
    assert mean_of_logits.item() == pytest.approx(1 / (1 + np.exp(-2)))
    assert mean_of_probabilities.item() == pytest.approx((0.5 + 1 / (1 + np.exp(-4))) / 2)


class Strided(nn.Module):
    """Stride 4: cell i reports pixel 4 i exactly, as a strided convolution with symmetric padding sees it."""

    stride = 4

    def forward(self, images: Tensor) -> Tensor:
        return Constant().forward(images)[:, :, ::4, ::4]


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.0, 1.25, 2.0])
def test_every_scale_puts_things_in_the_same_place(scale: float) -> None:
    # A ramp from left to right must come back as the same ramp, whatever the scale: a shift of half a cell, the usual
    # mistake of mixing align_corners conventions, would show as an offset of 2 pixels.
    images = Shelf({"a": (40, 80)})
    images.pixels["a"][:] = np.linspace(0, 255, 80)[None, :, None].round()
    found = predict(Strided(), images, scales=(scale,))["a"]
    ramp = torch.logit(found[1])[20] / 4 * 79  # back to pixels
    middle = slice(12, 68)
    torch.testing.assert_close(ramp[middle], torch.arange(80.0)[middle], atol=0.35, rtol=0)


def test_scaled_views_agree_with_resizing_twice(network: nn.Module) -> None:
    # one bilinear step from the cells to the image = cells to the view, then view to the image (up to smoothing)
    images = Shelf({"a": (48, 64)})
    pixels = np.cumsum(np.cumsum(images.pixels["a"].astype(float) - 127, 0), 1)
    images.pixels["a"] = np.uint8(255 * (pixels - pixels.min()) / np.ptp(pixels))
    found = predict(network, images, scales=(1.5,))["a"]
    inputs = normalise(torch.from_numpy(images.pixels["a"]).permute(2, 0, 1)[None])
    with torch.no_grad():
        view = F.interpolate(inputs, size=(72, 96), mode="bilinear", align_corners=False)
        logits = upsample(network.eval()(view), (72, 96), network.stride)
        expected = F.interpolate(logits, size=(48, 64), mode="bilinear", align_corners=False).softmax(1)[0]
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=0)


@pytest.mark.parametrize("merge", ["logits", "probabilities"])
def test_windows_worked_pixel_by_pixel(network: nn.Module, merge: str) -> None:
    """Each pixel: the mean of the softmax of every full window over it; the starts are written out."""
    images = Shelf({"wide": (33, 50), "small": (24, 20)})
    found = predict(network, images, window=24, merge=merge)
    starts = {"wide": ([0, 9], [0, 16, 26]), "small": ([0], [0])}
    network.eval()
    for name, pixels in images.pixels.items():
        inputs = normalise(torch.from_numpy(pixels).permute(2, 0, 1)[None])
        total, count = torch.zeros(4, *pixels.shape[:2]), torch.zeros(pixels.shape[:2])
        for top in starts[name][0]:
            for left in starts[name][1]:
                part = inputs[:, :, top : top + 24, left : left + 24]
                with torch.no_grad():
                    scores = upsample(network(part), part.shape[2:], network.stride).softmax(1)[0]
                total[:, top : top + 24, left : left + 24] += scores
                count[top : top + 24, left : left + 24] += 1
        assert count.min() == 1
        torch.testing.assert_close(found[name], total / count, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("side", "window", "expected"),
    [(20, 24, [0]), (24, 24, [0]), (25, 24, [0, 1]), (40, 24, [0, 16]), (41, 24, [0, 16, 17])],
)
def test_windows_are_full_and_end_with_the_image(side: int, window: int, expected: list[int]) -> None:
    assert window_starts(side, window) == expected


@pytest.mark.parametrize("protocol", [{}, {"flip": True, "scales": (1.0, 0.5)}, {"merge": "probabilities"}])
def test_a_view_of_too_many_pixels_is_predicted_in_windows(network: nn.Module, protocol) -> None:
    images = Shelf({"long": (40, 1500), "short": (40, 60)})
    seen: list[tuple[int, ...]] = []
    hook = network.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    limited = predict(network, images, whole_pixels=30_000, **protocol)
    hook.remove()
    assert max(views * height * width for views, _, height, width in seen) == 40 * 1024  # mirrors go alone
    windows = predict(network, images, window=1024, **protocol)
    torch.testing.assert_close(limited["long"], windows["long"], rtol=0, atol=1e-6)
    assert torch.equal(limited["short"], predict(network, images, **protocol)["short"])
    remark = large_images(images, ["long", "short"], InferenceConfig(whole_pixels=30_000, **protocol))
    assert remark is not None
    assert remark.startswith("1 of 2 images have views of more than 30,000 pixels")
    assert large_images(images, ["long", "short"], InferenceConfig(**protocol)) is None


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_softmax_in_strips_of_rows_is_softmax(monkeypatch, layout: torch.memory_format) -> None:
    scores = torch.randn(2, 5, 13, 7, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=layout)
    expected = scores.softmax(1)
    torch.testing.assert_close(inference.softmax_by_rows(scores.clone()), expected, rtol=0, atol=1e-6)
    monkeypatch.setattr(inference, "STRIP_PIXELS", 21)
    torch.testing.assert_close(inference.softmax_by_rows(scores), expected)


def test_the_network_is_left_as_it_was(network: nn.Module) -> None:
    network.train()
    frozen = next(module for module in network.modules() if not list(module.children()))
    frozen.eval()
    before = {name: module.training for name, module in network.named_modules()}
    predict(network, Shelf(), ["a"])
    assert {name: module.training for name, module in network.named_modules()} == before
    results = predict_probabilities(network, Shelf(), ["a", "b"], InferenceConfig(), CPU)
    next(results)
    assert not network.training
    results.close()  # also when the caller stops early
    assert {name: module.training for name, module in network.named_modules()} == before


def test_an_image_that_cannot_be_read_is_named(network: nn.Module) -> None:
    images = Shelf()
    images.size = lambda image_id: (33, 40)  # type: ignore[method-assign]
    with pytest.raises(DataError, match="image b has 25 rows and 31 columns"):
        predict(network, images)


def test_scales_are_checked() -> None:
    for scales in ((), (0.0,), (-1.0, 1.0), (9.0,)):
        with pytest.raises(ValueError, match="between 0 and 8"):
            InferenceConfig(scales=scales)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_agrees_with_cpu() -> None:
    network = build_segmenter(NetworkConfig.model_validate("tiny"), 4, seed=3)
    images = Shelf()
    expected = predict(network, images, scales=(0.75, 1.0), flip=True)
    device = torch.device("cuda")
    network = network.to(device)
    for precision, tolerance in (("fp32", 1e-3), ("bf16", 5e-2)):
        protocol = InferenceConfig(scales=(0.75, 1.0), flip=True, precision=precision)
        for ids, batch in predict_probabilities(network, images, list(SIZES), protocol, device):
            for name, probabilities in zip(ids, batch, strict=True):
                assert (probabilities.cpu() - expected[name]).abs().max() < tolerance


def test_nothing_that_predict_keeps_makes_the_host_wait_for_a_gpu() -> None:
    config = PredictConfig(confidence=True, min_confidence=0.5, stride=4)
    with FakeTensorMode():
        probabilities = torch.empty(2, 4, 33, 40, device="cuda")
        kept = {
            name: (one.device.type, one.dtype, tuple(one.shape)) for name, one in _kept(probabilities, config).items()
        }
    assert kept == {
        "mask": ("cuda", torch.uint8, (2, 33, 40)),
        "confidence": ("cuda", torch.uint8, (2, 33, 40)),
        "scores": ("cuda", torch.float16, (2, 4, 9, 10)),
        "highest": ("cuda", torch.float16, (2, 4)),
        "wins": ("cuda", torch.bool, (2, 4)),
    }


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_transfer_brings_what_was_there_when_it_was_queued() -> None:
    values = torch.arange(1_000_000, device="cuda").view(1000, 1000)
    transfer = Transfer(values=values, total=values.sum())
    values.zero_()
    found = transfer.arrays()
    np.testing.assert_array_equal(found["values"], np.arange(1_000_000).reshape(1000, 1000))
    assert found["total"] == 499999500000


@pytest.mark.parametrize("size", [(33, 1), (9, 2), (1, 9), (1, 1)])
def test_a_narrow_image_is_reduced_as_its_colours_alone_are(size: tuple[int, int]) -> None:
    """One column in channels_last memory: torch took other channels for the rows of a colour."""
    colours = normalise(torch.from_numpy(Shelf({"a": size}).pixels["a"][None]).permute(0, 3, 1, 2))
    found = inference._resize(colours, 0.5)
    for number, own in enumerate(found.unbind(1)):
        alone = F.interpolate(colours[:, number, None], found.shape[2:], mode="bilinear", antialias=True)
        torch.testing.assert_close(own, alone[:, 0])
