from __future__ import annotations

import io
import math
import os
import pickle
import re
import struct
import time
import tracemalloc
import zipfile
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts import checkpoint
from artifacts.errors import ArtifactError


def same(left, right) -> bool:
    """Equal in value and in type, tensors also in shape and dtype."""
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return left == right or (isinstance(left, float) and math.isnan(left) and math.isnan(right))


def written(path: Path, value) -> bytes:
    checkpoint.save(path, value)
    return path.read_bytes()


def refusal(path: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        checkpoint.load(path)
    assert str(path) in caught.value.message
    assert caught.value.hint
    return caught.value.message


def training() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.1)
    network(torch.randn(2, 3, 8, 8)).square().mean().backward()
    optimiser.step()
    return network, optimiser


plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.builds(torch.tensor, st.lists(st.integers(-9, 9), max_size=4)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.integers(0, 9), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=60)
@given(plain_values)
def test_any_plain_value_comes_back_with_its_types(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "any.pt"
    checkpoint.save(path, value)
    assert same(checkpoint.load(path), value)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]
)
def test_tensors_of_every_dtype_come_back(tmp_path, dtype):
    tensor = (torch.randn(3, 4) * 5).to(dtype)
    checkpoint.save(tmp_path / "c.pt", {"t": tensor, "none": tensor[:0], "scalar": tensor[0, 0]})
    assert same(checkpoint.load(tmp_path / "c.pt"), {"t": tensor, "none": tensor[:0], "scalar": tensor[0, 0]})


def test_network_and_optimiser_go_on_as_if_never_stored(tmp_path):
    network, optimiser = training()
    checkpoint.save(
        tmp_path / "c.pt",
        {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "rng": torch.get_rng_state()},
    )
    state = checkpoint.load(tmp_path / "c.pt")
    again = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimiser_again = torch.optim.AdamW(again.parameters(), lr=9.0)
    again.load_state_dict(state["network"])
    optimiser_again.load_state_dict(state["optimiser"])
    ends = []
    for net, opt in ((network, optimiser), (again, optimiser_again)):
        torch.set_rng_state(state["rng"])
        opt.zero_grad()
        net(torch.randn(2, 3, 8, 8)).square().mean().backward()
        opt.step()
        ends.append({name: value.clone() for name, value in net.state_dict().items()})
    assert same(*ends)


def test_equal_contents_give_equal_bytes(tmp_path):
    """A pickle notes which equal strings are one object; torch notes the file's name."""
    network, optimiser = training()
    first = {"n": network.state_dict(), "o": optimiser.state_dict(), "words": ["ab", "ab"]}
    other_network, other_optimiser = training()
    letters = ["a", "b"]
    second = {
        "n": dict(other_network.state_dict()),
        "o": other_optimiser.state_dict(),
        "words": ["".join(letters), "".join(letters)],
    }
    one = written(tmp_path / "one.pt", first)
    time.sleep(0.01)
    assert one == written(tmp_path / "another name.bin", second)
    assert one == written(tmp_path / "again.pt", checkpoint.load(tmp_path / "one.pt"))


def test_a_different_value_gives_different_bytes(tmp_path):
    assert written(tmp_path / "a.pt", {"t": torch.zeros(3)}) != written(tmp_path / "b.pt", {"t": torch.ones(3)})


def test_a_view_stores_itself_and_not_what_it_looks_at(tmp_path):
    large = torch.zeros(100_000)
    assert len(written(tmp_path / "c.pt", large[::2][:10])) < 5_000
    assert checkpoint.load(tmp_path / "c.pt").shape == (10,)


def test_parameters_come_back_as_plain_tensors(tmp_path):
    checkpoint.save(tmp_path / "c.pt", {"w": torch.nn.Parameter(torch.ones(2))})
    weight = checkpoint.load(tmp_path / "c.pt")["w"]
    assert type(weight) is torch.Tensor
    assert not weight.requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensors_of_a_gpu_come_back_on_the_cpu(tmp_path):
    checkpoint.save(tmp_path / "c.pt", torch.ones(3, device="cuda"))
    assert checkpoint.load(tmp_path / "c.pt").device.type == "cpu"
    assert written(tmp_path / "a.pt", torch.ones(3, device="cuda")) == written(tmp_path / "b.pt", torch.ones(3))


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"a": {"b": [1, np.float64(2)]}}, r"a\.b\[1\] is a float64"),
        ({"a": np.zeros(3)}, "a is a ndarray"),
        ({"path": Path("x")}, "path is a PosixPath"),
        ({"raw": b""}, "raw is a bytes"),  # torch writes it and then refuses to load it
        ({"s": {1, 2}}, "s is a set"),
        ({"f": len}, "f is a builtin_function"),
        ({(1, 2): 3}, "neither text nor an integer"),
        (torch.nn.Linear(2, 2), r"\(root\) is a Linear"),
    ],
)
def test_what_could_not_be_loaded_again_is_refused_by_key(tmp_path, value, named):
    with pytest.raises(TypeError, match=named):
        checkpoint.save(tmp_path / "c.pt", value)
    assert list(tmp_path.iterdir()) == []


# --- damage ----------------------------------------------------------------------------------------------------


def test_missing_checkpoint_is_named(tmp_path):
    assert "is missing" in refusal(tmp_path / "c.pt")
    assert "is missing" in refusal(tmp_path)


def test_cut_at_any_byte_is_refused(tmp_path):
    path = tmp_path / "c.pt"
    data = written(path, {"w": torch.randn(20, 20), "step": 3})
    for length in [*range(0, len(data), 41), len(data) - 1]:
        path.write_bytes(data[:length])
        assert "damaged" in refusal(path)


def test_flipped_bits_never_give_other_weights(tmp_path):
    """torch itself reads a tensor with a wrong checksum without a word."""
    path = tmp_path / "c.pt"
    value = {"w": torch.randn(20, 20), "step": 3}
    data = written(path, value)
    place = data.index(value["w"].numpy().tobytes())
    for position in [place + 5, *np.random.default_rng(0).choice(len(data), 150, replace=False)]:
        flipped = bytearray(data)
        flipped[position] ^= 4
        path.write_bytes(flipped)
        try:
            found = checkpoint.load(path)
        except ArtifactError:
            continue
        assert position != place + 5
        assert same(found, value)


@pytest.mark.parametrize("content", [b"", b"hello world", b"\x80\x02", b"PK\x03\x04", bytes(300)])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "c.pt").write_bytes(content)
    assert "damaged or not a checkpoint" in refusal(tmp_path / "c.pt")


def test_a_compressed_part_is_refused_before_it_is_inflated(tmp_path):
    """A part of 4 GB lay in 4 MB. torch.save compresses nothing."""
    checkpoint.save(tmp_path / "c.pt", {"w": torch.zeros(1000)})
    with zipfile.ZipFile(tmp_path / "c.pt") as old, zipfile.ZipFile(tmp_path / "bomb.pt", "w") as new:
        for part in old.infolist():
            inflated = bytes(30_000_000) if part.filename.endswith("data/0") else old.read(part)
            new.writestr(part.filename, inflated, zipfile.ZIP_DEFLATED if len(inflated) > 10_000 else None)
    assert (tmp_path / "bomb.pt").stat().st_size < 50_000
    tracemalloc.start()
    assert re.search(r"data/0 is compressed \(29,\d+ bytes for 30,000,000\)", refusal(tmp_path / "bomb.pt"))
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_parts_that_together_are_more_than_the_file_are_refused(tmp_path):
    """Each claims the same bytes, as overlapping archives do, or more than there are."""
    data = written(tmp_path / "c.pt", {"w": torch.zeros(1000)})
    with zipfile.ZipFile(tmp_path / "c.pt") as archive:
        large = next(part for part in archive.infolist() if part.file_size == 4000)
        listed = data.index(large.filename.encode(), archive.start_dir) - 46  # its entry in the list at the end
    claimed = bytearray(data)
    struct.pack_into("<II", claimed, listed + 20, 2**31, 2**31)
    (tmp_path / "c.pt").write_bytes(claimed)
    assert re.search(
        r"its parts have 2,147,48\d,\d+ bytes by their headers, the file has \d,\d+", refusal(tmp_path / "c.pt")
    )


def test_more_parts_than_a_checkpoint_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "MOST_PARTS", 20)
    checkpoint.save(tmp_path / "c.pt", [torch.zeros(1)] * 10)
    assert len(checkpoint.load(tmp_path / "c.pt")) == 10
    checkpoint.save(tmp_path / "c.pt", [torch.zeros(1)] * 20)
    assert re.search("it has 2[5-9] parts, at most 20 are read", refusal(tmp_path / "c.pt"))


class Trap:
    """Unpickled without care, this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    torch.save({"weights": torch.ones(2), "trap": Trap(tmp_path / "sprung")}, tmp_path / "c.pt")
    assert "holds more than tensors and plain values: posix.mkdir" in refusal(tmp_path / "c.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Trap(tmp_path / "sprung"), protocol=2))
    refusal(tmp_path / "old.pt")
    assert not (tmp_path / "sprung").exists()


def test_a_whole_network_in_a_checkpoint_is_named(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "c.pt")
    assert "holds more than tensors and plain values: torch.nn.modules.linear.Linear" in refusal(tmp_path / "c.pt")


def test_a_failed_save_keeps_the_old_checkpoint(tmp_path):
    path = tmp_path / "c.pt"
    checkpoint.save(path, {"step": 1})
    with pytest.raises(TypeError):
        checkpoint.save(path, {"step": object()})
    assert checkpoint.load(path) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]


def test_a_full_disk_keeps_the_old_checkpoint(small_disk):
    disk = small_disk("200k")
    checkpoint.save(disk / "c.pt", torch.zeros(10_000))
    with pytest.raises(ArtifactError, match="disk is full"):
        checkpoint.save(disk / "c.pt", torch.zeros(50_000))
    assert checkpoint.load(disk / "c.pt").shape == (10_000,)
    assert [file.name for file in disk.iterdir()] == ["c.pt"]


def save_for_ever(path: Path, pipe) -> None:
    torch.set_num_threads(1)  # a forked process has no thread pool to use
    step = 0
    while True:
        checkpoint.save(path, {"step": step, "w": torch.full((200_000,), float(step))})
        step += 1
        if step == 1:
            pipe.send("begun")


def test_killed_while_saving_leaves_a_whole_checkpoint(tmp_path):
    path = tmp_path / "c.pt"
    context = get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=save_for_ever, args=(path, theirs), daemon=True)
    process.start()
    assert ours.recv() == "begun"
    for _ in range(10):  # a reader never sees half a file
        state = checkpoint.load(path)
        assert torch.equal(state["w"], torch.full((200_000,), float(state["step"])))
    process.kill()
    process.join()
    state = checkpoint.load(path)
    assert torch.equal(state["w"], torch.full((200_000,), float(state["step"])))
    checkpoint.save(path, {"step": -1})  # what the killed process left is in nobody's way
    assert checkpoint.load(path) == {"step": -1}
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]


# --- files of others -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
def test_state_dicts_that_torch_saved_can_be_read(tmp_path, zipped):
    network = torch.nn.Linear(3, 2)
    torch.save(network.state_dict(), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert same(dict(checkpoint.load(tmp_path / "w.pth")), dict(network.state_dict()))


def test_what_is_saved_can_be_read_by_torch_alone(tmp_path):
    data = written(tmp_path / "c.pt", {"w": torch.arange(3)})
    assert same(torch.load(io.BytesIO(data), weights_only=True), {"w": torch.arange(3)})


@pytest.mark.real
def test_real_weights_of_torchvision():
    if "SEMISEG_TEST_DATA" not in os.environ:
        pytest.skip("SEMISEG_TEST_DATA names no folder with real data")
    found = sorted(Path(os.environ["SEMISEG_TEST_DATA"]).glob("weights/*.pth"))
    if not found:
        pytest.skip("no weights below SEMISEG_TEST_DATA")
    for path in found:
        state = checkpoint.load(path)
        assert all(isinstance(value, torch.Tensor) for value in state.values())
        assert len(state) > 10
