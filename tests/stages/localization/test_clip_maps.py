"""Maps of CLIP, step by step against the published text: gradient of the probability, dense matrices, plain loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from stages.localization.clip_config import ClipSource
from stages.localization.clip_maps import (
    ClipTexts,
    boxes,
    clip_maps,
    grad_cam,
    log_odds,
    maps_of_patches,
    spread,
    stretched,
    whole_patches,
)
from stages.localization.grid import resize_maps
from stages.networks.clip import ClipImageTower, image_tower
from tests.stages.networks.reference_clip import Vision, reference_clip

pytest.importorskip("timm")

PAPER = ClipSource(name="clip")
LABELS = [(1, 3), (2,), (1, 2, 3)]


def texts(vector: int = 32, seed: int = 1) -> ClipTexts:
    rows = F.normalize(torch.randn(7, vector, generator=torch.Generator().manual_seed(seed)), dim=-1)
    return ClipTexts(rows[:3], rows[3:])


def published_cam(vision: Vision, image: Tensor, known: ClipTexts, labels: tuple[int, ...], k: int) -> Tensor:
    """Grad-CAM of the probability of label k of one image, before it is stretched, by the text of the paper."""
    tokens, _ = vision.before_last(image[None])
    normed = vision.transformer["resblocks"][-1].ln_1(tokens).detach().requires_grad_()
    vector, _ = vision.vectors(tokens, normed)
    rows = torch.cat([known.classes[[label - 1 for label in labels]], known.background])
    probability = (20 * vector @ rows.T).softmax(-1)[0, k]
    (gradient,) = torch.autograd.grad(probability, normed)
    return (normed.detach()[0, 1:] * gradient[0, 1:].mean(0)).sum(-1).relu()


def unit(maps: Tensor) -> Tensor:
    return (maps - maps.min()) / (maps.max() - maps.min())


@pytest.fixture(scope="module")
def small() -> tuple[Vision, ClipImageTower, Tensor]:
    vision, state = reference_clip()
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    return vision, image_tower(state, "quick_gelu").requires_grad_(False), images


def test_maps_follow_the_gradient_of_the_probability_among_labels_and_background(small: Any) -> None:
    vision, tower, images = small
    found = maps_of_patches(tower, texts(), images, LABELS, ClipSource(name="clip", attention_blocks=0))
    for image, labels, maps in zip(images, LABELS, found, strict=True):
        assert maps.shape == (len(labels), 4, 4)
        for k in range(len(labels)):
            expected = unit(published_cam(vision, image, texts(), labels, k))
            torch.testing.assert_close(maps[k].flatten(), expected, atol=2e-4, rtol=0)


def test_log_odds_worked_by_hand() -> None:
    logits = torch.tensor([[1.0, 9.0, 2.0, 3.0]])
    allowed = torch.tensor([[True, False, True, True]])
    P = np.exp(1) / (np.exp(1) + np.exp(2) + np.exp(3))
    assert log_odds(logits, torch.tensor([0]), allowed).item() == pytest.approx(np.log(P / (1 - P)), abs=1e-6)


def test_a_map_does_not_vanish_where_the_network_is_certain(small: Any) -> None:
    """The probability is 1 in fp32, and its gradient 0: published maps are empty there."""
    _, tower, images = small
    tokens, _ = tower.before_last(images[:1], 0)
    normed = tower.last_norm(tokens)
    vector = tower.last(tokens, normed)
    away = ClipTexts(vector.repeat(3, 1), -vector.repeat(4, 1) + 0.1 * texts().background)
    (found,) = grad_cam(tower, away, tokens, normed, [(1,)])
    assert (20 * vector @ torch.cat([away.classes[:1], away.background]).T).softmax(-1)[0, 0] == 1
    assert found.max() > 1e-4


def test_attention_spreads_maps_as_the_published_product_of_matrices_does(small: Any) -> None:
    """Worked with dense matrices: columns, then rows to sum 1, three times; the mean with its transpose; its square."""
    generator = torch.Generator().manual_seed(0)
    attention = torch.rand(9, 9, generator=generator, dtype=torch.float64)
    maps = torch.rand(2, 9, generator=generator, dtype=torch.float64)
    D = attention.numpy()
    for _ in range(3):
        D = D / D.sum(0, keepdims=True)
        D = D / D.sum(1, keepdims=True)
    A = (D + D.T) / 2
    expected = (A @ A @ maps.numpy().T).T
    np.testing.assert_allclose(spread(attention, maps, rounds=3, power=2).numpy(), expected, rtol=1e-6)


def test_the_whole_chain_is_worked_from_the_reference(small: Any) -> None:
    vision, tower, images = small
    settings = ClipSource(name="clip", attention_blocks=3)
    found = maps_of_patches(tower, texts(), images, LABELS, settings)
    for image, labels, maps in zip(images, LABELS, found, strict=True):
        tokens, attentions = vision.before_last(image[None])
        _, last = vision.vectors(tokens, vision.transformer["resblocks"][-1].ln_1(tokens))
        mean = (sum(attentions[-2:]) + last)[0, 1:, 1:] / 3
        for k in range(len(labels)):
            cam = unit(published_cam(vision, image, texts(), labels, k))
            inside = torch.from_numpy(boxes(cam.view(1, 4, 4).numpy(), 0.4)).flatten()
            expected = unit(spread(mean, (cam * inside)[None], 3, 2))
            torch.testing.assert_close(maps[k].flatten(), expected[0], atol=2e-3, rtol=0)


def test_boxes_enclose_each_area_up_to_the_last_row_and_column() -> None:
    """The published code leaves out the last row and column of a box that reaches the border."""
    area = np.array(
        [
            [0.5, 0.0, 0.0, 0.0, 0.0],
            [0.0, 1.0, 0.0, 0.0, 0.0],  # touches the first diagonally: one area
            [0.0, 0.0, 0.0, 0.4, 0.0],  # not above 0.4
            [0.0, 0.0, 0.0, 0.0, 0.9],
        ],
        np.float32,
    )
    expected = np.zeros((4, 5))
    expected[:2, :2] = 1
    expected[3, 4] = 1
    np.testing.assert_array_equal(boxes(np.stack([area, 0 * area]), 0.4), [expected, 0 * expected])


def test_constant_maps_become_zeros() -> None:
    maps = stretched(torch.tensor([[0.0, 0.0, 0.0], [0.3, 0.3, 0.3], [1e-9, 3e-9, 2e-9]]))
    torch.testing.assert_close(maps, torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.5]]))


def test_bf16_stays_near_fp32(small: Any) -> None:
    _, tower, images = small
    exact = maps_of_patches(tower, texts(), images, LABELS, PAPER)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coarse = maps_of_patches(tower, texts(), images, LABELS, PAPER)
    differences = torch.cat([(a - b).abs().flatten() for a, b in zip(exact, coarse, strict=True)])
    assert differences.mean() < 0.05


# --- images: positions, sizes, batches ---


class Images:
    """As a `Dataset`: images of an array each, with labels."""

    def __init__(self, images: dict[str, np.ndarray], labels: dict[str, tuple[int, ...]]) -> None:
        self.images, self.labels = images, labels

    def size(self, image_id: str) -> tuple[int, int]:
        return self.images[image_id].shape[:2]

    def image(self, image_id: str) -> np.ndarray:
        return self.images[image_id]

    def tags(self, image_id: str) -> tuple[int, ...]:
        return self.labels[image_id]


def brightness_tower() -> tuple[ClipImageTower, ClipTexts]:
    """A network whose map is the brightness of a patch: one block, equal attention, no MLP; text 0 is light."""
    tower = ClipImageTower(width=64, depth=1, patch=16, side=4, vector=64, activation="gelu").eval()
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.zero_()
        for norm in (tower.net.norm_pre, tower.net.norm, tower.net.blocks[0].norm1, tower.net.blocks[0].norm2):
            norm.weight.fill_(1)
        tower.net.pos_embed[..., 1] = 5.0  # so that the scale of a patch's vector depends little on its brightness
        tower.net.patch_embed.proj.weight[0] = 1 / (3 * 16 * 16)
        tower.net.blocks[0].attn.qkv.weight[128:] = torch.eye(64)
        tower.net.blocks[0].attn.proj.weight[:] = torch.eye(64)
        tower.project.weight[:] = torch.eye(64)
    return tower.requires_grad_(False), ClipTexts(torch.eye(64)[:1], -torch.eye(64)[:1])


@pytest.mark.parametrize("size", [(128, 160), (125, 150), (113, 161)])
def test_a_map_lies_where_the_object_is(size: tuple[int, int]) -> None:
    """A light square of 48 pixels whose edges are between patches: the map's centre of mass is the square's."""
    image = np.zeros((*size, 3), np.uint8)
    image[40:88, 56:104] = 255
    tower, known = brightness_tower()
    options = {"max_pixels": 10**6, "device": torch.device("cpu")}
    data: Any = Images({"a": image}, {"a": (1,)})
    (found,) = clip_maps(tower, known, data, ["a"], ClipSource(name="clip", attention_blocks=0), **options)
    scores = resize_maps(found.scores, size, found.stride)[0]
    assert found.scores.shape[1:] == tuple(-(-side // 4) for side in size)
    assert scores.max() > 0.9
    rows, columns = np.mgrid[: size[0], : size[1]]
    centre = [(scores * places).sum() / scores.sum() for places in (rows, columns)]
    np.testing.assert_allclose(centre, [63.5, 79.5], atol=1.0)
    assert scores[62:66, 78:82].min() > 0.8 > 0.2 > max(scores[10:20].max(), scores[:, 10:30].max())


def test_the_batch_size_changes_nothing_and_images_without_labels_have_no_maps(small: Any) -> None:
    _, tower, _ = small
    drawn = np.random.default_rng(0)
    shapes = {"a": (50, 70), "b": (50, 70), "c": (64, 64), "d": (50, 70), "e": (1, 1), "f": (9, 40)}
    data: Any = Images(
        {key: drawn.integers(0, 256, (*shape, 3), np.uint8) for key, shape in shapes.items()},
        {"a": (1, 2), "b": (3,), "c": (1, 2, 3), "d": (), "e": (2,), "f": (1,)},
    )
    options = {"max_pixels": 4096, "device": torch.device("cpu")}
    found = {}
    for batch_size in (1, 8):
        settings = ClipSource(name="clip", batch_size=batch_size)
        found[batch_size] = {m.image_id: m for m in clip_maps(tower, texts(), data, list(shapes), settings, **options)}
    assert found[1].keys() == shapes.keys()
    for image_id, maps in found[1].items():
        assert maps.scores.shape[0] == len(maps.classes) == len(data.tags(image_id))
        assert tuple(maps.classes) == data.tags(image_id)
        np.testing.assert_allclose(maps.scores, found[8][image_id].scores, atol=2e-3)


def test_large_images_are_looked_at_as_copies(tmp_path: Path) -> None:
    image = np.zeros((90, 200, 3), np.uint8)
    assert whole_patches(image, 16, 10**6).shape == (96, 208, 3)
    small = whole_patches(image, 16, 4500)  # 45 x 100
    assert small.shape == (48, 112, 3)
    gradient = np.tile(np.arange(96, dtype=np.uint8)[:, None, None], (1, 96, 3))
    np.testing.assert_array_equal(whole_patches(gradient, 16, 10**6), gradient)
    assert Image.fromarray(small).size == (112, 48)
