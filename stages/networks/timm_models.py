"""Builds networks of timm (PyTorch Image Models), an optional dependency, by name; loads their published weights."""

from __future__ import annotations

import importlib
import io
from contextlib import redirect_stdout
from typing import Any

from torch import Tensor, nn

from artifacts.errors import ConfigError
from artifacts.text import did_you_mean
from stages.networks.config import TIMM_INSTALL, TIMM_PREFIX
from stages.networks.normalisation import MEAN, STD

CHOOSE = "python -c 'import timm; print(timm.list_models())' lists the names; most have feature maps (features_only)"

PATCHES = "patch_embed.proj.weight"  # of transformers: (channels, 3, patch, patch)
BIASES = "qkv.bias"  # of attention: zero in most of the published DINOv3, whose networks in timm have none
WEIGHTS = {
    "hrnet_w18_small": "hrnet_w18_small.ms_in1k",  # Microsoft's, those of the papers
    "hrnet_w48": "hrnet_w48.ms_in1k",
    "dinov2_small": "vit_small_patch14_dinov2.lvd142m",
    "dinov2_base": "vit_base_patch14_dinov2.lvd142m",
    "dinov2_large": "vit_large_patch14_dinov2.lvd142m",
}


def create(name: str, **changes: Any) -> nn.Module:
    """timm's network with random weights (from torch's global generator). ConfigError if timm is not installed."""
    return _timm().create_model(name, pretrained=False, **changes)


def feature_maps(name: str, output_stride: int | None) -> Any:
    """timm's network as a list of maps, with `feature_info`, for images of any size if possible.

    output_stride: passed to the network; a network without this argument is built without. None: 16. ConfigError if
    timm does not know the name, or has no feature maps of the network.
    """
    timm = _timm()
    _check_name(timm, name)
    changes, net = _first_that_builds(name, output_stride or 16)
    features = importlib.import_module("timm.models._features")
    if isinstance(net, features.FeatureHookNet):  # a copy of it (teachers) would write into the original
        raise ConfigError(f"timm gives the maps of {name} by hooks, which cannot be copied", CHOOSE)
    if isinstance(net, features.FeatureGetterNet):  # all maps after the final norm, as the last one was trained
        depth = net.out_indices[-1] + 1
        blocks = [(depth * quarter + 3) // 4 - 1 for quarter in (1, 2, 3, 4)]
        net = features.FeatureGetterNet(create(name, num_classes=0, **changes), blocks, norm=True)
    return net


def _first_that_builds(name: str, output_stride: int) -> tuple[dict[str, Any], Any]:
    """The network, built with those of the wanted arguments that it has, and these arguments."""
    for size in ({"dynamic_img_size": True}, {"strict_img_size": False}, {}):  # transformers have one of the two
        for stride in ({"output_stride": output_stride}, {}):
            try:
                return {**size, **stride}, create(name, features_only=True, **size, **stride)
            except (TypeError, AssertionError, RuntimeError, ValueError, AttributeError, KeyError) as error:
                failed = error
    raise ConfigError(f"timm gives no maps of {name}: {failed}", CHOOSE) from failed


def _check_name(timm: Any, name: str) -> None:
    base = name.partition(".")[0]
    if not timm.is_model(base):
        meant = did_you_mean(name, timm.list_models(), list_known=False)
        raise ConfigError(f"network.backbone: timm {timm.__version__} has no network {name!r}{meant}", CHOOSE)
    tags = [tag for tag in timm.list_pretrained() if tag.partition(".")[0] == base]
    if base != name and name not in tags:
        known = f"known: {base}, {', '.join(tags)}" if tags else f"name it {base}: timm has no weights of it"
        raise ConfigError(f"network.backbone: timm's {base} has no weights {name!r}", known)


def pixel_statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, by which pixels are normalised for a network's published weights."""
    published = _timm().get_pretrained_cfg(name)
    return (MEAN, STD) if published is None else (tuple(published.mean), tuple(published.std))


def timm_names(net: nn.Module, state: dict[str, Any]) -> dict[str, Tensor]:
    """A state dict as its authors published it -> by the names of timm's network `net`, by timm's own conversion.

    A position embedding of a different grid is resized. Patches of a different size, which timm would resize as well,
    and biases that are not zero, which timm would leave out, stay: they do not fit. A state dict that timm cannot
    convert is returned as it is.
    """
    convert = getattr(importlib.import_module(type(net).__module__), "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        with redirect_stdout(io.StringIO()):  # where DINOv3's biases of zero are left out, timm prints an error
            found = dict(convert(dict(state), net))
    except Exception:  # of a different network, whose entries timm's functions do not find: the caller names them
        return state
    kept = {
        key: value
        for key, value in state.items()
        if (key.endswith(PATCHES) and key in found and value.ndim == 4)
        or (key.endswith(BIASES) and not {key, key.replace(BIASES, "q_bias")} & set(found) and bool(value.any()))
    }
    return {**found, **kept}


def pretrained_state(name: str) -> dict[str, Tensor]:
    """The published weights of a backbone by timm's names, from its cache or by its download."""
    tag = name.removeprefix(TIMM_PREFIX) if name.startswith(TIMM_PREFIX) else WEIGHTS[name]
    try:
        return dict(_timm().create_model(tag, pretrained=True).state_dict())
    except ConfigError:
        raise
    except Exception as error:  # the hub's client and its HTTP library raise errors of many types
        raise ConfigError(
            f"timm's weights {tag} could not be loaded: {error}",
            f"on a machine with internet: torch.save(timm.create_model('{tag}', pretrained=True).state_dict(), FILE); "
            "then set network.weights to that file's path, or to none",
        ) from error


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ConfigError(f"timm could not be imported: {error}", TIMM_INSTALL) from error
