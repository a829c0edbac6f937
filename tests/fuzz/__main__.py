"""Runs fuzzers in their long form and prints what became of the cases, see the package's docstring."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.fuzz import NAMES, run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all without a name")
    parser.add_argument("--rounds", type=int, default=5000, help="cases of each fuzzer")
    parser.add_argument(
        "--seed", type=int, default=0, help="the seed of the first case; each next one has the next seed"
    )
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no fuzzer is named {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    for name in options.names or NAMES:
        with tempfile.TemporaryDirectory() as folder:
            outcomes = run(name, options.rounds, options.seed, Path(folder) / "case")
        print(f"{name}: {', '.join(f'{count:,} {outcome}' for outcome, count in sorted(outcomes.items()))}", flush=True)


if __name__ == "__main__":
    main()
