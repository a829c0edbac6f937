"""stages/methods/drs.py: the loss by torch's own, both forms, a short training whose maps seeds can read."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from stages.methods.settings.drs import DrsSettings


@pytest.mark.parametrize("delta", [None, 0.55])
def test_the_loss_is_the_soft_margin_of_the_suppressed_network(delta, case):
    made = case("drs", delta=delta)
    labelled, network = made.batch["labelled"], made.method.predictor
    assert {s.factor for s in network.suppressions} == {"learnable" if delta is None else delta}
    expected = F.multilabel_soft_margin_loss(network(labelled.image), labelled.tags)
    torch.testing.assert_close(made.losses(), {"soft_margin": expected})


def test_without_suppression_the_loss_is_another(case):
    torch.testing.assert_close(
        case("drs", delta=1.0).losses()["soft_margin"], case("drs", delta=1.0).losses()["soft_margin"]
    )
    assert case("drs", delta=1.0).losses()["soft_margin"] != case("drs", delta=0.3).losses()["soft_margin"]


@pytest.mark.parametrize("delta", [0.0, 1.5, -0.2])
def test_a_share_that_is_none_is_refused(delta):
    with pytest.raises(ValidationError, match="delta"):
        DrsSettings(delta=delta)
