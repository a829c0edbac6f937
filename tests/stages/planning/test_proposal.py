"""Plans from hand-made fingerprints: what is proposed for which data and machine, and what is refused."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import ConfigError, DataError
from semiseg_cli.stage_commands import SHORTCUTS, stage_config
from stages.config import build
from stages.contract import load_stage
from stages.planning.plan_file import commands_of, plan_text
from stages.planning.proposal import make_plan
from stages.planning.records import GIB, DataFacts, Machine, Measured, Pace, Plan, Spread, Trial, Wishes

CPU = Machine(memory=8 * GIB, cores=2, cached=("mobilenet_v2", "resnet50"))
GPU = Machine("cuda:0", "a GPU", 40 * GIB, 16, True, ("mobilenet_v2", "resnet50"))


def every(value: float) -> Spread:
    return Spread(value, value, value, value)


def facts(short: float = 120, long: float = 160, objects: float = 0.4, **given: Any) -> DataFacts:
    """45 masks of cats and dogs, nothing else, unless it is given."""
    usual: dict[str, Any] = {"name": "own", "classes": ("background", "cat", "dog"), "masks": 45, "val": 15}
    sizes = {"short": every(short), "long": every(long), "objects": every(objects)}
    return DataFacts(**(usual | sizes | given))


LABELS_ONLY = facts(masks=0, objects=0.3, image_labels=50, label_sets=3)


def value_of(plan: Plan, what: str) -> str:
    return next(choice.value for choice in plan.choices if choice.what == what)


# --- arithmetic ---


@pytest.mark.parametrize(
    ("machine", "asked", "trained", "shown"),
    [
        (CPU, "", "auto", "fp32"),
        (replace(CPU, bf16=True), "", "bf16", "bf16"),
        (replace(CPU, bf16=True), "fp32", "fp32", "fp32"),
        (CPU, "bf16", "bf16", "bf16"),
        (GPU, "", "auto", "bf16"),
        (GPU, "fp32", "fp32", "fp32"),
    ],
)
def test_trainings_are_in_bf16_where_the_device_has_it_and_nothing_else_is_said(machine, asked, trained, shown):
    plan = make_plan(LABELS_ONLY, machine, Wishes(precision=asked))
    assert {plan.sections[stage]["precision"] for stage in ("train", "train-classifier")} == {trained}
    assert value_of(plan, "precision") == shown
    assert "precision" not in plan.sections["predict"]


# --- method ---


@pytest.mark.parametrize(
    ("data", "method", "segmenters"),
    [
        (facts(), "supervised", ["supervised"]),
        (facts(unlabelled=300), "self-training", ["supervised", "self-training"]),
        (facts(masks=200, unlabelled=300), "cutmix-seg", ["supervised", "cutmix-seg"]),
        (facts(masks=200, image_labels=300), "self-training", ["supervised", "self-training"]),
        (LABELS_ONLY, "dsrg", ["retrained"]),
    ],
)
def test_the_method_follows_the_labels_that_are_there(data, method, segmenters):
    plan = make_plan(data, CPU)
    assert plan.method == method
    assert list(plan.segmenters) == segmenters


def test_labels_are_shared_among_pseudo_labels_where_there_are_some():
    settings = {labels: make_plan(facts(image_labels=labels, unlabelled=5), CPU).steps[1].settings for labels in (0, 9)}
    assert settings[0]["image_labels"] == "ignore"
    assert settings[9]["image_labels"] == "share"


def test_the_background_is_matched_where_few_images_have_masks_and_most_others_labels():
    few = make_plan(facts(masks=50, image_labels=300, unlabelled=9), CPU)
    assert [step.stage for step in few.steps] == ["train", "predict", "refine", "train"]
    assert few.steps[-1].inputs["weak_labels"] == few.steps[2].name
    for others in (
        facts(masks=200, image_labels=300),
        facts(masks=50, image_labels=300, unlabelled=301),
        facts(masks=50, image_labels=300, classes=("cat", "dog")),
    ):
        assert [step.stage for step in make_plan(others, CPU).steps] == ["train", "predict", "train"]


def test_a_given_method_is_taken_and_one_that_lacks_its_data_is_refused():
    assert make_plan(facts(unlabelled=9), CPU, Wishes(method="cps")).segmenters == ("supervised", "cps")
    assert make_plan(facts(unlabelled=9), CPU, Wishes(method="supervised")).segmenters == ("supervised",)
    with pytest.raises(DataError, match="cps needs images without masks"):
        make_plan(facts(), CPU, Wishes(method="cps"))
    with pytest.raises(DataError, match="supervised needs masks"):
        make_plan(LABELS_ONLY, CPU, Wishes(method="supervised"))
    with pytest.raises(DataError, match="dsrg needs image-level labels"):
        make_plan(facts(unlabelled=9), CPU, Wishes(method="dsrg"))
    with pytest.raises(ConfigError, match=r"'cpss' cannot be planned.*cps"):
        make_plan(facts(unlabelled=9), CPU, Wishes(method="cpss"))


# --- what nothing can be learned from ---


@pytest.mark.parametrize(
    ("data", "message", "hint"),
    [
        (facts(masks=0, val=0), "neither masks nor image-level labels to learn from", "paint masks"),
        (facts(masks=0, val=9), "all 9 masks are in val or holdout", "fewer images in val"),
        (facts(masks=0, val=1, unlabelled=80), "the only mask is in val or holdout", "paint masks"),
        (facts(classes=("background",)), "has one class, background", "classes of the objects, too"),
        (facts(classes=("cat",)), "has one class, cat", "first class of the class table"),
        (replace(LABELS_ONLY, label_sets=1), "all 50 labelled images of own have the same labels", "do not show"),
        (replace(LABELS_ONLY, classes=("road", "car")), "no class background", "paint masks"),
        (DataFacts("own", ("background", "cat")), "no images", "prepare-data"),
    ],
)
def test_data_that_nothing_can_be_learned_from_gets_a_clear_answer(data, message, hint):
    with pytest.raises(DataError, match=message) as caught:
        make_plan(data, CPU)
    assert hint in str(caught.value.hint)


# --- network ---


@pytest.mark.parametrize(
    ("machine", "weights", "network", "written"),
    [
        (CPU, "", "mobilenet_v2", "imagenet"),
        (GPU, "", "deeplabv3plus-resnet50", "imagenet"),
        (replace(GPU, memory=3 * GIB), "", "mobilenet_v2", "imagenet"),
        (replace(CPU, cached=()), "", "tiny", "none"),
        (replace(GPU, cached=("mobilenet_v2",)), "", "mobilenet_v2", "imagenet"),
        (replace(CPU, cached=()), "imagenet", "mobilenet_v2", "imagenet"),
        (CPU, "none", "tiny", "none"),
    ],
)
def test_the_network_follows_the_machine_and_the_weights_that_are_there(machine, weights, network, written):
    section = make_plan(facts(), machine, Wishes(weights=weights)).sections["train"]["network"]
    assert (section["preset"], section["weights"]) == (network, written)


@pytest.mark.parametrize(
    ("file", "network"),
    [
        ("mobilenet_v2_in1k_tv_fp32.pth", "mobilenet_v2"),
        ("resnet50-0676ba61.pth", "deeplabv3plus-resnet50"),
        ("ResNet-101.pth", "deeplabv3plus-resnet101"),
        ("vgg16-397923af.pth", "deeplab-aspp-vgg16"),
    ],
)
def test_a_file_of_weights_decides_the_network_by_its_name(file: str, network: str, tmp_path: Path):
    (tmp_path / file).touch()
    section = make_plan(facts(), CPU, Wishes(weights=str(tmp_path / file))).sections["train"]["network"]
    assert section == {"preset": network, "weights": str(tmp_path / file)}


def test_weights_that_are_not_there_or_tell_nothing_are_one_error(tmp_path: Path):
    (tmp_path / "best.pth").touch()
    with pytest.raises(ConfigError, match="does not say which network") as caught:
        make_plan(facts(), CPU, Wishes(weights=str(tmp_path / "best.pth")))
    assert "--network" in str(caught.value.hint)
    given = Wishes(weights=str(tmp_path / "best.pth"), network="mobilenet_v2")
    assert make_plan(facts(), CPU, given).sections["train"]["network"]["preset"] == "mobilenet_v2"
    with pytest.raises(ConfigError, match="there is no such file"):
        make_plan(facts(), CPU, Wishes(weights=str(tmp_path / "gone.pth")))
    with pytest.raises(ConfigError, match="no weights of resnet101 were found"):
        make_plan(facts(), CPU, Wishes(network="deeplabv3plus-resnet101"))
    with pytest.raises(ConfigError, match=r"not a preset.*mobilenet_v2"):
        make_plan(facts(), CPU, Wishes(network="mobilenetv2"))


# --- crop and scale ---


def test_images_as_large_as_the_crop_is_made_for_stay_as_they_are():
    plan = make_plan(facts(), CPU)
    assert plan.sections["train"]["crop_size"] == 128
    assert plan.sections["train"]["augmentation"]["scale"] == [0.5, 1.5]
    assert plan.sections["predict"]["scales"] == [1.0]


def test_large_photos_are_brought_to_what_a_crop_shows_in_training_and_prediction():
    plan = make_plan(facts(3000, 4000, objects=0.5), CPU)  # 160 / 4000
    assert plan.sections["predict"]["scales"] == [0.04]
    assert plan.sections["train"]["augmentation"]["scale"] == [0.02, 0.06]


def test_small_objects_keep_a_cell_of_the_networks_map():
    plan = make_plan(facts(6000, 8000, objects=0.05), CPU)
    factor = plan.sections["predict"]["scales"][0]
    side = 0.05 * (6000 * 8000) ** 0.5  # 346 pixels
    assert 16 <= factor * side < 16.1
    assert any("3,000 pixels" in remark for remark in plan.remarks)


def test_images_of_ten_pixels_are_enlarged_within_what_predict_takes():
    plan = make_plan(facts(8, 10), CPU)
    assert plan.sections["predict"]["scales"] == [6.4]
    assert plan.sections["train"]["crop_size"] == 64
    assert make_plan(facts(4, 5), CPU).sections["predict"]["scales"] == [8.0]


def test_a_crop_is_no_larger_than_the_images():
    assert make_plan(facts(90, 96), CPU).sections["train"]["crop_size"] == 96
    assert make_plan(facts(200, 250), GPU).sections["train"]["crop_size"] == 256
    assert make_plan(facts(375, 500), GPU).sections["train"]["crop_size"] == 321


# --- batch, iterations, optimiser ---


def test_iterations_follow_the_images_and_the_batch():
    assert make_plan(facts(masks=1), CPU).iterations == {"supervised": 300}
    assert make_plan(facts(masks=437), CPU).iterations == {"supervised": 1093}  # 40 * 437 / 16
    plan = make_plan(facts(masks=50, unlabelled=3081), CPU)
    assert plan.iterations == {"supervised": 300, "self-training": 617}  # 1.6 * 3081 / 8
    assert make_plan(facts(masks=437), CPU, Wishes(batch_size=8)).iterations == {"supervised": 2185}
    assert make_plan(facts(masks=10**6), CPU).iterations == {"supervised": 40_000}


def test_one_image_makes_a_batch_of_two():
    assert make_plan(facts(masks=1), CPU).batch_size == 2
    assert make_plan(facts(masks=1, unlabelled=1), CPU).batch_size == 4


def test_the_learning_rate_of_sgd_follows_the_batch():
    rates = {
        size: make_plan(facts(), GPU, Wishes(batch_size=size)).sections["train"]["optimizer"]["lr"] for size in (16, 4)
    }
    assert rates == {16: 1e-3, 4: 2.5e-4}


# --- what was measured ---


def measured(batch: int, step_s: float, *names: str, memory: int = GIB) -> Measured:
    trials = {name: Trial(batch, memory, step_s, start_s=6.0, first_s=1.0, end_s=1.0) for name in names}
    return Measured(batch, trials, process_s=5.0, paces={"predict": Pace(1.0, 0.1), "evaluate": Pace(0.5, 0.02)})


def test_the_batch_is_the_measured_one_and_the_iterations_see_as_many_images():
    plan = make_plan(facts(masks=400), CPU, measured=measured(4, 0.2, "supervised"))
    assert plan.sections["train"]["batch_size"] == plan.batch_size == 4
    assert plan.iterations == {"supervised": 4000}
    # start and end 8 s, 4,000 steps; predicting 15 images of val and scoring them; three commands
    assert plan.seconds == {"supervised": 808.0, "scores": 1.0 + 1.5 + 0.5 + 0.3, "starting": 15.0}
    assert plan.total_s == 808.0 + 3.3 + 15.0


def test_a_budget_shortens_all_trainings_alike_and_is_kept():
    data, wishes = facts(masks=200, image_labels=800), Wishes(budget_s=600)
    figures = measured(16, 0.5, "supervised", "self-training")
    plan = make_plan(data, CPU, wishes, figures)
    whole = make_plan(data, CPU, measured=figures)
    assert whole.total_s is not None
    assert plan.total_s is not None
    assert whole.total_s > 600 >= plan.total_s > 500
    shares = [plan.iterations[name] / whole.iterations[name] for name in whole.iterations]
    assert shares[0] == pytest.approx(shares[1], rel=0.02)
    assert plan.config(plan.steps[0])["iterations"] == plan.iterations["supervised"]


def test_a_budget_that_is_larger_than_needed_changes_nothing():
    figures = measured(16, 0.1, "supervised")
    assert make_plan(facts(), CPU, Wishes(budget_s=1e6), figures) == make_plan(facts(), CPU, None, figures)


def test_a_budget_too_small_to_train_says_how_much_is_needed():
    figures = measured(16, 0.5, "supervised")
    with pytest.raises(ConfigError, match=r"a budget of 15 s is too small for supervised.* need (\d+) s") as caught:
        make_plan(facts(), CPU, Wishes(budget_s=15), figures)
    needed = int(caught.value.message.split()[-2])
    plan = make_plan(facts(), CPU, Wishes(budget_s=needed), figures)
    assert plan.total_s is not None
    assert plan.total_s <= needed
    assert plan.iterations["supervised"] in (20, 21)


def test_a_budget_allows_fewer_steps_where_fewer_were_asked_for():
    figures = measured(16, 0.5, "supervised")
    assert make_plan(facts(), CPU, Wishes(budget_s=60, iterations=5), figures).iterations == {"supervised": 5}


# --- what a plan is good for ---

EVERY_WAY = [
    facts(),
    facts(unlabelled=30),
    facts(masks=200, unlabelled=300),
    facts(image_labels=30, unlabelled=3),
    facts(classes=("background", *(f"class {number}" for number in range(149))), image_labels=500),
    facts(8, 10, unlabelled=3),
    LABELS_ONLY,
    replace(LABELS_ONLY, val=0),
]


@pytest.mark.parametrize(("data", "machine"), itertools.product(EVERY_WAY, (CPU, GPU, replace(CPU, cached=()))))
def test_every_step_is_a_config_of_its_stage_and_so_is_its_command(data: DataFacts, machine: Machine, tmp_path: Path):
    plan, file = make_plan(data, machine), tmp_path / "plan.yaml"
    file.write_text(plan_text(plan, []), encoding="utf-8")
    commands = {words[-1]: words for words in commands_of(plan, str(file), "data")}
    for step in plan.steps:
        stage = load_stage(step.stage)
        config = build(stage.config, plan.config(step), step.name)
        assert not set(step.inputs) - set(stage.takes)
        assert typed(commands[step.name]) == config
    for segmenter in plan.segmenters:
        assert typed(commands[f"{segmenter}-val"]) == build(load_stage("predict").config, plan.sections["predict"], "")


def test_nothing_is_scored_where_val_is_empty():
    plan = make_plan(replace(LABELS_ONLY, val=0), CPU)
    assert [words[-1] for words in commands_of(plan, "plan.yaml", "data", scored=False)] == [
        step.name for step in plan.steps
    ]


def typed(words: list[str]) -> Any:
    """The config of a command as it is typed, without its inputs."""
    stage, given = load_stage(words[1]), dict(zip(words[2::2], words[3::2], strict=True))
    settings = [value for option, value in zip(words[2::2], words[3::2], strict=True) if option == "--set"]
    shortcuts = {shortcut: given.get(shortcut.option) for shortcut in SHORTCUTS[stage.name]}
    file = given.get("--config")
    return stage_config(stage, None if file is None else Path(file), settings, shortcuts)


def test_remarks_name_what_weakens_the_result():
    counts = {"background": 45, "cat": 45, "dog": 3, "owl": 0}
    plan = make_plan(facts(classes=tuple(counts), class_images=counts, val=0), CPU)
    assert any("in no training mask: owl" in remark for remark in plan.remarks)
    assert any("fewer than 5 training masks: dog" in remark for remark in plan.remarks)
    assert any("nothing can be scored" in remark for remark in plan.remarks)


def test_a_plan_is_made_without_torch():
    code = (
        "import sys, semiseg_cli.plan_command, stages.planning.probe, stages.planning.fingerprint\n"
        "from tests.stages.planning.test_proposal import *\n"
        "for data in EVERY_WAY: make_plan(data, GPU)\n"
        "sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, timeout=300, check=False).returncode == 0
