"""stages/networks/vision_transformer.py; timm's own network is the independent reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pydantic
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from artifacts.errors import ConfigError
from stages.networks import build_segmenter, load_network, make_head
from stages.networks.blocks import upsample
from stages.networks.config import NetworkConfig
from stages.networks.segmenter import Segmenter, seeded
from stages.networks.vision_transformer import ARCHITECTURES, DPT, LEVELS, DinoV2

timm = pytest.importorskip("timm")
TINY = {"depth": 4, "embed_dim": 32, "num_heads": 2, "img_size": 70}  # 5 x 5 patches
NAME = "vit_small_patch14_dinov2"
SMALL = {"preset": "dpt-dinov2-small", "weights": "none"}


@pytest.fixture
def tiny() -> DinoV2:
    with seeded(0):
        backbone = DinoV2(NAME, (0, 1, 2, 3), **TINY).eval()
        for parameter in backbone.parameters():  # the scales of the branches start near 0 and would hide everything
            nn.init.normal_(parameter, std=0.3)
    return backbone


@pytest.fixture
def head() -> DPT:
    with seeded(1):
        return DPT(32, 3, (8, 12, 16, 20), 8, 0.0).eval()


@pytest.mark.parametrize("size", [(70, 70), (56, 98)])
def test_maps_are_timms_intermediate_features(size: tuple[int, int], tiny: DinoV2) -> None:
    """Also for images of another shape than the position embedding was made for."""
    reference = timm.create_model(NAME, num_classes=0, dynamic_img_size=True, **TINY).eval()
    reference.load_state_dict(tiny.state_dict())
    images = torch.randn(2, 3, *size)
    with torch.inference_mode():
        found = tiny(images)
        expected = reference.forward_intermediates(images, indices=4, norm=True, intermediates_only=True)
    assert tuple(found) == LEVELS
    for level, other in zip(found.values(), expected, strict=True):
        assert level.shape == (2, 32, size[0] // 14, size[1] // 14)
        torch.testing.assert_close(level, other, rtol=1e-4, atol=1e-4)


def test_the_published_blocks_are_taken(tiny: DinoV2) -> None:
    few = DinoV2(NAME, (1, 3), **TINY).eval()
    few.load_state_dict(tiny.state_dict())
    images = torch.randn(1, 3, 70, 70)
    found = zip(("low", "level_2"), few.levels(images), strict=True)
    for (_, level), name in zip(found, ("level_2", "high"), strict=True):
        torch.testing.assert_close(level, tiny(images)[name])
    assert {name: made.blocks for name, made in ARCHITECTURES.items()} == {
        "dinov2_small": (2, 5, 8, 11),
        "dinov2_base": (2, 5, 8, 11),
        "dinov2_large": (4, 11, 17, 23),
    }


@pytest.mark.parametrize("size", [(57, 70), (33, 41)])
def test_images_of_any_size_are_padded_to_whole_patches(size: tuple[int, int], tiny: DinoV2) -> None:
    images = torch.randn(1, 3, *size)
    padded = torch.zeros(1, 3, *(-(-side // 14) * 14 for side in size))
    padded[..., : size[0], : size[1]] = images
    for level, other in zip(tiny(images).values(), tiny(padded).values(), strict=True):
        torch.testing.assert_close(level, other)


def test_published_sizes() -> None:
    """DINOv2: 21 M, 86 M and 300 M parameters (its README)."""
    for name, millions in (("dinov2_small", 22), ("dinov2_base", 87), ("dinov2_large", 304)):
        with torch.device("meta"):
            network = Segmenter(NetworkConfig.model_validate({**SMALL, "backbone": name}), 21)
        count = sum(parameter.numel() for parameter in network.backbone.parameters())
        assert round(count / 1e6) == millions
        assert (
            network.backbone.high_channels == {"small": 384, "base": 768, "large": 1024}[name.removeprefix("dinov2_")]
        )


def test_dpt_written_out(head: DPT) -> None:
    """Ranftl et al., Fig. 1: reassemble at 4, 2, 1, 1/2, fuse from the coarsest on, predict at 8 cells a patch."""

    def unit(x: torch.Tensor, layer: Any) -> torch.Tensor:
        inner = F.conv2d(x.clamp(min=0), layer.conv1.weight, layer.conv1.bias, padding=1).clamp(min=0)
        return x + F.conv2d(inner, layer.conv2.weight, layer.conv2.bias, padding=1)

    features = {name: torch.randn(2, 32, 3, 5) for name in LEVELS}
    levels: list[Any] = []
    for number, name in enumerate(LEVELS):
        x: Any = head.resizes[number](head.projects[number](features[name]))
        levels.append(F.conv2d(x, head.levels[number].weight, padding=1))  # type: ignore[arg-type]
    assert [tuple(level.shape[2:]) for level in levels] == [(12, 20), (6, 10), (3, 5), (2, 3)]
    path = None
    for number in (3, 2, 1, 0):
        fusion: Any = head.fusions[number]
        path = levels[number] if path is None else path + unit(levels[number], fusion.level)
        path = unit(path, fusion.both)
        # published: first enlarged, then projected; a 1x1 convolution and an interpolation may change places
        path = upsample(path, (3, 5), 2) if number == 3 else F.interpolate(path, scale_factor=2.0, mode="bilinear")
        path = fusion.project(path)
    scores = head.scores(head.block(path))
    expected = F.interpolate(scores, size=(42, 70), mode="bilinear")
    torch.testing.assert_close(head(features), expected, rtol=1e-4, atol=1e-6)


def test_logits_lie_in_the_middle_of_their_patches(head: DPT) -> None:
    """A mirrored image has mirrored logits, to the pixel, where the kernels are mirrored too: nothing is shifted."""
    features = {name: torch.randn(1, 32, 5, 7) for name in LEVELS}  # odd: cell j of the coarsest level on cell 2 j
    expected = head(features).flip(-1, -2)
    with torch.no_grad():
        for parameter in head.parameters():
            if parameter.ndim == 4:
                parameter.copy_(parameter.flip(-1, -2))
    torch.testing.assert_close(head({n: x.flip(-1, -2) for n, x in features.items()}), expected, rtol=1e-3, atol=1e-5)


def test_an_image_moved_by_two_patches_has_logits_moved_by_28_pixels(head: DPT) -> None:
    whole = {name: torch.randn(1, 32, 20, 20) for name in LEVELS}
    moved = head({name: level[..., 2:, 2:] for name, level in whole.items()})
    torch.testing.assert_close(moved[..., 112:140, 112:140], head(whole)[..., 140:168, 140:168], rtol=1e-3, atol=1e-6)


def test_a_segmenter_gives_logits_for_every_pixel_and_comes_back(tmp_path: Path) -> None:
    network = build_segmenter(NetworkConfig.model_validate(SMALL), 4, seed=0)
    assert network.stride == 1
    for size in ((28, 42), (33, 25)):
        images = torch.randn(2, 3, *size)
        logits, features = network(images), network.trunk(images)
        assert logits.shape == (2, 4, *size)
        torch.testing.assert_close(upsample(network.head(features), size, 1), logits)
    assert make_head(network.config, 4, seed=1)(features).shape[1] == 4
    logits.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    (tmp_path / "network.json").write_text(json.dumps(network.spec(("background", "cat", "cow", "dog"))))
    assert torch.equal(load_network(tmp_path)(images), network.eval()(images))


def test_a_state_dict_of_timm_or_dinov2_is_loaded_whole(tmp_path: Path) -> None:
    """DINOv2's own files hold a mask token beside the same names (made here: the shapes are those of the small one)."""
    torch.manual_seed(5)  # not the seed of the network below
    state = timm.create_model(NAME, num_classes=5).state_dict()  # with a classifier, as after fine-tuning
    assert state["pos_embed"].shape == (1, 1 + 37 * 37, 384)
    state["mask_token"] = torch.zeros(1, 384)
    torch.save(state, tmp_path / "dinov2.pth")
    network = build_segmenter(NetworkConfig.model_validate({**SMALL, "weights": str(tmp_path / "dinov2.pth")}), 3, 0)
    own = network.backbone.state_dict()
    assert set(own) == set(state) - {"mask_token", "head.weight", "head.bias"}
    assert all(torch.equal(value, state[name]) for name, value in own.items())
    assert {group["name"] for group in network.parameter_groups()} == {
        *("pretrained.weights", "pretrained.biases", "new.weights", "new.biases")
    }
    state["register_tokens"] = torch.zeros(1, 4, 384)  # the variants with registers are other networks
    torch.save(state, tmp_path / "registers.pth")
    other = NetworkConfig.model_validate({**SMALL, "weights": str(tmp_path / "registers.pth")})
    with pytest.raises(ConfigError, match="1 unexpected: register_tokens"):
        build_segmenter(other, 3, seed=0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights": "imagenet"}, "not trained on ImageNet's labels: use weights pretrained"),
        ({"head": "fcn"}, "need each other, found the head fcn on dinov2_small"),
        ({"backbone": "resnet50", "output_stride": 16}, "need each other, found the head dpt on resnet50"),
        ({"neck_layers": 1}, "neck_layers 0"),
        ({"atrous_rates": [1]}, "no atrous_rates"),
        ({"output_stride": 16}, "dinov2_small has output_stride 14, not 16"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=words):
        NetworkConfig.model_validate({**SMALL, **changes})


def test_pretrained_is_refused_where_it_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(pydantic.ValidationError, match="for resnet50: imagenet"):
        NetworkConfig.model_validate({"preset": "deeplabv3plus-resnet50", "weights": "pretrained"})
    with pytest.raises(ConfigError, match="there is no file") as caught:
        NetworkConfig.model_validate({**SMALL, "weights": str(tmp_path / "nothing.pth")}).check()
    assert "none, pretrained" in str(caught.value.hint)


def test_weights_that_cannot_be_downloaded_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants  # of the hub's client, which timm uses

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"vit_small_patch14_dinov2\.lvd142m could not be loaded") as caught:
        build_segmenter(NetworkConfig.model_validate("dpt-dinov2-small"), 3, seed=0)
    assert "set network.weights to that file's path" in str(caught.value.hint)
