"""Puzzle-CAM (Jo & Yu, ICIP 2021): the class-activation maps of tiles, joined, agree with those of the whole image.

On a quarter of an image a network finds more of an object than on the whole image, where the most discriminative part
is enough. The loss makes both maps equal, and each of them classify.

    semiseg train-classifier --method puzzle-cam --set network=resnet50 --set crop_size=512
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn

from artifacts.errors import ConfigError
from stages.engine.distributed import global_mean
from stages.engine.losses import multilabel_soft_margin
from stages.engine.method import Batch, Method, Setup, Sources
from stages.engine.streams import Stream
from stages.methods.settings.puzzle_cam import PuzzleCamSettings
from stages.networks import Classifier


class PuzzleCam(Method):
    """L = BCE(GAP(A), y) + BCE(GAP(A_re), y) + alpha(t) mean |A - A_re| y

    A: the class-activation maps of the image before any ReLU, (B, K, h, w); A_re: those of its tiles, put together;
    y: the image-level labels; alpha: linear from 0 to `weight` over the first half.
    """

    def __init__(self, settings: PuzzleCamSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.networks = nn.ModuleDict({"classifier": setup.classifier()})

    @classmethod
    def streams(cls, settings: PuzzleCamSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        return {"labelled": Stream(sources.entries(sources.tagged, None), batch_size)}

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        labelled, tiles = batch["labelled"], self.settings.tiles
        self._check_size(labelled.image)
        whole = self.predictor.activation_maps(labelled.image).float()
        parts = self.predictor.activation_maps(cut_into_tiles(labelled.image, tiles)).float()
        merged = merge_tiles(parts, tiles)
        terms = {
            "whole": multilabel_soft_margin(whole.mean((2, 3)), labelled.tags),
            "tiles": multilabel_soft_margin(merged.mean((2, 3)), labelled.tags),
        }
        difference = (whole - merged).abs() * labelled.tags[:, :, None, None]
        return terms | {"reconstruction": self.weight(step) * global_mean(difference.sum(), difference.numel())}

    def weight(self, step: int) -> float:
        """alpha(t): linear from 0 to `weight` over the share `ramp` of the iterations."""
        length = self.settings.ramp * self.setup.iterations
        return self.settings.weight * (min(step / length, 1.0) if length else 1.0)

    def _check_size(self, image: Tensor) -> None:
        """ConfigError unless a tile is a whole number of cells wide, so that its cells coincide with the image's."""
        cells = self.settings.tiles * self.predictor.stride
        if image.shape[-1] % cells:
            fitting = round(image.shape[-1] / cells) * cells or cells
            raise ConfigError(
                f"method puzzle-cam: crop_size {image.shape[-1]} is not {self.settings.tiles} tiles of whole cells, "
                f"of {self.predictor.stride} pixels each",
                f"use a multiple of {cells}: crop_size {fitting}",
            )

    @property
    def predictor(self) -> Classifier:
        return cast(Classifier, self.networks["classifier"])


def cut_into_tiles(images: Tensor, tiles: int) -> Tensor:
    """(B, C, H, W) -> (tiles^2 B, C, H / tiles, W / tiles): the tiles of each image row by row, image after image."""
    batch, channels, height, width = images.shape
    rows, columns = height // tiles, width // tiles
    cut = images.reshape(batch, channels, tiles, rows, tiles, columns).permute(0, 2, 4, 1, 3, 5)
    return cut.reshape(-1, channels, rows, columns)


def merge_tiles(parts: Tensor, tiles: int) -> Tensor:
    """(tiles^2 B, K, h, w) in the order of `cut_into_tiles` -> (B, K, tiles h, tiles w)."""
    count, channels, rows, columns = parts.shape
    grid = parts.reshape(count // tiles**2, tiles, tiles, channels, rows, columns).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(-1, channels, tiles * rows, tiles * columns)
