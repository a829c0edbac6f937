"""The kinds of network that network.json can name, and how each is built again.

A kind is one line at its class::

    @network_kind("boundary")
    class BoundaryNetwork(nn.Module):
        def spec(self, class_names): return network_spec(self, class_names)
        @classmethod
        def from_spec(cls, spec): ...       # the architecture, with any weights
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

SPEC_SCHEMA = 2
HOME = "stages."  # of every module that may define a kind

KINDS: dict[str, Any] = {}
"""The class of each kind that is defined in a module imported so far."""

N = TypeVar("N", bound=type[nn.Module])


class CamNetwork(Protocol):
    """A classifier with class-activation maps.

    Attributes:
        num_foreground: K, the classes without background; index k is class id k + 1.
        stride: input pixels per cell of the maps.

    One whose maps are means, and nowhere 0, has `from_minimum = True`: `seeds` takes the minimum of each map from it.
    One that sees what a segmenter predicted has `needs_masks = True`: both of its functions take, as second argument,
    the masks of the images, (B, H', W') of any integer type, of any size, 255 where unknown.
    """

    num_foreground: int
    stride: int

    def __call__(self, images: Tensor) -> Tensor:
        """`forward`: normalised images (B, 3, H, W) -> logits (B, K)."""
        ...

    def activation_maps(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> maps (B, K, ceil(H / stride), ceil(W / stride)) before any ReLU."""
        ...


class GroupCamNetwork(CamNetwork, Protocol):
    """A `CamNetwork` that looks at an image together with others, its partners, where `seeds` gives it some.

    Attributes:
        partners: how many.
        partner_side: the squares that partners are resized to, pixels.
    """

    partners: int
    partner_side: int

    def nodes(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> what others are shown of them, (B, C, h, w)."""
        ...

    def activation_maps(self, images: Tensor, partners: Tensor | None = None) -> Tensor:
        """partners: nodes (B, partners, C, h', w'); None: each image is looked at alone."""
        ...


def network_kind(name: str) -> Callable[[N], N]:
    """Registers a class under `name`, its kind in network.json. It has `from_spec(spec)`, `config` and `pretrained`."""

    def register(cls: N) -> N:
        KINDS[name] = cls
        return cls

    return register


def network_spec(network: Any, class_names: Sequence[str], **options: Any) -> dict[str, Any]:
    """The content of network.json for a network of a registered kind: enough to build it for the tensors of weights.pt.

    `class_names` includes background. `options`: what the kind needs in addition to its config. `weights` is "none"
    there: the tensors are the weights, and a path would be valid on one machine only.
    """
    kind = next((name for name, cls in KINDS.items() if cls is type(network)), None)
    if kind is None:
        raise TypeError(f"{type(network).__name__} is not a kind of network: put @network_kind(NAME) at its class")
    num_classes = getattr(network, "num_classes", len(class_names))
    if len(class_names) != num_classes:
        raise ValueError(f"{len(class_names)} class names for {num_classes} classes (background included)")
    return {
        "schema": SPEC_SCHEMA,
        "kind": kind,
        "module": type(network).__module__,
        "network": {**network.config.model_dump(mode="json"), "weights": "none"},
        "options": options,
        "num_classes": num_classes,
        "class_names": list(class_names),
        "pretrained": list(network.pretrained),
    }


def class_of(kind: str, module: str) -> Any:
    """The class of a kind, from the module that defines it; ValueError if there is none."""
    if kind not in KINDS and module.startswith(HOME):
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ValueError(f"kind {kind!r} is defined in {module}, which this version does not have") from error
    if kind not in KINDS:
        raise ValueError(f"unknown kind of network {kind!r} (known: {', '.join(sorted(KINDS))})")
    return KINDS[kind]
