"""WeCLIP: its losses by hand, its masks step by step, and what it does with odd images and settings."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from artifacts.errors import ConfigError
from stages.export.onnx import export_onnx
from stages.localization.clip_maps import boxes, grad_cam, spread, stretched
from stages.localization.pixel_adaptive import refined_maps
from stages.methods.settings.weclip import WeclipSettings
from stages.methods.weclip import affinity_loss
from stages.networks import normalise
from stages.networks.clip import random_tower
from stages.networks.clip_segmenter import build_clip_segmenter
from tests.stages.drawn_training import CASES

pytest.importorskip("timm", reason="timm, of the extra clip, is not installed")
SMALL = {key: value for key, value in CASES["weclip"].items() if key != "name"}


def test_the_affinity_loss_of_four_patches_in_a_row_by_hand():
    """Classes 1, 1, 0 and unknown; radius 1: the pairs (0, 1), (1, 2), both ways, and each patch with itself."""
    affinity = torch.full((1, 4, 4), 0.9)
    affinity[0, 0, 1], affinity[0, 1, 0], affinity[0, 1, 2], affinity[0, 2, 1] = 0.8, 0.6, 0.3, 0.1
    affinity[0, 0, 0], affinity[0, 1, 1], affinity[0, 2, 2] = 1.0, 0.5, 0.7
    cells = torch.tensor([[[1, 1, 0, 255]]])
    attracted = (0.2 + 0.4 + 0.0 + 0.5 + 0.3) / 5
    repelled = (0.3 + 0.1) / 2
    assert float(affinity_loss(affinity, cells, 1)) == pytest.approx((attracted + repelled) / 2)
    assert float(affinity_loss(affinity, torch.full_like(cells, 255), 1)) == 0


def test_patches_are_near_within_a_square():
    """Of a map of 5 x 6 patches, by a plain loop over all pairs."""
    torch.manual_seed(0)
    affinity, cells = torch.rand(1, 30, 30), torch.randint(0, 2, (1, 5, 6))
    sums = {True: [0.0, 0], False: [0.0, 0]}
    for i in range(30):
        for j in range(30):
            if abs(i // 6 - j // 6) <= 2 and abs(i % 6 - j % 6) <= 2:
                same = bool(cells.view(-1)[i] == cells.view(-1)[j])
                sums[same][0] += float(1 - affinity[0, i, j] if same else affinity[0, i, j])
                sums[same][1] += 1
    expected = sum(total / count for total, count in sums.values()) / 2
    assert float(affinity_loss(affinity, cells, 2)) == pytest.approx(expected, rel=1e-5)


def test_the_background_and_the_foreground_weigh_the_same(case):
    made = case("weclip", **SMALL)
    samples, network = made.batch["labelled"], made.method.network
    tokens = network.look(samples.image)
    mask = made.method.masks(samples, tokens, network.grid(samples.image), None)
    losses, logits = made.losses(), network(samples.image)
    for term, part in (("background", mask == 0), ("foreground", (mask > 0) & (mask != 255))):
        expected = F.cross_entropy(logits.permute(0, 2, 3, 1)[part], mask[part])
        torch.testing.assert_close(losses[term], expected / 2)


@pytest.mark.parametrize("late", [False, True])
def test_the_mask_of_an_image_is_made_of_the_steps_of_the_code(case, late):
    """One image after the other, with whole matrices in the place of the products, in the order of the formula."""
    made = case("weclip", **SMALL, own_affinity_blocks=3)
    method, samples, network = made.method, made.batch["labelled"], made.method.network
    tokens, grid = network.look(samples.image), network.grid(samples.image)
    flat = torch.randn(len(samples), 3, grid[0] * grid[1], generator=torch.Generator().manual_seed(0))
    affinity = (flat.transpose(1, 2) @ flat).sigmoid()  # the attention of random weights is almost the same everywhere
    found = method.masks(samples, tokens, grid, affinity if late else None)
    for row, image_id in enumerate(samples.ids):
        labels, own = method.labels[image_id], [part[row : row + 1] for part in tokens]
        attention = [network.tower.attention(number, part)[0] for number, part in enumerate(own)]
        joined = sum(attention)
        if late:
            attention = attention[-3:]
            score = [(affinity[row] - a).sum() for a in attention]
            taken = [a for a, value in zip(attention, score, strict=True) if value <= sum(score) / 3]
            assert 0 < len(taken) < 3
            joined = sum(taken) * affinity[row]
        (maps,) = grad_cam(network.tower, method.texts, own[-1], network.tower.last_norm(own[-1]), [labels])
        maps = stretched(maps)
        inside = torch.from_numpy(boxes(maps.view(-1, *grid).numpy(), 0.4)).flatten(1)
        scores = torch.zeros(4, *grid)
        for label, values in zip(labels, maps * inside, strict=True):
            scores[label] = stretched(spread(joined, values[None], 3, 2))[0].view(grid)
        size = samples.image.shape[2:]
        full = F.interpolate(scores[None], scale_factor=16.0, mode="bilinear")[..., : size[0], : size[1]]
        full[:, 0] = 1 - full[:, 1:].amax(1)
        expected = refined_maps(samples.image[row : row + 1], full, method.around, 20).argmax(1)[0]
        valid = samples.valid[row]
        assert (found[row][valid] == expected[valid]).float().mean() > 0.999
        assert bool((found[row][~valid] == 255).all())


def test_a_mask_has_labels_of_its_image_and_images_without_one_are_background(case):
    made = case("weclip", **SMALL)
    method, samples = made.method, made.batch["labelled"]
    first, second = samples.ids[:2]
    tokens, grid = method.network.look(samples.image), method.network.grid(samples.image)
    method.labels |= {first: (), second: (1, 2, 3)}
    mask = method.masks(samples, tokens, grid, None)
    for row, image_id in enumerate(samples.ids):
        assert set(mask[row].unique().tolist()) <= {0, 255, *method.labels[image_id]}
    method.labels = dict.fromkeys(samples.ids, ())
    assert set(method.masks(samples, tokens, grid, None).unique().tolist()) <= {0, 255}
    losses = {term: value.detach() for term, value in made.losses().items()}
    assert losses["foreground"] == 0
    assert all(bool(torch.isfinite(value)) for value in losses.values())


def test_clip_never_learns_and_everything_else_does(case):
    gradients = case("weclip", **SMALL).gradients()
    learned = {name for name, value in gradients.items() if value is not None and value.any()}
    assert learned == {name for name in gradients if ".tower." not in name}


def test_the_affinity_takes_part_from_the_middle_on(case, monkeypatch):
    made = case("weclip", **SMALL)
    given = []
    masks = made.method.masks
    monkeypatch.setattr(made.method, "masks", lambda *values: given.append(values[-1] is not None) or masks(*values))
    for step in range(made.method.setup.iterations):  # six
        made.method.losses(made.batch, step)
    assert given == [False] * 3 + [True] * 3


def test_images_of_any_size_are_predicted_alike_in_every_batch():
    network = build_clip_segmenter(random_tower(), 4, seed=0, channels=16, heads=2).eval()
    for size in ((1, 1), (16, 16), (33, 50)):
        images = torch.randn(2, 3, *size)
        with torch.inference_mode():
            logits = network(images)
            assert logits.shape == (2, 4, *size)
            torch.testing.assert_close(logits[1:], network(images[1:]), rtol=1e-4, atol=1e-5)


def test_what_is_written_as_onnx_gives_what_torch_gives(tmp_path):
    onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
    from onnx.reference import ReferenceEvaluator

    network = build_clip_segmenter(random_tower(), 4, seed=0, channels=16, heads=2).eval()
    network.class_names = ("background", "a", "b", "c")
    export_onnx(network, tmp_path / "net.onnx")
    image = torch.randint(0, 256, (2, 3, 33, 51), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    (found,) = ReferenceEvaluator(onnx.load(str(tmp_path / "net.onnx"))).run(None, {"image": image.numpy()})
    with torch.inference_mode():
        expected = network(normalise(image)).softmax(1)
    assert expected.std() > 0.05
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=1e-3)


def test_two_decoders_differ_by_their_seed_alone():
    small = {"channels": 16, "heads": 2}
    first, again, other = (build_clip_segmenter(random_tower(), 4, seed, **small) for seed in (1, 1, 2))
    differs = {name for name, value in other.state_dict().items() if not torch.equal(value, first.state_dict()[name])}
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in again.state_dict().items())
    assert {"scores.weight", "fuse.weight", "embed.0.0.weight", "blocks.2.attn.qkv.weight"} <= differs
    assert not any(name.startswith("tower.") for name in differs)


def test_what_is_missing_is_said_before_any_work(training):
    classes = training.dataset.class_names
    with pytest.raises(ConfigError, match=r"method\.clip: CLIP has no weights") as raised:
        WeclipSettings().check(classes)
    assert "method.clip.weights" in raised.value.hint
    with pytest.raises(ConfigError, match="5 channels cannot be shared among 2 heads"):
        training.config({"name": "weclip", "decoder": {"channels": 5, "heads": 2}})


def test_a_network_of_another_kind_is_refused(training):
    from stages.config import build
    from stages.methods.settings import TrainConfig

    with pytest.raises(ConfigError, match="network has no effect on weclip"):
        build(TrainConfig, {"method": "weclip", "network": {"preset": "tiny", "dropout": 0.3}}, "test")
    assert build(TrainConfig, {"method": "weclip", "network": "tiny"}, "test").method.name == "weclip"
