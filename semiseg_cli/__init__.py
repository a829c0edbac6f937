"""The command line of semiseg: what a person types and sees. No numerics."""

import importlib

PROJECT = "semiseg"

# `stages` and `artifacts` are generic names: another project's folder of the same name in the working
# directory would be imported in place of ours without notice. The error names the file that was found.
for _name in ("artifacts", "stages"):
    _module = importlib.import_module(_name)
    if getattr(_module, "PROJECT", None) != PROJECT:
        _found = getattr(_module, "__file__", None) or list(_module.__path__)
        raise ImportError(
            f"semiseg needs its own package {_name!r}, but Python found {_found}. "
            f"Run from another directory, or rename that folder."
        )
