"""What lies on disk: the code that reads and writes every format of semiseg, and nothing else.

Knows no stage and imports no torch (except inside the checkpoint functions).
"""

PROJECT = "semiseg"
