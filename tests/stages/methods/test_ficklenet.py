"""stages/methods/ficklenet.py: scores and maps by an expanded map that is really made, expectations, draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from artifacts.errors import ConfigError
from stages.localization.activation_maps import class_activation_maps
from stages.networks import hidden_units, load_network, normalise
from stages.networks.config import ClassifierConfig
from stages.networks.folding import for_inference
from stages.networks.hidden_units import Selection, build_fickle_network
from stages.pipeline.run_stage import run_stage
from stages.train_classifier import STAGE

SIZE = (5, 7)
CELLS = SIZE[0] * SIZE[1]


def network_of(dtype=torch.float32, **selection):
    """A network of three classes with random layers; features of 96 channels."""
    selection = Selection(**{"window": 3, "draws": 7, **selection})
    network = build_fickle_network(ClassifierConfig.model_validate("tiny"), 3, selection, seed=0).eval()
    torch.nn.init.normal_(network.scores.weight, generator=torch.Generator().manual_seed(1))
    return network.to(dtype)


def features_of(batch=2):
    return torch.randn(batch, 96, *SIZE, generator=torch.Generator().manual_seed(2))


def expanded_scores(network, features, kept):
    """Class scores of each window (N, K, h w), one image: windows copied out, their dropped units set to 0.

    kept: (N, offsets, h w) by the cell that is read; here by the window that reads it.
    """
    window, (height, width) = network.selection.window, features.shape[2:]
    windows = F.unfold(features, window, padding=window // 2).view(features.shape[1], -1, height * width)
    by_window = torch.zeros(kept.shape)
    half = window // 2
    for offset, (dy, dx) in enumerate((y, x) for y in range(-half, half + 1) for x in range(-half, half + 1)):
        for y, x in np.ndindex(height, width):
            if 0 <= y + dy < height and 0 <= x + dx < width:
                by_window[:, offset, y * width + x] = kept[:, offset, (y + dy) * width + x + dx]
    weight = network.scores.weight.flatten(2)
    return torch.einsum("kcd,cdu,ndu->nku", weight, windows, by_window)


@pytest.mark.parametrize("expand", [True, False])
def test_the_scores_are_those_of_the_expanded_map(expand):
    network, features = network_of(expand=expand, rate=0.6), features_of(1)
    uniform = torch.rand(4, network.selection.rows, CELLS, generator=torch.Generator().manual_seed(3))
    kept = network.kept(uniform, SIZE)
    expected = expanded_scores(network, features, kept).mean(2)
    torch.testing.assert_close(network.logits(features.expand(4, -1, -1, -1), kept), expected)
    assert expected.std(0).min() > 0.01


def test_nothing_dropped_is_an_ordinary_convolution():
    network, features = network_of(rate=0.0), features_of()
    kept = network.kept(torch.zeros(2, network.selection.rows, CELLS), SIZE)
    torch.testing.assert_close(network.logits(features, kept), network.scores(features).mean((2, 3)))


def test_the_centre_of_a_window_is_always_kept():
    network, features = network_of(rate=1.0), features_of()
    kept = network.kept(torch.rand(2, network.selection.rows, CELLS), SIZE)
    assert kept.sum().item() == 2 * CELLS
    alone = F.conv2d(features, network.scores.weight[:, :, 1:2, 1:2])
    torch.testing.assert_close(network.logits(features, kept), alone.mean((2, 3)))


def test_both_ways_to_draw_have_one_expectation():
    """The mean of 20,000 draws, and what `forward` gives."""
    features = features_of(1)
    means = []
    for expand in (True, False):
        network = network_of(expand=expand, rate=0.7)
        uniform = torch.rand(20_000, network.selection.rows, CELLS, generator=torch.Generator().manual_seed(4))
        shares = network.kept(uniform, SIZE).float().mean(0, keepdim=True)
        means.append(network.logits(features, shares))
    network.features = lambda images: images
    with torch.no_grad():
        expected = network(features)
    for mean in means:
        torch.testing.assert_close(mean.detach(), expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))


@pytest.mark.parametrize("expand", [True, False])
@pytest.mark.parametrize("gradient", ["cell", "mean"])
def test_maps_are_grad_cam_of_the_expanded_map_by_autograd(gradient, expand, monkeypatch):
    network = network_of(expand=expand, rate=0.6, gradient=gradient, seed=5)
    network.features = lambda images: images
    features = features_of(1)
    generator = torch.Generator().manual_seed(5)
    highest = torch.zeros(1, 3, *SIZE)
    for _ in range(7):
        kept = network.kept(torch.rand(1, network.selection.rows, CELLS, generator=generator), SIZE)
        for k in range(3):
            leaf = features.clone().requires_grad_()
            (gradients,) = torch.autograd.grad(expanded_scores(network, leaf, kept)[0, k].mean(), leaf)
            weights = gradients if gradient == "cell" else gradients.mean((2, 3), keepdim=True)
            cam = (features * weights).sum(1)[0].relu() * CELLS  # the mean of the score divides by the cells
            highest[0, k] = torch.maximum(highest[0, k], cam / max(float(cam.max()), 1e-5))
    with torch.no_grad():
        torch.testing.assert_close(network.activation_maps(features), highest, rtol=1e-4, atol=1e-5)
        monkeypatch.setattr(hidden_units, "MOST", 1)  # one draw at a time
        torch.testing.assert_close(network.activation_maps(features), highest, rtol=1e-4, atol=1e-5)


def test_draws_are_the_same_again_and_in_any_batch():
    network, features = network_of(draws=20), features_of(3)
    network.features = lambda images: images
    with torch.no_grad():
        together = network.activation_maps(features)
        torch.manual_seed(99)
        assert torch.equal(network.activation_maps(features), together)
        for row in range(3):
            torch.testing.assert_close(network.activation_maps(features[row : row + 1])[0], together[row])
        other = network_of(draws=20, seed=1)
        other.features = network.features
        assert not torch.allclose(other.activation_maps(features), together)


def test_each_image_and_step_has_draws_of_its_own(case):
    made = case("ficklenet", window=3, rate=0.5)
    batch = made.batch["labelled"]
    same = batch.replace(image=batch.image[:1].expand_as(batch.image), tags=batch.tags[:1].expand_as(batch.tags))
    network, seen = made.method.predictor, []
    kept = network.kept
    network.kept = lambda uniform, size: seen.append(uniform) or kept(uniform, size)
    losses = [made.method.losses({"labelled": same}, step)["soft_margin"].item() for step in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0][0], seen[0][1])


def test_a_window_needs_a_centre(training):
    with pytest.raises(ConfigError, match="a window has a centre: give an odd number"):
        training.config({"name": "ficklenet", "window": 4})


def test_maps_of_a_training_are_read_as_any_classifiers(training, execution):
    config = training.config({"name": "ficklenet", "window": 5, "draws": 9}, iterations=3)
    artifact = run_stage(STAGE, config, training.space, "fickle-maps", {"data": "data"}, execution).artifact
    network, dataset = load_network(artifact), training.dataset
    assert (network.selection.window, network.selection.draws) == (5, 9)
    faster = for_inference(network, torch.device("cpu"))
    options = {"scales": (1.0,), "flip": False, "device": torch.device("cpu")}
    ids = dataset.ids("train")
    found = {maps.image_id: maps for maps in class_activation_maps(faster, dataset, ids, **options)}
    again = {maps.image_id: maps for maps in class_activation_maps(faster, dataset, ids, batch_size=1, **options)}
    for image_id in ids:
        scores = found[image_id].scores.astype(np.float32)
        np.testing.assert_allclose(again[image_id].scores, scores, atol=2e-3)
        assert scores.max() == pytest.approx(1, abs=1e-3)
    image = normalise(torch.from_numpy(dataset.image(ids[0])).permute(2, 0, 1)[None])
    with torch.inference_mode():
        assert network(image).shape == (1, 3)
        assert network.activation_maps(image[..., :1, :1]).shape == (1, 3, 1, 1)
