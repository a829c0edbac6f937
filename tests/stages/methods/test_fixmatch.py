"""stages/methods/fixmatch.py against a loss made by hand; what it shares with UniMatch: test_strong_weak.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stages.engine.method import segment
from stages.engine.randomness import generator
from stages.methods.parts.cutmix import single_box_mask
from stages.methods.parts.strong_weak import pseudo_labels, strong_mix
from stages.methods.parts.views import strong_view


def box_of(random):
    """Half of the images have a box."""
    return single_box_mask(33, 33, random) if random.random() >= 0.5 else np.zeros((33, 33), bool)


def by_hand(made, threshold):
    """Images, labels, confidences and padding mixed pixel by pixel; the mean over the valid pixels of a loop."""
    network, pair = made.method.networks["segmenter"], (made.batch["unlabelled"], made.batch["partner"])
    strong = [strong_view(samples, made.method.settings.strong, 0, 0, view) for view, samples in enumerate(pair)]
    with torch.no_grad():
        probabilities = [segment(network, samples).softmax(1) for samples in pair]
    boxes = [box_of(generator(0, "cutmix", 0, place, 0)) for place in range(len(pair[0]))]
    image, taught, valid = strong[0].image.clone(), torch.full_like(pair[0].label, 255), 0
    for b, y, x in np.ndindex(image.shape[0], 33, 33):
        source = int(boxes[b][y, x])
        image[b, :, y, x] = strong[source].image[b, :, y, x]
        if pair[source].valid[b, y, x]:
            valid += 1
            found = probabilities[source][b, :, y, x]
            if found.max() >= threshold:
                taught[b, y, x] = found.argmax()
    logits = segment(network, pair[0].replace(image=image))
    return F.cross_entropy(logits, taught, ignore_index=255, reduction="sum") / valid, boxes, (taught != 255).sum()


@pytest.mark.parametrize("threshold", [0.0, 0.45])
def test_loss_and_gradient_are_those_made_by_hand(threshold, case):
    """With a network without BatchNorm and dropout train and eval mode agree."""
    made = case("fixmatch", batch_size=8, threshold=threshold, weight=0.3)
    expected, boxes, taught = by_hand(made, threshold)
    assert 0 < sum(box.any() for box in boxes) < 4
    assert 100 < taught < 4 * 33 * 33 - 100
    losses = made.losses()
    torch.testing.assert_close(losses["strong"], 0.3 * expected)
    found = made.gradients("strong")
    made.method.networks.zero_grad()
    (0.3 * by_hand(made, threshold)[0]).backward()
    for name, parameter in made.method.networks.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-6)


# --- a box over nothing, and one over everything


@pytest.mark.parametrize(("share", "shown", "views"), [(1e-9, "unlabelled", (0, 2)), (1.0, "partner", (1, 3))])
@pytest.mark.parametrize(("method", "factors"), [("fixmatch", [0.5]), ("unimatch", [0.125, 0.125])])
def test_no_box_is_no_cutmix_and_a_full_one_the_partners_loss(method, factors, share, shown, views, case):
    """Strong view, labels, confidences and padding are all those of the image that is seen."""
    made = case(method, threshold=0.4, mixing={"style": "french", "share": (share, share)})
    for name, columns in (("unlabelled", slice(0, 9)), ("partner", slice(-14, None))):
        valid = torch.ones_like(made.batch[name].valid)
        valid[:, :, columns] = False
        made.batch[name] = made.batch[name].replace(valid=valid)
    samples, network, losses = made.batch[shown], made.method.student, made.losses()
    confidence, label = segment(network, samples).softmax(1).max(1)
    for number, factor in enumerate(factors):
        view = strong_view(samples, made.method.settings.strong, 0, 0, views[number])
        pixels = F.cross_entropy(segment(network, view), label, reduction="none")
        taught = samples.valid & (confidence >= 0.4)
        assert 0 < taught.sum() < samples.valid.sum()
        term = "strong" if method == "fixmatch" else f"strong_{number + 1}"
        torch.testing.assert_close(losses[term], factor * pixels[taught].sum() / samples.valid.sum())


# --- who gives the labels: UniMatch V2's FixMatch has an averaged teacher


@pytest.mark.parametrize("threshold", [0.0, 0.4])
@pytest.mark.parametrize(("method", "factors"), [("fixmatch", [0.5]), ("unimatch", [0.125, 0.125])])
def test_with_a_teacher_all_labels_are_its_own(method, factors, threshold, case):
    """Labels and confidences of the image and of its partner; no channel is dropped before UniMatch's features."""
    own = {"feature_dropout": 0.0} if method == "unimatch" else {}
    made = case(method, threshold=threshold, teacher={"decay": 0.996}, mixing={"style": "french"}, **own)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.method.teacher.network.parameters():
            parameter.add_(0.2 * parameter.std() * torch.randn(parameter.shape, generator=random))
    pair, (student, teacher) = (made.batch["unlabelled"], made.batch["partner"]), made.method.networks.values()
    settings, losses = made.method.settings, made.losses()
    told, thought = ([pseudo_labels(segment(network, samples)) for samples in pair] for network in (teacher, student))

    def loss(view, pseudo):
        """CE of the student against confident labels, over the valid pixels."""
        pixels = F.cross_entropy(segment(student, view), pseudo.label, reduction="none")
        return pixels[view.valid & (pseudo.confidence >= threshold)].sum() / view.valid.sum()

    for number, factor in enumerate(factors):
        [(view, pseudo)], [(_, others)] = (
            strong_mix(pair, labels, settings.strong, settings.mixing, 0, 0, [number]) for labels in (told, thought)
        )
        assert (pseudo.label != others.label)[view.valid].float().mean() > 0.1
        assert (threshold > 0) == bool((pseudo.confidence < threshold)[view.valid].any())
        term = "strong" if method == "fixmatch" else f"strong_{number + 1}"
        torch.testing.assert_close(losses[term], factor * loss(view, pseudo))
    if method == "unimatch":
        torch.testing.assert_close(losses["features"], 0.25 * loss(pair[0], told[0]))


def test_the_teacher_follows(case):
    made = case("fixmatch", threshold=0.0, teacher={"decay": 0.5})
    before = made.method.teacher.network.head.scores.weight.clone()
    with torch.no_grad():
        made.method.student.head.scores.weight.add_(1)
    made.method.after_step(9)
    torch.testing.assert_close(made.method.teacher.network.head.scores.weight, before + 0.5)


def test_the_teacher_is_published_unless_the_student_is_asked_for(case):
    for evaluate, expected in (("teacher", "teacher"), ("student", "student")):
        method = case("fixmatch", teacher={"decay": 0.5}, evaluate=evaluate).method
        assert method.predictor is (method.student if expected == "student" else method.teacher.network)
    alone = case("fixmatch").method
    assert alone.predictor is alone.student
    assert set(alone.networks) == {"segmenter"}


@pytest.mark.parametrize("method", ["fixmatch", "unimatch"])
def test_labels_of_the_image_itself_in_eval_mode_know_no_dropout(method, case):
    """With dropout, labels in passing change from pass to pass, and those in eval mode do not."""
    network = {"preset": "tiny", "dropout": 0.5, "head_channels": 16, "neck_layers": 1, "neck_channels": 16}
    for mode, same in (("eval", True), ("train", False)):
        made = case(method, threshold=0.0, network=network, label_mode=mode)
        assert made.method.labels_in_passing is not same
        seen = []
        real = made.method.labels_of
        made.method.labels_of = lambda samples, real=real, seen=seen: seen.append(samples.ids) or real(samples)
        made.losses()
        assert (made.batch["unlabelled"].ids in seen) is same
        assert made.batch["partner"].ids in seen
