"""What is equal: predictions of the GPU and of the CPU, one training twice, and one that was stopped and continued."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from artifacts import checkpoint
from artifacts.dataset import Dataset
from artifacts.masks import read_mask
from artifacts.store import Artifact
from tests.gpu.data import of_voc
from tests.gpu.place import Place, Watch
from tests.gpu.training import values

STEPS, STOP = 12, 6


def equality(place: Place) -> None:
    with place.rows.guarded("predict, CPU to GPU"):
        _predictions(place)
    for what, arithmetic in ((", deterministic algorithms", _deterministic), ("", contextlib.nullcontext)):
        with place.rows.guarded(f"one training twice{what}"), arithmetic():
            _trainings(place, what)


def _predictions(place: Place) -> None:
    """Masks in fp32 of the same network."""
    place.run(place.voc, "train", "equal", values(place, "supervised", place.size(8, 2)), {"data": "data"})
    given, folders = {"data": "data", "segmenter": "equal"}, {}
    for device in (place.device, "cpu"):
        for precision in ("fp32", "bf16") if device == place.device else ("fp32",):
            config = {"output": "masks", "precision": precision, "splits": ["holdout"]}
            name = f"equal-{device}-{precision}"
            folders[device, precision] = (
                place.run(place.voc, "predict", name, config, given, device=device).path / "masks"
            )
    ids = Dataset(of_voc(place)).ids("holdout")
    for precision in ("fp32", "bf16"):
        equal = [
            read_mask(folders[place.device, precision] / f"{name}.png")
            == read_mask(folders["cpu", "fp32"] / f"{name}.png")
            for name in ids
        ]
        shares = {"equal pixels": float(np.mean([part.mean() for part in equal])), "images": len(ids)}
        place.rows.add(f"predict, {precision} on the device to fp32 on the CPU", shares)


def _trainings(place: Place, what: str) -> None:
    """UniMatch with the small network, in bf16."""
    suffix = what.replace(", ", "-").replace(" ", "-")
    network = {"preset": "mobilenet_v2", "weights": "none", "freeze_batch_norm": False}
    changes = {"network": place.size(network, {"preset": "tiny"}), "log_every": 2, "ema_decay": 0.9}
    config = values(place, "unimatch", STEPS, **changes)

    def train(name: str, progress: Any = None, **others: Any) -> Artifact:
        given = config | others
        return place.run(
            place.voc, "train", name + suffix, given, {"data": "data"}, progress, checkpoint_every_s=0.0, workers=3
        )

    first, second = (_weights(train(name)) for name in ("once", "again"))
    place.rows.add(f"one training twice{what}", _difference(first, second))
    plain = _weights(train("plain", cuda_graphs=False))
    place.rows.add(f"with CUDA graphs and without{what}", _difference(first, plain))
    if not what:
        return
    with contextlib.suppress(_StoppedError):
        train("stopped", Watch({STOP: _stop}))
        raise AssertionError("the training was not stopped")
    seen = Watch()
    third = _weights(train("stopped", seen))
    if not any("continuing" in note for note in seen.notes):
        raise AssertionError(f"the training began again: {seen.notes}")
    place.rows.add(f"stopped and continued{what}", _difference(first, third))


class _StoppedError(Exception):
    pass


def _stop() -> None:
    raise _StoppedError


def _weights(artifact: Artifact) -> dict[str, torch.Tensor]:
    return checkpoint.load(artifact.file("weights.pt"))


def _difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> dict[str, Any]:
    floats = [name for name, value in first.items() if value.is_floating_point()]
    largest = max(float((first[name] - second[name]).abs().max()) for name in floats)
    equal = all(torch.equal(first[name], second[name]) for name in first)
    return {"equal bits": "yes" if equal else "no", "largest difference": largest}


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    """torch's slower kernels that always add in the same order; an operation without one warns."""
    enabled = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled)
