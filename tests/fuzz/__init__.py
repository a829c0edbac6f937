"""Fuzzers: made-up files that readers must either read right or refuse with one clear error, never with a traceback.

    python -m tests.fuzz --rounds 20000            # all of them, with counts (`make fuzz`)
    python -m tests.fuzz exif --seed 7 --rounds 1  # the one case that failed

Each module is one fuzzer: `fuzz(rng, folder)` makes one file below the empty `folder` from `rng` alone, reads it,
asserts what must hold, and returns the outcome in a word ("read", "refused"). Case n of a run with seed s is made from
`random.Random(s + n)`, so a failure names the seed that repeats it.
"""

from __future__ import annotations

import importlib
import pkgutil
import random
import shutil
from collections import Counter
from pathlib import Path

NAMES = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")))


def run(name: str, rounds: int, seed: int, folder: Path) -> Counter[str]:
    """How many cases of fuzzer `name` ended in what; AssertionError names the seed of the first that failed."""
    fuzz = importlib.import_module(f"{__name__}.{name}").fuzz
    outcomes: Counter[str] = Counter()
    for number in range(seed, seed + rounds):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            outcomes[fuzz(random.Random(number), folder)] += 1
        except Exception as error:
            raise AssertionError(
                f"fuzzer {name}, seed {number}: {error!r}; "
                f"repeat it by python -m tests.fuzz {name} --seed {number} --rounds 1"
            ) from error
    return outcomes
