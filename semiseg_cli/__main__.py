"""`python -m semiseg_cli` is `semiseg`; `torchrun -m semiseg_cli train ...` starts it on many GPUs."""

from __future__ import annotations

import sys

from semiseg_cli.main import main

sys.exit(main())
