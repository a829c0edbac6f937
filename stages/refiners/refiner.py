"""The contract of a refiner, which improves score maps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from artifacts.dataset import Dataset
from artifacts.score_maps import ScoreMap
from stages.contract import Progress
from stages.engine.device import sent
from stages.engine.known import Known
from stages.engine.method import Method
from stages.refiners.first_pass import Decided, Surveys


@dataclass(frozen=True)
class Means:
    """The resources of a refiner; none of them changes a result.

    Attributes:
        dtype: autocast type of networks (bf16), None for fp32.
        workers: CPU processes the refiner may use.
    """

    device: torch.device
    dtype: torch.dtype | None = None
    workers: int = 1

    def images(self, batch: Sequence[Known]) -> Tensor:
        """Images of one size, uint8 (B, 3, H, W) on the device."""
        return sent(np.stack([known.image for known in batch]).transpose(0, 3, 1, 2), self.device)


class Refiner:
    """Base of the refiners: a subclass implements `refine`."""

    training: ClassVar[type[Method] | None] = None
    """The method that trains its network, if it has one: its own method, or that of a different refiner."""

    def __init__(self, settings: Any, network: Any, means: Means) -> None:
        """network: the one trained by `train-refiner`, on the CPU, in eval mode; None without a training."""
        self.settings, self.network, self.means = settings, network, means
        self.decided: Decided | None = None
        """What `decide` found, for the settings with `whole_set`."""

    def start(self, dataset: Dataset, scores: Mapping[str, ScoreMap]) -> None:
        """Called once before the first image, for refiners that need something of the whole data set."""

    def survey(self, batches: Iterable[Sequence[Known]]) -> Iterator[tuple[str, dict[str, NDArray]]]:
        """What is to be known of each image before any is refined, with its id; batches are those of `refine`.

        Called first where the settings have `whole_set`. Arrays (n, ...) by name; n is the same for all of an image,
        the names, types and further axes are the same for all images. They are kept in files until the artifact is
        whole.
        """
        raise NotImplementedError  # every refiner whose settings have `whole_set` surveys

    def decide(self, surveys: Surveys, progress: Progress) -> tuple[dict[str, NDArray], dict[str, float]]:
        """From what was surveyed of all images: arrays by name, which `refine` finds as `self.decided`, and figures.

        One process decides for all, once; an interrupted run continues with it. The figures go into the summary.
        """
        raise NotImplementedError  # as `survey`

    def refine(self, batches: Iterable[Sequence[Known]]) -> Iterator[ScoreMap]:
        """The refined score maps, in the order of the images; images of one batch have equal sizes.

        Scores float32 (K, h, w) in 0..1, meaning "refined": of foreground classes alone if its settings are
        ForegroundRefinerSettings, otherwise with class 0, too.
        """
        raise NotImplementedError  # every refiner refines
