"""SEAM's network: a classifier whose class-activation maps are spread over the cells that look alike.

network = build_seam_network(ClassifierConfig.model_validate("resnet38"), num_foreground=20, levels=None, seed=0)
cams, refined = network.both_maps(normalise(images))   # (B, 20, h, w), and with background (B, 21, h, w)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from artifacts.errors import ConfigError
from stages.networks.blocks import Backbone, initialise
from stages.networks.classifier import Classifier, initialised
from stages.networks.config import BackboneConfig, ClassifierConfig
from stages.networks.registry import network_kind, network_spec

WIDTHS = (64, 128)  # channels made of the two levels (published), which with the image's three
COMPARED = 192  # become the channels that cells are compared by (published)
FLOOR = 1e-5  # of its code: added to what is divided by, taken from what is scaled
MOST = 2**25  # affinities in memory at a time, a pair of cells each, while no gradient is asked for


@network_kind("seam")
class SeamNetwork(Classifier):
    """A classifier and its pixel correlation module (Wang et al., CVPR 2020, section 3.3).

    Cells are compared by x = W [image; ReLU(W_1 l_1); ReLU(W_2 l_2)], l_1 and l_2 two levels of the backbone, which
    pass no gradient on. `forward` gives the logits of the unrefined maps, as of any classifier.

    Attributes:
        read: the two levels, counted from 1, the finest.
        from_minimum: refined maps are means over many cells and nowhere 0: `seeds` takes their minimum from them.
    """

    from_minimum = True

    def __init__(self, config: BackboneConfig, num_foreground: int, levels: Sequence[int] | None = None) -> None:
        super().__init__(config, num_foreground)
        self.read = levels_that_fit(self.backbone, config.backbone, levels)
        channels = [self.backbone.level_channels[level - 1] for level in self.read]
        self.reduce = nn.ModuleList(
            [nn.Conv2d(count, width, 1, bias=False) for count, width in zip(channels, WIDTHS, strict=True)]
        )
        self.compare = nn.Conv2d(3 + sum(WIDTHS), COMPARED, 1, bias=False)
        initialise(self.reduce)
        nn.init.xavier_uniform_(self.compare.weight, gain=4)

    def both_maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (B, 3, H, W) -> raw maps (B, K, h, w), and refined ones fp32 (B, 1 + K, h, w) in 0..1.

        Channel 0 of the refined maps is background. To the raw maps no gradient passes from them.
        """
        levels = self.backbone.levels(images)
        cams = self.scores(self.extra(levels[-1]))
        parts = [images[..., :: self.stride, :: self.stride]]
        for level, reduce in zip(self.read, self.reduce, strict=True):
            step = self.stride // self.backbone.level_strides[level - 1]
            parts.append(reduce(levels[level - 1].detach()[..., ::step, ::step]).relu())
        features = self.compare(torch.cat(parts, 1))
        with torch.autocast(images.device.type, enabled=False):
            return cams, correlate(scaled_by_maximum(cams.detach().float()), features.float())

    def activation_maps(self, images: Tensor) -> Tensor:
        """The refined maps of the foreground classes, (B, K, h, w): what localises."""
        return self.both_maps(images)[1][:, 1:]

    def spec(self, class_names: Sequence[str]) -> dict[str, Any]:
        """What network.json holds."""
        return network_spec(self, class_names, levels=list(self.read))

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> SeamNetwork:
        return cls(ClassifierConfig.model_validate(spec["network"]), spec["num_classes"] - 1, **spec["options"])


def scaled_by_maximum(cams: Tensor) -> Tensor:
    """Raw maps (B, K, h, w) -> what is spread, (B, 1 + K, h, w) in 0..1: ReLU, each map divided by its maximum.

    See `with_background`.
    """
    positive = cams.relu()
    return with_background((positive - FLOOR).relu() / (positive.amax((2, 3), keepdim=True) + FLOOR))


def with_background(maps: Tensor) -> Tensor:
    """Maps (B, K, h, w) in 0..1 -> (B, 1 + K, h, w): 1 - the highest class, then the classes, 0 but for the highest."""
    highest = maps.amax(1, keepdim=True)
    return torch.cat([1 - highest, maps * (maps >= highest)], 1)


def correlate(maps: Tensor, features: Tensor) -> Tensor:
    """For each cell u the mean of the maps over all cells v, weighted by how alike u and v are (equation 7).

    y_u = sum_v ReLU(cos(x_u, x_v)) maps_v / sum_v ReLU(cos(x_u, x_v))

    Without a gradient the affinities of `MOST` pairs of cells at a time are in memory, so that it grows with the
    number of cells and not with its square.

    Args:
        maps: (B, C, h, w); features: x, (B, channels, h, w).
    """
    x = features.flatten(2)
    x = x / (x.norm(dim=1, keepdim=True) + FLOOR)
    batch, _, count = x.shape
    step = count if x.requires_grad else max(1, MOST // (batch * count))
    summed = torch.cat([maps.flatten(2), maps.new_ones(batch, 1, count)], 1)  # the ones: sum of the weights
    means = torch.cat([summed @ (x.transpose(1, 2) @ part).relu_() for part in x.split(step, 2)], 2)
    return (means[:, :-1] / (means[:, -1:] + FLOOR)).view_as(maps)


def levels_that_fit(backbone: Backbone, name: str, levels: Sequence[int] | None) -> tuple[int, ...]:
    """The two levels that cells are compared by: those given, or the two before what is classified.

    Of ResNet38 these are conv4 and conv5 (published), of ResNets layer2 and layer3, of vgg16, whose classifier has
    further layers behind the backbone, conv4 and conv5. ConfigError where there are none.
    """
    count = len(backbone.level_channels)
    if backbone.level_channels[-1] != backbone.high_channels:
        raise ConfigError(
            f"method seam: {name} has parallel branches, no levels one behind the other",
            "use resnet38, resnet50, resnet101, vgg16, mobilenet_v2, tiny or a network of timm with stages",
        )
    last = count if name == "vgg16" else count - 1
    chosen = tuple(levels or (last - 1, last))
    if not all(1 <= level <= count and backbone.stride % backbone.level_strides[level - 1] == 0 for level in chosen):
        raise ConfigError(
            f"method seam: levels {', '.join(map(str, chosen))} do not fit {name}, which has {count}, of the strides "
            f"{', '.join(map(str, backbone.level_strides))}",
            f"set method.levels to two of 1 to {count} whose strides divide {backbone.stride}",
        )
    return chosen


def build_seam_network(
    config: BackboneConfig, num_foreground: int, levels: Sequence[int] | None, seed: int
) -> SeamNetwork:
    """As `build_classifier`; `levels`: those that cells are compared by, None: by the backbone."""
    return initialised(lambda: SeamNetwork(config, num_foreground, levels), config, seed)
