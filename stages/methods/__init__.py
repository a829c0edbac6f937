"""Training methods, one file each. The list below is all the rest of semiseg knows of them.

A new method is one file with its class, one settings class in `settings.py` and one line here.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from artifacts.errors import ConfigError
from stages.methods import settings as s

if TYPE_CHECKING:
    from stages.methods.contract import Method


@dataclass(frozen=True)
class MethodInfo:
    """What is known of a method without loading torch.

    Attributes:
        uses: parts of the data set it learns from: "masks", "tags", "pictures" (without any label).
        place: "module:class" of the implementation.
    """

    name: str
    title: str
    paper: str
    uses: tuple[str, ...]
    settings: type[s.MethodSettings]
    place: str

    @property
    def needs(self) -> tuple[str, ...]:
        """Inputs of `train` beside the data set that the method takes with its default settings."""
        return self.settings.model_validate({"name": self.name}).inputs()


METHODS: dict[str, MethodInfo] = {
    info.name: info
    for info in (
        MethodInfo(
            "supervised",
            "One branch on strong masks, weak masks, or both (mixed, oversampled)",
            "The single-branch rows of Luo & Yang, ECCV 2020",
            ("masks",),
            s.SupervisedSettings,
            "stages.methods.supervised:Supervised",
        ),
        MethodInfo(
            "dsrg",
            "Deep seeded region growing from image-level labels",
            "Huang et al., CVPR 2018; expansion loss of SEC: Kolesnikov & Lampert, ECCV 2016",
            ("tags",),
            s.DsrgSettings,
            "stages.methods.dsrg:Dsrg",
        ),
        MethodInfo(
            "dual-branch",
            "Strong-weak dual-branch network: one trunk, a branch per kind of label",
            "Luo & Yang, ECCV 2020",
            ("masks", "tags"),
            s.DualBranchSettings,
            "stages.methods.dual_branch:DualBranch",
        ),
        MethodInfo(
            "cps",
            "Cross pseudo supervision of two networks, with or without CutMix",
            "Chen et al., CVPR 2021",
            ("masks", "pictures"),
            s.CpsSettings,
            "stages.methods.cps:Cps",
        ),
    )
}


def load_method(name: str) -> type[Method]:
    """The class that implements a method."""
    if name not in METHODS:
        raise ConfigError(f"there is no method {name!r}", f"methods: {', '.join(METHODS)}")
    module, _, attribute = METHODS[name].place.partition(":")
    return getattr(importlib.import_module(module), attribute)
