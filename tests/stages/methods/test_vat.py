"""stages/methods/vat.py: what is particular to it, against loops and numbers worked by hand."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from stages.engine.method import at_size, segment
from stages.methods.parts.perturbations import image_generators, uniform
from stages.methods.settings.vat import VatSettings
from stages.methods.vat import roughness
from stages.networks import upsample

BATCH_NORM = {
    "preset": "tiny",
    "backbone": "mobilenet_v2",
    "freeze_batch_norm": False,
    "dropout": 0.0,
    "head_channels": 8,
}
LEVELS = pytest.mark.parametrize("level", ["image", "feature"])


def part(made, size=0.05):
    """Student and teacher apart."""
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in made.method.student.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=random))
    return made


def noise(made, step=0):
    """What was added to images or features in the step, and the loss."""
    method, seen = made.method, []
    level = method.settings.level
    if level == "image":
        hook = method.student.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        clean = made.batch["unlabelled"].image
    else:
        hook = method.student.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]["high"]))
        clean = method.student.trunk(made.batch["unlabelled"].image)["high"]
    loss = method.losses(made.batch, step)["consistency"]
    hook.remove()
    return (seen[-1] - clean).detach(), loss


def double_precision_direction(made):
    """d of every image: the gradient of the distance near 0, at 1e-4 times the normalised start, in float64."""
    method, samples = made.method, made.batch["unlabelled"]
    image_level = method.settings.level == "image"
    network = copy.deepcopy(method.teacher.network if image_level else method.student).double().eval()
    features = network.trunk(samples.image.double())
    x = samples.image.double() if image_level else features["high"].detach()

    def probabilities(changed):
        logits = network(changed) if image_level else network.head({**features, "high": changed})
        return upsample(logits, (33, 33), network.stride).softmax(1)

    clean = probabilities(x).detach()
    randoms = image_generators(len(x), 0, "vat", 0)
    start = torch.stack([uniform(x[0].float(), -0.5, 0.5, random) for random in randoms]).double()
    start = (1e-4 * start / start.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).requires_grad_()
    now = probabilities(x + start)
    squared, divergence = (now - clean).square().sum(1), (clean * (clean.log() - now.log())).sum(1)
    distance = (squared if image_level else divergence)[samples.valid].sum()
    (slope,) = torch.autograd.grad(distance, start)
    return slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


# --- direction and radius ---


@LEVELS
@pytest.mark.parametrize(("xi", "least"), [(1e-2, 0.99), (None, 0.8)])
def test_the_direction_is_that_of_double_precision(xi, least, level, case):
    """With padding, of which neither may know. The default step is long: it bends the direction a little."""
    made = part(case("vat", level=level, threshold=0.0, xi=xi))
    valid = made.batch["unlabelled"].valid.clone()
    valid[0, :12], valid[1, :, 20:] = False, False
    made.batch["unlabelled"] = made.batch["unlabelled"].replace(valid=valid)
    found, _ = noise(made)
    for one, other in zip(found.double(), double_precision_direction(made), strict=True):
        assert float((one * other).sum() / one.norm()) > least


@LEVELS
def test_the_noise_hurts_far_more_than_random_noise_of_its_length(level, case):
    made = case("vat", level=level, threshold=0.0, weight=1.0, radius=0.3 if level == "image" else 2.0)
    adversarial, loss = noise(made)
    student, samples = made.method.student, made.batch["unlabelled"]
    random = torch.randn(adversarial.shape, generator=torch.Generator().manual_seed(1))
    random *= (adversarial.flatten(1).norm(dim=1) / random.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    if level == "image":
        found = student(samples.image + random)
    else:
        features = student.trunk(samples.image)
        found = student.head({**features, "high": features["high"] + random})
    difference = at_size(found, samples, student).softmax(1) - segment(student, samples).softmax(1)
    by_chance = difference.square().sum(1)[samples.valid].mean()
    assert loss > 3 * by_chance > 0


def test_the_radius_of_images_follows_their_contrast(case):
    """By loops over the image's pixels: half the root of the summed squared differences of pixels two apart."""
    made = case("vat", radius=0.7)
    found, _ = noise(made)
    for one, image in zip(found, made.batch["unlabelled"].image.double().numpy(), strict=True):
        total = 0.0
        for c, y, x in np.ndindex(image.shape):
            if y + 2 < 33:
                total += (image[c, y + 2, x] - image[c, y, x]) ** 2
            if x + 2 < 33:
                total += (image[c, y, x + 2] - image[c, y, x]) ** 2
        assert one.norm().item() == pytest.approx(0.7 * 0.5 * math.sqrt(total), rel=1e-3)


def test_roughness_of_one_bright_pixel_by_hand():
    """A pixel of 2 in the middle of 5 x 5: four differences of 2, so half of sqrt(16) = 2."""
    image = torch.zeros(2, 3, 5, 5)
    image[1, 0, 2, 2] = 2
    assert roughness(image).flatten().tolist() == [0, 2]


@pytest.mark.parametrize(
    ("settings", "length"),
    [
        ({"adaptive": False, "radius": 0.01}, 0.01 * math.sqrt(3 * 33 * 33)),
        ({"level": "feature"}, 2.0),
        ({"level": "feature", "radius": 0.5}, 0.5),
    ],
)
def test_other_radii_by_hand(settings, length, case):
    found, _ = noise(case("vat", **settings))
    torch.testing.assert_close(found.flatten(1).norm(dim=1), torch.full((2,), length), rtol=1e-4, atol=0)


@LEVELS
def test_the_start_depends_on_step_and_place_alone(level, case):
    """A second process would draw for the places that follow: what each image gets there is what it gets here."""
    made = part(case("vat", level=level))
    first, again, other = (noise(made, step)[0] for step in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    alone = copy.copy(made)
    samples = made.batch["unlabelled"]
    alone.batch = made.batch | {
        "unlabelled": samples.replace(
            ids=samples.ids[:1], image=samples.image[:1], valid=samples.valid[:1], label=samples.label[:1]
        )
    }
    torch.testing.assert_close(noise(alone)[0], first[:1], rtol=1e-2, atol=2e-3)


# --- the loss ---


@LEVELS
@pytest.mark.parametrize("confidence", ["batch", "pixel"])
def test_the_loss_by_numpy(level, confidence, case):
    made = part(case("vat", level=level, threshold=0.5, confidence=confidence, weight=0.3))
    valid = made.batch["unlabelled"].valid.clone()
    valid[1, 5:] = False
    made.batch["unlabelled"] = made.batch["unlabelled"].replace(valid=valid)
    student, samples = made.method.student, made.batch["unlabelled"]
    added, loss = noise(made)
    if level == "image":
        logits = student(samples.image + added)
    else:
        features = student.trunk(samples.image)
        logits = student.head({**features, "high": features["high"] + added})
    found = at_size(logits, samples, student).softmax(1).detach().numpy()
    target = segment(made.method.teacher, samples).softmax(1).numpy()
    sure = target.max(1) >= 0.5
    assert 0 < sure.mean() < 1
    share = sure if confidence == "pixel" else sure.mean()
    expected = 0.3 * (np.square(found - target).sum(1) * share)[valid.numpy()].sum() / valid.sum().item()
    assert loss.item() == pytest.approx(expected, rel=1e-3)


@LEVELS
def test_the_mean_over_classes_is_the_sum_divided_by_their_number(level, case):
    found = {
        reduction: part(case("vat", level=level, threshold=0.0, reduction=reduction)).losses()["consistency"]
        for reduction in ("sum", "mean")
    }
    torch.testing.assert_close(found["sum"], 4 * found["mean"])
    assert VatSettings().reduction == "sum"


@LEVELS
def test_nobody_sure_or_all_padding_is_0_with_finite_gradients(level, case):
    for changes in ({"threshold": 1.0}, {"threshold": 0.0}):
        made = part(case("vat", level=level, **changes))
        if changes["threshold"] == 0:
            samples = made.batch["unlabelled"]
            made.batch["unlabelled"] = samples.replace(valid=torch.zeros_like(samples.valid))
        assert made.losses()["consistency"].item() == 0
        assert all(torch.isfinite(g).all() for g in made.gradients().values() if g is not None)


# --- invariants, gradients, BatchNorm, precision ---


@LEVELS
def test_looking_for_the_direction_leaves_no_gradient_behind(level, case):
    """Before any backward no parameter has one; the teacher never does; the student's is that for given noise."""
    made = part(case("vat", level=level, threshold=0.0))
    made.method.networks.zero_grad(set_to_none=True)
    added, _ = noise(made)
    assert all(parameter.grad is None for parameter in made.method.networks.parameters())
    found = made.gradients("consistency")
    assert all(value is None for name, value in found.items() if name.startswith("teacher."))
    student, samples = made.method.student, made.batch["unlabelled"]
    student.zero_grad(set_to_none=True)
    if level == "image":
        logits = student(samples.image + added)
    else:
        features = student.trunk(samples.image)
        logits = student.head({**features, "high": features["high"] + added})
    target = segment(made.method.teacher, samples).softmax(1)
    pixels = (at_size(logits, samples, student).softmax(1) - target).square().sum(1)
    (0.1 * pixels[samples.valid].mean()).backward()
    for name, parameter in student.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[f"segmenter.{name}"], parameter.grad, rtol=1e-3, atol=1e-6)


@LEVELS
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_direction_leaves_batch_norm_and_modes_alone(level, mode, case):
    """The student sees labelled and changed images once each; the teacher, in train mode, unlabelled ones once."""
    made = case("vat", level=level, network=BATCH_NORM, teacher={"mode": mode}, iterations=3)
    modes = [module.training for module in made.method.networks.modules()]
    made.losses()
    assert [module.training for module in made.method.networks.modules()] == modes
    counts = {name: int(value) for name, value in made.method.networks.named_buffers() if name.endswith("tracked")}
    assert {count for name, count in counts.items() if name.startswith("segmenter.")} == {2}
    assert {count for name, count in counts.items() if name.startswith("teacher.")} == {int(mode == "train")}


def test_dropout_is_off_while_the_direction_is_found(case):
    """With it, noise and clean prediction would differ by what was dropped."""
    network = {"preset": "tiny", "dropout": 0.9, "head_channels": 16, "neck_layers": 1, "neck_channels": 16}
    made = case("vat", level="image", network=network, teacher={"mode": "train"})
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(noise(made)[0])
    assert torch.equal(*found)


def test_the_students_head_is_in_eval_mode_while_it_gives_the_direction(case):
    """Its passes: labelled images; clean and probed features; features with noise."""
    made, modes = case("vat", level="feature"), []
    head = made.method.student.head
    head.register_forward_pre_hook(lambda *_: modes.append(any(part.training for part in head.modules())))
    made.losses()
    assert modes == [True, False, False, True]


def test_the_direction_on_images_is_in_single_precision_under_autocast(case):
    """In half precision the probing step would vanish beside the image, or make another direction."""
    made = part(case("vat", level="image", threshold=0.0))
    expected, _ = noise(made)
    with torch.autocast("cpu", torch.bfloat16):
        found, loss = noise(made)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    assert torch.isfinite(loss)


def test_the_direction_on_features_is_in_single_precision_under_autocast(case):
    """The features themselves are bfloat16 there: the direction they give is nearly that of single precision."""
    made = part(case("vat", level="feature", threshold=0.0))
    expected, _ = noise(made)
    seen = []
    hook = made.method.student.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]["high"]))
    with torch.autocast("cpu", torch.bfloat16):
        features = made.method.student.trunk(made.batch["unlabelled"].image)["high"]
        made.losses()
    hook.remove()
    found = (seen[-1].float() - features.float()).detach()
    for one, other in zip(found, expected, strict=True):
        assert float((one * other).sum() / one.norm() / other.norm()) > 0.9


def test_the_published_probing_step_drowns_in_single_precision(case):
    """Why it is not the default: the direction hardly resembles that of double precision."""
    made = part(case("vat", level="feature", xi=1e-6))
    found, _ = noise(made)
    for one, other in zip(found.double(), double_precision_direction(made), strict=True):
        assert abs(float((one * other).sum() / one.norm())) < 0.6


def test_what_is_evaluated_and_averaged_is_the_teacher(case):
    method = part(case("vat")).method
    assert method.predictor is method.teacher.network
    before = {name: value.clone() for name, value in method.predictor.named_parameters()}
    method.after_step(0)  # .99 from the first step on
    students = dict(method.student.named_parameters())
    for name, value in method.predictor.named_parameters():
        torch.testing.assert_close(value, 0.99 * before[name] + 0.01 * students[name])
