"""CLIP with a vision transformer: its image side, built with timm's blocks, and vectors of texts, by open_clip.

    state = read_clip(Path("ViT-B-16.pt"))       # by OpenAI's names: visual.conv1.weight, token_embedding.weight, ...
    tower = image_tower(state, "quick_gelu")
    vectors = text_vectors(state, [["a clean origami cat."]], "quick_gelu")

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021. The shapes of both
sides follow from the weights.
"""

from __future__ import annotations

import importlib
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artifacts.errors import ConfigError
from stages.networks.config import CLIP_INSTALL, CLIP_WEIGHTS
from stages.networks.segmenter import seeded
from stages.networks.timm_models import create
from stages.networks.weights import load_strictly, read_state

MEAN = (0.48145466, 0.4578275, 0.40821073)  # RGB, of pixels in 0..1
STD = (0.26862954, 0.26130258, 0.27577711)
HEAD = 64  # channels of a head of the attention, in all published networks
VISUAL = "visual."  # prefix of the image side

_BLOCK = {  # of a block: OpenAI's name -> timm's
    "ln_1": "norm1",
    "ln_2": "norm2",
    "attn.in_proj_": "attn.qkv.",
    "attn.out_proj": "attn.proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


class ClipImageTower(nn.Module):
    """The image side: normalised images (B, 3, patch h, patch w) to the vectors of their patches.

    The last block can be run apart, as class-activation maps need gradients of that block alone. The position
    embedding is resized bilinearly to the patches of the image.

    Attributes:
        patch: pixels of a patch, a side.
        shape: the arguments it was built with.
        logit_scale: factor on cosines that makes them logits (OpenAI: 100).
    """

    def __init__(self, width: int, depth: int, patch: int, side: int, vector: int, activation: str) -> None:
        """width: channels; side: patches a side of the images it was trained on; vector: length of image vectors."""
        super().__init__()
        self.patch, self.side, self.depth = patch, side, depth
        self.shape: dict[str, Any] = {"width": width, "depth": depth, "patch": patch, "side": side, "vector": vector}
        self.shape |= {"activation": activation}
        self.net: Any = create(
            "vit_base_patch16_clip_quickgelu_224",
            img_size=patch * side,
            patch_size=patch,
            embed_dim=width,
            depth=depth,
            num_heads=max(width // HEAD, 1),
            num_classes=0,
            act_layer=activation,
        )
        self.project = nn.Linear(width, vector, bias=False)
        self.logit_scale: Tensor
        self.register_buffer("logit_scale", torch.tensor(100.0))

    def before_last(self, images: Tensor, averaged: int) -> tuple[Tensor, Tensor | None]:
        """The tokens (B, 1 + n, width) before the last block, and the sum of the mean attention (B, n, n) of blocks.

        averaged: how many of the last blocks are summed; None instead of the sum for 0.
        """
        summed: Tensor | None = None
        for number, tokens in enumerate(self.entering(images)):
            if number >= self.depth - averaged:
                attention = self.attention(number, tokens)
                summed = attention if summed is None else summed.add_(attention)
        return tokens, summed

    def entering(self, images: Tensor) -> Iterator[Tensor]:
        """The tokens (B, 1 + n, width) that enter each block, in their order. The last block is not run."""
        patches = self.net.patch_embed.proj(images)  # (B, width, h, w)
        rows, columns = patches.shape[-2:]
        tokens = patches.flatten(2).transpose(1, 2) + self._positions(rows, columns)
        first = (self.net.cls_token + self.net.pos_embed[:, :1]).expand(
            images.shape[0], -1, -1
        )  # len: fixed in a trace
        tokens = self.net.norm_pre(torch.cat([first, tokens], dim=1))
        yield tokens
        for block in self.net.blocks[:-1]:
            tokens = block(tokens)
            yield tokens

    def attention(self, number: int, tokens: Tensor) -> Tensor:
        """The mean attention (B, n, n) of a block, from the tokens that enter it."""
        block = self.net.blocks[number]
        return mean_attention(block.attn, block.norm1(tokens))

    def last_norm(self, tokens: Tensor) -> Tensor:
        """The output of the first LayerNorm of the last block."""
        return self.net.blocks[-1].norm1(tokens)

    def last(self, tokens: Tensor, normed: Tensor) -> Tensor:
        """Unit vectors of images (B, vector), the mean over their patches, from tokens and their `last_norm`."""
        block = self.net.blocks[-1]
        tokens = tokens + block.attn(normed)
        tokens = tokens + block.mlp(block.norm2(tokens))
        means = self.net.norm(tokens)[:, 1:].mean(1)
        return F.normalize(self.project(means).float(), dim=-1)

    def _positions(self, rows: int, columns: int) -> Tensor:
        learned = self.net.pos_embed[:, 1:]
        if (rows, columns) == (self.side, self.side):
            return learned
        square = learned.transpose(1, 2).unflatten(2, (self.side, self.side))
        grid = F.interpolate(square.float(), size=(rows, columns), mode="bilinear", align_corners=False)
        return grid.flatten(2).transpose(1, 2)


def mean_attention(attention: Any, normed: Tensor) -> Tensor:
    """How much each patch looks at each patch, fp32 (B, n, n), the mean over the heads. The class token is left out.

    Heads one by one: memory for one matrix an image, not for one of each head.
    """
    qkv = attention.qkv(normed).unflatten(-1, (3, attention.num_heads, -1))  # (B, 1 + n, 3, heads, channels)
    total: Tensor | None = None
    for head in range(attention.num_heads):
        query, key = qkv[:, 1:, 0, head], qkv[:, :, 1, head]
        weights = (query @ key.transpose(1, 2) * attention.scale).float().softmax(-1)[..., 1:]
        total = weights.contiguous() if total is None else total.add_(weights)
    assert total is not None
    return total.div_(attention.num_heads)


def image_tower(state: Mapping[str, Tensor], activation: str, source: str = "CLIP") -> ClipImageTower:
    """The image side of CLIP's weights, in eval mode. ConfigError where they are not of a vision transformer."""
    try:
        width, _, patch, _ = state["visual.conv1.weight"].shape
        vector = state["visual.proj"].shape[1]
        side = round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
    except (KeyError, ValueError, IndexError) as error:
        raise ConfigError(
            f"{source} has no image side of CLIP with a vision transformer, by the names of OpenAI ({error})",
            "give OpenAI's ViT-B-16.pt, or a file of open_clip's CLIP models; a ResNet, SigLIP and CoCa do not fit",
        ) from error
    depth = len({key.split(".")[3] for key in state if key.startswith("visual.transformer.resblocks.")})
    with seeded(0):
        tower = ClipImageTower(width, depth, patch, side, vector, activation)
    load_strictly(tower, _by_timms_names(state), source, "the image side of CLIP", any_float=True)
    return tower.eval()


def _by_timms_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    fixed = {
        "class_embedding": ("net.cls_token", lambda value: value.view(1, 1, -1)),
        "positional_embedding": ("net.pos_embed", lambda value: value[None]),
        "proj": ("project.weight", lambda value: value.T),
    }
    named = {"conv1": "net.patch_embed.proj", "ln_pre": "net.norm_pre", "ln_post": "net.norm"}
    found = {"logit_scale": state["logit_scale"].float().exp()} if "logit_scale" in state else {}
    for key, value in state.items():
        own = key.removeprefix(VISUAL)
        if own == key:
            continue
        if own in fixed:
            name, change = fixed[own]
            found[name] = change(value)
        elif block := re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", own):
            rest = next((block[2].replace(old, new) for old, new in _BLOCK.items() if old in block[2]), block[2])
            found[f"net.blocks.{block[1]}.{rest}"] = value
        else:
            first, _, last = own.rpartition(".")
            found[f"{named.get(first, first)}.{last}"] = value
    return found


def random_tower() -> ClipImageTower:
    """A small network with random weights: four blocks of 128 channels, patches of 16 pixels, vectors of 64."""
    with seeded(0):
        tower = ClipImageTower(width=2 * HEAD, depth=4, patch=16, side=6, vector=HEAD, activation="quick_gelu")
        nn.init.normal_(tower.net.pos_embed)
    return tower.eval()


def read_clip(file: Path) -> dict[str, Tensor]:
    """The weights of CLIP in a file: one of OpenAI's (TorchScript), or a state dict (.bin, .pt, .safetensors).

    TorchScript is code: read such a file only from OpenAI. State dicts are not.
    """
    if not file.is_file():
        raise ConfigError(f"{file} is not a file with the weights of CLIP", CLIP_WEIGHTS)
    try:
        if file.suffix == ".safetensors":
            return dict(importlib.import_module("safetensors.torch").load_file(file))
        if _is_torchscript(file):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # OpenAI's files stay what they are
                return dict(torch.jit.load(str(file), map_location="cpu").state_dict())
        return read_state(file)
    except ConfigError:
        raise
    except ImportError as error:
        raise ConfigError(f"{file} cannot be read without safetensors", "pip install safetensors") from error
    except Exception as error:  # the readers raise errors of many types for wrong bytes
        reason = str(error).strip().partition("\n")[0][:160]
        raise ConfigError(f"{file} is damaged or not a file of weights: {reason}", "download it again") from error


def _is_torchscript(file: Path) -> bool:
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def download_clip(tag: str) -> dict[str, Tensor]:
    """The weights MODEL:TAG of open_clip, from its cache or by its download."""
    model, _, pretrained = tag.partition(":")
    try:
        return dict(open_clip().create_model(model, pretrained=pretrained, device="cpu").state_dict())
    except ConfigError:
        raise
    except Exception as error:  # the hub's client and its HTTP library raise errors of many types
        raise ConfigError(f"open_clip's weights {tag} could not be loaded: {error}", CLIP_WEIGHTS) from error


def open_clip() -> Any:
    """The package, an optional dependency."""
    try:
        return importlib.import_module("open_clip")
    except ImportError as error:
        raise ConfigError(
            f"the texts of CLIP need open_clip, which could not be imported: {error}",
            f"{CLIP_INSTALL}, or give the vectors of the texts (the setting vectors) that a run with it has stored",
        ) from error


@torch.no_grad()
def text_vectors(state: Mapping[str, Tensor], sentences: Sequence[Sequence[str]], activation: str) -> Tensor:
    """Unit vectors (n, vector), fp32: of each group of sentences the mean of their unit vectors.

    ConfigError where the weights have no text side of CLIP, or a sentence is too long.
    """
    tower, length = _text_tower(state, activation)
    flat = [sentence for group in sentences for sentence in group]
    tokens = open_clip().tokenize(flat, context_length=length + 1)  # a place more: none of a longer sentence is lost
    if long := [sentence for sentence, row in zip(flat, tokens, strict=True) if row[length] != 0]:
        raise ConfigError(f"the text {long[0]!r} has more than the {length} tokens that CLIP reads", "shorten it")
    vectors = F.normalize(torch.cat([tower(part) for part in tokens[:, :length].split(64)]).float(), dim=-1)
    groups = vectors.split([len(group) for group in sentences])
    return F.normalize(torch.stack([group.mean(0) for group in groups]), dim=-1)


def _text_tower(state: Mapping[str, Tensor], activation: str) -> tuple[Any, int]:
    """The text side by open_clip, in eval mode, and how many tokens it reads."""
    transformer = importlib.import_module(f"{open_clip().__name__}.transformer")
    try:
        (length, width), vector = state["positional_embedding"].shape, state["text_projection"].shape[1]
        tower = transformer.TextTransformer(
            context_length=length,
            vocab_size=len(state["token_embedding.weight"]),
            width=width,
            heads=max(width // HEAD, 1),
            layers=len({key.split(".")[2] for key in state if key.startswith("transformer.resblocks.")}),
            output_dim=vector,
            act_layer=transformer.QuickGELU if activation == "quick_gelu" else nn.GELU,
        )
    except (KeyError, ValueError, IndexError) as error:
        raise ConfigError(
            f"the weights of CLIP have no text side by the names of OpenAI ({error})", CLIP_WEIGHTS
        ) from error
    own = {key: value for key, value in state.items() if key in tower.state_dict()}
    load_strictly(tower, own, "CLIP", "its text side", any_float=True)
    return tower.eval(), length


def random_vectors(names: Sequence[str]) -> Tensor:
    """Unit vectors (n, 64) that depend on the names alone, for `random_tower`."""
    rows = [torch.randn(HEAD, generator=torch.Generator().manual_seed(zlib.crc32(name.encode()))) for name in names]
    return F.normalize(torch.stack(rows), dim=-1)


def normalise_for_clip(images: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) -> float, as CLIP was trained."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1).to(images.device, non_blocking=True) for values in (MEAN, STD))
    return (images.to(torch.get_default_dtype()) / 255 - mean) / std
