"""stages/methods/dual_branch.py: equal halves, gradients of each branch, what weight 0 leaves."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from stages.engine.method import Sources, at_size, segment
from stages.methods.dual_branch import DualBranch
from stages.methods.settings.dual_branch import DualBranchSettings
from stages.pipeline.run_stage import run_stage
from stages.train import STAGE


def test_without_a_weak_weight_it_is_the_single_branch_bit_for_bit(training, execution):
    """The same seed, dropout and momentum; the batch of the single branch is the strong half."""
    contents = {}
    for name, method, batch_size in (
        ("single", {"name": "supervised", "labels": "strong"}, 2),
        ("dual", {"name": "dual-branch", "weak_weight": 0.0}, 4),
    ):
        config = training.config(method, batch_size=batch_size, seed=9)
        inputs = training.inputs(config)
        contents[name] = run_stage(STAGE, config, training.space, f"a8-{name}", inputs, execution).artifact
    weights = [contents[name].file("weights.pt").read_bytes() for name in ("single", "dual")]
    assert weights[0] == weights[1]


def test_a_branch_gets_no_gradient_from_the_other_kind_of_labels(case):
    made = case("dual-branch", weak_weight=0.7)
    strong, weak, both = made.gradients("strong"), made.gradients("weak"), made.gradients()

    def nothing(gradient):
        return gradient is None or bool((gradient == 0).all())

    seen, shared = set(), set()
    for name in both:
        if name.startswith("segmenter.head."):
            seen.add("strong head")
            assert nothing(weak[name])
            assert not nothing(strong[name])
        elif name.startswith("weak_head."):
            seen.add("weak head")
            assert nothing(strong[name])
            assert not nothing(weak[name])
        else:
            seen.add(name.split(".")[1])
            torch.testing.assert_close(both[name], strong[name] + weak[name], rtol=1e-4, atol=1e-6)
            shared |= {kind for kind, of in (("strong", strong), ("weak", weak)) if not nothing(of[name])}
    assert seen == {"strong head", "weak head", "backbone", "neck"}
    assert shared == {"strong", "weak"}


def test_each_branch_is_normalised_by_itself(case):
    """Both losses are torch's mean over that branch's own labelled pixels, from forwards of the halves apart."""
    made = case("dual-branch", weak_weight=0.7)
    segmenter, head = made.method.networks["segmenter"], made.method.networks["weak_head"]
    strong, weak = made.batch["strong"], made.batch["weak"]
    strong = made.batch["strong"] = strong.replace(label=strong.label.index_fill(1, torch.arange(20), 255))
    losses = made.losses()
    expected = F.cross_entropy(segment(segmenter, strong), strong.label, ignore_index=255)
    torch.testing.assert_close(losses["strong"], expected, rtol=1e-5, atol=1e-6)
    weak_logits = at_size(head(segmenter.trunk(weak.image)), weak, segmenter)
    expected = 0.7 * F.cross_entropy(weak_logits, weak.label, ignore_index=255)
    torch.testing.assert_close(losses["weak"], expected, rtol=1e-5, atol=1e-6)


def test_the_branches_start_apart(case):
    made = case("dual-branch", seed=3)
    weights = made.method.networks["segmenter"].head.state_dict(), made.method.networks["weak_head"].state_dict()
    assert weights[0].keys() == weights[1].keys()
    first = next(name for name in weights[0] if weights[0][name].ndim == 4)
    assert not torch.equal(weights[0][first], weights[1][first])


def test_halves_of_strong_and_weak_images():
    sources = Sources(["s1", "s2"], ["w1", "w2", "w3"], frozenset({"masks", "weak_labels"}))
    streams = DualBranch.streams(DualBranchSettings(), sources, 10)
    assert {name: stream.batch_size for name, stream in streams.items()} == {"strong": 5, "weak": 5}
    assert [entry.label for entry in streams["weak"].entries] == ["weak_labels"] * 3
    assert {entry.label for entry in streams["strong"].entries} == {"masks"}


@pytest.mark.parametrize("kind", ["strong", "weak"])
def test_a_half_without_any_label_changes_nothing_else(kind, case):
    made = case("dual-branch")
    before = made.losses()
    made.batch[kind] = dataclasses.replace(made.batch[kind], label=torch.full_like(made.batch[kind].label, 255))
    after = made.losses()
    other = {"strong": "weak", "weak": "strong"}[kind]
    assert after[kind].item() == 0
    torch.testing.assert_close(after[other], before[other])
    assert all(g is None or torch.isfinite(g).all() for g in made.gradients().values())
