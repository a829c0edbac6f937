"""docs/python.md: every Python block runs, in order, beside a workspace with a segmenter."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semiseg_cli.main import main

PAGE = Path(__file__).parents[3] / "docs" / "python.md"
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_every_block_of_the_page_runs(bench, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    shutil.copytree(bench.workspace.artifact("segmenter").path, tmp_path / "runs" / "default" / "dual-branch")
    Image.fromarray(bench.dataset.image(bench.dataset.ids("val")[0])).save(tmp_path / "image.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert len(blocks) > 5
    for language, text in blocks:
        if language == "python":
            exec(compile(text, str(PAGE), "exec"), names)
            continue
        for line in text.splitlines():
            if "--precision" not in line:  # measured on a data set: test_smaller_onnx.py
                assert main(line.split()[1:]) == 0
    assert (tmp_path / "mask.png").exists()
    assert (tmp_path / "overlay.png").exists()
    assert np.asarray(names["probabilities"]).shape[2:] == (120, 160)
