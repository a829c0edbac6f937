"""stages/methods/cpc.py: what is particular to it, against loops and numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stages.engine.method import segment
from stages.engine.randomness import generator
from stages.methods.parts.cutmix import box_mask
from stages.methods.settings.cpc import CpcSettings

MIXED = pytest.mark.parametrize("mixed", [True, False])


def at_full_weight(case, **settings):
    return case("cpc", **{"weight": 1.0, "ramp": 0.0} | settings)


def halves_padded(made, names):
    """The upper half of the first and the left half of the second image of each stream become padding."""
    for name in names:
        valid = torch.ones_like(made.batch[name].valid)
        valid[0, :16], valid[1, :, :16] = False, False
        made.batch[name] = made.batch[name].replace(valid=valid)
    return made


def probabilities(made, name):
    networks = made.method.networks
    return [segment(networks[one], made.batch[name]).softmax(1).detach() for one in ("segmenter", "second")]


@pytest.mark.parametrize("ignoring", [True, False])
def test_the_consistency_is_torchs_mse_over_labelled_and_unlabelled_pixels(ignoring, case):
    made = halves_padded(at_full_weight(case, weight=2.0, ignore_padding=ignoring), ["strong", "unlabelled"])
    first, second = [], []
    for name in ("strong", "unlabelled"):
        counted = made.batch[name].valid if ignoring else torch.ones_like(made.batch[name].valid)
        for kept, one in zip((first, second), probabilities(made, name), strict=True):
            kept.append(one.movedim(1, -1)[counted])
    expected = 2 * F.mse_loss(torch.cat(first), torch.cat(second))
    assert expected > 1e-3
    losses = made.losses()
    for term in ("cpc_1", "cpc_2"):
        torch.testing.assert_close(losses[term].detach(), expected)


def test_with_cutmix_images_probabilities_and_padding_are_cut_with_the_same_boxes(case):
    """By hand, pixel by pixel, with padding in the same places of images that are then mixed."""
    made = halves_padded(at_full_weight(case, cutmix=True, reduction="sum"), ["unlabelled"])
    boxes = [box_mask(33, 33, 3, (0.25, 0.5), generator(0, "cutmix", 0, place, 0)) for place in range(2)]
    pair = made.batch["unlabelled"], made.batch["partner"]
    told = [[p.numpy() for p in probabilities(made, name)] for name in ("unlabelled", "partner")]
    image = pair[0].image.clone()
    for b, y, x in np.argwhere(np.stack(boxes)):
        image[b, :, y, x] = pair[1].image[b, :, y, x]
    mixed = pair[0].replace(image=image)
    found = [segment(made.method.networks[n], mixed).softmax(1).detach().numpy() for n in ("segmenter", "second")]
    totals, count = [0.0, 0.0], 0
    for b, y, x in np.ndindex(2, 33, 33):
        source = int(boxes[b][y, x])
        if pair[source].valid[b, y, x]:
            count += 1
            for learner in range(2):
                target = told[source][1 - learner][b, :, y, x]
                totals[learner] += float(np.square(found[learner][b, :, y, x] - target).sum())
    losses = made.losses()
    assert [losses["cpc_1"].item(), losses["cpc_2"].item()] == pytest.approx([t / count for t in totals], rel=1e-4)


@pytest.mark.parametrize(("share", "shown"), [(1e-9, "unlabelled"), (1.0, "partner")])
def test_no_box_is_no_cutmix_and_a_full_one_the_partners_loss(share, shown, case):
    """Probabilities and padding are those of the image that is seen; the partner's is padded elsewhere."""
    mixing = {"boxes": 1, "share": (share, share)}
    made = halves_padded(at_full_weight(case, cutmix=True, weight=2.0, mixing=mixing), ["unlabelled"])
    valid = torch.ones_like(made.batch["partner"].valid)
    valid[:, 20:] = False
    made.batch["partner"] = made.batch["partner"].replace(valid=valid)
    first, second = (one.movedim(1, -1)[made.batch[shown].valid] for one in probabilities(made, shown))
    expected, losses = 2 * F.mse_loss(first, second), made.losses()
    assert expected > 1e-3
    for term in ("cpc_1", "cpc_2"):
        torch.testing.assert_close(losses[term].detach(), expected)


@MIXED
def test_the_mean_over_classes_is_the_sum_divided_by_their_number(mixed, case):
    """A factor of 21 on VOC: the published weight of 100 belongs to the mean."""
    mean, total = (at_full_weight(case, cutmix=mixed, reduction=over).losses()["cpc_1"] for over in ("mean", "sum"))
    torch.testing.assert_close(total, 4 * mean)
    assert (CpcSettings().reduction, CpcSettings().weight, CpcSettings().cutmix) == ("mean", 100, False)


def test_the_ramp_starts_at_a_hundred_and_fiftieth_not_at_0(case):
    """Six iterations, half of them the ramp: exp(-5), exp(-5 4/9), exp(-5/9), 1."""
    made = at_full_weight(case, ramp=0.5)
    found = [made.method.losses(made.batch, step)["cpc_2"].item() for step in range(5)]
    shares = [math.exp(-5 * (1 - step / 3) ** 2) for step in range(3)] + [1, 1]
    assert found == pytest.approx([found[-1] * share for share in shares], rel=1e-5)


@MIXED
def test_swapped_networks_swap_the_losses(mixed, case):
    made = at_full_weight(case, cutmix=mixed)
    before = made.losses()
    networks = made.method.networks
    networks["segmenter"], networks["second"] = networks["second"], networks["segmenter"]
    after = made.losses()
    assert before["supervised_1"] != before["supervised_2"]
    for term in ("supervised", "cpc"):
        torch.testing.assert_close(after[f"{term}_1"], before[f"{term}_2"])
        torch.testing.assert_close(after[f"{term}_2"], before[f"{term}_1"])


@MIXED
def test_targets_pass_no_gradient(mixed, case):
    made = at_full_weight(case, cutmix=mixed)
    for term, taught, other in (("cpc_1", "segmenter", "second"), ("cpc_2", "second", "segmenter")):
        gradients = made.gradients(term)
        assert all(gradients[n] is None for n in gradients if n.startswith(f"{other}."))
        assert any(g is not None and g.abs().sum() > 0 for n, g in gradients.items() if n.startswith(f"{taught}."))


@pytest.mark.parametrize(("mixed", "seen"), [(True, 4), (False, 2)])
def test_batch_norm_sees_labelled_and_unlabelled_images(mixed, seen, case):
    """With CutMix each network also labels both images in train mode, as in the authors' code of CPS."""
    network = {"preset": "tiny", "backbone": "mobilenet_v2", "freeze_batch_norm": False, "head_channels": 8}
    made = case("cpc", cutmix=mixed, network=network)
    made.losses()
    counts = {int(value) for name, value in made.method.networks.named_buffers() if name.endswith("tracked")}
    assert counts == {seen}


def test_the_first_network_is_evaluated(case):
    method = case("cpc").method
    assert method.predictor is method.networks["segmenter"]
