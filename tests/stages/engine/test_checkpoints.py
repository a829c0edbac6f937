"""stages/engine/checkpoints.py: what lies on the disk, when, and what is said of a disk that takes no more."""

from __future__ import annotations

import resource

import pytest
import torch

from artifacts import checkpoint
from artifacts.errors import ArtifactError
from stages.engine.checkpoints import CheckpointWriter

CPU = torch.device("cpu")


@pytest.fixture
def small_files():
    """No file of this process grows beyond 64 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_is_of_the_step_it_was_asked_for_at(tmp_path):
    """However soon the weights change, also those in channels_last memory."""
    weights = [torch.zeros(1000, 100), torch.zeros(64, 32, 3, 3).to(memory_format=torch.channels_last)]
    with CheckpointWriter(tmp_path / "c.pt", CPU) as checkpoints:
        for step in range(1, 6):
            for value in weights:
                value.fill_(step)
            checkpoints.write(step, {"step": step, "weights": weights})
            for value in weights:
                value.fill_(-1)
            checkpoints.wait()
            assert checkpoints.written == step
            found = checkpoint.load(tmp_path / "c.pt")
            assert found["step"] == step
            assert all(bool((value == step).all()) for value in found["weights"])


def test_a_second_checkpoint_waits_for_the_first(tmp_path):
    with CheckpointWriter(tmp_path / "c.pt", CPU) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.write(step, torch.full((300_000,), step))
            assert checkpoints.written in (step - 1 or None, step)
    assert checkpoints.written == 3
    assert checkpoint.load(tmp_path / "c.pt")[0] == 3


def test_the_file_has_the_bytes_of_one_that_is_saved_at_once(tmp_path):
    state = {"step": 1, "weights": torch.arange(1000.0), "view": torch.arange(12).view(3, 4).T}
    with CheckpointWriter(tmp_path / "c.pt", CPU) as checkpoints:
        checkpoints.write(1, state)
    checkpoint.save(tmp_path / "at once.pt", state)
    assert (tmp_path / "c.pt").read_bytes() == (tmp_path / "at once.pt").read_bytes()


def test_a_file_that_grows_too_large_is_told_in_the_loop_and_the_last_whole_one_stays(tmp_path, small_files):
    checkpoints = CheckpointWriter(tmp_path / "c.pt", CPU)
    checkpoints.write(1, torch.zeros(100))
    checkpoints.wait()
    checkpoints.check()  # nothing to say
    checkpoints.write(2, {"small": torch.zeros(10), "large": torch.zeros(100_000)})
    with pytest.raises(ArtifactError, match=r"c\.pt could not be written: it exceeds the file size limit"):
        checkpoints.wait()
    assert checkpoints.written == 1
    assert checkpoint.load(tmp_path / "c.pt").shape == (100,)
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]
    checkpoints.write(3, torch.ones(100))  # and goes on where there is space again
    checkpoints.wait()
    assert checkpoint.load(tmp_path / "c.pt")[0] == 1


def test_the_end_of_the_block_tells_what_went_wrong_unless_it_has_an_error_of_its_own(tmp_path, small_files):
    def act(then):
        with CheckpointWriter(tmp_path / "c.pt", CPU) as checkpoints:
            checkpoints.write(1, torch.zeros(100_000))
            then()

    with pytest.raises(ArtifactError, match="file size limit"):
        act(lambda: None)
    with pytest.raises(ZeroDivisionError):
        act(lambda: 1 / 0)
