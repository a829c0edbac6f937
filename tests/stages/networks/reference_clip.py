"""CLIP's image side in plain torch, with the names of OpenAI's files: the independent reference of tower and maps.

Images have the size it is built for, so that the position embedding is not resized.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, max(width // 64, 1), batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor, normed: Tensor) -> tuple[Tensor, Tensor]:
        """normed: ln_1 of x. Returns the tokens and the attention, the mean over the heads."""
        found, attention = self.attn(normed, normed, normed, need_weights=True)
        x = x + found
        hidden = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](hidden * torch.sigmoid(1.702 * hidden)), attention


class Vision(nn.Module):
    def __init__(self, width: int, depth: int, patch: int, side: int, vector: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn(side * side + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList([Block(width) for _ in range(depth)])})
        self.proj = nn.Parameter(torch.randn(width, vector) * width**-0.5)

    def before_last(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The tokens before the last block, and the attention of each block so far."""
        patches = self.conv1(images).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(images), 1, -1)
        x = self.ln_pre(torch.cat([first, patches], 1) + self.positional_embedding)
        attentions = []
        for block in self.transformer["resblocks"][:-1]:
            x, attention = block(x, block.ln_1(x))
            attentions.append(attention)
        return x, attentions

    def vectors(self, x: Tensor, normed: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors of the images, the means over the patches, and the last attention."""
        x, attention = self.transformer["resblocks"][-1](x, normed)
        return F.normalize(self.ln_post(x)[:, 1:].mean(1) @ self.proj, dim=-1), attention


def reference_clip(
    width: int = 128, depth: int = 4, patch: int = 16, side: int = 4, vector: int = 32, seed: int = 0, scale: float = 20
) -> tuple[Vision, dict[str, Tensor]]:
    """A network with random weights, norms among them, and its state dict as in a file of CLIP."""
    torch.manual_seed(seed)
    vision = Vision(width, depth, patch, side, vector).requires_grad_(False).eval()
    for name, parameter in vision.named_parameters():
        if parameter.ndim > 1 and "resblocks" in name:
            nn.init.normal_(parameter, std=1.5 * width**-0.5)
        elif "ln_" in name and name.endswith("weight"):
            nn.init.normal_(parameter, 1, 0.2)
        elif name.endswith("bias"):
            nn.init.normal_(parameter, 0, 0.2)
    state = {f"visual.{key}": value.clone() for key, value in vision.state_dict().items()}
    return vision, {**state, "logit_scale": torch.tensor(scale).log()}


def open_clips_model(activation: str) -> Any:
    """open_clip's CLIP, small, with random weights."""
    model = importlib.import_module("open_clip.model")
    torch.manual_seed(0)
    vision = model.CLIPVisionCfg(layers=3, width=128, patch_size=16, image_size=64)
    text = model.CLIPTextCfg(width=64, heads=1, layers=2)
    return model.CLIP(32, vision, text, quick_gelu=activation == "quick_gelu").eval()
