"""stages/methods/conta.py: mean masks against a plain loop, the loss, the stages that are given predicted masks."""

from __future__ import annotations

import dataclasses
import math
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from artifacts import checkpoint
from artifacts.errors import ArtifactError, ConfigError, DataError
from artifacts.masks import write_mask
from artifacts.score_maps import ScoreMaps
from stages.config import build
from stages.engine.streams import MaskFolder
from stages.localization.activation_maps import multi_scale_maps, normalise_by_maximum
from stages.localization.seeds_config import SeedsConfig
from stages.methods.conta import mean_masks
from stages.networks import load_network, normalise
from stages.pipeline.run_stage import run_stage
from stages.predict import STAGE as PREDICT
from stages.predict import PredictConfig
from stages.seeds import STAGE as SEEDS
from stages.train_classifier import STAGE
from tests.stages.drawn_training import StopAt, publish

CONTA = {"name": "conta", "side": 3}
INPUTS = {"data": "data", "predictions": "predictions"}


def train(training, name, execution, inputs=INPUTS, method=CONTA):
    config = training.config(method, iterations=2)
    return run_stage(STAGE, config, training.space, name, inputs, execution).artifact


@pytest.fixture
def execution(execution):
    return dataclasses.replace(execution, progress=StopAt(None))


@pytest.fixture(scope="module")
def classifier(training):
    from stages.contract import Execution

    return train(training, "conta", Execution(device="cpu", workers=1, progress=StopAt(None)))


def strong(network):
    """With a context that depends much on the mask, and decides the scores."""
    with torch.no_grad():
        network.scores.weight[:, -1] = 100
        for layer in (network.of_mask, network.of_confounder):
            layer.weight.mul_(100)
    return network


# --- the confounder set ---


def looped_means(masks, tags, classes, side):
    """One image, class and cell after the other: a cell spans the pixels it touches."""
    means = np.zeros((classes, side, side))
    for k in range(classes):
        having = [image_id for image_id in masks if k + 1 in tags[image_id]]
        for image_id in having:
            height, width = masks[image_id].shape
            for row in range(side):
                for column in range(side):
                    part = masks[image_id][
                        row * height // side : math.ceil((row + 1) * height / side),
                        column * width // side : math.ceil((column + 1) * width / side),
                    ]
                    means[k, row, column] += np.mean(part == k + 1) / len(having)
    return means


@pytest.mark.parametrize("side", [1, 4, 7, 60])  # of images of 30 to 45 pixels
def test_the_mean_masks_are_those_of_a_plain_loop(training, side, monkeypatch):
    monkeypatch.setattr("stages.methods.conta.CHUNK", 4)
    dataset, folder = training.dataset, training.folders["predictions"]
    ids = training.sources.tagged
    found = mean_masks(folder, dataset, ids, side, threads=3)
    expected = looped_means({i: folder.mask(i) for i in ids}, {i: dataset.tags(i) for i in ids}, 3, side)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    assert found.dtype == torch.float32


def test_a_class_that_no_image_has_is_0(training):
    dataset, folder = training.dataset, training.folders["predictions"]
    red = [image_id for image_id in training.sources.tagged if dataset.tags(image_id) == (1,)]
    found = mean_masks(folder, dataset, red, 4, threads=1)
    assert [bool(mean.any()) for mean in found] == [True, False, False]
    assert not mean_masks(folder, dataset, [], 4, threads=1).any()


def test_the_mean_masks_are_kept_with_the_weights(training, classifier):
    state = checkpoint.load(classifier.file("weights.pt"))
    expected = mean_masks(training.folders["predictions"], training.dataset, training.sources.tagged, 3, 1)
    assert torch.equal(state["confounders"], expected)
    assert expected.any()


# --- the loss ---


def test_the_loss_is_that_of_the_network_with_the_masks_of_the_crops(case):
    made = case("conta", side=4)
    batch, network = made.batch["labelled"], strong(made.method.predictor)
    assert {0, 1, 2, 3, 255} == set(batch.label.unique().tolist())  # predicted classes, and padding
    with torch.no_grad():
        expected = F.multilabel_soft_margin_loss(network(batch.image, batch.label), batch.tags)
        torch.testing.assert_close(made.losses(), {"soft_margin": expected})
        assert not torch.allclose(network(batch.image, batch.label), network(batch.image, batch.label * 0))


def test_the_projections_learn(case):
    gradients = case("conta", side=4).gradients()
    for name in ("of_mask", "of_confounder"):
        assert gradients[f"classifier.{name}.weight"].abs().max() > 0


# --- the stages ---


def test_it_is_scored_with_the_masks_of_the_split(training, classifier):
    from sklearn.metrics import average_precision_score

    dataset, folder, network = training.dataset, training.folders["predictions"], load_network(classifier)
    logits = []
    for image_id in dataset.ids("val"):
        pixels = torch.from_numpy(dataset.image(image_id)).permute(2, 0, 1)[None].float()
        resized = F.interpolate(pixels, (33, 33), mode="bilinear", antialias=True).round().byte()
        with torch.no_grad():
            logits.append(network(normalise(resized), torch.from_numpy(folder.mask(image_id))[None])[0].numpy())
    present = np.stack([dataset.tags_vector(image_id) for image_id in dataset.ids("val")])
    scores = np.stack(logits)
    for k, name in enumerate(dataset.label_names):
        if present[:, k].any():
            expected = average_precision_score(present[:, k], scores[:, k])
            assert classifier.summary["average_precision"][name] == pytest.approx(expected)


def test_images_without_a_mask_are_not_scored_and_that_is_said(own_training, execution):
    folder = own_training.space.folder("predictions") / "masks"
    for image_id in own_training.dataset.ids("val"):
        (folder / f"{image_id}.png").unlink()
    summary = train(own_training, "unscored", execution).summary
    assert "average_precision" not in summary
    assert (
        "val: 3 of 3 images have no predicted mask; their average precision is not measured" in execution.progress.notes
    )


def test_masks_are_needed_and_only_for_this_method(training, execution):
    with pytest.raises(ArtifactError, match="needs the input 'predictions'"):
        train(training, "refused", execution, {"data": "data"})
    with pytest.raises(ConfigError, match="method cam with these settings does not use the input 'predictions'"):
        train(training, "refused", execution, method={"name": "cam"})


def test_masks_that_do_not_fit_are_refused(own_training, execution):
    space = own_training.space
    folder = space.folder("predictions") / "masks"
    publish(space, "other", "masks", {"foreign": np.zeros((4, 4), np.uint8)})
    with pytest.raises(DataError, match=r"other has no masks of 11 of 11 images, e\.g\. s0"):
        train(own_training, "refused", execution, INPUTS | {"predictions": "other"})
    mask = own_training.folders["predictions"].mask("s1")
    write_mask(folder / "s1.png", mask[1:])
    with pytest.raises(DataError, match=r"the predicted mask of s1 is .* pixels, its image"):
        train(own_training, "refused", execution)
    write_mask(folder / "s1.png", np.full_like(mask, 4))
    with pytest.raises(DataError, match=r"values outside the classes: 4 .*; expected 0\.\.3"):
        train(own_training, "refused", execution)
    shutil.rmtree(folder)
    with pytest.raises(DataError, match="predictions has no masks") as caught:
        train(own_training, "refused", execution)
    assert "predict --output masks" in caught.value.hint


def seeds(training, name, execution, inputs, **cam):
    config = build(SeedsConfig, {"cam": {"scales": [1.0], **cam}}, "test")
    return run_stage(SEEDS, config, training.space, name, inputs, execution).artifact


def test_seeds_are_those_of_the_network_with_the_masks(training, classifier, execution):
    """One scale, and its mirror image with the mirrored mask; batches of several images."""
    inputs = {"data": "data", "classifier": "conta", "predictions": "predictions"}
    found = ScoreMaps(seeds(training, "conta-seeds", execution, inputs, flip=False))
    network, folder = load_network(classifier), training.folders["predictions"]
    for image_id in found.ids:
        image = normalise(torch.from_numpy(training.dataset.image(image_id)).permute(2, 0, 1)[None])
        mask = torch.from_numpy(folder.mask(image_id))[None]
        classes = torch.tensor(training.dataset.tags(image_id)) - 1
        with torch.no_grad():
            maps = normalise_by_maximum(network.activation_maps(image, mask).relu())[0, classes]
        np.testing.assert_allclose(
            found[image_id].scores[:, ::2, ::2], maps.numpy(), atol=2e-3
        )  # cells of 4, of 8 pixels
    network.confounders.zero_()
    with torch.no_grad():
        assert not torch.allclose(
            network.activation_maps(image, mask), network.activation_maps(image, mask.flip(-1)) + 1
        )


def test_mirror_images_are_seen_with_mirrored_masks(training, classifier):
    """33 pixels wide: the cells of a mirror image lie on those of the image."""
    network = strong(load_network(classifier))
    image = torch.from_numpy(training.dataset.image("s1")[:, :33]).permute(2, 0, 1)[None]
    mask = torch.from_numpy(training.folders["predictions"].mask("s1")[:, :33])[None]

    def maps(flip, pixels, labels):
        return multi_scale_maps(network, pixels, (1.0,), flip, 4, masks=labels)

    apart = maps(False, image, mask), maps(False, image.flip(-1), mask.flip(-1)).flip(-1)
    torch.testing.assert_close(maps(True, image, mask), apart[0] + apart[1])
    assert not torch.allclose(apart[1], maps(False, image.flip(-1), mask).flip(-1))


def test_seeds_ask_for_masks_and_refuse_idle_ones(training, classifier, execution):
    plain = train(training, "plain", execution, {"data": "data"}, {"name": "cam"})
    inputs = {"data": "data", "classifier": "conta"}
    with pytest.raises(ConfigError, match="classifier 'conta' needs predicted masks") as caught:
        seeds(training, "refused", execution, inputs)
    assert "--predictions" in caught.value.hint
    with pytest.raises(ConfigError, match="predictions has no effect"):
        seeds(training, "refused", execution, inputs | {"classifier": plain.name, "predictions": "predictions"})
    with pytest.raises(DataError, match=r"weak-labels has no masks of 6 of 11 images, e\.g\. s0"):
        seeds(training, "refused", execution, inputs | {"predictions": "weak-labels"})


def test_a_mask_of_a_different_size_is_named(own_training, execution):
    train(own_training, "conta", execution)
    folder = own_training.space.folder("predictions") / "masks"
    write_mask(folder / "w1.png", MaskFolder(folder, 4).mask("w1")[:, 1:])
    inputs = {"data": "data", "classifier": "conta", "predictions": "predictions"}
    with pytest.raises(DataError, match=r"the predicted mask of w1 is .* pixels, its image"):
        seeds(own_training, "refused", execution, inputs)


def test_sec_background_is_made_with_masks_too(training, classifier, execution):
    inputs = {"data": "data", "classifier": "conta", "predictions": "predictions"}
    config = build(SeedsConfig, {"cam": {"scales": [1.0]}, "labels": {"background": {"kind": "gradient"}}}, "test")
    artifact = run_stage(SEEDS, config, training.space, "conta-gradient", inputs, execution).artifact
    assert len(list((artifact.path / "saliency").glob("*.png"))) == 11


def test_predict_refuses_it_as_a_filter_of_classes(training, classifier, execution):
    network = training.config("supervised", iterations=1)
    from stages.train import STAGE as TRAIN

    run_stage(TRAIN, network, training.space, "segmenter", training.inputs(network), execution)
    config = build(PredictConfig, {"splits": ["val"]}, "test")
    with pytest.raises(ConfigError, match="classifier 'conta' needs predicted masks of the images"):
        run_stage(
            PREDICT,
            config,
            training.space,
            "refused",
            {"data": "data", "segmenter": "segmenter", "classifier": "conta"},
            execution,
        )


def test_sparse_seeds_are_not_taken_for_predicted_masks() -> None:
    """Else `train-classifier --method conta` after `semiseg seeds` would take the seeds, the only masks there are."""
    for stage in (STAGE, SEEDS):
        assert "seeds" not in stage.takes["predictions"].kinds
