"""Every shipped recipe, in every profile."""

from __future__ import annotations

from pathlib import Path

import pytest

from artifacts.errors import ConfigError
from semiseg_cli.recipe_commands import shipped_recipes
from stages.methods import METHODS
from stages.methods.settings import learning_from
from stages.methods.settings.base import LabellingSettings
from stages.pipeline.recipe import Recipe, declared_parameters, read_recipe
from stages.pipeline.recipe_file import recipe_values

GIVEN = {"data": "devkit", "weights": "net.pth", "lists": "lists", "labelled": "list.txt", "clip": "ViT-B-16.pt"}
GIVEN |= {"images": "photos"}


def profiles_of(path: Path) -> list[str]:
    return list(recipe_values(path).get("profiles") or {})


CASES = [(name, profile) for name, path in shipped_recipes().items() for profile in (None, *profiles_of(path))]


def settings(path: Path, profile: str | None) -> list[str]:
    """A value for every parameter that the recipe and the profile require."""
    raw = recipe_values(path)
    declared = dict(raw.get("parameters") or {})
    if profile is not None:
        declared |= raw["profiles"][profile].get("parameters") or {}
    required = [key for key, value in declared.items() if isinstance(value, dict) and value.get("required")]
    return [f"{key}={GIVEN[key]}" for key in required]


@pytest.mark.parametrize(("name", "profile"), CASES)
def test_a_shipped_recipe_resolves_in_each_profile(name: str, profile: str | None) -> None:
    path = shipped_recipes()[name]
    recipe = read_recipe(path, profile, settings(path, profile))
    assert recipe.name == path.stem
    assert recipe.description
    assert recipe.table is not None or name == "own"  # whose table follows from a plan


def test_the_recipes_of_the_project_are_there_with_their_profiles() -> None:
    found = {name: profiles_of(path) for name, path in shipped_recipes().items()}
    assert found.keys() >= {"demo", "table1", "dsrg-table2", "cps-voc", "league"}
    assert found.keys() >= {"self-training", "dmt", "voc-classic", "voc-blended", "cityscapes"}
    for name in ("table1", "dsrg-table2", "cps-voc"):
        assert set(found[name]) == {"shapes", "small", "paper"}


@pytest.mark.parametrize("name", ["table1", "dsrg-table2", "cps-voc"])
def test_the_paper_profile_lists_its_assumptions(name: str) -> None:
    assert len(read_recipe(shipped_recipes()[name], "paper", ["data=devkit"]).assumptions) >= 3


def test_table1_has_the_rows_of_the_paper_and_only_figures_whose_source_is_sure() -> None:
    table = read_recipe(shipped_recipes()["table1"]).table
    assert table is not None
    assert [row.label for row in table.rows] == ["strong only", "weak only", "mixed", "oversampled", "dual branch"]
    published = {row.label: row.published.value for row in table.rows if row.published}
    assert published == {"strong only": 68.9, "mixed": 62.8}


def test_the_rows_of_table1_differ_in_method_seed_and_labels_only() -> None:
    nodes = read_recipe(shipped_recipes()["table1"], "paper", ["data=devkit"]).nodes
    rows = [node.config.model_dump(exclude={"method", "seed"}) for name, node in nodes.items() if "train-" in name]
    assert len(rows) == 5
    assert all(row == rows[0] for row in rows)


def test_the_paper_profile_holds_the_papers_settings() -> None:
    config = read_recipe(shipped_recipes()["table1"], "paper", ["data=devkit"]).nodes["train-dual-s0"].config
    assert (config.crop_size, config.batch_size, config.iterations) == (328, 16, 20 * 1139)
    assert (config.optimizer.name, config.optimizer.weight_decay) == ("adam", 1e-4)
    assert config.optimizer.lr == 5e-6
    assert config.optimizer.lr * config.optimizer.new_lr_factor == pytest.approx(1e-4)
    assert (config.schedule.milestones, config.schedule.gamma) == ((0.6,), 0.1)  # 12 of 20 epochs
    assert (config.network.backbone, config.method.weak_weight) == ("vgg16", 1.0)


def test_the_league_leaves_out_what_its_lists_do_not_name() -> None:
    path = shipped_recipes()["league"]
    none = read_recipe(path, None, ["methods=[]", "self_training=[]", "st_plus_plus=[]", "labelled=[30]", "seeds=[0]"])
    assert {name.rpartition("-n30")[0] for name in none.nodes} == {
        "data",
        *(
            f"{stage}-{row}"
            for stage in ("train", "predict", "evaluate", "select", "predict-selected", "evaluate-selected")
            for row in ("supervised", "control")
        ),
    }
    assert none.table is not None
    assert [row.label for row in none.table.rows] == ["supervised", "control"]
    some = read_recipe(path, None, ["methods=[cps]", "st_plus_plus=[st-plus-plus]", "labelled=[30, 60]"])
    assert some.table is not None
    assert [row.label for row in some.table.rows] == ["supervised", "control", "cps", "self-training", "st-plus-plus"]
    last = some.table.rows[-1]
    assert last.nodes["60 labels"] == ["evaluate-st-plus-plus-n60-s0", "evaluate-st-plus-plus-n60-s1"]
    assert [run[0] for run in last.costs] == [f"train-supervised-n{n}-s{s}" for n in (30, 60) for s in (0, 1)]
    assert [run[-1] for run in last.costs] == [f"train-st-plus-plus-n{n}-s{s}" for n in (30, 60) for s in (0, 1)]
    assert some.table.plot is not None
    assert some.table.plot.points == {"30 labels": "30", "60 labels": "60"}


def test_the_league_selects_on_labels_that_are_set_aside() -> None:
    recipe = league("holdout=0.2", "labelled=[30]", "seeds=[0]")
    assert recipe.nodes["data-n30"].config.holdout == "0.2"
    assert recipe.nodes["select-cps-n30-s0"].config.splits == ()  # holdout where there is one
    assert recipe.nodes["predict-selected-cps-n30-s0"].inputs["segmenter"] == "select-cps-n30-s0"
    assert recipe.nodes["predict-selected-cps-n30-s0"].config == recipe.nodes["predict-cps-n30-s0"].config
    assert recipe.table is not None
    assert recipe.table.rows[0].nodes["30 labels, selected"] == ["evaluate-selected-supervised-n30-s0"]


def test_cps_is_given_as_many_iterations_as_its_baseline() -> None:
    nodes = read_recipe(shipped_recipes()["cps-voc"], "paper", ["data=devkit"]).nodes
    assert {node.config.iterations for name, node in nodes.items() if name.startswith("train-")} == {39338}
    assert nodes["train-cps-s0"].config.method.weight == 1.5
    assert nodes["train-cutmix-s0"].config.method.weight == 1.0


# --- the league ---


def league(*settings: str) -> Recipe:
    return read_recipe(shipped_recipes()["league"], None, ["methods=[cps,fixmatch]", *settings])


def test_all_rows_of_the_league_differ_in_method_batch_and_labels_alone() -> None:
    nodes = league("seeds=[0]", "labelled=[30]", "st_plus_plus=[st-plus-plus]").nodes
    configs = [node.config.model_dump() for name, node in nodes.items() if name.startswith("train-")]
    assert len(configs) == 6
    assert {config["batch_size"] for config in configs} == {8, 16}
    same = [{key: value for key, value in config.items() if key not in ("method", "batch_size")} for config in configs]
    assert all(config == same[0] for config in same)
    assert [config["method"]["name"] for config in configs if config["batch_size"] == 8] == ["supervised"]


def test_the_league_has_a_baseline_and_a_control_whatever_is_chosen() -> None:
    recipe = league("methods=[]", "self_training=[]", "labelled=[30]", "seeds=[0]")
    assert recipe.table is not None
    assert [row.label for row in recipe.table.rows] == ["supervised", "control"]
    control = recipe.nodes["train-control-n30-s0"].config.model_dump()
    assert control["method"]["weight"] == 0


def test_more_methods_counts_and_seeds_leave_what_was_made_fresh() -> None:
    few, many = league("labelled=[30]", "seeds=[0]"), league("methods=[cps,fixmatch,unimatch]", "seeds=[0,1,2]")
    for name, node in few.nodes.items():
        assert many.nodes[name].config == node.config
        assert many.nodes[name].inputs == node.inputs


def test_the_lists_of_labels_do_not_depend_on_the_seed_of_the_training() -> None:
    nodes = league("labelled=[30]", "seeds=[0,1]").nodes
    assert {nodes[f"train-cps-n30-s{seed}"].inputs["data"] for seed in (0, 1)} == {"data-n30"}


def test_every_method_of_a_training_can_be_in_a_league() -> None:
    online = learning_from(["masks", "images"])
    nodes = league(f"methods=[{','.join(online)}]").nodes
    assert all(f"train-{name}-n30-s0" in nodes for name in online)
    parameters = {parameter.name: parameter for parameter in declared_parameters(shipped_recipes()["league"])}
    assert set(parameters["methods"].choices) == set(online)


def test_a_league_has_further_rows_of_what_respects_image_labels() -> None:
    recipe = league("image_labels=[share,exclude]", "labelled=[30]", "seeds=[0]")
    assert recipe.table is not None
    assert [row.label for row in recipe.table.rows if "," in row.label] == [
        f"{row}, {known}" for row in ("cps", "fixmatch", "self-training") for known in ("share", "exclude")
    ]
    nodes = recipe.nodes
    for known in ("share", "exclude"):
        for method in ("cps", "fixmatch"):
            plain, row = nodes[f"train-{method}-n30-s0"].config, nodes[f"train-{method}-{known}-n30-s0"].config
            assert (plain.method.image_labels, row.method.image_labels) == ("ignore", known)
            assert row.model_copy(update={"method": plain.method}) == plain
        teacher, student = nodes[f"pseudo-self-training-{known}-n30-s0"], nodes[f"train-self-training-{known}-n30-s0"]
        assert (teacher.config.image_labels, student.inputs["weak_labels"]) == (known, teacher.name)
        assert student.config == nodes["train-self-training-n30-s0"].config
    assert nodes["pseudo-self-training-n30-s0"].config.image_labels == "ignore"
    (costs,) = recipe.table.rows[-1].costs
    assert costs == [
        f"{name}-n30-s0" for name in ("train-supervised", *(f"{n}-self-training-exclude" for n in ("pseudo", "train")))
    ]


def league_mistakes(*settings: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_recipe(shipped_recipes()["league"], None, settings)
    return [line.strip() for line in caught.value.message.splitlines()[1:]]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("methods=[fixmach]", "--set methods: 'fixmach' is not one of advsemseg, cct, "),
        ("methods=mlmt", "--set methods: 'mlmt' is not one of advsemseg, cct, cpc, cps, cutmix-seg, "),
        ("methods=cps,dmt", "--set methods: 'dmt' cannot be given here: dmt trains in rounds: semiseg run dmt"),
        ("methods=[self-training]", "--set methods: 'self-training' cannot be given here: the parameter self_training"),
        ("st_plus_plus=[cps]", "--set st_plus_plus: 'cps' is not one of st-plus-plus"),
        ("iterations=ten", "--set iterations: expected a valid integer"),
        (
            "batch_size=15",
            "--set batch_size: expected a multiple of 2, as the recipe uses ${batch_size / 2} (found 15)",
        ),
        ("labelled_batch=4", "--set labelled_batch=4: no parameter 'labelled_batch'"),
        ("snapshots=1", "--set snapshots: expected at least 2, as the stage select chooses among them (found 1)"),
        ("train-cps-*.snapshots=1", "--set train-cps-*.snapshots: expected at least 2, as the stage select chooses"),
        ("seeds=[]", "--set seeds: expected at least one value: without any, there is nothing to make"),
        ("labelled=[]", "--set labelled: expected at least one value: without any, there is nothing to make"),
        ("labelled=1/8", "--set labelled: '1/8' cannot be in a node's name (letters, digits, '-' and '_')"),
    ],
)
def test_what_cannot_be_a_league_is_one_mistake_by_what_was_given(setting: str, expected: str) -> None:
    (line,) = league_mistakes(setting)
    assert line.startswith(expected)


def test_a_single_method_seed_and_count_are_lists_of_one() -> None:
    nodes = read_recipe(shipped_recipes()["league"], None, ["methods=fixmatch", "seeds=3", "labelled=60"]).nodes
    assert [name for name in nodes if name.startswith("train-")] == [
        f"train-{row}-n60-s3" for row in ("supervised", "control", "fixmatch", "self-training")
    ]


@pytest.mark.parametrize("size", [2, 4, 16, 30])
def test_the_baseline_has_the_labelled_half_of_every_batch(size: int) -> None:
    nodes = league(f"batch_size={size}", "labelled=30", "seeds=0").nodes
    sizes = {name: node.config.batch_size for name, node in nodes.items() if name.startswith("train-")}
    assert sizes.pop("train-supervised-n30-s0") == size // 2
    assert set(sizes.values()) == {size}


def test_the_league_checks_its_control() -> None:
    for profile, given in ((None, []), ("small", ["data=d", "weights=w"]), ("voc", ["data=d"])):
        table = read_recipe(shipped_recipes()["league"], profile, given).table
        assert table is not None
        assert table.equal == ["supervised", "control"]


def test_every_method_of_a_league_ignores_image_labels_unless_it_is_asked_to_respect_them() -> None:
    """The recipe lists the methods that have the setting: one that is added must be added there, too."""
    labelling = [name for name, settings in METHODS.items() if issubclass(settings, LabellingSettings)]
    nodes = league(f"methods=[{','.join(labelling)}]", "labelled=[30]", "seeds=[0]").nodes
    found = {name: nodes[f"train-{name}-n30-s0"].config.method.image_labels for name in labelling}
    assert found == dict.fromkeys(labelling, "ignore")
