"""`image_labels` of all methods whose networks label images: what holds for each, and losses made by hand."""

from __future__ import annotations

import math

import pytest
import torch

from stages.methods import METHODS
from stages.methods.settings.base import LabellingSettings
from tests.stages.drawn_training import CASES

LABELLING = [
    variant
    for variant, settings in CASES.items()
    if issubclass(METHODS[settings["name"]], LabellingSettings) and settings["image_labels"] == "share"
]
# Terms that have nothing to do with labels of a network.
OTHERS = ("supervised", "discriminator", "adversarial", "feature_matching", "grad_cam", "tags", "flaw")
ABSENT, SHOWN = 3, 1


def made_with(case, variant, tags, **changes):
    """A case whose images have these image-level labels: a row of tags for all of them."""
    settings = {**CASES[variant], **changes}
    made = case(settings.pop("name"), **settings)
    for stream, batch in made.batch.items():
        made.batch[stream] = batch.replace(tags=torch.tensor(tags).expand(len(batch), -1))
    return made


@pytest.mark.parametrize("variant", LABELLING)
@pytest.mark.parametrize("tags", [[1.0, 1.0, 1.0], [math.nan] * 3], ids=["all classes", "unknown"])
def test_labels_that_say_nothing_change_nothing(tags, variant, case):
    """Losses and gradients, to the bit."""
    plain = made_with(case, variant, tags, image_labels="ignore")
    shared = made_with(case, variant, tags, image_labels="share")
    assert {name: value.item() for name, value in shared.losses().items()} == {
        name: value.item() for name, value in plain.losses().items()
    }
    found, expected = shared.gradients(), plain.gradients()
    for name, gradient in expected.items():
        assert gradient is None or torch.equal(found[name], gradient), name


@pytest.mark.parametrize("variant", [variant for variant in LABELLING if variant != "cct"])  # no such biases
def test_an_absent_class_is_not_taught_but_the_shown_one_in_its_place(variant, case):
    """All networks take nearly everything for a class that no image shows: on the biases of the learning heads."""
    gradients = {}
    for how in ("ignore", "share"):
        made = made_with(case, variant, [float(label == SHOWN) for label in (1, 2, 3)], image_labels=how)
        with torch.no_grad():
            for parameter in made.method.networks.parameters():
                if parameter.shape == (4,):
                    parameter[ABSENT] += 4
        taught = [term for term in made.losses() if not term.startswith(OTHERS)]
        found = made.gradients(*taught)
        gradients[how] = sum(
            value for value in found.values() if value is not None and value.shape == (4,) and value.any()
        )
    assert gradients["share"][ABSENT] > 0 > gradients["share"][SHOWN]
    assert gradients["ignore"][ABSENT] < gradients["share"][ABSENT]
    assert gradients["ignore"][SHOWN] > gradients["share"][SHOWN]
