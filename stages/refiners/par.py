"""Pixel-adaptive refinement (PAR; Ru et al., CVPR 2022): score maps follow the colours of their image.

It needs no network, so it can take the place of the dense CRF. It is not equal to it.

    semiseg refine --method par
    semiseg refine --method par --seeds predictions
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from artifacts.score_maps import ScoreMap
from stages.engine.device import sent
from stages.engine.known import Known
from stages.engine.to_host import Transfer, received
from stages.localization.grid import reduced, reduced_size, resize_maps, resized
from stages.localization.pixel_adaptive import Neighbourhood, refined_maps
from stages.refiners.refiner import Refiner


class Par(Refiner):
    """M = A^n S,  a_ij = (softmax_j -mean_c ((I_jc - I_ic) / (w1 s_ic))^2 + w2 softmax_j -(d_ij / (w1 s))^2) / (1 + w2)

    S: the score maps; j: the neighbours of pixel i in eight directions, at the distances d (`dilations`); I_c: colours;
    s_i: their standard deviations over the neighbours, s: that of the distances; n: `iterations`.
    """

    @torch.inference_mode()
    def refine(self, batches: Iterable[Sequence[Known]]) -> Iterator[ScoreMap]:
        def computed() -> Iterator[tuple[tuple[Sequence[Known], Sequence[NDArray[np.uint8]]], Transfer]]:
            for batch in batches:
                chosen = [possible(known) for known in batch]
                yield (batch, [classes for classes, _ in chosen]), Transfer(maps=self.refined(batch, chosen))

        for (batch, several), arrays in received(computed()):
            size = batch[0].scores.size
            seen = reduced_size(size, self.settings.max_pixels)
            stride = max(size[0] // seen[0], 1)
            for known, classes, found in zip(batch, several, arrays["maps"], strict=True):
                maps = found[: len(classes)].clip(0, 1)
                if seen != size:  # one after the other: all at full size would need gigabytes
                    small = [resized(scores, size)[::stride, ::stride] for scores in maps]
                    maps = np.stack(small) if small else resize_maps(maps, size, stride)[:, ::stride, ::stride]
                yield ScoreMap(known.image_id, maps, classes, size, stride, "refined")

    def refined(self, batch: Sequence[Known], chosen: Sequence[tuple[NDArray[np.uint8], NDArray]]) -> Tensor:
        """(B, K, h, w) at the size (h, w) of the images, or of their reduced copies; K: the most maps of an image."""
        settings, device = self.settings, self.means.device
        seen = reduced_size(batch[0].scores.size, settings.max_pixels)
        maps = np.zeros((len(batch), max(len(classes) for classes, _ in chosen), *seen), np.float32)
        for own, known, (classes, scores) in zip(maps, batch, chosen, strict=True):
            own[: len(classes)] = resize_maps(scores, known.scores.size, known.scores.stride, seen)
        images = np.stack([reduced(known.image, settings.max_pixels) for known in batch]).transpose(0, 3, 1, 2)
        smaller = settings.scale * (batch[0].image.shape[0] / seen[0])
        dilations = tuple(sorted({max(round(dilation / smaller), 1) for dilation in settings.dilations}))
        around = Neighbourhood(dilations, settings.colour_width, settings.position_weight)
        return refined_maps(sent(images, device).float(), sent(maps, device), around, settings.iterations)


def possible(known: Known) -> tuple[NDArray[np.uint8], NDArray]:
    """The classes and score maps of an image that its labels allow; of a class that probabilities lack, zeros."""
    found = known.scores
    if found.meaning != "probability":
        return found.classes, found.scores
    classes = np.array([0, *known.classes], np.uint8)
    maps = np.zeros((len(classes), *found.scores.shape[1:]), np.float32)
    kept = np.isin(found.classes, classes)
    maps[np.searchsorted(classes, found.classes[kept])] = found.scores[kept]
    return classes, maps
