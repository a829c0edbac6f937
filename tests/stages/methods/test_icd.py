"""stages/methods/icd.py: the loss and the regions' scores by plain loops, signs by hand, directions by eigenvectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from artifacts.masks import read_mask
from stages.localization.activation_maps import class_activation_maps
from stages.localization.regions import regions_of
from stages.methods.icd import normalised, refine, side_means
from stages.networks import load_network, normalise
from stages.networks.config import ClassifierConfig
from stages.networks.folding import for_inference
from stages.networks.intra_class import build_icd_network
from stages.pipeline.run_stage import run_stage
from stages.train_classifier import STAGE


def refined_by_loops(scores, regions, tags):
    """Region by region, pixel by pixel."""
    result = np.zeros_like(scores)
    for image, (classes, labels) in enumerate(zip(tags, regions, strict=True)):
        present = np.flatnonzero(classes)
        for region in set(labels.ravel().tolist()) - {255}:
            pixels = [scores[image][:, y, x] * classes for y, x in np.argwhere(labels == region)]
            signs = {k: sum(np.sign(pixel[k]) for pixel in pixels) for k in present}
            shares = {k: sum(max(pixel[k], 0) / max(pixel.max(), 1e-5) for pixel in pixels) for k in present}
            winner = max(shares, key=shares.get) if any(sign > 0 for sign in signs.values()) else None
            for k in present:
                side = [max(pixel[k], 0) if k == winner else min(pixel[k], 0) for pixel in pixels]
                result[image, k][labels == region] = sum(side) / len(pixels)
    return result


def test_regions_are_averaged_as_by_loops():
    random = np.random.default_rng(0)
    for _ in range(20):
        scores = random.normal(size=(3, 4, 5, 6)) + random.normal(size=(3, 4, 1, 1))
        regions = random.choice([0, 1, 2, 7, 254, 255], size=(3, 5, 6))
        tags = np.array([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]], float)
        found = refine(torch.tensor(scores), torch.tensor(regions), torch.tensor(tags))
        np.testing.assert_allclose(found.numpy(), refined_by_loops(scores, regions, tags), atol=1e-12)


def test_a_region_by_hand():
    """Class 0 has two positive pixels of three; class 1 has higher scores, but a smaller share of the pixels."""
    scores = torch.tensor([[[[2.0, 1.0, -3.0]], [[-1.0, -1.0, 6.0]]]])
    found = refine(scores, torch.zeros(1, 1, 3, dtype=torch.int64), torch.ones(1, 2))
    torch.testing.assert_close(found, torch.tensor([1.0, -2 / 3])[None, :, None, None].expand(1, 2, 1, 3))
    nowhere = refine(-scores.abs(), torch.zeros(1, 1, 3, dtype=torch.int64), torch.ones(1, 2))
    torch.testing.assert_close(nowhere[0, :, 0, 0], torch.tensor([-2.0, -8 / 3]))


def test_scores_are_divided_by_their_maximum_and_minimum():
    scores = torch.tensor([[[[4.0, 2.0, -1.0, -5.0]], [[0.0, 0.0, 0.0, 0.0]]]])
    assert normalised(scores)[0, :, 0].tolist() == [[1.0, 0.5, pytest.approx(-0.2), -1.0], [0.0, 0.0, 0.0, 0.0]]


def test_the_losses_are_those_of_plain_loops(case):
    made = case("icd", warmup=0.0, variance=3.0, margin=0.3)
    batch, network = made.batch["labelled"], made.method.predictor
    start = torch.rand(network.sides.shape, generator=torch.Generator().manual_seed(1))
    network.sides.copy_(start)
    with torch.no_grad():
        found = network.branches(batch.image)
    losses = {name: value.item() for name, value in made.losses().items()}
    tags, regions = batch.tags.numpy(), batch.label[:, ::8, ::8].numpy()
    cams, features, logits = (part.double().numpy() for part in (found.cams, found.features, found.foreground))
    directions = network.directions.detach().double().numpy()
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    scores = np.einsum("kc,bcyx->bkyx", directions, features) * (regions != 255)[:, None]
    valid = (regions != 255).sum()

    expected = 0.0
    for image, classes in enumerate(tags):
        for k, present in enumerate(classes):
            logit = cams[image, k].mean()
            expected += math.log1p(math.exp(-logit if present else logit)) / len(tags)
    assert losses["classification"] == pytest.approx(expected, rel=1e-5)

    alone = [(image, int(np.flatnonzero(classes)[0])) for image, classes in enumerate(tags) if classes.sum() == 1]
    assert 0 < len(alone) < len(tags)
    assert losses["variance"] == pytest.approx(
        -1.5 * sum((scores[i, k] ** 2).sum() for i, k in alone) / valid, rel=1e-5
    )

    sides = start.double().numpy()
    for k in np.flatnonzero(tags.sum(0)):
        of_class = np.flatnonzero(tags[:, k])
        for side, sign in enumerate((1, -1)):
            means = []
            for image in of_class:
                chosen = scores[image, k] * sign > 0
                means.append(np.maximum(cams[image, k], 0)[chosen].mean() if chosen.any() else 0.0)
            sides[k, side] = 0.9 * sides[k, side] + 0.1 * np.mean(means)
    np.testing.assert_allclose(network.sides.numpy(), sides, rtol=1e-5)

    sign = np.where(sides[:, 0] < sides[:, 1], -1, 1)[None, :, None, None]
    refined = refined_by_loops(scores * sign, regions, tags)
    total = 0.0
    for image, k in np.argwhere(tags):
        taught = refined[image, k]
        for y, x in np.ndindex(*taught.shape):
            value, logit = taught[y, x], logits[image, k, y, x]
            if value > 0.3 * taught.max() or value < 0.3 * taught.min():
                total += math.log1p(math.exp(-logit if value > 0 else logit))
    assert losses["foreground"] == pytest.approx(total / valid, rel=1e-5)


def test_the_sign_is_that_of_the_side_with_the_higher_maps():
    network = build_icd_network(ClassifierConfig.model_validate("tiny"), 3, seed=0)
    network.sides.copy_(torch.tensor([[0.2, 0.1], [0.1, 0.2], [0.0, 0.0]]))
    assert network.sign.flatten().tolist() == [1, -1, 1]
    cams = torch.tensor([[[[4.0, -2.0, 6.0, 1.0]]]])
    assert side_means(torch.tensor([[[[1.0, 2.0, -1.0, 0.0]]]]), cams).tolist() == [[[2.0, 6.0]]]


def test_classes_that_no_image_has_keep_their_sign(case):
    made = case("icd")
    batch = made.batch["labelled"]
    made.batch["labelled"] = batch.replace(tags=batch.tags * torch.tensor([1.0, 0.0, 1.0]))
    sides = made.method.predictor.sides
    sides[1] = torch.tensor([0.25, 0.5])
    made.losses()
    assert sides[1].tolist() == [0.25, 0.5]
    assert bool((sides[[0, 2]] > 0).any(1).all())


@pytest.mark.parametrize("number", [0.0, 1.0])
def test_images_of_no_label_and_of_all_labels_teach_no_direction(number, case):
    made = case("icd")
    batch = made.batch["labelled"]
    made.batch["labelled"] = batch.replace(tags=torch.full_like(batch.tags, number))
    losses = made.losses()
    assert losses["variance"].item() == 0
    assert (losses["foreground"].item() == 0) == (number == 0)
    assert all(bool(torch.isfinite(value)) for value in losses.values())


def test_directions_become_those_of_the_highest_variance(case):
    """Without a mean to subtract: the first eigenvector of the second moments, of single-class images alone."""
    method = case("icd").method
    network = method.predictor
    features = torch.randn(4, 96, 5, 5, generator=torch.Generator().manual_seed(0)) * 0.3
    features[0] += 2 * torch.randn(5, 5, generator=torch.Generator().manual_seed(1)) * torch.eye(96)[3][:, None, None]
    optimizer = torch.optim.SGD([network.directions], lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        (-5 * (network.bottom_up(features)[0, 1] ** 2).mean()).backward()
        optimizer.step()
    points = features[0].flatten(1)
    expected = torch.linalg.eigh(points @ points.T).eigenvectors[:, -1]
    found = torch.nn.functional.normalize(network.directions[1].detach(), dim=0)
    assert abs(float(expected @ found)) == pytest.approx(1, abs=1e-4)


def test_the_foreground_branch_comes_in_exponentially(case):
    method = case("icd", warmup=0.5).method
    iterations = method.setup.iterations
    expected = [math.exp(-10 * max(1 - step / (0.5 * iterations), 0)) for step in range(iterations)]
    assert [method.weight(step) for step in range(iterations)] == pytest.approx(expected)
    assert method.weight(0) == pytest.approx(math.exp(-10))


@pytest.mark.parametrize(("backbone", "width"), [("vgg16", 1024), ("mobilenet_v2", 1024), ("tiny", 192)])
def test_it_fits_any_backbone(backbone, width):
    config = ClassifierConfig.model_validate({"backbone": backbone, "weights": "none", "freeze_batch_norm": False})
    network = build_icd_network(config, 2, seed=0).eval()
    assert network.fc7[0].out_channels == width
    with torch.inference_mode():
        found = network.branches(torch.zeros(1, 3, 33, 17))
    cells = (1, 2, -(-33 // network.stride), -(-17 // network.stride))
    assert found.cams.shape == found.foreground.shape == cells


def test_maps_of_a_training_are_read_as_any_classifiers(training, execution):
    """A map is above 0 where the foreground logit is; the regions that were taught lie in the artifact."""
    config = training.config({"name": "icd", "regions": 5}, iterations=3)
    artifact = run_stage(STAGE, config, training.space, "icd-maps", {"data": "data"}, execution).artifact
    assert artifact.verify() == []
    dataset = training.dataset
    ids = [*dataset.ids("train"), *dataset.ids("weak")]
    for image_id in ids:
        labels = read_mask(artifact.file(f"regions/{image_id}.png"))
        assert np.array_equal(labels, regions_of(dataset.image(image_id), 5))
    network = load_network(artifact)
    torch.nn.init.normal_(network.foreground.weight, generator=torch.Generator().manual_seed(0))
    faster = for_inference(network, torch.device("cpu"))
    image = normalise(torch.from_numpy(dataset.image(ids[0])).permute(2, 0, 1)[None])
    with torch.inference_mode():
        torch.testing.assert_close(faster.activation_maps(image), network.activation_maps(image), rtol=0, atol=1e-3)
        logits = network.branches(image).foreground
    options = {"scales": (1.0,), "flip": False, "device": torch.device("cpu")}
    (maps,) = class_activation_maps(faster, dataset, ids[:1], **options)
    expected = logits[0, torch.from_numpy(maps.classes).long() - 1] > 0
    assert 0 < expected.sum() < expected.numel()
    assert np.array_equal(maps.scores[:, ::2, ::2] > 0, expected.numpy())  # cells of 4 pixels, of 8
