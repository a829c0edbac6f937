"""The recipe conta-voc: the settings of the public code, and which round sees which predictions."""

from __future__ import annotations

import pytest

from artifacts.errors import ConfigError
from semiseg_cli.recipe_commands import shipped_recipes
from stages.pipeline.recipe import Recipe, read_recipe

VOC = 10_582  # images of VOC's train set with SBD


def recipe(name: str, profile: str | None = None, *settings: str) -> Recipe:
    return read_recipe(shipped_recipes()[name], profile, settings)


def test_conta_has_the_settings_of_its_code():
    """pseudo_mask/run_sample.py and segmentation/configs/voc12.yaml of ZHANGDONG-NJUST/CONTA."""
    nodes = recipe("conta-voc", "paper", "data=devkit").nodes
    for made in (1, 2, 3):
        classifier, refiner, refine = (nodes[f"{name}-{made}"].config for name in ("classifier", "refiner", "masks"))
        assert (classifier.iterations, classifier.batch_size) == (VOC // 16 * 5, 16)
        assert (refiner.iterations, refiner.batch_size) == (VOC // 32 * 3, 32)
        for config, head in ((classifier, 1.0), (refiner, 0.1)):
            optimizer = config.optimizer
            assert (optimizer.name, optimizer.momentum, optimizer.weight_decay) == ("sgd", 0, 1e-4)
            assert optimizer.lr * optimizer.new_lr_factor == pytest.approx(head)
            assert (config.crop_size, config.network.backbone) == (512, "resnet50")
        assert classifier.network.freeze_stages == 3  # resnet50_cam.py: conv1, layer1, and no gradient behind layer2
        assert (refiner.method.radius, refiner.method.foreground, refiner.method.background) == (10, 0.30, 0.05)
        assert (refine.method.radius, refine.method.beta, refine.method.doublings) == (5, 10, 8)
        segmenter = nodes[f"segmenter-{made}"].config.training
        assert (segmenter.crop_size, segmenter.augmentation.scales) == (321, (0.5, 0.75, 1.0, 1.25, 1.5))
        optimizer = segmenter.optimizer
        assert (optimizer.lr, optimizer.new_lr_factor, optimizer.bias_lr_factor) == (2.5e-4, 10, 2)
        assert (optimizer.momentum, optimizer.weight_decay, optimizer.decay_biases) == (0.9, 5e-4, False)
        assert (segmenter.schedule.name, segmenter.schedule.power) == ("poly", 0.9)
        assert (segmenter.iterations, segmenter.batch_size) == (20_000, 5 * 2)
        assert (segmenter.network.backbone, segmenter.network.head) == ("resnet101", "aspp")
        assert nodes[f"segmenter-{made}"].config.splits == ("train", "weak")
    assert nodes["classifier-2"].config.method.side * 16 == nodes["classifier-2"].config.crop_size


@pytest.mark.parametrize("profile", [None, "small", "paper"])
def test_each_round_of_conta_sees_the_predictions_of_the_one_before(profile: str | None) -> None:
    made = recipe("conta-voc", profile, *(["data=devkit", "weights=none"] if profile else []))
    methods = {name: node.config.method.name for name, node in made.nodes.items() if name.startswith("classifier")}
    assert methods == {"classifier-1": "cam", "classifier-2": "conta", "classifier-3": "conta"}
    for number in (1, 2, 3):
        inputs = {name: made.nodes[f"{name}-{number}"].inputs for name in ("classifier", "seeds", "segmenter")}
        before = None if number == 1 else f"predictions-{number - 1}"
        assert inputs["classifier"].get("predictions") == inputs["seeds"].get("predictions") == before
        assert inputs["segmenter"] == {"data": "data", "weak_labels": f"masks-{number}"}
        assert {"train", "weak"} <= set(made.nodes[f"predictions-{number}"].config.splits)
    assert made.table is not None
    assert [row.label for row in made.table.rows] == ["round 1", "round 2", "round 3"]


def test_a_round_without_the_one_before_is_one_mistake() -> None:
    with pytest.raises(ConfigError, match=r"1 mistake\n  --set rounds: .* no 2: --set rounds=\[1,2,3\]$"):
        recipe("conta-voc", None, "rounds=[1,3]")


def test_the_weak_league_says_where_conta_is_compared() -> None:
    with pytest.raises(
        ConfigError, match=r"'conta' cannot be given here: its first round is cam.*semiseg run conta-voc"
    ):
        recipe("weak-league", None, "classifiers=[cam,conta]")
