"""The fixtures of tests/stages/drawn_training.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_spec = importlib.util.spec_from_file_location("drawn_training", Path(__file__).parents[1] / "drawn_training.py")
drawn = importlib.util.module_from_spec(_spec)
sys.modules["drawn_training"] = drawn
_spec.loader.exec_module(drawn)
training, own_training = drawn.training, drawn.own_training
