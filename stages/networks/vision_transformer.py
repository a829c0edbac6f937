"""DINOv2's vision transformers (timm's implementation) and DPT, the head that makes dense maps from their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artifacts.cells import cells
from stages.networks.blocks import Backbone, Features, initialise_scores, pad_to_multiples, upsample
from stages.networks.timm_models import create

PATCH = 14  # pixels a side
LEVELS = ("low", "level_2", "level_3", "high")  # names of the four maps, from the first to the last


class Architecture(NamedTuple):
    """A published transformer: timm's name, the blocks whose output is used, channels of DPT's four levels."""

    timm: str
    blocks: tuple[int, int, int, int]
    widths: tuple[int, int, int, int]


# blocks and widths: the code of UniMatch V2
ARCHITECTURES = {
    "dinov2_small": Architecture("vit_small_patch14_dinov2", (2, 5, 8, 11), (48, 96, 192, 384)),
    "dinov2_base": Architecture("vit_base_patch14_dinov2", (2, 5, 8, 11), (96, 192, 384, 768)),
    "dinov2_large": Architecture("vit_large_patch14_dinov2", (4, 11, 17, 23), (256, 512, 1024, 1024)),
}


class DinoV2(Backbone):
    """Four maps of one cell a patch, with the parameter names of timm and of DINOv2's own files.

    Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", TMLR 2024. Each map is the output of a
    block after the final LayerNorm, without the class token. Images are padded with zeros at the right and bottom to
    multiples of 14; the position embedding is resized to their grid. Cell i covers the pixels from 14 i to 14 i + 13:
    its centre is pixel 14 i + 6.5 (`patches`), which DPT takes into account; other heads do not, so they are an error.
    With `centred` (classifiers) images are also padded by half a patch at the left and top: cell i is centred on
    pixel 14 i, as in all other networks.
    """

    stride = PATCH
    low_stride = PATCH
    unused_prefixes = ("mask_token", "head.")  # for DINOv2's training alone; the classifier, after fine-tuning in timm

    cls_token: nn.Parameter
    pos_embed: nn.Parameter

    def __init__(self, name: str, blocks: Sequence[int], centred: bool = False, **changes: Any) -> None:
        """name: of timm; blocks: those whose output is used; changes: of timm's arguments (depth, embed_dim, ...)."""
        super().__init__()
        self.patches = not centred
        net: Any = create(name, num_classes=0, **changes)
        self.cls_token, self.pos_embed = net.cls_token, net.pos_embed
        self.patch_embed, self.blocks, self.norm = net.patch_embed, net.blocks, net.norm
        self.learned_side = round((net.pos_embed.shape[1] - 1) ** 0.5)
        self.taken = tuple(blocks)
        self.low_channels = self.high_channels = net.embed_dim
        self.level_channels = (net.embed_dim,) * len(self.taken)
        self.level_strides = (PATCH,) * len(self.taken)

    def forward(self, x: Tensor) -> Features:
        return dict(zip(LEVELS, self.levels(x), strict=True))

    def levels(self, x: Tensor) -> list[Tensor]:
        height, width = (cells(side, PATCH) for side in x.shape[-2:])
        x = pad_to_multiples(x, PATCH, before=0 if self.patches else PATCH // 2)
        patches = self.patch_embed.proj(x)  # (B, D, h, w)
        rows, columns = patches.shape[-2:]
        tokens = patches.flatten(2).transpose(1, 2) + self._positions(rows, columns)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(x.shape[0], -1, -1)
        tokens = torch.cat([first, tokens], dim=1)
        maps = []
        for number, block in enumerate(self.blocks):
            tokens = block(tokens)
            if number in self.taken:
                whole = self.norm(tokens)[:, 1:].transpose(1, 2)
                whole = whole.reshape(*whole.shape[:2], rows, columns)  # unflatten would fix the sizes in a trace
                maps.append(whole[..., :height, :width])
        return maps

    def _positions(self, rows: int, columns: int) -> Tensor:
        """The position embedding (1, rows x columns, D), resized from the square it was learned on."""
        learned = self.pos_embed[:, 1:]
        side = self.learned_side
        if (rows, columns) == (side, side):
            return learned
        square = learned.transpose(1, 2).unflatten(2, (side, side)).float()
        grid = F.interpolate(square, size=(rows, columns), mode="bicubic", antialias=True)
        return grid.flatten(2).transpose(1, 2)


def build_dinov2(name: str, centred: bool = False) -> DinoV2:
    """The backbone of a segmenter (centred: of a classifier), random weights from torch's global generator."""
    architecture = ARCHITECTURES[name]
    return DinoV2(architecture.timm, architecture.blocks, centred)


class ResidualUnit(nn.Module):
    """x + conv(relu(conv(relu(x)))), 3x3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class Fusion(nn.Module):
    """Fuses the coarser levels with this level: residual units and a 1x1 convolution."""

    def __init__(self, channels: int, coarser: bool = True) -> None:
        super().__init__()
        self.level = ResidualUnit(channels) if coarser else nn.Identity()
        self.both = ResidualUnit(channels)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, level: Tensor, coarser: Tensor | None = None) -> Tensor:
        x = self.level(level) if coarser is None else self.level(level) + coarser
        return self.project(self.both(x))


class DPT(nn.Module):
    """Ranftl et al., "Vision Transformers for Dense Prediction", ICCV 2021, in the form of UniMatch V2's code.

    The four maps become a pyramid of 4, 2, 1 and 1/2 cells a patch, fused from coarse to fine; logits are those of the
    pixels of the padded image, (B, num_classes, patch h, patch w). Each upsampling keeps the position of every
    cell: sub-cells are symmetric in their patch, and cell j of the strided convolution is centred on cell 2 j.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        widths: tuple[int, int, int, int],
        hidden: int,
        dropout: float,
        patch: int = PATCH,
    ) -> None:
        super().__init__()
        self.patch = patch
        first, second, _, fourth = widths
        self.projects = nn.ModuleList([nn.Conv2d(channels, width, 1) for width in widths])
        self.resizes = nn.ModuleList(
            [
                nn.ConvTranspose2d(first, first, 4, stride=4),
                nn.ConvTranspose2d(second, second, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(fourth, fourth, 3, stride=2, padding=1),
            ]
        )
        self.levels = nn.ModuleList([nn.Conv2d(width, hidden, 3, padding=1, bias=False) for width in widths])
        self.fusions = nn.ModuleList([Fusion(hidden, coarser=number < 3) for number in range(4)])
        self.block = nn.Sequential(nn.Conv2d(hidden, hidden, 3, padding=1), nn.ReLU(inplace=True))
        self.dropout = nn.Dropout(dropout)
        self.scores = nn.Conv2d(hidden, num_classes, 1)
        initialise_scores(self.scores)

    def forward(self, features: Features) -> Tensor:
        maps = [features[name] for name in LEVELS]
        rows, columns = maps[0].shape[-2:]
        parts = zip(maps, self.projects, self.resizes, self.levels, strict=True)
        levels = [level(resize(project(x))) for x, project, resize, level in parts]
        x = upsample(self.fusions[3](levels[3]), (rows, columns), 2)
        for number in (2, 1, 0):
            x = self.fusions[number](levels[number], x)
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        logits = self.scores(self.dropout(self.block(x)))  # 8 cells a patch and side
        size = (self.patch * rows, self.patch * columns)
        return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
