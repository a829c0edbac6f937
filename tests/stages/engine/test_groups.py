"""Groups of images that share image-level labels: who stands beside whom, and that steps alone decide it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts.errors import ConfigError
from artifacts.store import Writer
from stages.config import build
from stages.contract import Execution
from stages.engine.batch import to_device
from stages.engine.config import AugmentationConfig
from stages.engine.groups import AlikeImages
from stages.engine.loop import _Samples
from stages.engine.randomness import generator
from stages.engine.streams import Entry, Order, SampleMaker, Stream
from stages.methods.cam import Cam
from stages.methods.training import train_network
from tests.stages.drawn_training import StopAt, publish_dataset

AUGMENTATION = build(AugmentationConfig, {"scale": [0.7, 1.5]}, "test")
LABELS = st.lists(st.sets(st.integers(0, 4), max_size=3), min_size=1, max_size=12)


def alike_images(labels, **more):
    return AlikeImages([f"i{n}" for n in range(len(labels))], lambda name: sorted(labels[int(name[1:])]), **more)


@settings(max_examples=150)
@given(LABELS, st.integers(1, 5), st.booleans(), st.integers(0, 99))
def test_a_group_holds_images_that_share_a_label_each_once_while_there_are_some(labels, number, equal, seed):
    """Held against a plain loop over all pairs."""
    images = alike_images(labels, equal=equal)
    for entry, own in enumerate(labels):
        sharing = {other for other, theirs in enumerate(labels) if other != entry and own & theirs}
        same = {other for other in sharing if labels[other] == own}
        others = images.others(entry, number, generator(seed, "test", entry))
        found = min(len(sharing), number)
        assert len(others) == number
        assert set(others[:found]) <= sharing
        assert len(set(others[:found])) == found
        assert others == [[entry, *others[:found]][k % (found + 1)] for k in range(1, number + 1)]  # then in turn
        if equal:
            assert len(same & set(others)) == min(len(same), number)


@settings(max_examples=100)
@given(LABELS, st.integers(1, 4))
def test_images_with_too_few_others_are_counted(labels, number):
    others = [sum(bool(own & theirs) for theirs in labels) - bool(own) for own in labels]
    assert alike_images(labels).short(number) == sum(count < number for count in others)


def test_each_label_of_an_image_is_as_probable_however_many_images_have_it():
    """Image 0 has labels 0, of 90 others, and 1, of two: by hand half of the draws, a quarter for each of the two."""
    images = alike_images([{0, 1}] + [{0}] * 90 + [{1}] * 2)
    drawn = np.array([images.others(0, 1, generator(seed, "test"))[0] for seed in range(4000)])
    assert (drawn > 90).mean() == pytest.approx(0.5, abs=0.03)
    assert (drawn == 92).mean() == pytest.approx(0.25, abs=0.03)
    assert np.bincount(drawn, minlength=93)[1:91].min() > 0  # 22 of each are expected


def test_an_image_that_a_stream_names_twice_counts_once():
    images = AlikeImages(["a", "b", "a", "c"], lambda image_id: [1])
    assert {tuple(sorted(images.others(2, 2, generator(seed, "test")))) for seed in range(30)} == {(1, 3)}
    assert images.others(2, 3, generator(0, "test"))[2] == 2  # beside itself with the label map of its own entry


@pytest.mark.parametrize("equal", [False, True])
def test_memory_grows_with_images_not_with_pairs(equal):
    """20,000 images that all share a label: a table of pairs would have 400 million places."""
    images = AlikeImages([str(n) for n in range(20_000)], lambda _: (0,), equal=equal)
    arrays = [value for value in vars(images).values() if isinstance(value, np.ndarray)]
    lists = [value for value in vars(images).values() if not isinstance(value, np.ndarray) and value is not None]
    assert sum(len(array) for array in arrays) <= 3 * 20_000
    assert sum(len(part.values) + len(part.starts) for part in lists) < 5 * 20_001
    assert images.short(5) == 0
    assert len({*images.others(7, 5, generator(0, "test")), 7}) == 6


# --- as streams give them ---


def grouped(training, size=3, alike="tags", splits=("train", "weak"), batch_size=4, **more):
    entries = [Entry(image_id, None) for split in splits for image_id in training.dataset.ids(split)]
    return Stream(entries, batch_size, group=size, alike=alike, **more)


def make(training, rank=0, world_size=1, seed=5, **stream):
    streams = {"labelled": grouped(training, **stream)}
    return SampleMaker(training.dataset, streams, {}, AUGMENTATION, 33, seed, rank, world_size)


@pytest.mark.parametrize("alike", ["tags", "same-tags"])
def test_the_rows_of_a_batch_are_group_after_group_with_labels_of_their_own(training, alike):
    dataset, maker, first = training.dataset, make(training, alike=alike), []
    for step in range(11):
        batch = to_device(maker[step]["labelled"], torch.device("cpu"))
        assert (len(batch), batch.group, tuple(batch.image.shape)) == (12, 3, (12, 3, 33, 33))
        for image_id, tags in zip(batch.ids, batch.tags, strict=True):
            assert tags.tolist() == dataset.tags_vector(image_id).tolist()
        tags = batch.tags.unflatten(0, (-1, batch.group))  # (groups, 3, K)
        assert ((tags[:, :1] * tags).sum(2) > 0).all()
        first += batch.ids[::3]
    ids = sorted([*dataset.ids("train"), *dataset.ids("weak")])
    assert [sorted(first[begin : begin + 11]) for begin in (0, 11, 22, 33)] == [ids] * 4  # each in its turn


def test_groups_depend_on_seed_and_step_alone(training):
    stream = grouped(training)
    labels_of = training.dataset.tags

    def groups(seed, steps, name="labelled"):
        order = Order(name, stream, seed, labels_of)
        return [order.step(step) for step in steps]

    assert groups(1, (9, 2, 9, 0)) == [Order("labelled", stream, 1, labels_of).step(step) for step in (9, 2, 9, 0)]
    assert groups(1, range(5)) != groups(2, range(5))
    assert groups(1, range(5)) != groups(1, range(5), "other")
    others = {}  # of each image in turn, over four epochs
    for place, second, third in np.array(groups(1, range(11))).reshape(-1, 3, 4)[:, :, 2].tolist():
        others.setdefault(place, set()).add((second, third))
    assert sum(len(pairs) > 1 for pairs in others.values()) > 8


def test_two_processes_see_the_groups_of_one(training):
    whole, halves = make(training), [make(training, rank, 2) for rank in range(2)]
    for step in range(4):
        one, (left, right) = whole[step]["labelled"], [half[step]["labelled"] for half in halves]
        assert left["id"] + right["id"] == one["id"]
        assert left["group"] == right["group"] == one["group"] == 3
        assert torch.equal(torch.cat([left["image"], right["image"]]), one["image"])
        assert torch.equal(torch.cat([left["tags"], right["tags"]]), one["tags"])


def test_groups_reach_the_training_from_other_processes(training):
    maker = make(training)
    loader = torch.utils.data.DataLoader(_Samples(maker), batch_size=None, sampler=range(2), num_workers=1)
    for step, packed in enumerate(loader):
        batch = packed.unpack()["labelled"]
        assert batch["group"] == 3
        assert batch["id"] == maker[step]["labelled"]["id"]
        assert torch.equal(batch["image"], maker[step]["labelled"]["image"])


def test_an_image_that_shares_no_label_stands_beside_itself_in_other_crops(own_training):
    publish_dataset(own_training.space, untagged=["s1"])
    maker = make(own_training, batch_size=11)
    batch = maker[0]["labelled"]
    place = batch["id"].index("s1")
    assert batch["id"][place : place + 3] == ["s1"] * 3
    assert not torch.equal(batch["image"][place], batch["image"][place + 1])
    assert batch["id"].count("s1") == 3


class GroupedCam(Cam):
    """The plain classifier, on groups of three."""

    @classmethod
    def streams(cls, settings, sources, batch_size):
        return {"labelled": Stream(sources.entries(sources.tagged, None), batch_size // 3, group=3, alike="tags")}


def test_a_training_says_how_many_groups_repeat_images_and_refuses_to_have_no_others(own_training, tmp_path):
    config = own_training.config("cam", batch_size=6, iterations=1, log_every=1)

    def notes_of(untagged):
        publish_dataset(own_training.space, untagged=untagged)
        progress = StopAt(None)
        execution = Execution(device="cpu", workers=1, progress=progress)
        writer = Writer(tmp_path / f"untagged-{len(untagged)}")
        train_network(config, own_training.dataset, own_training.sources, writer, execution, kind=GroupedCam)
        return progress.notes

    assert notes_of([]) == []
    assert notes_of(["s1"]) == [
        "labelled: 1 of 11 images share an image-level label with fewer than 2 others, their groups hold images twice"
    ]
    ids = [*own_training.dataset.ids("train"), *own_training.dataset.ids("weak")]
    with pytest.raises(ConfigError, match="no two of its 11 share one"):
        notes_of(ids[1:])
