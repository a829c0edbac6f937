"""CONTA (Zhang et al., NeurIPS 2020): a classifier is told the context that classes occur in, so it need not learn it.

Objects occur together, and in the same places. A classifier learns this context as if it were the object, and its maps
cover both. Here the context comes from outside: the mask that the segmenter of the round before predicted of the image
is compared with the mean mask of each class, and their weighted sum is joined to the features. The classifier makes the
masks of the next segmenter, and so on. The first round has no mask: its classifier is `cam`.

    semiseg train-classifier --method conta --predictions predictions --set network=resnet50 --set crop_size=512
    semiseg seeds --predictions predictions
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import torch
from torch import Tensor, nn

from artifacts.dataset import Dataset
from stages.engine.losses import multilabel_soft_margin
from stages.engine.method import Batch, Method, Setup, Sources
from stages.engine.streams import MaskFolder, Stream
from stages.localization.predicted_masks import fitting_mask
from stages.methods.settings.conta import ContaSettings
from stages.networks.context import ContextClassifier, ContextOptions, build_context_classifier, cell_shares

CHUNK = 256  # masks in memory at a time


class Conta(Method):
    """L = BCE(c(x, M), y),  M = sum_i a_i c_i / n,  a = softmax_i((W_1 m)^T (W_2 c_i) / sqrt(n))

    m: the predicted mask of image x, any object or none, on a grid; c_i: the mean of class i's predicted masks over the
    images with label i; W_1, W_2: learned; n: the number of classes; y: the image-level labels. M is one more channel
    of the backbone's last map.
    """

    def __init__(self, settings: ContaSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        options = ContextOptions(settings.side, settings.bias)
        network = build_context_classifier(setup.network, setup.num_classes - 1, options, setup.seed)
        self.networks = nn.ModuleDict({"classifier": network})

    @classmethod
    def streams(cls, settings: ContaSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        return {"labelled": Stream(sources.entries(sources.tagged, "predictions"), batch_size)}

    def start(self, sources: Sources) -> None:
        assert sources.dataset is not None
        masks = sources.folders["predictions"]
        means = mean_masks(masks, sources.dataset, sources.tagged, self.settings.side, self.setup.workers)
        self.predictor.confounders.copy_(means)

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        labelled = batch["labelled"]
        logits = self.predictor(labelled.image, labelled.label)
        return {"soft_margin": multilabel_soft_margin(logits, labelled.tags)}

    @property
    def predictor(self) -> ContextClassifier:
        return cast(ContextClassifier, self.networks["classifier"])


def mean_masks(masks: MaskFolder, dataset: Dataset, ids: Sequence[str], side: int, threads: int) -> Tensor:
    """The confounder set, (K, side, side): for each class the mean, over the images that have it as label, of the share
    of each cell that was predicted as the class. 0 for a class that no image has.
    """
    sums = torch.zeros(dataset.num_classes - 1, side, side, dtype=torch.float64)
    images = torch.zeros(len(sums), dtype=torch.float64)
    read = functools.partial(fitting_mask, masks, dataset)
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        for first in range(0, len(ids), CHUNK):
            chunk = ids[first : first + CHUNK]
            for image_id, mask in zip(chunk, pool.map(read, chunk), strict=True):
                for class_id in dataset.tags(image_id):
                    sums[class_id - 1] += cell_shares(torch.from_numpy(mask == class_id)[None], side)[0]
                    images[class_id - 1] += 1
    return (sums / images.clamp(min=1)[:, None, None]).float()
