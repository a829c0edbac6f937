"""Fixtures that several packages share: a workspace, toy stages of a few bytes, the folder of real test data."""

from __future__ import annotations

import gc
import os
import subprocess
import tempfile

# Before anything imports torch: results are the same to the bit for the same number of threads only, and tests compare
# this process with others.
os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import hypothesis
import pytest

from artifacts.store import Artifact, Workspace, Writer
from stages.config import Config, ExternalFile
from stages.contract import Execution, Input, Inputs, Stage
from stages.parallel.processes import preload

NOBODY = 65534  # the user without rights

# The processes of pools are copies of a server process: with torch and others in it, none of them has to load these.
preload(
    ["torch", "stages.data.preparation", "stages.localization.dense_crf", "stages.refiners.irn", "skimage.segmentation"]
)

# How fast a machine is decides no test.
hypothesis.settings.register_profile(
    "any speed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any speed")


def pytest_collection_finish() -> None:
    """Takes the modules of all tests out of garbage collection: every training collects, and looks through them all."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # modules in C report what is left of them at the end of the process


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real images and weights; the test is skipped where the environment names none."""
    folder = os.environ.get("SEMISEG_TEST_DATA")
    if not folder:
        pytest.skip("SEMISEG_TEST_DATA names no folder with real images and weights")
    if not Path(folder).is_dir():
        pytest.skip(f"SEMISEG_TEST_DATA names {folder}, which is not a folder")
    return Path(folder)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "runs" / "test")


@dataclass(frozen=True)
class Silent:
    """Execution without output."""

    every_s: float = 1e9

    def track(self, total: int, description: str, unit: str = "images", done: int = 0) -> Any:
        from stages.contract import PlainProgress

        return PlainProgress(self.every_s).track(total, description, unit, done)

    def note(self, text: str) -> None:
        return None


@pytest.fixture
def execution() -> Execution:
    return Execution(device="cpu", workers=1, progress=Silent())


class ToyConfig(Config):
    """Settings of the toy stage."""

    count: int = 3
    text: str = "item"
    source: ExternalFile = ""


@dataclass
class Toy:
    """A stage that writes `count` small files, and the record of the items it really made."""

    made: list[str] = field(default_factory=list)
    fail_at: int | None = None
    summary: Any = field(default_factory=lambda: {"items": 3})
    before: Callable[[Writer], None] = lambda writer: None

    def stage(self, **changes: Any) -> Stage:
        """The stage record; `changes` replace its fields."""
        fields: dict[str, Any] = {
            "name": "toy",
            "version": 1,
            "summary": "Writes small files.",
            "config": ToyConfig,
            "inputs": Inputs,
            "output": "masks",
            "run": self.run,
        }
        return Stage(**(fields | changes))

    def run(self, config: ToyConfig, inputs: Inputs, writer: Writer, execution: Execution) -> Any:
        self.before(writer)
        writer.expect(config.count)
        for index in range(config.count):
            relative = f"items/{index:03d}.txt"
            if not writer.has(relative):
                if index == self.fail_at:
                    raise RuntimeError(f"failed at {index}")
                self.made.append(relative)
                writer.write_bytes(relative, f"{config.text} {index}".encode())
            writer.advance()
        return self.summary


@pytest.fixture
def toy() -> Toy:
    return Toy()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts an empty file system of a size ("200k", "1m") and gives its folder; skips where that takes rights."""
    mounted = []

    def mount(size: str) -> Path:
        folder = tmp_path / f"disk-{size}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        try:
            ended = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("there is no mount command")
        if ended.returncode:
            pytest.skip(f"no small file system can be mounted here: {ended.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def nobodys_folder() -> Iterator[Path]:
    """A folder of the user without rights, and this process is that user: root may read everything."""
    with tempfile.TemporaryDirectory() as name:
        if os.geteuid() != 0:
            yield Path(name)
            return
        os.chown(name, NOBODY, NOBODY)
        os.seteuid(NOBODY)
        try:
            yield Path(name)
        finally:
            os.seteuid(0)


@dataclass(frozen=True)
class TakesMasks(Inputs):
    masks: Annotated[Artifact, Input(("masks", "seeds"), "label maps")]
