"""Every kind of network of timm as a classifier with activation maps: views, precision, frozen stages, weights."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pytest
import torch
from torch import nn

from artifacts.errors import ConfigError
from stages.localization.activation_maps import multi_scale_maps
from stages.networks import Classifier, build_classifier, normalise
from stages.networks.config import ClassifierConfig
from stages.networks.folding import for_inference
from stages.networks.freezing import freeze

timm = pytest.importorskip("timm")

BLOCKS = tuple(f"model.blocks.{number}." for number in range(3))  # of twelve, to the first of four maps
# a kind's parameters that freeze_stages: 1 keeps, by the beginning of timm's names, and one that still learns
KINDS: dict[str, tuple[tuple[str, ...], str]] = {
    "resnest14d": (("conv1", "bn1"), "layer1.0.conv1.weight"),
    "res2net50_26w_4s": (("conv1", "bn1"), "layer1.0.conv1.weight"),
    "convnext_atto": (("stem", "stages_0"), "stages_1.downsample.0.weight"),
    "vit_small_patch14_reg4_dinov2": (
        ("model.cls_token", "model.reg_token", "model.pos_embed", "model.patch_embed", "model.norm", *BLOCKS),
        "model.blocks.3.attn.qkv.weight",
    ),
    "vit_small_patch16_dinov3": (
        ("model.cls_token", "model.reg_token", "model.patch_embed", "model.norm", *BLOCKS),
        "model.blocks.3.attn.qkv.weight",
    ),
}


@lru_cache(maxsize=1)  # the tests of a kind follow each other
def classifier(name: str) -> Classifier:
    values = {"backbone": f"timm:{name}", "freeze_batch_norm": False}
    network = build_classifier(ClassifierConfig.model_validate(values), 3, seed=0)
    nn.init.normal_(network.scores.weight, std=1.0, generator=torch.Generator().manual_seed(0))
    for layer in network.modules():  # statistics of some images, or random features would fade away
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        network(torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(5)))
    return network.eval()


@pytest.fixture(params=KINDS, scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def test_activation_maps_of_odd_images_their_scales_and_mirrored_copies(kind: str) -> None:
    """The copy for inference, whose memory is channels last, gives the maps of the network itself."""
    network = classifier(kind)
    images = torch.randint(0, 256, (2, 3, 45, 61), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    quick = for_inference(network, torch.device("cpu"))
    found = multi_scale_maps(quick, images, (0.7, 1.0), True, 2)
    expected = multi_scale_maps(network, images, (0.7, 1.0), True, 2)
    assert found.shape == (2, 3, 12, 16)
    assert expected.amax() > 0
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.amax()))


def test_maps_in_bfloat16_are_close(kind: str) -> None:
    images = normalise(torch.rand(1, 3, 45, 61, generator=torch.Generator().manual_seed(1)))
    with torch.no_grad():
        maps = classifier(kind).activation_maps(images)
        with torch.autocast("cpu", torch.bfloat16):
            rough = classifier(kind).activation_maps(images)
    assert (rough.float() - maps).norm() < 0.1 * maps.norm()


def test_the_first_stage_is_frozen_and_the_rest_learns(kind: str) -> None:
    first, learns = KINDS[kind]
    backbone = classifier(kind).backbone
    freeze(backbone, ClassifierConfig.model_validate({"freeze_stages": 1, "freeze_batch_norm": False}))
    frozen = {name.removeprefix("net.") for name, value in backbone.named_parameters() if not value.requires_grad}
    names = {name.removeprefix("net.") for name, _ in backbone.named_parameters()}
    assert frozen == {name for name in names if name.startswith(first)}
    assert learns in names - frozen


def test_weights_from_timms_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where timm's download has put them, read without a connection."""
    from huggingface_hub import constants
    from safetensors.torch import save_file

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    torch.manual_seed(5)
    state = timm.create_model("test_convnext").state_dict()
    folder = tmp_path / "models--timm--test_convnext.r160_in1k"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    save_file(state, snapshot / "model.safetensors")
    config = ClassifierConfig.model_validate("timm:test_convnext.r160_in1k")
    backbone = build_classifier(config, 3, seed=0).backbone
    found = backbone.state_dict()
    assert torch.equal(found["net.stages_0.blocks.0.conv_dw.weight"], state["stages.0.blocks.0.conv_dw.weight"])


def test_a_file_of_dinov2_with_registers_as_it_was_published(tmp_path: Path) -> None:
    """There the class token has a position, which timm adds to it; the registers have another name."""
    name = "vit_small_patch14_reg4_dinov2"
    torch.manual_seed(5)
    state = timm.create_model(name, num_classes=0).state_dict()
    published = {key: value for key, value in state.items() if key not in ("reg_token", "pos_embed")}
    first = torch.randn(1, 1, 384)
    published |= {"register_tokens": state["reg_token"], "mask_token": torch.zeros(1, 384)}
    published["pos_embed"] = torch.cat([first, state["pos_embed"]], dim=1)
    torch.save(published, tmp_path / "dinov2_vits14_reg4_pretrain.pth")
    values = {"backbone": f"timm:{name}", "weights": str(tmp_path / "dinov2_vits14_reg4_pretrain.pth")}
    found = build_classifier(ClassifierConfig.model_validate(values), 3, seed=0).backbone.state_dict()
    expected = {**state, "cls_token": state["cls_token"] + first}
    for key, value in expected.items():
        torch.testing.assert_close(found[f"net.model.{key}"], value, rtol=0, atol=0)


def loaded(name: str, state: dict[str, torch.Tensor], folder: Path) -> dict[str, torch.Tensor]:
    """The state of a classifier's backbone that has its weights from a file with `state`, by timm's names."""
    torch.save(state, folder / "weights.pth")
    values = {"backbone": f"timm:{name}", "weights": str(folder / "weights.pth")}
    found = build_classifier(ClassifierConfig.model_validate(values), 3, seed=0).backbone.state_dict()
    return {key.removeprefix("net.model."): value for key, value in found.items()}


def test_dinov2_after_fine_tuning_with_a_classifier_on_smaller_images(tmp_path: Path) -> None:
    """Published, it has no classifier, and positions of 37 x 37 patches."""
    name = "vit_small_patch14_dinov2"
    torch.manual_seed(5)
    state = timm.create_model(name, num_classes=5, img_size=56).state_dict()
    found = loaded(name, state, tmp_path)
    positions = timm.layers.resample_abs_pos_embed(state["pos_embed"], [37, 37])
    assert state["pos_embed"].shape == (1, 1 + 4 * 4, 384)
    for key in set(state) - {"head.weight", "head.bias"}:
        torch.testing.assert_close(found[key], positions if key == "pos_embed" else state[key], rtol=0, atol=0)


def published_dinov3(state: dict[str, torch.Tensor], depth: int) -> dict[str, torch.Tensor]:
    """With the names of its authors, and their biases, which are zero."""
    renamed = {
        key.replace("reg_token", "storage_tokens")
        .replace("gamma_1", "ls1.gamma")
        .replace("gamma_2", "ls2.gamma"): value
        for key, value in state.items()
    }
    biases = {f"blocks.{number}.attn.qkv.bias": torch.zeros(3 * 384) for number in range(depth)}
    masks = {f"{key}_mask": torch.ones(3 * 384) for key in biases}
    return {**renamed, **biases, **masks, "mask_token": torch.zeros(1, 384), "rope_embed.periods": torch.ones(16)}


def test_a_file_of_dinov3_as_it_was_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """timm prints an error for each bias that it leaves out; one that is not zero would be lost without a word."""
    name = "vit_small_patch16_dinov3"
    torch.manual_seed(5)
    state = timm.create_model(name, num_classes=0).state_dict()
    published = published_dinov3(state, depth=12)
    found = loaded(name, published, tmp_path)
    assert all(torch.equal(found[key], value) for key, value in state.items())
    assert capsys.readouterr().out == ""
    published["blocks.3.attn.qkv.bias"][0] = 0.1
    with pytest.raises(ConfigError, match=r"1 unexpected: blocks\.3\.attn\.qkv\.bias"):
        loaded(name, published, tmp_path)


def test_dinov3_after_fine_tuning_with_a_classifier(tmp_path: Path) -> None:
    name = "vit_tiny_patch16_dinov3_qkvb"
    torch.manual_seed(5)
    state = timm.create_model(name, num_classes=5).state_dict()
    found = loaded(name, state, tmp_path)
    assert all(torch.equal(found[key], state[key]) for key in set(state) - {"head.weight", "head.bias"})


def test_patches_of_a_different_size_are_not_resized(tmp_path: Path) -> None:
    """Weights of a network with patches of 8 pixels would teach one with patches of 16 little."""
    state = timm.create_model("test_vit").state_dict()
    state["patch_embed.proj.weight"] = torch.randn(64, 3, 8, 8)
    with pytest.raises(ConfigError, match=r"patch_embed\.proj\.weight \(64, 3, 8, 8\) instead of \(64, 3, 16, 16\)"):
        loaded("test_vit", state, tmp_path)
