"""The formats on disk: the code that reads and writes every format of semiseg, and nothing else.

It uses no stage and imports no torch (except inside the checkpoint functions).
"""

PROJECT = "semiseg"
