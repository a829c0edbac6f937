"""Score maps that are cut as the images are: where their cells lie, what pads them, and how streams carry them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from artifacts.errors import ArtifactError, ConfigError, DataError
from artifacts.score_maps import ScoreMap, ScoreMaps, ScoreMapWriter
from artifacts.store import Writer
from stages.config import build
from stages.engine.augmentation import Geometry, cut_image, cut_maps, draw_geometry, valid_area
from stages.engine.batch import to_device
from stages.engine.config import AugmentationConfig
from stages.engine.loop import _Samples
from stages.engine.streams import Entry, MapSource, SampleMaker, Stream
from stages.methods.training import check_maps

AUGMENTATION = build(AugmentationConfig, {"scale": [0.7, 1.5]}, "test")


def ramp(size, stride, along=1):
    """One map of class 1 whose value at a pixel is its column (or row) / 100."""
    cells = [-(-side // stride) for side in size]
    values = np.broadcast_to(
        (np.arange(cells[along]) * stride / 100)[(None, slice(None))[:: 1 if along else -1]], cells
    )
    return ScoreMap("a", values[None].astype(np.float32), np.array([1], np.uint8), size, stride, "cam")


def columns(geometry, crop_size, stride, map_stride=4):
    """What the first row of cells shows: columns of the image."""
    cut = cut_maps(ramp((20, 20), map_stride), 3, geometry, crop_size, stride, -1.0)
    return (100 * cut[1, 0]).tolist()


def test_columns_by_hand():
    """Cell i is pixel 4 i of the crop; the middle of pixel x at twice the size is (x + 1/2) / 2 - 1/2 of the image."""
    part, double = (4, 4, 12, 12), (4, 4, 8, 8)
    assert columns(Geometry(part, (8, 8), False), 8, 4) == pytest.approx([4, 8])
    assert columns(Geometry(part, (8, 8), True), 8, 4) == pytest.approx([11, 7])
    assert columns(Geometry(part, (8, 8), False), 8, 2) == pytest.approx([4, 6, 8, 10])
    assert columns(Geometry(double, (8, 8), False), 8, 4) == pytest.approx([3.75, 5.75])
    assert columns(Geometry(double, (8, 8), True), 8, 4) == pytest.approx([7.25, 5.25])
    assert columns(Geometry((0, 0, 20, 20), (10, 10), False), 10, 8) == pytest.approx([0.5, 16])  # cells end at 16
    assert columns(Geometry((0, 0, 20, 20), (10, 10), False), 12, 4) == pytest.approx([0.5, 8.5, 16])
    assert columns(Geometry((0, 0, 8, 20), (8, 20), False), 20, 4) == pytest.approx([0, 4, -100, -100, -100])
    assert columns(Geometry((0, 0, 8, 20), (8, 20), True), 20, 4) == pytest.approx([-100, -100, -100, 7, 3])
    assert columns(Geometry(part, (8, 8), False), 8, 1, map_stride=1) == pytest.approx(range(4, 12))


def drawn_geometry(seed, size, crop_size, **more):
    return draw_geometry(build(AugmentationConfig, more, "test"), size, crop_size, np.random.default_rng(seed))


CASES = given(
    size=st.tuples(st.integers(9, 60), st.integers(9, 60)),
    crop_size=st.integers(9, 50),
    strides=st.tuples(st.sampled_from([1, 4, 8]), st.sampled_from([1, 4, 8])),
    seed=st.integers(0, 999),
)


@settings(max_examples=100)
@CASES
@pytest.mark.parametrize("along", [0, 1])
def test_a_ramp_lies_where_that_of_the_image_lies(along, size, crop_size, strides, seed):
    """An image whose red is the column: what the cut image shows on the centres of the cells, the cut map shows too."""
    geometry = drawn_geometry(seed, size, crop_size, scale=[1.0, 3.0])
    image = np.zeros((*size, 3), np.uint8)
    image += np.expand_dims(4 * np.arange(size[along], dtype=np.uint8), (1 - along, 2))  # below 256
    shown = cut_image(image, geometry, crop_size)[:: strides[1], :: strides[1], 0] / 4
    cut = 100 * cut_maps(ramp(size, strides[0], along), 3, geometry, crop_size, strides[1], -1.0)[1]
    assert cut.shape == shown.shape
    # Pillow rounds to quarters of a column, once a direction; beyond the last cell the map has no slope.
    last = (size[along] - 1) // strides[0] * strides[0]
    inside = valid_area(geometry, crop_size)[:: strides[1], :: strides[1]]
    np.testing.assert_allclose(cut[inside], np.minimum(shown, last)[inside], atol=0.51)


@settings(max_examples=100)
@CASES
def test_a_constant_map_stays_one_and_padding_is_where_the_image_has_it(size, crop_size, strides, seed):
    geometry = drawn_geometry(seed, size, crop_size, scale=[0.4, 2.0])
    cells = [-(-side // strides[0]) for side in size]
    scores = np.full((2, *cells), [[[0.25]], [[0.75]]], np.float32)
    maps = ScoreMap("a", scores, np.array([0, 3], np.uint8), size, strides[0], "cam")
    cut = cut_maps(maps, 4, geometry, crop_size, strides[1], -7.0)
    inside = valid_area(geometry, crop_size)[:: strides[1], :: strides[1]]
    for channel, value in enumerate((0.25, 0, 0, 0.75)):
        np.testing.assert_allclose(cut[channel], np.where(inside, value, -7), rtol=1e-6)


@settings(max_examples=60)
@given(cells=st.integers(2, 8), stride=st.sampled_from([1, 4, 8]), seed=st.integers(0, 999))
def test_the_map_of_a_mirrored_image_is_the_mirrored_map(cells, stride, seed):
    """To the bit where the crop ends on the centre of a cell: only then do the cells lie alike from both sides."""
    random = np.random.default_rng(seed)
    maps = ScoreMap("a", random.random((2, 7, 9), np.float32), np.array([1, 2], np.uint8), (28, 36), 4, "cam")
    crop_size = stride * (cells - 1) + 1
    plain = drawn_geometry(seed, (28, 36), crop_size, flip=False)
    turned = Geometry(plain.box, plain.size, True)
    one, other = (cut_maps(maps, 3, geometry, crop_size, stride, -1.0) for geometry in (plain, turned))
    assert np.array_equal(other, one[:, :, ::-1])


# --- as streams carry them ---


@pytest.fixture
def written(training, tmp_path):
    """Score maps of the drawn images: random, of the classes each has; in shards of three."""

    def write(name="maps", ids=None, sizes=None, class_names=None):
        dataset = training.dataset
        ids = sorted([*dataset.ids("train"), *dataset.ids("weak")]) if ids is None else ids
        writer = Writer(tmp_path / name)
        with ScoreMapWriter(writer, class_names=class_names or dataset.class_names, shard_size=3) as maps:
            for image_id in [image_id for shard in maps.plan(ids) for image_id in shard]:
                size = (sizes or {}).get(image_id, dataset.size(image_id))
                classes = dataset.tags(image_id)
                cells = [-(-side // 4) for side in size]
                scores = np.random.default_rng(ids.index(image_id)).random((len(classes), *cells))
                maps.add(image_id, scores, classes, size=size, stride=4)
        return ScoreMaps(tmp_path / name)

    return write


def make(training, maps, rank=0, world_size=1, stride=8, **more):
    entries = [Entry(image_id, None) for image_id in training.dataset.ids("weak")]
    streams = {"weak": Stream(entries, 4, maps=MapSource("seeds", stride=stride, padding=-1.0))}
    given = {"seeds": maps}
    return SampleMaker(training.dataset, streams, {}, AUGMENTATION, 33, 5, rank, world_size, maps=given, **more)


def test_a_batch_carries_them_as_floats_of_all_classes(training, written):
    batch = to_device(make(training, written())[0]["weak"], torch.device("cpu"))
    assert (batch.maps.shape, batch.maps.dtype) == ((4, 4, 5, 5), torch.float32)
    assert batch.extra == {}
    inside = batch.valid[:, ::8, ::8]
    assert 0 < inside.sum() < inside.numel()
    for maps, known, tags in zip(batch.maps, inside, batch.tags, strict=True):
        assert (maps[:, ~known] == -1).all()
        present = torch.cat([torch.zeros(1), tags]).bool()
        assert (maps[~present][:, known] == 0).all()
        assert (maps[present][:, known] > 0).all()
    without = make(training, written("again"))
    without.orders["weak"].stream = Stream(without.orders["weak"].stream.entries, 4)
    assert to_device(without[0]["weak"], torch.device("cpu")).maps.numel() == 0


def test_the_images_are_those_of_a_stream_without_maps(training, written):
    maker = make(training, written())
    with_maps = maker[3]["weak"]
    maker.orders["weak"].stream = Stream(maker.orders["weak"].stream.entries, 4)
    assert torch.equal(maker[3]["weak"]["image"], with_maps["image"])


def test_they_are_the_same_from_any_number_of_processes_and_after_a_fork(training, written):
    """Also where this process has opened the shards before."""
    maps = written()
    maker = make(training, maps, cache_bytes=0)
    expected = [maker[step]["weak"]["maps"] for step in range(6)]  # opens the shards here
    for workers in (1, 2):
        loader = DataLoader(_Samples(maker), batch_size=None, sampler=range(6), num_workers=workers)
        for packed, value in zip(loader, expected, strict=True):
            assert torch.equal(packed.unpack()["weak"]["maps"], value)
    assert torch.equal(pickle.loads(pickle.dumps(maker))[5]["weak"]["maps"], expected[5])
    assert torch.equal(make(training, maps)[5]["weak"]["maps"], expected[5])  # with space to keep them
    left, right = (make(training, maps, rank, 2)[5]["weak"]["maps"] for rank in range(2))
    assert torch.equal(torch.cat([left, right]), expected[5])


def test_what_is_kept_of_them_is_bounded(training, written):
    maker = make(training, written(), cache_bytes=10_000)
    for step in range(6):
        maker[step]
    kept = [value for key, value in maker._cache.items() if key[0].startswith("maps")]
    assert sum(value.scores.nbytes for value in kept) <= maker._cached <= 10_000


def test_maps_that_do_not_fit_are_refused(training, written):
    dataset, ids = training.dataset, list(training.dataset.ids("weak"))
    stream = make(training, written()).orders["weak"].stream
    small = make(training, written("small", sizes=dict.fromkeys(ids, (10, 20))))
    with pytest.raises(DataError, match=r"score maps of w\d are of 20x10 pixels \(width x height\), its image has"):
        small[0]
    with pytest.raises(ConfigError, match="the input 'seeds' has none") as caught:
        check_maps({"weak": stream}, {}, dataset)
    assert "--seeds" in caught.value.hint
    with pytest.raises(DataError, match=r"seeds: 2 of 5 images have no score maps in .*: w3, w4"):
        check_maps({"weak": stream}, {"seeds": written("fewer", ids=ids[:3])}, dataset)
    others = ("background", "red", "green", "yellow")
    with pytest.raises(DataError, match=r"of the classes background, red, green, yellow; the data set has"):
        check_maps({"weak": stream}, {"seeds": written("others", class_names=others)}, dataset)
    check_maps({"weak": stream}, {"seeds": written("all")}, dataset)


def test_a_damaged_shard_is_named(training, written):
    maps = written()
    for file in maps.path.glob("*.h5"):
        file.write_bytes(file.read_bytes()[:2000])
    answer = _Samples(make(training, maps))[0]
    assert isinstance(answer, ArtifactError)
    assert "shard-" in answer.message
