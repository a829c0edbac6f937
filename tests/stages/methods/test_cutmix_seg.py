"""stages/methods/cutmix_seg.py: what is particular to it, against loops and numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.engine.losses import confident_squared_difference
from stages.engine.method import segment
from stages.engine.randomness import generator
from stages.methods import cutmix_seg
from stages.methods.parts.cutmix import box_mask
from stages.methods.settings.cutmix_seg import CutMixSegSettings


def settled(made, scale=4.0):
    """Student and teacher apart, and the teacher sure of a part of its pixels."""
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in made.method.student.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=random))
        made.method.teacher.network.head.scores.weight.mul_(scale)
    return made


def pad(samples, *corners):
    """Padding in one corner of each image: (rows, columns), from the end where negative."""
    valid = torch.ones_like(samples.valid)
    for number, (rows, columns) in enumerate(corners):
        valid[number, slice(rows) if rows > 0 else slice(rows, None)][:, : max(columns, 0) or None] = False
    return samples.replace(valid=valid)


def mixed_by_hand(made):
    """Images, the teacher's probabilities and the valid pixels, cut pixel by pixel with the boxes of step 0."""
    pair = made.batch["unlabelled"], made.batch["partner"]
    mixing = made.method.settings.mixing
    boxes = [box_mask(33, 33, mixing.boxes, mixing.share, generator(0, "cutmix", 0, place, 0)) for place in range(2)]
    targets = [segment(made.method.teacher, samples).softmax(1).numpy() for samples in pair]
    images, valid = [one.image.numpy() for one in pair], [one.valid.numpy() for one in pair]
    image, target, known = images[0].copy(), targets[0].copy(), valid[0].copy()
    for b, y, x in np.argwhere(np.stack(boxes)):
        image[b, :, y, x] = images[1][b, :, y, x]
        target[b, :, y, x] = targets[1][b, :, y, x]
        known[b, y, x] = valid[1][b, y, x]
    return torch.from_numpy(image), target, known


@pytest.mark.parametrize(("reduction", "factor"), [("sum", 1.0), ("mean", 0.25)])
@pytest.mark.parametrize("confidence", ["batch", "pixel"])
def test_the_loss_pixel_by_pixel(confidence, reduction, factor, case):
    """Padding in different corners of the two images; confidence .8 counts padding in `batch`, not in `pixel`."""
    made = settled(case("cutmix-seg", threshold=0.8, confidence=confidence, reduction=reduction, weight=2.0))
    made.batch["unlabelled"] = pad(made.batch["unlabelled"], (10, 12), (-9, 5))
    made.batch["partner"] = pad(made.batch["partner"], (-20, 8), (16, 33))
    image, target, valid = mixed_by_hand(made)
    found = segment(made.method.student, made.batch["unlabelled"].replace(image=image)).softmax(1).detach().numpy()
    sure = target.max(1) >= 0.8
    pixels = np.square(found - target).sum(1)
    share = sure.mean() if confidence == "batch" else sure
    assert 0.1 < sure.mean() < 0.9
    expected = 2 * factor * (pixels * share)[valid].sum() / valid.sum()
    assert made.losses()["consistency"].item() == pytest.approx(expected, rel=1e-4)


def test_the_valid_pixels_are_those_of_the_image_each_comes_from(case, monkeypatch):
    """The map that the loss is given, pixel by pixel. Padding at the left of one image, at the top of the other."""
    made, given = settled(case("cutmix-seg", threshold=0.0)), []

    def noting(found, target, valid, *others, **named):
        given.append(valid)
        return confident_squared_difference(found, target, valid, *others, **named)

    monkeypatch.setattr(cutmix_seg, "confident_squared_difference", noting)
    columns, rows = torch.ones(2, 33, 33, dtype=torch.bool), torch.ones(2, 33, 33, dtype=torch.bool)
    columns[:, :, :7], rows[:, :11] = False, False
    for name, valid in (("unlabelled", columns), ("partner", rows)):
        made.batch[name] = made.batch[name].replace(valid=valid)
    made.losses()
    boxes = [box_mask(33, 33, 1, (0.5, 0.5), generator(0, "cutmix", 0, place, 0)) for place in range(2)]
    (valid,), inside = given, 0
    for b, y, x in np.ndindex(2, 33, 33):
        assert valid[b, y, x] == (y >= 11 if boxes[b][y, x] else x >= 7)
        inside += int(boxes[b][y, x]) if x < 7 or y < 11 else 0
    assert 50 < inside < 2 * (33 * 33 - 26 * 22) - 50  # boxes that tell the two paddings apart


@pytest.mark.parametrize(("share", "shown"), [(1e-9, "unlabelled"), (1.0, "partner")])
def test_no_box_is_no_cutmix_and_a_full_one_the_partners_loss(share, shown, case):
    made = settled(case("cutmix-seg", threshold=0.0, mixing={"boxes": 1, "share": (share, share)}))
    samples = made.batch[shown]
    found, target = (segment(network, samples).softmax(1) for network in (made.method.student, made.method.teacher))
    expected = (found - target).square().sum(1)[samples.valid].mean()
    torch.testing.assert_close(made.losses()["consistency"], expected)


def test_teacher_sees_whole_images(case):
    """A teacher of mixed images would say something else: its view crosses the boxes' borders."""
    made = settled(case("cutmix-seg"))
    seen = []
    made.method.teacher.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    made.losses()
    shown = torch.cat(seen)
    expected = torch.cat([made.batch["unlabelled"].image, made.batch["partner"].image])
    assert torch.equal(shown, expected)


@pytest.mark.parametrize("confidence", ["batch", "pixel"])
def test_nobody_sure_is_0_and_everybody_sure_needs_no_threshold(confidence, case):
    made = settled(case("cutmix-seg", threshold=1.0, confidence=confidence), scale=0.1)
    assert made.losses()["consistency"].item() == 0
    assert all((g == 0).all() for g in made.gradients("consistency").values() if g is not None)
    every, pixel = (
        settled(case("cutmix-seg", threshold=0.0, confidence=kind)).losses()["consistency"]
        for kind in ("batch", "pixel")
    )
    torch.testing.assert_close(every, pixel)
    assert every > 0


def test_the_teacher_is_evaluated_and_averages_the_statistics_of_batch_norm(case):
    """In eval mode it gathers none itself; the student sees labelled and mixed images once each."""
    network = {"preset": "tiny", "backbone": "mobilenet_v2", "freeze_batch_norm": False, "head_channels": 8}
    made = case("cutmix-seg", network=network)
    student, teacher = made.method.student, made.method.teacher.network
    assert made.method.predictor is teacher
    made.losses()
    counts = {name: int(value) for name, value in made.method.networks.named_buffers() if name.endswith("tracked")}
    assert {count for name, count in counts.items() if name.startswith("segmenter.")} == {2}
    assert {count for name, count in counts.items() if name.startswith("teacher.")} == {0}
    before = {name: value.clone() for name, value in teacher.named_buffers()}
    made.method.after_step(500)
    for name, value in student.named_buffers():
        expected = 0.99 * before[name] + 0.01 * value if value.is_floating_point() else value
        torch.testing.assert_close(teacher.get_buffer(name), expected)


def test_the_published_settings():
    settings = CutMixSegSettings()
    assert (settings.weight, settings.threshold, settings.reduction, settings.confidence) == (1, 0.97, "sum", "batch")
    assert (settings.mixing.boxes, settings.mixing.share, settings.teacher.decay) == (1, (0.5, 0.5), 0.99)


def test_partners_are_other_unlabelled_images(case):
    made = case("cutmix-seg", batch_size=10)
    assert all(a != b for a, b in zip(made.batch["unlabelled"].ids, made.batch["partner"].ids, strict=True))
    assert set(made.batch["partner"].ids) <= {f"w{index}" for index in range(5)}
