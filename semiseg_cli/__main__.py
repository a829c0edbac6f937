"""`python -m semiseg_cli` is `semiseg`; `torchrun -m semiseg_cli train ...` starts it on many GPUs."""

from __future__ import annotations

import sys

from semiseg_cli.main import main

if __name__ == "__main__":  # worker processes import this module again under a different name
    sys.exit(main())
