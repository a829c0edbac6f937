"""stages/methods/fixmatch.py against a loss made by hand; what it shares with UniMatch: test_strong_weak.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stages.engine.cutmix import single_box_mask
from stages.engine.randomness import generator
from stages.engine.views import strong_view
from stages.methods.contract import segment


def by_hand(made, threshold):
    """Pictures, labels, confidences and padding mixed pixel by pixel; the mean over the valid pixels of a loop."""
    network, pair = made.method.networks["segmenter"], (made.batch["unlabelled"], made.batch["partner"])
    strong = [strong_view(pictures, made.method.settings.strong, 0, 0, view) for view, pictures in enumerate(pair)]
    with torch.no_grad():
        probabilities = [segment(network, pictures).softmax(1) for pictures in pair]
    boxes = [single_box_mask(33, 33, generator(0, "cutmix", 0, place, 0)) for place in range(len(pair[0]))]
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


def test_the_supervised_part_is_that_of_supervised(case):
    made, alone = case("fixmatch", weight=0.3), case("supervised", batch_size=2)
    torch.testing.assert_close(made.losses()["supervised"], 0.7 * sum(alone.losses().values()))
