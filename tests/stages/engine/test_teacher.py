"""stages/engine/teacher.py: averages in closed form, what a teacher keeps to itself, the ramp by hand."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from stages.engine.config import TeacherSettings
from stages.engine.teacher import Teacher, sigmoid_ramp, update_average


class Counted(nn.Module):
    """A parameter, a floating-point buffer and an integer one."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([value]))
        self.register_buffer("mean", torch.tensor([2 * value]))
        self.register_buffer("count", torch.tensor(int(value)))


def values(module):
    return [value.item() for value in module.state_dict().values()]


# --- the average ---


def test_average_of_a_constant_network_has_the_closed_form():
    """From the first step on a = min(1 - 1/(t+1), 0.75): copied at t = 0, 1/2 at t = 1, 2/3, then 3/4."""
    average, network = Counted(100.0), Counted(0.0)
    update_average(average, network, 0.75, 0)
    assert values(average) == [0, 0, 0]
    network = Counted(1.0)
    for step in range(1, 9):
        update_average(average, network, 0.75, step)
        keep = 0.5 * (2 / 3) * 0.75 ** (step - 2) if step >= 2 else 0.5
        assert average.weight.item() == pytest.approx(1 - keep)
        assert average.mean.item() == pytest.approx(2 - 2 * keep)
        assert average.count.item() == 1


def test_without_a_warmup_the_decay_is_that_of_the_settings_from_the_first_step_on():
    """TorchSemiSeg and French et al.: .75 of the start is left after one step, .75 ** n after n."""
    average, network = Counted(100.0), Counted(0.0)
    for step in range(3):
        update_average(average, network, 0.75, step, warmup=False)
        assert average.weight.item() == pytest.approx(100 * 0.75 ** (step + 1))
        assert average.mean.item() == pytest.approx(200 * 0.75 ** (step + 1))


def test_a_weight_with_two_names_is_averaged_once():
    """An in-place operation on all names of the state would take the step of a tied weight twice."""
    average, network = (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(2))
    for module in (average, network):
        module[1].weight = module[0].weight
    expected = (0.75 * average[0].weight + 0.25 * network[0].weight).tolist()
    update_average(average, network, 0.75, 0, warmup=False)
    assert average[1].weight is average[0].weight
    assert average[0].weight.tolist() == [pytest.approx(row) for row in expected]


@given(decay=st.floats(0, 0.999), steps=st.integers(1, 12), start=st.floats(-5, 5), end=st.floats(-5, 5))
def test_n_identical_steps_leave_the_decay_to_the_n_of_the_start(decay, steps, start, end):
    """After the warm-up, where a is the decay itself."""
    average, network = Counted(start), Counted(end)
    for step in range(1000, 1000 + steps):
        update_average(average, network, decay, step)
    expected = end + decay**steps * (start - end)
    assert average.weight.item() == pytest.approx(expected, abs=1e-4)
    assert average.mean.item() == pytest.approx(2 * expected, abs=2e-4)


def test_an_average_that_keeps_nothing_copies():
    average, network = Counted(5.0), Counted(-3.0)
    update_average(average, network, 0.0, 7)
    assert values(average) == values(network)


def test_integer_buffers_are_copied_not_averaged():
    average, network = Counted(100.0), Counted(10.0)
    update_average(average, network, 0.9, 500)
    assert average.count.item() == 10
    assert average.count.dtype == torch.int64
    assert average.weight.item() == pytest.approx(91)


def test_parameters_alone_leave_all_buffers_as_they_are():
    average, network = Counted(100.0), Counted(10.0)
    update_average(average, network, 0.9, 500, parameters_only=True)
    assert average.weight.item() == pytest.approx(91)
    assert (average.mean.item(), average.count.item()) == (200, 100)


def test_the_average_never_takes_part_in_gradients():
    network = nn.Conv2d(3, 4, 3)
    average = copy.deepcopy(network).requires_grad_(False)
    network(torch.rand(1, 3, 5, 5)).sum().backward()
    update_average(average, network, 0.5, 3)
    assert all(p.grad is None and not p.requires_grad for p in average.parameters())


# --- the teacher ---


@pytest.fixture
def student():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()


@pytest.fixture
def images():
    return torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(1)) + 3


def statistics(network):
    return {name: value.clone() for name, value in network.named_buffers()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_teacher_in_mode_eval_stays_there_while_all_around_it_trains(student, images):
    teacher = Teacher(student, TeacherSettings(mode="eval"))
    around = nn.ModuleDict({"teacher": teacher, "student": student}).train()
    assert around.training
    assert not any(part.training for part in teacher.modules())
    before = statistics(teacher.network)
    assert torch.equal(teacher(images), teacher(images))  # no dropout
    assert equal(statistics(teacher.network), before)


def test_a_teacher_in_mode_train_follows_and_gathers_statistics_of_its_own(student, images):
    teacher = Teacher(student, TeacherSettings(mode="train", average="parameters"))
    assert all(part.training for part in teacher.modules())
    untouched = statistics(student)
    teacher(images)
    assert teacher.network[1].num_batches_tracked == 1
    own = statistics(teacher.network)
    teacher.update(student, 500)
    assert equal(statistics(teacher.network), own)
    assert equal(statistics(student), untouched)
    assert not any(part.training for part in teacher.eval().modules())


def test_a_teacher_that_averages_floats_takes_the_students_statistics(student, images):
    teacher = Teacher(student, TeacherSettings(decay=0.75))
    before = statistics(teacher.network)
    student(images)
    teacher.update(student, 500)
    for name, value in statistics(student).items():
        expected = before[name] * 0.75 + value * 0.25 if value.is_floating_point() else value
        torch.testing.assert_close(statistics(teacher.network)[name], expected)


def test_a_teacher_is_a_copy_that_no_gradient_reaches(student, images):
    teacher = Teacher(student, TeacherSettings(decay=0.9))
    assert not teacher(images.requires_grad_()).requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    with torch.no_grad():
        student[0].weight.add_(1)
    difference = student[0].weight - teacher.network[0].weight
    torch.testing.assert_close(difference, torch.ones_like(difference))
    teacher.update(student, 0)  # the first update copies, whatever the decay
    assert torch.equal(student[0].weight, teacher.network[0].weight)


def test_a_teacher_without_warmup_keeps_its_share_of_the_first_step(student):
    teacher = Teacher(student, TeacherSettings(decay=0.9, warmup=False))
    with torch.no_grad():
        student[0].weight.add_(1)
    teacher.update(student, 0)
    difference = student[0].weight - teacher.network[0].weight
    torch.testing.assert_close(difference, torch.full_like(difference, 0.9))


def test_own_statistics_without_training_are_refused():
    with pytest.raises(ValidationError, match="needs mode train"):
        TeacherSettings(average="parameters", mode="eval")


# --- the ramp ---


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, math.exp(-5)), (25, math.exp(-5 * 0.75**2)), (50, math.exp(-1.25)), (100, 1), (101, 1), (10**9, 1)],
)
def test_the_ramp_by_hand(step, expected):
    """It starts at 0.0067, not at 0, and stays at 1."""
    assert sigmoid_ramp(step, 100) == pytest.approx(expected)


def test_no_ramp_is_1_from_the_first_step():
    assert sigmoid_ramp(0, 0) == 1
    assert sigmoid_ramp(0, 100) == pytest.approx(0.0067, abs=1e-4)


@given(length=st.integers(1, 1000), step=st.integers(0, 2000))
def test_the_ramp_only_rises(length, step):
    assert sigmoid_ramp(step, length) <= sigmoid_ramp(step + 1, length) <= 1
