"""stages/methods/cps.py: what is particular to it, against loops and numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stages.engine.method import Setup, segment
from stages.engine.randomness import generator
from stages.methods.cps import Cps
from stages.methods.parts.cutmix import box_mask
from stages.methods.settings.cps import CpsSettings
from stages.networks.config import NetworkConfig


def swap(made):
    networks = made.method.networks
    networks["segmenter"], networks["second"] = networks["second"], networks["segmenter"]


@pytest.mark.parametrize("mixed", [True, False])
def test_swapped_networks_swap_the_losses(mixed, case):
    made = case("cps", cutmix=mixed)
    before = made.losses()
    swap(made)
    after = made.losses()
    assert before["supervised_1"] != before["supervised_2"]
    for term in ("supervised", "cps"):
        torch.testing.assert_close(after[f"{term}_1"], before[f"{term}_2"])
        torch.testing.assert_close(after[f"{term}_2"], before[f"{term}_1"])


@pytest.mark.parametrize("mixed", [True, False])
def test_labels_pass_no_gradient(mixed, case):
    """cps_1 teaches network 1 alone: network 2, which gave the labels, gets no gradient from it."""
    made = case("cps", cutmix=mixed)
    for term, taught, teacher in (("cps_1", "segmenter", "second"), ("cps_2", "second", "segmenter")):
        gradients = made.gradients(term)
        assert all(gradients[n] is None for n in gradients if n.startswith(f"{teacher}."))
        assert any(g is not None and g.abs().sum() > 0 for n, g in gradients.items() if n.startswith(f"{taught}."))


def plain_cps(made, samples, weight):
    """CE of network 1 on network 2's argmax over the valid pixels of one batch, and the other way round."""
    first, second = (segment(made.method.networks[name], samples) for name in ("segmenter", "second"))
    labels = [logits.argmax(1).masked_fill(~samples.valid, 255) for logits in (second, first)]
    return [
        weight * F.cross_entropy(logits, label, ignore_index=255)
        for logits, label in zip((first, second), labels, strict=True)
    ]


@pytest.mark.parametrize(("share", "shown"), [(1e-9, "unlabelled"), (1.0, "partner")])
def test_cutmix_with_no_box_is_none_and_with_a_full_one_the_partners_loss(share, shown, case):
    made = case("cps", weight=0.8, mixing={"boxes": 1, "share": (share, share)})
    losses = made.losses()
    for term, expected in zip(("cps_1", "cps_2"), plain_cps(made, made.batch[shown], 0.8), strict=True):
        torch.testing.assert_close(losses[term], expected)


@pytest.mark.parametrize("ignoring", [True, False])
def test_images_labels_and_padding_are_cut_with_the_same_boxes(ignoring, case):
    """Mixed by hand, pixel by pixel; torch's mean over the pixels that are valid in the image they come from."""
    made = case("cps", weight=1.0, ignore_padding=ignoring)
    pair = made.batch["unlabelled"], made.batch["partner"]
    boxes = [box_mask(33, 33, 3, (0.25, 0.5), generator(0, "cutmix", 0, index, 0)) for index in range(2)]
    first, second = made.method.networks["segmenter"], made.method.networks["second"]
    votes = [[segment(network, samples).argmax(1).numpy() for samples in pair] for network in (first, second)]
    images, valid = [samples.image.numpy() for samples in pair], [samples.valid.numpy() for samples in pair]
    image, labels = images[0].copy(), [vote[0].copy() for vote in votes]
    invalid = 0
    for b, y, x in np.ndindex(2, 33, 33):
        source = int(boxes[b][y, x])
        image[b, :, y, x] = images[source][b, :, y, x]
        for label, vote in zip(labels, votes, strict=True):
            label[b, y, x] = vote[source][b, y, x]
            if ignoring and not valid[source][b, y, x]:
                label[b, y, x] = 255
                invalid += 1
    assert (invalid > 0) == ignoring
    losses, mixed = made.losses(), pair[0].replace(image=torch.from_numpy(image))
    for term, network, label in (("cps_1", first, labels[1]), ("cps_2", second, labels[0])):
        expected = F.cross_entropy(segment(network, mixed), torch.from_numpy(label), ignore_index=255)
        torch.testing.assert_close(losses[term], expected)


def test_without_cutmix_labelled_images_take_part(case):
    made = case("cps", cutmix=False, weight=1.0)
    labelled, unlabelled = made.batch["strong"], made.batch["unlabelled"]
    joined = labelled.replace(
        image=torch.cat([labelled.image, unlabelled.image]), valid=torch.cat([labelled.valid, unlabelled.valid])
    )
    losses = made.losses()
    for term, expected in zip(("cps_1", "cps_2"), plain_cps(made, joined, 1.0), strict=True):
        torch.testing.assert_close(losses[term], expected, rtol=1e-5, atol=1e-6)


def test_the_weight_scales_the_cross_terms(case):
    one, three = case("cps", weight=1.0).losses(), case("cps", weight=3.0).losses()
    for term in ("cps_1", "cps_2"):
        torch.testing.assert_close(three[term], 3 * one[term])
    torch.testing.assert_close(three["supervised_1"], one["supervised_1"])


def test_partners_differ_and_come_from_the_unlabelled_list(case):
    made = case("cps", batch_size=10)
    assert all(a != b for a, b in zip(made.batch["unlabelled"].ids, made.batch["partner"].ids, strict=True))
    assert set(made.batch["partner"].ids) <= {f"w{index}" for index in range(5)}


def test_boxes_depend_on_the_step(case):
    made = case("cps")
    losses = [made.method.losses(made.batch, step)["cps_1"] for step in (0, 1, 0)]
    assert losses[0] == losses[2] != losses[1]


@pytest.mark.parametrize("initial", [False, True])
def test_the_networks_start_with_different_heads(initial):
    """Also from given weights: equal networks would agree for ever."""
    network = NetworkConfig.model_validate({"preset": "tiny", "dropout": 0.0})
    setup = Setup(network, 4, seed=0, iterations=1)
    if initial:
        given = {name: value + 1 for name, value in setup.segmenter().state_dict().items()}
        setup = Setup(network, 4, seed=0, iterations=1, initial=given)
    networks = Cps(CpsSettings(), setup).networks
    first, second = networks["segmenter"].state_dict(), networks["second"].state_dict()
    assert not torch.equal(first["head.scores.weight"], second["head.scores.weight"])
    if initial:
        assert all(torch.equal(first[name], given[name]) for name in first)
        assert all(torch.equal(second[n], given[n]) for n in second if not n.startswith("head."))
