"""The stage seeds with CLIP as the source of maps: no classifier, the same artifact, the same behaviour."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from artifacts.dataset import Dataset
from artifacts.errors import ArtifactError, ConfigError
from artifacts.masks import read_mask
from artifacts.score_maps import ScoreMaps
from artifacts.store import Artifact, Workspace
from stages import seeds
from stages.config import build
from stages.contract import Execution, load_stage
from stages.localization import clip_source
from stages.localization.grid import resize_maps
from stages.localization.seed_labels import dense_labels
from stages.localization.seeds_config import SeedsConfig
from stages.pipeline.run_stage import run_stage
from tests.stages.drawn_training import StopAt, StoppedError
from tests.stages.forks import by_two_processes
from tests.stages.networks.reference_clip import open_clips_model

pytest.importorskip("timm")
SHARD_SIZE = 4
SOURCE = {"name": "clip", "weights": "none", "batch_size": 2}


def run_clip(space: Workspace, name: str, source: dict[str, Any] | None = None, **execution: Any) -> Artifact:
    values = {"source": SOURCE | (source or {}), "labels": "dense"}
    doing = Execution(**{"device": "cpu", "workers": 1} | execution)
    return run_stage(seeds.STAGE, build(SeedsConfig, values, "test"), space, name, {"data": "data"}, doing).artifact


def run(space: Workspace, stage: str, name: str, values: dict, inputs: dict) -> object:
    record = load_stage(stage)
    config = build(record.config, values, "test")
    return run_stage(record, config, space, name, inputs, Execution(workers=1, device="cpu")).artifact


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    space = Workspace(tmp_path_factory.mktemp("clip") / "runs")
    values = {"dataset": {"name": "shapes", "train": 4, "weak": 6, "val": 2, "long_side": 64}}
    run(space, "prepare-data", "data", values, {})
    return space


@pytest.fixture(scope="module")
def whole(space: Workspace) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stages.seeds.SHARD_SIZE", SHARD_SIZE)
        return run_clip(space, "whole")


def test_maps_and_masks_are_those_of_any_source(space, whole):
    dataset, maps = Dataset(space.artifact("data")), ScoreMaps(whole)
    assert (maps.meaning, whole.kind, whole.summary["maps"]) == ("cam", "seeds", "of CLIP")
    for image_id in (*dataset.ids("train"), *dataset.ids("weak")):
        found = maps[image_id]
        assert (tuple(found.classes), found.stride) == (dataset.tags(image_id), 4)
        assert found.scores.min() >= 0
        assert 0.6 < found.scores.max() <= 1
        labels = dense_labels(resize_maps(found.scores, found.size, found.stride), found.classes, 0.2)
        np.testing.assert_array_equal(read_mask(whole.file(f"masks/{image_id}.png")), labels)


def test_stopped_and_continued_and_with_more_workers_the_result_is_the_same(space, whole, monkeypatch):
    monkeypatch.setattr("stages.seeds.SHARD_SIZE", SHARD_SIZE)
    for at in (2, 7):
        with pytest.raises(StoppedError):
            run_clip(space, "cut", checkpoint_every_s=0.0, progress=StopAt(at))
    cut = run_clip(space, "cut")
    assert cut.manifest.resumed >= 1
    pooled = run_clip(space, "pooled", workers=2)
    assert cut.manifest.content == pooled.manifest.content == whole.manifest.content


def test_two_processes_make_what_one_makes(space, whole, monkeypatch):
    monkeypatch.setattr("stages.seeds.SHARD_SIZE", SHARD_SIZE)
    by_two_processes(lambda: run_clip(space, "by-two"))
    two = space.artifact("by-two")
    assert two.manifest.content == whole.manifest.content
    assert two.summary == whole.summary


def test_stored_vectors_make_the_same_maps_without_texts(space, whole, tmp_path, monkeypatch):
    monkeypatch.setattr("stages.seeds.SHARD_SIZE", SHARD_SIZE)
    vectors = str(whole.file("text_vectors.npz"))
    again = run_clip(space, "again", {"vectors": vectors})
    assert again.manifest.content == whole.manifest.content
    with np.load(vectors) as arrays:
        names, rows = arrays["names"], arrays["vectors"]
    assert list(names[:6]) == list(Dataset(space.artifact("data")).class_names[1:])
    np.savez(tmp_path / "short.npz", names=names, vectors=rows[:, :32])
    with pytest.raises(ConfigError, match="of texts have 32 numbers, those of images 64"):
        run_clip(space, "refused", {"vectors": str(tmp_path / "short.npz")})


def test_weights_that_do_not_fit_are_refused_before_anything_is_written(space, whole, tmp_path):
    torch.save({"visual.conv1.weight": torch.zeros(3)}, tmp_path / "foreign.pt")
    (tmp_path / "damaged.pt").write_bytes(b"PK no weights")
    for name, message in (("foreign", "has no image side of CLIP"), ("damaged", "is damaged or not a file of weights")):
        source = {"weights": str(tmp_path / f"{name}.pt"), "vectors": str(whole.file("text_vectors.npz"))}
        with pytest.raises(ConfigError, match=message):
            run_clip(space, name, source)
        assert space.partials(name) == []


def test_the_file_of_weights_is_read_once(space, tmp_path, monkeypatch):
    pytest.importorskip("open_clip")
    torch.save(open_clips_model("quick_gelu").state_dict(), tmp_path / "clip.pt")
    read, files = clip_source.read_clip, []
    monkeypatch.setattr(clip_source, "read_clip", lambda file: files.append(file) or read(file))
    made = run_clip(space, "once", {"weights": str(tmp_path / "clip.pt"), "texts": "names"})
    assert files == [tmp_path / "clip.pt"]
    assert made.file("text_vectors.npz").is_file()


def test_later_stages_take_the_maps(space, whole):
    swept = run(space, "evaluate", "swept", {"splits": ["weak"]}, {"data": "data", "maps": "whole"})
    assert 0 <= swept.summary["threshold"] <= 0.59
    values = {"labels": {"mode": "dense", "background": {"kind": "cam", "alpha": 1}}}
    run(space, "seeds", "reused", values, {"data": "data", "maps": "whole"})
    crf = {"labels": "tags", "parameters": "deeplab-v2", "background_alpha": 1, "min_confidence": 0.95, "scale": 7}
    masks = run(space, "crf", "masks", crf, {"data": "data", "predictions": "whole"})
    values = np.concatenate([read_mask(path).ravel() for path in masks.path.glob("masks/*.png")])
    assert (values == 255).any()


def test_what_has_no_effect_is_refused(space, whole):
    with pytest.raises(ConfigError, match="cam is of classifiers"):
        run(space, "seeds", "no", {"source": SOURCE, "cam": {"flip": False}}, {"data": "data"})
    with pytest.raises(ConfigError, match="source has no effect with the input maps"):
        run(space, "seeds", "no", {"source": SOURCE}, {"data": "data", "maps": "whole"})
    with pytest.raises(ConfigError, match="has no weights"):
        run(space, "seeds", "no", {"source": "clip"}, {"data": "data"})
    with pytest.raises(ConfigError, match=r"source.weights names .*no.pt, which is not there"):
        run(space, "seeds", "no", {"source": {"name": "clip", "weights": "no.pt"}}, {"data": "data"})
    with pytest.raises(ArtifactError, match="needs the input 'classifier'"):
        run(space, "seeds", "no", {"source": SOURCE, "labels": {"background": "gradient"}}, {"data": "data"})


def test_random_weights_and_background_texts_of_classes_are_told(space, capsys):
    run_clip(space, "told", {"background": ["sky", "Fish", "sea"]})
    said = capsys.readouterr().err
    assert "whose maps mean nothing" in said
    assert "not background, since the data set has such classes: Fish" in said
