"""What holds for every method, whatever its idea is: a new one is found and asked all of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from artifacts.errors import ConfigError
from stages.engine.config import HardExamples
from stages.engine.method import Sources, segment
from stages.methods import METHODS, load_method
from stages.methods.settings import trained_by
from stages.methods.settings.base import StrongWeakSettings
from tests.stages.drawn_training import CASES

# Methods whose segmenter learns from exact masks in a term of its own, beside unlabelled images.
SUPERVISED = [
    name
    for name in trained_by("segmenter")
    if "labelled_share" in METHODS[name].model_fields and METHODS[name].hard_examples
]
# What takes away everything but the masks; `weight: 0` does where nothing is said.
ALONE = {
    "gct": {"weight": 0.0, "flaw_correction": 0.0},  # two terms
    "advsemseg": {"weight": 0.0, "adversarial": 0.0, "adversarial_unlabelled": 0.0},  # three
    "s4gan": {"weight": 0.0, "feature_matching": 0.0},  # two
    "dmt": {"weight": 0.0, "labelled_share": 0.5},  # as many labelled images as `supervised` here
}
# Terms of segmenters that are not 0 where no pixel is valid and no label known, since they are of whole images.
OF_IMAGES = {"dsrg": {"expansion"}, "s4gan": {"discriminator"}}
WITH_STATISTICS = {
    "preset": "tiny",
    "backbone": "mobilenet_v2",
    "freeze_batch_norm": False,
    "output_stride": 16,
    "head_norm": "batch",
    "head_channels": 8,
    "dropout": 0.0,
}


def settings_of(variant: str) -> tuple[str, dict[str, Any]]:
    settings = dict(CASES[variant])
    return settings.pop("name"), settings


def variants_of(names: Iterable[str]) -> list[str]:
    return [variant for variant in CASES if CASES[variant]["name"] in names]


SEMI_SUPERVISED = [name for name in trained_by("segmenter") if "labelled_share" in METHODS[name].model_fields]


@pytest.mark.parametrize("variant", variants_of(SEMI_SUPERVISED))
def test_without_unlabelled_images_it_is_supervised_to_the_bit(variant, case):
    """Gradients, and BatchNorm's statistics: no pass over an unlabelled image is made, no other network learns."""
    name, settings = settings_of(variant)
    settings.pop("clamp", None)  # it is for pseudo labels
    made = case(name, network=WITH_STATISTICS, **settings | ALONE.get(name, {"weight": 0.0}))
    alone = case("supervised", batch_size=2, network=WITH_STATISTICS)
    assert torch.equal(made.batch["strong"].image, alone.batch["strong"].image)
    found, expected = made.gradients(), alone.gradients()
    for key, gradient in expected.items():
        assert torch.equal(found[key], gradient), key
    for key, buffer in alone.method.networks.named_buffers():
        assert torch.equal(made.method.networks.get_buffer(key), buffer), key
    assert made.method.optimizers() == {}
    if METHODS[name].model_validate({"name": name}).inputs():
        assert list(made.batch) == ["strong"]  # its estimated masks are not asked for


@pytest.mark.parametrize("name", SUPERVISED)
def test_the_supervised_term_is_the_cross_entropy_of_the_masks(name, case):
    """Beside the unlabelled terms, too, which have their published weights."""
    made = case(name)
    share = 1 - made.method.settings.weight if isinstance(made.method.settings, StrongWeakSettings) else 1.0
    strong, networks = made.batch["strong"], made.method.networks
    two = {"supervised_1": "segmenter", "supervised_2": "second"}
    expected = {
        term: share * F.cross_entropy(segment(networks[network], strong), strong.label, ignore_index=255)
        for term, network in (two if "second" in networks else {"supervised": "segmenter"}).items()
    }
    found = {term: value for term, value in made.losses().items() if term.startswith("supervised")}
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variant", variants_of(SUPERVISED))
def test_hard_examples_act_on_the_supervised_terms_alone(variant, case):
    name, settings = settings_of(variant)
    plain, hard = case(name, **settings), case(name, **settings)
    hard.method.setup = dataclasses.replace(hard.method.setup, hard_examples=HardExamples(threshold=0.1, min_kept=5))
    before, after = plain.losses(), hard.losses()
    for term, value in before.items():
        if term.startswith("supervised"):
            assert after[term] > 1.2 * value
        else:
            assert torch.equal(after[term], value), term


@pytest.mark.parametrize("variant", CASES)
def test_a_batch_without_a_label_and_a_valid_pixel_teaches_nothing_wrong(variant, case):
    name, settings = settings_of(variant)
    made = case(name, **settings)
    assert all(value != 0 for value in made.losses().values())
    for stream, batch in made.batch.items():
        nothing = torch.zeros_like(batch.valid)
        image = torch.zeros_like(batch.image) if name == "s4gan" else batch.image  # its discriminator sees the image
        made.batch[stream] = batch.replace(valid=nothing, label=torch.full_like(batch.label, 255), image=image)
    losses = made.losses()
    assert all(bool(torch.isfinite(value)) for value in losses.values())
    if name in trained_by("segmenter"):  # a classifier learns from the image labels, which are there
        assert {term for term, value in losses.items() if value != 0} == OF_IMAGES.get(name, set())
    assert all(gradient is None or bool(torch.isfinite(gradient).all()) for gradient in made.gradients().values())
    if nothing := [term for term, value in losses.items() if value == 0]:
        assert all(gradient is None or not gradient.any() for gradient in made.gradients(*nothing).values())


@pytest.mark.parametrize("variant", CASES)
def test_a_teacher_gets_no_gradient_and_no_optimiser(variant, case):
    name, settings = settings_of(variant)
    made = case(name, **settings)
    frozen = [key for key in made.method.networks if key == "teacher"]
    gradients = made.gradients()
    assert all(gradients[key] is None for key in gradients if key.split(".")[0] in frozen)
    assert {group["name"].split(".")[0] for group in made.method.parameter_groups()}.isdisjoint(frozen)


@pytest.mark.parametrize("name", [name for name in METHODS if "masks" in METHODS[name].card.uses])
def test_without_any_image_it_says_what_it_needs(name):
    settings = METHODS[name].model_validate({"name": name})
    with pytest.raises(ConfigError, match=name):
        load_method(name).streams(settings, Sources([], [], frozenset({"masks"})), 4)
