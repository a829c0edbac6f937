"""What made an artifact: versions, source commit, machine."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

RECORDED_PACKAGES = (
    "semiseg",
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "h5py",
    "pillow",
    "scikit-image",
    "pydensecrf2",
)


def utc_now() -> str:
    """The time for records: UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def package_versions() -> dict[str, str]:
    """Installed versions of the packages whose behaviour can change a result; missing ones are left out."""
    versions = {"python": platform.python_version()}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


@functools.lru_cache(maxsize=1)
def source_commit() -> dict[str, Any] | None:
    """Commit of the checkout this code runs from and whether it is modified; None outside a git checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=10, check=True
        )
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.stdout.strip(), "modified": bool(changed.stdout.strip())}


def made_by(device: str | None = None, processes: int = 1) -> dict[str, Any]:
    """The record that goes into a manifest. `device` describes the compute device, if the stage used one."""
    return {
        "versions": package_versions(),
        "source": source_commit(),
        "host": platform.node(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "device": device,
        "processes": processes,
    }
