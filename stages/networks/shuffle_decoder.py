"""The decoder of cross-consistency training: 1x1 convolutions and sub-pixel shuffles up to the size of the image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stages.networks.blocks import Features, initialise


class ShuffleDecoder(nn.Module):
    """1x1 conv to the classes, then [1x1 conv to 4 times the channels, ReLU, PixelShuffle x2] until stride 1.

    Ouali et al., CVPR 2020, and its code (sub-pixel convolution: Shi et al., CVPR 2016). ICNR: the four sub-pixels
    start with equal weights, so that a new decoder shows no checkerboard (Aitken et al., arXiv 1707.02937).
    """

    def __init__(self, channels: int, num_classes: int, stride: int) -> None:
        super().__init__()
        if stride < 2 or stride & (stride - 1):
            raise ValueError(f"stride {stride} is not a power of two")
        self.classes = nn.Conv2d(channels, num_classes, 1, bias=False)
        doublings = [nn.Conv2d(num_classes, 4 * num_classes, 1) for _ in range(stride.bit_length() - 1)]
        self.doublings = nn.ModuleList(doublings)
        initialise(self)
        with torch.no_grad():
            for layer in doublings:  # weight (4 C, C, 1, 1): rows 4 c to 4 c + 3 become the sub-pixels of class c
                layer.weight.copy_(layer.weight[::4].repeat_interleave(4, 0))

    def forward(self, features: Features) -> Tensor:
        """features["high"] (B, channels, h, w) -> logits (B, num_classes, h * stride, w * stride).

        The sub-pixels of cell i are around its centre, pixel stride * i (as in `upsample`): from stride / 2
        before it on. Behind the last cell they are a second one's.
        """
        height, width = features["high"].shape[-2:]
        x = self.classes(features["high"])
        x = torch.cat([x, x[..., -1:]], dim=3)
        x = torch.cat([x, x[..., -1:, :]], dim=2)
        for layer in self.doublings:
            x = nn.functional.pixel_shuffle(layer(x).relu(), 2)
        stride = 2 ** len(self.doublings)
        rows, columns = (slice(stride // 2, stride // 2 + stride * side) for side in (height, width))
        return x[..., rows, columns]
