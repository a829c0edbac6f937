"""stages/methods/group_wsss.py: the loss by torch's own, draws, groups, a short training whose maps `seeds` reads."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from artifacts.errors import ConfigError, DataError
from artifacts.masks import read_mask
from artifacts.score_maps import ScoreMaps
from artifacts.store import Workspace
from stages.config import build
from stages.contract import Execution
from stages.localization.seeds_config import SeedsConfig
from stages.methods.settings.group_wsss import GroupWsssSettings
from stages.networks import load_network, normalise
from stages.pipeline.run_stage import run_stage
from stages.seeds import STAGE as SEEDS
from stages.train_classifier import STAGE
from tests.conftest import Silent
from tests.stages.drawn_training import StopAt, StoppedError, Training, publish_dataset


@pytest.mark.parametrize("group", [2, 3])
def test_the_loss_is_the_soft_margin_before_and_after_the_exchange(group, case):
    """Group by group, and image by image, as its code sums them: 1 / (2 n) for groups of n."""
    made = case("group-wsss", group=group, weight=0.3)
    labelled, network = made.batch["labelled"], made.method.predictor
    assert (labelled.group, len(labelled)) == (group, 4 * group)
    before = network.nodes(labelled.image)
    drawn = made.method._drawn(len(labelled), 0)
    expected = {"before": 0.0, "after": 0.0}
    for first in range(0, 4 * group, group):
        members = range(first, first + group)
        after = network.exchange([before[i : i + 1] for i in members], [drawn[i : i + 1] for i in members])
        for place, i in enumerate(members):
            tags = labelled.tags[i : i + 1]
            for name, maps, weight in (("before", before[i : i + 1], 0.3), ("after", after[place], 1.0)):
                loss = F.multilabel_soft_margin_loss(maps.mean((2, 3)), tags)
                expected[name] += weight * loss / (2 * group) / 4
    torch.testing.assert_close(made.losses(), expected)


def test_images_of_a_group_have_the_same_labels_where_there_are_such(case):
    labelled = case("group-wsss", group=2).batch["labelled"]
    pairs = labelled.tags.unflatten(0, (-1, 2))
    assert bool(((pairs[:, 0] * pairs[:, 1]).sum(1) > 0).all())


def test_graph_dropout_is_drawn_by_place_and_step_at_its_rate(case):
    method = case("group-wsss", drop_rate=0.8, rounds=3).method
    assert torch.equal(method._drawn(12, 5), method._drawn(12, 5))
    assert not torch.equal(method._drawn(12, 5), method._drawn(12, 6))
    assert method._drawn(4000, 0).mean().item() == pytest.approx(0.8, abs=0.02)
    assert method._drawn(3, 0).shape == (3, 3)


@pytest.mark.parametrize("number", [0.0, 1.0])
def test_images_of_no_label_and_of_all_labels(number, case):
    made = case("group-wsss")
    batch = made.batch["labelled"]
    made.batch["labelled"] = batch.replace(tags=torch.full_like(batch.tags, number))
    assert all(bool(torch.isfinite(value)) and value > 0 for value in made.losses().values())


@pytest.mark.parametrize("wrong", [{"group": 1}, {"rounds": 0}, {"drop_rate": 1.5}, {"alike": "none"}])
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        GroupWsssSettings(**wrong)


def train(space, execution, name="group", **changes):
    config = Training(space).config("group-wsss", **{"iterations": 6, "ema_decay": None, "snapshots": 3} | changes)
    return run_stage(STAGE, config, space, name, {"data": "data"}, execution).artifact


def test_images_that_share_no_label_are_refused_at_once(own_training, execution):
    splits = {"train": ["s0"], "weak": ["s1"], "val": []}
    space = Workspace(own_training.space.path.parent / "few")
    publish_dataset(space, splits=splits, untagged=("s0",))
    with pytest.raises((ConfigError, DataError), match="share one"):
        train(space, execution)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    space = Workspace(tmp_path_factory.mktemp("group") / "runs")
    publish_dataset(space)
    return space, train(space, Execution(device="cpu", workers=1, progress=Silent()))


def seeds(space, execution, name, **values):
    config = build(SeedsConfig, {"cam": {"scales": [1.0], "flip": False}} | values, "test")
    return run_stage(SEEDS, config, space, name, {"data": "data", "classifier": "group"}, execution).artifact


ALL = {"cam": {"scales": [1.0], "flip": False, "snapshots": "all"}}


def test_a_stopped_training_keeps_the_same_snapshots(trained, execution):
    space, whole = trained
    assert whole.summary["snapshots"] == [2, 4, 6]
    slow = dataclasses.replace(execution, checkpoint_every_s=0.0)
    for stop in (1, 3, 5):
        with pytest.raises(StoppedError):
            train(space, dataclasses.replace(slow, progress=StopAt(stop)), "cut")
    assert train(space, slow, "cut").manifest.content == whole.manifest.content


def expected_maps(network, dataset, image_id, others):
    """Of one image with its partners as squares of 33 pixels, before they are read at cells of 4 pixels."""
    from PIL import Image

    def tensor(pixels):
        return normalise(torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None])

    squares = [Image.fromarray(dataset.image(other)).resize((33, 33), Image.Resampling.BILINEAR) for other in others]
    with torch.inference_mode():
        nodes = torch.cat([network.nodes(tensor(square)) for square in squares])[None]
        maps = network.activation_maps(tensor(dataset.image(image_id)), nodes)[0].relu().numpy()
    return maps[[class_id - 1 for class_id in dataset.tags(image_id)]]


def test_maps_are_made_with_partners_that_the_artifact_lists(trained, execution):
    space, classifier = trained
    dataset, maps = Training(space).dataset, ScoreMaps(artifact := seeds(space, execution, "maps"))
    partners = artifact.json("partners.json", dict[str, list[str]])
    assert sorted(partners) == list(maps.ids)
    network = load_network(classifier)
    found_with_same_labels = 0
    for image_id, others in partners.items():
        assert len(others) == 2
        assert image_id not in others
        assert all(set(dataset.tags(image_id)) & set(dataset.tags(other)) for other in others)
        found_with_same_labels += sum(dataset.tags(image_id) == dataset.tags(other) for other in others)
        expected = expected_maps(network, dataset, image_id, others)
        expected /= expected.max((1, 2), keepdims=True) + 1e-5
        np.testing.assert_allclose(maps[image_id].scores[:, ::2, ::2], expected, atol=2e-3)  # cells of 4 pixels, of 8
    assert found_with_same_labels > 4


def test_maps_of_all_snapshots_are_joined_by_their_maximum(trained, execution):
    space, classifier = trained
    joined = ScoreMaps(artifact := seeds(space, execution, "joined", **ALL))
    partners = artifact.json("partners.json", dict[str, list[str]])
    dataset = Training(space).dataset
    networks = [load_network(classifier, file) for file in ("weights.pt", "snapshots/2.pt", "snapshots/4.pt")]
    for image_id in ("s1", "w2"):
        each = [expected_maps(network, dataset, image_id, partners[image_id]) for network in networks]
        highest = np.max([maps / (maps.max((1, 2), keepdims=True) + 1e-5) for maps in each], axis=0)
        for found, expected in zip(joined[image_id].scores, highest, strict=True):
            assert (found.min(), found.max()) == pytest.approx((0, 1), abs=1e-3)
            cells = found[::2, ::2].ravel()
            slope, shift = np.polyfit(expected.ravel(), cells, 1)  # stretched to 0..1
            assert slope >= 1
            np.testing.assert_allclose(slope * expected.ravel() + shift, cells, atol=2e-3)
    assert artifact.manifest.content != seeds(space, execution, "maps-again").manifest.content


def test_the_saliency_rule_reads_the_maps(trained, execution):
    space, _ = trained
    artifact = seeds(space, execution, "masks", labels={"mode": "saliency"}, **ALL)
    labels = {int(value) for path in artifact.path.glob("masks/*.png") for value in np.unique(read_mask(path))}
    assert labels <= {0, 1, 2, 3, 255}
    assert artifact.summary["mode"] == "saliency"


def test_without_snapshots_they_cannot_be_joined(trained, execution):
    space, _ = trained
    train(space, execution, "plain", snapshots=1)
    config = build(SeedsConfig, ALL, "test")
    with pytest.raises(ConfigError, match=r"'plain' has the last weights only"):
        run_stage(SEEDS, config, space, "none", {"data": "data", "classifier": "plain"}, execution)
