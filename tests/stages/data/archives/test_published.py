"""stages/data/archives/published.py against the copies of the same facts in torchvision."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

from stages.data.archives.published import SBD, VOC2012


@pytest.mark.parametrize(("archive", "module"), [(VOC2012, "voc"), (SBD, "sbd")])
def test_digests_and_addresses_are_those_of_torchvision(archive, module):
    origin = importlib.util.find_spec("torchvision").origin
    source = ast.parse((Path(origin).parent / "datasets" / f"{module}.py").read_text())
    texts = {node.value for node in ast.walk(source) if isinstance(node, ast.Constant)}
    assert archive.digest.removeprefix("md5:") in texts
    assert {archive.file, archive.urls[0]} <= texts
    assert all(url.endswith(f"/{archive.file}") for url in archive.urls)
