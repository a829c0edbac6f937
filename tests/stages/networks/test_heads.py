from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stages.networks.blocks import upsample
from stages.networks.config import NetworkConfig
from stages.networks.heads import AtrousBranch, AtrousSum, build_head, on_cells


def _head(config: dict[str, Any], channels: tuple[int, int] = (8, 16), classes: int = 5) -> nn.Module:
    torch.manual_seed(0)
    return build_head(NetworkConfig.model_validate({"head_channels": 12, **config}), channels, 4, classes)


def _features(size: tuple[int, int] = (6, 9), batch: int = 2) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {"low": torch.randn(batch, 8, size[0] * 4 - 3, size[1] * 4 - 1), "high": torch.randn(batch, 16, *size)}


def test_aspp_is_the_sum_of_its_branches_written_out() -> None:
    """DeepLab on VGG16: fc6 3x3 dilated, ReLU, fc7 1x1, ReLU, fc8 1x1, summed over the rates."""
    head = _head({"head": "aspp", "atrous_rates": [1, 3]}).eval()
    features = _features()
    expected = torch.zeros(2, 5, 6, 9)
    for rate, branch in zip((1, 3), head.branches, strict=True):  # type: ignore[arg-type]
        x = F.conv2d(features["high"], branch.fc6.weight, branch.fc6.bias, padding=rate, dilation=rate).clamp_min(0)
        x = F.conv2d(x, branch.fc7.weight, branch.fc7.bias).clamp_min(0)
        expected = expected + F.conv2d(x, branch.fc8.weight, branch.fc8.bias)
    torch.testing.assert_close(head(features), expected)


def test_largefov_is_aspp_with_one_branch_of_rate_12() -> None:
    head = _head({"backbone": "vgg16", "head": "largefov", "output_stride": 8})
    assert isinstance(head, AtrousSum)
    (branch,) = head.branches
    assert isinstance(branch, AtrousBranch)
    assert branch.fc6.dilation == (12, 12)


def test_deeplabv2_branches_are_single_convolutions() -> None:
    """DeepLabv2 on ResNet101: 4 x (2048 x 21 x 3 x 3 + 21) parameters."""
    config = NetworkConfig.model_validate("deeplabv2-resnet101")
    head = build_head(config, (256, 2048), 2, 21)
    assert sum(p.numel() for p in head.parameters()) == 4 * (2048 * 21 * 9 + 21)


def test_deeplabv3plus_has_the_published_widths() -> None:
    """ASPP of 256 channels with rates 6, 12, 18 and image pooling, 48 low-level channels (DeepLabv3+, section 3)."""
    head = build_head(NetworkConfig.model_validate("deeplabv3plus-resnet50"), (256, 2048), 4, 21)
    norms = 2 * 256
    aspp = 2048 * 256 * (1 + 3 * 9 + 1) + 5 * norms + 5 * 256 * 256 + norms
    decoder = 256 * 48 + 2 * 48 + (256 + 48) * 256 * 9 + 256 * 256 * 9 + 2 * norms + 256 * 21 + 21
    assert sum(p.numel() for p in head.parameters()) == aspp + decoder
    dilations = sorted({m.dilation[0] for m in head.modules() if isinstance(m, nn.Conv2d)})
    assert dilations == [1, 6, 12, 18]


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("kind", ["largefov", "aspp", "deeplabv3plus", "fcn"])
def test_scores_have_the_stride_of_their_features(kind: str, norm: str) -> None:
    head = _head({"head": kind, "head_norm": norm})
    features = _features()
    stride = "low" if kind == "deeplabv3plus" else "high"
    logits = head(features)
    assert logits.shape == (2, 5, *features[stride].shape[2:])
    logits.sum().backward()
    assert all(p.grad is not None for p in head.parameters())


def test_upsampling_equals_align_corners_at_deeplabs_sizes() -> None:
    x = torch.randn(2, 3, 6, 4)
    expected = F.interpolate(x, size=(41, 25), mode="bilinear", align_corners=True)
    torch.testing.assert_close(upsample(x, (41, 25), 8), expected)


@pytest.mark.parametrize("size", [(41, 25), (48, 32), (44, 27)])
def test_upsampling_keeps_cell_i_on_pixel_stride_times_i(size: tuple[int, int]) -> None:
    """A loop over pixels: position p lies at p / 8 between its two cells, the last cell goes on to the edge."""
    x = torch.randn(1, 1, 6, 4)
    found = upsample(x, size, 8)
    assert found.shape == (1, 1, *size)
    for row in range(0, size[0], 3):
        for column in range(0, size[1], 3):
            top, left = row // 8, column // 8
            bottom, right = min(top + 1, 5), min(left + 1, 3)
            down, across = row / 8 - top, column / 8 - left
            value = (1 - down) * ((1 - across) * x[0, 0, top, left] + across * x[0, 0, top, right]) + down * (
                (1 - across) * x[0, 0, bottom, left] + across * x[0, 0, bottom, right]
            )
            torch.testing.assert_close(found[0, 0, row, column], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(42, 56), (33, 47), (29, 30)])
def test_a_patch_lies_in_the_middle_of_its_pixels(size: tuple[int, int]) -> None:
    """Cells of 14 pixels that hold the place of their middle: pixels between the first and the last have their own."""
    rows, columns = (-(-side // 14) for side in size)
    middle = torch.arange(14.0 * max(rows, columns)).view(-1, 14).mean(1)  # 6.5, 20.5, ...
    cells = torch.stack([middle[:rows, None].expand(rows, columns), middle[None, :columns].expand(rows, columns)])[None]
    found = upsample(cells, size, 14, patches=True)
    assert found.shape == (1, 2, *size)
    for axis, (side, count) in enumerate(zip(size, (rows, columns), strict=True)):
        places = torch.arange(float(side)).clamp(6.5, 14 * count - 7.5)
        profile = found[0, axis].movedim(axis, 0)[:, 0]
        torch.testing.assert_close(profile, places)
    pixels = torch.arange(float(size[0]))[:, None].expand(size)
    for row in range(rows):
        assert (on_cells(pixels, 14, patches=True)[row] == min(14 * row + 7, size[0] - 1)).all()
    assert on_cells(pixels, 14, patches=True).shape == on_cells(pixels, 14).shape == (rows, columns)
