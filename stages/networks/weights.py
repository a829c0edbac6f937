"""Loads pretrained weights into a backbone; every key must be used or known to be unused."""

from __future__ import annotations

import http.client
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from artifacts import checkpoint
from artifacts.errors import ConfigError
from stages.networks.blocks import Backbone
from stages.networks.config import BackboneConfig
from stages.networks.mxnet_params import read_params
from stages.networks.timm_models import pretrained_state

ARTIFACT_PREFIX = "backbone."  # of a backbone's parameters in the weights.pt of a network artifact
ENTRIES = ("state_dict_ema", "model_ema", "state_dict", "model")  # of a training's checkpoint; an average wins
WRAPPERS = ("_orig_mod.", "module.", "_orig_mod.")  # that torch's compiler and DistributedDataParallel put before names


def load_pretrained(backbone: Backbone, config: BackboneConfig) -> dict[str, Tensor]:
    """Load `config.weights` (not "none") into `backbone`; returns the tensors that it does not use, by name.

    Those are the tensors that `backbone.sort_weights` knows (the ImageNet classifier) and nothing else. ConfigError
    names every key that is missing, unexpected or of a different shape.
    """
    if config.weights in ("imagenet", "pretrained") and config.facts.timm:
        state, source = pretrained_state(config.backbone), f"timm's weights of {config.backbone}"
    elif config.weights == "imagenet":
        state, source = _imagenet(config.backbone), f"torchvision's ImageNet weights of {config.backbone}"
    else:
        config.check()
        file = Path(config.weights).expanduser()
        state, source = _read(file), str(file)
    used, unused = backbone.sort_weights(state)
    load_strictly(backbone, used, source, f"the backbone {config.backbone}", any_float=True)
    return unused


def load_backbone(
    backbone: Backbone, config: BackboneConfig, taken: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Weights of the backbone of a network inside another: those that the config names, if any, once it is checked.

    taken: the state dict of a network whose backbone is taken instead. Returns what `load_pretrained` does.
    """
    if taken is not None:
        load_strictly(backbone, _inside(taken), "the input 'initial'", f"the backbone {config.backbone}")
        return {}
    config.check(backbone.has_batch_norm)
    return load_pretrained(backbone, config) if config.weights != "none" else {}


def load_strictly(
    module: torch.nn.Module, state: Mapping[str, Tensor], source: str, target: str, any_float: bool = False
) -> None:
    """Copy `state` into `module`: same keys, shapes and types, finite, or one ConfigError that names every difference.

    The counters `num_batches_tracked` may be missing (torchvision files of 2018 and before): they have no influence.

    Args:
        any_float: floating-point tensors of a different width are converted (weights made elsewhere).
    """
    expected = module.state_dict()
    problems = {
        "missing": [key for key in expected if key not in state and not key.endswith(".num_batches_tracked")],
        "unexpected": [key for key in state if key not in expected],
    }
    shared = [key for key in expected if key in state]
    for key in shared:
        if problem := _misfit(state[key], expected[key], any_float):
            kind, what = problem
            problems.setdefault(kind, []).append(f"{key}{what}")
    if any(problems.values()):
        lines = [f"  {len(keys)} {kind}: {', '.join(keys)}" for kind, keys in problems.items() if keys]
        raise ConfigError(
            f"the weights of {source} do not fit {target}\n" + "\n".join(lines),
            "check that the file belongs to this network (network.backbone, network.weights)",
        )
    copied = 0
    with torch.no_grad():
        for key in shared:
            expected[key].copy_(state[key])  # the state dict's tensors are the module's own
            copied += 1
    assert copied == sum(not key.endswith(".num_batches_tracked") or key in state for key in expected)


def _misfit(value: Tensor, expected: Tensor, any_float: bool) -> tuple[str, str] | None:
    """(kind, what) of the difference between a tensor and the one that it replaces, or None."""
    if value.shape != expected.shape:
        return "of a different shape", f" {tuple(value.shape)} instead of {tuple(expected.shape)}"
    floats = value.dtype.is_floating_point and expected.dtype.is_floating_point
    if value.dtype != expected.dtype and not (any_float and floats):
        return "of a different type", f" {value.dtype} instead of {expected.dtype}"
    if floats and not bool(torch.isfinite(value.to(expected.dtype)).all()):
        return "with values that are not finite numbers", ""
    return None


def _imagenet(name: str) -> dict[str, Tensor]:
    """torchvision's IMAGENET1K_V1 weights (those of the papers), from its cache or by its loader."""
    import torchvision

    weights = torchvision.models.get_weight(f"{_WEIGHTS[name]}.IMAGENET1K_V1")
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    # no network: URLError, an OSError; wrong hash: RuntimeError; torn connection: HTTPException; torn file: the rest
    except (OSError, RuntimeError, http.client.HTTPException, pickle.UnpicklingError, EOFError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise ConfigError(
            f"torchvision's ImageNet weights of {name} could not be loaded: {error}",
            f"download {Path(weights.url).name} on a machine with internet and put it into {folder}, "
            "or set network.weights to the file's path, or to none",
        ) from error


_WEIGHTS = {
    "vgg16": "VGG16_Weights",
    "resnet50": "ResNet50_Weights",
    "resnet101": "ResNet101_Weights",
    "mobilenet_v2": "MobileNet_V2_Weights",
}


def read_state(file: Path) -> dict[str, Tensor]:
    """The state dict in a file: plain tensors by name. ConfigError for anything else."""
    return _plain_state(file, checkpoint.load(file))


def _plain_state(file: Path, state: Any) -> dict[str, Tensor]:
    if not isinstance(state, dict) or not state or not all(map(_is_plain, state, state.values())):
        raise ConfigError(
            f"{file} is not a state dict of tensors by name",
            "save model.state_dict()",
        )
    return dict(state)


def _is_plain(name: object, value: object) -> bool:
    """Whether a value is a dense tensor in memory: not sparse, not quantised, not without storage."""
    if not isinstance(name, str) or not isinstance(value, Tensor) or value.is_quantized or value.is_nested:
        return False
    return value.layout == torch.strided and value.device.type == "cpu"


def _read(file: Path) -> dict[str, Tensor]:
    """A published state dict, the arrays of MXNet, or the backbone's part of a network artifact's weights."""
    if file.suffix == ".params":
        return {name: torch.from_numpy(values) for name, values in read_params(file).items()}
    saved = _read_safetensors(file) if file.suffix == ".safetensors" else checkpoint.load(file)
    if isinstance(saved, dict):  # of a training's checkpoint the network alone
        saved = next((saved[name] for name in ENTRIES if isinstance(saved.get(name), dict)), saved)
    state = _plain_state(file, saved)
    for wrapper in WRAPPERS:
        state = {name.removeprefix(wrapper): value for name, value in state.items()}
    return _inside(state) or state


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise ConfigError(f"{file} needs the package safetensors", "pip install safetensors") from None
    try:
        return load_file(file)
    except Exception as error:  # SafetensorError, or what a torn header raises
        raise ConfigError(f"{file} is damaged or not a safetensors file: {error}", "download it again") from error


def _inside(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's part of a network's state dict."""
    prefix = ARTIFACT_PREFIX
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
