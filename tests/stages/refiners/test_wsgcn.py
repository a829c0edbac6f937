"""stages/refiners/wsgcn.py: its graph against dense matrices, its losses by hand, its sure labels by a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from artifacts.errors import ConfigError
from artifacts.score_maps import ScoreMap, ScoreMaps
from artifacts.store import Workspace
from stages.engine.known import Known
from stages.localization import cell_graphs
from stages.localization.cell_graphs import WalkGraph, joint
from stages.localization.dense_crf import crf_probabilities
from stages.localization.partial_labels import image_of_cells, partial_labels
from stages.networks.boundary import build_boundary_network
from stages.networks.config import ClassifierConfig
from stages.refiners.refiner import Means
from stages.refiners.settings.wsgcn import WsgcnSettings
from stages.refiners.wsgcn import LossSlope, Wsgcn, initial_parameters, laplacian, trained, walk_matrix
from tests.stages.refiners.small_refinement import draw, fill, run, training_of

CPU = torch.device("cpu")


def boundary_of(size, seed=0):
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).random(size), 1)
    return (smooth - smooth.min()) / max(np.ptp(smooth), 1e-9)


def dense_graph(weights, doublings):
    """Rows of (T^s + T^s') / 2 + I divided by their sums, T = W D^-1, by squaring."""
    walk = weights / weights.sum(0, keepdims=True)
    for _ in range(doublings):
        walk = walk @ walk
    graph = (walk + walk.T) / 2 + np.eye(len(walk))
    return graph / graph.sum(1, keepdims=True)


@pytest.mark.parametrize("size", [(9, 13), (1, 1), (1, 7), (6, 2)])
@pytest.mark.parametrize("doublings", [0, 1, 5])
@pytest.mark.parametrize("matrix_cells", [0, 2048])
def test_the_graph_is_the_dense_one(size, doublings, matrix_cells, monkeypatch):
    """The graph and its transpose; with the matrix of all steps, and without it."""
    monkeypatch.setattr(cell_graphs, "MATRIX_CELLS", matrix_cells)
    monkeypatch.setattr(cell_graphs, "PRECISE_TO", 1e-12)
    monkeypatch.setattr(cell_graphs, "COLUMNS", 3)
    matrix = walk_matrix(boundary_of(size), 5, 10.0)
    graph = WalkGraph(matrix, doublings, CPU, torch.float64)
    values = torch.randn(4, size[0] * size[1], dtype=torch.float64)
    dense = torch.from_numpy(dense_graph(matrix.toarray(), doublings))
    assert graph.factor is None
    assert torch.allclose(graph(values), values @ dense.mT, atol=1e-10)
    assert torch.allclose(graph.transposed(values), values @ dense, atol=1e-10)


def test_a_graph_with_clear_boundaries_has_a_factor():
    """Of far fewer columns than cells; where the walk hardly moves, none is small enough."""
    boundary = np.zeros((24, 30))
    boundary[:, 11], boundary[9, 12:] = 0.95, 0.6
    matrix = walk_matrix(boundary, 5, 10.0)
    graph, values = WalkGraph(matrix, 6, CPU), torch.randn(4, 720)
    assert graph.factor.shape[1] < 90
    dense = torch.from_numpy(dense_graph(matrix.toarray(), 6)).float()
    assert torch.allclose(graph(values), values @ dense.mT, atol=1e-4)
    assert torch.allclose(graph.transposed(values), values @ dense, atol=1e-4)
    assert WalkGraph(walk_matrix(np.full((24, 30), 0.8), 5, 10.0), 6, CPU).factor is None


def test_the_walk_is_that_of_irn():
    """W: 1 - the highest boundary on the line, to the power, of cells nearer than the radius; by a plain loop."""
    boundary = boundary_of((5, 6))
    found = walk_matrix(boundary, 3, 2.0).toarray()
    places = [(y, x) for y in range(5) for x in range(6)]
    for i, (y, x) in enumerate(places):
        for j, (v, u) in enumerate(places):
            dy, dx = v - y, u - x
            if dy * dy + dx * dx >= 9:
                assert found[i, j] == 0
                continue
            rows, columns = range(min(y, v), max(y, v) + 1), range(min(x, u), max(x, u) + 1)
            near = [(r, c) for r in rows for c in columns if (dy * (c - x) - dx * (r - y)) ** 2 < dy * dy + dx * dx]
            highest = max((boundary[place] for place in near), default=0.0) if i != j else 0.0
            assert found[i, j] == pytest.approx((1 - highest) ** 2, abs=1e-6)


def test_published_graph_differs_by_the_maximum_of_both_directions():
    """The authors' code has max(A, A') where ours has the mean: it is at most twice as much, and the same where two
    cells have equally many neighbours."""
    weights = walk_matrix(boundary_of((14, 19)), 5, 10.0).toarray()
    walk = np.linalg.matrix_power(weights / weights.sum(0), 32)
    published, ours = np.maximum(walk, walk.T) + np.eye(len(walk)), (walk + walk.T) / 2 + np.eye(len(walk))
    published, ours = (graph / graph.sum(1, keepdims=True) for graph in (published, ours))
    assert np.abs(published - ours).sum(1).mean() < 0.005


def test_the_laplacian_by_a_plain_loop():
    image = np.random.default_rng(0).integers(0, 256, (17, 22, 3), np.uint8)
    size = (5, 6)
    colours = image_of_cells(image, 4, size) / 255
    expected = np.zeros((30, 30))
    for i, (y, x) in enumerate(np.ndindex(size)):
        for j, (v, u) in enumerate(np.ndindex(size)):
            if i != j and abs(y - v) <= 2 and abs(x - u) <= 2:
                apart = ((colours[y, x] - colours[v, u]) ** 2).sum() / 12 + ((y - v) ** 2 + (x - u) ** 2) / 20
                expected[i, j] -= math.exp(-apart)
                expected[i, i] += math.exp(-apart)
    assert np.allclose(laplacian(image, size).toarray(), expected, atol=1e-12)


def test_cells_have_the_pixels_around_them():
    image = np.zeros((12, 16, 3), np.uint8)
    image[:, 8:] = 200
    found = image_of_cells(image, 4, (3, 4))
    assert found.shape == (3, 4, 3)
    assert found[1, 0, 0] < 30 < 80 < found[1, 2, 0] < 170 < found[1, 3, 0]  # cell 2 begins 2 pixels before the edge
    assert (image_of_cells(np.full((1, 1, 3), 7, np.uint8), 4, (1, 1)) == 7).all()


def losses(f, labels, smooth):
    """The terms of one image by plain loops over its cells. f: (C, n), log softmax of it is O."""
    o = f.log_softmax(0)
    foreground = [-o[y, i] for i, y in enumerate(labels) if y not in (0, 255)]
    background = [-o[0, i] for i, y in enumerate(labels) if y == 0]
    entropies = [-(o[:, i].exp() * o[:, i]).mean() for i, y in enumerate(labels) if y == 255]
    means = [sum(terms) / max(len(terms), 1) for terms in (foreground, background, entropies)]
    return [means[0], means[1], 10 * means[2], 0.01 / len(labels) * torch.trace(o @ smooth @ o.T)]


def test_the_losses_by_hand():
    p = torch.tensor([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1], [0.6, 0.4]], dtype=torch.float64)
    found = losses(p.log().T, [1, 255, 0, 255], torch.from_numpy(LINE))
    entropy = -(math.log(0.5) + 0.6 * math.log(0.6) + 0.4 * math.log(0.4)) / 4
    steps = sum(((p[i] / p[i + 1]).log() ** 2).sum().item() for i in range(3))
    assert [term.item() for term in found] == pytest.approx([-math.log(0.8), -math.log(0.9), 10 * entropy, steps / 400])


LINE = np.diag([1.0, 2, 2, 1]) - np.diag([1.0] * 3, 1) - np.diag([1.0] * 3, -1)  # the Laplacian of four cells in a row


def test_the_slope_of_the_losses():
    """Of two images of four cells and three classes; the second image has no foreground."""
    f = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[1, 255, 0, 255], [0, 0, 255, 255]])
    loss = sum(sum(losses(f[i], labels[i].tolist(), torch.from_numpy(LINE))) for i in range(2))
    (expected,) = torch.autograd.grad(loss, f)
    smooth = joint([cell_graphs.sparse.csr_array(LINE)] * 2, CPU, torch.float64)
    found = LossSlope(labels, 3, smooth, WsgcnSettings())(f.detach().log_softmax(1))
    assert torch.allclose(found, expected)


def test_training_follows_the_gradient_of_the_formula():
    """Three steps without dropout, against autograd with dense matrices and PyTorch's Adam; more or fewer classes than
    hidden channels."""
    matrix, smooth = walk_matrix(boundary_of((4, 5)), 3, 10.0), laplacian(np.zeros((16, 20, 3), np.uint8), (4, 5))
    nodes, labels = torch.randn(1, 6, 20), torch.tensor([[1] * 5 + [0] * 5 + [255] * 10])
    adjacency = torch.from_numpy(dense_graph(matrix.toarray(), 2)).float()
    for hidden in (2, 8):
        settings = WsgcnSettings(steps=3, dropout=0, hidden=hidden)
        graph = WalkGraph(matrix, 2, CPU)
        found = trained(nodes, labels, 4, [graph], joint([smooth], CPU), [seeded(0)], settings)
        w1, b1, w2, b2 = parameters = initial_parameters((6, hidden, 4), [seeded(0)], CPU)
        optimizer = torch.optim.Adam([p.requires_grad_() for p in parameters], lr=0.01, weight_decay=5e-4)
        for _ in range(3):
            f = (w2[0] @ (w1[0] @ nodes[0] @ adjacency.T + b1[0]).relu()) @ adjacency.T + b2[0]
            optimizer.zero_grad()
            sum(losses(f, labels[0].tolist(), torch.from_numpy(smooth.toarray()).float())).backward()
            optimizer.step()
        f = (w2[0] @ (w1[0] @ nodes[0] @ adjacency.T + b1[0]).relu()) @ adjacency.T + b2[0]
        assert torch.allclose(found[0], f.softmax(0), atol=1e-5)


def test_networks_of_one_batch_do_not_know_of_each_other():
    """An image gets the same beside another, and alone."""
    nodes, labels = torch.randn(2, 5, 30), torch.tensor([[1] * 5 + [0] * 5 + [255] * 20, [2] * 3 + [255] * 27])
    matrices = [walk_matrix(boundary_of((5, 6), seed), 4, 10.0) for seed in (0, 1)]
    smooth = laplacian(np.zeros((20, 24, 3), np.uint8), (5, 6))
    settings = WsgcnSettings(steps=20, doublings=2)

    def fit(which):
        graphs, draws = [WalkGraph(matrices[i], 2, CPU) for i in which], [seeded(i) for i in which]
        return trained(nodes[which], labels[which], 3, graphs, joint([smooth] * len(which), CPU), draws, settings)

    together = fit([0, 1])
    for i in (0, 1):
        assert torch.allclose(together[i], fit([i])[0], atol=1e-4)
    assert together[0, 1, :5].mean() > together[0, 1, 5:10].mean()
    assert together[0, 0, :5].mean() < together[0, 0, 5:10].mean()
    assert torch.allclose(together.sum(1), torch.ones(2, 30), atol=1e-5)


def seeded(number):
    return torch.Generator().manual_seed(number)


def known_of(image, scores, classes):
    maps = ScoreMap("x", scores.astype(np.float32), np.array(classes, np.uint8), image.shape[:2], 4, "cam")
    return Known("x", image, tuple(classes), maps)


def test_sure_labels_by_a_plain_loop():
    random = np.random.default_rng(3)
    image = ndimage.gaussian_filter(random.integers(0, 256, (60, 80, 3)).astype(float), (6, 6, 0))
    image = np.clip((image - 128) * 6 + 128, 0, 255).astype(np.uint8)
    scores = np.stack([ndimage.gaussian_filter(random.random((15, 20)), 3) for _ in range(2)])
    scores = (scores - scores.min((1, 2), keepdims=True)) / np.ptp(scores, (1, 2))[:, None, None]
    scores = np.maximum(scores - 0.4, 0) / 0.6
    crf = WsgcnSettings().crf.resolve()
    found = partial_labels(known_of(image, scores, [2, 7]), (4.0, 32.0), 0.3, 0.8, crf)
    scores = scores.astype(np.float32)
    small = image_of_cells(image, 4, (15, 20))
    grounds = [(1 - scores.max(0)) ** alpha for alpha in (4, 32)]
    low, high = (crf_probabilities(small, np.stack([ground, *scores]), crf) for ground in grounds)
    shown = np.stack([grounds[1], *scores])
    limits = []
    for k in (1, 2):
        own = sorted(v for v, w in zip(shown[k].ravel(), shown.argmax(0).ravel(), strict=True) if w == k and v > 0.1)
        limits.append(own[int(len(own) * 0.7)])
    expected = np.full((15, 20), 255)
    for y, x in np.ndindex(15, 20):
        at, k = (slice(None), y, x), shown[:, y, x].argmax()
        certain = shown[0, y, x] > 0.8 if k == 0 else shown[k, y, x] > limits[k - 1]
        joint_scores = [high[0, y, x], *low[1:, y, x]]
        if not certain or max(joint_scores) < 0.8:
            continue
        label = 0 if high[at].argmax() == 0 else low[at].argmax() or 255
        if label == int(np.argmax(joint_scores)):
            expected[y, x] = [0, 2, 7][label]
    assert np.array_equal(found, expected)
    assert {0, 255} < set(np.unique(found))


def test_an_image_without_classes_is_background():
    image = draw(0)[0]
    found = partial_labels(known_of(image, np.zeros((0, 18, 23)), []), (4, 32), 0.3, 0.8, WsgcnSettings().crf.resolve())
    assert (found == 0).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (61, 83)])
def test_images_of_every_size_with_all_labels(size):
    """One pixel, three rows; each class has a score."""
    cells = tuple((side + 3) // 4 for side in size)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    known = known_of(image, np.random.default_rng(1).random((2, *cells)), [1, 2])
    network = build_boundary_network(ClassifierConfig.model_validate("tiny"), seed=0)
    refiner = Wsgcn(WsgcnSettings(steps=2, doublings=1), network.eval(), Means(CPU))
    refiner.num_classes = 3
    (found,) = refiner.refine([[known]])
    assert found.scores.shape == (2, *cells)
    assert found.meaning == "refined"
    assert ((found.scores >= 0) & (found.scores <= 1)).all()


def test_features_add_up_to_the_boundary_that_irn_sees():
    from stages.refiners.irn import Irn
    from stages.refiners.settings.irn import IrnSettings

    network = build_boundary_network(ClassifierConfig.model_validate("tiny"), seed=0).eval()
    batch = [known_of(draw(index)[0], np.zeros((0, 18, 23)), []) for index in (0, 1)]
    features, boundary = Wsgcn(WsgcnSettings(), network, Means(CPU)).features(batch)
    assert features.shape == (2, network.boundary.in_channels, 18, 23)
    assert np.allclose(boundary, Irn(IrnSettings(), network, Means(CPU)).boundaries(batch), atol=1e-6)


def test_it_takes_the_network_of_irn_and_completes_labels(tmp_path):
    """Six drawn images: the boxes are found, and most of each class wins within them."""
    space = fill(Workspace(tmp_path / "runs"))
    run(space, "train-refiner", "refiner", training_of("irn"))
    inputs = {"data": "data", "seeds": "seeds", "refiner": "refiner"}
    found = run(space, "refine", "whole", {"method": {"name": "wsgcn", "steps": 60, "doublings": 2}}, inputs)
    maps, mask = ScoreMaps(found), draw(0)[1]
    score = maps["t0"].scores[0]
    assert score[mask[::4, ::4] > 0].mean() > 0.7 > 0.4 > score[mask[::4, ::4] == 0].mean()
    with pytest.raises(ConfigError, match="wsgcn does not use the input 'segmenter'"):
        run(space, "refine", "no", {"method": "wsgcn"}, inputs | {"segmenter": "segmenter"})
