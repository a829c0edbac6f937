"""A toy: a network that regresses the score maps of its images, cell by cell."""

from __future__ import annotations

from collections.abc import Mapping

from stages.methods.settings.map_regression import MapRegressionSettings
from torch import Tensor, nn

from stages.engine.distributed import global_mean
from stages.engine.method import Batch, Method, Setup, Sources
from stages.engine.streams import MapSource, Stream

PADDING = -1.0


class MapRegression(Method):
    def __init__(self, settings: MapRegressionSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.networks = nn.ModuleDict({"segmenter": setup.segmenter()})

    @classmethod
    def streams(cls, settings: MapRegressionSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        ids = [*sources.strong, *sources.weak]
        return {"images": Stream(sources.entries(ids, None), batch_size, maps=MapSource("seeds", padding=PADDING))}

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        images = batch["images"]
        scores = self.predictor(images.image).float().sigmoid()  # (B, C, h, w)
        known = images.maps != PADDING
        return {"regression": global_mean(((scores - images.maps) ** 2)[known].sum(), known.sum())}
