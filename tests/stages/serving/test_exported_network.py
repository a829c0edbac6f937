"""stages/serving/exported_network.py: files of `semiseg export` behave as the segmenter they were made of."""

from __future__ import annotations

import numpy as np
import pytest

from artifacts.errors import ArtifactError, ConfigError
from stages.export.onnx import export_onnx
from stages.networks import load_network
from stages.serving import Segmenter


@pytest.fixture(scope="module")
def onnx_file(bench, tmp_path_factory):
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    file = tmp_path_factory.mktemp("exported") / "net.onnx"
    export_onnx(load_network(bench.workspace.artifact("segmenter")), file)
    return file


VIEWS = [{}, {"flip": True, "merge": "probabilities"}, {"flip": True, "window": 40}, {"scales": [0.5, 1]}]


@pytest.mark.parametrize("settings", VIEWS, ids=str)
def test_it_predicts_what_the_segmenter_predicts(bench, onnx_file, settings):
    original = Segmenter.load(bench.workspace.artifact("segmenter").path, device="cpu", **settings)
    exported = Segmenter.load(onnx_file, device="cpu", **settings)
    assert exported.names == original.names
    np.testing.assert_array_equal(exported.palette, original.palette)
    whole = bench.dataset.image(bench.dataset.ids("val")[0])
    images = [whole, whole[:40], whole[:, :33], whole]
    # a cell of a smaller copy is interpolated as a logit there, as a log-probability here, of 8-bit pixels
    tolerance = 0.05 if "scales" in settings else 1e-4
    for found, expected in zip(exported(images), original(images), strict=True):
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=tolerance)


def test_damaged_and_foreign_files(onnx_file, tmp_path):
    import onnx

    with pytest.raises(ConfigError, match="part of the file"):
        Segmenter.load(onnx_file, precision="fp32")
    damaged = tmp_path / onnx_file.name
    damaged.write_bytes(onnx_file.read_bytes()[:2000])
    with pytest.raises(ArtifactError, match="cannot be read"):
        Segmenter.load(damaged, device="cpu")
    with pytest.raises(ArtifactError, match="there is no"):
        Segmenter.load(tmp_path / "nowhere.onnx")
    with pytest.raises(ConfigError, match="no CUDA"):
        Segmenter.load(onnx_file, device="cuda")
    foreign = onnx.load(str(onnx_file))
    del foreign.metadata_props[:]
    onnx.save(foreign, str(damaged))
    with pytest.raises(ArtifactError, match="no class names and palette"):
        Segmenter.load(damaged)
