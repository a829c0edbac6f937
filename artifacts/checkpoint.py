"""Checkpoints: tensors and plain values in PyTorch's zip format, read back with `weights_only=True`.

A checkpoint may hold tensors, None, bool, int, float, str, and dicts, lists and tuples of these. No classes, no
functions: reading one never runs code. Equal contents give equal bytes.

A file is checked before PyTorch reads it, because PyTorch inflates compressed parts to any size, and accepts tensors
with wrong checksums.
"""

from __future__ import annotations

import os
import re
import sys
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, cast

from artifacts.disk_errors import disk_errors
from artifacts.errors import ArtifactError

MOST_PARTS = 100_000  # in a file, one for each tensor; a ResNet-101 with the state of its optimiser has about 1,000
_ZIP = b"PK\x03\x04"  # PyTorch, too, distinguishes its two formats by these bytes


def save(path: Path | str, obj: Any) -> None:
    """Write `obj` to `path`, all or nothing: a kill leaves the old file or the new one.

    Tensors are stored detached, on the CPU, contiguous and without shared memory (tied weights are written
    twice). Raises TypeError naming the key for values that a checkpoint cannot hold, and ArtifactError when the
    disk is full.
    """
    write(path, snapshot(obj))


def snapshot(obj: Any, non_blocking: bool = False) -> Any:
    """A copy of `obj` for `write`: fresh containers, and tensors that share no memory with those of `obj`.

    non_blocking: copies from a GPU are only begun, into pinned memory; they are whole once the device has done what
    its current stream holds by then.
    """
    import torch

    return _plain(obj, "", torch, non_blocking)


def write(path: Path | str, plain: Any) -> None:
    """Write what `snapshot` made to `path`, as `save` does. The file is written piece by piece, not made in memory."""
    import torch

    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with disk_errors(path):
            with partial.open("wb") as file:
                kept = _KeepsError(file)  # not the path itself: torch would write the name of the file into the bytes
                torch.save(plain, cast(Any, kept))
                if kept.error is not None:
                    raise kept.error
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


class _KeepsError:
    """A file whose first error waits until torch is done, which would replace it by one that does not say why."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.error = file, cast("OSError | None", None)

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                self.file.write(data)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        """Called by torch; `write` of the module flushes at the end."""


def load(path: Path | str) -> Any:
    """Read what `save` wrote; tensors come on the CPU. Also reads weight files of torchvision.

    Raises ArtifactError for a missing or damaged file and for one that holds more than tensors and plain
    values.
    """
    import pickle

    import torch

    path = Path(path)
    if not path.is_file():
        raise ArtifactError(f"checkpoint {path} is missing", "check the path, or rerun the stage that writes it")
    try:
        with path.open("rb") as file:
            is_zip = file.read(len(_ZIP)) == _ZIP
        if is_zip and (fault := _fault_of_zip(path)):
            raise _damaged(path, fault)
        return torch.load(path, map_location="cpu", weights_only=True)
    except ArtifactError:
        raise
    except pickle.UnpicklingError as error:
        if found := re.search(r"GLOBAL (\S+)|blocklisted module (\S+)", str(error)):
            raise ArtifactError(
                f"checkpoint {path} holds more than tensors and plain values: {found[1] or found[2]}",
                "it is not loaded, since that could run code; if you trust it, convert it to a plain state dict",
            ) from error
        raise _damaged(path, "it is not in PyTorch's format") from error
    except PermissionError as error:
        raise ArtifactError(f"checkpoint {path} cannot be read: {error.strerror}", "check its permissions") from error
    except Exception as error:  # an unpickler raises errors of any type for wrong bytes
        raise _damaged(path, f"{type(error).__name__}: {str(error).partition('. ')[0][:160]}") from error


def _fault_of_zip(path: Path) -> str | None:
    """The mistake in the zip of a checkpoint, or None. `torch.save` compresses nothing: no part exceeds the file."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        if len(parts) > MOST_PARTS:
            return f"it has {len(parts):,} parts, at most {MOST_PARTS:,} are read"
        if len({part.filename.lower() for part in parts}) < len(parts) or min(p.header_offset for p in parts) > 0:
            return "two parts have the same name, or there are bytes before them"
        for part in parts:
            if part.compress_type != zipfile.ZIP_STORED or part.compress_size != part.file_size:
                return (
                    f"its part {part.filename} is compressed ({part.compress_size:,} bytes for {part.file_size:,}), "
                    "which torch.save never does"
                )
        if (claimed := sum(part.file_size for part in parts)) > size:
            return f"its parts have {claimed:,} bytes by their headers, the file has {size:,}"
        broken = archive.testzip()
    return None if broken is None else f"wrong checksum in its part {broken}"


def _damaged(path: Path, reason: str) -> ArtifactError:
    return ArtifactError(
        f"checkpoint {path} is damaged or not a checkpoint: {reason}",
        "delete the file and rerun the stage (a training continues from the checkpoint before), "
        "or download the weights again",
    )


def _plain(value: Any, key: str, torch: Any, non_blocking: bool) -> Any:
    """Rebuild `value` from fresh containers and interned text.

    A pickle records which values are the same object, so without this step equal contents could give different
    bytes.
    """
    if isinstance(value, torch.Tensor):
        return _copied(value.detach(), torch, non_blocking)
    if value is None or type(value) in (bool, int, float):
        return value
    if isinstance(value, str):
        return sys.intern(str(value))
    if isinstance(value, dict):
        for name in value:
            if type(name) not in (str, int):
                raise TypeError(f"checkpoint key {key}: {name!r} is neither text nor an integer")
        return {
            _plain(name, key, torch, non_blocking): _plain(item, f"{key}.{name}", torch, non_blocking)
            for name, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        items = [_plain(item, f"{key}[{index}]", torch, non_blocking) for index, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    raise TypeError(
        f"checkpoint value {key.lstrip('.') or '(root)'} is a {type(value).__name__}: only tensors, None, bool, "
        "int, float, str, dict, list and tuple can be stored"
    )


def _copied(tensor: Any, torch: Any, non_blocking: bool) -> Any:
    whole = tensor.contiguous()
    if whole.device.type == "cpu":
        return whole.clone() if whole is tensor else whole
    pinned = non_blocking and whole.device.type == "cuda"
    return torch.empty_like(whole, device="cpu", pin_memory=pinned).copy_(whole, non_blocking=pinned)
