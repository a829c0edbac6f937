"""The stage segments: superpixels and SAM, what vote makes of them, interruptions, ranks, and weights that are none."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco

from artifacts.errors import ArtifactError, ConfigError, DataError
from artifacts.image_segments import document_of, item_of
from artifacts.store import Work
from stages.config import build
from stages.contract import Execution
from stages.localization.segment_layers import region_layers
from stages.localization.segments_config import SegmentsConfig
from stages.segments import STAGE
from tests.stages.drawn_training import StopAt, StoppedError
from tests.stages.test_vote import INPUTS, content, noisy  # noqa: F401  (noisy is a fixture)

DATA = {"data": "data"}


def masks_in(artifact, image_id):
    """The masks of an image, (n, H, W), as COCO's own code reads them."""
    entries = artifact.json(f"segments/{image_id}.json")["annotations"]
    return np.array([coco.decode(entry["segmentation"]) for entry in entries]).astype(bool)


def test_superpixels_are_the_regions_of_vote(bench):
    made = bench.run("segments", "regions", {"source": {"regions": [9, 30]}, "splits": ["weak"]}, DATA)
    assert {path.stem for path in (made.path / "segments").iterdir()} == set(bench.dataset.ids("weak"))
    for image_id in bench.dataset.ids("weak"):
        layers = region_layers(bench.dataset.image(image_id), (9, 30))
        masks = masks_in(made, image_id)
        assert len(masks) == layers.max() + 1
        for number, mask in enumerate(masks):
            assert np.array_equal(mask, (layers == number).any(0))


def test_a_vote_of_stored_regions_of_the_same_regions_and_of_their_folder_is_one(bench, noisy):  # noqa: F811
    made = bench.run("segments", "kept", {"source": {"regions": [40]}}, DATA)
    expected = bench.run("vote", "at-once", {"regions": [40]}, INPUTS)
    stored = bench.run("vote", "stored", {}, INPUTS | {"segments": "kept"})
    folder = bench.run("vote", "folder", {"segments": str(made.path / "segments")}, INPUTS)
    assert stored.manifest.content == expected.manifest.content == folder.manifest.content
    assert "segments" in stored.manifest.inputs


def test_an_interruption_workers_and_ranks_change_nothing(bench, monkeypatch):
    values = {"source": {"regions": [20]}}
    whole = bench.run("segments", "whole", values, DATA)
    with pytest.raises(StoppedError):
        bench.run("segments", "cut", values, DATA, progress=StopAt(2))
    cut = bench.run("segments", "cut", values, DATA, workers=2)
    assert cut.manifest.resumed == 1
    assert cut.manifest.content == whole.manifest.content


def test_two_ranks_make_what_one_makes(bench, monkeypatch):
    values = {"source": {"regions": [20]}}
    one = bench.run("segments", "by-one", values, DATA)
    config, inputs = build(SegmentsConfig, values, "test"), STAGE.open({"data": bench.workspace.artifact("data")})
    with bench.workspace.writing("by-two", Work("segments", 1, "segments", "0" * 64, {}, {}, {})) as writer:
        for rank, count in ((1, 4), (0, 9)):
            monkeypatch.setenv("RANK", str(rank))
            monkeypatch.setenv("WORLD_SIZE", "2")
            STAGE.run(config, inputs, writer, Execution(device="cpu", workers=1))
            assert len(list((writer.path / "segments").iterdir())) == count
        for item in one.manifest.items:
            assert (writer.path / item).read_bytes() == one.file(item).read_bytes()
        writer.discard()


def test_images_without_segments_and_a_second_source_are_refused(bench, noisy, tmp_path):  # noqa: F811
    bench.run("segments", "few", {"source": {"regions": [5]}, "splits": ["train"]}, DATA)
    with pytest.raises(DataError, match="few has no segments of 5 of 5 images"):
        bench.run("vote", "nothing", {}, INPUTS | {"segments": "few"})
    with pytest.raises(ConfigError, match="two sources of segments"):
        bench.run("vote", "nothing", {"segments": str(tmp_path)}, INPUTS | {"segments": "few"})


def test_segments_of_different_images_are_refused(bench, noisy):  # noqa: F811
    document = document_of([np.ones((3, 3), bool)])

    def write(writer):
        for image_id in bench.dataset.ids("weak"):
            writer.write_json(item_of(image_id), document)

    bench.publish("foreign", "segments", write)
    with pytest.raises(DataError, match=r"in foreign do not fit its image: .* for the size \[3, 3\]"):
        bench.run("vote", "nothing", {}, INPUTS | {"segments": "foreign"})


def test_a_changed_file_is_named(bench, noisy, tmp_path):  # noqa: F811
    made = bench.run("segments", "changed", {"source": {"regions": [5]}}, DATA)
    file = made.file(item_of(bench.dataset.ids("weak")[0]))
    file.write_bytes(file.read_bytes().replace(b'"counts":"', b'"counts":"0'))
    with pytest.raises(ArtifactError, match=file.name):
        bench.run("vote", "nothing", {}, INPUTS | {"segments": "changed"})


# --- SAM ---

SAM = {"name": "sam", "points": 4, "predicted_iou": 0, "stability": 0}


def test_sam_without_weights_is_refused_before_any_work(bench):
    with pytest.raises(ConfigError, match="source: sam has no weights"):
        bench.run("segments", "nothing", {"source": "sam"}, DATA)


@pytest.mark.parametrize("resumed", [False, True])
def test_segments_of_a_small_sam(bench, noisy, resumed):  # noqa: F811
    pytest.importorskip("transformers")
    values, name = {"source": SAM | {"weights": "none"}, "splits": ["weak"]}, f"sam-{resumed}"
    if resumed:
        with pytest.raises(StoppedError):
            bench.run("segments", name, values, DATA, progress=StopAt(2))
    made = bench.run("segments", name, values, DATA)
    assert made.manifest.content == bench.run("segments", "sam-False", values, DATA).manifest.content
    voted = bench.run("vote", f"voted-{name}", {}, INPUTS | {"segments": name})
    folder = bench.run("vote", f"folder-{name}", {"segments": str(made.path / "segments")}, INPUTS)
    assert voted.manifest.content == folder.manifest.content
    for image_id in bench.dataset.ids("weak"):
        ratings = [one["predicted_iou"] for one in made.json(item_of(image_id))["annotations"]]
        assert ratings == sorted(ratings, reverse=True)


def test_an_image_in_which_sam_finds_nothing_keeps_its_mask(bench, noisy):  # noqa: F811
    pytest.importorskip("transformers")
    bench.run("segments", "empty", {"source": SAM | {"weights": "none", "predicted_iou": 1}}, DATA)
    voted = bench.run("vote", "unchanged", {}, INPUTS | {"segments": "empty"})
    before, after = content(noisy), content(voted)
    assert all(np.array_equal(before[image_id], after[image_id]) for image_id in before)


def test_wrong_weights_are_an_error_before_anything_is_begun(bench, tmp_path):
    pytest.importorskip("transformers")
    file = tmp_path / "sam.pth"
    file.write_bytes(b"no weights")
    with pytest.raises(ConfigError, match="is damaged or not a checkpoint"):
        bench.run("segments", "wrong", {"source": SAM | {"weights": str(file)}}, DATA)
    assert not bench.workspace.partials("wrong")


def test_sam_without_its_package_is_refused(bench, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "transformers" else name)
    with pytest.raises(ConfigError, match="needs transformers, which is not installed") as caught:
        bench.run("segments", "nothing", {"source": SAM | {"weights": "none"}}, DATA)
    assert "semiseg[sam]" in str(caught.value.hint)
