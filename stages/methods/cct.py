"""Cross-consistency training (Ouali et al., CVPR 2020).

One encoder, one main decoder trained on masks, and many auxiliary decoders. Each of these sees the features of the
unlabelled images perturbed in its own way and has to predict what the main decoder predicts from the clean ones.
Only encoder and main decoder are evaluated.

    semiseg train --method cct
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from artifacts.errors import ConfigError
from stages.engine.device import sent
from stages.engine.inference import evaluating
from stages.engine.label_sharing import respect_labels
from stages.engine.losses import squared_difference
from stages.engine.method import Batch, Method, Setup, Sources, at_size, segment
from stages.engine.randomness import derive_seed
from stages.engine.streams import Stream
from stages.engine.teacher import sigmoid_ramp
from stages.engine.watching import shown
from stages.methods.parts import perturbations
from stages.methods.parts.adversarial_noise import adversarial_direction
from stages.methods.parts.batch_shares import strong_and_unlabelled
from stages.methods.settings.cct import CctSettings
from stages.networks import Segmenter, make_head
from stages.networks.blocks import Features
from stages.networks.segmenter import seeded
from stages.networks.shuffle_decoder import ShuffleDecoder


class Cct(Method):
    """L = CE(g(e(x)), y) + w r(t) 1/K sum_k MSE(softmax g_k(p_k(e(u))), softmax g(e(u))),  w = 30

    e: backbone and neck, g: the segmenter's head, g_k: auxiliary decoders, p_k: their perturbations, of seven kinds,
    r: a sigmoid ramp. MSE is a mean over pixels and classes. The target passes no gradient: unlabelled images teach the
    encoder and the auxiliary decoders, masks the encoder and the main one. The target is shared among the labels of its
    image: `image_labels`.
    """

    def __init__(self, settings: CctSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        segmenter, self.kinds = setup.segmenter(), settings.decoders.kinds() if settings.weight else []
        decoders = [_decoder(settings, setup, segmenter, number) for number in range(len(self.kinds))]
        self.networks = nn.ModuleDict({"segmenter": segmenter, "auxiliary": nn.ModuleList(decoders)})

    @classmethod
    def streams(cls, settings: CctSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        return strong_and_unlabelled(settings, sources, batch_size)

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        segmenter = self.segmenter
        labelled, unlabelled = batch["strong"], batch["unlabelled"]
        terms = {"supervised": self.supervised(segment(segmenter, labelled), labelled.label)}
        if self.settings.weight == 0:
            return terms
        features = segmenter.trunk(unlabelled.image)
        with torch.no_grad():  # in train mode, as in the authors' code
            clean = at_size(segmenter.head(features), unlabelled, segmenter)
            target = respect_labels(clean, unlabelled.tags, self.settings.image_labels).softmax(1)
        ramp = sigmoid_ramp(step, round(self.settings.ramp * self.setup.iterations))
        factor = self.settings.weight * ramp / len(self.kinds)
        for kind, decoder, changed in self._perturbed(features, target.argmax(1) > 0, step):
            found = self._logits(decoder, changed, unlabelled).softmax(1)
            error = squared_difference(found, target, unlabelled.valid, reduction="mean")
            terms[kind] = terms.get(kind, 0) + factor * error
        return terms

    def _perturbed(
        self, features: Features, foreground: Tensor, step: int
    ) -> Iterator[tuple[str, nn.Module, Features]]:
        """Kind, decoder and its features: "high" perturbed; "low", which some heads need too, unchanged."""
        settings, high, backbone = self.settings, features["high"], self.segmenter.backbone
        grid = backbone.stride, backbone.patches
        boxes = self._object_boxes(foreground)
        for number, (kind, decoder) in enumerate(zip(self.kinds, self.auxiliary, strict=True)):
            purpose = ("cct", step, number)
            randoms = perturbations.image_generators(len(high), self.setup.seed, *purpose)
            if kind == "vat":
                changed = high + self._adversarial(decoder, features, randoms)
            elif kind == "dropout":
                changed = perturbations.channel_dropout(high, settings.dropout_rate, randoms)
            elif kind == "cutout":
                size = (foreground.shape[1], foreground.shape[2])
                kept = perturbations.guided_cutout(boxes, size, settings.erase, randoms)
                changed = perturbations.keep_cells(high, sent(kept, high.device), *grid)
            elif kind == "context":
                changed = perturbations.keep_cells(high, foreground, *grid)
            elif kind == "object":
                changed = perturbations.keep_cells(high, ~foreground, *grid)
            elif kind == "feature_drop":
                changed = perturbations.feature_drop(high, settings.drop_range, randoms)
            else:
                changed = perturbations.feature_noise(high, settings.noise, self.setup.seed, *purpose)
            yield kind, decoder, {**features, "high": changed}

    def _object_boxes(self, foreground: Tensor) -> list[list[perturbations.Box]]:
        """By image; computed once per step, on the CPU, if a decoder needs them."""
        if "cutout" not in self.kinds:
            return []
        return [perturbations.object_boxes(image, self.settings.min_contour) for image in foreground.cpu().numpy()]

    def _adversarial(self, decoder: nn.Module, features: Features, randoms: Sequence[np.random.Generator]) -> Tensor:
        """The noise (B, C, h, w) of a given length that changes this decoder's prediction most; no gradient."""
        fixed = {name: value.detach().float() for name, value in features.items()}
        high = fixed["high"]
        start = torch.stack([perturbations.uniform(high[0], -0.5, 0.5, random) for random in randoms])
        xi = self.settings.vat_step * high.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        with evaluating(decoder):
            direction = adversarial_direction(lambda x: decoder({**fixed, "high": x}), high, start, xi)
        return self.settings.vat_radius * direction

    def _logits(self, decoder: nn.Module, features: Features, batch: Batch) -> Tensor:
        """(B, C, H, W) at the size of the images, fp32."""
        logits = decoder(features)
        if isinstance(decoder, ShuffleDecoder):
            height, width = batch.image.shape[-2:]
            logits = logits[..., :height, :width].float()  # the last cells reach beyond the image
            shown(logits, batch)
            return logits
        return at_size(logits, batch, self.segmenter)

    @property
    def segmenter(self) -> Segmenter:
        return cast(Segmenter, self.networks["segmenter"])

    @property
    def auxiliary(self) -> nn.ModuleList:
        return cast(nn.ModuleList, self.networks["auxiliary"])


def _decoder(settings: CctSettings, setup: Setup, segmenter: Segmenter, number: int) -> nn.Module:
    """An auxiliary decoder with random weights of its own."""
    seed = derive_seed(setup.seed, "auxiliary", number)
    if settings.decoder == "head":
        return make_head(setup.segmenter_config, setup.num_classes, seed)
    channels = (
        setup.segmenter_config.neck_channels if setup.segmenter_config.neck_layers else segmenter.backbone.high_channels
    )
    try:
        with seeded(seed):
            return ShuffleDecoder(channels, setup.num_classes, segmenter.backbone.stride)
    except ValueError as error:
        raise ConfigError(f"method cct: the published decoder doubles its maps: {error}", "decoder: head") from error
