"""stages/networks/timm_backbone.py: any network of timm; timm's own maps of it are the independent reference."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pydantic
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from artifacts import checkpoint
from artifacts.errors import ConfigError
from stages.engine.batch_norm import join_batch_norm
from stages.networks import Classifier, Segmenter, build_classifier, build_segmenter, load_network, make_head
from stages.networks.config import ClassifierConfig, NetworkConfig
from stages.networks.folding import for_inference
from stages.networks.segmenter import seeded
from stages.networks.timm_backbone import TimmBackbone

timm = pytest.importorskip("timm")

# name: strides of the maps, level that is `low`, zeros at the left and top
NETWORKS: dict[str, tuple[tuple[int, ...], int, int]] = {
    "resnet10t": ((2, 4, 8, 16, 16), 1, 0),
    "mobilenetv3_small_050": ((2, 4, 8, 16, 16), 1, 0),
    "convnext_atto": ((4, 8, 16, 16), 0, 8),
    "vit_tiny_patch16_224": ((16, 16, 16, 16), 0, 8),
    "swin_tiny_patch4_window7_224": ((4, 8, 16, 32), 0, 16),
}
SMALL = ("resnet10t", "mobilenetv3_small_050", "convnext_atto", "vit_tiny_patch16_224")


def segmenter(name: str, **values: Any) -> Segmenter:
    given = {"backbone": f"timm:{name}", "head_channels": 8, "freeze_batch_norm": False, **values}
    return build_segmenter(NetworkConfig.model_validate(given), 4, seed=0)


def classifier(name: str, **values: Any) -> Classifier:
    given = {"backbone": name, "freeze_batch_norm": False, **values}
    return build_classifier(ClassifierConfig.model_validate(given), 3, seed=0)


def settle(network: nn.Module) -> nn.Module:
    """Statistics and scores that are not those of the start."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_have_the_cells_of_the_contract_for_images_of_any_size(name: str) -> None:
    with seeded(0):
        backbone = TimmBackbone(name, None).eval()
    strides, low, before = NETWORKS[name]
    assert (backbone.level_strides, backbone.low_level, backbone.before) == (strides, low, before)
    for height, width in ((64, 96), (71, 58), (33, 17)):
        with torch.no_grad():
            images = torch.randn(1, 3, height, width)
            maps, features = backbone.levels(images), backbone(images)
        channels = zip(backbone.level_channels, strides, strict=True)
        assert [tuple(level.shape) for level in maps] == [(1, c, -(-height // s), -(-width // s)) for c, s in channels]
        assert torch.equal(features["high"], maps[-1])
        assert torch.equal(features["low"], maps[low])
        assert features["high"].shape[1] == backbone.high_channels
        assert features["low"].shape[1] == backbone.low_channels


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "convnext_atto"])
def test_maps_are_timms_of_the_padded_image(name: str) -> None:
    with seeded(0):
        backbone = TimmBackbone(name, 16)
    with seeded(0):
        reference = timm.create_model(name, features_only=True, output_stride=16)
    reference.load_state_dict(dict(zip(reference.state_dict(), backbone.state_dict().values(), strict=True)))
    images, before = torch.randn(1, 3, 50, 61), NETWORKS[name][2]
    padded = F.pad(images, (before, 64 + before - 61 if not before else 80 - 61 - before, before, 64 - 50 - before))
    with torch.no_grad():
        found, expected = backbone.eval().levels(images), reference.eval()(padded)
    for level, whole, stride in zip(found, expected, backbone.level_strides, strict=True):
        first, rows, columns = before // stride, -(-50 // stride), -(-61 // stride)
        torch.testing.assert_close(level, whole[..., first : first + rows, first : first + columns], rtol=0, atol=0)


def test_a_transformers_maps_are_those_behind_four_blocks_with_the_final_norm_of_pixels_as_it_was_trained_on() -> None:
    name = "vit_tiny_patch16_224"
    with seeded(0):
        backbone = TimmBackbone(name, None).eval()
    reference = timm.create_model(name, dynamic_img_size=True).eval()
    state = {key.removeprefix("net.model."): value for key, value in backbone.state_dict().items()}
    assert not reference.load_state_dict(state, strict=False).unexpected_keys
    pixels = torch.rand(1, 3, 40, 56)  # of 8 + 40 = 48 and 8 + 56 = 64 pixels with the zeros
    mean, std = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    padded = F.pad((pixels - mean) / std, (8, 0, 8, 0)) * std + mean
    with torch.no_grad():
        found = backbone.levels((pixels - mean) / std)
        wanted = reference.forward_intermediates(
            (padded - 0.5) / 0.5, indices=[2, 5, 8, 11], norm=True, intermediates_only=True
        )
    for level, whole in zip(found, wanted, strict=True):
        torch.testing.assert_close(level, whole[..., :3, :4], rtol=1e-4, atol=1e-5)


def test_a_cell_of_a_network_that_cuts_patches_is_centred_on_its_pixel() -> None:
    """Patches of 16 pixels that start at pixel 16 i - 8: the pixels that a cell without neighbours reads."""
    with seeded(0):
        backbone = TimmBackbone("vit_tiny_patch16_224", None)
    images = torch.zeros(1, 3, 64, 64, requires_grad=True)
    taken: list[torch.Tensor] = []
    hook = backbone.net.model.patch_embed.proj.register_forward_hook(lambda *parts: taken.append(parts[2]))
    backbone.levels(images)
    hook.remove()
    (gradient,) = torch.autograd.grad(taken[0][0, :, 2, 1].sum(), images)  # of the cell in row 2, column 1
    rows, columns = gradient.abs().sum((0, 1)).nonzero().T
    assert (int(rows.min()), int(rows.max())) == (2 * 16 - 8, 2 * 16 + 7)
    assert (int(columns.min()), int(columns.max())) == (16 - 8, 16 + 7)


@pytest.mark.parametrize("head", ["fcn", "aspp", "largefov", "deeplabv3plus"])
@pytest.mark.parametrize("name", SMALL)
def test_every_head_fits_and_every_parameter_learns(name: str, head: str) -> None:
    network = segmenter(name, head=head)
    features = network.trunk(torch.randn(2, 3, 50, 37))
    logits = network.head(features)
    assert logits.shape == (2, 4, -(-50 // network.stride), -(-37 // network.stride))
    assert make_head(network.config, 4, seed=1)(features).shape == logits.shape
    logits.square().sum().backward()
    assert not [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch16_dinov3"])
def test_the_head_dpt_takes_any_transformer_and_gives_logits_of_every_pixel(name: str) -> None:
    network = segmenter(name, head="dpt", dropout=0.0)
    images = torch.randn(2, 3, 50, 37)
    logits = network(images)
    assert (network.stride, logits.shape) == (1, (2, 4, 50, 37))
    logits.square().sum().backward()
    assert not [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert make_head(network.config, 4, seed=1)(network.trunk(images)).shape == (2, 4, 64, 48)
    again = Segmenter.from_spec(json.loads(json.dumps(network.spec(("background", "a", "b", "c")))))
    again.load_state_dict(network.state_dict())
    assert torch.equal(again.eval()(images), network.eval()(images))


def test_the_head_dpt_on_dinov2_of_timms_name_is_that_of_the_preset() -> None:
    ours = build_segmenter(NetworkConfig.model_validate({"preset": "dpt-dinov2-small", "weights": "none"}), 4, seed=0)
    theirs = segmenter("vit_small_patch14_dinov2", head="dpt", head_channels=64, dropout=0.0)
    theirs.head.load_state_dict(ours.head.state_dict())
    names = {key.removeprefix("net.model."): key for key in theirs.backbone.state_dict()}
    state = ours.backbone.state_dict()
    theirs.backbone.load_state_dict({own: state[name] for name, own in names.items()})
    images = torch.randn(1, 3, 50, 37)
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(images), ours.eval()(images), rtol=1e-3, atol=1e-4)


def test_the_head_dpt_on_a_network_that_is_no_transformer_is_refused() -> None:
    with pytest.raises(ConfigError, match="takes four maps of one size from a transformer, timm's convnext_atto has"):
        segmenter("convnext_atto", head="dpt")


def test_a_bare_name_stands_for_the_backbone_with_its_published_weights() -> None:
    for kind in (NetworkConfig, ClassifierConfig):
        config = kind.model_validate("timm:resnet10t")
        assert (config.backbone, config.weights) == ("timm:resnet10t", "pretrained")
    config = NetworkConfig.model_validate({"=": "timm:resnet10t", "weights": "none"})
    assert (config.weights, config.output_stride) == ("none", None)


def test_what_does_not_reach_the_last_map_does_not_learn() -> None:
    """HRNet's last exchange to the finer branches: several processes would wait for its gradients for ever."""
    network = segmenter("hrnet_w18_small")
    network(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert not [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert any(not p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("name", ["resnest14d", "res2net50_26w_4s"])
def test_resnest_and_res2net_are_classifiers_and_segmenters(name: str, tmp_path: Path) -> None:
    """The backbones of recent class-activation maps; with timm's weights, and dilated to stride 8."""
    torch.manual_seed(5)  # not the seed of the networks below
    whole = timm.create_model(name, num_classes=7)
    torch.save(whole.state_dict(), tmp_path / "timm.pth")
    images = torch.randn(1, 3, 64, 50)
    network = settle(classifier(f"timm:{name}", weights=str(tmp_path / "timm.pth")))
    loaded, expected = network.state_dict(), whole.state_dict()
    for key in ("layer1.0.conv1.weight", "layer4.0.conv3.weight"):
        assert torch.equal(loaded[f"backbone.net.{key}"], expected[key])
    with torch.no_grad():
        maps = network.activation_maps(images)  # type: ignore[operator]
        torch.testing.assert_close(maps.mean((2, 3)), network(images), rtol=1e-4, atol=1e-4)
    assert maps.shape == (1, 3, 4, 4)
    dilated = segmenter(name, output_stride=8)
    assert dilated.backbone.level_strides == (2, 4, 8, 8, 8)
    logits = dilated(torch.randn(2, 3, 64, 50))
    assert logits.shape == (2, 4, 8, 7)
    logits.square().sum().backward()
    assert not [name for name, p in dilated.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_an_output_stride_is_reached_by_dilation_and_stands_in_network_json(stride: int, tmp_path: Path) -> None:
    network = segmenter("convnext_atto", output_stride=stride)
    assert network.stride == network.config.output_stride == stride
    assert network(torch.randn(1, 3, 64, 64)).shape[-1] == 64 // stride


def test_where_nothing_is_said_a_transformer_keeps_its_stride_and_others_get_16() -> None:
    assert NetworkConfig.model_validate({"backbone": "timm:vit_tiny_patch16_224"}).output_stride is None
    assert segmenter("swin_tiny_patch4_window7_224").config.output_stride == 32
    assert segmenter("resnet10t").config.output_stride == 16
    assert segmenter("resnet10t", head="deeplabv3plus", output_stride=8).head.atrous[0][0].dilation == (12, 12)
    with pytest.raises(ConfigError, match="has the output stride 32, found output_stride: 8"):
        segmenter("swin_tiny_patch4_window7_224", output_stride=8)
    with pytest.raises(pydantic.ValidationError, match="resnet50 has output_stride 8 or 16 or 32, not None"):
        NetworkConfig.model_validate({"backbone": "resnet50", "output_stride": None})


@pytest.mark.parametrize("name", SMALL)
def test_a_trained_segmenter_comes_back_and_its_backbone_starts_a_classifier(name: str, tmp_path: Path) -> None:
    network = segmenter(name)
    checkpoint.save(tmp_path / "weights.pt", network.state_dict())
    (tmp_path / "network.json").write_text(json.dumps(network.spec(("background", "a", "b", "c"))))
    images = torch.randn(1, 3, 33, 40)
    assert torch.equal(load_network(tmp_path)(images), network.eval()(images))
    again = classifier(f"timm:{name}", weights=str(tmp_path / "weights.pt"))
    own = network.backbone.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in again.backbone.state_dict().items())
    assert again.pretrained == ("backbone.",)


@pytest.mark.parametrize("name", SMALL)
def test_a_state_dict_of_timm_is_loaded_whole(name: str, tmp_path: Path) -> None:
    torch.manual_seed(5)  # not the seed of the network below
    whole = timm.create_model(name, num_classes=7)
    state = whole.state_dict()
    torch.save(state, tmp_path / "timm.pth")
    backbone = segmenter(name, weights=str(tmp_path / "timm.pth")).backbone
    by_plain_name = {key.replace(".", "_"): value for key, value in state.items()}
    loaded = [backbone.state_dict()[f"net.{own}"] for own in backbone.names.values()]
    assert len(loaded) == len(backbone.state_dict())
    expected = [by_plain_name[plain] for plain in backbone.names]
    assert all(torch.equal(*pair) for pair in zip(loaded, expected, strict=True))
    key = next(key for key in state if key.endswith("weight") and key.replace(".", "_") in backbone.names)
    torch.save({**{k: v for k, v in state.items() if k != key}, "surplus": state[key]}, tmp_path / "torn.pth")
    with pytest.raises(ConfigError, match=r"1 missing: .*\n.*1 unexpected: surplus"):
        segmenter(name, weights=str(tmp_path / "torn.pth"))


def test_the_weights_are_those_of_the_seed() -> None:
    first, again = segmenter("vit_tiny_patch16_224"), segmenter("vit_tiny_patch16_224")
    assert all(
        torch.equal(*pair) for pair in zip(first.state_dict().values(), again.state_dict().values(), strict=True)
    )


# --- BatchNorm ---


def test_frozen_batch_norm_without_weights_is_refused_once_the_network_is_known() -> None:
    with pytest.raises(ConfigError, match="timm:resnet10t with weights none and freeze_batch_norm true"):
        segmenter("resnet10t", freeze_batch_norm=True)
    with pytest.raises(ConfigError, match="no statistics worth freezing"):
        classifier("timm:mobilenetv3_small_050", freeze_batch_norm=True)
    segmenter("convnext_atto", freeze_batch_norm=True)  # has none


def test_batch_norm_stays_frozen_in_training() -> None:
    network = segmenter("mobilenetv3_small_050")
    network.backbone.freeze_batch_norm()
    norms = [module for module in network.train().backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) > 20
    assert not any(norm.training or norm.weight.requires_grad for norm in norms)


def test_joining_batch_norm_over_processes_keeps_the_activation_that_timm_puts_into_it() -> None:
    network = settle(classifier("timm:efficientnet_lite0"))
    images = torch.randn(2, 3, 40, 48)
    with torch.no_grad():
        expected = network(images)
        found = join_batch_norm(copy.deepcopy(network)).eval()(images)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


# --- classifiers ---


@pytest.mark.parametrize(
    "name", ["timm:resnet10t", "timm:mobilenetv3_small_050", "timm:convnext_atto", "hrnet_w18_small", "dinov2_small"]
)
def test_a_classifiers_maps_have_its_logits_as_their_mean_also_in_the_copy_for_inference(name: str) -> None:
    network = settle(classifier(name))
    nn.init.normal_(network.scores.weight, std=1.0, generator=torch.Generator().manual_seed(0))
    images = torch.randn(2, 3, 50, 37)
    with torch.no_grad():
        maps, logits = network.activation_maps(images), network(images)
        quick = for_inference(network, torch.device("cpu")).activation_maps(images)
    assert maps.shape == (2, 3, -(-50 // network.stride), -(-37 // network.stride))
    torch.testing.assert_close(maps.mean((2, 3)), logits, rtol=1e-4, atol=1e-5 * float(maps.abs().max()))
    torch.testing.assert_close(quick, maps, rtol=1e-3, atol=1e-3 * float(maps.abs().max()))


def test_a_classifiers_dinov2_has_cells_around_their_pixels() -> None:
    network = settle(classifier("dinov2_small"))
    images = torch.randn(1, 3, 28, 42)
    with torch.no_grad():
        found = network.backbone(images)["high"]
        network.backbone.patches = True
        whole = network.backbone(F.pad(images, (7, 7, 7, 7)))["high"]
    assert found.shape == (1, 384, 2, 3)
    torch.testing.assert_close(found, whole[..., :2, :3])


# --- what is said of mistakes ---


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm:resnet1t", "has no network 'resnet1t', did you mean 'resnet1"),
        ("timm:resnet18.no_such_weights", "timm's resnet18 has no weights 'resnet18.no_such_weights'"),
        ("timm:mixer_s32_224", "cannot be a backbone: an image of 96 x 64 pixels failed"),
        ("timm:xception41", "gives the maps of xception41 by hooks"),
        ("timm:crossvit_tiny_240", "maps have the strides 12, 12, 17, 17, which do not divide the coarsest"),
    ],
)
def test_a_network_that_cannot_be_a_backbone_is_one_clear_error(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        build_classifier(ClassifierConfig.model_validate({"backbone": name}), 3, seed=0)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["timm:", "timm:hf-hub:some/body", "timm:local-dir:/tmp/x", "timm:a b", "timm:../x"])
def test_networks_from_elsewhere_than_timms_list_are_refused(name: str) -> None:
    with pytest.raises(pydantic.ValidationError, match="expected timm:NAME, with a name of timm's own list"):
        ClassifierConfig.model_validate({"backbone": name})


def test_an_unknown_backbone_is_named_with_what_is_close() -> None:
    with pytest.raises(pydantic.ValidationError, match="timm:NAME, did you mean 'resnet50'"):
        NetworkConfig.model_validate({"backbone": "resnet5"})


def test_a_config_that_names_a_network_of_timm_loads_neither_timm_nor_torch() -> None:
    code = (
        "import sys; from stages.networks.config import NetworkConfig; "
        "NetworkConfig.model_validate({'backbone': 'timm:no_such_network'}).check(); "
        "sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_timm_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)  # what Python does for a module that cannot be imported
    with pytest.raises(ConfigError, match="timm could not be imported") as caught:
        TimmBackbone("resnet10t", None)
    assert caught.value.hint == "pip install 'semiseg[timm]'"


@pytest.mark.parametrize("weights", ["imagenet", "pretrained"])
def test_weights_that_cannot_be_downloaded_are_named(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants  # of the hub's client, which timm uses

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"timm's weights resnet10t\.c3_in1k could not be loaded") as caught:
        segmenter("resnet10t.c3_in1k", weights=weights)
    assert "set network.weights to that file's path" in caught.value.hint
