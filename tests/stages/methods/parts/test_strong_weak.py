"""stages/methods/parts/strong_weak.py: numbers worked by hand, and maps that must be cut alike."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from stages.engine.batch import Batch
from stages.engine.config import CutMixSettings, StrongAugmentationSettings
from stages.methods.parts.cutmix import draw_boxes
from stages.methods.parts.strong_weak import PseudoLabels, confident_cross_entropy, pseudo_labels, strong_mix
from stages.methods.parts.views import strong_view
from stages.networks import normalise

STRONG, MIXING = StrongAugmentationSettings(), CutMixSettings(style="french", boxes=2, share=(0.3, 0.5))


def batch_of(seed: int, valid: torch.Tensor) -> Batch:
    pixels = torch.randint(0, 256, (len(valid), 3, *valid.shape[1:]), generator=torch.Generator().manual_seed(seed))
    pixels = pixels.to(torch.uint8)
    image = normalise(pixels) * valid[:, None]
    label = torch.full(valid.shape, 255)
    return Batch([f"{seed}{n}" for n in range(len(valid))], image, pixels, label, valid, torch.zeros(len(valid), 3))


@pytest.fixture
def pair():
    """Two batches of two images; padding at the right of the one, at the bottom of the other."""
    first, second = torch.ones(2, 20, 24, dtype=torch.bool), torch.ones(2, 20, 24, dtype=torch.bool)
    first[:, :, 19:], second[:, 13:] = False, False
    return batch_of(0, first), batch_of(1, second)


@pytest.fixture
def pseudo():
    random = torch.Generator().manual_seed(2)
    return tuple(pseudo_labels(torch.randn(2, 4, 20, 24, generator=random)) for _ in range(2))


def test_votes_by_hand():
    """Logits (0, ln 3): class 1 with probability 3/4."""
    logits = torch.tensor([0.0, math.log(3)], requires_grad=True)
    found = pseudo_labels(logits.view(1, 2, 1, 1))
    assert found.label.tolist() == [[[1]]]
    assert found.confidence.item() == pytest.approx(0.75)
    assert not found.confidence.requires_grad


def test_confident_cross_entropy_of_four_pixels_by_hand():
    """Probabilities 1/4 and 3/4. Labels 0, 1, 1 and 0 (padded); confidences .9, .5, .6, .9; tau .6: the first and the
    third teach, three are valid. (ln 4 + ln 4/3) / 3, not / 2."""
    logits = torch.tensor([0.0, math.log(3)]).view(1, 2, 1, 1).expand(1, 2, 1, 4)
    pseudo = PseudoLabels(torch.tensor([[[0, 1, 1, 0]]]), torch.tensor([[[0.9, 0.5, 0.6, 0.9]]]))
    valid = torch.tensor([[[True, True, True, False]]])
    expected = (math.log(4) + math.log(4 / 3)) / 3
    assert confident_cross_entropy(logits, pseudo, valid, 0.6).item() == pytest.approx(expected, rel=1e-6)


def test_threshold_0_counts_every_valid_pixel_and_one_above_1_none(pair, pseudo):
    logits = torch.randn(2, 4, 20, 24, generator=torch.Generator().manual_seed(3), requires_grad=True)
    label = pseudo[0].label.masked_fill(~pair[0].valid, 255)
    all_of_them = confident_cross_entropy(logits, pseudo[0], pair[0].valid, 0.0)
    torch.testing.assert_close(all_of_them, F.cross_entropy(logits, label, ignore_index=255))
    none = confident_cross_entropy(logits, pseudo[0], pair[0].valid, 1.01)
    none.backward()
    assert none.item() == 0
    assert (logits.grad == 0).all()


def test_without_valid_pixels_the_loss_is_0(pseudo):
    logits = torch.zeros(2, 4, 20, 24, requires_grad=True)
    loss = confident_cross_entropy(logits, pseudo[0], torch.zeros(2, 20, 24, dtype=torch.bool), 0.0)
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(logits.grad).all()


def test_images_labels_and_valid_pixels_are_cut_with_the_same_box(pair, pseudo):
    """Padding in different corners: pasted padding is not valid."""
    [(mixed, found)] = strong_mix(pair, pseudo, STRONG, MIXING, 0, 5, [1])
    boxes = draw_boxes(MIXING, pair[0], 0, 5, view=1)
    strong = strong_view(pair[0], STRONG, 0, 5, 2), strong_view(pair[1], STRONG, 0, 5, 3)
    assert 0 < int(boxes.sum()) < boxes.numel()
    assert int(mixed.valid.sum()) == int((pair[0].valid & ~boxes).sum() + (pair[1].valid & boxes).sum())
    for b, y, x in torch.cartesian_prod(torch.arange(2), torch.arange(20), torch.arange(24)):
        source = int(boxes[b, y, x])
        assert mixed.valid[b, y, x] == pair[source].valid[b, y, x]
        assert found.label[b, y, x] == pseudo[source].label[b, y, x]
        assert found.confidence[b, y, x] == pseudo[source].confidence[b, y, x]
        assert torch.equal(mixed.image[b, :, y, x], strong[source].image[b, :, y, x])


def test_cutouts_teach_nothing(pair, pseudo):
    strong = STRONG.model_copy(update={"cutout": 1.0})
    whole, cut = (strong_mix(pair, pseudo, s, MIXING, 0, 0)[0][0].valid for s in (STRONG, strong))
    assert (whole | ~cut).all()
    assert int(cut.sum()) < int(whole.sum())


def test_views_steps_and_partners_have_colours_of_their_own(pair, pseudo):
    """The same image as its own partner: inside the boxes it looks different from outside."""
    always = StrongAugmentationSettings(jitter=1.0, grey=0.0, blur=0.0)
    own, pseudo = (pair[0], pair[0]), (pseudo[0], pseudo[0])
    first, again, other, later = (
        strong_mix(own, pseudo, always, MIXING, 0, step, [view])[0][0].image
        for step, view in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, later)
    inside = draw_boxes(MIXING, pair[0], 0, 0)[:, None] & pair[0].valid[:, None]
    plain = strong_view(pair[0], always, 0, 0).image
    assert ((first != plain) & inside).float().sum() / (3 * inside.sum()) > 0.9
