"""stages/refiners/liid.py: the loss by plain loops, images get the classes of their own proposals, files, bad input."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

from artifacts.dataset import Dataset
from artifacts.errors import ConfigError, DataError
from artifacts.score_maps import ScoreMap, ScoreMaps
from artifacts.store import Workspace
from stages.config import build
from stages.contract import PlainProgress
from stages.engine.known import Known
from stages.engine.method import Batch, Setup
from stages.localization.proposals import LAYERS, proposals_of, spread
from stages.networks import load_network, normalise
from stages.networks.config import ClassifierConfig
from stages.networks.proposal_classifier import build_proposal_classifier
from stages.refiners.first_pass import Decided, Surveys
from stages.refiners.liid import Liid, LiidTraining, boxed, log_sum_exp, means, members, targets
from stages.refiners.refiner import Means
from stages.refiners.settings import RefineConfig
from stages.refiners.settings.liid import LiidSettings, LiidTrainingSettings
from tests.stages.refiners.small_refinement import dataset_of, fill, run, training_of

CPU = torch.device("cpu")
TINY = ClassifierConfig.model_validate("tiny")


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    space = fill(Workspace(tmp_path_factory.mktemp("liid") / "runs"))
    run(space, "train-refiner", "refiner", training_of("liid"))
    return space


def batch_of(size: int = 48) -> Batch:
    """Two images; the second has a row of padding, and one of its three layers is empty."""
    rng = np.random.default_rng(0)
    layers = rng.integers(0, 3, (2, 3, size // 16, size // 16)) + np.array([0, 3, 6])[:, None, None]
    layers[0, 1, :2] = 255
    layers[1, 2] = 255
    layers = torch.from_numpy(layers.repeat(16, -1).repeat(16, -2))
    layers[1, :, -8:] = 255
    images = torch.from_numpy(rng.integers(0, 256, (2, 3, size, size)).astype(np.uint8))
    maps = torch.from_numpy(rng.random((2, 3, size // 8, size // 8)).astype(np.float32))
    return Batch(
        ids=["a", "b"],
        image=normalise(images),
        pixels=images,
        label=layers[:, 0],
        valid=torch.ones(2, size, size, dtype=torch.bool),
        tags=torch.tensor([[1.0, 0.0], [1.0, 1.0]]),
        extra={LAYERS[1]: layers[:, 1], LAYERS[2]: layers[:, 2]},
        maps=maps,
    )


def by_loops(method: LiidTraining, batch: Batch, settings: LiidTrainingSettings) -> dict[str, float]:
    network = method.predictor
    features = network(batch.image).double().detach().numpy()
    weight, bias = (p.detach().double().numpy() for p in (network.scores.weight, network.scores.bias))
    layers = np.stack([batch.label, *batch.extra.values()], 1)[..., ::8, ::8]
    image_terms, proposal_terms = [], []
    for index in range(2):
        probabilities = []
        for number in range(9):
            region = (layers[index] == number).any(0)
            if not region.any():
                continue
            area = region
            if settings.pooling == "box":
                y, x = np.nonzero(region)
                area = np.zeros_like(region)
                area[y.min() : y.max() + 1, x.min() : x.max() + 1] = True
            logits = weight @ features[index][:, area].mean(1) + bias
            p = np.exp(logits) / np.exp(logits).sum()
            probabilities.append(p)
            scores = [batch.tags[index, k] * batch.maps[index, k + 1].numpy()[region].mean() for k in range(2)]
            label = 1 + int(np.argmax(scores))
            if max(scores) >= settings.foreground:
                proposal_terms.append(-math.log(p[label]))
            elif max(scores) <= settings.background:
                proposal_terms.append(-math.log(p[0]))
        r, term = settings.sharpness, 0.0
        for c, present in enumerate([1, *batch.tags[index].tolist()]):
            of_image = math.log(np.mean([math.exp(r * p[c]) for p in probabilities])) / r
            term -= math.log(of_image if present else 1 - of_image) / 3
        image_terms.append(term)
    return {"image": np.mean(image_terms), "guidance": settings.guidance * np.mean(proposal_terms)}


@pytest.mark.parametrize("pooling", ["pixels", "box"])
def test_the_loss_by_plain_loops(pooling):
    settings = LiidTrainingSettings(
        pooling=pooling, regions=(3, 3, 3), guidance=0.7, foreground=0.55, background=0.45, sharpness=4
    )
    method = LiidTraining(settings, Setup(TINY, 3, 0, 1))
    torch.nn.init.normal_(method.predictor.scores.weight, std=0.1)
    method.predictor.eval()
    batch = batch_of()
    found, expected = method.losses({"labelled": batch}, 0), by_loops(method, batch, settings)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-5), name


def test_without_guidance_score_maps_are_not_read():
    settings = LiidTrainingSettings(guidance=0)
    method = LiidTraining(settings, Setup(TINY, 3, 0, 1))
    assert list(method.losses({"labelled": batch_of().replace(maps=torch.empty(0))}, 0)) == ["image"]


def test_a_crop_without_a_proposal_counts_for_nothing():
    method = LiidTraining(LiidTrainingSettings(), Setup(TINY, 3, 0, 1))
    batch = batch_of()
    empty = {name: torch.full_like(labels, 255) for name, labels in batch.extra.items()}
    found = method.losses({"labelled": batch.replace(label=torch.full_like(batch.label, 255), extra=empty)}, 0)
    assert [value.item() for value in found.values()] == [0, 0]
    sum(found.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in method.predictor.parameters() if p.grad is not None)


def test_log_sum_exp_lies_between_mean_and_maximum():
    p, known = torch.tensor([[[0.2], [0.6], [0.9]]]), torch.tensor([[True, True, False]])
    assert float(log_sum_exp(p, known, 1e-3)) == pytest.approx(0.4, abs=1e-3)
    assert float(log_sum_exp(p, known, 200.0)) == pytest.approx(0.6, abs=0.01)
    assert math.isfinite(float(log_sum_exp(p, known & False, 5.0)))


def test_masks_boxes_means_and_targets_by_hand():
    layers = torch.tensor([[[[0, 255, 0], [255, 0, 255]], [[1, 1, 255], [255, 255, 255]]]])
    found = members(layers, 3)
    assert found[0].int().tolist() == [[[1, 0, 1], [0, 1, 0]], [[1, 1, 0], [0, 0, 0]], [[0] * 3] * 2]
    assert boxed(found)[0].int().tolist() == [[[1, 1, 1], [1, 1, 1]], [[1, 1, 0], [0, 0, 0]], [[0] * 3] * 2]
    values = torch.tensor([[[[1.0, 2, 3], [4, 5, 6]]]])
    assert means(values, found)[0, :, 0].tolist() == [3, 1.5, 0]
    scores = torch.tensor([[[0.6, 0.9], [0.2, 0.9], [0.4, 0.0]]])
    label, sure = targets(scores, torch.tensor([[1.0, 0.0]]), 0.5, 0.3)
    assert label.tolist() == [[1, 0, 0]]
    assert sure.tolist() == [[True, True, False]]


def test_without_links_each_proposal_has_its_likeliest_class(space, monkeypatch):
    """Each image by itself, in a loop; the images come in the order of their sizes, and in shards of two."""
    monkeypatch.setattr("stages.refine.SHARD_SIZE", 3)
    inputs = {"data": "data", "seeds": "seeds", "refiner": "refiner"}
    artifact = run(space, "refine", "alone", {"method": {"name": "liid", "neighbours": 0}}, inputs)
    maps, dataset, network = ScoreMaps(artifact), dataset_of(space), load_network(space.artifact("refiner")).eval()
    total = 0
    for image_id in maps.ids:
        image, classes = dataset.image(image_id), [0, *dataset.tags(image_id)]
        proposals = proposals_of(known_of(image), "", (36, 12, 4), 100)
        with torch.no_grad():
            features = network(normalise(torch.from_numpy(image.transpose(2, 0, 1).copy())[None]))
            size = tuple(8 * side - 7 for side in features.shape[2:])
            full = torch.nn.functional.interpolate(features, size=size, mode="bilinear", align_corners=True)[0]
            full = torch.nn.functional.pad(full, (0, 7, 0, 7), mode="replicate")[:, : image.shape[0], : image.shape[1]]
            labels, scores = [], []
            for number in range(proposals.max() + 1):
                mask = torch.from_numpy((proposals == number).any(0))
                p = network.classify(full[:, mask].mean(1)).softmax(0)[classes]
                labels.append(classes[int(p.argmax())])
                scores.append(float(p.max()))
        expected = spread(proposals, np.array(labels), np.array(scores), classes)
        assert np.allclose(maps[image_id].scores, expected, atol=2e-3)
        total += len(labels)
    figures = artifact.summary["whole_set"]
    assert (figures["proposals"], figures["links"], figures["undecided"], figures["gap"]) == (total, 0, 0, 0)


def test_links_are_counted_and_the_solvers_agree(space):
    inputs = {"data": "data", "seeds": "seeds", "refiner": "refiner"}
    made = {
        solver: run(space, "refine", solver, {"method": {"name": "liid", "mutual": False, "solver": solver}}, inputs)
        for solver in ("exact", "relaxation")
    }
    exact, relaxed = (made[solver].summary["whole_set"] for solver in ("exact", "relaxation"))
    assert exact["links"] == relaxed["links"] > 0
    assert exact["gap"] == pytest.approx(0, abs=1e-6)
    assert relaxed["bound"] <= exact["cost"] + 1e-6 <= relaxed["cost"] + 2e-6


def test_blocks_do_not_mix_up_images(space):
    """Without links blocks change nothing."""
    inputs = {"data": "data", "seeds": "seeds", "refiner": "refiner"}
    whole, parts = (
        run(space, "refine", f"block-{block}", {"method": {"name": "liid", "neighbours": 0, "block": block}}, inputs)
        for block in (20_000, 100)
    )
    assert parts.summary["whole_set"]["blocks"] > 1
    for image_id in ScoreMaps(whole).ids:
        assert np.array_equal(ScoreMaps(whole)[image_id].scores, ScoreMaps(parts)[image_id].scores)


def known_of(image: np.ndarray, classes: tuple[int, ...] = ()) -> Known:
    size = image.shape[:2]
    scores = ScoreMap("a", np.zeros((len(classes), *size)), np.array(classes, np.uint8), size, 1, "cam")
    return Known("a", image, classes, scores)


@pytest.mark.parametrize(("classes", "size"), [((), (20, 20)), ((1, 2), (1, 1)), ((2,), (1, 300)), ((1,), (300, 200))])
def test_images_of_any_size_and_labels(classes, size, capsys):
    refiner = Liid(LiidSettings(), build_proposal_classifier(TINY, 3, 0), Means(CPU))
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    ((image_id, arrays),) = refiner.survey([[known_of(image, classes)]])
    count = len(arrays["scores"])
    surveys = Surveys([image_id], np.array([count]), {name: [values] for name, values in arrays.items()})
    decided, figures = refiner.decide(surveys, PlainProgress(every_s=0))
    assert re.findall(r"(\w+): 1/1 blocks", capsys.readouterr().err) == ["links", "cut"]
    assert figures["links"] == 0  # there is no different image
    refiner.decided = Decided([image_id], surveys.counts, decided)
    (found,) = refiner.refine([[known_of(image, classes)]])
    assert found.scores.shape == (1 + len(classes), *size)
    assert found.classes.tolist() == [0, *classes]
    assert 0 <= found.scores.min() <= found.scores.max() <= 1


def test_bf16_changes_probabilities_a_little():
    network = build_proposal_classifier(TINY, 3, 0)
    image = np.random.default_rng(0).integers(0, 256, (64, 80, 3)).astype(np.uint8)
    (one,), (two,) = (
        [arrays["scores"] for _, arrays in Liid(LiidSettings(), network, means).survey([[known_of(image, (1,))]])]
        for means in (Means(CPU), Means(CPU, torch.bfloat16))
    )
    assert 0 < np.abs(one - two).max() < 0.05


def test_proposals_made_elsewhere(space, tmp_path):
    """A folder of masks is used by the training and by refine; one that lacks an image is refused before any work."""
    dataset: Dataset = dataset_of(space)
    ids = sorted(image_id for members in dataset.splits.values() for image_id in members)
    for image_id in ids:
        Image.fromarray(dataset.mask(image_id) + 1).save(tmp_path / f"{image_id}.png")
    inputs = {"data": "data", "seeds": "seeds", "refiner": "given-refiner"}
    method = {"name": "liid", "proposals": str(tmp_path)}
    run(space, "train-refiner", "given-refiner", training_of("liid") | {"method": method})
    refined = run(space, "refine", "given", {"method": method}, inputs)
    assert refined.summary["whole_set"]["proposals"] == sum(len(np.unique(dataset.mask(i))) for i in ids)
    maps = ScoreMaps(refined)
    for image_id in ids:
        scores, mask = maps[image_id].scores, dataset.mask(image_id)
        assert all(len(np.unique(scores[:, mask == value], axis=1).T) == 1 for value in np.unique(mask))
    (tmp_path / "w1.png").unlink()
    Image.fromarray(np.ones((3, 3), np.uint8)).save(tmp_path / "w2.png")
    for stage in ("train-refiner", "refine"):
        with pytest.raises(DataError, match=r"no proposals of 1 of 6 images: w1"):
            run(space, stage, f"{stage}-lacking", {"method": method}, inputs if stage == "refine" else None)
    Image.fromarray(np.ones((3, 3), np.uint8)).save(tmp_path / "w1.png")
    with pytest.raises(DataError, match=r"w[12].png are of 3x3 pixels, the image has"):
        run(space, "refine", "odd", {"method": method}, inputs)


@pytest.mark.parametrize("regions", [[], [100, 100, 100], [0], [4, 3, 2, 1]])
def test_too_many_regions_are_refused(regions):
    with pytest.raises(ConfigError):
        build(RefineConfig, {"method": {"name": "liid", "regions": regions}}, "test")


def test_the_network_learns_which_proposals_are_red():
    """Two halves; score maps say that the left one is of class 1: after some steps its probability does, too."""
    settings = LiidTrainingSettings(regions=(2,))
    method = LiidTraining(settings, Setup(TINY, 3, 0, 40))
    pixels = torch.full((1, 3, 32, 32), 120, dtype=torch.uint8)
    pixels[:, 0, :, :16] = 220
    label = torch.ones(1, 32, 32, dtype=torch.int64)
    label[..., :16] = 0
    maps = torch.zeros(1, 3, 4, 4)
    maps[:, 1, :, :2] = 1
    nothing = torch.full_like(label, 255)
    batch = Batch(
        ["a"], normalise(pixels), pixels, label, label < 255, torch.tensor([[1.0, 0.0]]),
        dict.fromkeys(LAYERS[1:], nothing), maps,
    )  # fmt: skip
    optimizer = torch.optim.Adam(method.predictor.parameters(), lr=1e-3)
    for step in range(40):
        optimizer.zero_grad()
        loss = sum(method.losses({"labelled": batch}, step).values())
        loss.backward()
        optimizer.step()
    vectors = means(method.predictor(batch.image), members(label[:, None, ::8, ::8], 2))
    assert method.predictor.classify(vectors).argmax(2).tolist() == [[1, 0]]
