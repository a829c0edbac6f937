"""stages/methods/self_training.py and st_plus_plus.py: losses by hand, pseudo labels, rounds."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from artifacts.errors import ConfigError, DataError
from stages.engine.method import segment
from stages.methods.parts.views import strong_view
from stages.methods.settings.self_training import SelfTrainingSettings
from stages.methods.settings.st_plus_plus import StPlusPlusSettings
from stages.methods.st_plus_plus import StPlusPlus

METHODS = ("self-training", "st-plus-plus")


@pytest.mark.parametrize("name", METHODS)
def test_every_labelled_and_pseudo_labelled_pixel_weighs_the_same(name, case):
    """torch's mean over all pixels that are not 255, the images predicted one by one."""
    made = case(name)
    strong = strong_view(made.batch["unlabelled"], made.method.settings.strong, 0, 0)
    network = made.method.networks["segmenter"]
    logits = [
        segment(network, batch.replace(image=one[None]))
        for batch in (made.batch["strong"], strong)
        for one in batch.image
    ]
    label = torch.cat([made.batch["strong"].label, strong.label])
    expected = F.cross_entropy(torch.cat(logits), label, ignore_index=255)
    torch.testing.assert_close(made.losses()["cross_entropy"], expected)


def test_the_weight_acts_on_pseudo_labelled_pixels_alone(case):
    made = {weight: case("self-training", weight=weight) for weight in (1.0, 3.0)}
    batch = made[1.0].batch
    strong = strong_view(batch["unlabelled"], made[1.0].method.settings.strong, 0, 0)
    logits = segment(made[1.0].method.networks["segmenter"], strong)
    pseudo = F.cross_entropy(logits, strong.label, ignore_index=255, reduction="sum")
    count = (batch["strong"].label != 255).sum() + (strong.label != 255).sum()
    difference = made[3.0].losses()["cross_entropy"] - made[1.0].losses()["cross_entropy"]
    torch.testing.assert_close(difference, 2 * pseudo / count)


@pytest.mark.parametrize("name", METHODS)
def test_the_clamp_limits_the_losses_of_pseudo_labels_alone(name, case):
    """One patch: no loss of a pseudo-labelled pixel is above their mean; the weight acts after that."""
    made = case(name, clamp={"start": 99.0, "patches": 1}, weight=3.0)
    strong = strong_view(made.batch["unlabelled"], made.method.settings.strong, 0, 0)
    network = made.method.networks["segmenter"]
    exact, pseudo = (
        F.cross_entropy(segment(network, batch), batch.label, ignore_index=255, reduction="none")[batch.label != 255]
        for batch in (made.batch["strong"], strong)
    )
    clamped = pseudo.clamp(max=pseudo.mean().item())
    assert (clamped < pseudo).any()
    expected = (exact.sum() + 3 * clamped.sum()) / (len(exact) + len(pseudo))
    torch.testing.assert_close(made.losses()["cross_entropy"], expected)


def test_a_clamp_without_pseudo_labels_is_refused(case):
    with pytest.raises(ConfigError, match="with weight 0 there are none"):
        case("self-training", clamp={}, weight=0.0)


def test_images_with_masks_are_not_augmented_strongly(case):
    """With cutouts and colours at their utmost the labelled half of the loss is that of the weak view."""
    utmost = {"jitter": 1.0, "grey": 1.0, "blur": 1.0, "cutout": 1.0}
    made, plain = case("self-training", strong=utmost), case("supervised", batch_size=2)
    made.batch["unlabelled"] = made.batch["unlabelled"].replace(
        label=torch.full_like(made.batch["unlabelled"].label, 255)
    )
    torch.testing.assert_close(made.losses()["cross_entropy"], plain.losses()["cross_entropy"])


def test_st_plus_plus_learns_from_the_images_that_have_a_mask_so_far(training, tmp_path):
    sources = training.sources
    half = tmp_path / "masks"
    half.mkdir()
    for image_id in sources.weak[:2]:
        whole = training.folders["weak_labels"].folder / f"{image_id}.png"
        (half / f"{image_id}.png").write_bytes(whole.read_bytes())
    folder = type(training.folders["weak_labels"])(half, 4)
    partial = dataclasses.replace(sources, folders={"weak_labels": folder})
    streams = StPlusPlus.streams(StPlusPlusSettings(), partial, 4)
    assert [entry.image_id for entry in streams["unlabelled"].entries] == list(sources.weak[:2])
    for file in half.iterdir():
        file.unlink()
    with pytest.raises(DataError, match="none of the images"):
        StPlusPlus.streams(StPlusPlusSettings(), partial, 4)


def test_without_pseudo_labels_it_says_what_makes_them(training):
    from stages.methods.self_training import SelfTraining

    sources = dataclasses.replace(training.sources, available=frozenset({"masks"}))
    with pytest.raises(ConfigError, match="estimated masks") as caught:
        SelfTraining.streams(SelfTrainingSettings(), sources, 4)
    assert "--weak-labels" in caught.value.hint
