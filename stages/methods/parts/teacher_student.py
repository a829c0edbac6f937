"""One network and its average: the common part of mean teachers and the methods built on them."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from stages.engine.method import Method, Setup
from stages.engine.teacher import Teacher
from stages.networks import Segmenter


class TeacherStudent(Method):
    """Base of the methods with one network and its average: networks "segmenter" (the student) and "teacher".

    Its settings are TeacherStudentSettings; without a `teacher` there is only the student.
    """

    def __init__(self, settings: Any, setup: Setup) -> None:
        super().__init__(settings, setup)
        student = setup.segmenter()
        self.networks = nn.ModuleDict({"segmenter": student})
        if settings.teacher is not None:
            self.networks["teacher"] = Teacher(student, settings.teacher)

    @property
    def student(self) -> Segmenter:
        return cast(Segmenter, self.networks["segmenter"])

    @property
    def teacher(self) -> Teacher:
        return cast(Teacher, self.networks["teacher"])

    def after_step(self, step: int) -> None:
        if self.settings.teacher is not None:
            self.teacher.update(self.student, step)

    @property
    def predictor(self) -> nn.Module:
        from_student = self.settings.teacher is None or self.settings.evaluate == "student"
        return self.student if from_student else self.teacher.network
