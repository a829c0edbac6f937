"""stages/methods/unimatch.py, term by term; what it shares with the others: test_strong_weak.py."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from stages.engine.method import at_size, segment
from stages.methods.parts.strong_weak import pseudo_labels, strong_mix

DEEPLAB = {"preset": "tiny", "head": "deeplabv3plus", "dropout": 0.0, "head_channels": 16}


def test_the_strong_terms_are_fixmatchs_for_two_views(case):
    """.5 (L_x + .25 L_s1 + .25 L_s2 + .5 L_fp): the first view has the colours and boxes of FixMatch's only one."""
    made, other = case("unimatch", threshold=0.4), case("fixmatch", threshold=0.4)
    losses, expected = made.losses(), other.losses()
    torch.testing.assert_close(losses["strong_1"], expected["strong"] / 0.5 * 0.125)
    torch.testing.assert_close(losses["supervised"], expected["supervised"])
    assert not torch.isclose(losses["strong_1"], losses["strong_2"], rtol=1e-3)


def test_the_second_view_by_hand(case):
    made = case("unimatch", threshold=0.0)
    network, settings = made.method.networks["segmenter"], made.method.settings
    pair = made.batch["unlabelled"], made.batch["partner"]
    pseudo = tuple(pseudo_labels(segment(network, samples)) for samples in pair)
    [(view, labels)] = strong_mix(pair, pseudo, settings.strong, settings.mixing, 0, 0, [1])
    label = labels.label.masked_fill(~view.valid, 255)
    expected = 0.125 * F.cross_entropy(segment(network, view), label, ignore_index=255)
    torch.testing.assert_close(made.losses()["strong_2"], expected)


def test_undropped_features_agree_with_their_own_labels(case):
    """No channel dropped: the loss of the weak view on its own argmax, .25 of the total."""
    made = case("unimatch", threshold=0.0, feature_dropout=0.0)
    samples = made.batch["unlabelled"]
    logits = segment(made.method.networks["segmenter"], samples)
    label = logits.argmax(1).masked_fill(~samples.valid, 255)
    torch.testing.assert_close(made.losses()["features"], 0.25 * F.cross_entropy(logits, label, ignore_index=255))


@pytest.mark.parametrize("network", [None, DEEPLAB])
def test_whole_channels_of_the_features_are_dropped(network, case):
    """Seen at the head: per image and channel all or nothing, about half, kept ones doubled; low and high apart."""
    made = case("unimatch", batch_size=8, threshold=0.0, network=network)
    segmenter, seen = made.method.networks["segmenter"], []
    segmenter.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    losses = made.losses()
    features = next(seen_ for seen_ in seen if len(seen_["high"]) == 12)  # labelled, unlabelled and perturbed
    patterns = []
    for level in features.values():
        plain, dropped = level[4:8], level[8:]
        kept = (dropped != 0).any((2, 3))
        assert torch.equal(dropped, plain * 2 * kept[:, :, None, None])
        alive = (plain != 0).any((2, 3))
        assert 0.3 < kept[alive].float().mean() < 0.7
        assert not torch.equal(kept[0], kept[1])
        patterns.append((kept[:, :16], alive[:, :16]))
    (kept_low, alive_low), (kept_high, alive_high) = patterns
    assert (kept_low != kept_high)[alive_low & alive_high].any()  # each level for itself
    logits = at_size(
        segmenter.head({name: level[8:] for name, level in features.items()}), made.batch["strong"], segmenter
    )
    own = pseudo_labels(segment(segmenter, made.batch["unlabelled"])).label.masked_fill(
        ~made.batch["unlabelled"].valid, 255
    )
    torch.testing.assert_close(losses["features"], 0.25 * F.cross_entropy(logits, own, ignore_index=255))


def test_a_head_with_batch_norm_sees_the_labelled_features_dropped_too(case):
    """As published: one pass of [x, u, x dropped, u dropped], by which BatchNorm normalises all four parts.

    Without the third part the supervised loss and its gradient are others.
    """
    made = case("unimatch", threshold=0.0, network=DEEPLAB | {"head_norm": "batch"})
    segmenter, seen = made.method.networks["segmenter"], []
    hook = segmenter.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    losses = made.losses()
    hook.remove()
    features = next(found for found in seen if len(found["high"]) == 8)
    for level in features.values():
        plain, dropped = level.split(4)  # labelled and unlabelled, two each
        kept = (dropped != 0).any((2, 3))
        assert torch.equal(dropped, plain * 2 * kept[:, :, None, None])
        assert len({tuple(row.tolist()) for row in kept}) == 4

    def supervised(places):
        chosen = {name: level[places].detach().requires_grad_() for name, level in features.items()}
        loss = 0.5 * F.cross_entropy(
            at_size(segmenter.head(chosen), made.batch["strong"], segmenter)[:2],
            made.batch["strong"].label,
            ignore_index=255,
        )
        return loss, torch.autograd.grad(loss, chosen["high"])[0][:2]

    published, gradient = supervised([0, 1, 2, 3, 4, 5, 6, 7])
    without, changed = supervised([0, 1, 2, 3, 6, 7])
    torch.testing.assert_close(losses["supervised"], published)
    assert abs(without - published) > 1e-3 * published
    assert (changed - gradient).norm() > 0.05 * gradient.norm()


def test_a_head_without_batch_norm_sees_no_more_than_it_must(case):
    made = case("unimatch", threshold=0.0, network=DEEPLAB)
    seen = []
    made.method.networks["segmenter"].head.register_forward_pre_hook(
        lambda module, inputs: seen.append(len(inputs[0]["high"]))
    )
    made.losses()
    assert sorted(seen) == [2, 4, 6]  # the partner; both strong views; labelled, unlabelled and perturbed


def test_labels_pass_no_gradient(case):
    """The feature term's gradient is that of a loss on constant labels."""
    made = case("unimatch", threshold=0.0, feature_dropout=0.0)
    found = made.gradients("features")
    network, samples = made.method.networks["segmenter"], made.batch["unlabelled"]
    with torch.no_grad():
        label = segment(network, samples).argmax(1).masked_fill(~samples.valid, 255)
    made.method.networks.zero_grad()
    (0.25 * F.cross_entropy(segment(network, samples), label, ignore_index=255)).backward()
    for name, parameter in made.method.networks.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_without_the_feature_stream_its_weight_goes_to_the_strong_views(case):
    half, none = case("unimatch").losses(), case("unimatch", feature_weight=0.0).losses()
    torch.testing.assert_close(none["strong_2"], 2 * half["strong_2"])
    assert none["features"].item() == 0
