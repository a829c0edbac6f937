"""Refiners on a GPU: the host waits for no batch before it queues the next one, and results are those of a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from artifacts.score_maps import ScoreMap
from stages.engine.known import Known
from stages.networks.affinity import build_affinity_network
from stages.networks.boundary import build_boundary_network
from stages.networks.config import ClassifierConfig
from stages.refiners.irn import Irn
from stages.refiners.par import Par, possible
from stages.refiners.psa import Psa
from stages.refiners.refiner import Means, Refiner
from stages.refiners.settings.irn import IrnSettings
from stages.refiners.settings.par import ParSettings
from stages.refiners.settings.psa import PsaSettings
from tests.stages.fake_gpu import FakeTensorMode, move
from tests.stages.refiners.small_refinement import blurred_scores, draw

TINY = ClassifierConfig.model_validate("tiny")


def known(index: int) -> Known:
    image, mask = draw(index)
    scores, classes = blurred_scores(mask, index)
    maps = ScoreMap(str(index), scores.astype(np.float32), classes, mask.shape, 4, "cam")
    return Known(str(index), image, tuple(classes.tolist()), maps)


def refiners(device: str) -> dict[str, Refiner]:
    means = Means(torch.device(device))
    return {
        "irn": Irn(IrnSettings(), build_boundary_network(TINY, seed=0), means),
        "psa": Psa(PsaSettings(radius=3), build_affinity_network(TINY, seed=0), means),
        "par": Par(ParSettings(), None, means),
    }


def computed(refiner: Refiner, batch: Sequence[Known]) -> list[Tensor]:
    """What the device computes of a batch."""
    if isinstance(refiner, Irn):
        return [refiner.boundaries(batch)]
    if isinstance(refiner, Psa):
        return list(refiner.affinities(batch).values())
    assert isinstance(refiner, Par)
    return [refiner.refined(batch, [possible(one) for one in batch])]


@pytest.mark.parametrize("name", ["irn", "psa", "par"])
def test_no_batch_makes_the_host_wait_for_a_gpu(name: str) -> None:
    refiner, batch = refiners("cpu")[name], [known(0), known(1)]
    expected = [values.shape for values in computed(refiner, batch)]
    refiner.means = Means(torch.device("cuda"))
    with FakeTensorMode(), torch.inference_mode(False):
        if refiner.network is not None:
            move(refiner.network)
        found = computed(refiner, batch)
        assert [values.shape for values in found] == expected
        assert {values.device.type for values in found} == {"cuda"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["irn", "psa", "par"])
def test_a_gpu_refines_as_a_cpu_does(name: str) -> None:
    batches = [[known(0), known(1)], [known(2)], [known(4)]]
    expected, found = (list(refiners(device)[name].refine(batches)) for device in ("cpu", "cuda"))
    assert [maps.image_id for maps in found] == ["0", "1", "2", "4"]
    for own, maps in zip(expected, found, strict=True):
        assert np.abs(own.scores - maps.scores).max() < 0.01  # convolutions of a GPU round to TF32
