"""stages/methods/unimatch_v2.py, term by term; what it shares with the others: test_strong_weak.py."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from stages.engine.method import at_size, segment
from stages.methods.parts.strong_weak import pseudo_labels, strong_mix
from stages.methods.parts.views import strong_view

DEEPLAB = {"preset": "tiny", "head": "deeplabv3plus", "dropout": 0.0, "head_channels": 16}
NO_BOX = {"style": "french", "share": (1e-9, 1e-9)}


def other_teacher(made):
    """Gives the teacher other weights than the student's, or who labels could not be told apart."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.method.networks["teacher"].parameters():
            parameter.add_(0.2 * parameter.std() * torch.randn(parameter.shape, generator=random))


@pytest.mark.parametrize("number", [0, 1])
def test_a_term_by_hand_without_dropout(number, case):
    """.5 (L_x + .5 (L_s1 + L_s2)), labels of the teacher."""
    made = case("unimatch-v2", threshold=0.4, whole=1.0)
    other_teacher(made)
    student, teacher, settings = made.method.student, made.method.teacher, made.method.settings
    pair = made.batch["unlabelled"], made.batch["partner"]
    pseudo = tuple(pseudo_labels(segment(teacher, samples)) for samples in pair)
    [(view, labels)] = strong_mix(pair, pseudo, settings.strong, settings.mixing, 0, 0, [number])
    pixels = F.cross_entropy(segment(student, view), labels.label, reduction="none")
    taught = view.valid & (labels.confidence >= 0.4)
    assert 0 < taught.sum() < view.valid.sum()
    expected = 0.25 * pixels[taught].sum() / view.valid.sum()
    torch.testing.assert_close(made.losses()[f"strong_{number + 1}"], expected)


@pytest.mark.parametrize(("share", "shown", "views"), [(1e-9, "unlabelled", (0, 2)), (1.0, "partner", (1, 3))])
def test_no_box_is_no_cutmix_and_a_full_one_the_partners_loss(share, shown, views, case):
    """Strong view, labels, confidences and padding are all those of the image that is seen."""
    made = case("unimatch-v2", threshold=0.4, whole=1.0, mixing={"style": "french", "share": (share, share)})
    other_teacher(made)
    for name, columns in (("unlabelled", slice(0, 9)), ("partner", slice(-14, None))):
        valid = torch.ones_like(made.batch[name].valid)
        valid[:, :, columns] = False
        made.batch[name] = made.batch[name].replace(valid=valid)
    samples, losses = made.batch[shown], made.losses()
    confidence, label = segment(made.method.teacher, samples).softmax(1).max(1)
    taught = samples.valid & (confidence >= 0.4)
    assert 0 < taught.sum() < samples.valid.sum()
    for number in (0, 1):
        view = strong_view(samples, made.method.settings.strong, 0, 0, views[number])
        pixels = F.cross_entropy(segment(made.method.student, view), label, reduction="none")
        expected = 0.25 * pixels[taught].sum() / samples.valid.sum()
        torch.testing.assert_close(losses[f"strong_{number + 1}"], expected)


def test_all_levels_of_a_transformer_have_the_same_channels(case):
    """The paper's form: DINOv2 with DPT, one mask an image for its four maps."""
    pytest.importorskip("timm")
    made = case("unimatch-v2", threshold=0.0, whole=0.0, network={"preset": "dpt-dinov2-small", "weights": "none"})
    seen = []
    made.method.student.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    losses = made.losses()
    assert set(losses) == {"supervised", "strong_1", "strong_2"}
    features = next(seen_ for seen_ in seen if len(seen_["high"]) == 4)
    dropped = [(level == 0).all((2, 3)) for level in features.values()]
    assert len(dropped) == 4
    assert all(torch.equal(dropped[0], level) for level in dropped)
    assert torch.equal(dropped[0][:2], ~dropped[0][2:])
    assert not torch.equal(dropped[0][0], dropped[0][1])
    sum(losses.values()).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in made.method.student.parameters())


@pytest.mark.parametrize("network", [None, DEEPLAB])
def test_the_views_have_complementary_channels(network, case):
    """Seen at the head, with equal views: m_1 + m_2 = 2, factors 0 or 2, two of four images whole."""
    same = {"jitter": 0.0, "grey": 0.0, "blur": 0.0}
    made = case("unimatch-v2", batch_size=8, threshold=0.0, network=network, strong=same, mixing=NO_BOX)
    seen = []
    made.method.student.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    losses = made.losses()
    features = next(seen_ for seen_ in seen if len(seen_["high"]) == 8)
    plain = made.method.student.trunk(made.batch["unlabelled"].image)
    for name, level in features.items():
        first, second = level.chunk(2)
        torch.testing.assert_close(first + second, 2 * plain[name])
        whole = [torch.equal(a, b) for a, b in zip(first, second, strict=True)]
        assert sum(whole) == 2
        for a, b in zip(first, second, strict=True):
            kept = (a != 0).any((1, 2)) & ~(b != 0).any((1, 2))
            alive = (a + b != 0).any((1, 2))
            assert kept.sum() == 0 if torch.equal(a, b) else 0.2 < kept[alive].float().mean() < 0.8
    logits = at_size(
        made.method.student.head({n: v[:4] for n, v in features.items()}), made.batch["strong"], made.method.student
    )
    samples = made.batch["unlabelled"]
    label = pseudo_labels(segment(made.method.teacher, samples)).label.masked_fill(~samples.valid, 255)
    torch.testing.assert_close(losses["strong_1"], 0.25 * F.cross_entropy(logits, label, ignore_index=255))


def test_the_teacher_is_evaluated_and_follows(case):
    """Parameters .996 after the first step, which copies."""
    made = case("unimatch-v2")
    assert made.method.predictor is made.method.teacher.network
    start = {name: value.clone() for name, value in made.method.teacher.network.named_parameters()}
    with torch.no_grad():
        for parameter in made.method.student.parameters():
            parameter.add_(1.0)
    made.method.after_step(999)
    for name, value in made.method.teacher.network.named_parameters():
        torch.testing.assert_close(value, start[name] + 0.004, rtol=1e-4, atol=1e-5)
    made.method.after_step(0)
    for name, value in made.method.teacher.network.named_parameters():
        torch.testing.assert_close(value, start[name] + 1.0)
