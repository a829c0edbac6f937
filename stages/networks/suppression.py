"""Networks whose peaks are held down, so that they respond to all of an object (Kim et al., AAAI 2021: DRS).

    network = build_suppressed(ClassifierConfig.model_validate("vgg16-sec"), num_foreground=20, seed=0)
    logits = network(normalise(images))                       # (B, 20), class id k + 1 at index k
    maps = network.eval().activation_maps(normalise(images))  # (B, 20, h, w); their spatial mean is the logits

Without suppression it is what refines maps in the same paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from artifacts.errors import ConfigError
from stages.networks.config import BackboneConfig, ClassifierConfig
from stages.networks.deeper_classifier import DeeperClassifier, build_deeper
from stages.networks.registry import network_kind, network_spec

SUPPRESSIBLE = ("tiny", "vgg16", "resnet50", "resnet101", "mobilenet_v2")
"""Backbones whose ReLUs are modules that run once, or the last step of a block."""

Suppressed = Literal["learnable"] | float | None
"""By which factor peaks are held down: one that each channel of each image gets, the same for all, or not at all."""

Places = Literal["relus", "stages"]
"""Where peaks are held down: behind every ReLU, or only behind the last one of each stage of the backbone."""

MILD = 2.0  # where the bias of a learned factor starts behind stages: at .88 of the maximum (ours)


class Suppression(nn.Module):
    """min(x, K max x) of each channel of each image; K = sigmoid(W GAP(x)), or a constant (equations 1 to 3).

    `bias`: K = sigmoid(W GAP(x) + b), b learned from this value on (ours).
    """

    def __init__(self, channels: int, factor: Literal["learnable"] | float, bias: float | None = None) -> None:
        super().__init__()
        self.factor = factor
        if factor == "learnable":
            self.controller = nn.Linear(channels, channels, bias=bias is not None)
            nn.init.normal_(self.controller.weight, std=0.01)  # every K starts near 1/2, or sigmoid(bias)
            if bias is not None:
                nn.init.constant_(self.controller.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        """What is behind a ReLU, (B, C, h, w)."""
        factor: Any = self.factor
        if factor == "learnable":
            factor = self.controller(x.mean((2, 3))).sigmoid()[:, :, None, None]
        return torch.minimum(x, factor * x.amax((2, 3), keepdim=True))

    def behind(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """A forward hook: suppresses what a module gives. A copy of the network has hooks of its own."""
        return self(output)


@network_kind("drs")
class SuppressedClassifier(DeeperClassifier):
    """Suppressions behind the ReLUs of the backbone that `places` names, and behind those of the three convolutions.

    `places` None: behind every one; of a backbone with BatchNorm, behind the last one of each stage. Its BatchNorm
    does not scale with what is cut: behind a few dozen cuts only its constants are left, the same for all images.
    "relus" of the ResNets and of the residual blocks of tiny are the last ones of the blocks. The suppressions never
    come from given weights.
    """

    def __init__(
        self,
        config: BackboneConfig,
        num_foreground: int,
        suppressed: Suppressed = "learnable",
        places: Places | None = None,
    ) -> None:
        if suppressed is not None and config.backbone not in SUPPRESSIBLE:
            raise ConfigError(
                f"method drs holds down what is behind the ReLUs of a network, and does not know those of "
                f"{config.backbone}",
                f"set network.backbone to one of {', '.join(SUPPRESSIBLE)}",
            )
        super().__init__(config, num_foreground)
        self.suppressed = suppressed
        self.places: Places = places or ("stages" if self.backbone.has_batch_norm else "relus")
        self.suppressions = nn.ModuleList()
        if suppressed is not None:
            self._suppress(suppressed)

    def _suppress(self, factor: Literal["learnable"] | float) -> None:
        """Hooks, so that the backbone keeps its names of parameters, by which published weights are loaded."""
        inside = rectified(self.backbone)
        if self.places == "stages":
            inside = [rectified(stage)[-1] for stage in self.backbone.stages()]
        places = [*inside, *rectified(self.extra)]
        for place, channels in zip(places, self._channels(places), strict=True):
            bias = MILD if self.places == "stages" else None
            self.suppressions.append(suppression := Suppression(channels, factor, bias))
            place.register_forward_hook(suppression.behind)

    @torch.no_grad()
    def _channels(self, places: Sequence[nn.Module]) -> list[int]:
        """Of what each module gives."""
        found: dict[int, int] = {}
        hooks = [
            place.register_forward_hook(lambda place, inputs, output: found.update({id(place): output.shape[1]}))
            for place in places
        ]
        training = self.training
        self.eval().features(torch.zeros(1, 3, 2 * self.stride, 2 * self.stride))
        self.train(training)
        for hook in hooks:
            hook.remove()
        return [found[id(place)] for place in places]

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> logits (B, K); index k is class id k + 1."""
        return self.scores(self.features(images).mean((2, 3), keepdim=True)).flatten(1)

    def activation_maps(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> maps (B, K, ceil(H / stride), ceil(W / stride)) before any ReLU."""
        return self.scores(self.features(images))

    def spec(self, class_names: Sequence[str]) -> dict[str, Any]:
        """What network.json holds."""
        return network_spec(self, class_names, suppressed=self.suppressed, places=self.places)

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> SuppressedClassifier:
        options = {"places": "relus", **spec["options"]}  # files from before there was a choice
        return cls(ClassifierConfig.model_validate(spec["network"]), spec["num_classes"] - 1, **options)


def rectified(network: nn.Module) -> list[nn.Module]:
    """The modules whose output is behind a ReLU: each ReLU, or the block that runs its `relu` several times."""
    places = []
    for name, module in network.named_modules():
        if isinstance(module, (nn.ReLU, nn.ReLU6)):
            block, _, own = name.rpartition(".")
            places.append(network.get_submodule(block) if block and own == "relu" else module)
    return places


def build_suppressed(
    config: BackboneConfig,
    num_foreground: int,
    seed: int,
    suppressed: Suppressed = "learnable",
    backbone_from: Mapping[str, Tensor] | None = None,
    places: Places | None = None,
) -> SuppressedClassifier:
    """See `build_deeper`."""
    return build_deeper(
        lambda: SuppressedClassifier(config, num_foreground, suppressed, places), config, seed, backbone_from
    )
