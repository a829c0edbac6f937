"""The stage seeds, end to end on a few drawn images and a small classifier."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import jaccard_score

from artifacts import checkpoint
from artifacts.dataset import Dataset
from artifacts.errors import ArtifactError, ConfigError, DataError
from artifacts.masks import read_mask
from artifacts.score_maps import ScoreMaps, ScoreMapWriter
from artifacts.store import Work, Workspace
from stages.config import build
from stages.contract import Execution
from stages.data.preparation_config import PrepareDataConfig
from stages.localization.grid import resize_maps
from stages.localization.saliency import encode_saliency
from stages.networks import build_classifier
from stages.networks.config import ClassifierConfig
from stages.pipeline.run_stage import run_stage
from stages.prepare_data import STAGE as PREPARE_DATA
from stages.seeds import STAGE, SeedsConfig
from tests.stages.conftest import publish
from tests.stages.forks import killed_when

FAST = {"cam": {"scales": [0.5, 1.0], "batch_size": 4}}
UNKNOWN = 255


def add_classifier(
    workspace: Workspace, dataset: Dataset, name: str = "classifier", seed: int = 0, weight: float = 1.0
) -> None:
    network = build_classifier(ClassifierConfig.model_validate("tiny"), dataset.num_classes - 1, seed)
    torch.nn.init.normal_(network.scores.weight, std=weight, generator=torch.Generator().manual_seed(seed))
    work = Work("train-classifier", 1, "classifier", f"{seed:064d}", {}, {}, {})
    with workspace.writing(name, work) as writer:
        with writer.item("weights.pt") as temporary:
            checkpoint.save(temporary, network.state_dict())
        writer.write_json("network.json", network.spec(dataset.class_names))
        workspace.publish(name, writer, work, {})


def run_seeds(workspace, values, name="seeds", inputs=None, **execution):
    config = build(SeedsConfig, FAST | values, "test")
    inputs = {"data": "data", "classifier": "classifier"} if inputs is None else inputs
    return run_stage(STAGE, config, workspace, name, inputs, Execution(**{"workers": 1, "device": "cpu"} | execution))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    space = Workspace(tmp_path_factory.mktemp("runs"))
    config = build(
        PrepareDataConfig, {"dataset": {"name": "shapes", "train": 6, "weak": 14, "val": 3, "long_side": 64}}, "test"
    )
    run_stage(PREPARE_DATA, config, space, "data", {}, Execution(workers=1))
    add_classifier(space, Dataset(space.artifact("data")))
    return space


@pytest.fixture(scope="module")
def seeds(workspace):
    return run_seeds(workspace, {}).artifact


def test_seeds_follow_from_the_stored_maps_and_saliency(workspace, seeds):
    dataset, maps = Dataset(workspace.artifact("data")), ScoreMaps(seeds)
    assert maps.meaning == "cam"
    ids = sorted(dataset.ids("train") + dataset.ids("weak"))
    assert seeds.kind == "seeds"
    assert list(maps.ids) == ids
    assert sorted(path.stem for path in seeds.path.glob("masks/*")) == ids
    found = set()
    for image_id in ids:
        H, W = dataset.size(image_id)
        labels = read_mask(seeds.file(f"masks/{image_id}.png"), dataset.num_classes, size=(W, H))
        saliency = np.array(Image.open(seeds.file(f"saliency/{image_id}.png"))) / 255
        assert tuple(maps[image_id].classes) == dataset.tags(image_id)
        assert maps[image_id].stride == 4
        assert set(np.unique(labels)) <= {0, UNKNOWN, *dataset.tags(image_id)}
        assert (labels[saliency < 0.06] != UNKNOWN).all()  # conflicts go to the foreground, the rest is background
        assert (saliency[labels == 0] < 0.06).all()
        for scores, label in zip(maps[image_id].scores, maps[image_id].classes, strict=True):
            cells = labels[::4, ::4]  # at cell centres the map is not interpolated
            peak = np.where(cells == label, scores, 0).max()
            assert (scores[cells == label] >= 0.19 * peak).all()
        found |= set(np.unique(labels))
    assert {0, UNKNOWN} < found


def test_maps_of_zeros_are_counted_and_told(workspace, seeds, capsys):
    """A classifier that was hardly trained gave seeds of nothing, and nothing was said."""
    dataset = Dataset(workspace.artifact("data"))
    labelled = [i for i in (*dataset.ids("train"), *dataset.ids("weak")) if dataset.tags(i)]
    filled = [i for i in labelled if ScoreMaps(seeds)[i].scores.max() > 0]
    assert seeds.summary["empty_maps"] == len(labelled) - len(filled)
    add_classifier(workspace, dataset, "untrained", weight=0.0)
    empty = run_seeds(workspace, {}, "empty", {"data": "data", "classifier": "untrained"}).artifact
    assert empty.summary["empty_maps"] == len(labelled)
    assert f"{len(labelled)} of {len(labelled)} images with labels have maps of zeros" in capsys.readouterr().err


def test_the_summary_scores_each_split_against_its_masks(workspace, seeds):
    dataset = Dataset(workspace.artifact("data"))
    quality = seeds.summary["quality"]
    for split in ("train", "weak"):
        scored = [image_id for image_id in dataset.ids(split) if dataset.has_mask(image_id)]
        if not scored:
            assert split not in quality
            continue
        pairs = [(dataset.mask(i).ravel(), read_mask(seeds.file(f"masks/{i}.png")).ravel()) for i in scored]
        truth, given = (np.concatenate(values) for values in zip(*pairs, strict=True))
        truth, given = truth[truth != 255], given[truth != 255]
        present = np.union1d(np.unique(truth), np.unique(given[given != 255]))
        expected = jaccard_score(truth, given, labels=present, average=None).mean()
        assert quality[split]["images"] == len(scored)
        assert quality[split]["of"] == len(dataset.ids(split))
        assert quality[split]["mean"]["iou"] == pytest.approx(expected, abs=1e-5)
        assert quality[split]["coverage"] == pytest.approx((given != 255).mean(), abs=1e-5)


def test_processes_do_not_change_the_content(workspace, seeds):
    assert run_seeds(workspace, {}, "pooled", workers=2).artifact.manifest.content == seeds.manifest.content


def test_large_images_are_looked_at_as_copies_and_people_are_told(workspace, seeds, capsys):
    ids = sorted(seeds.path.glob("masks/*.png"))
    small = run_seeds(workspace, {"max_pixels": 1024}, "small-copies").artifact
    assert "of 20 images have more than 1,024 pixels" in capsys.readouterr().err
    assert {path.name for path in small.path.glob("masks/*.png")} == {path.name for path in ids}
    known = agreeing = 0
    for path in ids:
        one, other = read_mask(path), read_mask(small.file(f"masks/{path.name}"))
        assert one.shape == other.shape
        both = (one != UNKNOWN) & (other != UNKNOWN)
        known, agreeing = known + both.sum(), agreeing + (one == other)[both].sum()
    assert agreeing / known > 0.6  # an untrained classifier on images of 32 pixels
    assert (
        run_seeds(workspace, {"max_pixels": 64 * 64}, "all-whole").artifact.manifest.content == seeds.manifest.content
    )
    assert "more than" not in capsys.readouterr().err


def test_earlier_maps_serve_other_thresholds(workspace, seeds):
    values = {"labels": {"threshold": 0.5, "background": {"kind": "saliency", "threshold": 0.2}}}
    fresh = run_seeds(workspace, values, "fresh").artifact
    reused = run_seeds(workspace, values, "reused", {"data": "data", "maps": "seeds"}).artifact
    chained = run_seeds(workspace, values, "chained", {"data": "data", "maps": "reused"}).artifact
    assert reused.manifest.content == chained.manifest.content == fresh.manifest.content
    assert fresh.manifest.content != seeds.manifest.content


def test_refined_maps_serve_the_rules_of_seeds(workspace, seeds, tmp_path):
    """Masks of DRS: salient pixels take the highest score from .2 on, or are unknown; all others are background."""
    dataset, maps = Dataset(workspace.artifact("data")), ScoreMaps(seeds)
    salient = {}
    for image_id in maps.ids:
        values = np.random.default_rng(len(image_id)).choice([0, 50, 51, 255], size=dataset.size(image_id))
        Image.fromarray(values.astype(np.uint8)).save(tmp_path / f"{image_id}.png")
        salient[image_id] = values > 50

    def write(writer):
        with ScoreMapWriter(writer, class_names=dataset.class_names, meaning="refined") as refined:
            for shard in refined.plan(maps.ids):
                for image_id in shard:
                    found = maps[image_id]
                    refined.add(image_id, found.scores[:, ::2, ::2], found.classes, size=found.size, stride=8)

    publish(workspace, "refined", "refined", write)
    folder = {"kind": "folder", "folder": str(tmp_path), "threshold": 0.198}
    rule = {"threshold": 0.2, "overlap": "highest_score", "conflict": "background", "background": folder}
    made = run_seeds(workspace, {"labels": rule, "cam": {}}, "of-refined", {"data": "data", "maps": "refined"}).artifact
    assert ScoreMaps(made).meaning == "refined"
    for image_id in maps.ids:
        found = ScoreMaps(made)[image_id]
        scores = resize_maps(found.scores, found.size, found.stride)
        expected = np.full(found.size, UNKNOWN)
        for y, x in np.ndindex(found.size):
            reached = [(s[y, x], -k) for k, s in enumerate(scores) if s[y, x] >= 0.2 * s.max() > 0]
            if not salient[image_id][y, x]:
                expected[y, x] = 0
            elif reached:
                expected[y, x] = found.classes[-max(reached)[1]]
        np.testing.assert_array_equal(read_mask(made.path / "masks" / f"{image_id}.png"), expected)


def test_earlier_maps_of_other_labels_are_refused(workspace, seeds):
    """A label that was added since had no map, and its object became background without a word."""

    def relabelled(writer):
        for path in (item for item in data.path.rglob("*") if item.is_file() and item.name != "manifest.json"):
            writer.write_bytes(path.relative_to(data.path).as_posix(), path.read_bytes())
        record = json.loads((data.path / "dataset.json").read_text())
        record["tags"][victim] = sorted({1, 2, 3, 4} - set(record["tags"][victim]))[:2]
        (writer.path / "dataset.json").unlink()
        writer.write_json("dataset.json", record)

    data = workspace.artifact("data")
    victim = Dataset(data).ids("weak")[0]
    publish(workspace, "relabelled", "dataset", relabelled)
    with pytest.raises(DataError, match=f"the score maps of {victim} are of .*, its image-level labels are") as caught:
        run_seeds(workspace, {}, "refused", {"data": "relabelled", "maps": "seeds"})
    assert "--maps" in caught.value.hint


@pytest.mark.parametrize(
    "labels",
    [
        {"background": "none"},
        {"background": {"kind": "cam", "alpha": 8}},
        {"background": {"kind": "gradient"}, "conflict": "background"},
        {"overlap": "highest_score", "conflict": "ignore"},
        {"=": "dense", "background": {"score": 0.4}},
        {"mode": "dense", "background": {"kind": "cam", "alpha": 8}},
    ],
    ids=["none", "cam", "gradient", "highest", "dense", "dense-cam"],
)
def test_every_kind_of_background(workspace, labels):
    artifact = run_seeds(workspace, {"labels": labels, "splits": ["train"]}, "kinds").artifact
    values = np.concatenate([read_mask(path).ravel() for path in sorted(artifact.path.glob("masks/*.png"))])
    mode, kind = (artifact.config["labels"][key] for key in ("mode", "background"))
    kind = kind["kind"]
    shares = {name: (values == value).mean() for name, value in (("ground", 0), ("unknown", UNKNOWN))}
    assert len(list(artifact.path.glob("masks/*.png"))) == 6
    assert (shares["unknown"] == 0) == (mode == "dense")
    assert (shares["ground"] == 0) == (kind == "none")
    if kind == "gradient":
        assert shares["ground"] == pytest.approx(0.1, abs=0.06)  # the lowest 10 % of the positions
    assert bool(list(artifact.path.glob("saliency/*"))) == (kind in ("saliency", "gradient"))


def test_a_folder_of_saliency_maps(workspace, seeds, tmp_path):
    for path in (seeds.path / "saliency").glob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    values = {"labels": {"background": {"kind": "folder", "folder": str(tmp_path)}}}
    artifact = run_seeds(workspace, values, "folder").artifact
    for path in seeds.path.glob("masks/*.png"):
        assert artifact.file(f"masks/{path.name}").read_bytes() == path.read_bytes()
    first = sorted(tmp_path.iterdir())[0]
    first.write_bytes(encode_saliency(np.ones(np.array(Image.open(first)).shape)))
    assert run_seeds(workspace, values, "folder").ran  # another content of the folder is other work
    first.unlink()
    with pytest.raises(DataError, match=rf"no saliency map for 1 of 20 images, e.g. {first.name}"):
        run_seeds(workspace, values, "folder")


def test_inputs_that_do_not_belong_together_are_refused(workspace, seeds):
    with pytest.raises(ArtifactError, match=r"needs the input .classifier."):
        run_seeds(workspace, {}, "refused", {"data": "data"})
    maps_only = {"data": "data", "maps": "seeds"}
    with pytest.raises(ArtifactError, match="seeds needs the input 'classifier'"):
        run_seeds(workspace, {"labels": {"background": {"kind": "gradient"}}}, "refused", maps_only)
    with pytest.raises(ConfigError, match="cam differs from the settings that made maps 'seeds'"):
        run_seeds(workspace, {"cam": {"flip": False}}, "refused", maps_only)
    with pytest.raises(ArtifactError, match="no class-activation maps for 3 of 3 images"):
        run_seeds(workspace, {"splits": ["val"]}, "refused", maps_only)
    with pytest.raises(ConfigError, match="did you mean 'threshold'"):
        run_seeds(workspace, {"labels": {"treshold": 0.3}}, "refused")


def test_classes_of_another_data_set_are_refused(workspace, tmp_path):
    spec = workspace.artifact("classifier").json("network.json")
    work = Work("train-classifier", 1, "classifier", "f" * 64, {}, {}, {})
    with workspace.writing("foreign", work) as writer:
        writer.write_json("network.json", spec | {"class_names": ["background", "cat"], "num_classes": 2})
        workspace.publish("foreign", writer, work, {})
    with pytest.raises(ArtifactError, match="classifier 'foreign' has the classes background, cat"):
        run_seeds(workspace, {}, "refused", {"data": "data", "classifier": "foreign"})


def test_a_truncated_image_is_named_and_what_was_made_stays(workspace, tmp_path):
    space = Workspace(tmp_path)
    config = build(
        PrepareDataConfig, {"dataset": {"name": "shapes", "train": 2, "weak": 2, "val": 1, "long_side": 64}}, "test"
    )
    run_stage(PREPARE_DATA, config, space, "data", {}, Execution(workers=1))
    dataset = Dataset(space.artifact("data"))
    add_classifier(space, dataset)
    path = dataset.image_path(dataset.ids("weak")[1])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=path.name):
        run_seeds(space, {})
    assert "seeds" not in space.names()
    path.write_bytes(whole)
    artifact = run_seeds(space, {}).artifact
    assert artifact.manifest.resumed == 1


def test_killed_at_any_moment_and_continued_the_result_is_the_same(workspace, monkeypatch):
    """kill -9 when a given number of items is there: in the saliency, the maps of a shard, the label maps."""
    monkeypatch.setattr("stages.seeds.SHARD_SIZE", 6)
    whole = run_seeds(workspace, {}, "whole").artifact
    killed = 0
    for pattern, count in (
        ("saliency/*.png", 3),
        ("scores/shard-*.h5", 1),
        ("masks/*.png", 2),
        ("scores/shard-*.h5", 3),
        ("masks/*.png", 17),
    ):
        enough = f".killed.*.partial/{pattern}"
        killed += killed_when(
            lambda: len(list(workspace.path.glob(enough))) >= count,  # noqa: B023  (called at once, in this round)
            lambda: run_seeds(workspace, {}, "killed"),
        )
    assert killed >= 2
    artifact = run_seeds(workspace, {}, "killed").artifact
    assert artifact.manifest.resumed >= 2
    assert artifact.manifest.content == whole.manifest.content
    assert artifact.summary["quality"] == whole.summary["quality"]


def test_the_stage_module_loads_nothing_heavy():
    code = "import sys, stages.seeds; print([m for m in ('torch', 'scipy', 'skimage', 'h5py') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == "[]"
