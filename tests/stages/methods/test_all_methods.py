"""What holds for every method: its card, its section in the documentation, its file."""

from __future__ import annotations

import inspect
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from docs.site import cards
from semiseg_cli.recipe_commands import shipped_recipes
from stages.engine.method import Method
from stages.methods import METHODS, load_method
from stages.methods.settings.base import USES
from tests.stages.drawn_training import CASES

ROOT = Path(__file__).parents[3]
LONGEST_BLOCK = 5  # equal lines in a row that two methods may share


def statements(file: Path) -> list[str]:
    """The lines of a module without blank ones, comments and imports."""
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith(("#", "import ", "from "))]


@pytest.mark.parametrize("name", cards.ALL)
def test_the_card_says_all(name):
    settings = cards.ALL[name]
    card = settings.card
    assert all((card.title, card.paper, card.sources, card.inference, settings.formula()))
    assert card.output == "refiner" or 1 <= card.backward <= card.forward
    assert set(card.uses) <= set(USES)
    assert card.uses
    assert card.recipe in {*shipped_recipes(), ""}


@pytest.mark.parametrize("name", METHODS)
def test_the_card_leads_to_the_class_whose_docstring_is_the_formula(name):
    assert issubclass(load_method(name), Method)
    assert METHODS[name].formula() == inspect.getdoc(load_method(name))


@pytest.mark.parametrize("variant", CASES)
def test_every_parameter_has_a_part_in_every_step(variant, case):
    """Several processes wait for all gradients: one that is missing would stop them at the next step."""
    settings = dict(CASES[variant])
    name = settings.pop("name")
    without = {key: value for key, value in settings.items() if key != "clamp"} | {"weight": 0.0}
    kinds = [settings] + [without] * ("weight" in METHODS[name].model_fields)
    for changed in kinds:
        made = case(name, **changed)
        for step in (0, made.method.setup.iterations - 1):
            made.method.networks.zero_grad(set_to_none=True)
            sum(made.method.losses(made.batch, step).values()).backward()
            parameters = made.method.networks.named_parameters()
            assert [key for key, value in parameters if value.requires_grad and value.grad is None] == []


SHARED = [name for name in CASES if "labelled_share" in METHODS[CASES[name]["name"]].model_fields]


@pytest.mark.parametrize("variant", SHARED)
def test_any_share_of_a_batch_may_be_labelled(variant, case):
    """One image with a mask and three without."""
    settings = {**CASES[variant], "labelled_share": 0.25}
    made = case(settings.pop("name"), **settings)
    assert {name: len(part.ids) for name, part in made.batch.items()} in (
        {"strong": 1, "unlabelled": 3},
        {"strong": 1, "unlabelled": 3, "partner": 3},
    )
    losses = made.losses()
    sum(losses.values()).backward()
    assert all(bool(torch.isfinite(value)) for value in losses.values())


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_is_described(name):
    for key, field in METHODS[name].model_fields.items():
        assert key == "name" or field.description, f"{name}.{key}"


def test_the_documentation_is_that_of_the_cards():
    for path in cards.pages():
        page = path.read_text(encoding="utf-8")
        assert cards.updated(page) == page, f"{path} is not up to date: make docs"
    for name, made, other in (("methods", "| 8 / 4 |", "| 9 / 9 |"), ("methods/cps", "f_1(z)", "f_9(z)")):
        page = (cards.DOCS / f"{name}.md").read_text(encoding="utf-8")
        changed = page.replace(made, other)
        assert changed != page == cards.updated(changed)


def test_the_settings_load_no_torch():
    code = "import sys, stages.methods; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_no_two_methods_share_a_block_of_six_lines():
    """What two of them need alike stands once, in the engine or the contract."""
    folder = ROOT / "stages" / "methods"
    blocks = {}
    for file in sorted(folder.glob("*.py")):
        lines = statements(file)
        size = LONGEST_BLOCK + 1
        blocks[file.name] = {tuple(lines[i : i + size]) for i in range(len(lines) - size + 1)}
    shared = {
        (first, second): next(iter(common))
        for first, second in itertools.combinations(blocks, 2)
        if (common := blocks[first] & blocks[second])
    }
    assert shared == {}


# Passes of a step that change the statistics of the published network's trunk and head: what each method's authors have
# in train mode, no more.
STATISTICS = {
    "supervised": (1, 1),
    "dsrg": (1, 1),
    "dual-branch": (1, 1),  # one trunk for both lists; the strong branch sees its own alone
    "self-training": (1, 1),
    "st-plus-plus": (1, 1),
    "dmt": (1, 1),
    "cps": (4, 4),  # labelled, mixed, and both images that are mixed, which are labelled in train mode
    "cpc": (2, 2),  # without CutMix by default: labelled, unlabelled
    "cct": (2, 2),  # labelled, unlabelled
    "gct": (1, 1),  # both together
    "pseudoseg": (3, 3),  # labelled, weak (in train mode, as published), strong
    "mean-teacher": (2, 2),
    "cutmix-seg": (2, 2),
    "vat": (2, 2),
    "fixmatch": (2, 2),  # labelled and weak together, strong
    "unimatch": (2, 2),
    "unimatch-v2": (2, 2),
    "advsemseg": (2, 2),
    "s4gan": (2, 2),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_of_batch_norm_change_in_the_passes_that_are_learned_from(name, case):
    network = {"preset": "tiny", "backbone": "mobilenet_v2", "freeze_batch_norm": False, "output_stride": 16}
    made = case(name, network=network | {"head_norm": "batch", "head_channels": 8, "dropout": 0.0})
    predictor = made.method.networks["segmenter" if "segmenter" in made.method.networks else "network_1"]
    made.losses()
    passes = tuple(
        {int(norm.num_batches_tracked) for norm in part.modules() if isinstance(norm, torch.nn.BatchNorm2d)}
        for part in (predictor.backbone, predictor.head)
    )
    assert passes == tuple({count} for count in STATISTICS[name])


def test_mlmts_teacher_gathers_no_statistics_of_its_own(case):
    """Its classifier sees labelled and unlabelled images, one kind after the other."""
    network = {"preset": "tiny", "backbone": "mobilenet_v2", "freeze_batch_norm": False}
    made = case("mlmt", network=network, start=0.0, ramp=0.0)
    made.losses()
    passes = {
        name: {int(norm.num_batches_tracked) for norm in part.modules() if isinstance(norm, torch.nn.BatchNorm2d)}
        for name, part in made.method.networks.items()
    }
    assert passes == {"classifier": {2}, "teacher": {0}}
