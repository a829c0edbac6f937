"""What fixmatch, unimatch and unimatch-v2 have in common."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from stages.methods import METHODS

METHODS_HERE = ("fixmatch", "unimatch", "unimatch-v2")
UNSUPERVISED = {
    "fixmatch": ["strong"],
    "unimatch": ["strong_1", "strong_2", "features"],
    "unimatch-v2": ["strong_1", "strong_2"],
}
BATCH_NORM = {"preset": "tiny", "dropout": 0.0, "head_channels": 16, "head_norm": "batch"}
NO_BOX = {"style": "french", "share": (1e-9, 1e-9)}


@pytest.fixture(params=METHODS_HERE)
def name(request):
    return request.param


def test_the_weight_shares_the_loss_out(name, case):
    half, tenth = case(name, threshold=0.0).losses(), case(name, threshold=0.0, weight=0.1).losses()
    assert set(half) == {"supervised", *UNSUPERVISED[name]}
    torch.testing.assert_close(tenth["supervised"], half["supervised"] * 0.9 / 0.5)
    for term in UNSUPERVISED[name]:
        torch.testing.assert_close(tenth[term], half[term] * 0.1 / 0.5)


def test_a_threshold_above_1_teaches_nothing_and_is_not_nan(name, case):
    made = case(name)
    made.method.settings = made.method.settings.model_copy(update={"threshold": 1.01})
    losses = made.losses()
    assert all(losses[term].item() == 0 for term in UNSUPERVISED[name])
    gradients = made.gradients(*UNSUPERVISED[name])
    assert all(gradient is None or (gradient == 0).all() for gradient in gradients.values())


@pytest.mark.parametrize("value", [-0.1, 1.1])
@pytest.mark.parametrize("field", ["threshold", "weight"])
def test_shares_outside_0_and_1_are_refused(name, field, value):
    with pytest.raises(ValidationError, match=field):
        METHODS[name].model_validate({"name": name, field: value})


def test_the_published_values(name):
    settings = METHODS[name]()
    assert (settings.threshold, settings.weight, settings.mixing.style) == (0.95, 0.5, "unimatch")
    assert "0:" in METHODS[name].model_fields["threshold"].description  # fixmatch and unimatch on Cityscapes


def test_partners_differ_and_come_from_the_unlabelled_list(name, case):
    """The published code pairs two crops of one image."""
    made = case(name, batch_size=10)
    assert all(a != b for a, b in zip(made.batch["unlabelled"].ids, made.batch["partner"].ids, strict=True))
    assert set(made.batch["partner"].ids) <= {f"w{index}" for index in range(5)}


def test_views_depend_on_the_step(name, case):
    made = case(name, threshold=0.0)
    for term in UNSUPERVISED[name]:
        values = [made.method.losses(made.batch, step)[term] for step in (0, 1, 0)]
        assert values[0] == values[2] != values[1]


@pytest.mark.parametrize(("method", "passes"), [("fixmatch", 2), ("unimatch", 2), ("unimatch-v2", 2)])
def test_partners_and_teachers_leave_no_trace_in_batch_norm(method, passes, case):
    """Statistics come from the labelled, weak and strong passes of the student alone."""

    def statistics(spoilt):
        made = case(method, network=BATCH_NORM, mixing=NO_BOX)
        if spoilt:
            made.batch["partner"] = made.batch["partner"].replace(image=made.batch["partner"].image + 100)
        made.losses()
        return made.method.networks["segmenter"].head.block[1], made

    plain, made = statistics(spoilt=False)
    spoilt, _ = statistics(spoilt=True)
    assert plain.num_batches_tracked == passes
    assert plain.training
    assert torch.equal(plain.running_mean, spoilt.running_mean)
    assert torch.equal(plain.running_var, spoilt.running_var)
    if method == "unimatch-v2":
        teacher = made.method.networks["teacher"].network.head.block[1]
        assert not teacher.training
        assert teacher.num_batches_tracked == 0
