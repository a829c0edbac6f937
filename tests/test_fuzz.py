"""The fuzzers in their short form; `make fuzz` runs the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import fuzz

ROUNDS = 150


@pytest.mark.parametrize("name", fuzz.NAMES)
def test_every_made_up_file_is_read_right_or_clearly_refused(name: str, tmp_path: Path) -> None:
    outcomes = fuzz.run(name, ROUNDS, 0, tmp_path / "case")
    assert sum(outcomes.values()) == ROUNDS
    assert len(outcomes) > 1, f"every case ended as {next(iter(outcomes))}: the fuzzer tries too little"
