"""WeCLIP (Zhang et al., CVPR 2024): a segmenter from image-level labels in one stage, on top of a frozen CLIP.

In every step CLIP finds the texts of an image's labels in it (Grad-CAM), its attention spreads these maps, and the
colours of the image refine them: the masks that a small decoder of CLIP's own features learns. In the second half of
the training the affinity of these features takes part in spreading the maps.

    semiseg train --method weclip --set method.clip.weights=ViT-B-16.pt
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artifacts.masks import IGNORE
from stages.engine.device import sent
from stages.engine.distributed import global_mean
from stages.engine.losses import cross_entropy, share
from stages.engine.method import Batch, Method, Setup, Sources
from stages.engine.streams import Stream
from stages.engine.watching import shown
from stages.localization.clip_maps import ClipTexts, maps_of_tokens
from stages.localization.clip_source import load_tower, load_vectors, read_state, texts_for
from stages.localization.clip_texts import texts_of_classes
from stages.localization.pixel_adaptive import Neighbourhood, refined_maps
from stages.methods.settings.weclip import WeclipSettings
from stages.networks.clip_segmenter import ClipSegmenter, build_clip_segmenter
from stages.networks.weights import load_strictly


class Weclip(Method):
    """L = 1/2 CE(f(x), y on background) + 1/2 CE(f(x), y on foreground) + affinity_weight L_A
    L_A = 1/2 mean over (i, j) of one class of (1 - A_ij) + 1/2 mean over (i, j) of two classes of A_ij

    y: argmax PAR(1 - max_c S_c, S), S_c: CLIP's map of label c, spread by its attention; A = sigmoid(F^T F), F: the
    fused features of CLIP's blocks; i, j: patches at most `radius` rows and columns apart, of the class of y there.
    """

    def __init__(self, settings: WeclipSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        network = build_clip_segmenter(
            load_tower(settings.clip, read_state(settings.clip)),
            setup.num_classes,
            setup.seed,
            **settings.decoder.model_dump(),
        )
        if setup.initial is not None:
            load_strictly(network, setup.initial, "the input 'initial'", "the network of this config")
        self.networks = nn.ModuleDict({"segmenter": network})
        self.around = Neighbourhood(settings.dilations)
        self.labels: dict[str, tuple[int, ...]] = {}
        self.texts: ClipTexts

    @property
    def network(self) -> ClipSegmenter:
        return cast(ClipSegmenter, self.networks["segmenter"])

    @classmethod
    def streams(cls, settings: WeclipSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        ids = sorted({*sources.strong, *sources.weak})
        return {"labelled": Stream(sources.entries(ids, None), batch_size)}

    def start(self, sources: Sources) -> None:
        dataset, clip = sources.dataset, self.settings.clip
        assert dataset is not None
        dataset.require_background("method weclip")
        self.labels = {image_id: dataset.tags(image_id) for image_id in {*sources.strong, *sources.weak}}
        texts = texts_of_classes(clip, dataset.class_names)
        vectors = load_vectors(clip, texts, None if clip.vectors else read_state(clip))
        self.texts = texts_for(self.network.tower, vectors, texts, clip.key)

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        samples, network = batch["labelled"], self.network
        tokens, grid = network.look(samples.image), network.grid(samples.image)
        features = network.features(tokens, grid)
        height, width = samples.image.shape[2:]
        logits = network.decode(features)[..., :height, :width]
        shown(logits, samples)
        with torch.autocast(logits.device.type, enabled=False):
            flat = features.float().flatten(2)  # (B, channels, n)
            affinity = (flat.transpose(1, 2) @ flat).sigmoid()  # A, (B, n, n)
        late = step >= self.settings.own_affinity_from * self.setup.iterations
        mask = self.masks(samples, tokens, grid, affinity.detach() if late else None)
        self.observe(mask_foreground=share(mask > 0, mask != IGNORE))
        cells = mask[:, :: network.tower.patch, :: network.tower.patch]
        return {
            "background": cross_entropy(logits, mask.where(mask == 0, IGNORE)) / 2,
            "foreground": cross_entropy(logits, mask.where(mask > 0, IGNORE)) / 2,
            "affinity": self.settings.affinity_weight * affinity_loss(affinity, cells, self.settings.radius),
        }

    @torch.no_grad()
    def masks(self, samples: Batch, tokens: Sequence[Tensor], grid: tuple[int, int], affinity: Tensor | None) -> Tensor:
        """y, int64 (B, H, W): labels of the image, background, 255 on padding. An image without labels is background.

        tokens: those that enter each block of CLIP; affinity: A, where it takes part.
        """
        labels = [self.labels[image_id] for image_id in samples.ids]
        most, (height, width) = max(map(len, labels)), samples.image.shape[2:]
        maps = tokens[0].new_zeros(len(labels), 1 + most, *grid, dtype=torch.float32)
        classes = torch.zeros(len(labels), 1 + most, dtype=torch.int64)
        for row, own in self._spread_maps(labels, tokens, grid, affinity).items():
            maps[row, 1 : 1 + len(own)] = own.view(-1, *grid)
            classes[row, 1 : 1 + len(own)] = torch.tensor(labels[row])
        with torch.autocast(maps.device.type, enabled=False):
            maps = F.interpolate(
                maps, scale_factor=float(self.network.tower.patch), mode="bilinear", align_corners=False
            )[..., :height, :width]
            maps[:, 0] = 1 - maps[:, 1:].amax(1) if most else 1
            found = refined_maps(samples.image.float(), maps, self.around, self.settings.iterations).argmax(1)
        chosen = sent(classes, found.device).gather(1, found.flatten(1)).view_as(found)
        return chosen.where(samples.valid, IGNORE)

    def _spread_maps(
        self,
        labels: Sequence[Sequence[int]],
        tokens: Sequence[Tensor],
        grid: tuple[int, int],
        affinity: Tensor | None,
    ) -> dict[int, Tensor]:
        """S (labels, n) of the images that have labels, by row of the batch."""
        rows = [row for row, own in enumerate(labels) if own]
        if not rows:
            return {}
        if self.texts.classes.device != tokens[0].device:
            self.texts = ClipTexts(*(vectors.to(tokens[0].device) for vectors in self.texts))
        tower, clip, before = self.network.tower, self.settings.clip, [part[rows] for part in tokens]
        number = clip.attention_blocks if affinity is None else self.settings.own_affinity_blocks
        first, attention = max(tower.depth - number, 0), None
        if clip.attention_blocks:
            blocks = [tower.attention(i, before[i]) for i in range(first, tower.depth)]
            attention = torch.stack(blocks, 1)  # (B, L, n, n)
            attention = attention.mean(1) if affinity is None else chosen_attention(attention) * affinity[rows]
        own = [labels[row] for row in rows]
        return dict(zip(rows, maps_of_tokens(tower, self.texts, before[-1], attention, grid, own, clip), strict=True))


def chosen_attention(attention: Tensor) -> Tensor:
    """The mean (B, n, n) of the attention (B, L, n, n) of some of L blocks.

    Those whose patches look at patches, not at the class token, as much as in the mean of the blocks or more.
    """
    looks = attention.sum((2, 3), keepdim=True)  # (B, L, 1, 1)
    limit = looks.mean(1, keepdim=True).minimum(looks.amax(1, keepdim=True))  # a mean is rounded
    taken = looks >= limit
    return (attention * taken).sum(1) / taken.sum(1)


def affinity_loss(affinity: Tensor, cells: Tensor, radius: int) -> Tensor:
    """1/2 mean over pairs of one class of (1 - A) + 1/2 mean over pairs of two classes of A.

    Pairs are of known patches at most `radius` rows and columns apart; each patch is a pair with itself (published).

    Args:
        affinity: A, (B, h w, h w); cells: int64 (B, h, w), 255 is left out.
    """
    rows, columns = (torch.arange(side, device=cells.device) for side in cells.shape[1:])
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).flatten(1)  # (2, n)
    near = ((places[:, :, None] - places[:, None]).abs() <= radius).all(0)
    flat = cells.flatten(1)
    first, second = flat[:, :, None], flat[:, None]
    counted = near & (first != IGNORE) & (second != IGNORE)
    alike, unlike = counted & (first == second), counted & (first != second)
    attracted = global_mean(((1 - affinity) * alike).sum(), alike.sum())
    return (attracted + global_mean((affinity * unlike).sum(), unlike.sum())) / 2
