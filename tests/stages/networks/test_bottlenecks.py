"""Our ResNets are torchvision's: names, order, initial values, and what they compute, to the bit."""

from __future__ import annotations

import pytest
import torch
import torchvision

from stages.networks.backbones import ResNet


def reference(name: str, output_stride: int, dilate: bool) -> torch.nn.Module:
    dilated = dilate and output_stride < 32
    net = getattr(torchvision.models, name)(
        weights=None, replace_stride_with_dilation=[False, dilated and output_stride == 8, dilated]
    )
    if not dilate:
        net.layer4[0].conv2.stride = net.layer4[0].downsample[0].stride = (1, 1)
    return net


CASES = [("resnet50", 8, True), ("resnet50", 16, True), ("resnet50", 16, False), ("resnet50", 32, True)]


@pytest.mark.parametrize(("name", "output_stride", "dilate"), [*CASES, ("resnet101", 8, True)])
def test_it_is_torchvisions_to_the_bit(name: str, output_stride: int, dilate: bool) -> None:
    torch.manual_seed(3)
    ours = ResNet(name, output_stride, dilate)
    after = torch.rand(1)
    torch.manual_seed(3)
    theirs = reference(name, output_stride, dilate)
    assert torch.equal(torch.rand(1), after)  # what is drawn next, heads for instance, is the same too
    expected = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    found = ours.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    image = torch.randn(1, 3, 49, 65)
    for training in (False, True):
        x = theirs.train(training).maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
        for layer in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
            x = layer(x)
        assert torch.equal(ours.train(training).levels(image)[-1], x)
