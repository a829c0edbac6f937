"""The config of a network: backbone, neck, head, weights. Loads no torch.

In YAML a network is a preset's name, or a preset with changes, or all fields::

    network: tiny
    network: timm:convnext_tiny     # that backbone with its published weights, the rest as by default
    network: {preset: deeplabv2-resnet101, weights: imagenet, neck_layers: 2}
    network: {backbone: resnet50, head: fcn, weights: /data/resnet50.pth, output_stride: 16}
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from artifacts.errors import ConfigError
from artifacts.text import did_you_mean
from stages.config import SHORTHAND, Config, External

HeadName = Literal["largefov", "aspp", "deeplabv3plus", "fcn", "dpt"]

TIMM_PREFIX = "timm:"
TIMM_INSTALL = "pip install 'semiseg[timm]'"
CLIP_INSTALL = "pip install 'semiseg[clip]'"
SAM_INSTALL = "pip install 'semiseg[sam]'"
SAM_WEIGHTS = (
    "set source.weights to a file of SAM's authors (sam_vit_b_01ec64.pth), or to a folder of transformers "
    "(model.safetensors, config.json, preprocessor_config.json); or to none, to try the commands"
)
CLIP_WEIGHTS = (
    "set source.weights (weclip: method.clip.weights) to a file: OpenAI's ViT-B-16.pt, or one of open_clip; or to "
    "ViT-B-16:openai, which is downloaded; or to none, to try the commands"
)


@dataclass(frozen=True)
class BackboneFacts:
    """The facts on a backbone that its config needs, known without building it.

    Attributes:
        output_strides: the possible ones in a segmenter; (): known when it is built.
        published: values of `weights` in addition to none and a file.
        batch_norm: whether it has BatchNorm; for timm:NAME that is known when it is built.
        small: made for crops of about 100 pixels.
        timm: built by timm.
    """

    output_strides: tuple[int, ...] = ()
    published: tuple[str, ...] = ("imagenet",)
    batch_norm: bool = False
    small: bool = False
    timm: bool = False


_RESNET = BackboneFacts((8, 16, 32), batch_norm=True)
_RESNET38 = BackboneFacts((8, 16, 32), (), batch_norm=True)
_HRNET = BackboneFacts((4,), batch_norm=True, timm=True)
_DINOV2 = BackboneFacts((14,), ("pretrained",), timm=True)
BACKBONES: Mapping[str, BackboneFacts] = {
    "tiny": BackboneFacts((8, 16), (), small=True),
    "vgg16": BackboneFacts((8, 16, 32)),
    "resnet50": _RESNET,
    "resnet101": _RESNET,
    "resnet38": _RESNET38,
    "mobilenet_v2": BackboneFacts((8, 16, 32), batch_norm=True, small=True),
    "hrnet_w18_small": _HRNET,
    "hrnet_w48": _HRNET,
    "dinov2_small": _DINOV2,
    "dinov2_base": _DINOV2,
    "dinov2_large": _DINOV2,
}
_ANY_OF_TIMM = BackboneFacts(published=("pretrained", "imagenet"), timm=True)
DINOV2_BACKBONES = tuple(name for name, facts in BACKBONES.items() if facts is _DINOV2)

# atrous rates if the config has null: the published ones, for crops of 321 pixels and more
ATROUS_RATES: Mapping[str, tuple[int, ...]] = {
    "largefov": (12,),
    "aspp": (6, 12, 18, 24),
    "deeplabv3plus": (6, 12, 18),
    "fcn": (1,),
    "dpt": (),
}
# ... and for the small nets, whose crops of about 100 pixels are a handful of cells wide (ours)
SMALL_ATROUS_RATES: Mapping[str, tuple[int, ...]] = {
    "largefov": (2,),
    "aspp": (1, 2, 3, 4),
    "deeplabv3plus": (1, 2),
    "fcn": (1,),
    "dpt": (),
}


def _expand_preset(values: Any, presets: Mapping[str, Mapping[str, Any]]) -> Any:
    """`"tiny"` or `{"preset": "tiny", ...}` to the fields of the preset, overridden by the other keys."""
    if isinstance(values, str):
        values = {"preset": values}
    if not isinstance(values, Mapping):
        return values
    given = {key: value for key, value in values.items() if key not in ("preset", SHORTHAND)}
    name = values.get("preset", values.get(SHORTHAND))
    if name is None:
        return given
    if str(name).startswith(TIMM_PREFIX):
        return {"backbone": name, "weights": "pretrained", **given}
    if name not in presets:
        meant = did_you_mean(str(name), presets, list_known=False)
        raise ValueError(f"{name!r} is not a network preset ({', '.join(presets)}){meant}")
    return {**presets[name], **given}


def _weights_file(weights: str) -> Path | None:
    return None if weights in ("none", "imagenet", "pretrained") else Path(weights).expanduser()


class BackboneConfig(Config):
    """The shared part of classifiers and segmenters: an image-classification trunk and the source of its weights."""

    starts_anew = True
    backbone: str = Field(
        "tiny",
        description="tiny: semiseg's own net of 0.4 M parameters, GroupNorm, trained from scratch on a CPU.\n"
        "vgg16, resnet50, resnet101, mobilenet_v2: the nets of torchvision.\n"
        "resnet38: the wide residual network of PSA and SEAM, at stride 8 (Wu et al.).\n"
        "hrnet_w18_small, hrnet_w48: those of timm (an optional dependency).\n"
        "dinov2_small, dinov2_base, dinov2_large: vision transformers of timm; in segmenters with the head dpt.\n"
        "timm:NAME: any network of timm with feature maps (features_only), e.g. timm:res2net101_26w_4s.",
    )
    weights: Annotated[str, External(_weights_file)] = Field(
        "none",
        description="Where the backbone's weights come from: none = random;\n"
        "imagenet = torchvision's IMAGENET1K_V1 weights, downloaded once by torchvision (HRNet: timm's);\n"
        "pretrained = DINOv2's, downloaded once by timm (timm:NAME: the ones timm has under NAME, also as imagenet);\n"
        "or a file: .pth or .safetensors of torchvision, timm or DINOv2, or the weights.pt of a network artifact (of\n"
        "which the backbone is taken). For resnet38: MXNet's ilsvrc-cls_rna-a1_cls1000_ep-0001.params as it was\n"
        "published, or a .pth of PSA or SEAM.",
    )
    freeze_batch_norm: bool | Literal["affine"] = Field(
        True,
        description="true: keep the backbone's BatchNorm at its pretrained statistics and affine, also in training;\n"
        "right for small batches (DeepLabv2, IRNet). affine: the affine only, statistics follow the batches\n"
        "(AdvSemSeg, s4GAN). No effect on tiny and vgg16: they have no BatchNorm.",
    )
    freeze_stages: int = Field(
        0,
        ge=0,
        description="How many of the backbone's first stages keep their weights and the statistics of BatchNorm:\n"
        "resnet38 1 (conv1a, b2: PSA, SEAM), ResNets 1 (conv1: IRNet) or 2 (layer1 too), vgg16 2 (conv1, conv2: PSA).",
    )
    freeze: Literal["none", "encoder"] = Field(
        "none",
        description="encoder: the whole backbone keeps its weights and the statistics of BatchNorm, and is in eval\n"
        "mode, whatever freeze_stages and freeze_batch_norm say; neck and head alone learn. Its features can be kept\n"
        "(semiseg features).",
    )
    dropout: float = Field(
        0.5, ge=0, lt=1, description="Probability that an activation before the last layers is dropped."
    )

    def weights_file(self) -> Path | None:
        """The local file that `weights` names, or None for `none`, `imagenet` and `pretrained`."""
        return _weights_file(self.weights)

    @property
    def facts(self) -> BackboneFacts:
        return BACKBONES.get(self.backbone, _ANY_OF_TIMM)

    def check(self, batch_norm: bool | None = None) -> None:
        """Cheap checks before work starts: ConfigError if this network cannot be built as configured.

        batch_norm: whether the backbone has BatchNorm, once it is built.
        """
        if batch_norm is None:
            batch_norm = self.facts.batch_norm
        pretrained = " or ".join((*self.facts.published[:1], "a file"))
        file = self.weights_file()
        if file is not None and not file.is_file():
            raise ConfigError(
                f"network.weights: there is no file {file}",
                f"give the path of a state dict, or one of: {', '.join(('none', *self.facts.published))}",
            )
        if self.facts.timm and importlib.util.find_spec("timm") is None:
            raise ConfigError(f"network: {self.backbone} is built by timm, which is not installed", TIMM_INSTALL)
        if self.weights == "none" and self.freeze_batch_norm is True and batch_norm:
            raise ConfigError(
                f"network: {self.backbone} with weights none and freeze_batch_norm true: "
                "there are no statistics worth freezing, the network would train without normalisation",
                f"set network.weights to {pretrained}, or network.freeze_batch_norm to false",
            )
        frozen = {"freeze_stages": 0, "freeze": "none"}
        for key, off in frozen.items() if self.weights == "none" else ():
            if (value := getattr(self, key)) != off:
                raise ConfigError(
                    f"network: {self.backbone} with weights none and {key} {value}: random weights are not worth "
                    "freezing",
                    f"set network.weights to {pretrained}, or network.{key} to {off}",
                )

    @pydantic.field_validator("backbone")
    @classmethod
    def _known_backbone(cls, name: str) -> str:
        if name in BACKBONES or re.fullmatch(TIMM_PREFIX + r"\w+(\.\w+)*", name):
            return name
        if name.startswith(TIMM_PREFIX):  # among others hf-hub:OWNER/NAME: code and files of unknown origin
            raise ValueError("expected timm:NAME, with a name of timm's own list")
        known = f"not one of {', '.join(BACKBONES)}, timm:NAME"
        raise ValueError(known + did_you_mean(name, BACKBONES, list_known=False))

    @pydantic.model_validator(mode="after")
    def _check_weights_name(self) -> BackboneConfig:
        if self.weights not in ("imagenet", "pretrained") or self.weights in self.facts.published:
            return self
        if not self.facts.published and self.weights == "imagenet":
            raise ValueError(f"{self.backbone} has no ImageNet weights to download: use weights none or a file")
        if self.weights == "imagenet":
            raise ValueError(
                f"{self.backbone} was not trained on ImageNet's labels: use weights pretrained (DINOv2's own, by timm) "
                "or a file of timm or DINOv2"
            )
        raise ValueError(
            f"weights pretrained are for {', '.join(DINOV2_BACKBONES)} and timm:NAME; "
            f"for {self.backbone}: {', '.join((*self.facts.published, 'none or a file'))}"
        )


CLASSIFIER_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "tiny": {"backbone": "tiny", "dropout": 0.0},
    "vgg16-sec": {"backbone": "vgg16", "weights": "imagenet"},
    "resnet50": {"backbone": "resnet50", "weights": "imagenet", "dropout": 0.0},
    "resnet101": {"backbone": "resnet101", "weights": "imagenet", "dropout": 0.0},
    "mobilenet_v2": {"backbone": "mobilenet_v2", "weights": "imagenet", "dropout": 0.2},
    # Ahn & Kwak 2018 (PSA), Wang et al. 2020 (SEAM): conv1a, b2 and BatchNorm frozen; weights: a file
    "resnet38": {"backbone": "resnet38", "freeze_stages": 1},
}


class ClassifierConfig(BackboneConfig):
    """A multi-label classifier whose class-activation maps are exact (see stages/networks/classifier.py)."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:
        return _expand_preset(values, CLASSIFIER_PRESETS)


class NetworkConfig(BackboneConfig):
    """A segmentation network: backbone, neck and head."""

    head: HeadName = Field(
        "fcn",
        description="largefov: one dilated 3x3 branch (DeepLab-LargeFOV, SEC). aspp: such branches summed\n"
        "(DeepLab-ASPP, DeepLabv2). deeplabv3plus: pyramid with image pooling and a decoder at stride 4.\n"
        "fcn: 3x3 conv, norm, ReLU, dropout, 1x1 conv. dpt: four levels of a transformer, logits for every pixel.",
    )
    output_stride: int | None = Field(
        16,
        ge=1,
        description="Input pixels per cell of the backbone's last map, reached by dilation instead of striding\n"
        "(tiny: 8 or 16, no dilation; HRNet: 4, DINOv2: 14, always). 8 takes more than twice the time of 16.\n"
        "null, the default of timm:NAME and for it alone: 16 where that network can be dilated, else its own.",
    )
    neck_layers: int = Field(
        0,
        ge=0,
        le=3,
        description="3x3 conv + ReLU + dropout layers between backbone and head, shared by all branches\n"
        "(dual-branch paper: 'n layers, n at most 3').",
    )
    neck_channels: int = Field(512, ge=1, description="Channels of the neck's layers.")
    head_channels: int = Field(
        128,
        ge=0,
        description="Hidden channels of the head (DeepLab-VGG16: 1024, DeepLabv3+: 256).\n"
        "0, for aspp only: each branch is a single dilated 3x3 conv to the classes (DeepLabv2 on ResNet101).",
    )
    head_norm: Literal["group", "batch"] = Field(
        "group",
        description="Normalisation in the heads deeplabv3plus and fcn; largefov and aspp have none. group: GroupNorm,\n"
        "independent of the batch. batch: BatchNorm as published for DeepLabv3+, needs batches of two or more.",
    )
    atrous_rates: tuple[int, ...] | None = Field(
        None,
        description="Dilations of the head's branches. null = the published ones: largefov 12, aspp 6 12 18 24,\n"
        "deeplabv3plus 6 12 18 (times 16 / output_stride), fcn 1; for tiny and mobilenet_v2, made for crops of\n"
        "about 100 pixels: largefov 2, aspp 1 2 3 4, deeplabv3plus 1 2 (likewise), fcn 1.",
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:
        values = _expand_preset(values, PRESETS)
        if isinstance(values, Mapping) and str(values.get("backbone")).startswith(TIMM_PREFIX):
            return {"output_stride": None, **values}
        return values

    @pydantic.model_validator(mode="after")
    def _check_combination(self) -> NetworkConfig:
        strides = self.facts.output_strides
        if strides and self.output_stride not in strides:
            raise ValueError(
                f"{self.backbone} has output_stride {' or '.join(map(str, strides))}, not {self.output_stride}"
            )
        if strides and (self.head == "dpt") != (self.backbone in DINOV2_BACKBONES):
            raise ValueError(
                f"the head dpt and the backbones {', '.join(DINOV2_BACKBONES)} (or a transformer as timm:NAME) need "
                f"each other, found the head {self.head} on {self.backbone}"
            )
        if self.head == "dpt" and (self.neck_layers or self.atrous_rates is not None):
            raise ValueError("the head dpt has no atrous_rates, and takes four levels: neck_layers 0")
        if self.head_channels == 0 and self.head != "aspp":
            raise ValueError(f"head_channels 0 is for the head aspp; {self.head} needs at least 1")
        if self.atrous_rates is not None:
            if not self.atrous_rates or min(self.atrous_rates) < 1:
                raise ValueError(f"atrous_rates must be whole numbers from 1 on, found {list(self.atrous_rates)}")
            if self.head in ("largefov", "fcn") and len(self.atrous_rates) != 1:
                raise ValueError(f"{self.head} has one atrous rate, found {list(self.atrous_rates)}")
        return self

    def rates(self) -> tuple[int, ...]:
        """The head's dilations that are used; none for dpt. An output stride of null counts as 16."""
        if self.atrous_rates is not None:
            return self.atrous_rates
        table = SMALL_ATROUS_RATES if self.facts.small else ATROUS_RATES
        factor = max(16 // (self.output_stride or 16), 1) if self.head == "deeplabv3plus" else 1
        return tuple(factor * rate for rate in table[self.head])


PRESETS: Mapping[str, Mapping[str, Any]] = {
    # the two for CPUs: on small crops the plain head learned far faster than the pyramid, in half the time for each
    # step
    "tiny": {
        "backbone": "tiny",
        "head": "fcn",
        "output_stride": 8,
        "head_channels": 128,
        "dropout": 0.1,
    },
    "mobilenet_v2": {
        "backbone": "mobilenet_v2",
        "head": "fcn",
        "weights": "imagenet",
        "output_stride": 16,
        "head_channels": 256,
        "dropout": 0.1,
    },
    # Chen et al. 2015 (DeepLab-LargeFOV), the segmenter of SEC
    "deeplab-largefov-vgg16": {
        "backbone": "vgg16",
        "head": "largefov",
        "weights": "imagenet",
        "output_stride": 8,
        "head_channels": 1024,
    },
    # Chen et al. 2018 (DeepLabv2, section 4.1: ASPP-L), the segmenter of DSRG
    "deeplab-aspp-vgg16": {
        "backbone": "vgg16",
        "head": "aspp",
        "weights": "imagenet",
        "output_stride": 8,
        "head_channels": 1024,
    },
    "deeplabv2-resnet101": {
        "backbone": "resnet101",
        "head": "aspp",
        "weights": "imagenet",
        "output_stride": 8,
        "head_channels": 0,
    },
    # Wang et al. 2020 (SEAM), the segmenter of its retraining, there with BatchNorm in the head; weights: a file
    "deeplab-largefov-resnet38": {
        "backbone": "resnet38",
        "head": "largefov",
        "output_stride": 8,
        "head_channels": 512,
    },
    # Chen et al. 2018 (DeepLabv3+) with the settings of the semi-supervised literature (code of CPS, UniMatch): stride
    # 16, BatchNorm trained, no dropout, which would affect the pseudo labels made in train mode
    "deeplabv3plus-resnet50": {
        "backbone": "resnet50",
        "head": "deeplabv3plus",
        "weights": "imagenet",
        "output_stride": 16,
        "head_channels": 256,
        "head_norm": "batch",
        "freeze_batch_norm": False,
        "dropout": 0.0,
    },
    "deeplabv3plus-resnet101": {
        "backbone": "resnet101",
        "head": "deeplabv3plus",
        "weights": "imagenet",
        "output_stride": 16,
        "head_channels": 256,
        "head_norm": "batch",
        "freeze_batch_norm": False,
        "dropout": 0.0,
    },
    # Sun et al. 2019 (HRNetV2) with a 3x3 convolution in the head, theirs is 1x1; needs timm
    "hrnet-w48": {
        "backbone": "hrnet_w48",
        "head": "fcn",
        "weights": "imagenet",
        "output_stride": 4,
        "head_channels": 512,
        "head_norm": "batch",
        "freeze_batch_norm": False,
        "dropout": 0.0,
    },
    "hrnet-w18-small": {
        "backbone": "hrnet_w18_small",
        "head": "fcn",
        "weights": "imagenet",
        "output_stride": 4,
        "head_channels": 128,
        "freeze_batch_norm": False,
        "dropout": 0.1,
    },
    # Yang et al. 2024 (UniMatch V2): DINOv2 with DPT (Ranftl et al. 2021) without norms; needs timm
    "dpt-dinov2-small": {
        "backbone": "dinov2_small",
        "head": "dpt",
        "weights": "pretrained",
        "output_stride": 14,
        "head_channels": 64,
        "dropout": 0.0,
    },
    "dpt-dinov2-base": {
        "backbone": "dinov2_base",
        "head": "dpt",
        "weights": "pretrained",
        "output_stride": 14,
        "head_channels": 128,
        "dropout": 0.0,
    },
    "dpt-dinov2-large": {
        "backbone": "dinov2_large",
        "head": "dpt",
        "weights": "pretrained",
        "output_stride": 14,
        "head_channels": 256,
        "dropout": 0.0,
    },
}
