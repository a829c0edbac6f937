"""stages/engine/memory.py: the highest use of memory since a training began, on a CPU the process's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stages.engine import memory
from stages.engine.memory import PeakMemory

CPU = torch.device("cpu")
on_linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="/proc of Linux is not there")


@on_linux
def test_what_was_used_and_freed_meanwhile_counts():
    peak = PeakMemory(CPU)
    before = peak.mib()
    np.ones(40 << 20, np.float64)  # 320 MiB, freed at once
    after = peak.mib()
    assert before is not None
    assert after is not None
    assert 300 < after - before < 400


@on_linux
def test_what_was_used_before_does_not_count():
    np.ones(40 << 20, np.float64)
    first = PeakMemory(CPU)
    low = first.mib()
    np.ones(40 << 20, np.float64)
    assert first.mib() > low + 300
    assert PeakMemory(CPU).mib() < low + 100


def test_where_it_cannot_be_known_it_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_RESET", tmp_path / "not" / "there")
    assert PeakMemory(CPU).mib() is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensors_on_a_gpu_since_the_training_began():
    torch.ones(64 << 20, device="cuda")
    peak = PeakMemory(torch.device("cuda"))
    torch.ones(32 << 20, device="cuda")
    assert 128 <= peak.mib() < 256
