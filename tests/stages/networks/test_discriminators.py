"""stages/networks/discriminators.py: published sizes, small crops, what each layer is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stages.networks.discriminators import (
    Convolution,
    FlawDetector,
    HalfBatchNorm,
    ImageDiscriminator,
    PixelDiscriminator,
)

PUBLISHED = (64, 128, 256, 512)


def sizes_of_maps(network, *inputs):
    """The sides of the maps after each convolution."""
    sides = []
    for layer in network.modules():
        if isinstance(layer, Convolution):
            layer.register_forward_hook(lambda _layer, _inputs, output: sides.append(output.shape[-1]))
    network(*inputs)
    return sides


def test_maps_have_the_published_sizes():
    """321 pixels through k4 s2 p1: 160, 80, 40, 20, 10; s4GAN pools its 20 x 20 maps."""
    maps, image = torch.rand(1, 4, 321, 321), torch.rand(1, 3, 321, 321)
    assert sizes_of_maps(PixelDiscriminator(4, (2, 2, 2, 2)), maps) == [160, 80, 40, 20, 10]
    assert sizes_of_maps(ImageDiscriminator(4, (2, 2, 2, 2), 0.5), maps, image) == [160, 80, 40, 20]
    flaws = sizes_of_maps(FlawDetector(4, (2, 2, 2, 2)), image, maps)
    assert flaws == [160, 80, 80, 40, 40, 20, 20, 10]


def test_layers_have_the_published_weights():
    """Shapes of the authors' networks for 21 classes."""
    shapes = [tuple(p.shape) for n, p in PixelDiscriminator(21, PUBLISHED).named_parameters() if n.endswith("weight")]
    assert shapes == [(64, 21, 4, 4), (128, 64, 4, 4), (256, 128, 4, 4), (512, 256, 4, 4), (1, 512, 4, 4)]
    image = ImageDiscriminator(21, PUBLISHED, 0.5)
    assert image.features[0].weight.shape == (64, 24, 4, 4)
    assert image.score.weight.shape == (1, 512)
    order = [type(layer).__name__ for layer in image.features]
    assert order == [*["Convolution", "LeakyReLU", "Dropout2d"] * 3, "Convolution", "LeakyReLU"]
    detector = FlawDetector(21, PUBLISHED)
    convolutions = [layer for layer in detector.modules() if isinstance(layer, Convolution)]
    assert [layer.out_channels for layer in convolutions] == [64, 128, 128, 256, 256, 512, 512, 1]
    assert [layer.stride[0] for layer in convolutions] == [2, 2, 1, 2, 1, 2, 1, 2]
    assert convolutions[0].in_channels == 24


@pytest.mark.parametrize("side", [16, 17, 33, 64])
def test_small_crops_keep_at_least_a_cell(side):
    """With 33 pixels and less the published layers would end in maps of size 0."""
    maps, image = torch.rand(2, 4, side, side + 3), torch.rand(2, 3, side, side + 3)
    assert PixelDiscriminator(4, (4, 4, 4, 4))(maps).shape == (2, 1, side, side + 3)
    scores, features = ImageDiscriminator(4, (4, 4, 4, 6), 0.5)(maps, image)
    assert (scores.shape, features.shape) == ((2,), (2, 6))
    flaws = FlawDetector(4, (4, 4, 4, 4))(image, maps)
    assert flaws.shape == (2, 1, side, side + 3)
    assert torch.isfinite(flaws).all()


def test_a_convolution_is_torchs_where_maps_are_large_enough():
    layer = Convolution(3, 2)
    for size in ((8, 11), (2, 3)):
        x = torch.rand(1, 3, *size)
        expected = F.conv2d(x, layer.weight, layer.bias, stride=2, padding=1)
        torch.testing.assert_close(layer(x), expected)
    assert layer(torch.rand(1, 3, 1, 1)).shape == (1, 2, 1, 1)
    assert Convolution(3, 2, stride=1)(torch.rand(1, 3, 1, 5)).shape == (1, 2, 1, 5)


def test_half_of_the_channels_have_batch_norm_the_others_instance_norm():
    norm, x = HalfBatchNorm(5), torch.randn(3, 5, 4, 6) * 2 + 1
    expected = torch.cat([nn.BatchNorm2d(2)(x[:, :2]), nn.InstanceNorm2d(3)(x[:, 2:])], 1)
    torch.testing.assert_close(norm(x), expected)
    assert sum(parameter.numel() for parameter in norm.parameters()) == 4
