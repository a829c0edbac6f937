"""stages/methods/pseudoseg.py: what is particular to it, against loops and numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from artifacts.dataset import Dataset
from artifacts.errors import DataError
from artifacts.store import Workspace
from stages.engine.method import Sources, segment
from stages.engine.randomness import generator
from stages.methods.parts.views import draw_cutout, strong_view
from stages.methods.pseudoseg import PseudoSeg, fuse, tags_of
from stages.methods.settings.pseudoseg import PseudoSegSettings
from tests.stages import drawn_training


def fused(logits, coarse, temperature):
    """The fusion where no image-level labels are known."""
    return fuse(logits, coarse, temperature, torch.full((len(logits), logits.shape[1] - 1), math.nan), "share")


def test_fusion_of_one_pixel_by_hand():
    """f = (3, 0), a = (0, 1): s^2 = (9 + 1) / 4; p_0 = (1/(1+e^-3/s) + 1/(1+e^1/s)) / 2; squared and normalised."""
    s = math.sqrt(10 / 4)
    p = (1 / (1 + math.exp(-3 / s)) + 1 / (1 + math.exp(1 / s))) / 2
    q = p**2 / (p**2 + (1 - p) ** 2)
    logits, coarse = torch.tensor([3.0, 0.0]).view(1, 2, 1, 1), torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    assert fused(logits, coarse, 0.5)[0, :, 0, 0].tolist() == pytest.approx([q, 1 - q], rel=1e-5)
    assert fused(logits, coarse, 1.0)[0, :, 0, 0].tolist() == pytest.approx([p, 1 - p], rel=1e-5)


def test_fusion_does_not_depend_on_a_common_scale():
    random = torch.Generator().manual_seed(0)
    logits, coarse = torch.randn(2, 2, 5, 3, 3, generator=random)
    torch.testing.assert_close(fused(logits, coarse, 0.5), fused(7 * logits, 7 * coarse, 0.5), rtol=1e-4, atol=1e-5)
    assert torch.isfinite(fused(torch.zeros(1, 5, 3, 3), torch.zeros(1, 5, 3, 3), 0.5)).all()


def test_tags_are_the_classes_of_the_crop():
    label = torch.tensor([[[0, 2, 255]], [[255, 255, 255]], [[3, 1, 3]]])
    expected = [[False, True, False], [False, False, False], [True, False, True]]
    assert tags_of(label, 4).tolist() == expected


def test_a_crop_of_unknown_pixels_has_no_tags(case):
    """Not the tags of an image without any class: only the other crop teaches them."""
    made, other = case("pseudoseg"), case("pseudoseg")
    made.batch["strong"].label[0] = 255
    other.batch["strong"].label[0] = 255
    with torch.no_grad():
        features = other.method.segmenter.trunk(other.batch["strong"].image)
        head = other.method.networks["grad_cam"]
        scores, _ = head(features, None, torch.ones(2, 5, 5, dtype=torch.bool))
    present = tags_of(made.batch["strong"].label, 4).float()
    expected = torch.nn.MultiLabelSoftMarginLoss()(scores[1:].float(), present[1:])
    torch.testing.assert_close(made.losses()["tags"], expected, rtol=1e-4, atol=1e-5)
    made.batch["strong"].label[:] = 255
    assert made.losses()["tags"] == 0


def test_terms_are_torchs_means(case):
    made = case("pseudoseg", weight=0.7)
    labelled, unlabelled = made.batch["strong"], made.batch["unlabelled"]
    valid = torch.ones(2, 33, 33, dtype=torch.bool)
    valid[1, 12:] = False
    made.batch["unlabelled"] = unlabelled = unlabelled.replace(valid=valid, image=unlabelled.image * valid[:, None])
    losses, method = made.losses(), made.method
    tags = tags_of(labelled.label, 4)
    _, coarse, scores = method._both(labelled, tags)
    torch.testing.assert_close(losses["grad_cam"], F.cross_entropy(coarse, labelled.label, ignore_index=255))
    torch.testing.assert_close(losses["tags"], F.binary_cross_entropy_with_logits(scores, tags.float()))
    logits, coarse, _ = method._both(unlabelled, None)
    target = fused(logits, coarse, 0.5)
    strong = strong_view(unlabelled, PseudoSegSettings().strong, 0, 0)
    pixels = -(target * segment(method.segmenter, strong).log_softmax(1)).sum(1)
    assert strong.valid.sum() < valid.sum()  # a cutout, beside the padding
    torch.testing.assert_close(losses["pseudo"], 0.7 * pixels[strong.valid].mean())


def test_each_term_teaches_its_own_part(case):
    made = case("pseudoseg")

    def taught(term):
        found = made.gradients(term)
        return {name.split(".")[0] + "." + name.split(".")[1] for name, g in found.items() if g is not None and g.any()}

    trunk = {"segmenter.backbone", "segmenter.neck"}
    assert taught("supervised") == trunk | {"segmenter.head"}
    assert taught("pseudo") == trunk | {"segmenter.head"}
    assert taught("tags") == trunk | {"grad_cam.classify"}
    assert taught("grad_cam") == {"grad_cam.key", "grad_cam.query", "grad_cam.calibrate"}


def test_a_threshold_of_1_leaves_nothing_and_0_everything(case):
    """Pixels below the threshold add nothing, and count among the valid all the same."""
    losses = [case("pseudoseg", threshold=threshold).losses()["pseudo"] for threshold in (0.0, 0.5, 1.0)]
    assert losses[0] > losses[1] > 0
    assert losses[2] == 0


def test_pixels_below_the_threshold_teach_nothing_and_are_counted(case):
    made = case("pseudoseg", threshold=0.5, weight=0.7)
    unlabelled, method = made.batch["unlabelled"], made.method
    losses, strong = made.losses(), strong_view(unlabelled, method.settings.strong, 0, 0)
    with torch.no_grad():
        target = fused(*method._both(unlabelled, None)[:2], method.settings.temperature)
    pixels = -(target * segment(method.segmenter, strong).log_softmax(1)).sum(1)
    sure = target.amax(1) >= 0.5
    assert 0.1 < sure[strong.valid].float().mean() < 0.9
    expected = 0.7 * (pixels * sure)[strong.valid].sum() / strong.valid.sum()
    torch.testing.assert_close(losses["pseudo"], expected)


def test_the_strong_view_has_a_square_cutout_of_mean_colour_that_teaches_nothing(case):
    settings = PseudoSegSettings().strong
    rows, columns = draw_cutout(settings, (513, 513), generator(0, "test"))
    assert (rows.stop - rows.start, columns.stop - columns.start) == (100, 100)
    unlabelled = case("pseudoseg").batch["unlabelled"]
    strong = strong_view(unlabelled, settings, 0, 0)
    for number in range(2):
        cutout = np.argwhere((unlabelled.valid & ~strong.valid)[number].numpy())
        assert np.ptp(cutout, axis=0).tolist() == [5, 5]
        assert len(cutout) == 36
        assert {tuple(strong.pixels[number, :, y, x].tolist()) for y, x in cutout} == {(124, 116, 104)}


def test_strong_views_are_new_at_every_step(case):
    made = case("pseudoseg")
    losses = [made.method.losses(made.batch, step)["pseudo"] for step in (0, 1, 0)]
    assert losses[0] == losses[2] != losses[1]


def test_the_network_alone_is_published(case):
    made = case("pseudoseg")
    assert made.method.predictor is made.method.networks["segmenter"]


def test_a_data_set_without_background_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(drawn_training, "CLASSES", ("road", "red", "green", "blue"))
    space = Workspace(tmp_path / "runs")
    drawn_training.publish_dataset(space)
    dataset = Dataset(space.artifact("data"))
    sources = Sources(dataset.ids("train"), dataset.ids("weak"), frozenset({"masks"}), dataset)
    with pytest.raises(DataError, match="method pseudoseg needs a class background"):
        PseudoSeg.streams(PseudoSegSettings(), sources, 2)


def test_the_maps_of_a_transformers_patches_lie_on_their_pixels(case):
    """DINOv2: cell i of the coarse head is in the middle of the pixels from 14 i on, not on pixel 14 i."""
    pytest.importorskip("timm")
    made = case("pseudoseg", network={"preset": "dpt-dinov2-small", "weights": "none"})
    method, samples = made.method, made.batch["unlabelled"]
    valid = torch.zeros(2, 33, 33, dtype=torch.bool)
    valid[:, :8] = True  # the middle of the first row of patches, and nothing of the second
    samples = samples.replace(valid=valid)
    with torch.no_grad():
        _, found, _ = method._both(samples, torch.ones(2, 3, dtype=torch.bool))
        features = method.segmenter.trunk(samples.image)
        rows = torch.tensor([True, False, False]).view(1, 3, 1).expand(2, 3, 3)
        _, coarse = method.networks["grad_cam"](features, torch.ones(2, 3, dtype=torch.bool), rows)
    expected = F.interpolate(coarse, size=(42, 42), mode="bilinear", align_corners=False)[..., :33, :33]
    torch.testing.assert_close(found, expected)
