"""What runs: one module per stage, named like its command; shared parts in sub-packages."""

PROJECT = "semiseg"
