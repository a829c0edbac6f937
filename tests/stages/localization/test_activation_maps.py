from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage

from artifacts.errors import ConfigError
from stages.localization.activation_maps import (
    _readers,
    class_activation_maps,
    gradient_magnitudes,
    gradient_ranks,
    multi_scale_maps,
    normalise_by_maximum,
)
from stages.localization.grid import resize_maps
from stages.networks import build_classifier, normalise
from stages.networks.config import ClassifierConfig
from stages.networks.folding import for_inference
from stages.networks.pixel_correlation import build_seam_network
from tests.stages.fake_gpu import FakeTensorMode, move

CPU = torch.device("cpu")
SCALES = (0.5, 1.0, 1.5)


class Images:
    """A few random images of three sizes, with labels."""

    sizes = ((33, 45), (40, 30), (21, 21))

    def __init__(self, count=9):
        generator = np.random.default_rng(0)
        self.images, self.labels = {}, {}
        for number in range(count):
            small = generator.integers(0, 256, (6, 6, 3)).astype(np.float32)
            H, W = self.sizes[number % 3]
            self.images[f"id{number}"] = ndimage.zoom(small, (H / 6, W / 6, 1), order=1).clip(0, 255).astype(np.uint8)
            self.labels[f"id{number}"] = [(2,), (1, 3), (), (1, 2, 4)][number % 4]

    def ids(self):
        return sorted(self.images)

    def image(self, image_id):
        return self.images[image_id]

    def size(self, image_id):
        return self.images[image_id].shape[:2]

    def tags(self, image_id):
        return self.labels[image_id]


@pytest.fixture(scope="module")
def classifier():
    network = build_classifier(ClassifierConfig.model_validate("tiny"), num_foreground=4, seed=1)
    torch.nn.init.normal_(network.scores.weight, std=1.0, generator=torch.Generator().manual_seed(0))
    return network.eval()


def test_maps_stay_on_the_device_of_the_images(classifier):
    network = for_inference(classifier, CPU)
    _readers.cache_clear()
    with FakeTensorMode(), torch.inference_mode(False):
        move(network)
        images = torch.empty(3, 3, 33, 45, dtype=torch.uint8, device="cuda")
        maps = normalise_by_maximum(multi_scale_maps(network, images, SCALES, True, 16)).half()
        assert (maps.device.type, tuple(maps.shape)) == ("cuda", (3, 4, 9, 12))
    _readers.cache_clear()  # it holds fakes


def maps_of(classifier, images, batch_size, scales=SCALES, flip=True):
    found = class_activation_maps(
        classifier, images, images.ids(), scales=scales, flip=flip, batch_size=batch_size, device=CPU
    )
    return {maps.image_id: maps for maps in found}


def reference_maps(classifier, image, tags, scales, flip):
    """One image, one pass at a time; each cell read from the network's map by scipy."""
    H, W = image.shape[:2]
    grid = np.mgrid[0:H:4, 0:W:4].astype(float)
    total = np.zeros((4, *grid.shape[1:]))
    pixels = normalise(torch.from_numpy(image.transpose(2, 0, 1).copy())[None])
    for scale in scales:
        h, w = round(H * scale), round(W * scale)
        scaled = F.interpolate(pixels, size=(h, w), mode="bilinear", align_corners=False, antialias=True)
        y = ((grid[0] + 0.5) * h / H - 0.5) / classifier.stride
        x = (grid[1] + 0.5) * w / W - 0.5
        for mirrored in {False: (False,), True: (False, True), "alone": (True,)}[flip]:
            with torch.no_grad():
                maps = classifier.activation_maps(scaled.flip(-1) if mirrored else scaled)[0].clamp(min=0).numpy()
            places = [y, ((w - 1 - x) if mirrored else x) / classifier.stride]
            total += [ndimage.map_coordinates(plane, places, order=1, mode="nearest") for plane in maps]
    chosen = total[[tag - 1 for tag in tags]]
    return chosen / (chosen.max(axis=(1, 2), keepdims=True) + 1e-5) if len(chosen) else chosen


@pytest.mark.parametrize("flip", [True, False])
def test_batched_maps_equal_one_image_and_one_pass_at_a_time(classifier, flip):
    images = Images()
    found = maps_of(classifier, images, batch_size=4, flip=flip)
    assert sorted(found) == images.ids()
    for image_id, maps in found.items():
        assert maps.scores.dtype == np.float16
        assert maps.classes.tolist() == list(images.tags(image_id))
        assert maps.size == images.size(image_id)
        expected = reference_maps(classifier, images.image(image_id), maps.classes, SCALES, flip)
        assert maps.scores.shape == expected.shape
        np.testing.assert_allclose(maps.scores, expected, atol=2e-3)
    assert max(maps.scores.max() for maps in found.values() if maps.scores.size) > 0.99


def test_of_maps_that_are_divided_by_their_maxima_the_highest_counts(classifier):
    """merge maximum (DRS): the highest of the maps of each scale and each mirror image, every one made alone."""
    images = Images()
    found = class_activation_maps(
        classifier, images, images.ids(), scales=SCALES, flip=True, merge="maximum", device=CPU
    )
    summed = maps_of(classifier, images, batch_size=16)
    for maps in found:
        image, tags = images.image(maps.image_id), maps.classes
        views = [(scale, flip) for scale in SCALES for flip in (False, "alone")]
        expected = np.max([reference_maps(classifier, image, tags, (scale,), flip) for scale, flip in views], axis=0)
        np.testing.assert_allclose(maps.scores, expected, atol=2e-3)
        assert not len(tags) or not np.allclose(maps.scores, summed[maps.image_id].scores, atol=2e-3)


@pytest.mark.parametrize("batch_size", [2, 16])
def test_the_batch_size_does_not_change_the_maps(classifier, batch_size):
    images = Images()
    alone, together = (maps_of(classifier, images, size) for size in (1, batch_size))
    for image_id in images.ids():
        np.testing.assert_allclose(together[image_id].scores, alone[image_id].scores, atol=1e-3)


@pytest.mark.parametrize("preset", ["tiny", "mobilenet_v2", "vgg16-sec", "resnet50"])
def test_the_copy_for_inference_has_no_batch_norm_and_the_same_maps(preset):
    config = ClassifierConfig.model_validate({"preset": preset, "weights": "none", "freeze_batch_norm": False})
    network = build_classifier(config, num_foreground=4, seed=0)
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    quick = for_inference(network, CPU)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in quick.modules())
    images = torch.randn(2, 3, 40, 48, generator=generator)
    with torch.no_grad():
        expected = network.eval().activation_maps(images)
        found = quick.activation_maps(images)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    torch.testing.assert_close(network.state_dict(), state, rtol=0, atol=0)


def test_a_backbone_without_a_layer_for_the_gradient_cue_is_one_clear_error():
    pytest.importorskip("timm")
    config = ClassifierConfig.model_validate({"backbone": "hrnet_w18_small", "freeze_batch_norm": False})
    network = build_classifier(config, num_foreground=4, seed=0).eval()
    images = Images(1)
    with pytest.raises(ConfigError, match="is not defined on hrnet_w18_small") as caught:
        next(gradient_ranks(network, images, images.ids(), device=CPU))
    assert caught.value.hint


def test_maps_of_the_mirrored_image_are_the_mirrored_maps(classifier):
    image = torch.from_numpy(Images().image("id0").transpose(2, 0, 1).copy())[None]
    assert image.shape[-1] % 4 == 1  # so that the grid of stride 4 is its own mirror image
    straight = multi_scale_maps(classifier, image, SCALES, True, 8)
    mirrored = multi_scale_maps(classifier, image.flip(-1), SCALES, True, 8)
    torch.testing.assert_close(mirrored.flip(-1), straight, rtol=1e-4, atol=1e-4)


def test_maps_that_are_means_are_scaled_from_their_minimum():
    network = build_seam_network(ClassifierConfig.model_validate("tiny"), 4, levels=None, seed=1).eval()
    torch.nn.init.normal_(network.scores.weight, std=1.0, generator=torch.Generator().manual_seed(0))
    images = Images(4)
    for image_id, maps in maps_of(for_inference(network, CPU), images, batch_size=2).items():
        divided = reference_maps(network, images.image(image_id), maps.classes, SCALES, flip=True)
        for found, divided_by_maximum in zip(maps.scores, divided, strict=True):
            least = divided_by_maximum.min()
            assert 0.1 < least < 0.9
            np.testing.assert_allclose(found, (divided_by_maximum - least) / (1 - least), atol=5e-3)


def test_each_map_is_divided_by_its_own_maximum():
    maps = torch.tensor([[[[2.0, 1.0]], [[0.0, 0.0]]]])
    found = normalise_by_maximum(maps)
    torch.testing.assert_close(found, torch.tensor([[[[1.0, 0.5]], [[0.0, 0.0]]]]), atol=1e-4, rtol=0)


def test_a_large_image_is_seen_as_a_reduced_copy_alone_and_its_maps_have_its_own_size(classifier):
    generator = np.random.default_rng(3)
    images = Images(6)
    for name in ("large", "larger"):
        small = generator.integers(0, 256, (6, 6, 3)).astype(np.float32)
        images.images[name] = ndimage.zoom(small, (20, 24, 1), order=1).clip(0, 255).astype(np.uint8)
        images.labels[name] = (1, 2, 3, 4)
    seen = []
    hook = classifier.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    options = {"scales": SCALES, "batch_size": 16, "device": CPU}
    limited = {
        m.image_id: m for m in class_activation_maps(classifier, images, images.ids(), max_pixels=5000, **options)
    }
    hook.remove()
    whole = {m.image_id: m for m in class_activation_maps(classifier, images, images.ids(), **options)}
    assert max(height * width for _, _, height, width in seen) <= 5000 * 1.5**2 * 1.02
    copies = Images(0)
    for image_id in images.ids():
        if image_id not in ("large", "larger"):
            np.testing.assert_array_equal(limited[image_id].scores, whole[image_id].scores)
            continue
        copy = Image.fromarray(images.images[image_id]).resize((77, 64), Image.Resampling.BILINEAR)
        copies.images[image_id], copies.labels[image_id] = np.asarray(copy), images.labels[image_id]
        (of_copy,) = class_activation_maps(classifier, copies, [image_id], **options)
        assert limited[image_id].size == (120, 144)
        assert limited[image_id].scores.shape == (4, 30, 36)
        for found, small in zip(limited[image_id].scores, resize_maps(of_copy.scores, (64, 77), 4), strict=True):
            expected = np.asarray(Image.fromarray(small).resize((144, 120), Image.Resampling.BILINEAR))[::4, ::4]
            assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.98
    ((_, rank),) = gradient_ranks(classifier, images, ["large"], max_pixels=5000, device=CPU)
    assert rank.shape == (120, 144)


@pytest.mark.parametrize("preset", ["tiny", "mobilenet_v2", "vgg16-sec", "resnet50"])
def test_gradient_ranks_are_shares_of_the_positions(preset):
    config = ClassifierConfig.model_validate({"preset": preset, "weights": "none", "freeze_batch_norm": False})
    network = build_classifier(config, num_foreground=4, seed=0).eval()
    images = Images(3 if preset == "tiny" else 1)
    ranks = dict(gradient_ranks(network, images, images.ids(), batch_size=4, device=CPU))
    assert sorted(ranks) == images.ids()
    for image_id, rank in ranks.items():
        assert rank.shape == images.size(image_id)
        assert rank.min() > 0
        assert rank.max() < 1
        assert 0.3 < rank.mean() < 0.7
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_gradient_of_vgg16_is_taken_before_the_relu_of_conv4_1():
    """As in SEC's code: 0 where the ReLU is 0, which works in place and must not come before the gradient."""
    config = ClassifierConfig.model_validate({"preset": "vgg16-sec", "weights": "none"})
    network = build_classifier(config, num_foreground=4, seed=0).eval()
    with torch.no_grad():
        network.backbone.features[17].bias.sub_(0.5)  # many of its outputs are negative
    images = torch.randn(1, 3, 41, 33, generator=torch.Generator().manual_seed(0))
    before, after = network.backbone.features[:17], network.backbone.features[18:]
    with torch.no_grad():
        outputs = torch.nn.functional.conv2d(
            before(images), network.backbone.features[17].weight, network.backbone.features[17].bias, padding=1
        )
    outputs.requires_grad_()
    scores = network.scores(network.extra(after(outputs.clone())).mean((2, 3), keepdim=True))
    (gradient,) = torch.autograd.grad(scores.sum(), outputs)
    assert (gradient[outputs < 0] == 0).all()
    layer = network.backbone.get_submodule(network.backbone.gradient_layer)
    found = gradient_magnitudes(network, layer, images)
    torch.testing.assert_close(found, gradient.abs().amax(1))
    assert found.shape == (1, 6, 5)  # stride 8


def test_gradient_ranks_order_the_positions_by_finite_differences(classifier):
    """The rank of a position rises with how much the scores move when the layer's output there is changed."""
    drawn = Images(1)
    ((_, rank),) = gradient_ranks(classifier, drawn, ["id0"], device=CPU)
    images = normalise(torch.from_numpy(drawn.image("id0").transpose(2, 0, 1).copy())[None])
    layer = classifier.backbone.stage8
    with torch.no_grad():
        output = layer(classifier.backbone.stem(images))  # (1, C, h, w)
        _, C, h, w = output.shape
        steps = 1e-2 * torch.eye(C * h * w).view(-1, C, h, w)

        def scores(changed):
            hook = layer.register_forward_hook(lambda *_: changed)
            try:
                return classifier(images).double().sum(dim=1)
            finally:
                hook.remove()

        slopes = (scores(output + steps) - scores(output - steps)).view(C, h, w) / 2e-2
    smooth = ndimage.median_filter(slopes.abs().amax(dim=0).numpy(), size=3)
    correlation = np.corrcoef(smooth.ravel().argsort().argsort(), rank[::8, ::8].ravel())[0, 1]
    assert correlation > 0.95
