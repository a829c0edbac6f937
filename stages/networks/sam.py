"""SAM, Segment Anything, by transformers (an optional dependency), with weights of a local file or folder.

    generate = mask_generator("sam_vit_b_01ec64.pth", device)
    found = generate(Image.fromarray(image))        # {"masks": bool (H, W) each, "scores": (n,)}

Kirillov et al., "Segment Anything", ICCV 2023. The sizes of the network follow from the weights of a file, a folder
names them.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from artifacts.errors import ArtifactError, ConfigError
from artifacts.text import named
from stages.networks.config import SAM_INSTALL, SAM_WEIGHTS
from stages.networks.segmenter import seeded
from stages.networks.weights import load_strictly, read_state

_NAMES = (  # parts of the authors' names -> those of transformers; each applies to the result of those before it
    (r"^image_encoder\.", "vision_encoder."),
    (r"\.patch_embed\.proj\.", ".patch_embed.projection."),
    (r"\.blocks\.", ".layers."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"\.neck\.0\.", ".neck.conv1."),
    (r"\.neck\.1\.", ".neck.layer_norm1."),
    (r"\.neck\.2\.", ".neck.conv2."),
    (r"\.neck\.3\.", ".neck.layer_norm2."),
    (r"\.mask_downscaling\.0\.", ".mask_embed.conv1."),
    (r"\.mask_downscaling\.1\.", ".mask_embed.layer_norm1."),
    (r"\.mask_downscaling\.3\.", ".mask_embed.conv2."),
    (r"\.mask_downscaling\.4\.", ".mask_embed.layer_norm2."),
    (r"\.mask_downscaling\.6\.", ".mask_embed.conv3."),
    (r"\.point_embeddings\.", ".point_embed."),
    (r"\.pe_layer\.positional_encoding_gaussian_matrix$", ".shared_embedding.positional_embedding"),
    (r"\.output_upscaling\.0\.", ".upscale_conv1."),
    (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
    (r"\.output_upscaling\.3\.", ".upscale_conv2."),
    (r"(mlps\.\d|_head)\.layers\.0\.", r"\1.proj_in."),
    (r"(mlps\.\d|_head)\.layers\.1\.", r"\1.layers.0."),
    (r"(mlps\.\d|_head)\.layers\.2\.", r"\1.proj_out."),
)


@dataclass(frozen=True)
class _Sizes:
    """Of a network of SAM's authors; by default of a small one."""

    width: int = 32
    depth: int = 2
    heads: int = 2
    hidden: int = 64
    window: int = 4
    everywhere: tuple[int, ...] = (1,)  # blocks whose attention is not in windows
    side: int = 128  # of the images, pixels
    patch: int = 16
    channels: int = 32
    mask_channels: int = 4
    decoder: int = 2  # blocks of the decoder
    decoder_hidden: int = 64
    rating_hidden: int = 32


def mask_generator(weights: str, device: torch.device) -> Any:
    """The pipeline of transformers that gives the masks of an image. ConfigError where the weights are not whole.

    weights: a file, a folder, or "none": a small network with random weights.
    """
    network, processor = _loaded(weights)
    network.eval().requires_grad_(False)
    return _transformers().pipeline(
        "mask-generation", model=network.to(device), image_processor=processor, device=device
    )


def _loaded(weights: str) -> tuple[Any, Any]:
    """The network, and what prepares images for it."""
    if weights == "none":
        with seeded(0):
            return _built(_Sizes())
    place = Path(weights).expanduser()
    return _from_folder(place) if place.is_dir() else _from_file(place)


def _built(sizes: _Sizes) -> tuple[Any, Any]:
    """A network with random weights, and what prepares images for it."""
    transformers, side = _transformers(), sizes.side
    config = transformers.SamConfig(
        vision_config={
            "hidden_size": sizes.width,
            "num_hidden_layers": sizes.depth,
            "num_attention_heads": sizes.heads,
            "mlp_dim": sizes.hidden,
            "window_size": sizes.window,
            "global_attn_indexes": list(sizes.everywhere),
            "image_size": side,
            "patch_size": sizes.patch,
            "output_channels": sizes.channels,
            "num_pos_feats": sizes.channels // 2,
        },
        prompt_encoder_config={
            "hidden_size": sizes.channels,
            "image_size": side,
            "patch_size": sizes.patch,
            "mask_input_channels": sizes.mask_channels,
        },
        mask_decoder_config={
            "hidden_size": sizes.channels,
            "num_hidden_layers": sizes.decoder,
            "mlp_dim": sizes.decoder_hidden,
            "iou_head_hidden_dim": sizes.rating_hidden,
        },
    )
    square = {"height": side, "width": side}
    return transformers.SamModel(config), transformers.SamImageProcessor(size={"longest_edge": side}, pad_size=square)


def _from_file(file: Path) -> tuple[Any, Any]:
    """Weights as the authors publish them: a state dict by their names."""
    try:
        state = read_state(file)
        network, processor = _built(_sizes(state))
        load_strictly(network, _by_names_of_transformers(state), str(file), "SAM", any_float=True)
    except (ArtifactError, ConfigError) as error:  # whose hints are on the results of stages
        raise ConfigError(error.message, SAM_WEIGHTS) from error
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise ConfigError(f"{file} has no SAM by the names of its authors ({error})", SAM_WEIGHTS) from error
    return network, processor


def _sizes(state: Mapping[str, Tensor]) -> _Sizes:
    """The sizes of the network that weights are of. KeyError and its relatives where they are not of SAM."""
    encoder, decoder = "image_encoder.", "mask_decoder."
    width, _, patch, _ = state[f"{encoder}patch_embed.proj.weight"].shape
    cells = state[f"{encoder}pos_embed"].shape[1]
    depth = len({key.split(".")[2] for key in state if key.startswith(f"{encoder}blocks.")})
    positions = [state[f"{encoder}blocks.{number}.attn.rel_pos_h"] for number in range(depth)]
    return _Sizes(
        width=width,
        depth=depth,
        heads=width // positions[0].shape[1],
        hidden=len(state[f"{encoder}blocks.0.mlp.lin1.bias"]),
        window=min((len(table) + 1) // 2 for table in positions),
        everywhere=tuple(number for number, table in enumerate(positions) if len(table) == 2 * cells - 1),
        side=cells * patch,
        patch=patch,
        channels=len(state[f"{encoder}neck.0.weight"]),
        mask_channels=len(state["prompt_encoder.mask_downscaling.3.weight"]),
        decoder=len({key.split(".")[3] for key in state if key.startswith(f"{decoder}transformer.layers.")}),
        decoder_hidden=len(state[f"{decoder}transformer.layers.0.mlp.lin1.bias"]),
        rating_hidden=len(state[f"{decoder}iou_prediction_head.layers.0.bias"]),
    )


def _by_names_of_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for key, value in state.items():
        for old, new in _NAMES:
            key = re.sub(old, new, key)
        found[key] = value
    twice = found.get("prompt_encoder.shared_embedding.positional_embedding")  # as transformers has it
    return found if twice is None else found | {"shared_image_embedding.positional_embedding": twice}


def _from_folder(folder: Path) -> tuple[Any, Any]:
    """A model for mask generation as transformers stores it."""
    transformers = _transformers()
    try:
        network, loaded = transformers.AutoModelForMaskGeneration.from_pretrained(
            folder,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in `loaded`
            dtype=torch.float32,
        )
        processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # its readers raise errors of many types for wrong files
        reason = " ".join(str(error).split()).partition(". ")[0][:200]
        raise ConfigError(f"{folder} has no model that transformers can load: {reason}", SAM_WEIGHTS) from error
    problems = {
        "missing": sorted(loaded["missing_keys"]),
        "of a different shape": sorted(name for name, *_ in loaded["mismatched_keys"]),
        "not finite": [name for name, value in network.state_dict().items() if not bool(torch.isfinite(value).all())],
    }
    for what, names in problems.items():
        if names:
            raise ConfigError(f"weights in {folder} are {what}: {named(names)}", SAM_WEIGHTS)
    return network, processor


def _transformers() -> Any:
    """The package, an optional dependency, without its progress bars."""
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise ConfigError(f"SAM needs transformers, which could not be imported: {error}", SAM_INSTALL) from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers
