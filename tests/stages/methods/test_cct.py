"""stages/methods/cct.py: what is particular to it, against loops and numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pydantic
import pytest
import torch
import torch.nn.functional as F

from stages.engine.losses import squared_difference
from stages.engine.method import at_size, segment
from stages.engine.randomness import generator
from stages.methods.parts import perturbations
from stages.methods.settings.cct import CctSettings

KINDS = ("vat", "dropout", "cutout", "context", "object", "feature_drop", "feature_noise")
NONE = dict.fromkeys(KINDS, 0)
EACH = {"decoders": dict.fromkeys(KINDS, 1), "ramp": 0.0, "min_contour": 4}


@pytest.mark.parametrize("decoder", ["published", "head"])
def test_unlabelled_images_teach_the_encoder_and_their_own_decoder_alone(decoder, case):
    made = case("cct", **EACH, decoder=decoder)
    for number, kind in enumerate(KINDS):
        gradients = made.gradients(kind)
        taught = {name for name, gradient in gradients.items() if gradient is not None and gradient.abs().sum() > 0}
        assert not any(name.startswith("segmenter.head.") for name in taught)
        assert all(gradients[name] is None for name in gradients if name.startswith("segmenter.head."))
        assert any(name.startswith("segmenter.backbone.") for name in taught) or kind == "object", kind
        assert {n.split(".")[1] for n in gradients if n.startswith("auxiliary.") and gradients[n] is not None} == {
            str(number)
        }


def test_masks_do_not_teach_the_auxiliary_decoders(case):
    gradients = case("cct", **EACH).gradients("supervised")
    assert all(gradients[name] is None for name in gradients if name.startswith("auxiliary."))
    assert gradients["segmenter.head.scores.weight"].abs().sum() > 0


def mean_squared_error(made, decoder, features, target):
    """torch's mean over classes and pixels left of column 20, where the images end."""
    segmenter, samples = made.method.networks["segmenter"], made.batch["unlabelled"]
    logits = decoder(features)
    published = made.method.settings.decoder == "published"
    logits = logits[..., :33, :33] if published else at_size(logits, samples, segmenter)
    return F.mse_loss(logits.softmax(1)[..., :20], target[..., :20])


def padded(made):
    """Padding right of column 20, which teaches nothing."""
    valid = torch.ones(2, 33, 33, dtype=torch.bool)
    valid[:, :, 20:] = False
    made.batch["unlabelled"] = made.batch["unlabelled"].replace(valid=valid)
    return made


@pytest.mark.parametrize("decoder", ["published", "head"])
def test_without_perturbation_it_is_the_mean_squared_error(decoder, case):
    """I-VAT, DropOut and F-Noise of size 0: times weight, divided by the four decoders of all three kinds."""
    none = {"vat_radius": 0.0, "dropout_rate": 0.0, "noise": 0.0, "ramp": 0.0}
    counts = NONE | {"vat": 1, "dropout": 1, "feature_noise": 2}
    made = padded(case("cct", decoders=counts, **none, decoder=decoder, weight=30.0))
    segmenter, samples = made.method.networks["segmenter"], made.batch["unlabelled"]
    target, features = segment(segmenter, samples).softmax(1), segmenter.trunk(samples.image)
    errors = [mean_squared_error(made, one, features, target) for one in made.method.networks["auxiliary"]]
    losses = made.losses()
    for kind, own in (("vat", errors[:1]), ("dropout", errors[1:2]), ("feature_noise", errors[2:])):
        torch.testing.assert_close(losses[kind], 30 * sum(own) / 4)


def perturbed_by_hand(method, kind, number, high, foreground, step):
    """What decoder `number` is to see of `high`; all but F-Noise in a loop over channels and cells."""
    settings, purpose = method.settings, ("cct", step, number)
    if kind == "feature_noise":
        return high * (1 + perturbations.uniform(high[0], -settings.noise, settings.noise, generator(0, *purpose)))
    randoms = [generator(0, *purpose, place) for place in range(len(high))]
    factors = torch.ones_like(high)
    if kind == "dropout":
        for image, random in zip(factors, randoms, strict=True):
            for channel, drawn in zip(image, random.random(len(image)), strict=True):
                channel[:] = 0 if drawn < settings.dropout_rate else 1 / (1 - settings.dropout_rate)
        return high * factors
    boxes = [perturbations.object_boxes(image, settings.min_contour) for image in foreground.numpy()]
    uncut = perturbations.guided_cutout(boxes, (33, 33), settings.erase, randoms) if kind == "cutout" else None
    gammas = [np.float32(random.uniform(*settings.drop_range)) for random in randoms]
    for b, y, x in np.ndindex(len(high), *high.shape[2:]):
        pixel = b, 8 * y, 8 * x  # the centre of the cell
        if kind == "cutout":
            kept = uncut[pixel]
        elif kind == "feature_drop":
            kept = high[b, :, y, x].mean() < gammas[b] * high[b].mean(0).max()
        else:
            kept = foreground[pixel] == (kind == "context")
        factors[b, :, y, x] = float(kept)
    return high * factors


def test_the_decoders_see_the_features_perturbed_by_hand(case):
    """A square as the one object of the first image; of it G-Cutout erases ten rows and columns of seventeen."""
    counts = dict.fromkeys(KINDS, 2) | {"vat": 0}
    made = case("cct", decoders=counts, min_contour=4, erase=0.6)
    high = 0.1 + torch.rand(2, 16, 5, 5, generator=torch.Generator().manual_seed(0))
    foreground = torch.zeros(2, 33, 33, dtype=torch.bool)
    foreground[0, 8:25, 8:25] = True
    seen = list(made.method._perturbed({"high": high}, foreground, 3))
    assert [kind for kind, _, _ in seen] == [kind for kind in KINDS for _ in range(counts[kind])]
    for number, (kind, decoder, changed) in enumerate(seen):
        assert decoder is made.method.networks["auxiliary"][number]
        assert not torch.equal(changed["high"][0], high[0]), kind
        expected = perturbed_by_hand(made.method, kind, number, high, foreground, 3)
        torch.testing.assert_close(changed["high"], expected, msg=lambda text, kind=kind: f"{kind}: {text}")


def test_each_term_is_the_error_on_features_perturbed_by_hand(case):
    """30 r(t) / K times the errors of the decoders of one kind; r is exp(-5 4/9) a third of the way up."""
    counts = {"vat": 0, "dropout": 1, "cutout": 2, "context": 1, "object": 1, "feature_drop": 2, "feature_noise": 1}
    made = padded(case("cct", decoders=counts, ramp=0.5, min_contour=4))
    method, samples = made.method, made.batch["unlabelled"]
    target, features = segment(method.segmenter, samples).softmax(1), method.segmenter.trunk(samples.image)
    foreground, errors = target.argmax(1) > 0, dict.fromkeys(KINDS, 0)
    for number, (kind, decoder) in enumerate(zip(method.kinds, method.networks["auxiliary"], strict=True)):
        high = perturbed_by_hand(method, kind, number, features["high"], foreground, 1)
        errors[kind] += mean_squared_error(made, decoder, {**features, "high": high}, target)
    losses = method.losses(made.batch, 1)  # of 6 iterations, half of them the ramp
    for kind in KINDS[1:]:
        torch.testing.assert_close(losses[kind], 30 * math.exp(-5 * 4 / 9) / 8 * errors[kind])


def test_the_weight_rises_as_a_sigmoid_from_its_smallest_value(case):
    """At step 0 the ramp is exp(-5), not 0; at and after its end 1."""
    plain, rising = case("cct", **EACH), case("cct", **EACH | {"ramp": 0.5})
    for step, factor in ((0, math.exp(-5)), (1, math.exp(-5 * 4 / 9)), (3, 1.0), (5, 1.0)):  # of 6 iterations
        full, part = plain.method.losses(plain.batch, step), rising.method.losses(rising.batch, step)
        for kind in KINDS:
            torch.testing.assert_close(part[kind], full[kind] * factor)
        assert torch.equal(part["supervised"], full["supervised"])


def test_every_term_counts_in_what_is_minimised(case):
    """The authors add a pair-wise term after the total was formed: it teaches nothing. Here the sum is the loss."""
    made = case("cct", **EACH)
    assert set(made.losses()) == {"supervised", *KINDS}
    together = made.gradients()
    name = next(n for n in together if n.startswith("segmenter.backbone."))
    apart = sum(made.gradients(term)[name] for term in ("supervised", *KINDS))
    torch.testing.assert_close(together[name], apart, rtol=1e-4, atol=1e-7)


def test_objects_and_their_surroundings_are_shown_apart(case):
    """Con-Msk keeps the cells that are predicted as foreground, Obj-Msk the others: together they are all features."""
    made = case("cct", decoders=NONE | {"context": 1, "object": 1})
    segmenter, samples = made.method.networks["segmenter"], made.batch["unlabelled"]
    features = segmenter.trunk(samples.image)
    foreground = segment(segmenter, samples).argmax(1) > 0
    assert 0 < foreground.float().mean() < 1
    shown = {kind: changed["high"] for kind, _, changed in made.method._perturbed(features, foreground, 0)}
    assert torch.equal(shown["context"] + shown["object"], features["high"])
    for y, x in ((0, 0), (2, 3), (4, 4)):
        is_object = foreground[:, 8 * y, 8 * x]
        assert torch.equal(shown["context"][:, :, y, x] != 0, is_object[:, None] & (features["high"][:, :, y, x] != 0))


def test_adversarial_noise_changes_its_decoder_more_than_random_noise(case):
    made = case("cct", decoders=NONE | {"vat": 1}, vat_radius=2.0)
    method, samples = made.method, made.batch["unlabelled"]
    features = {name: value.detach() for name, value in method.segmenter.trunk(samples.image).items()}
    ((_, decoder, changed),) = method._perturbed(features, torch.zeros(2, 33, 33, dtype=torch.bool), 0)
    noise = changed["high"] - features["high"]
    torch.testing.assert_close(noise.flatten(1).norm(dim=1), torch.full((2,), 2.0), rtol=1e-3, atol=0)
    clean = decoder(features).softmax(1).detach()

    @torch.no_grad()
    def change(high):
        found = decoder({**features, "high": high}).softmax(1)
        return float(squared_difference(found, clean, torch.ones(found[:, 0].shape, dtype=torch.bool)))

    others = torch.randn(10, *noise.shape, generator=torch.Generator().manual_seed(0))
    others = 2 * others / others.flatten(2).norm(dim=2).view(10, 2, 1, 1, 1)
    assert change(changed["high"]) > 3 * max(change(features["high"] + other) for other in others)


def test_finding_the_noise_leaves_no_gradient_and_no_statistics(case):
    """BatchNorm of a decoder must not gather statistics of the probing steps."""
    network = {"preset": "tiny", "dropout": 0.0, "head_channels": 16, "head_norm": "batch"}
    made = case("cct", network=network, decoders=NONE | {"vat": 1}, decoder="head")
    made.losses()
    counters = {n: int(b) for n, b in made.method.networks.named_buffers() if n.endswith("num_batches_tracked")}
    assert {name: count for name, count in counters.items() if name.startswith("auxiliary")} == {
        "auxiliary.0.block.1.num_batches_tracked": 1
    }
    assert all(parameter.grad is None for parameter in made.method.networks.parameters())
    assert made.method.networks["auxiliary"][0].training


def test_perturbations_are_new_at_every_step_and_for_every_decoder(case):
    made = case("cct", decoders=NONE | {"dropout": 2, "feature_noise": 1}, ramp=0.0)
    features = made.method.segmenter.trunk(made.batch["unlabelled"].image)
    shown = [
        [changed["high"] for _, _, changed in made.method._perturbed(features, torch.zeros(2, 33, 33), step)]
        for step in (0, 1, 0)
    ]
    for first, second, again in zip(*shown, strict=True):
        assert torch.equal(first, again)
        assert not torch.equal(first, second)
    assert not torch.equal(shown[0][0], shown[0][1])


def test_a_head_that_takes_low_features_is_taught_too(case):
    network = {"preset": "tiny", "dropout": 0.0, "head": "deeplabv3plus", "head_channels": 16}
    for decoder in ("published", "head"):
        losses = case("cct", network=network, **EACH, decoder=decoder).losses()
        assert set(losses) == {"supervised", *KINDS}
        assert all(torch.isfinite(loss) for loss in losses.values())


def test_the_published_numbers_of_decoders():
    settings = CctSettings()
    assert [settings.decoders.kinds().count(kind) for kind in KINDS] == [2, 6, 6, 2, 2, 6, 6]
    assert settings.weight == 30
    assert settings.ramp == 0.1
    with pytest.raises(pydantic.ValidationError, match="at least one auxiliary decoder"):
        CctSettings.model_validate({"decoders": NONE})
    with pytest.raises(pydantic.ValidationError, match="the smaller first"):
        CctSettings.model_validate({"drop_range": [0.9, 0.7]})
