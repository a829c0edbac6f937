"""stages/refiners/label_noise.py: attention by a plain loop, clean labels and links by hand, noise is corrected."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import softmax

from artifacts.errors import ArtifactError, ConfigError
from artifacts.masks import read_mask
from artifacts.score_maps import ScoreMap, ScoreMaps
from artifacts.store import Workspace
from stages.engine.known import Known
from stages.localization.grid import resize_maps
from stages.localization.links import Links
from stages.localization.seed_labels import lead
from stages.localization.superpixel_graph import (
    Features,
    GraphRules,
    SuperpixelGraph,
    clean_labels,
    most_similar,
    superpixel_graph,
)
from stages.networks import build_segmenter
from stages.networks.config import NetworkConfig
from stages.refiners.label_noise import AttentionLayer, LabelNoise, trained
from stages.refiners.node_scores import against_background
from stages.refiners.refiner import Means
from stages.refiners.settings.label_noise import LabelNoiseSettings
from tests.stages.refiners.small_refinement import draw, fill, run, training_of

CPU = torch.device("cpu")
RULES = GraphRules(0.2, 200, 20.0, 3, "median", 0.5, 0.8)


def seeded(number=0):
    return torch.Generator().manual_seed(number)


def test_attention_by_a_plain_loop():
    """Each node: the softmax of LeakyReLU(u' W h_i + v' W h_j) over what it is linked to, head by head."""
    layer = AttentionLayer(5, 2, 3, seeded()).double()
    torch.nn.init.normal_(layer.bias)
    nodes, linked = torch.randn(4, 5, dtype=torch.float64), torch.eye(4, dtype=torch.bool)
    linked[0, 2] = linked[1, 0] = linked[1, 3] = linked[3, 1] = True
    found = layer(nodes, Links(linked.numpy(), CPU), lambda values: values).detach().numpy()
    h, weight, toward, of = (t.detach().numpy() for t in (nodes, layer.weight, layer.toward, layer.of))
    for head in range(2):
        own = [h[i] @ weight[head] for i in range(4)]
        for i in range(4):
            others = [j for j in range(4) if linked[i, j]]
            strength = []
            for j in others:
                value = sum(own[i][c] * toward[head, c, 0] + own[j][c] * of[head, c, 0] for c in range(3))
                strength.append(math.exp(value if value > 0 else 0.2 * value))
            expected = sum(s / sum(strength) * own[j] for s, j in zip(strength, others, strict=True))
            place = slice(3 * head, 3 * head + 3)
            assert np.allclose(found[i, place], expected + layer.bias.detach().numpy()[place])


def test_means_of_linked_nodes_and_their_gradients_are_those_of_dense_matrices():
    random, heads = np.random.default_rng(0), 3
    linked = (random.random((9, 9)) < 0.3) | np.eye(9, dtype=bool)
    links = Links(linked, CPU)
    strength = torch.randn(heads, 9, dtype=torch.float64, requires_grad=True)
    values = torch.randn(heads, 9, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(heads, 9, 4, dtype=torch.float64)
    dense = (strength[:, None].expand(heads, 9, 9) * torch.from_numpy(linked)) @ values
    found = links.means(links.of_each(strength) * links.linked, values)
    assert torch.allclose(found, dense)
    expected = torch.autograd.grad((dense * weight).sum(), (strength, values))
    for gradient, right in zip(torch.autograd.grad((found * weight).sum(), (strength, values)), expected, strict=True):
        assert torch.allclose(gradient, right)


def test_clean_is_what_surprises_least_of_its_class():
    losses, labels = np.array([0.1, 0.2, 0.9, 0.3, 5.0, 6.0]), np.array([0, 0, 0, 0, 2, 2])
    assert clean_labels(losses, labels, RULES).tolist() == [True, True, False, False, True, False]
    below = GraphRules(0.2, 40, 20.0, 3, "threshold", 0.5, 0.8)
    assert clean_labels(losses, labels, below).tolist() == [True, True, False, True, False, False]


def test_the_most_similar_are_linked():
    angles = np.deg2rad([0, 10, 30, 90])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1)
    found = most_similar(vectors, 1)
    assert [row.nonzero()[0].tolist() for row in found] == [[1], [0], [1], [2]]
    assert most_similar(vectors[:1], 3).sum() == 0


@pytest.mark.parametrize(("size", "stride", "patches"), [((13, 18), 4, False), ((1, 1), 8, False), ((16, 8), 8, True)])
def test_means_of_features_between_their_cells(size, stride, patches):
    """As features at every pixel, averaged region by region."""
    random = np.random.default_rng(0)
    cells = tuple(-(-side // stride) for side in size)
    features = random.random((3, *cells)).astype(np.float32)
    regions = random.integers(0, 3, size) if size != (1, 1) else np.zeros(size, int)
    _, regions = np.unique(regions, return_inverse=True)
    regions = regions.reshape(size)
    full = resize_maps(features, size, stride)
    if patches:
        grown = torch.nn.functional.interpolate(torch.from_numpy(features)[None], scale_factor=stride, mode="bilinear")
        full = grown[0].numpy()
    count = regions.max() + 1
    expected = np.stack([full[:, regions == region].mean(1) for region in range(count)])
    assert np.allclose(Features(features, stride, patches).means(regions, count), expected, atol=1e-5)


def graph_of(wrong=()):
    """A grey image with a red box; a model that knows the box; noisy labels in which some rows of the box are wrong."""
    image, mask = draw(0)
    noisy = mask.copy()
    noisy[list(wrong)] = 0
    told = np.stack([mask == k for k in range(3)]) * 0.8 + 0.05
    features = np.stack([mask[::8, ::8] == 1, mask[::8, ::8] == 0]).astype(np.float32)
    return superpixel_graph(image, noisy, told / told.sum(0), Features(features, 8), RULES), mask, noisy


def test_the_graph_of_an_image():
    graph, _, noisy = graph_of(range(15, 25))
    count = len(graph.labels)
    assert graph.nodes.shape == (count, 2 + 3 + 5)
    assert graph.linked.diagonal().all()
    height, width = graph.regions.shape
    touching = {(graph.regions[y, x], graph.regions[y + 1, x]) for y in range(height - 1) for x in range(width)}
    touching |= {(graph.regions[y, x], graph.regions[y, x + 1]) for y in range(height) for x in range(width - 1)}
    for one, other in touching:
        assert graph.linked[one, other]
        assert graph.linked[other, one]
    assert (graph.linked.sum(1) >= min(4, count)).all()  # itself and the three most similar
    for region in range(count):
        values, votes = np.unique(noisy[graph.regions == region], return_counts=True)
        assert graph.labels[region] == values[votes.argmax()]
        assert not graph.clean[region] or votes.max() >= 0.8 * votes.sum()


def test_wrong_labels_are_corrected():
    """A third of the box is called background; the superpixels in it become red all the same."""
    graph, mask, noisy = graph_of(range(15, 25))
    assert not graph.clean[graph.regions[18:22, 25:45]].any()
    settings = LabelNoiseSettings(steps=60)
    found = trained(graph, 3, settings, seeded(), CPU).argmax(1)[graph.regions]
    assert (noisy == mask)[mask == 1].mean() < 0.7
    assert (found == mask)[mask == 1].mean() > 0.9
    assert (found == mask).mean() > 0.93


def refiner_of(**settings):
    segmenter = build_segmenter(NetworkConfig.model_validate("tiny"), 3, seed=0)
    return LabelNoise(LabelNoiseSettings(steps=2, heads=2, hidden=4, **settings), None, Means(CPU), segmenter)


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (61, 83)])
@pytest.mark.parametrize("classes", [[], [1, 2]])
def test_images_of_every_size_without_labels_and_with_all(size, classes):
    cells = tuple((side + 3) // 4 for side in size)
    scores = np.random.default_rng(1).random((len(classes), *cells)).astype(np.float32)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    maps = ScoreMap("x", scores, np.array(classes, np.uint8), size, 4, "cam")
    (found,) = refiner_of(superpixels=20).refine([[Known("x", image, tuple(classes), maps)]])
    assert (found.scores.shape, found.stride, found.meaning) == ((len(classes), *size), 1, "refined")
    assert np.isfinite(found.scores).all()


def test_without_a_clean_superpixel_the_noisy_labels_stay():
    labels = np.array([1, 0])
    graph = SuperpixelGraph(
        np.eye(2, dtype=int), np.zeros((2, 4), np.float32), np.eye(2, dtype=bool), labels, labels < 0
    )
    assert refiner_of().corrected("x", graph).argmax(1).tolist() == [1, 0]


def test_scores_against_the_background():
    """Above .5 is what is more probable than background; class 2 is not among the labels."""
    p = softmax(np.random.default_rng(0).normal(0, 2, (4, 5, 6)), axis=0)
    maps = ScoreMap("x", np.zeros((2, 2, 2)), np.array([1, 3], np.uint8), (5, 6), 4, "cam")
    found = against_background(maps, p[[1, 3]], p[0], stride=1).scores
    winner = np.where(found.max(0) > 0.5, np.array([1, 3])[found.argmax(0)], 0)
    assert np.array_equal(winner, np.array([0, 1, 3])[p[[0, 1, 3]].argmax(0)])


def test_the_lead_of_the_winner():
    scores = np.array([[[0.9, 0.2, 0.55]], [[0.1, 0.3, 0.1]]])
    assert np.allclose(lead(scores, 0.5), [[0.4, 0.2, 0.05]])
    assert (lead(scores[:0], 0.5) == 0.5).all()


def test_it_asks_for_a_segmenter_and_leaves_unsure_pixels_unknown(tmp_path):
    space = fill(Workspace(tmp_path / "runs"))
    values = {"method": {"name": "label-noise", "steps": 2, "superpixels": 100, "margin": 0.45}}
    inputs = {"data": "data", "seeds": "seeds"}
    with pytest.raises(ArtifactError, match="segmenter"):
        run(space, "refine", "no", values, inputs)
    found = run(space, "refine", "found", values, inputs | {"segmenter": "segmenter"})
    scores, mask = ScoreMaps(found)["t0"].scores[0], read_mask(found.file("masks/t0.png"))
    assert np.array_equal(mask, np.where(np.abs(scores - 0.5) < 0.45, 255, np.where(scores > 0.5, 1, 0)))
    assert 255 in mask
    run(space, "train-refiner", "refiner", training_of("irn") | {"iterations": 1})
    with pytest.raises(ConfigError, match="label-noise does not use the input 'refiner'"):
        run(space, "refine", "no", values, inputs | {"segmenter": "segmenter", "refiner": "refiner"})
