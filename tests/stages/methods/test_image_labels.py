"""`image_labels` of all methods whose networks label images: what holds for each, and losses made by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from artifacts.dataset import Dataset
from artifacts.store import Workspace
from stages.engine.method import Sources, segment
from stages.methods import METHODS, load_method
from stages.methods.parts.cutmix import draw_boxes, mix_batches
from stages.methods.parts.strong_weak import PseudoLabels, strong_mix
from stages.methods.parts.views import strong_view
from stages.methods.settings import TrainConfig
from stages.methods.settings.base import LabellingSettings
from stages.methods.training import use_of_image_labels
from stages.pipeline.run_stage import run_stage
from stages.train import STAGE
from tests.stages.drawn_training import CASES, SPLITS, StopAt, publish_dataset

LABELLING = [
    variant
    for variant, settings in CASES.items()
    if issubclass(METHODS[settings["name"]], LabellingSettings) and settings["image_labels"] == "share"
]
# Terms that have nothing to do with labels of a network.
OTHERS = ("supervised", "discriminator", "adversarial", "feature_matching", "grad_cam", "tags", "flaw")
ABSENT, SHOWN = 3, 1


def made_with(case, variant, tags, **changes):
    """A case whose images have these image-level labels: a row of tags for all of them."""
    settings = {**CASES[variant], **changes}
    made = case(settings.pop("name"), **settings)
    for stream, batch in made.batch.items():
        made.batch[stream] = batch.replace(tags=torch.tensor(tags).expand(len(batch), -1))
    return made


@pytest.mark.parametrize("variant", LABELLING)
@pytest.mark.parametrize("tags", [[1.0, 1.0, 1.0], [math.nan] * 3], ids=["all classes", "unknown"])
def test_labels_that_say_nothing_change_nothing(tags, variant, case):
    """Losses and gradients, to the bit."""
    plain = made_with(case, variant, tags, image_labels="ignore")
    shared = made_with(case, variant, tags, image_labels="share")
    assert {name: value.item() for name, value in shared.losses().items()} == {
        name: value.item() for name, value in plain.losses().items()
    }
    found, expected = shared.gradients(), plain.gradients()
    for name, gradient in expected.items():
        assert gradient is None or torch.equal(found[name], gradient), name


@pytest.mark.parametrize("variant", [variant for variant in LABELLING if variant != "cct"])  # no such biases
def test_an_absent_class_is_not_taught_but_the_shown_one_in_its_place(variant, case):
    """All networks take nearly everything for a class that no image shows: on the biases of the learning heads."""
    gradients = {}
    for how in ("ignore", "share"):
        made = made_with(case, variant, [float(label == SHOWN) for label in (1, 2, 3)], image_labels=how)
        with torch.no_grad():
            for parameter in made.method.networks.parameters():
                if parameter.shape == (4,):
                    parameter[ABSENT] += 4
        taught = [term for term in made.losses() if not term.startswith(OTHERS)]
        found = made.gradients(*taught)
        gradients[how] = sum(
            value for value in found.values() if value is not None and value.shape == (4,) and value.any()
        )
    assert gradients["share"][ABSENT] > 0 > gradients["share"][SHOWN]
    assert gradients["ignore"][ABSENT] < gradients["share"][ABSENT]
    assert gradients["ignore"][SHOWN] > gradients["share"][SHOWN]


# --- five losses, from probabilities that are shared one pixel's formula at a time

NAN = [math.nan] * 3
TAGS = {
    "strong": [[0.0, 0, 1], [1, 1, 0], [0, 0, 0]],
    "unlabelled": [[1.0, 0, 0], [0, 1, 1], NAN],
    "partner": [[0.0, 1, 0], NAN, [1, 0, 1]],
}


@pytest.fixture
def labelled_case(case):
    """A case with images of different labels, some without known ones, and networks that differ."""

    def build(name, **settings):
        made = case(name, batch_size=6, image_labels="share", **settings)
        for stream, batch in made.batch.items():
            made.batch[stream] = batch.replace(tags=torch.tensor(TAGS[stream]))
        random = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in made.method.networks["segmenter"].parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=random))
        return made

    return build


def shared(logits, tags):
    """P'(0) = P(0), P'(c) = (1 - P(0)) P(c) / sum of P over the labels."""
    probabilities = logits.detach().softmax(1)
    found = torch.zeros_like(probabilities)
    for number, row in enumerate(tags.tolist()):
        shown = [c for c in (1, 2, 3) if row[c - 1] == 1]
        one = probabilities[number]
        if math.isnan(row[0]):
            found[number] = one
        elif not shown:
            found[number, 0] = 1
        else:
            found[number, 0] = one[0]
            for c in shown:
                found[number, c] = (1 - one[0]) * one[c] / sum(one[label] for label in shown)
    return found


def of(made, stream, network="segmenter"):
    """The shared probabilities of a stream's images."""
    batch = made.batch[stream]
    return shared(segment(made.method.networks[network], batch), batch.tags)


def agree(found, expected):
    assert expected > 1e-5
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_fixmatch_by_hand(labelled_case):
    made = labelled_case("fixmatch", threshold=0.5, weight=0.4, mixing={"style": "french", "share": (0.4, 0.6)})
    settings, pair = made.method.settings, (made.batch["unlabelled"], made.batch["partner"])
    confidence, label = zip(*(of(made, stream).max(1) for stream in ("unlabelled", "partner")), strict=True)
    labels = [PseudoLabels(one, sure) for one, sure in zip(label, confidence, strict=True)]
    [(view, taught)] = strong_mix(pair, tuple(labels), settings.strong, settings.mixing, 0, 0)
    chosen = view.valid & (taught.confidence >= 0.5)
    assert 0.1 < chosen.float().mean() < 0.9
    pixels = F.cross_entropy(segment(made.method.student, view), taught.label, reduction="none")
    agree(made.losses()["strong"], 0.4 * pixels[chosen].sum() / view.valid.sum())


@pytest.mark.parametrize("cutmix", [True, False])
def test_cps_by_hand(cutmix, labelled_case):
    """Without CutMix the labelled images teach, too, by their own labels."""
    made = labelled_case("cps", cutmix=cutmix, weight=2.0)
    unlabelled = made.batch["unlabelled"]
    if cutmix:
        boxes = draw_boxes(made.method.settings.mixing, unlabelled, 0, 0)
        seen = [mix_batches(unlabelled, made.batch["partner"], boxes)]
    else:
        seen = [made.batch["strong"], unlabelled]
    valid = torch.cat([batch.valid for batch in seen])
    for number, own, other in (("1", "segmenter", "second"), ("2", "second", "segmenter")):
        if cutmix:
            label = torch.where(boxes, of(made, "partner", other).argmax(1), of(made, "unlabelled", other).argmax(1))
        else:
            label = torch.cat([of(made, stream, other).argmax(1) for stream in ("strong", "unlabelled")])
        logits = torch.cat([segment(made.method.networks[own], batch) for batch in seen])
        pixels = F.cross_entropy(logits, label, reduction="none")
        agree(made.losses()[f"cps_{number}"], 2 * pixels[valid].mean())


def test_mean_teacher_by_hand(labelled_case):
    made = labelled_case("mean-teacher", weight=3.0)
    total, count = 0.0, 0
    for stream in ("strong", "unlabelled"):
        batch = made.batch[stream]
        target = shared(segment(made.method.teacher, batch), batch.tags)
        error = (segment(made.method.student, batch).softmax(1) - target).square().mean(1)
        total, count = total + error[batch.valid].sum(), count + batch.valid.sum()
    agree(made.losses()["consistency"], 3 * total / count)


def test_cutmix_seg_by_hand(labelled_case):
    made = labelled_case("cutmix-seg", threshold=0.5)
    pair = made.batch["unlabelled"], made.batch["partner"]
    boxes = draw_boxes(made.method.settings.mixing, pair[0], 0, 0)
    first, second = (shared(segment(made.method.teacher, batch), batch.tags) for batch in pair)
    target, mixed = torch.where(boxes[:, None], second, first), mix_batches(*pair, boxes)
    error = (segment(made.method.student, mixed).softmax(1) - target).square().sum(1)
    sure = (target.amax(1) >= 0.5).float().mean()
    assert 0.1 < sure < 0.9
    agree(made.losses()["consistency"], sure * error[mixed.valid].mean())


@pytest.mark.parametrize("level", ["image", "feature"])
def test_vat_by_hand(level, labelled_case):
    """The direction is that of the network's own predictions; confidence counts after sharing."""
    made = labelled_case("vat", level=level, threshold=0.5, weight=2.0)
    method, batch = made.method, made.batch["unlabelled"]
    target = shared(segment(method.teacher, batch), batch.tags)
    changed = method._changed_images if level == "image" else method._changed_features
    error = (changed(batch, 0).softmax(1) - target).square().sum(1)
    sure = (target.amax(1) >= 0.5).float().mean()
    assert 0.1 < sure < 0.9
    agree(made.losses()["consistency"], 2 * sure * error[batch.valid].mean())


def test_pseudoseg_by_hand(labelled_case):
    """Both heads are shared, their mean is sharpened."""
    made = labelled_case("pseudoseg")
    method, batch = made.method, made.batch["unlabelled"]
    logits, coarse, _ = method._both(batch, None)
    scale = torch.cat([logits, coarse]).square().mean().sqrt()
    sharp = ((shared(logits / scale, batch.tags) + shared(coarse / scale, batch.tags)) / 2) ** 2
    strong = strong_view(batch, method.settings.strong, 0, 0)
    pixels = -(sharp / sharp.sum(1, keepdim=True) * segment(method.segmenter, strong).log_softmax(1)).sum(1)
    agree(made.losses()["pseudo"], pixels[strong.valid].mean())


# --- what is said


def test_logits_have_nothing_to_share():
    with pytest.raises(ValueError, match=r"image_labels share acts on probabilities.*image_labels=ignore"):
        METHODS["mean-teacher"](consistency="logits")


def said(tmp_path, unlabelled, **settings):
    """Of a data set in which the labels of these images are not known."""
    workspace, weak = Workspace(tmp_path / "runs"), sorted({*SPLITS["weak"]} - {*unlabelled})
    publish_dataset(workspace, splits=SPLITS | {"weak": weak, "unlabelled": unlabelled})
    dataset = Dataset(workspace.artifact("data"))
    method = TrainConfig.model_validate({"method": settings}).method
    sources = Sources(SPLITS["train"], weak, frozenset({"masks"}), dataset, unlabelled)
    return use_of_image_labels(method, load_method(method.name).streams(method, sources, 4), dataset)


SHARE = "pseudo labels share the foreground among the image-level labels of "
PUBLISHED = "; --set method.image_labels=ignore: as published"


@pytest.mark.parametrize(
    ("settings", "unlabelled", "expected"),
    [
        ({"name": "fixmatch"}, ["w1", "w4"], f"{SHARE}3 of 5 unlabelled images{PUBLISHED}"),
        ({"name": "cps", "cutmix": False}, ["w1"], f"{SHARE}10 of 11 images{PUBLISHED}"),
        ({"name": "gct"}, SPLITS["weak"], f"{SHARE}6 of 11 images{PUBLISHED}"),
        ({"name": "mean-teacher", "images": "unlabelled"}, [], f"{SHARE}5 of 5 unlabelled images{PUBLISHED}"),
        ({"name": "cps"}, SPLITS["weak"], ""),
        ({"name": "fixmatch", "image_labels": "ignore"}, [], ""),
        ({"name": "fixmatch", "weight": 0}, [], ""),
        ({"name": "supervised"}, [], ""),
    ],
)
def test_the_use_of_image_labels_is_described(settings, unlabelled, expected, tmp_path):
    assert said(tmp_path, unlabelled, **settings) == expected


def test_classes_that_are_left_out_are_described(tmp_path):
    text = said(tmp_path, [], name="unimatch", image_labels="exclude")
    assert text.startswith("pseudo labels leave out the classes that are not among the image-level labels of 5 of 5 un")


def test_a_training_says_once_that_it_shares(training, execution):
    progress = StopAt(None)
    config = training.config("fixmatch", iterations=1)
    doing = dataclasses.replace(execution, progress=progress)
    run_stage(STAGE, config, training.space, "shares", training.inputs(config), doing)
    assert [note for note in progress.notes if "image-level labels" in note] == [
        "pseudo labels share the foreground among the image-level labels of 5 of 5 unlabelled images; "
        "--set method.image_labels=ignore: as published"
    ]
