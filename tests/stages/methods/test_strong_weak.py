"""What fixmatch, unimatch and unimatch-v2 have in common."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from stages.methods import METHODS
from stages.methods.parts.strong_weak import PseudoLabels

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


def test_guidance_is_the_cross_entropy_of_each_view_with_estimated_masks_cut_as_its_images_are(name, case, monkeypatch):
    """Against the views themselves: what `taught` gets, and torch's cross-entropy over the pixels that are known."""
    seen = {}
    kind = type(case(name).method)
    taught = kind.taught

    def spy(self, views, threshold, step):
        seen.update(views)
        return taught(self, views, threshold, step)

    monkeypatch.setattr(kind, "taught", spy)
    made = case(name, batch_size=10, threshold=0.0, guidance={"weight": 0.4}, strong={"cutout": 1.0})
    found = made.losses()["guidance"]
    expected = torch.tensor(0.0)
    for view in seen.values():
        label, valid = view.samples.label, view.samples.valid
        assert ((label != 255) & valid).any()
        losses = torch.nn.functional.cross_entropy(
            view.logits, label.masked_fill(~valid, 255), ignore_index=255, reduction="sum"
        )
        expected = expected + view.share * losses / valid.sum()
    torch.testing.assert_close(found, 0.4 * expected)
    assert sum(view.share for view in seen.values()) == 1


def test_the_masks_of_a_view_are_those_of_its_images(name, case):
    """Without boxes and cutouts they are the estimated masks as the stream cuts them."""
    made = case(name, batch_size=10, guidance={"weight": 0.4}, mixing=NO_BOX)
    folder, stream = made.method, made.batch["unlabelled"]
    assert folder.settings.inputs() == ("weak_labels",)
    assert ((stream.label != 255) & stream.valid).any()
    assert (made.batch["partner"].label != 255).any()


def test_guidance_ends_at_the_last_step(name, case):
    made = case(name, guidance={"weight": 0.4})
    last = made.method.losses(made.batch, made.method.setup.iterations)["guidance"]
    assert last.item() == 0


def test_guidance_leaves_the_other_terms_as_they_are(name, case):
    plain, guided = case(name).losses(), case(name, guidance={"weight": 0.4}).losses()
    assert set(guided) == {*plain, "guidance"}
    assert all(torch.equal(plain[term], guided[term]) for term in plain)


def test_the_adaptive_threshold_follows_the_highest_confidence_of_the_classes(name, case):
    """By hand: classes 0 and 2 are there, with .9 and .5 as highest; 1 - .9 of the way from .8 to their mean."""
    made = case(name, threshold={"start": 0.8, "momentum": 0.9})
    label = torch.tensor([[[0, 0, 2, 2, 1]]])
    confidence = torch.tensor([[[0.9, 0.6, 0.5, 0.4, 0.99]]])
    valid = torch.tensor([[[True, True, True, True, False]]])
    labels = PseudoLabels(label, confidence)
    assert made.method.threshold(labels, valid).item() == pytest.approx(0.9 * 0.8 + 0.1 * 0.7)
    assert made.method.threshold(labels, valid).item() == pytest.approx(0.9 * 0.79 + 0.1 * 0.7)
    assert made.method.observed["threshold"].item() == pytest.approx(0.781)
    assert made.method.threshold(labels, valid & False).item() == pytest.approx(0.781)  # nothing is there: it stays


def test_an_adaptive_threshold_that_never_moves_teaches_like_a_fixed_one(name, case):
    fixed = case(name, threshold=0.3).losses()
    adaptive = case(name, threshold={"start": 0.3, "momentum": 1.0}).losses()
    for term in UNSUPERVISED[name]:
        torch.testing.assert_close(fixed[term], adaptive[term])
