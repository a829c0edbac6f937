"""stages/networks/clip.py: the image side against plain torch, both sides against open_clip where it is installed."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artifacts.errors import ConfigError
from stages.networks.clip import image_tower, random_tower, random_vectors, read_clip, text_vectors
from tests.stages.networks.reference_clip import open_clips_model, reference_clip

pytest.importorskip("timm")
needs_open_clip = pytest.mark.skipif(
    importlib.util.find_spec("open_clip") is None, reason="open_clip, of the extra clip, is not installed"
)


@torch.no_grad()
def test_tokens_vectors_and_attention_are_those_of_plain_torch() -> None:
    vision, state = reference_clip()
    tower = image_tower(state, "quick_gelu")
    images = torch.randn(3, 3, 64, 64)
    tokens, summed = tower.before_last(images, averaged=3)
    expected, attentions = vision.before_last(images)
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-5)
    assert tower.before_last(images, averaged=0)[1] is None
    normed = tower.last_norm(tokens)
    vectors, last = vision.vectors(expected, vision.transformer["resblocks"][-1].ln_1(expected))
    torch.testing.assert_close(tower.last(tokens, normed), vectors, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tower.attention(3, tokens), last[:, 1:, 1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(summed, (sum(attentions[-2:]) + last)[:, 1:, 1:], atol=1e-5, rtol=1e-5)
    assert float(tower.logit_scale) == pytest.approx(20)


@torch.no_grad()
def test_positions_are_resized_bilinearly_for_images_of_another_size() -> None:
    """Halfway between two patches that it learned, a patch has the mean of their embeddings."""
    _, state = reference_clip(side=4)
    learned = state["visual.positional_embedding"][1:].view(4, 4, -1)
    found = image_tower(state, "quick_gelu")._positions(4, 8).view(4, 8, -1)  # cell i lies on i / 2 - 1 / 4
    torch.testing.assert_close(found[:, 0], learned[:, 0])
    torch.testing.assert_close(found[:, 3], learned[:, 1] * 0.75 + learned[:, 2] * 0.25)
    torch.testing.assert_close(found[:, 4], learned[:, 1] * 0.25 + learned[:, 2] * 0.75)


class Archive(nn.Module):
    """Weights under OpenAI's names, as the program that its files hold."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        for key, value in state.items():
            *path, last = key.split(".")
            place: nn.Module = self
            for part in path:
                if not hasattr(place, part):
                    place.add_module(part, nn.Module())
                place = getattr(place, part)
            place.register_buffer(last, value)

    def forward(self) -> int:
        return 0


def test_weights_are_read_from_all_published_formats(tmp_path: Path) -> None:
    _, state = reference_clip(depth=2)
    half = {key: value.half() for key, value in state.items()}  # as OpenAI's
    torch.save(state, tmp_path / "clip.bin")
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "clip.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.save(torch.jit.script(Archive(half)), tmp_path / "clip.pt")
    expected = image_tower(state, "quick_gelu").state_dict()
    for name, tolerance in (("clip.bin", 0.0), ("clip.safetensors", 0.0), ("clip.pt", 2e-3)):
        found = image_tower(read_clip(tmp_path / name), "quick_gelu").state_dict()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, atol=tolerance, rtol=tolerance)


def resnet(state: dict[str, Tensor]) -> None:
    state["visual.conv1.weight"] = state["visual.conv1.weight"][..., 0]


def other_names(state: dict[str, Tensor]) -> None:
    state["visual.transformer.resblocks.0.ls_1.gamma"] = torch.ones(128)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (dict.clear, "has no image side of CLIP"),
        (resnet, "has no image side of CLIP"),
        (other_names, r"do not fit the image side of CLIP[\s\S]*unexpected: net.blocks.0.ls_1.gamma"),
        (lambda state: state.pop("logit_scale"), r"missing: logit_scale"),
    ],
)
def test_weights_of_another_network_are_refused(damage: Any, message: str) -> None:
    _, state = reference_clip(depth=2)
    damage(state)
    with pytest.raises(ConfigError, match=message):
        image_tower(state, "quick_gelu", "FILE")


@pytest.mark.parametrize("name", ["clip.pt", "clip.safetensors", "clip.bin"])
def test_damaged_files_are_one_clear_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a file with the weights of CLIP") as caught:
        read_clip(tmp_path / name)
    assert "ViT-B-16.pt" in str(caught.value.hint)
    for content in (b"PK\x03\x04 no weights" * 9, b"no weights"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match="is damaged or not a file of weights"):
            read_clip(tmp_path / name)


def test_random_weights_are_the_same_each_time() -> None:
    states = [random_tower().state_dict() for _ in range(2)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    vectors = random_vectors(["cat", "dog"])
    assert torch.equal(random_vectors(["dog", "bird", "cat"])[[2, 0]], vectors)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    assert vectors.shape[1] == random_tower().project.out_features


# --- open_clip ---


@needs_open_clip
@torch.no_grad()
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_the_image_side_is_open_clips_with_means_over_patches(activation: str) -> None:
    model, images = open_clips_model(activation), torch.randn(2, 3, 64, 64)
    tower = image_tower(model.state_dict(), activation)
    tokens, _ = tower.before_last(images, 0)
    model.visual.pool_type, model.visual.final_ln_after_pool = "avg", False
    expected = F.normalize(model.visual(images), dim=-1)
    torch.testing.assert_close(tower.last(tokens, tower.last_norm(tokens)), expected, atol=1e-5, rtol=1e-5)


@needs_open_clip
@torch.no_grad()
def test_vectors_of_texts_are_means_of_unit_vectors_of_sentences() -> None:
    open_clip = importlib.import_module("open_clip")
    model = open_clips_model("gelu")
    found = text_vectors(model.state_dict(), [["a clean origami cat."], ["dog", "hound"]], "gelu")
    cat, dog, hound = F.normalize(
        model.encode_text(open_clip.tokenize(["a clean origami cat.", "dog", "hound"])), dim=-1
    )
    expected = F.normalize(torch.stack([cat, (dog + hound) / 2]), dim=-1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@needs_open_clip
def test_a_text_that_clip_cannot_read_whole_is_refused() -> None:
    state = open_clips_model("gelu").state_dict()
    text_vectors(state, [["dog " * 75]], "gelu")
    with pytest.raises(ConfigError, match=r"'dog dog .* has more than the 77 tokens"):
        text_vectors(state, [["dog " * 76]], "gelu")
    del state["text_projection"]
    with pytest.raises(ConfigError, match="no text side"):
        text_vectors(state, [["dog"]], "gelu")
