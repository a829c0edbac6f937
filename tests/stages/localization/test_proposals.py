"""stages/localization/proposals.py, proposal_graph.py: layers, files, means, neighbours by hand and by plain loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from artifacts.errors import DataError
from artifacts.score_maps import ScoreMap
from stages.engine.known import Known
from stages.localization.grid import resize_maps
from stages.localization.proposal_graph import blocks, class_weights, edges_of, nearest
from stages.localization.proposals import LAYERS, pooled, prepare, proposals_of, spread
from stages.localization.segment_layers import NONE, check_folder, in_layers, region_layers
from stages.localization.superpixel_graph import Features
from stages.refiners.settings.liid import LiidTrainingSettings
from tests.stages.refiners.small_refinement import draw

CPU = torch.device("cpu")


def layered(masks):
    return in_layers(masks, masks.shape[1:])


def known_of(image: np.ndarray) -> Known:
    size = image.shape[:2]
    return Known("a", image, (), ScoreMap("a", np.zeros((0, *size)), np.zeros(0, np.uint8), size, 1, "cam"))


def save(folder, masks=None, labels=None):
    if masks is not None:
        np.savez(folder / "a.npz", masks=masks)
    if labels is not None:
        Image.fromarray(labels).save(folder / "a.png")
    return str(folder)


def test_levels_are_made_of_each_other_and_no_region_comes_twice():
    layers = region_layers(draw(0)[0], (4, 12, 36, 12))
    assert layers.shape[0] == 3
    masks = [layers[level] == number for level, own in enumerate(layers) for number in np.unique(own[own != NONE])]
    assert [np.unique(own[own != NONE]).min() for own in layers] == sorted(own[own != NONE].min() for own in layers)
    assert len(masks) == layers.max() + 1
    assert len({mask.tobytes() for mask in masks}) == len(masks)
    for fine, coarse in itertools.pairwise(layers):
        for number in np.unique(fine[fine != NONE]):
            assert len(np.unique(coarse[fine == number])) == 1


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (2, 2)])
def test_images_of_few_pixels_have_regions(size):
    layers = region_layers(np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8), (36, 12, 4))
    assert (layers != NONE).any(0).all()


def test_masks_that_cover_each_other_come_layered(tmp_path):
    masks = np.zeros((5, 4, 4), bool)
    masks[0, :2], masks[1, 1:3], masks[2, 2:], masks[4] = True, True, True, True  # 3 is empty
    layers = layered(masks)
    assert layers[0].tolist() == [[0] * 4, [0] * 4, [2] * 4, [2] * 4]
    assert layers[1].tolist() == [[NONE] * 4, [1] * 4, [1] * 4, [NONE] * 4]
    assert (layers[2] == 3).all()
    known = known_of(np.zeros((4, 4, 3), np.uint8))
    assert np.array_equal(proposals_of(known, save(tmp_path, masks), (4,), 100), layers)
    assert proposals_of(known, str(tmp_path), (4,), 2).max() == 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_label_map_is_one_layer(tmp_path, dtype):
    labels = np.zeros((3, 5), dtype)
    labels[0], labels[2, :2] = 7, 200
    known = known_of(np.zeros((3, 5, 3), np.uint8))
    found = proposals_of(known, save(tmp_path, labels=labels), (4,), 100)
    assert found.tolist() == [[[0] * 5, [NONE] * 5, [1, 1, NONE, NONE, NONE]]]
    assert proposals_of(known, str(tmp_path), (4,), 1).tolist() == [[[0] * 5, [NONE] * 5, [NONE] * 5]]
    maps = prepare(LiidTrainingSettings(proposals=str(tmp_path)), known)
    assert tuple(maps) == LAYERS
    assert maps[LAYERS[0]].tolist() == [[0] * 5, [255] * 5, [1, 1, 255, 255, 255]]
    assert (maps[LAYERS[1]] == 255).all()


@pytest.mark.parametrize(
    ("masks", "labels", "message"),
    [
        (None, np.zeros((4, 4), np.uint8), "no segment"),
        (np.zeros((2, 4, 4), bool), None, "no segment"),
        (np.zeros((0, 4, 4), bool), None, "no segment"),
        (np.ones((2, 4, 5), bool), None, "5x4 pixels, the image has 4x4"),
        (None, np.ones((8, 4), np.uint8), "4x8 pixels, the image has 4x4"),
        (np.ones((2, 4, 4), np.uint8), None, "`masks` is uint8"),
        (np.ones((4, 4), bool), None, "`masks` is bool of shape"),
        (None, np.ones((4, 4, 3), np.uint8), "mode is RGB"),
    ],
)
def test_files_that_are_no_proposals_of_the_image(tmp_path, masks, labels, message):
    with pytest.raises(DataError, match=message):
        proposals_of(known_of(np.zeros((4, 4, 3), np.uint8)), save(tmp_path, masks, labels), (4,), 100)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"\x89PNG\r\n\x1a\n cut"])
@pytest.mark.parametrize("name", ["a.png", "a.npz"])
def test_damaged_files_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name} cannot be read"):
        proposals_of(known_of(np.zeros((4, 4, 3), np.uint8)), str(tmp_path), (4,), 100)


def test_images_without_a_file_are_counted(tmp_path):
    save(tmp_path, labels=np.ones((4, 4), np.uint8))
    check_folder(str(tmp_path), ["a"], "method.proposals")
    with pytest.raises(DataError, match="has no proposals of 2 of 3 images: b, c"):
        check_folder(str(tmp_path), ["c", "a", "b"], "method.proposals")
    with pytest.raises(DataError, match="not a folder"):
        check_folder(str(tmp_path / "none"), ["a"], "method.proposals")


@pytest.mark.parametrize("boxes", [False, True])
@pytest.mark.parametrize("patches", [False, True])
def test_means_over_pixels_and_over_boxes(boxes, patches):
    """As features at every pixel, averaged in a loop; two layers."""
    rng = np.random.default_rng(1)
    stride, size = 4, (16, 20)
    features = rng.random((3, 4, 5)).astype(np.float32)
    full = resize_maps(features, size, stride)
    if patches:
        grown = torch.nn.functional.interpolate(torch.from_numpy(features)[None], scale_factor=stride, mode="bilinear")
        full = grown[0].numpy()
    masks = np.zeros((4, *size), bool)
    masks[0, 1:5, 3:9], masks[1, 2, 2], masks[1, 9, 9], masks[2, :, 15], masks[3, 3:8, :] = True, True, True, True, True
    found = pooled(layered(masks), Features(features, stride, patches), boxes)
    for number, mask in enumerate(masks):
        y, x = np.nonzero(mask)
        area = np.zeros_like(mask)
        area[y.min() : y.max() + 1, x.min() : x.max() + 1] = True
        assert np.allclose(found[number], full[:, area if boxes else mask].mean(1), atol=1e-5)


def test_a_pixel_has_the_mean_of_the_proposals_that_cover_it():
    """Proposal 0 is of class 5, 1 of background, 2 of class 5; the last pixel is in none."""
    layers = np.array([[[0, 0, 1, NONE]], [[NONE, 2, 2, NONE]]])
    found = spread(layers, np.array([5, 0, 5]), np.array([0.8, 0.6, 0.4]), [0, 2, 5])
    assert np.allclose(found[:, 0], [[0, 0, 0.3, 1], [0, 0, 0, 0], [0.8, 0.6, 0.2, 0]])


def test_weights_for_classes_by_hand():
    scores = np.array([[0.3, 0.2, -1, 0.1], [0.05, 0.92, 0.03, -1], [0.5, 5e-5, 0.4, 0.1]])
    found = class_weights(scores, 2, 0.9)
    assert found.tolist() == [[0.3, 0.2, -np.inf, 0], [0, 0.92, 0, -np.inf], [0.5, 0, 0.4, 0]]
    assert class_weights(scores, 9, 0.95)[1, 2] == 0.03


@pytest.mark.parametrize("within", [False, True])
def test_neighbours_by_a_plain_loop(within, monkeypatch):
    monkeypatch.setattr("stages.localization.proposal_graph.ROWS", 7)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 5)).astype(np.float16)
    images = np.sort(rng.integers(0, 8, 40))
    labels = (rng.random((8, 3)) < 0.4)[images]
    places, cosines, links = nearest(features, images, labels, 3, within, CPU)
    unit = features / np.linalg.norm(features.astype(float), axis=1, keepdims=True)
    for row in range(40):
        others = [i for i in range(40) if i != row and (within or images[i] != images[row])]
        best = sorted(others, key=lambda i: -(unit[row] @ unit[i]))[:3]
        assert places[row].tolist() == best
        assert np.allclose(cosines[row], [unit[row] @ unit[i] for i in best], atol=1e-3)
        assert links[row].tolist() == [bool((labels[row] & labels[i]).any()) for i in best]


def test_the_only_image_has_no_neighbours():
    places, _, links = nearest(np.ones((2, 3)), np.zeros(2, int), np.ones((2, 1), bool), 3, False, CPU)
    assert places.shape == (2, 2)
    assert not links.any()


def test_links_by_hand():
    """0 and 1 are nearest to each other, 2 is nearest to 0 alone; what 1 has second is no link."""
    places, links = np.array([[1], [0], [0]]), np.array([[True], [True], [True]])
    cosines = np.array([[0.9], [0.9], [0.4]], np.float32)
    pairs, similar = edges_of(places, links, cosines, mutual=False)
    assert pairs.tolist() == [[0, 1], [0, 2]]
    assert np.allclose(similar, [0.9, 0.4])
    assert edges_of(places, links, cosines, mutual=True)[0].tolist() == [[0, 1]]
    assert edges_of(places, ~links, cosines, mutual=False)[0].shape == (0, 2)


def test_blocks_are_of_images_that_are_alike():
    labels = np.array([[1, 0], [0, 1], [1, 0], [0, 1], [1, 0], [0, 1]], bool)
    found = [block.tolist() for block in blocks(labels, np.full(6, 10), 30)]
    assert found == [[0, 2, 4], [1, 3, 5]]
    assert [block.tolist() for block in blocks(labels, np.full(6, 10), 1000)] == [[0, 1, 2, 3, 4, 5]]
    many = list(blocks(np.ones((100, 3), bool), np.random.default_rng(0).integers(1, 50, 100), 200))
    assert sorted(np.concatenate(many).tolist()) == list(range(100))
