"""LIID (Liu et al., TPAMI 2020): a multi-way cut of the graph of all proposals of a data set gives them classes.

A classifier of proposals, parts of images that may be objects, learns from image-level labels. Its features link
similar proposals of different images, its probabilities link each to the classes that its image may have. A cut of this
graph leaves each proposal with one class, or background.

    semiseg train-refiner --method liid
    semiseg refine --method liid
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from artifacts.score_maps import ScoreMap
from stages.contract import Progress
from stages.engine.distributed import global_mean
from stages.engine.known import Known
from stages.engine.method import Batch, Method, Setup, Sources
from stages.engine.streams import MapSource, Stream
from stages.localization.multiway_cut import Cut, multiway_cut
from stages.localization.proposal_graph import LEAST, blocks, class_weights, edges_of, nearest
from stages.localization.proposals import LAYERS, prepare, score_map, with_means
from stages.localization.superpixel_graph import Features
from stages.networks import normalise
from stages.networks.folding import for_inference
from stages.networks.proposal_classifier import ProposalClassifier, build_proposal_classifier
from stages.parallel.in_order import results_in_order
from stages.refiners.first_pass import Surveys
from stages.refiners.refiner import Means, Refiner
from stages.refiners.settings.liid import LiidSettings, LiidTrainingSettings


class LiidTraining(Method):
    """L = mean_c BCE(P_c, y_c) + g mean_i CE(f_i, t_i)
    P_c = 1/r log mean_i exp(r p_ic),  p_i = softmax(f_i),  f_i = W mean over proposal i of the features + b

    y: image-level labels, and background, which every image has; t_i: the class whose mean score over i is highest and
    reaches `foreground`, background where none is above `background`; r: `sharpness`; g: `guidance`.
    """

    prepare = staticmethod(prepare)
    prepared = LAYERS

    def __init__(self, settings: LiidTrainingSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        boxes = settings.pooling == "box"
        network = build_proposal_classifier(setup.network, setup.num_classes, setup.seed, boxes, setup.initial)
        self.networks = nn.ModuleDict({"classifier": network})

    @classmethod
    def streams(cls, settings: LiidTrainingSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        first, *others = LAYERS
        entries, maps = sources.entries(sources.tagged, first), MapSource("seeds") if settings.guidance else None
        return {"labelled": Stream(entries, batch_size, extra={name: name for name in others}, maps=maps)}

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        labelled, network, settings = batch["labelled"], self.predictor, self.settings
        layers = torch.stack([labelled.label, *(labelled.extra[name] for name in LAYERS[1:])], 1)
        layers = layers[..., :: network.stride, :: network.stride]
        covered = members(layers, settings.most_numbers)  # (B, n, h, w)
        known = covered.any(3).any(2)  # (B, n), which of them have a cell in the crop
        region = boxed(covered) if network.boxes else covered
        logits = network.classify(means(network(labelled.image).float(), region))  # (B, n, K)
        background = torch.ones_like(labelled.tags[:, :1])
        of_image = log_sum_exp(logits.softmax(2), known, settings.sharpness).clamp(1e-6, 1 - 1e-6)
        wrong = F.binary_cross_entropy(of_image, torch.cat([background, labelled.tags], 1), reduction="none").mean(1)
        seen = known.any(1)
        terms = {"image": global_mean((wrong * seen).sum(), seen.sum())}
        if settings.guidance:
            scores = means(labelled.maps[:, 1:].float(), covered)
            label, sure = targets(scores, labelled.tags, settings.foreground, settings.background)
            sure &= known
            each = F.cross_entropy(logits.flatten(0, 1), label.flatten(), reduction="none").view_as(sure)
            terms["guidance"] = settings.guidance * global_mean((each * sure).sum(), sure.sum())
        return terms

    @property
    def predictor(self) -> ProposalClassifier:
        return cast(ProposalClassifier, self.networks["classifier"])


def members(layers: Tensor, count: int) -> Tensor:
    """bool (B, count, h, w), the cells of each proposal, from label maps (B, L, h, w), 255 where there is none."""
    numbers = torch.arange(count, device=layers.device)
    return (layers[:, :, None] == numbers[:, None, None]).any(1)


def boxed(covered: Tensor) -> Tensor:
    """bool (B, n, h, w): the bounding boxes of masks."""
    rows, columns = covered.any(3), covered.any(2)

    def between(line: Tensor) -> Tensor:
        return (line.cummax(-1).values & line.flip(-1).cummax(-1).values.flip(-1)).bool()

    return between(rows.int())[..., None] & between(columns.int())[..., None, :]


def means(values: Tensor, region: Tensor) -> Tensor:
    """(B, n, C): means of values (B, C, h, w) over the regions, bool (B, n, h, w); 0 for empty ones."""
    flat = region.flatten(2).to(values.dtype)
    return flat @ values.flatten(2).mT / flat.sum(2, keepdim=True).clamp(min=1)


def log_sum_exp(probabilities: Tensor, known: Tensor, sharpness: float) -> Tensor:
    """(B, K): between mean and maximum of probabilities (B, n, K) over the known, bool (B, n); finite if none is."""
    scaled = (sharpness * probabilities).masked_fill(~known[..., None], -torch.inf)
    scaled = torch.where(known.any(1)[:, None, None], scaled, 0)
    count = known.sum(1, keepdim=True).clamp(min=1)
    return (scaled.logsumexp(1) - count.log()) / sharpness


def targets(scores: Tensor, tags: Tensor, foreground: float, background: float) -> tuple[Tensor, Tensor]:
    """Classes (B, n) of proposals with mean scores (B, n, K) of foreground classes, and whether they are certain."""
    best, which = (scores * tags[:, None]).max(2)
    return torch.where(best >= foreground, which + 1, 0), (best >= foreground) | (best <= background)


class Liid(Refiner):
    """Each proposal i gets the class l_i that the cut leaves it, with its probability p_i as score.

    cost = sum_i sum_c!=l_i p_ic + sum_ij, l_i!=l_j (cos(f_i, f_j) - min cos),  ij: neighbours; c: the weights of i
    """

    training: ClassVar[type[Method] | None] = LiidTraining

    def __init__(self, settings: LiidSettings, network: ProposalClassifier, means: Means) -> None:
        super().__init__(settings, for_inference(network, means.device), means)

    @torch.inference_mode()
    def survey(self, batches: Iterable[Sequence[Known]]) -> Iterator[tuple[str, dict[str, NDArray]]]:
        """Of each proposal its feature, and its probabilities, -1 for classes that the image does not have."""
        settings, boxes = self.settings, self.network.boxes
        backbone = self.network.backbone
        tasks = (
            (known, Features(features, backbone.stride, backbone.patches), settings, boxes)
            for batch in batches
            for known, features in zip(batch, self.features(batch), strict=True)
        )
        for known, vectors in results_in_order(with_means, tasks, self.means.workers):
            logits = self.network.classify(torch.from_numpy(vectors).to(self.means.device))
            scores = np.full(logits.shape, -1, np.float32)
            possible = [0, *known.classes]
            scores[:, possible] = logits.softmax(1).cpu().numpy()[:, possible]
            length = np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
            yield known.image_id, {"scores": scores, "features": (vectors / length).astype(np.float16)}

    def features(self, batch: Sequence[Known]) -> NDArray[np.float32]:
        """(B, C, h, w), of images of one size."""
        device, dtype = self.means.device, self.means.dtype
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            return self.network(normalise(self.means.images(batch))).float().cpu().numpy()

    def decide(self, surveys: Surveys, progress: Progress) -> tuple[dict[str, NDArray], dict[str, float]]:
        """The cut of the whole set, block by block."""
        settings, scores, counts = self.settings, surveys.rows("scores"), surveys.counts
        image_of = np.repeat(np.arange(len(counts)), counts)
        has = np.zeros((len(counts), scores.shape[1] - 1), bool)
        has[image_of] = scores[:, 1:] >= 0
        found, parts = [], list(blocks(has, counts, settings.block))
        with progress.track(len(parts), "links", unit="blocks") as tracker:
            for images in parts:
                rows = np.flatnonzero(np.isin(image_of, images))
                features, of = surveys.rows("features", rows), image_of[rows]
                near = nearest(features, of, has[of], settings.neighbours, settings.within, self.means.device)
                found.append((rows, *near))
                tracker.advance()
        floor = min((cosines[np.isfinite(cosines)].min(initial=1) for _, _, cosines, _ in found), default=1.0)
        weights = class_weights(scores, settings.classes, settings.sure)
        labels = np.zeros(len(scores), np.int64)
        cuts: list[Cut] = []
        edges = 0
        with progress.track(len(found), "cut", unit="blocks") as tracker:
            for rows, places, cosines, links in found:
                pairs, similar = edges_of(places, links, cosines, settings.mutual)
                strong = similar - floor > LEAST
                cut = multiway_cut(
                    weights[rows], pairs[strong], (similar - floor)[strong], settings.solver, settings.most_exact
                )
                labels[rows], edges = cut.labels, edges + int(strong.sum())
                cuts.append(cut)
                tracker.advance()
        figures = figures_of(cuts) | {"proposals": len(scores), "links": edges, "blocks": len(cuts)}
        return {"labels": labels, "scores": scores[np.arange(len(scores)), labels]}, figures

    def refine(self, batches: Iterable[Sequence[Known]]) -> Iterator[ScoreMap]:
        decided = self.decided
        assert decided is not None  # the stage gives it, see `whole_set`
        tasks = (
            (known, self.settings, *(decided[known.image_id][name] for name in ("labels", "scores")))
            for batch in batches
            for known in batch
        )
        return results_in_order(score_map, tasks, self.means.workers)


def figures_of(cuts: Sequence[Cut]) -> dict[str, float]:
    """Of all blocks together: what the cut costs, the least that any would, and the share of the difference."""
    cost, bound = sum(cut.cost for cut in cuts), sum(cut.bound for cut in cuts)
    return {
        "cost": cost,
        "bound": bound,
        "gap": (cost - bound) / cost if cost > 0 else 0.0,
        "undecided": sum(cut.undecided for cut in cuts),
        "relaxed": sum(cut.relaxed for cut in cuts),
    }
