"""The stage crf: equal to the CRF on the labels that take part, over one process or several, resumable."""

from __future__ import annotations

import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

import stages.crf as module
from artifacts.errors import ArtifactError, ConfigError, DataError
from artifacts.masks import read_mask
from artifacts.score_maps import ScoreMaps, ScoreMapWriter
from stages.localization import crf_batches
from stages.localization.config import CrfConfig
from stages.localization.crf_parameters import PARAMETERS
from stages.localization.dense_crf import crf_from_labels, crf_labels, crf_probabilities
from stages.localization.grid import resize_maps
from stages.networks import upsample
from tests.artifacts.small_artifacts import change_json

SETTINGS = {"parameters": "deeplab-v2", "scale": 4}


@pytest.fixture(scope="module")
def predictions(bench):
    return bench.run("predict", "for-crf", {"splits": ["val", "train"], "image_labels": "exclude"})


@pytest.fixture(scope="module")
def seeds(bench, predictions):
    """Activation maps as `seeds` writes them: foreground only, each divided by its maximum."""
    probabilities = ScoreMaps(predictions)

    def write(writer):
        with ScoreMapWriter(writer, class_names=bench.dataset.class_names) as maps:
            for shard in maps.plan(bench.dataset.ids("train")):
                for image_id in shard:
                    record = probabilities[image_id]
                    scores = record.scores[1:] / record.scores[1:].max((1, 2), keepdims=True)
                    maps.add(image_id, scores, record.classes[1:], size=record.size, stride=record.stride)

    return bench.publish("seeds-for-crf", "seeds", write)


def masks_of(artifact) -> dict[str, np.ndarray]:
    return {path.stem: read_mask(path) for path in sorted(artifact.path.glob("masks/*.png"))}


def scores_at_full_size(record) -> np.ndarray:
    return upsample(torch.from_numpy(record.scores)[None], record.size, record.stride)[0].numpy()


@pytest.mark.parametrize("threshold", [0.0, 0.03, 0.2, 1.0])
def test_maps_without_a_chance_are_not_resized(threshold):
    rng = np.random.default_rng(0)
    left_out = 0
    for sharpness in (0.1, 1, 3):
        for _ in range(20):
            scores = np.exp(sharpness * rng.normal(size=(8, 5, 6))).astype(np.float32)
            scores *= rng.choice([0.001, 0.1, 1], size=(8, 1, 1))
            scores /= scores.sum(0) / rng.uniform(0.8, 1)  # classes of little probability are not in a score map
            chance = module.contenders(scores, threshold)
            present = module.present(resize_maps(scores, (19, 22), 4), threshold)
            assert chance[present].all()
            left_out += (~chance).sum()
    assert (left_out > 0) == (threshold > 0)


def test_equals_the_crf_called_directly_on_the_labels_present(bench, predictions):
    artifact = bench.run("crf", "crf", SETTINGS, {"predictions": "for-crf"})
    masks, maps = masks_of(artifact), ScoreMaps(predictions)
    assert sorted(masks) == list(maps.ids)
    parameters = CrfConfig(**SETTINGS).resolve()
    changed = 0
    for image_id, mask in masks.items():
        record = maps[image_id]
        scores = scores_at_full_size(record)
        wins = np.isin(np.arange(len(scores)), scores.argmax(0))
        keep = wins | (scores.max((1, 2)) >= 0.2) | (record.classes == 0)
        refined = crf_probabilities(bench.dataset.image(image_id), scores[keep], parameters)
        top = np.sort(refined, axis=0)
        clear = (top[-1] - top[-2] > 1e-3) if keep.sum() > 1 else np.ones(mask.shape, bool)
        np.testing.assert_array_equal(mask[clear], record.classes[keep][refined.argmax(0)][clear])
        changed += (mask != record.classes[scores.argmax(0)]).sum()
    assert changed > 0
    record = json.loads(artifact.file("classes.json").read_text())
    assert record["class_names"] == list(bench.dataset.class_names)
    assert artifact.kind == "masks"


def test_a_large_image_is_refined_on_a_copy_and_people_are_told(bench, predictions, capsys):
    whole = masks_of(bench.run("crf", "crf-whole", SETTINGS, {"predictions": "for-crf"}))
    capsys.readouterr()
    values = SETTINGS | {"max_pixels": 1500, "min_confidence": 0.3}
    limited = masks_of(bench.run("crf", "crf-limited", values, {"predictions": "for-crf"}))
    assert "of 10 images have more than 1,500 pixels" in capsys.readouterr().err
    assert limited.keys() == whole.keys()
    agreeing = [np.mean(limited[name] == whole[name]) for name in whole]
    assert all(limited[name].shape == whole[name].shape for name in whole)
    assert np.mean(agreeing) > 0.85


def test_labels_of_a_large_image_are_those_of_the_crf_on_a_copy_with_smaller_widths():
    rng = np.random.default_rng(0)
    image = np.array(Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((120, 100)))
    scores = rng.dirichlet(np.ones(3), (20, 24)).transpose(2, 0, 1).repeat(5, 1).repeat(5, 2).astype(np.float32)
    parameters = PARAMETERS["deeplab-v2"]
    best, confidence = crf_labels(image, scores, parameters, 3000)
    copy = np.array(Image.fromarray(image).resize((60, 50), Image.Resampling.BILINEAR))
    halves = scores.reshape(3, 50, 2, 60, 2).mean((2, 4))
    by_hand = crf_probabilities(copy, halves / halves.sum(0), parameters.at_scale(2))
    inner = best[::2, ::2] == by_hand.argmax(0)
    assert best.shape == confidence.shape == (100, 120)
    assert inner.mean() > 0.95
    plain = crf_probabilities(image, scores, parameters)
    for value, expected in zip(
        crf_labels(image, scores, parameters, 12_000), (plain.argmax(0), plain.max(0)), strict=True
    ):
        np.testing.assert_array_equal(value, expected)


def test_processes_change_nothing(bench, predictions):
    alone = bench.run("crf", "alone", SETTINGS | {"splits": ["val"]}, {"predictions": "for-crf"})
    beside = bench.run("crf", "beside", SETTINGS | {"splits": ["val"]}, {"predictions": "for-crf"}, workers=2)
    assert alone.manifest.content == beside.manifest.content
    assert sorted(masks_of(alone)) == list(bench.dataset.ids("val"))


def test_torch_gives_the_masks_of_pydensecrf(bench, predictions):
    known = masks_of(bench.run("crf", "crf", SETTINGS, {"predictions": "for-crf"}))
    found = masks_of(bench.run("crf", "by-torch", SETTINGS | {"backend": "torch"}, {"predictions": "for-crf"}))
    assert found.keys() == known.keys()
    assert np.mean([np.mean(found[name] == known[name]) for name in known]) >= 0.999


@pytest.mark.parametrize("pixels", [1, 5000, 2**21])
def test_images_refined_together_get_their_own_masks(bench, predictions, monkeypatch, pixels):
    """As on a GPU, in batches of any size; some images are refined on a copy with widths of its own."""
    values = SETTINGS | {"backend": "torch", "max_pixels": 3000, "min_confidence": 0.4}
    alone = masks_of(bench.run("crf", "one-by-one", values, {"predictions": "for-crf"}))
    monkeypatch.setattr(crf_batches, "PIXELS", pixels)

    def write(writer):
        config, maps = module.CrfStageConfig(**values), ScoreMaps(predictions)
        task = module.Refinement(bench.dataset, maps, config.resolve(), config, writer)
        steps = partial(module.prepare, task), zip(maps.ids), partial(module.write, task)
        assert len(list(crf_batches.refined_on_gpu(*steps, "cpu", threads=2))) == len(maps.ids)

    together = masks_of(bench.publish(f"together-{pixels}", "masks", write))
    assert together.keys() == alone.keys()
    assert np.mean([np.mean(together[name] == alone[name]) for name in alone]) >= 0.999


def test_labels_tags_uses_the_image_level_labels_only(bench):
    bench.run("predict", "everything", {"splits": ["train"], "min_class_probability": 0})
    artifact = bench.run("crf", "tags", SETTINGS | {"labels": "tags"}, {"predictions": "everything"})
    everything = bench.run("crf", "all", SETTINGS | {"labels": "all"}, {"predictions": "everything"})
    used = set()
    for image_id, mask in masks_of(artifact).items():
        assert set(np.unique(mask)) <= {0, *bench.dataset.tags(image_id)}
        used |= set(np.unique(masks_of(everything)[image_id])) - {0, *bench.dataset.tags(image_id)}
    assert used  # else the restriction would have done nothing


def test_confidence_below_the_threshold_is_unknown(bench, predictions):
    plain = masks_of(bench.run("crf", "crf", SETTINGS, {"predictions": "for-crf"}))
    artifact = bench.run("crf", "sure", SETTINGS | {"min_confidence": 0.9}, {"predictions": "for-crf"})
    unknown = 0
    for image_id, mask in masks_of(artifact).items():
        np.testing.assert_array_equal(mask[mask != 255], plain[image_id][mask != 255])
        unknown += (mask == 255).sum()
    assert unknown > 0


@pytest.mark.parametrize(
    "values", [{"background_score": 0.3}, {"background_alpha": 4.0}, {"parameters": "irn", "background_score": 0.3}]
)
def test_activation_maps_get_a_background(bench, seeds, values):
    config = module.CrfStageConfig(**({"parameters": "psa"} | values))
    artifact = bench.run("crf", "from-seeds", {"parameters": "psa"} | values, {"predictions": "seeds-for-crf"})
    maps = ScoreMaps(seeds)
    for image_id, mask in masks_of(artifact).items():
        record = maps[image_id]
        scores = scores_at_full_size(record)
        if config.background_alpha:
            background = (1 - scores.max(0)) ** config.background_alpha
        else:
            background = np.full(record.size, 0.3)
        stacked = np.concatenate([background[None], scores]).astype(np.float32)
        classes = np.array([0, *record.classes])
        keep = [k for k in range(len(stacked)) if k == 0 or stacked[k].max() >= 0.2 or (stacked.argmax(0) == k).any()]
        image = bench.dataset.image(image_id)
        if config.parameters == "irn":
            refined = crf_from_labels(image, stacked[keep].argmax(0), len(keep), PARAMETERS["irn"])
        else:
            refined = crf_probabilities(image, stacked[keep], PARAMETERS["psa"])
        top = np.sort(refined, axis=0)
        clear = (top[-1] - top[-2] > 1e-3) if len(keep) > 1 else np.ones(mask.shape, bool)
        np.testing.assert_array_equal(mask[clear], classes[keep][refined.argmax(0)][clear])


def test_own_images_are_refined_too(bench, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 256, (24, 30, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    bench.run("predict", "own-maps", {"images": str(tmp_path), "output": "probabilities"}, {"data": None})
    artifact = bench.run("crf", "own-crf", {"images": str(tmp_path)}, {"data": None, "predictions": "own-maps"})
    assert {name: mask.shape for name, mask in masks_of(artifact).items()} == {"a": (24, 30), "b": (24, 30)}
    Image.new("RGB", (30, 20)).save(tmp_path / "b.png")
    message = r"score maps of b are of 30x24 pixels \(width x height\), its image has 30x20"
    with pytest.raises(DataError, match=message) as caught:
        bench.run("crf", "other-size", {"images": str(tmp_path)}, {"data": None, "predictions": "own-maps"})
    assert caught.value.hint == "give the images that were predicted, or predict these"


def test_a_run_that_was_cut_off_is_continued(bench, predictions, monkeypatch):
    whole = bench.run("crf", "whole", SETTINGS, {"predictions": "for-crf"})
    refine, done = module.refine, []

    def counted(task, image_id):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(image_id)
        return refine(task, image_id)

    monkeypatch.setattr(module, "refine", counted)
    with pytest.raises(KeyboardInterrupt):
        bench.run("crf", "cut", SETTINGS, {"predictions": "for-crf"})
    done[:] = [*done, "past"]  # no longer 4: go on
    continued = bench.run("crf", "cut", SETTINGS, {"predictions": "for-crf"})
    assert continued.manifest.content == whole.manifest.content
    assert len(done) == len(set(done)) == len(masks_of(whole)) + 1  # nothing was made twice


def test_mistakes_are_named(bench, predictions, tmp_path):
    bench.run("predict", "masks-only", {"output": "masks"})
    with pytest.raises(ArtifactError, match="has masks only"):
        bench.run("crf", "x", {}, {"predictions": "masks-only"})
    with pytest.raises(DataError, match="'for-crf' has no score maps of 5 images: "):
        bench.run("crf", "x", {"splits": ["weak"]}, {"predictions": "for-crf"})
    with pytest.raises(ConfigError, match="parameters: unknown parameter set"):
        bench.run("crf", "x", {"parameters": "deeplab"}, {"predictions": "for-crf"})
    Image.new("RGB", (8, 8)).save(tmp_path / "stranger.png")
    with pytest.raises(DataError, match="has score maps of 10 images not in the data set or folder"):
        bench.run("crf", "x", {"images": str(tmp_path)}, {"data": None, "predictions": "for-crf"})
    with pytest.raises(ArtifactError, match=r"needs the input .data."):
        bench.run("crf", "x", {}, {"data": None, "predictions": "for-crf"})


@pytest.mark.parametrize("workers", [1, 2])
def test_a_damaged_chunk_names_shard_and_image(bench, predictions, workers):
    def write(writer):
        for path in predictions.path.glob("scores/*"):
            writer.write_bytes(f"scores/{path.name}", path.read_bytes())
        writer.write_bytes("classes.json", predictions.file("classes.json").read_bytes())

    damaged = bench.publish(f"damaged-{workers}", "predictions", write)
    victim = bench.dataset.ids("val")[2]
    import h5py

    shard = next(damaged.path.glob("scores/*.h5"))
    with h5py.File(shard, "r") as file:
        place = file[victim]["scores"].id.get_chunk_info(0)
    with shard.open("r+b") as file:
        file.seek(place.byte_offset + place.size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 255]))
    with pytest.raises(ArtifactError, match=victim) as caught:
        bench.run("crf", "x", SETTINGS, {"predictions": damaged.name}, workers=workers)
    assert shard.name in caught.value.message


def test_score_maps_of_an_image_of_another_size_are_named_before_they_are_resized(bench, predictions):
    victim = bench.dataset.ids("val")[0]

    def write(writer):
        with ScoreMapWriter(writer, class_names=bench.dataset.class_names, meaning="probability") as maps:
            maps.plan([victim])
            maps.add(victim, np.ones((1, 10, 10)), [0], size=(10_000, 10_000), stride=1000)
        names = list(bench.dataset.class_names)
        writer.write_json("classes.json", {"class_names": names, "ids": [victim], "splits": ["val"]})

    bench.publish("of-other-size", "predictions", write)
    with pytest.raises(DataError, match=f"score maps of {victim} are of 10000x10000"):
        bench.run("crf", "x", SETTINGS, {"predictions": "of-other-size"})


def test_an_image_that_is_gone_is_named(bench, predictions):
    victim = bench.dataset.image_path(bench.dataset.ids("val")[1])
    hidden = victim.with_suffix(".away")
    victim.rename(hidden)
    try:
        with pytest.raises(DataError, match=victim.stem):
            bench.run("crf", "gone", SETTINGS | {"iterations": 3}, {"predictions": "for-crf"}, workers=2)
    finally:
        hidden.rename(victim)


@pytest.mark.parametrize("kind", ["predictions", "seeds"])
def test_an_image_that_is_gone_from_the_index_of_score_maps_is_missed(bench, predictions, seeds, kind):
    """It was refined without that image, and nobody said so."""
    name = f"short-{kind}"
    source = predictions if kind == "predictions" else seeds
    shutil.copytree(source.path, bench.workspace.folder(name))
    victim = ScoreMaps(source).ids[-1]
    if kind == "seeds":
        change_json(bench.workspace.folder(name), "manifest.json", partial(_as_of_the_stage, bench), sign=False)
    change_json(bench.workspace.folder(name), "scores/index.json", lambda index: _without(index, victim))
    with pytest.raises(ArtifactError, match=f"different images than it was made from: {victim}"):
        bench.run("crf", "x", SETTINGS, {"predictions": name})


def _as_of_the_stage(bench, manifest):
    """The maps were published by hand: what the stage seeds would have recorded of them."""
    manifest["config"] = {"splits": ["train"]}
    manifest["inputs"] = {"data": {"artifact": "data", "content": bench.workspace.artifact("data").manifest.content}}


def _without(index, image_id):
    index["shards"] = {name: [i for i in ids if i != image_id] for name, ids in index["shards"].items()}


# --- the background score that was chosen for the maps ---


@pytest.fixture(scope="module")
def judged(bench, seeds):
    """The seeds judged at one threshold."""
    config = {"splits": ["train"], "thresholds": {"start": 0.37, "stop": 0.37}}
    return bench.run("evaluate", "judged", config, {"maps": "seeds-for-crf"})


def test_the_chosen_threshold_is_the_background_score(bench, seeds, judged):
    values = SETTINGS | {"labels": "tags"}
    chosen = bench.run("crf", "chosen", values, {"predictions": "seeds-for-crf", "threshold": "judged"})
    given = bench.run("crf", "given", values | {"background_score": 0.37}, {"predictions": "seeds-for-crf"})
    default = bench.run("crf", "default", values, {"predictions": "seeds-for-crf"})
    assert chosen.manifest.content == given.manifest.content != default.manifest.content
    assert chosen.summary["background_score"] == 0.37


def test_a_threshold_and_a_background_score_are_not_both_given(bench, judged):
    inputs = {"predictions": "seeds-for-crf", "threshold": "judged"}
    with pytest.raises(ConfigError, match="background_score and the threshold of 'judged' are both given"):
        bench.run("crf", "both", SETTINGS | {"background_score": 0.3}, inputs)
    with pytest.raises(ConfigError, match="background_alpha"):
        bench.run("crf", "both", SETTINGS | {"background_alpha": 4.0}, inputs)


def test_a_threshold_of_other_maps_is_refused(bench, seeds, judged, predictions):
    with pytest.raises(ArtifactError, match="chosen for other maps than those of 'for-crf'"):
        bench.run("crf", "other", SETTINGS, {"predictions": "for-crf", "threshold": "judged"})
    bench.run("crf", "scored-masks", SETTINGS, {"predictions": "for-crf"})
    bench.run("evaluate", "of-masks", {"splits": ["train"]}, {"predictions": "scored-masks"})
    with pytest.raises(ArtifactError, match="it has chosen no threshold"):
        bench.run("crf", "other", SETTINGS, {"predictions": "seeds-for-crf", "threshold": "of-masks"})
