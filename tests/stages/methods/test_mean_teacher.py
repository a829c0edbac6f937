"""stages/methods/mean_teacher.py: what is particular to it, against loops and numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stages.engine.method import segment
from stages.methods import METHODS
from stages.methods.parts.views import strong_view
from stages.methods.settings.mean_teacher import MeanTeacherSettings

BATCH_NORM = {
    "preset": "tiny",
    "backbone": "mobilenet_v2",
    "freeze_batch_norm": False,
    "dropout": 0.0,
    "head_channels": 8,
}


def move_student(made, size=0.05):
    """Away from the teacher, which starts as its copy."""
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in made.method.student.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=random))


def pad(made, name):
    """The upper half of the first image and the left quarter of the second become padding."""
    valid = made.batch[name].valid.clone()
    valid[0, :16], valid[1, :, :8] = False, False
    made.batch[name] = made.batch[name].replace(valid=valid)


def plain_consistency(made, names, softmax=True):
    """torch's mean over all elements of the valid pixels of the named streams together."""
    pairs = []
    for name in names:
        samples = made.batch[name]
        maps = [segment(network, samples) for network in (made.method.student, made.method.teacher)]
        maps = [logits.softmax(1) if softmax else logits for logits in maps]
        pairs.append([kept.movedim(1, -1)[samples.valid] for kept in maps])
    return F.mse_loss(*(torch.cat(maps) for maps in zip(*pairs, strict=True)))


# --- the loss ---


@pytest.mark.parametrize("consistency", ["softmax", "logits"])
@pytest.mark.parametrize(("images", "names"), [("all", ["strong", "unlabelled"]), ("unlabelled", ["unlabelled"])])
def test_the_consistency_is_torchs_mse_over_valid_pixels(consistency, images, names, case):
    made = case("mean-teacher", consistency=consistency, images=images, weight=3.0)
    move_student(made)
    pad(made, "unlabelled")
    expected = 3 * plain_consistency(made, names, consistency == "softmax")
    assert expected > 1e-4
    torch.testing.assert_close(made.losses()["consistency"], expected)


@pytest.mark.parametrize("confidence", ["batch", "pixel"])
def test_a_threshold_counts_the_pixels_on_which_the_teacher_is_sure(confidence, case):
    """By a loop: French et al.'s one factor for the batch, padding included in its count, or sure pixels alone."""
    settings = {"images": "unlabelled", "weight": 2.0, "reduction": "sum", "threshold": 0.4, "confidence": confidence}
    made = case("mean-teacher", **settings)
    move_student(made)
    pad(made, "unlabelled")
    samples = made.batch["unlabelled"]
    networks = (made.method.student, made.method.teacher)
    student, teacher = (segment(network, samples).softmax(1).detach() for network in networks)
    sure = total = kept = valid = 0.0
    for number, row, column in np.ndindex(*samples.valid.shape):
        there = bool(samples.valid[number, row, column])
        is_sure = float(teacher[number, :, row, column].max()) >= 0.4
        error = float(((student - teacher)[number, :, row, column] ** 2).sum())
        sure, valid = sure + is_sure, valid + there
        total, kept = total + there * error, kept + (there and is_sure) * error
    share = sure / samples.valid.numel()
    assert 0.05 < share < 0.95
    expected = 2 * (share * total / valid if confidence == "batch" else kept / valid)
    assert made.losses()["consistency"].item() == pytest.approx(expected, rel=1e-4)
    assert 0 < float(made.method.observed["confident"]) < 1


def test_a_threshold_of_logits_is_refused():
    with pytest.raises(ValueError, match="goes with consistency softmax"):
        MeanTeacherSettings(consistency="logits", threshold=0.5)


def test_one_shifted_logit_by_hand(case):
    """Four classes; the student's background logit is 0.5 higher everywhere: mean 0.25 / 4, sum 0.25, on logits."""
    losses = {}
    for reduction in ("mean", "sum"):
        made = case("mean-teacher", consistency="logits", weight=1.0, reduction=reduction)
        with torch.no_grad():
            made.method.student.head.scores.bias[0] += 0.5
        losses[reduction] = made.losses()["consistency"].item()
    assert losses == pytest.approx({"mean": 0.0625, "sum": 0.25}, rel=1e-4)


def test_the_published_mean_over_classes_is_the_sum_divided_by_their_number(case):
    """A factor of 21 on VOC: the setting says which one is meant, and the published weight belongs to the mean."""
    found = {}
    for reduction in ("mean", "sum"):
        made = case("mean-teacher", reduction=reduction)
        move_student(made)
        found[reduction] = made.losses()["consistency"]
    torch.testing.assert_close(found["sum"], 4 * found["mean"])
    assert (MeanTeacherSettings().reduction, MeanTeacherSettings().weight) == ("mean", 100)


def test_logits_are_not_the_default(case):
    """They are unbounded: ten times the scores cost a hundred times as much, probabilities at most 2 a pixel."""
    assert MeanTeacherSettings().consistency == "softmax"
    losses = {}
    for consistency in ("softmax", "logits"):
        for scale in (1, 1000):
            made = case("mean-teacher", consistency=consistency, weight=1.0, reduction="sum")
            move_student(made)
            with torch.no_grad():
                for network in (made.method.student, made.method.teacher.network):
                    for parameter in network.head.scores.parameters():
                        parameter.mul_(scale)
            losses[consistency, scale] = made.losses()["consistency"].item()
    assert losses["logits", 1000] == pytest.approx(1e6 * losses["logits", 1], rel=1e-3)
    assert losses["softmax", 1000] <= 2


def test_the_ramp_starts_at_a_hundred_and_fiftieth_not_at_0(case):
    """Six iterations, half of them the ramp: exp(-5), exp(-5 4/9), exp(-5/9), 1."""
    made = case("mean-teacher", ramp=0.5, weight=1.0)
    move_student(made)
    found = [made.method.losses(made.batch, step)["consistency"].item() for step in range(5)]
    full = plain_consistency(made, ["strong", "unlabelled"]).item()
    shares = [math.exp(-5 * (1 - step / 3) ** 2) for step in range(3)] + [1, 1]
    assert found == pytest.approx([full * share for share in shares], rel=1e-4)
    assert shares[0] == pytest.approx(0.0067, abs=1e-4)


def test_a_student_that_is_its_teacher_agrees(case):
    losses = case("mean-teacher").losses()
    assert losses["consistency"].item() == pytest.approx(0, abs=1e-9)
    assert losses["supervised"] > 0


# --- teacher and BatchNorm ---


def test_after_a_step_the_teacher_is_the_average(case):
    """With the warm-up at step 1 a = 1/2; the parameters alone. The first step copies."""
    made = case("mean-teacher", network=BATCH_NORM, teacher={"warmup": True})
    student, teacher = made.method.student, made.method.teacher.network
    move_student(made)
    made.losses()
    old = {name: value.clone() for name, value in teacher.state_dict().items()}
    made.method.after_step(1)
    parameters = dict(student.named_parameters())
    for name, value in teacher.state_dict().items():
        torch.testing.assert_close(value, (old[name] + parameters[name]) / 2 if name in parameters else old[name])
    made.method.after_step(0)
    assert all(torch.equal(value, parameters[name]) for name, value in teacher.named_parameters())


@pytest.mark.parametrize(("mode", "seen"), [("train", 2), ("eval", 0)])
def test_batch_norm_of_each_network_sees_its_own_images_once(mode, seen, case):
    """The student labelled and unlabelled ones, apart; the teacher the same in train mode, none in eval."""
    average = "parameters" if mode == "train" else "floats"
    made = case("mean-teacher", network=BATCH_NORM, teacher={"mode": mode, "average": average})
    made.losses()
    counts = {name: int(value) for name, value in made.method.networks.named_buffers() if name.endswith("tracked")}
    assert {count for name, count in counts.items() if name.startswith("segmenter.")} == {2}
    assert {count for name, count in counts.items() if name.startswith("teacher.")} == {seen}


@pytest.mark.parametrize("images", ["all", "unlabelled"])
def test_in_a_joint_pass_batch_norm_sees_labelled_and_unlabelled_images_together(images, case):
    """PixelSSL: one pass of [x, u] through each network, whatever is compared then."""
    made = case("mean-teacher", network=BATCH_NORM, joint_pass=True, images=images, weight=1.0)
    move_student(made)
    labelled, unlabelled = made.batch["strong"], made.batch["unlabelled"]
    both = labelled.replace(image=torch.cat([labelled.image, unlabelled.image]))
    with torch.no_grad():
        found, target = (segment(network, both) for network in (made.method.student, made.method.teacher))
    counted = [name for name, _ in made.method.networks.named_buffers() if name.endswith("tracked")]
    before = {name: int(made.method.networks.get_buffer(name)) for name in counted}
    losses = made.losses()
    assert {int(made.method.networks.get_buffer(name)) - before[name] for name in counted} == {1}
    torch.testing.assert_close(
        losses["supervised"], F.cross_entropy(found[: len(labelled)], labelled.label, ignore_index=255)
    )
    valid = torch.cat([labelled.valid, unlabelled.valid])
    if images == "unlabelled":
        valid[: len(labelled)] = False
    difference = (found.softmax(1) - target.softmax(1)).square().mean(1)
    torch.testing.assert_close(losses["consistency"], difference[valid].mean())


@pytest.mark.parametrize(
    ("name", "warmup"),
    [("mean-teacher", False), ("cutmix-seg", False), ("vat", False), ("unimatch-v2", True), ("mlmt", True)],
)
def test_the_average_warms_up_where_the_published_code_does(name, warmup):
    """Constant in TorchSemiSeg and French et al.; min(1 - 1/(t+1), decay) in UniMatch V2's and MLMT's codes."""
    assert METHODS[name]().teacher.warmup is warmup
    assert METHODS[name].model_validate({"teacher": {"decay": 0.5}}).teacher.warmup is warmup


def test_one_setting_of_the_teacher_leaves_the_others_as_published(case):
    teacher = case("mean-teacher", teacher={"decay": 0.5}).method.settings.teacher
    assert (teacher.decay, teacher.average, teacher.mode) == (0.5, "parameters", "train")


@pytest.mark.parametrize("name", ["mean-teacher", "cutmix-seg", "vat", "unimatch-v2"])
@pytest.mark.parametrize(("evaluate", "network"), [("student", "student"), ("teacher", "teacher")])
def test_what_is_evaluated_is_a_choice(evaluate, network, name, case):
    method = case(name, evaluate=evaluate).method
    expected = method.student if network == "student" else method.teacher.network
    assert method.predictor is expected
    assert method.predictor.spec(("background", "a", "b", "c"))["num_classes"] == 4


# --- the strong view ---


def test_without_a_strong_view_both_see_the_same(case):
    assert MeanTeacherSettings().strong is None
    made = case("mean-teacher", weight=1.0)
    move_student(made)
    first, second = (made.method.losses(made.batch, step)["consistency"] for step in (0, 1))
    assert first == second  # nothing is drawn


def test_a_strong_view_is_the_students_alone(case):
    """Student on the strong view with cutouts, teacher on the weak one; cutouts and padding teach nothing."""
    made = case("mean-teacher", images="unlabelled", weight=1.0, strong={"cutout": 1.0}, seed=2)
    move_student(made)
    weak, method = made.batch["unlabelled"], made.method
    strong = strong_view(weak, method.settings.strong, 2, 0)
    cutouts = weak.valid & ~strong.valid
    assert cutouts.any()
    found, target = segment(method.student, strong).detach().softmax(1), segment(method.teacher, weak).softmax(1)
    total, count = 0.0, 0
    for b, y, x in np.argwhere(strong.valid.numpy()):
        total += float((found[b, :, y, x] - target[b, :, y, x]).square().mean())
        count += 1
    assert made.losses()["consistency"].item() == pytest.approx(total / count, rel=1e-4)
    assert method.losses(made.batch, 0)["consistency"] != method.losses(made.batch, 1)["consistency"]
