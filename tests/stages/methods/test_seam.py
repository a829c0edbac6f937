"""stages/methods/seam.py: the losses against plain loops, scaling by hand, images without and with all labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stages.methods.seam import mean_of_share, resized, scaled
from stages.networks import upsample


def test_the_losses_are_those_of_plain_loops(case):
    made = case("seam", network={"preset": "tiny", "dropout": 0.0})
    batch, network = made.batch["labelled"], made.method.predictor
    torch.nn.init.normal_(network.scores.weight, generator=torch.Generator().manual_seed(1))
    small = int(batch.image.shape[-1] * 0.3)
    with torch.no_grad():
        losses = {name: float(value) for name, value in made.losses().items()}
        margins, lowest, differing = [], [], []
        views = [batch.image, F.interpolate(batch.image, size=(small, small), mode="bilinear", align_corners=True)]
        seen = []
        for view in views:
            full = (view.shape[-1],) * 2
            cams, refined = (upsample(maps, full, 8) for maps in network.both_maps(view))
            margins.append(F.multilabel_soft_margin_loss(cams.mean((2, 3)), batch.tags).item())
            seen.append((cams.numpy(), refined.numpy()))
        large, tiny = seen
        hardest = [[], []]
        for b, tags in enumerate(batch.tags.numpy().astype(bool)):
            maps, refined = [], []
            for cams, spread in (large, tiny):
                strongest = spread[b, 1:][tags].max(0).ravel() if tags.any() else np.zeros(cams[b, 0].size)
                lowest.append(np.sort(strongest)[: strongest.size // 4].mean())
                maps.append(np.stack([between(cams[b, k], small) * tags[k] for k in range(len(tags))]))
                shown = [True, *tags]
                refined.append(np.stack([between(spread[b, k], small) * shown[k] for k in range(len(shown))]))
            differing.append(np.abs(maps[0] - maps[1]).mean())
            for which in (0, 1):
                errors = np.sort(np.abs(target(maps[1 - which]) - refined[which]).ravel())[::-1]
                hardest[which].append(errors[: int(errors.size * 0.2)].mean())
    assert losses["classification"] == pytest.approx(np.mean(margins), rel=1e-5)
    assert losses["background"] == pytest.approx(np.mean(lowest), rel=1e-4)
    assert losses["equivariant"] == pytest.approx(np.mean(differing), rel=1e-4)
    assert losses["equivariant_cross"] == pytest.approx(np.mean(hardest[0]) + np.mean(hardest[1]), rel=1e-4)


def between(values: np.ndarray, side: int) -> np.ndarray:
    """One map from its minimum to its maximum after a ReLU, read at side x side places."""
    positive = np.maximum(values, 0)
    low, high = positive.min(), positive.max()
    whole = np.maximum(positive - low - 1e-5, 0) / (high - low + 1e-5)
    return resized(torch.from_numpy(whole)[None, None], (side, side))[0, 0].numpy()


def target(maps: np.ndarray) -> np.ndarray:
    """Background and the highest class of each pixel."""
    out = np.zeros((len(maps) + 1, *maps.shape[1:]))
    for row, column in np.ndindex(maps.shape[1:]):
        values = maps[:, row, column]
        out[0, row, column] = 1 - values.max()
        for k, value in enumerate(values):
            out[k + 1, row, column] = value if value == values.max() else 0
    return out


def test_scaling_by_hand():
    maps = torch.tensor([[[[-1.0, 1.0, 3.0]], [[2.0, 4.0, 3.0]], [[5.0, 5.0, 5.0]]]])
    expected = torch.tensor([[[[0.0, 1 / 3, 1.0]], [[0.0, 1.0, 0.5]], [[0.0, 0.0, 0.0]]]])
    torch.testing.assert_close(scaled(maps), expected, rtol=0, atol=1e-4)


def test_means_of_a_share_by_hand():
    values = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0], [10.0, 20.0, 30.0, 40.0, 50.0]])
    assert mean_of_share(values, 0.4, largest=True).item() == pytest.approx((4.5 + 45) / 2)
    assert mean_of_share(values, 0.4, largest=False).item() == pytest.approx((1.5 + 15) / 2)
    assert mean_of_share(values, 0.01, largest=True).item() == pytest.approx((5 + 50) / 2)


@pytest.mark.parametrize("labels", [0.0, 1.0])
def test_images_without_labels_and_with_all_of_them(labels, case):
    made = case("seam")
    batch = made.batch["labelled"]
    made.batch["labelled"] = batch.replace(tags=torch.full_like(batch.tags, labels))
    losses = made.losses()
    sum(losses.values()).backward()
    assert all(bool(torch.isfinite(value)) for value in losses.values())
    assert (losses["equivariant"] > 0) == (losses["background"] > 0) == bool(labels)


def test_targets_and_levels_pass_no_gradient(case):
    """L_ECR teaches the module alone; the backbone learns from L_cls and L_ER."""
    gradients = case("seam").gradients("equivariant_cross")
    moved = {name.split(".")[1] for name, value in gradients.items() if value is not None and bool(value.any())}
    assert moved == {"reduce", "compare"}
