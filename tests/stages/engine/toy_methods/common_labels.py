"""A toy: groups of images that share labels, and a loss on each group."""

from __future__ import annotations

from collections.abc import Mapping

from stages.methods.settings.common_labels import CommonLabelsSettings
from torch import Tensor, nn

from stages.engine.losses import multilabel_soft_margin
from stages.engine.method import Batch, Method, Setup, Sources
from stages.engine.streams import Stream


class CommonLabels(Method):
    def __init__(self, settings: CommonLabelsSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.networks = nn.ModuleDict({"classifier": setup.classifier()})

    @classmethod
    def streams(cls, settings: CommonLabelsSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        entries = sources.entries(sources.tagged, None)
        return {"labelled": Stream(entries, batch_size // settings.group, group=settings.group, alike="tags")}

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        labelled = batch["labelled"]
        logits = self.predictor(labelled.image)  # (B, K)
        groups = (-1, labelled.group)
        common = labelled.tags.unflatten(0, groups).amin(1)  # (groups, K)
        return {
            "single": multilabel_soft_margin(logits, labelled.tags),
            "group": multilabel_soft_margin(logits.unflatten(0, groups).mean(1), common),
        }

    @property
    def predictor(self) -> nn.Module:
        return self.networks["classifier"]
