"""stages/serving/smaller_onnx.py: fp16 and int8 files against the network, their figures, and the bound."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from artifacts.errors import ConfigError
from semiseg_cli.main import main
from stages.networks import build_segmenter, load_network
from stages.networks.config import NetworkConfig
from stages.serving import Segmenter
from stages.serving.smaller_onnx import export_smaller, spread

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")


@pytest.fixture(scope="module")
def network(bench):
    return load_network(bench.workspace.artifact("segmenter"))


def metadata_of(file) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(str(file)).metadata_props}


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_figures_are_those_of_the_masks(bench, network, tmp_path, precision):
    data, ids = bench.dataset, sorted(bench.dataset.ids("val"))
    figures = export_smaller(network, tmp_path / "net.onnx", precision, data, 100, 0.5)
    assert json.loads(metadata_of(tmp_path / "net.onnx")["measured"]) == figures
    original = Segmenter.load(bench.workspace.artifact("segmenter").path, device="cpu")
    smaller = Segmenter.load(tmp_path / "net.onnx")
    pairs = [(original(data.image(i)), smaller(data.image(i)), data.mask(i)) for i in ids]
    agreement = np.mean(np.concatenate([(a.mask == b.mask).ravel() for a, b, _ in pairs]))
    assert figures["agreement"] == pytest.approx(agreement, abs=1e-3)
    assert figures["agreement"] < 1
    assert figures["images"] == len(ids)
    for side, key in ((0, "mean_iou_before"), (1, "mean_iou_after")):
        truth = np.concatenate([pair[2].ravel() for pair in pairs])
        found = np.concatenate([pair[side].mask.ravel() for pair in pairs])[truth != 255]
        table = confusion_matrix(truth[truth != 255], found, labels=range(data.num_classes))
        union = table.sum(0) + table.sum(1) - table.diagonal()
        assert figures[key] == pytest.approx((table.diagonal()[union > 0] / union[union > 0]).mean(), abs=2e-3)
    assert figures["bytes_after"] < 0.75 * figures["bytes_before"]
    kinds = {node.op_type for node in onnx.load(str(tmp_path / "net.onnx")).graph.node}
    assert ("QuantizeLinear" in kinds) == (precision == "int8")


def test_below_the_bound_there_is_no_file(bench, network, tmp_path):
    with pytest.raises(ConfigError, match=r"less than 100.00% \(mean IoU .* before"):
        export_smaller(network, tmp_path / "net.onnx", "int8", bench.dataset, 3, 1.0)
    assert not list(tmp_path.iterdir())
    other = build_segmenter(NetworkConfig.model_validate("tiny"), 2, seed=0).eval()
    other.class_names = ("background", "thing")
    with pytest.raises(ConfigError, match="other classes"):
        export_smaller(other, tmp_path / "net.onnx", "fp16", bench.dataset, 3, 0.5)


def test_the_images_are_spread_over_the_ids():
    ids = [f"{number:02}" for number in range(10)]
    assert spread(ids, 4) == ["00", "02", "05", "07"]
    assert spread(ids, 20) == ids
    assert spread([], 5) == []


def test_the_command_prints_the_loss(bench, tmp_path, capsys):
    command = ["export", "onnx", "segmenter", str(tmp_path / "net.onnx"), "-w", str(bench.workspace.path)]
    assert main([*command, "--precision", "int8"]) == 2
    assert "--data NAME" in capsys.readouterr().err
    assert main([*command, "--precision", "int8", "--data", "data", "--least-agreement", "0.5"]) == 0
    assert "pixels of the same class" in capsys.readouterr().out
    assert main([*command, "--precision", "fp16", "--data", "data"]) == 2
    assert "exists already" in capsys.readouterr().err
