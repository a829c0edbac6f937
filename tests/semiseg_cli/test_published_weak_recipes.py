"""The recipes of weakly-supervised papers: whole chains, with the settings of the public code they come from.

All files named in comments are of these repositories: psa and irn (jiwoon-ahn), SEAM and semantic-segmentation-codebase
(YudeWang), PuzzleCAM (shjo-april), DRS (qjadud1994), ICD (js-fan), Group-WSSS (Lixy1997), WSGCN (Xavier-Pan), CLIP-ES
(linyq2117), WeCLIP (zbf1991), deeplab-imagenet-pytorch (johnnylu305). The trap of released code here is a momentum that
is none: PolyOptimizer passes its weight decay on in the place of the momentum, and takes the argument called momentum
for the power of the schedule.
"""

from __future__ import annotations

from typing import Any

import pytest

from artifacts.yaml_files import read_yaml
from semiseg_cli.recipe_commands import shipped_recipes
from stages.methods.settings import METHODS
from stages.pipeline.recipe import Node, Recipe, read_recipe
from stages.pipeline.recipe_file import recipe_values
from stages.refiners.settings import REFINERS
from stages.report.how_made import steps_of_trainings

VOC = 10_582  # images of VOC's train set with SBD
RECIPES = [name for name, path in shipped_recipes().items() if "extends" in read_yaml(path)]
TRAININGS = ("train-classifier", "train-refiner", "train", "retrain")

PUBLISHED = {
    ("psa-voc", "maps"): 47.7,
    ("psa-voc", "refined"): 61.0,
    ("seam-voc", "segmenter + CRF"): 64.5,
    ("irn-voc", "segmenter + CRF"): 63.5,
    ("wsgcn-voc", "refined"): 66.7,
    ("wsgcn-voc", "masks"): 68.0,
    ("wsgcn-voc", "segmenter + CRF"): 66.7,
    ("puzzle-voc", "segmenter + CRF"): 66.9,
    ("drs-voc", "segmenter"): 70.4,
    ("drs-voc", "segmenter + CRF"): 71.0,
    ("icd-voc", "segmenter + CRF"): 64.1,
    ("group-voc", "segmenter + CRF"): 68.2,
    ("liid-voc", "segmenter + CRF"): 66.5,
    ("clip-es-voc", "maps"): 70.8,
    ("clip-es-voc", "masks"): 75.0,
    ("clip-es-voc", "segmenter + CRF"): 71.1,
}


def paper(name: str) -> Recipe:
    """The recipe in its profile `paper`, with whatever must be given."""
    path = shipped_recipes()[name]
    values = recipe_values(path)
    known = values["parameters"] | values["profiles"]["paper"]["parameters"]
    required = [key for key, value in known.items() if value and value.get("required")]
    return read_recipe(path, "paper", [f"{key}={key}" for key in required])


def of_stage(recipe: Recipe, *stages: str) -> dict[str, Node]:
    return {name: node for name, node in recipe.nodes.items() if node.stage.name in stages}


def training(node: Node) -> Any:
    """The config of a training; that of `retrain` is part of its config."""
    return getattr(node.config, "training", node.config)


def uses_masks(recipe: Recipe) -> bool:
    """Whether the recipe is of a method that learns from masks, by its card; CLIP-ES trains nothing and has none."""
    if recipe.name == "clip-es-voc":
        return False
    cards = [settings.card for settings in {**METHODS, **REFINERS}.values() if settings.card.recipe == recipe.name]
    assert cards, f"no card names the recipe {recipe.name}"
    assert {card.profile for card in cards} == {"paper"}
    return any("masks" in card.uses for card in cards)


@pytest.mark.parametrize("name", RECIPES)
def test_a_paper_is_a_whole_chain_from_image_labels_to_a_scored_segmenter(name: str) -> None:
    recipe = paper(name)
    assert recipe.assumptions
    assert recipe.table is not None
    scored = {node for row in recipe.table.rows for nodes in row.nodes.values() for node in nodes}
    assert scored == set(of_stage(recipe, "evaluate"))  # every figure is shown
    assert set(steps_of_trainings(recipe.nodes)) == set(of_stage(recipe, *TRAININGS))  # what --dry-run counts
    data = recipe.nodes["data"].config.dataset
    assert (data.name, data.source) == ("voc-aug", "data")
    for read, splits in (("maps", ("weak",) if uses_masks(recipe) else ("train",)), ("predictions-crf", ("val",))):
        (node,) = [n for n in of_stage(recipe, "evaluate").values() if read in n.inputs.values()]
        assert node.config.splits == splits


@pytest.mark.parametrize("name", RECIPES)
def test_nothing_of_the_embedded_data_set_is_left_in_the_profile_of_a_paper(name: str) -> None:
    recipe = paper(name)
    for node in of_stage(recipe, *TRAININGS).values():
        config = training(node)
        assert config.network.backbone != "tiny"
        assert config.optimizer.name != "adamw"
        assert config.optimizer.lr not in (2e-3, 4e-3)
        assert config.crop_size > 96
        assert config.augmentation.mode == "resize" or config.augmentation.scales or config.augmentation.scale[0] < 1.1
        assert "initial" not in node.inputs  # published weights
    crfs = [getattr(node.config.method, "crf", None) for node in of_stage(recipe, "train-refiner", "refine").values()]
    for crf in [crf for crf in crfs if crf] + [node.config for node in of_stage(recipe, "crf").values()]:
        assert crf.scale == 1


@pytest.mark.parametrize("name", RECIPES)
def test_true_masks_train_nothing_unless_the_method_says_so(name: str) -> None:
    recipe = paper(name)
    if uses_masks(recipe):
        return
    for node in of_stage(recipe, "retrain").values():
        assert (node.config.labels, node.config.splits) == ("estimated", ("train", "weak"))
    for node in of_stage(recipe, "train").values():
        assert "masks" not in METHODS[node.config.method.name].card.uses


@pytest.mark.parametrize(
    ("name", "node", "epochs", "batch", "side", "lr", "new_lr", "momentum", "decay"),
    [
        # README, train_cls.py, train_aff.py
        ("psa-voc", "classifier", 15, 16, 448, 0.1, 1.0, 0, 5e-4),
        ("psa-voc", "refiner", 8, 8, 448, 0.1, 1.0, 0, 5e-4),
        # train_SEAM.py, train_aff.py
        ("seam-voc", "classifier", 8, 8, 448, 0.01, 0.1, 0, 5e-4),
        ("seam-voc", "refiner", 8, 8, 448, 0.01, 0.1, 0, 5e-4),
        # run_sample.py; run_sample_for_gcn.py is the same
        ("irn-voc", "classifier", 5, 16, 512, 0.1, 1.0, 0, 1e-4),
        ("irn-voc", "refiner", 3, 32, 512, 0.1, 0.1, 0, 1e-4),
        ("wsgcn-voc", "classifier", 5, 16, 512, 0.1, 1.0, 0, 1e-4),
        ("wsgcn-voc", "refiner", 3, 32, 512, 0.1, 0.1, 0, 1e-4),
        # train_classification_with_puzzle.py, train_affinitynet.py, train_segmentation.py
        ("puzzle-voc", "classifier", 15, 32, 512, 0.1, 1.0, 0, 1e-4),
        ("puzzle-voc", "refiner", 3, 32, 512, 0.1, 0.1, 0, 1e-4),
        ("puzzle-voc", "segmenter", 50, 32, 512, 0.007, 0.07, 0, 4e-5),
        # train_cls.py: 5 images on each of 2 GPUs, Nesterov's momentum of torch's own SGD
        ("drs-voc", "classifier", 15, 10, 320, 1e-3, 1e-2, 0.9, 5e-4),
        # train.py of Group-WSSS: one group of three images, the rest as in DRS
        ("group-voc", "classifier", 15, 1, 256, 1e-3, 1e-2, 0.9, 5e-4),
        # run_icd.py, MXNet's own SGD
        ("icd-voc", "classifier", 20, 32, 321, 1e-3, 1e-2, 0.9, 5e-4),
    ],
)
def test_a_training_has_the_settings_of_the_code(
    name: str,
    node: str,
    epochs: int,
    batch: int,
    side: int,
    lr: float,
    new_lr: float,
    momentum: float,
    decay: float,
) -> None:
    config = training(paper(name).nodes[node])
    optimizer = config.optimizer
    assert config.iterations == pytest.approx(epochs * (VOC // batch), rel=1e-3)
    assert (config.batch_size, config.crop_size) == (batch, side)
    assert (optimizer.name, optimizer.momentum, optimizer.weight_decay) == ("sgd", momentum, decay)
    assert (optimizer.lr, optimizer.lr * optimizer.new_lr_factor) == pytest.approx((lr, new_lr))
    # two groups, both with decay, in irn and in the boundary network of PuzzleCAM, all with decay in DRS, Group-WSSS;
    # else four groups, biases at twice the rate and without decay (ICD: at the same rate)
    plain = name in ("irn-voc", "wsgcn-voc") or (name, node) == ("puzzle-voc", "refiner")
    assert optimizer.bias_lr_factor == (1 if plain or name == "icd-voc" else 2)
    of_drs = name in ("drs-voc", "group-voc")
    assert optimizer.decay_biases == (plain or of_drs)
    assert of_drs or (config.schedule.name, config.schedule.power) == ("poly", 0.9)


@pytest.mark.parametrize(
    ("name", "steps", "batch", "side", "lr", "new_lr", "scales", "flip"),
    [
        # seamv1-pseudovoc/config.py: TRAIN_*, DATA_RANDOMCROP, TEST_MULTISCALE
        ("seam-voc", 20_000, 10, 448, 1e-3, 1e-2, (0.5, 0.75, 1.0, 1.25, 1.5, 1.75), True),
        # DeepLabV3Plus-Pytorch/run.sh, main.py
        ("drs-voc", 20_000, 32, 513, 5e-3, 5e-2, (1.0,), False),
        # DeepLab-V2-PyTorch/configs/voc12.yaml: batch of 5, twice before a step
        ("icd-voc", 20_000, 10, 321, 2.5e-4, 2.5e-3, (0.5, 0.75, 1.0), False),
        # configs/voc12ImageNet.yaml of deeplab-imagenet-pytorch
        ("wsgcn-voc", 90_000, 26, 381, 1e-3, 1e-3, (0.5, 0.75, 1.0), False),
    ],
)
def test_a_segmenter_has_the_settings_of_its_code(
    name: str, steps: int, batch: int, side: int, lr: float, new_lr: float, scales: tuple[float, ...], flip: bool
) -> None:
    nodes = paper(name).nodes
    config, inference = training(nodes["segmenter"]), nodes["predictions"].config
    assert (config.iterations, config.batch_size, config.crop_size) == (steps, batch, side)
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.momentum) == ("sgd", 0.9)
    assert (optimizer.lr, optimizer.lr * optimizer.new_lr_factor) == pytest.approx((lr, new_lr))
    assert optimizer.weight_decay == (1e-4 if name == "drs-voc" else 5e-4)
    assert (inference.scales, inference.flip) == (scales, flip)


def test_psa_and_seam_differ_as_their_code_does() -> None:
    psa, seam = paper("psa-voc").nodes, paper("seam-voc").nodes
    # infer_cls.py, infer_aff.py of psa: 4, 32; 16, 8, 8. infer_SEAM.py, infer_aff.py of SEAM: 4, 24; 6, 8, 6
    for nodes, high, alpha, doublings in ((psa, 32, 16, 8), (seam, 24, 6, 6)):
        refiner, walk = nodes["refiner"].config.method, nodes["refined"].config.method
        assert (refiner.low_alpha, refiner.high_alpha, refiner.radius) == (4, high, 5)
        assert (walk.alpha, walk.beta, walk.doublings, walk.radius) == (alpha, 8, doublings, 5)
        for node in ("classifier", "refiner"):
            network = nodes[node].config.network
            assert (network.backbone, network.freeze_stages, network.freeze_batch_norm) == ("resnet38", 1, True)
        assert nodes["refiner"].config.augmentation.scale == (1, 1)
        assert nodes["maps"].config.cam.scales == (0.5, 1.0, 1.5, 2.0)
    assert psa["classifier"].config.augmentation.scale == (256 / 500, 512 / 500)
    assert seam["classifier"].config.augmentation.scale == (448 / 500, 768 / 500)
    assert seam["segmenter"].inputs["weak_labels"] == "refined"
    assert "masks" not in seam


def test_irn_and_wsgcn_share_the_networks_of_irnets_code() -> None:
    for nodes in (paper("irn-voc").nodes, paper("wsgcn-voc").nodes):
        classifier, refiner = nodes["classifier"].config, nodes["refiner"].config
        assert (classifier.network.backbone, refiner.network.backbone) == ("resnet50", "resnet50")
        assert classifier.network.freeze_stages == 3  # resnet50_cam.py: conv1, layer1, and no gradient behind layer2
        assert (refiner.method.radius, refiner.method.foreground, refiner.method.background) == (10, 0.30, 0.05)
        assert refiner.augmentation.scale == (0.5, 1.5)
    walk = paper("irn-voc").nodes["refined"].config.method
    assert (walk.radius, walk.beta, walk.doublings, walk.background) == (5, 10, 8, 0.25)
    graph, crf = (paper("wsgcn-voc").nodes[name].config for name in ("refined", "masks"))
    assert (graph.method.doublings, graph.method.steps, graph.method.crf.gaussian_sxy) == (8, 250, 4)
    assert (crf.parameters, crf.background_score) == ("wsgcn", 0.5)


def test_puzzle_cam_has_the_settings_of_its_readme() -> None:
    nodes = paper("puzzle-voc").nodes
    method = nodes["classifier"].config.method
    assert (method.weight, method.ramp, method.tiles) == (4, 0.5, 2)
    labels, walk, crf = (nodes[name].config for name in ("refiner", "refined", "masks"))
    assert (labels.method.foreground, labels.method.background, labels.method.radius) == (0.40, 0.10, 10)
    assert (walk.method.beta, walk.method.doublings) == (10, 8)
    assert walk.method.background == crf.background_score == 0.35
    assert crf.resolve().iterations == 1
    network = training(nodes["segmenter"]).network
    assert (network.backbone, network.head, network.head_norm) == ("timm:resnest101e", "deeplabv3plus", "group")
    assert (network.output_stride, network.freeze_batch_norm, network.dropout) == (16, True, 0.5)
    inference = nodes["predictions"].config
    assert (inference.scales, inference.flip, inference.merge) == ((0.5, 1, 1.5, 2), True, "logits-sum")


def test_drs_makes_its_masks_of_regressed_maps_and_saliency() -> None:
    nodes = paper("drs-voc").nodes
    refiner, masks = nodes["refiner"].config, nodes["masks"]
    assert (refiner.optimizer.name, refiner.optimizer.lr, refiner.augmentation.mode) == ("adam", 1e-4, "resize")
    assert refiner.iterations == pytest.approx(30 * VOC / 10, rel=1e-3)
    for node in ("classifier", "refiner"):
        schedule = nodes[node].config.schedule
        assert schedule.milestones == pytest.approx((1 / 3, 2 / 3), abs=1e-4)
    assert nodes["classifier"].config.optimizer.nesterov
    assert nodes["classifier"].config.method.delta is None  # run.sh: --delta=0, which means learned
    labels = masks.config.labels
    assert masks.inputs["maps"] == "refined"
    assert (labels.mode, labels.score, labels.threshold, labels.sure, labels.most_sure) == (
        "saliency",
        "binary",
        0.2,
        0.9,
        2,
    )
    assert (labels.attended, labels.least, labels.background.threshold) == (1, 0, 0.198)


def test_group_wsss_joins_maps_of_each_epoch_and_leaves_unknown_what_sources_disagree_on() -> None:
    nodes = paper("group-voc").nodes
    classifier, maps, labels = (nodes[node].config for node in ("classifier", "maps", "masks"))
    assert (classifier.snapshots, classifier.optimizer.nesterov, classifier.augmentation.flip) == (15, True, False)
    assert classifier.schedule.milestones == pytest.approx((1 / 3, 2 / 3), abs=1e-4)
    method = classifier.method  # models/vgg_gnn.py, train.py
    assert (method.group, method.rounds, method.weight, method.drop_rate, method.drop_threshold) == (
        3,
        3,
        0.4,
        0.8,
        0.7,
    )
    assert (maps.cam.snapshots, maps.cam.flip) == ("all", False)
    labels = labels.labels  # gen_labels.py
    assert (labels.mode, labels.score, labels.sure, labels.most_sure) == ("saliency", "graded", 0.9, 1)
    assert (labels.attended, labels.least, labels.background.threshold) == (0.8, 0.01, 32 / 256)


def test_icd_takes_whatever_scores_above_zero() -> None:
    nodes = paper("icd-voc").nodes
    assert nodes["maps"].config.labels.background.score == 0
    assert (nodes["maps"].config.cam.scales, nodes["maps"].config.cam.flip) == ((1,), False)
    assert nodes["masks"].config.resolve().label_confidence == 0.5
    assert nodes["classifier"].config.augmentation.scales == (0.5, 0.75, 1, 1.25, 1.5)


def test_clip_es_has_the_numbers_of_its_code() -> None:
    """generate_cams_voc12.py, clip_text.py, eval_cam_with_crf.py"""
    nodes = paper("clip-es-voc").nodes
    maps, masks, sure = (nodes[node].config for node in ("maps", "masks", "sure-masks"))
    source = maps.source
    assert (source.texts, source.templates, len(source.background)) == ("voc", ("a clean origami {}.",), 25)
    assert (source.attention_blocks, source.box_threshold, source.rounds, source.power) == (8, 0.4, 3, 2)
    assert (maps.labels.background.alpha, masks.background_alpha, sure.background_alpha) == (1, 1, 1)
    assert (masks.min_confidence, sure.min_confidence) == (0, 0.95)
    for crf in (masks.resolve(), sure.resolve()):
        assert (crf.gaussian_sxy, crf.gaussian_compat, crf.iterations, crf.unary) == (1, 3, 10, "log")
        assert (crf.bilateral_sxy, crf.bilateral_srgb, crf.bilateral_compat) == (67, 3, 4)
    assert nodes["segmenter"].inputs["weak_labels"] == "sure-masks"


def test_weclip_has_the_numbers_of_its_code() -> None:
    """configs/voc_attn_reg.yaml, model_attn_aff_voc.py, clip_tool.py, dist_clip_voc.py, test_msc_flip_voc.py"""
    recipe = paper("weclip-voc")
    training, predictions, crf = (recipe.nodes[node].config for node in ("segmenter", "predictions", "predictions-crf"))
    method, optimizer, schedule = training.method, training.optimizer, training.schedule
    assert recipe.nodes["segmenter"].inputs == {"data": "data"}  # one stage
    assert (method.clip.texts, method.clip.templates) == ("voc", ("a clean origami {}.",))
    assert len(method.clip.background) == 25
    clip = method.clip
    assert (clip.attention_blocks, clip.box_threshold, clip.rounds, clip.power) == (8, 0.4, 3, 2)
    assert (method.own_affinity_blocks, method.own_affinity_from * training.iterations) == (6, 15_000)
    assert (method.iterations, method.dilations, method.radius) == (20, (1, 2, 4, 8, 12, 24), 8)
    assert method.affinity_weight == 0.1
    assert method.decoder.model_dump() == {"channels": 256, "layers": 3, "heads": 8, "dropout": 0.1}
    # PolyWarmupAdamW: the decoder at ten times the rate, weight decay on everything
    assert (optimizer.name, optimizer.lr * optimizer.new_lr_factor, optimizer.bias_lr_factor) == ("adamw", 2e-3, 1)
    assert (optimizer.betas, optimizer.weight_decay, optimizer.decay_biases) == ((0.9, 0.999), 0.01, True)
    assert (schedule.name, schedule.power, schedule.warmup) == ("poly", 1, 50)
    assert (training.iterations, training.batch_size, training.crop_size) == (30_000, 4, 320)
    augmentation = training.augmentation
    assert (augmentation.scale, augmentation.flip, augmentation.brightness) == ((0.5, 2.0), True, 0)
    assert (predictions.scales, predictions.flip, predictions.merge) == ((1, 0.75), True, "logits")
    resolved = crf.resolve()
    assert (resolved.iterations, resolved.gaussian_sxy, resolved.gaussian_compat, resolved.unary) == (10, 3, 3, "log")
    assert (resolved.bilateral_sxy, resolved.bilateral_srgb, resolved.bilateral_compat) == (64, 5, 4)


def test_published_figures_are_those_whose_source_is_sure() -> None:
    """For FickleNet, label noise and WeCLIP none is."""
    checked = {*(name for name, _ in PUBLISHED), "ficklenet-voc", "label-noise-voc", "weclip-voc"}
    tables = {name: paper(name).table for name in checked}
    rows = [(name, row) for name, table in tables.items() if table for row in table.rows]
    assert {(name, row.label): row.published.value for name, row in rows if row.published} == PUBLISHED
