"""stages/engine/streams.py: every batch depends on (seed, step) alone, whoever makes it."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from artifacts.errors import ConfigError, DataError
from stages.config import build
from stages.engine.config import AugmentationConfig
from stages.engine.randomness import derive_seed, generator
from stages.engine.streams import Entry, MaskFolder, Order, PackedBatches, SampleMaker, Stream

AUGMENTATION = build(AugmentationConfig, {"scale": [0.7, 1.5], "brightness": 0.2}, "test")


def stream_of(count, batch_size, **more):
    return Stream([Entry(f"p{index}", None) for index in range(count)], batch_size, **more)


def entries_of(order, steps):
    return [place.entry for step in range(steps) for place in order.step(step)]


@settings(max_examples=50)
@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 99))
def test_every_epoch_has_every_image_once(count, batch_size, seed):
    """Also where a batch is longer than many epochs."""
    seen = entries_of(Order("a", stream_of(count, batch_size), seed), steps=3 * count)
    for first in range(0, len(seen) - count + 1, count):
        assert sorted(seen[first : first + count]) == list(range(count))


def test_a_short_list_recurs_while_a_long_one_passes_once():
    """Luo and Yang, ECCV 2020: equal halves of a batch, the strong images come again and again, shuffled anew."""
    strong, weak = Order("strong", stream_of(8, 4), 0), Order("weak", stream_of(80, 4), 0)
    passes = np.array(entries_of(strong, 20)).reshape(10, 8)
    assert len(set(entries_of(weak, 20))) == 80
    assert (np.sort(passes, axis=1) == np.arange(8)).all()
    assert len({tuple(one) for one in passes}) == 10


def test_orders_depend_on_seed_and_stream_and_on_nothing_else():
    stream = stream_of(30, 4)
    again = Order("a", stream, 1)
    first = [Order("a", stream, 1).step(step) for step in (9, 2, 9, 0)]  # in any order of steps
    assert first == [again.step(step) for step in (9, 2, 9, 0)]
    assert entries_of(Order("a", stream, 1), 5) != entries_of(Order("a", stream, 2), 5)
    assert entries_of(Order("a", stream, 1), 5) != entries_of(Order("b", stream, 1), 5)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("group", [1, 3])
def test_the_shares_of_the_processes_join_to_the_batch_of_one(world_size, group):
    order = Order("a", stream_of(7, 6, group=group), 0)
    for step in range(6):
        joined = [place for rank in range(world_size) for place in order.step(step, rank, world_size)]
        assert joined == order.step(step)


PAIRS = {"group": 2, "apart": ("partner",)}


@settings(max_examples=60)
@given(st.integers(4, 15), st.integers(1, 6), st.integers(2, 4), st.integers(0, 99))
def test_no_image_meets_itself_and_each_is_every_member_once_an_epoch(count, batch_size, size, seed):
    order = Order("unlabelled", stream_of(count, batch_size, group=size), seed)
    groups = np.array(entries_of(order, count * 3)).reshape(-1, size)
    assert all(len(set(group)) == size for group in groups.tolist())
    for first in range(0, len(groups) - count + 1, count):
        assert (np.sort(groups[first : first + count], axis=0) == np.arange(count)[:, None]).all()


def test_partners_change_from_epoch_to_epoch():
    order = Order("unlabelled", stream_of(20, 20, **PAIRS), 0)
    partners = [dict(np.array(entries_of_step(order, step)).reshape(-1, 2).tolist()) for step in (0, 1)]
    assert sum(partners[0][index] != partners[1][index] for index in range(20)) > 10


def test_partners_are_those_that_trainings_have_had():
    """By hand as the first version drew them, from a stream of its own: a shuffle, turned by a drawn number."""
    order = Order("unlabelled", stream_of(9, 9, **PAIRS), 7)
    for epoch in range(3):
        shuffled = generator(7, "order", "unlabelled", epoch).permutation(9)
        partners = np.roll(shuffled, int(generator(7, "partner", "partner", epoch).integers(1, 9)))
        assert entries_of_step(order, epoch) == np.stack([shuffled, partners], axis=1).ravel().tolist()


def entries_of_step(order, step):
    return [place.entry for place in order.step(step)]


# --- samples ---


@pytest.fixture
def make(training):
    """A maker of batches over the drawn data: strong masks, weak labels, and the true masks of the weak ones."""

    def build_maker(rank=0, world_size=1, seed=5, **more):
        dataset = training.dataset
        labels = MaskFolder(training.space.folder("weak-labels") / "masks", dataset.num_classes)
        streams = {
            "strong": Stream([Entry(image_id, "masks") for image_id in dataset.ids("train")], 4),
            "weak": Stream([Entry(i, "weak_labels") for i in dataset.ids("weak")], 2, extra={"reference": "masks"}),
            "unlabelled": Stream([Entry(image_id, None) for image_id in dataset.ids("weak")], 2),
        }
        sources = {"masks": dataset, "weak_labels": labels}
        return SampleMaker(dataset, streams, sources, AUGMENTATION, 33, seed, rank, world_size, **more)

    return build_maker


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert first[name]["id"] == second[name]["id"]
        for key in first[name].keys() - {"id"}:
            assert torch.equal(first[name][key], second[name][key]), (name, key)


def test_packed_batches_bring_the_same_batch_with_the_same_strides(make):
    batch = make()[3]
    packed = PackedBatches.pack(batch)
    again = packed.unpack()
    assert_equal(again, batch)
    storages = set()
    for name, stream in again.items():
        for key in stream.keys() - {"id"}:
            assert stream[key].dtype == batch[name][key].dtype
            assert stream[key].stride() == batch[name][key].stride(), key
            storages.add(stream[key].untyped_storage().data_ptr())
    assert storages == {packed.block.untyped_storage().data_ptr()}  # one piece


def test_workers_of_the_training_send_packed_batches_and_mistakes(make, tmp_path):
    from stages.engine.loop import _Samples  # as beside a GPU

    maker = make()
    for step, packed in enumerate(DataLoader(_Samples(maker), batch_size=None, sampler=range(3), num_workers=1)):
        assert isinstance(packed, PackedBatches)
        assert_equal(packed.unpack(), maker[step])
    maker = make()  # one that has read nothing yet
    maker.sources = maker.sources | {"weak_labels": MaskFolder(tmp_path / "nowhere", 4)}
    (answer,) = DataLoader(_Samples(maker), batch_size=None, sampler=[5], num_workers=1)
    assert isinstance(answer, DataError)
    assert "nowhere" in answer.message


def test_the_form_of_a_batch(make):
    batch = make()[0]
    assert set(batch) == {"strong", "weak", "unlabelled"}
    strong, weak = batch["strong"], batch["weak"]
    assert (strong["image"].shape, strong["image"].dtype) == ((4, 3, 33, 33), torch.uint8)
    assert (strong["label"].shape, strong["label"].dtype) == ((4, 33, 33), torch.uint8)
    assert (strong["valid"].shape, strong["valid"].dtype) == ((4, 33, 33), torch.bool)
    assert (strong["tags"].shape, strong["colour"].shape) == ((4, 3), (4, 3))
    assert set(weak) - set(strong) == {"reference"}
    assert (batch["unlabelled"]["label"] == 255).all()
    for sample in (strong, weak):
        assert (sample["label"][~sample["valid"]] == 255).all()


def test_label_reference_and_image_are_cut_alike(make, training):
    """Weak labels are the true masks with pixels set to 0: where they are not 0 they agree after any geometry."""
    agree = 0
    for step in range(10):
        weak = make()[step]["weak"]
        told = (weak["label"] != 0) & (weak["label"] != 255)
        assert (weak["label"][told] == weak["reference"][told]).all()
        agree += int(told.sum())
    assert agree > 500


def test_a_sample_is_the_same_from_any_number_of_loader_processes(make):
    batches = {
        workers: list(DataLoader(make(), batch_size=None, sampler=range(3, 9), num_workers=workers))
        for workers in (0, 1, 2)
    }
    for workers in (1, 2):
        for first, second in zip(batches[0], batches[workers], strict=True):
            assert_equal(first, second)


def test_a_batch_can_be_made_again_alone_and_without_the_cache(make):
    maker = make()
    late = [maker[step] for step in range(8)][7]
    assert_equal(make()[7], late)
    assert_equal(make(cache_bytes=0)[7], late)
    assert_equal(make(cache_bytes=20_000)[7], late)
    assert_equal(pickle.loads(pickle.dumps(maker))[7], late)
    assert not torch.equal(make(seed=6)[7]["strong"]["image"], late["strong"]["image"])


def test_two_processes_make_the_batch_of_one(make):
    whole, halves = make(), [make(rank, 2) for rank in range(2)]
    for step in range(4):
        parts = [half[step] for half in halves]
        joined = {
            name: {
                key: parts[0][name][key] + parts[1][name][key]
                if key == "id"
                else torch.cat([part[name][key] for part in parts])
                for key in parts[0][name]
            }
            for name in parts[0]
        }
        assert_equal(joined, whole[step])


def test_the_same_image_looks_different_in_each_epoch(make):
    maker = make()
    seen = {}
    for step in range(6):
        for image_id, image in zip(maker[step]["strong"]["id"], maker[step]["strong"]["image"], strict=True):
            seen.setdefault(image_id, []).append(image.numpy().tobytes())
    assert all(len(set(looks)) == len(looks) == 4 for looks in seen.values())


# --- mistakes ---


def test_mistakes_of_streams_are_named(training):
    def maker(streams, world_size=1):
        return SampleMaker(training.dataset, streams, {}, AUGMENTATION, 33, 0, 0, world_size)

    with pytest.raises(ConfigError, match="'strong' has no images"):
        maker({"strong": stream_of(0, 4)})
    with pytest.raises(ConfigError, match="no share of the batch"):
        maker({"strong": stream_of(4, 0)})
    with pytest.raises(ConfigError, match="5 images a step: not divisible by 2 processes"):
        maker({"strong": stream_of(4, 5)}, world_size=2)
    with pytest.raises(ConfigError, match="at least 2 different images"):
        maker({"a": stream_of(1, 2, **PAIRS)})
    with pytest.raises(ValueError, match="groups of 3, and names for 1 others"):
        maker({"a": stream_of(9, 2, group=3, apart=("b",))})


def test_a_truncated_image_names_its_file(own_training, make):
    path = own_training.dataset.image_path("s1")
    path.write_bytes(path.read_bytes()[:200])
    streams = {"strong": Stream([Entry("s1", "masks")], 1)}
    maker = SampleMaker(own_training.dataset, streams, {"masks": own_training.dataset}, AUGMENTATION, 33, 0)
    with pytest.raises(DataError, match=r"s1\.png"):
        maker[0]


def test_derived_seeds_are_spread():
    seeds = {derive_seed(seed, "a", part) for seed in range(50) for part in range(50)}
    assert len(seeds) == 2500
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(1, "a", "b") == derive_seed(1, "a", "b") != derive_seed(1, "b", "a")
