"""A method with a small net without dropout, and batches of the drawn images for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.engine.batch import Batch, to_device
from stages.engine.method import Method, Setup
from stages.engine.streams import SampleMaker
from stages.methods import METHODS, load_method


@dataclass
class Case:
    """A method in train mode and the batches of one step."""

    method: Method
    batch: dict[str, Batch]

    def losses(self) -> dict[str, Tensor]:
        return self.method.losses(self.batch, 0)

    def gradients(self, *terms: str) -> dict[str, Tensor | None]:
        """Of the sum of the named terms (none: of all), by parameter."""
        self.method.networks.zero_grad(set_to_none=True)
        losses = self.losses()
        sum(losses[term] for term in terms or losses).backward()
        return {
            name: None if parameter.grad is None else parameter.grad.clone()
            for name, parameter in self.method.networks.named_parameters()
        }


@pytest.fixture
def case(training):
    """Builds a case: `case("cps", weight=0.5)`."""

    def build(name: str, batch_size: int = 4, seed: int = 0, network: Any = None, **settings: Any) -> Case:
        if name == "dmt":
            settings.setdefault("labelled_share", 0.25)  # its default is half an image of four
        if "image_labels" in METHODS[name].model_fields:
            settings.setdefault("image_labels", "ignore")  # as published
        small = {"preset": "tiny", "dropout": 0.0}
        if METHODS[name].card.output == "segmenter":
            small |= {"head_channels": 16, "neck_layers": 1, "neck_channels": 16}
        config = training.config({"name": name, **settings}, network=network or small, seed=seed)
        dataset = training.dataset
        kind = load_method(name)
        maker = SampleMaker(
            dataset,
            kind.streams(config.method, training.sources, batch_size),
            training.label_maps(kind, config.method),
            config.augmentation,
            config.crop_size,
            seed,
        )
        method = kind(config.method, Setup(config.network, dataset.num_classes, seed, config.iterations))
        method.start(training.sources)
        method.networks.train()
        for parameter in method.networks.parameters():  # scores that differ: fc8 starts at almost equal ones
            if parameter.ndim == 4 and parameter.shape[0] == dataset.num_classes:
                torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(parameter.shape[1]))
        batch = {name: to_device(sample, torch.device("cpu")) for name, sample in maker[0].items()}
        return Case(method, batch)

    return build
