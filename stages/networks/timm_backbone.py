"""Any network of timm (PyTorch Image Models) as a backbone, by its name in timm.

    network: {backbone: "timm:res2net101_26w_4s", weights: pretrained, head: deeplabv3plus}

timm declares the maps of a network (`features_only`); the declaration is checked when the network is built.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from artifacts.cells import cells
from artifacts.errors import ConfigError
from stages.networks.blocks import Backbone, Features, pad_to_multiples
from stages.networks.depthwise import with_fast_gradients
from stages.networks.normalisation import MEAN, STD
from stages.networks.timm_models import create, feature_maps, pixel_statistics, timm_names
from stages.networks.vision_transformer import LEVELS


class TimmBackbone(Backbone):
    """A network of timm: its last map is `high`, the first at stride 4 (or the next coarser one) `low`.

    Images are padded with zeros at the right and bottom to multiples of the coarsest stride. If the network cuts
    patches (transformers, ConvNeXt), half a cell of zeros is added at the left and top, too, so that cell i of `high`
    is centred half a pixel before pixel stride * i; the finer maps of such a network stay within half a cell. Pixels
    are normalised as for the network's published weights. Transformers: the maps after four blocks, evenly spaced,
    with the final norm.
    """

    children_in_order = False

    factor: Tensor
    offset: Tensor

    def __init__(self, name: str, output_stride: int | None, centred: bool = True) -> None:
        """A network with random weights.

        output_stride: reached by dilation, or ConfigError; None: 16 if the network has it, else its own.
        centred: cell i is centred on pixel stride * i; False, for the head dpt: cell i is the patch from that pixel on,
        and `forward` returns the four maps of a transformer (as stages/networks/vision_transformer.py).
        """
        super().__init__()
        self.name = name
        self.net = feature_maps(name, output_stride)
        self.last = getattr(getattr(self.net, "output_fmt", None), "value", "NCHW") == "NHWC"  # channels are last
        names = [key.removeprefix("model.") for key in self.net.state_dict()]
        split_norms(self.net)
        with_fast_gradients(self.net)
        self.names = dict(zip(map(_plain, names), self.net.state_dict(), strict=True))
        self.level_channels = tuple(self.net.feature_info.channels())
        self.level_strides = tuple(self.net.feature_info.reduction())
        self.stride = self.level_strides[-1]
        self.coarsest = max(self.level_strides)
        if any(self.coarsest % stride for stride in self.level_strides):
            raise ConfigError(
                f"timm's {name} cannot be a backbone: its maps have the strides "
                f"{', '.join(map(str, self.level_strides))}, which do not divide the coarsest",
                "use a network whose strides do",
            )
        cuts_patches = _cuts_patches(self.net)
        self.before = self.stride // 2 if cuts_patches and centred else 0
        self.patches = not centred
        if self.patches and not (cuts_patches and self.level_strides == (self.stride,) * len(LEVELS)):
            raise ConfigError(
                f"the head dpt takes four maps of one size from a transformer, timm's {name} has the strides "
                f"{', '.join(map(str, self.level_strides))}",
                "set network.head to deeplabv3plus, fcn, aspp or largefov",
            )
        if output_stride not in (None, self.stride):
            raise ConfigError(
                f"timm's {name} has the output stride {self.stride}, found output_stride: {output_stride}",
                f"set network.output_stride to {self.stride}, or to null",
            )
        fitting = [s for s in self.level_strides if s >= 4 and self.stride % s == 0]
        self.low_stride = min(fitting, default=self.stride)
        self.low_level = self.level_strides.index(self.low_stride)
        self.low_channels, self.high_channels = self.level_channels[self.low_level], self.level_channels[-1]
        mean, std = pixel_statistics(name)
        own, wanted = torch.tensor((MEAN, STD)), torch.tensor((mean, std))
        self.register_buffer("factor", (own[1] / wanted[1])[:, None, None], persistent=False)
        self.register_buffer("offset", ((own[0] - wanted[0]) / wanted[1])[:, None, None], persistent=False)
        self.renormalised = (tuple(mean), tuple(std)) != (MEAN, STD)
        self._try()

    def forward(self, x: Tensor) -> Features:
        return dict(zip(LEVELS, self.levels(x), strict=True)) if self.patches else super().forward(x)

    def levels(self, x: Tensor) -> list[Tensor]:
        height, width = x.shape[-2:]
        x = pad_to_multiples(x, self.coarsest, self.before)
        if self.renormalised:
            x = x * self.factor + self.offset
        maps = self.net(x)
        if self.last:
            maps = [level.permute(0, 3, 1, 2) for level in maps]
        cut = []
        for level, stride in zip(maps, self.level_strides, strict=True):
            first, rows, columns = self.before // stride, cells(height, stride), cells(width, stride)
            cut.append(level[..., first : first + rows, first : first + columns])
        return cut

    def sort_weights(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        if all(key in self.state_dict() for key in state):  # of a network artifact
            return state, {}
        whole = create(self.name, num_classes=1)  # with a classifier, which published DINOv2 and DINOv3 do not have
        state, known = timm_names(whole, state), whole.state_dict()
        used = {f"net.{self.names[plain]}": state[key] for key in state if (plain := _plain(key)) in self.names}
        rest = {key: value for key, value in state.items() if _plain(key) not in self.names}
        unused = {key: value for key, value in rest.items() if key in known}
        return {**used, **{key: value for key, value in rest.items() if key not in unused}}, unused

    def _try(self) -> None:
        """ConfigError if the network takes images of one size only, or its maps differ from timm's declaration."""
        sides = (2 * self.coarsest, 3 * self.coarsest)
        levels = zip(self.level_channels, self.level_strides, strict=True)
        expected = [(channels, *(cells(side, stride) for side in sides)) for channels, stride in levels]
        training = self.training
        try:
            with torch.enable_grad():
                maps = self.eval().levels(torch.zeros(1, 3, *sides))
        except (RuntimeError, AssertionError, ValueError, TypeError) as error:
            raise ConfigError(
                f"timm's {self.name} cannot be a backbone: an image of {sides[1]} x {sides[0]} pixels failed: {error}",
                "use a network that accepts images of any size",
            ) from error
        found = [tuple(level.shape[1:]) for level in maps]
        if found != expected:
            raise ConfigError(
                f"timm's {self.name} cannot be a backbone: its maps are {found}, expected {expected}",
                "use a network whose maps keep the proportions of the image",
            )
        parameters = list(self.parameters())
        reached = torch.autograd.grad(maps[-1].sum(), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, reached, strict=True):
            if gradient is None:  # of finer maps alone (HRNet): several processes wait for every gradient
                parameter.requires_grad_(False)
        self.train(training)


def split_norms(net: nn.Module) -> None:
    """timm's BatchNorm with an activation inside -> the two one after the other.

    Code that converts or folds BatchNorm layers (several processes, inference) would lose the activation.
    """
    from timm.layers import BatchNormAct2d

    for name, child in net.named_children():
        if isinstance(child, BatchNormAct2d):
            with torch.device("meta"):
                norm = nn.BatchNorm2d(child.num_features, child.eps, child.momentum, child.affine)
            norm.weight, norm.bias = child.weight, child.bias
            for key, buffer in child.named_buffers(recurse=False):
                setattr(norm, key, buffer)
            setattr(net, name, nn.Sequential(norm, child.drop, child.act))
        else:
            split_norms(child)


def _plain(key: str) -> str:
    """A parameter's name, equal for timm's classifier and its feature maps: stages.0 is stages_0."""
    return key.replace(".", "_")


def _cuts_patches(net: nn.Module) -> bool:
    """Whether the first strided convolution cuts the image into patches that do not overlap."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and max(module.stride) > 1:
            return module.kernel_size == module.stride and module.padding in ((0, 0), 0, "valid")
    return False
