"""The stage predict: masks and score maps against the network itself, own images, resume."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from artifacts import checkpoint
from artifacts.errors import ArtifactError, ConfigError, DataError
from artifacts.masks import read_mask, write_mask
from artifacts.score_maps import ScoreMaps
from stages.config import build
from stages.engine.label_sharing import respect_in_place
from stages.networks import build_segmenter, load_network, normalise, upsample
from stages.networks.config import NetworkConfig
from stages.predict import PredictConfig, _kept, chosen_ids, seen_classes, stored_maps, take_over
from tests.artifacts.small_artifacts import change_json
from tests.stages.data.conftest import Notes


def softmax_of(bench, image: np.ndarray) -> np.ndarray:
    """The network on one image, written out: (C, H, W)."""
    network = load_network(bench.workspace.artifact("segmenter"))
    inputs = normalise(torch.from_numpy(image).permute(2, 0, 1)[None])
    with torch.no_grad():
        return upsample(network(inputs), inputs.shape[2:], network.stride).softmax(1)[0].numpy()


def mask_of(artifact, image_id: str) -> np.ndarray:
    return read_mask(artifact.file(f"masks/{image_id}.png"))


@pytest.fixture(scope="module")
def both(bench):
    return bench.run("predict", "both", {"splits": ["val", "train"], "stride": 4})


def test_masks_are_the_argmax_and_maps_every_fourth_pixel(bench, both):
    ids = sorted((*bench.dataset.ids("val"), *bench.dataset.ids("train")))
    maps = ScoreMaps(both)
    assert maps.meaning == "probability"
    assert list(maps.ids) == ids
    assert maps.class_names == bench.dataset.class_names
    winners = set()
    for image_id in ids:
        expected = softmax_of(bench, bench.dataset.image(image_id))
        mask = mask_of(both, image_id)
        top = np.sort(expected, axis=0)
        clear = top[-1] - top[-2] > 1e-4  # elsewhere rounding may decide
        assert (mask == expected.argmax(0))[clear].all()
        assert mask.shape == bench.dataset.size(image_id)
        record = maps[image_id]
        assert (record.size, record.stride) == (mask.shape, 4)
        np.testing.assert_allclose(record.scores, expected[record.classes][:, ::4, ::4], atol=1e-3)
        left_out = np.setdiff1d(np.arange(len(expected)), record.classes)
        assert 0 in record.classes
        assert (expected[left_out][:, ::4, ::4] < 0.0101).all()
        winners |= set(np.unique(mask))
    assert len(winners) > 2  # the test would say little of a network that sees one class everywhere


def test_class_names_travel_with_the_result(bench, both):
    record = json.loads(both.file("classes.json").read_text())
    assert record["class_names"] == list(bench.dataset.class_names)
    assert record["splits"] == ["val", "train"]
    assert both.summary["images"] == 10


@pytest.mark.parametrize(("output", "folders"), [("masks", {"masks"}), ("probabilities", {"scores"})])
def test_only_what_is_asked_for_is_written(bench, both, output, folders):
    artifact = bench.run("predict", f"only-{output}", {"output": output})
    assert {path.name for path in artifact.path.iterdir() if path.is_dir()} == folders
    if output == "masks":
        for image_id in bench.dataset.ids("val"):
            np.testing.assert_array_equal(mask_of(artifact, image_id), mask_of(both, image_id))


def test_restricted_to_the_labels_of_the_image(bench):
    artifact = bench.run("predict", "restricted", {"splits": ["weak"], "image_labels": "exclude"})
    maps = ScoreMaps(artifact)
    for image_id in bench.dataset.ids("weak"):
        allowed = [0, *bench.dataset.tags(image_id)]
        expected = softmax_of(bench, bench.dataset.image(image_id))[allowed]
        mask = mask_of(artifact, image_id)
        assert set(np.unique(mask)) <= set(allowed)
        assert (mask == np.array(allowed)[expected.argmax(0)]).mean() > 0.999
        record = maps[image_id]
        assert set(record.classes) <= set(allowed)
        renormalised = expected / expected.sum(0)
        chosen = [allowed.index(c) for c in record.classes]
        np.testing.assert_allclose(record.scores, renormalised[chosen][:, ::4, ::4], atol=2e-3)


def test_pixels_below_the_confidence_are_unknown(bench, both):
    artifact = bench.run("predict", "confident", {"output": "masks", "min_confidence": 0.6})
    unknown = 0
    for image_id in bench.dataset.ids("val"):
        highest = softmax_of(bench, bench.dataset.image(image_id)).max(0)
        mask = mask_of(artifact, image_id)
        clear = abs(highest - 0.6) > 1e-4
        assert ((mask == 255) == (highest < 0.6))[clear].all()
        known = mask != 255
        np.testing.assert_array_equal(mask[known], mask_of(both, image_id)[known])
        unknown += (~known).sum()
    assert unknown > 0


@pytest.mark.parametrize("output", ["masks", "both"])
def test_confidence_is_the_highest_probability_of_each_pixel(bench, both, output):
    artifact = bench.run("predict", f"sure-{output}", {"output": output, "confidence": True})
    assert sorted(path.stem for path in artifact.path.glob("confidence/*")) == list(bench.dataset.ids("val"))
    for image_id in bench.dataset.ids("val"):
        confidence = read_mask(artifact.file(f"confidence/{image_id}.png"))
        ranked = np.sort(softmax_of(bench, bench.dataset.image(image_id)), 0)
        highest, doubt = ranked[-1], ranked[:-1].sum(0)
        assert np.abs(confidence - 255 * (1 - doubt**0.25)).max() <= 0.51
        assert np.abs(1 - (1 - confidence / 255) ** 4 - highest).max() <= 0.008
        np.testing.assert_array_equal(mask_of(artifact, image_id), mask_of(both, image_id))


def test_confidence_stays_where_a_pixel_is_unknown(bench):
    values = {"output": "masks", "confidence": True}
    plain = bench.run("predict", "sure-masks", values)
    strict = bench.run("predict", "sure-strict", values | {"min_confidence": 0.6})
    for image_id in bench.dataset.ids("val"):
        name = f"confidence/{image_id}.png"
        assert strict.file(name).read_bytes() == plain.file(name).read_bytes()
        confidence, mask = read_mask(strict.file(name)), mask_of(strict, image_id)
        assert (confidence[mask == 255] <= 52).all()
        assert (confidence[mask != 255] >= 52).all()  # 255 (1 - .4^.25) = 52.2


# --- parts of a selection, masks taken over ---


def publish_selection(bench, name: str, reliable: list[str], unreliable: list[str]) -> None:
    scores = dict.fromkeys(reliable, 1.0) | dict.fromkeys(unreliable, 0.5)
    record = {"scores": scores, "reliable": reliable, "unreliable": unreliable}
    bench.publish(name, "reliability", lambda writer: writer.write_json("reliability.json", record))


def test_an_id_that_is_gone_from_a_part_of_the_selection_is_missed(bench, halves):
    """It was left out, and nobody said so."""
    gone = halves["reliable"][0]
    publish_selection(bench, "short", halves["reliable"], halves["unreliable"])
    change_json(bench.workspace.folder("short"), "reliability.json", lambda record: record["reliable"].remove(gone))
    with pytest.raises(ArtifactError, match=f"not every image with a score is in one of the two parts: {gone}"):
        bench.run("predict", "x", {"splits": ["weak"], "part": "reliable"}, {"selection": "short"})


@pytest.fixture(scope="module")
def halves(bench) -> dict[str, list[str]]:
    ids = list(bench.dataset.ids("weak"))
    parts = {"reliable": [ids[0], ids[3]], "unreliable": [ids[1], ids[2], ids[4]]}
    publish_selection(bench, "ranks", parts["reliable"], parts["unreliable"])
    return parts


def names_of(artifact) -> list[str]:
    return sorted(path.stem for path in artifact.path.glob("masks/*.png"))


def test_a_part_of_a_selection_is_predicted(bench, halves):
    values = {"splits": ["weak"], "output": "masks"}
    everything = bench.run("predict", "weak-all", values)
    for part, ids in halves.items():
        made = bench.run("predict", f"weak-{part}", values | {"part": part}, {"selection": "ranks"})
        assert names_of(made) == sorted(ids) == sorted(made.json("classes.json")["ids"])
        assert made.summary["images"] == len(ids)
        for image_id in ids:
            np.testing.assert_array_equal(mask_of(made, image_id), mask_of(everything, image_id))


def test_a_selection_that_does_not_fit_is_refused(bench, halves):
    values = {"splits": ["weak"], "part": "reliable"}
    with pytest.raises(ArtifactError, match=r"needs the input .selection."):
        bench.run("predict", "x", values)
    with pytest.raises(ArtifactError, match="expected reliability"):
        bench.run("predict", "x", values, {"selection": "data"})
    publish_selection(bench, "foreign", ["2007_000032"], ["2007_000033"])
    with pytest.raises(ConfigError, match="5 of the 5 images of weak are not ranked in 'foreign'") as caught:
        bench.run("predict", "x", values, {"selection": "foreign"})
    assert caught.value.hint
    with pytest.raises(ConfigError, match="4 of the 9 images of weak, train are not ranked in 'ranks'"):
        bench.run("predict", "x", values | {"splits": ["weak", "train"]}, {"selection": "ranks"})
    publish_selection(bench, "none-reliable", [], list(bench.dataset.ids("weak")))
    with pytest.raises(ConfigError, match="none of the images of weak is in the reliable part of 'none-reliable'"):
        bench.run("predict", "x", values, {"selection": "none-reliable"})
    with pytest.raises(ConfigError, match="part chooses among the images of a data set"):
        build(PredictConfig, {"images": "holiday", "part": "reliable"}, "test")


def test_masks_of_keep_are_taken_over_byte_by_byte_and_not_predicted(bench, halves, monkeypatch):
    marked = np.full(bench.dataset.size(halves["reliable"][0]), 3, np.uint8)  # what no prediction would give

    def write(writer):
        for image_id in (*halves["reliable"], bench.dataset.ids("val")[0]):  # the last is of another split
            with writer.item(f"masks/{image_id}.png") as temporary:
                write_mask(temporary, marked)

    kept = bench.publish("kept-masks", "masks", write)
    values = {"splits": ["weak"], "output": "masks"}
    read, reads = type(bench.dataset).image, []
    monkeypatch.setattr(
        type(bench.dataset), "image", lambda self, image_id: reads.append(image_id) or read(self, image_id)
    )
    made = bench.run("predict", "completed", values, {"keep": "kept-masks"})
    assert sorted(reads) == halves["unreliable"]
    assert names_of(made) == list(bench.dataset.ids("weak"))
    everything = bench.run("predict", "weak-all", values)
    for image_id in names_of(made):
        source = kept if image_id in halves["reliable"] else everything
        assert made.file(f"masks/{image_id}.png").read_bytes() == source.file(f"masks/{image_id}.png").read_bytes()
    assert made.summary["images"] == 5


def test_keep_that_does_not_fit_is_refused(bench):
    bench.run("predict", "maps-only", {"output": "probabilities"})
    with pytest.raises(ConfigError, match="'maps-only', given as keep, holds no masks"):
        bench.run("predict", "x", {"output": "masks"}, {"keep": "maps-only"})
    for values in ({"output": "both"}, {"output": "masks", "confidence": True}):
        with pytest.raises(ConfigError, match="masks are taken over from 'keep'"):
            bench.run("predict", "x", values, {"keep": "both"})


def test_own_images_of_every_kind(bench, tmp_path):
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (30, 44, 3), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "photo.png")
    Image.fromarray(colour[:, :, 0]).save(tmp_path / "grey.png")
    Image.fromarray(np.dstack([colour, colour[:, :, :1]])).save(tmp_path / "clear.png")
    Image.fromarray(colour[:, :, 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(colour).save(tmp_path / "camera.jpg")
    values = {"images": str(tmp_path), "output": "masks"}
    artifact = bench.run("predict", "own", values, {"data": None})
    assert sorted(path.stem for path in artifact.path.glob("masks/*.png")) == [
        "camera",
        "clear",
        "deep",
        "grey",
        "photo",
    ]
    for name in ("photo", "grey", "deep", "clear", "camera"):
        with Image.open(artifact.file(f"masks/{name}.png")) as mask:
            assert (mask.size, mask.mode) == ((44, 30), "P")
    np.testing.assert_array_equal(mask_of(artifact, "grey"), mask_of(artifact, "deep"))
    assert json.loads(artifact.file("classes.json").read_text())["ids"][0] == "camera"
    # the images' content, not the folder's name, decides whether a result is fresh
    assert not bench.outcome("predict", "own", values, {"data": None}).ran
    Image.fromarray(255 - colour).save(tmp_path / "photo.png")
    assert bench.outcome("predict", "own", values, {"data": None}).ran


def test_what_is_left_out_of_a_folder_and_read_by_a_guess_was_not_told(bench, tmp_path):
    values = np.random.default_rng(0).integers(0, 4096, (30, 44)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    Image.fromarray((values // 16).astype(np.uint8)).save(tmp_path / "eight.png")
    (tmp_path / "b.heic").write_bytes(b"none")
    progress = Notes()
    settings = {"images": str(tmp_path), "output": "probabilities"}
    bench.run("predict", "guessed", settings, {"data": None}, progress=progress)
    assert any("2 of 3 files" in note and "b.heic" in note for note in progress.said)
    assert any("deep.png (" in note and "of 0..65535, 16 grey levels)" in note for note in progress.said)
    progress = Notes()
    made = bench.run("predict", "said", settings | {"white": 4095}, {"data": None}, progress=progress)
    assert len(progress.said) == 1
    maps = ScoreMaps(made)
    np.testing.assert_array_equal(maps["deep"].scores, maps["eight"].scores)
    crf = {"images": str(tmp_path), "white": 4095}
    refined = bench.run("crf", "refined", crf, {"data": None, "predictions": "said"})
    np.testing.assert_array_equal(mask_of(refined, "deep"), mask_of(refined, "eight"))
    with pytest.raises(ConfigError, match="white has no effect without images"):
        bench.run("crf", "x", {"white": 4095}, {"predictions": "said"})
    with pytest.raises(ConfigError, match="white has no effect without images"):
        build(PredictConfig, {"white": 4095}, "test")


@pytest.mark.parametrize("output", ["both", "masks", "probabilities", "confidence", "overlays", "keep"])
def test_a_run_that_was_cut_off_is_continued_to_the_same_bytes(bench, monkeypatch, output):
    import stages.predict as module

    monkeypatch.setattr(module, "SHARD_SIZE", 2)
    values, inputs = {"splits": ["val", "train"], "output": output}, {}
    if output == "confidence":
        values |= {"output": "masks", "confidence": True}
    if output == "overlays":
        values |= {"output": "both", "overlays": "jpg"}
    if output == "keep":
        bench.run("predict", "of-val", {"output": "masks"})
        values, inputs = values | {"output": "masks", "splits": ["val", "train", "weak"]}, {"keep": "of-val"}
    whole = bench.run("predict", f"whole-{output}", values, inputs)
    read = type(bench.dataset).image
    reads: list[str] = []

    def cut_off(self, image_id):
        reads.append(image_id)
        if len(reads) == 7:
            raise KeyboardInterrupt
        return read(self, image_id)

    monkeypatch.setattr(type(bench.dataset), "image", cut_off)
    with pytest.raises(KeyboardInterrupt):
        bench.run("predict", f"cut-{output}", values, inputs)
    first = len(reads)
    monkeypatch.setattr(
        type(bench.dataset), "image", lambda self, image_id: reads.append(image_id) or read(self, image_id)
    )
    continued = bench.run("predict", f"cut-{output}", values, inputs)
    assert continued.manifest.resumed == 1
    assert continued.manifest.content == whole.manifest.content
    if output in ("both", "probabilities"):  # whole shards were kept
        assert len(reads) - first < 10


def test_a_rank_that_begins_when_another_has_ended_leaves_no_image_out(bench, by_two_ranks):
    """It finds fewer masks missing than the other did: what it makes must not depend on that."""
    import stages.predict as module

    inputs = {"data": bench.workspace.artifact("data"), "segmenter": bench.workspace.artifact("segmenter")}
    written, _, reads = by_two_ranks(module, {"splits": ["val", "train", "weak"], "output": "masks"}, inputs)
    assert sorted(reads) == written["classes.json"]["ids"]


def test_mistakes_are_named(bench, tmp_path):
    with pytest.raises(ArtifactError, match=r"needs the input .data."):
        bench.run("predict", "x", {}, {"data": None})
    with pytest.raises(DataError, match="holds no image"):
        bench.run("predict", "x", {"images": str(tmp_path)}, {"data": None})
    with pytest.raises(ConfigError, match="confidence needs masks"):
        build(PredictConfig, {"output": "probabilities", "confidence": True}, "test")
    with pytest.raises(ConfigError, match="nothing to predict"):
        build(PredictConfig, {"splits": []}, "test")
    with pytest.raises(ArtifactError, match="expected segmenter"):
        bench.run("predict", "x", {}, {"segmenter": "data"})


def test_a_network_for_other_classes_is_refused(bench):
    bench.add_segmenter("stranger", ("background", "cat"))
    with pytest.raises(ConfigError, match="the network knows the classes background, cat"):
        bench.run("predict", "x", {}, {"segmenter": "stranger"})


# --- many classes ---


@pytest.fixture(scope="module")
def hardly_trained(bench, tmp_path_factory):
    """Images of one's own, predicted by a network whose 182 classes are all about as probable, 1 % and less."""
    names = ("background", *(f"class {number}" for number in range(1, 182)))
    network = build_segmenter(NetworkConfig.model_validate("tiny"), len(names), seed=3)
    with torch.no_grad():
        for parameter in list(network.head.parameters())[-2:]:
            parameter.normal_(std=0.01, generator=torch.Generator().manual_seed(0))

    def write(writer):
        with writer.item("weights.pt") as temporary:
            checkpoint.save(temporary, network.state_dict())
        writer.write_json("network.json", network.spec(names))

    bench.publish("hardly-trained", "segmenter", write)
    folder = tmp_path_factory.mktemp("own")
    for image_id in bench.dataset.ids("val"):
        Image.fromarray(bench.dataset.image(image_id)).save(folder / f"{image_id}.png")
    values = {"images": str(folder), "stride": 1}
    return folder, bench.run("predict", "many", values, {"data": None, "segmenter": "hardly-trained"})


def test_a_class_that_wins_with_less_than_a_hundredth_is_kept_in_the_score_maps(bench, hardly_trained):
    """They were left out, and only background stayed."""
    _, artifact = hardly_trained
    maps, winners = ScoreMaps(artifact), set()
    for image_id, record in maps.items():
        mask = mask_of(artifact, image_id)
        assert record.scores.max() < 0.01
        np.testing.assert_array_equal(record.classes[record.scores.argmax(0)], mask)
        assert len(record.classes) < 182 / 2  # those that win nowhere are still left out
        winners |= set(np.unique(mask))
    assert len(winners) > 3


def test_the_crf_of_many_improbable_classes_does_not_make_all_of_them_background(bench, hardly_trained):
    folder, artifact = hardly_trained
    values = {"images": str(folder), "iterations": 0}
    refined = bench.run("crf", "many-refined", values, {"data": None, "predictions": "many"})
    for image_id in bench.dataset.ids("val"):
        mask = mask_of(artifact, image_id)
        assert len(np.unique(mask)) > 1
        np.testing.assert_array_equal(mask_of(refined, image_id), mask)  # the CRF without a step leaves the argmax


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32), classes=st.integers(2, 255), spread=st.sampled_from([0, 1e-4, 1e-2, 1, 9]))
def test_what_is_kept_has_the_winners_of_all_probabilities(seed, classes, spread):
    logits = spread * torch.randn(1, classes, 9, 7, generator=torch.Generator().manual_seed(seed))
    probabilities = logits.softmax(1)
    config = PredictConfig.model_validate({"stride": 2, "output": "probabilities"})
    found = {name: values[0].numpy() for name, values in _kept(probabilities, config).items()}
    scores, kept = stored_maps(found["scores"], found["highest"], found["wins"], config.min_class_probability)
    assert (kept[0], scores.dtype) == (0, np.float16)
    expected = probabilities[0, :, ::2, ::2].numpy()
    np.testing.assert_array_equal(kept[scores.argmax(0)], expected.argmax(0))
    np.testing.assert_allclose(scores, expected[kept], rtol=2**-9, atol=1e-6)
    probable = {c for c in range(classes) if expected[c].max() >= 0.0101}
    assert probable | {0} | set(expected.argmax(0).ravel()) <= set(kept)


def test_a_network_that_overflows_is_named_and_no_mask_is_made_of_it(bench):
    network = load_network(bench.workspace.artifact("segmenter"))
    with torch.no_grad():
        for parameter in list(network.head.parameters())[-2:]:
            parameter.fill_(3e38)

    def write(writer):
        with writer.item("weights.pt") as temporary:
            checkpoint.save(temporary, network.state_dict())
        writer.write_json("network.json", network.spec(bench.dataset.class_names))

    bench.publish("overflowing", "segmenter", write)
    for output in ("masks", "probabilities"):
        with pytest.raises(DataError, match="numbers that are not finite"):
            bench.run("predict", "overflown", {"output": output}, {"segmenter": "overflowing"})


# --- a classifier beside the segmenter ---


@pytest.fixture(scope="module")
def classifier(bench):
    """Trained for a few steps, so that its scores differ between classes and images."""
    values = {"iterations": 4, "batch_size": 4, "crop_size": 48, "optimizer": {"lr": 1e-2}}
    return bench.run("train-classifier", "classifier", values)


def seen_by(bench, classifier, image_id: str) -> np.ndarray:
    """Its probabilities of one image, resized as in training: (K,)."""
    image = Image.fromarray(bench.dataset.image(image_id)).resize((48, 48), Image.Resampling.BILINEAR)
    with torch.no_grad():
        logits = load_network(classifier)(normalise(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]))
    return logits[0].sigmoid().numpy()


def test_only_the_background_and_what_the_classifier_sees_may_win(bench, classifier, both):
    """Class k + 1 is the classifier's column k; compared with probabilities zeroed one by one."""
    ids = bench.dataset.ids("val")
    scores = {image_id: seen_by(bench, classifier, image_id) for image_id in ids}
    threshold = float(np.median(np.concatenate(list(scores.values())))) + 1e-6
    values = {"class_threshold": threshold, "splits": ["val"]}
    artifact = bench.run("predict", "fused", values, {"classifier": "classifier"})
    changed = 0
    for image_id in ids:
        expected = softmax_of(bench, bench.dataset.image(image_id))
        for k, score in enumerate(scores[image_id]):
            if score < threshold:
                expected[k + 1] = 0
        mask = mask_of(artifact, image_id)
        assert (mask == expected.argmax(0)).mean() > 0.999
        assert set(np.unique(mask)) <= {0, *(int(k) + 1 for k in np.flatnonzero(scores[image_id] >= threshold))}
        changed += (mask != mask_of(both, image_id)).sum()
        record = ScoreMaps(artifact)[image_id]
        assert 0 in record.classes
        np.testing.assert_allclose(record.scores, (expected / expected.sum(0))[record.classes][:, ::4, ::4], atol=2e-3)
    assert changed > 0


@pytest.mark.parametrize(("threshold", "alone"), [(1.0, True), (0.0, False)])
def test_without_any_class_all_is_background_and_with_all_of_them_nothing_changes(
    bench, classifier, both, threshold, alone
):
    values = {"class_threshold": threshold, "output": "masks"}
    artifact = bench.run("predict", f"fused-{threshold}", values, {"classifier": "classifier"})
    for image_id in bench.dataset.ids("val"):
        expected = np.zeros_like(mask_of(both, image_id)) if alone else mask_of(both, image_id)
        np.testing.assert_array_equal(mask_of(artifact, image_id), expected)


def test_a_removed_class_cannot_win_over_negative_logits():
    """Trap: the published code multiplies logits by 0 or 1, and 0 is more than -3."""
    logits = torch.tensor([-3.0, 5.0, -4.0]).view(1, 3, 1, 1)
    assert (logits * torch.tensor([1.0, 0.0, 1.0]).view(1, 3, 1, 1)).argmax(1).item() == 1
    restricted = logits.softmax(1)
    respect_in_place(restricted, np.array([[0, 1]], np.float32), "exclude")
    assert restricted.flatten().tolist() == pytest.approx([1 / (1 + np.exp(-1)), 0, 1 / (1 + np.exp(1))])
    sure = torch.tensor([-200.0, 200.0, -200.0]).view(1, 3, 1, 1).softmax(1)  # nothing but the removed class
    respect_in_place(sure, np.zeros((1, 2), np.float32), "exclude")
    assert sure.flatten().tolist() == [1, 0, 0]


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=6), st.floats(0, 1))
def test_a_class_is_seen_if_its_probability_reaches_the_threshold(logits, threshold):
    seen = seen_classes(np.array([logits], np.float32), threshold)
    assert seen.shape == (1, len(logits))
    with np.errstate(over="ignore"):
        probabilities = [1 / (1 + np.exp(-np.float64(np.float32(logit)))) for logit in logits]
    for found, probability in zip(seen[0], probabilities, strict=True):
        assert found in (0, 1)
        assert abs(probability - threshold) < 1e-6 or found == (probability >= threshold)


def test_a_classifier_on_own_images(bench, classifier, tmp_path):
    image_id = bench.dataset.ids("val")[0]
    Image.fromarray(bench.dataset.image(image_id)).save(tmp_path / "photo.png")
    values = {"images": str(tmp_path), "output": "masks", "class_threshold": 1.0}
    artifact = bench.run("predict", "fused-own", values, {"data": None, "classifier": "classifier"})
    assert mask_of(artifact, "photo").max() == 0


def test_a_classifier_of_other_classes_is_refused(bench, classifier):
    bench.add_segmenter("strange-segmenter", ("background", "x", "y"))
    with pytest.raises(ConfigError, match="the classifier knows the classes background"):
        bench.run("predict", "strange", {}, {"segmenter": "strange-segmenter", "classifier": "classifier"})


class Counted(str):
    """An id that counts how often it is compared with another."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_the_parts_of_long_lists_are_found_without_comparing_all_with_all(tmp_path, monkeypatch):
    """ST++'s code looks ids up in lists: minutes of a hundred thousand images."""
    count = 3000
    ids, names = [Counted(f"{number:06d}") for number in range(count)], [f"{number:06d}" for number in range(count)]
    record = {"scores": dict.fromkeys(names, 0.5), "reliable": names[::2], "unreliable": names[1::2]}
    ranked = SimpleNamespace(name="ranks", json=lambda file, shape: shape.model_validate(record))
    monkeypatch.setattr(Counted, "compared", 0)
    assert chosen_ids(ids, PredictConfig(part="unreliable"), ranked) == names[1::2]
    (tmp_path / "masks").mkdir()
    for name in names[::30]:
        (tmp_path / "masks" / f"{name}.png").touch()
    kept = SimpleNamespace(path=tmp_path)
    assert len(take_over(kept, ids, None, main=False)) == count - count // 30
    assert Counted.compared < 10 * count
