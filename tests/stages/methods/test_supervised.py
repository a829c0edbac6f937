"""stages/methods/supervised.py: which images each row of the table learns from, and the loss."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from artifacts.errors import ConfigError
from stages.engine.method import Sources, segment
from stages.methods.settings.supervised import SupervisedSettings
from stages.methods.supervised import Supervised


def entries(labels, strong=3, weak=8):
    sources = Sources([f"s{i}" for i in range(strong)], [f"w{i}" for i in range(weak)], {"masks", "weak_labels"})
    (stream,) = Supervised.streams(SupervisedSettings(labels=labels), sources, 4).values()
    assert stream.batch_size == 4
    return Counter(entry.label for entry in stream.entries), Counter(entry.image_id for entry in stream.entries)


def test_lists_of_every_kind_of_labels():
    assert entries("strong")[0] == {"masks": 3}
    assert entries("weak")[0] == {"weak_labels": 8}
    assert entries("mixed")[0] == {"masks": 3, "weak_labels": 8}
    labels, ids = entries("oversampled")
    assert labels == {"masks": 8, "weak_labels": 8}
    assert sorted(ids[f"s{i}"] for i in range(3)) == [2, 3, 3]


def test_a_strong_list_longer_than_the_weak_one_stays():
    assert entries("oversampled", strong=9, weak=4)[0] == {"masks": 9, "weak_labels": 4}


def test_what_is_missing_is_named():
    with pytest.raises(ConfigError, match="needs images with masks"):
        Supervised.streams(SupervisedSettings(labels="mixed"), Sources([], ["w"], {"weak_labels"}), 2)
    with pytest.raises(ConfigError, match="needs estimated masks"):
        Supervised.streams(SupervisedSettings(labels="weak"), Sources(["s"], ["w"], {"masks"}), 2)


def test_the_loss_is_torchs_cross_entropy_at_the_images_size(case):
    made = case("supervised")
    (samples,) = made.batch.values()
    logits = segment(made.method.networks["segmenter"], samples)
    assert logits.shape == (4, 4, 33, 33)
    expected = F.cross_entropy(logits, samples.label, ignore_index=255)
    torch.testing.assert_close(made.losses()["cross_entropy"], expected)
