"""stages/methods/dsrg.py: the losses by hand-worked numbers and plain loops, and what a step trains on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from stages.engine.method import segment
from stages.localization.crf_parameters import named_parameters
from stages.localization.dense_crf import crf_batch
from stages.localization.region_growing import grow_batch
from stages.methods import dsrg
from stages.methods.dsrg import boundary_loss, expansion_loss, seed_loss


def maps(*cells):
    """Probabilities (1, C, 1, n) from one list per cell."""
    return torch.tensor(cells).T[None, :, None]


H = maps([0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.2, 0.3, 0.5], [0.25, 0.5, 0.25])


def test_balanced_seed_loss_by_hand():
    """Seeds 0, 1, 2 and one unknown: -log .5, and the mean over both foreground seeds of -log .8, -log .5."""
    seeds = torch.tensor([[[0, 1, 2, 255]]])
    expected = -math.log(0.5) - (math.log(0.8) + math.log(0.5)) / 2
    assert seed_loss(H, seeds).item() == pytest.approx(expected, rel=1e-6)


def test_seed_loss_of_sec_divides_by_all_seeds():
    seeds = torch.tensor([[[0, 1, 2, 255]]])
    expected = -(math.log(0.5) + math.log(0.8) + math.log(0.5)) / 3
    assert seed_loss(H, seeds, balanced=False).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("balanced", [True, False])
def test_an_empty_seed_set_contributes_nothing(balanced):
    background, foreground = torch.tensor([[[0, 255, 255, 255]]]), torch.tensor([[[255, 1, 255, 255]]])
    assert seed_loss(H, background, balanced).item() == pytest.approx(-math.log(0.5))
    assert seed_loss(H, foreground, balanced).item() == pytest.approx(-math.log(0.8))
    probabilities = H.clone().requires_grad_()
    loss = seed_loss(probabilities, torch.full((1, 1, 4), 255), balanced)
    loss.backward()
    assert loss.item() == 0
    assert (probabilities.grad == 0).all()


def test_seed_loss_is_a_mean_over_images():
    seeds = torch.tensor([[[0, 255, 255, 255]], [[255, 1, 255, 255]]])
    expected = (-math.log(0.5) - math.log(0.8)) / 2
    assert seed_loss(H.expand(2, -1, -1, -1), seeds).item() == pytest.approx(expected)


def test_boundary_loss_by_hand_with_clipping():
    """Cell 1: sum Q log Q/H. Cell 2: ratios 99 and 1/99 are clipped to 20 and 0.05. Cell 3 is padding."""
    network, crf = maps([0.5, 0.5], [0.01, 0.99], [0.3, 0.7]), maps([0.8, 0.2], [0.99, 0.01], [0.6, 0.4])
    first = 0.8 * math.log(1.6) + 0.2 * math.log(0.4)
    second = 0.99 * math.log(20) + 0.01 * math.log(0.05)
    valid = torch.tensor([[[True, True, False]]])
    assert boundary_loss(network, crf, valid).item() == pytest.approx((first + second) / 2, rel=1e-5)


def test_the_gradient_of_the_boundary_loss_is_minus_q_over_h():
    """Per cell; none where the ratio is clipped."""
    network, crf = maps([0.5, 0.5], [0.01, 0.99]).requires_grad_(), maps([0.8, 0.2], [0.99, 0.01])
    boundary_loss(network, crf, torch.ones(1, 1, 2, dtype=torch.bool)).backward()
    expected = maps([-0.8 / 0.5 / 2, -0.2 / 0.5 / 2], [0.0, 0.0])
    torch.testing.assert_close(network.grad, expected)


def test_no_valid_cell_gives_a_boundary_loss_of_0():
    network = maps([0.5, 0.5]).requires_grad_()
    loss = boundary_loss(network, maps([0.8, 0.2]), torch.zeros(1, 1, 1, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert (network.grad == 0).all()


def expansion_by_loops(probabilities, present):
    """SEC's expansion loss as its layers compute it: values sorted ascending, weight q^(1680 - place)."""
    total = 0.0
    for image, classes in zip(probabilities, present, strict=True):
        pooled = {}
        for label, q in [(0, 0.999), *((c, 0.996) for c in range(1, len(image)))]:
            values = sorted(image[label].ravel().tolist())
            weights = [q ** (1680 - place) for place in range(1681)]
            pooled[label] = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
        there = [c for c in range(1, len(image)) if classes[c]]
        absent = [c for c in range(1, len(image)) if not classes[c]]
        loss = -math.log(pooled[0])
        if there:
            loss -= sum(math.log(pooled[c]) for c in there) / len(there)
        if absent:
            loss -= sum(math.log(1 - image[c].max()) for c in absent) / len(absent)
        total += loss
    return total / len(probabilities)


@pytest.mark.parametrize("classes", [[1, 0, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
def test_expansion_loss_against_plain_loops(classes):
    random = np.random.default_rng(0)
    logits = random.normal(size=(2, 5, 41, 41)) * 2
    probabilities = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
    present = np.array([classes, [1, 0, 0, 0, 1]], bool)
    ours = expansion_loss(torch.from_numpy(probabilities), torch.from_numpy(present)).item()
    assert ours == pytest.approx(expansion_by_loops(probabilities.astype(float), present), rel=1e-5)


def test_expansion_reaches_over_the_same_share_of_another_map():
    """A map of 41 x 41 and the same map with every cell four times give nearly the same loss."""
    random = torch.Generator().manual_seed(0)
    probabilities = torch.randn(1, 4, 41, 41, generator=random).softmax(1)
    present = torch.tensor([[True, True, False, True]])
    fine = probabilities.repeat_interleave(2, 2).repeat_interleave(2, 3)
    losses = [expansion_loss(p, present).item() for p in (probabilities, fine)]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)


# --- a step of the method ---


def by_hand(made, pixels_per_cell, grown=True, crf_scale=12.0):
    """Probabilities, CRF and seeds of a step, made apart from the method."""
    samples, network = made.batch["weak"], made.method.networks["segmenter"]
    with torch.no_grad():
        smooth = network(samples.image).softmax(1) + 1e-4
    smooth = smooth / smooth.sum(1, keepdim=True)
    images = samples.pixels[..., ::pixels_per_cell, ::pixels_per_cell].permute(0, 2, 3, 1).numpy()
    refined = crf_batch(images, smooth.numpy(), None, named_parameters("dsrg-test").at_scale(crf_scale))
    refined = np.maximum(refined, 1e-4) / np.maximum(refined, 1e-4).sum(1, keepdims=True)
    seeds = samples.label[:, ::pixels_per_cell, ::pixels_per_cell].numpy().astype(np.uint8)
    present = np.concatenate([np.ones((len(seeds), 1)), samples.tags.numpy()], 1).astype(bool)
    if grown:
        seeds = grow_batch(refined, seeds, present, 0.99, 0.85)
    return smooth, torch.from_numpy(refined), torch.from_numpy(seeds).long(), torch.from_numpy(present)


def test_the_image_of_the_crf_lies_on_the_cells_of_the_map(case, monkeypatch):
    """A cross of one pixel's width through pixel 8 i: what SciPy's zoom, the authors', gives has it in cell i.

    Averaged over its neighbourhood, and half a cell off, as before, the cross was a pale band across two cells.
    """
    made, seen = case("dsrg", boundary_weight=1.0), []
    samples = made.batch["weak"]
    side = samples.pixels.shape[-1]
    assert (side - 1) % 8 == 0
    crossed = torch.zeros_like(samples.pixels)
    crossed[..., 24, :] = 250
    crossed[..., 16] = 200
    made.batch["weak"] = samples.replace(pixels=crossed)
    crf = made.method._crf
    monkeypatch.setattr(made.method, "_crf", lambda pixels, evidence: seen.append(pixels) or crf(pixels, evidence))
    made.losses()
    cells = (side - 1) // 8 + 1
    zoomed = ndimage.zoom(crossed.numpy().astype(np.float32), (1, 1, cells / side, cells / side), order=1)
    np.testing.assert_array_equal(seen[0].numpy(), np.round(zoomed))
    assert (seen[0][:, :, 3, 0] == 250).all()
    assert (seen[0][:, :, 0, 2] == 200).all()
    assert (seen[0] > 0).sum() == len(crossed) * 3 * (2 * cells - 1)


def test_secs_boundary_loss_is_not_clipped():
    """Ratios of 99 and 1/99 count as they are; the gradient, -Q/H, does not end there (kolesman/SEC)."""
    network, crf = maps([0.01, 0.99], [0.5, 0.5]).requires_grad_(), maps([0.99, 0.01], [0.8, 0.2])
    loss = boundary_loss(network, crf, torch.ones(1, 1, 2, dtype=torch.bool), clip=False)
    first = 0.99 * math.log(99) + 0.01 * math.log(1 / 99)
    second = 0.8 * math.log(1.6) + 0.2 * math.log(0.4)
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-5)
    loss.backward()
    torch.testing.assert_close(
        network.grad, maps([-0.99 / 0.01 / 2, -0.01 / 0.99 / 2], [-0.8 / 0.5 / 2, -0.2 / 0.5 / 2])
    )


def test_the_settings_of_sec_give_secs_losses(case):
    """The CRF starts from the scores themselves, nothing is clipped, seeds stay and weigh alike (kolesman/SEC)."""
    import pydensecrf.densecrf as densecrf

    sec = {"balanced": False, "region_growing": False, "expansion_weight": 1.0}
    made = case("dsrg", **sec, clip_ratio=False, crf_unary="scores")
    samples, network = made.batch["weak"], made.method.networks["segmenter"]
    with torch.no_grad():  # all scores far apart: some probabilities are below the floor of 1e-4
        network.head.scores.weight.mul_(30)
        scores = network(samples.image)
    assert scores.softmax(1).min() < 1e-6
    images = samples.pixels[..., ::8, ::8].permute(0, 2, 3, 1).numpy()
    smoothed = []
    for image, unary in zip(images, -scores.numpy(), strict=True):
        field = densecrf.DenseCRF2D(scores.shape[3], scores.shape[2], scores.shape[1])
        field.setUnaryEnergy(np.ascontiguousarray(unary.reshape(len(unary), -1)))
        field.addPairwiseGaussian(sxy=3 / 12, compat=3)
        field.addPairwiseBilateral(sxy=80 / 12, srgb=13, rgbim=np.ascontiguousarray(image), compat=10)
        smoothed.append(np.array(field.inference(10)).reshape(unary.shape))
    crf = np.maximum(np.stack(smoothed), 1e-4)
    crf /= crf.sum(1, keepdims=True)
    probabilities = scores.double().softmax(1).numpy() + 1e-4
    probabilities /= probabilities.sum(1, keepdims=True)
    valid = samples.valid[:, ::8, ::8].numpy()
    divergence = (crf * np.log(crf / probabilities)).sum(1)[valid].mean()
    losses = made.losses()
    assert losses["boundary"].item() == pytest.approx(divergence, rel=1e-4)
    assert set(losses) == {"seed", "boundary", "expansion"}
    made.method.settings = made.method.settings.model_copy(update={"clip_ratio": True})
    assert abs(made.losses()["boundary"] - losses["boundary"]) > 1e-3 * losses["boundary"]


@pytest.mark.parametrize("grown", [True, False])
def test_a_step_grows_the_seeds_and_follows_the_crf(grown, case):
    made = case("dsrg", region_growing=grown, expansion_weight=0.5, boundary_weight=2.0)
    probabilities, refined, seeds, present = by_hand(made, 8, grown)
    valid = made.batch["weak"].valid[:, ::8, ::8]
    losses = made.losses()
    torch.testing.assert_close(losses["seed"], seed_loss(probabilities, seeds))
    torch.testing.assert_close(losses["boundary"], 2 * boundary_loss(probabilities, refined, valid))
    torch.testing.assert_close(losses["expansion"], 0.5 * expansion_loss(probabilities, present))


def test_growing_starts_from_the_original_seeds_each_time(case):
    made = case("dsrg")
    before = made.batch["weak"].label.clone()
    first, second = made.losses(), made.losses()
    assert torch.equal(made.batch["weak"].label, before)
    assert all(torch.equal(first[term], second[term]) for term in first)


def test_switched_off_terms_are_not_computed(case):
    assert set(case("dsrg", boundary_weight=0.0).losses()) == {"seed"}
    assert set(case("dsrg").losses()) == {"seed", "boundary"}


def test_the_logged_quality_is_that_of_the_seeds(case):
    """Without growing: seeds against true masks at the cells, counted by loops; means over the classes that occur."""
    made = case("dsrg", region_growing=False, batch_size=8)
    seeds = made.batch["weak"].label[:, ::8, ::8].flatten().tolist()
    truth = made.batch["weak"].extra["reference"][:, ::8, ::8].flatten().tolist()
    made.losses()
    figures = made.method.epoch_metrics()
    precision, recall, overlap = [], [], []
    for label in sorted({t for t in truth if t != 255}):
        right = sum(s == t == label for s, t in zip(seeds, truth, strict=True))
        given = sum(s == label and t != 255 for s, t in zip(seeds, truth, strict=True))
        true = sum(t == label for t in truth)
        precision.append(right / given if given else 0.0)
        recall.append(right / true)
        overlap.append(right / (given + true - right))
    assert figures["supervision_precision"] == pytest.approx(np.mean(precision))
    assert figures["supervision_recall"] == pytest.approx(np.mean(recall))
    assert figures["supervision_iou"] == pytest.approx(np.mean(overlap))
    assert made.method.epoch_metrics() == {}  # the next epoch counts anew


def test_counts_survive_a_checkpoint(case):
    made, other = case("dsrg"), case("dsrg")
    made.losses()
    other.method.restore(made.method.state())
    assert other.method.epoch_metrics() == made.method.epoch_metrics() != {}


def test_a_finer_map_than_the_networks(case):
    """map_stride 4: the logits are upsampled; seeds lie on every fourth pixel."""
    made = case("dsrg", map_stride=4, region_growing=False, boundary_weight=0.0)
    samples, network = made.batch["weak"], made.method.networks["segmenter"]
    fine = segment(network, samples)[..., ::4, ::4].softmax(1) + 1e-4
    fine = fine / fine.sum(1, keepdim=True)
    torch.testing.assert_close(made.losses()["seed"], seed_loss(fine, samples.label[:, ::4, ::4]))


def test_masks_never_train(case):
    """The reference serves the log alone: another one changes no loss."""
    made = case("dsrg")
    before = made.losses()
    weak = made.batch["weak"]
    made.batch["weak"] = weak.replace(extra={"reference": torch.zeros_like(weak.label)})
    after = made.losses()
    assert all(torch.equal(before[term], after[term]) for term in before)


@pytest.mark.parametrize("ignored", [True, False])
def test_seeds_grow_into_no_padding(ignored, case, monkeypatch):
    """The right half of each crop is padding; everything in reach of a seed is confident."""
    made, seen = case("dsrg", ignore_padding=ignored, theta_background=0.01, theta_foreground=0.01), []
    samples = made.batch["weak"]
    half = samples.valid.shape[2] // 2
    valid, label = samples.valid.clone(), samples.label.clone()
    valid[:, :, half:], label[:, :, half:] = False, 255
    label[:, 0, 0] = 0  # a seed that can grow
    made.batch["weak"] = samples.replace(valid=valid, label=label)
    monkeypatch.setattr(
        dsrg, "seed_loss", lambda H, seeds, balanced: seen.append(seeds) or seed_loss(H, seeds, balanced)
    )
    made.losses()
    inside, outside = seen[0][valid[:, ::8, ::8]], seen[0][~valid[:, ::8, ::8]]
    assert (inside < 255).any()
    assert (outside == 255).all() == ignored
