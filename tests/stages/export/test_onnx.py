"""stages/export/onnx.py: the written file, run by onnx's own evaluator, against torch."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from artifacts.errors import ConfigError
from stages.export.onnx import OPSET, _require_free_sizes, bicubic_matrix, export_onnx
from stages.networks import build_segmenter, normalise, upsample
from stages.networks.config import NetworkConfig

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
NETWORKS = [
    {"preset": "tiny"},
    {"preset": "mobilenet_v2", "weights": "none", "freeze_batch_norm": False},
    {"backbone": "tiny", "head": "deeplabv3plus", "output_stride": 8, "head_channels": 16},
    {"backbone": "timm:mobilenetv3_small_050", "head_channels": 16, "freeze_batch_norm": False},
    {"backbone": "timm:convnext_atto", "head_channels": 16},
    {"preset": "hrnet-w18-small", "weights": "none", "head_channels": 16},
    {"backbone": "timm:vit_tiny_patch16_224", "head": "fcn", "head_channels": 16},
    {"backbone": "timm:vit_small_patch16_dinov3", "head": "dpt", "head_channels": 16},
    {"preset": "dpt-dinov2-small", "weights": "none", "head_channels": 16},
]
MOBILEVIT = {"backbone": "timm:mobilevit_xxs", "freeze_batch_norm": False}  # divides sizes by patches in Python
IDS = ["tiny", "mobilenet_v2", "deeplabv3plus", "timm-mobilenetv3", "timm-convnext", "hrnet", "vit", "dinov3", "dinov2"]


@pytest.mark.parametrize("values", NETWORKS, ids=IDS)
def test_images_of_any_size_give_what_torch_gives(values, tmp_path):
    from onnx.reference import ReferenceEvaluator

    network = build_segmenter(NetworkConfig.model_validate(values), 4, seed=1)
    for layer in network.modules():  # statistics of some images, or random features would fade from layer to layer
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    network(torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(5)))
    network.eval()
    network.class_names = ("background", "a", "b", "c")
    for layer in network.head.modules():  # scores that differ: fc8 starts at almost equal ones
        if isinstance(layer, nn.Conv2d) and layer.out_channels == 4:
            nn.init.normal_(layer.weight, std=0.3, generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                layer.weight /= network(torch.randn(1, 3, 40, 64)).std()
    export_onnx(network, tmp_path / "net.onnx")
    evaluator = ReferenceEvaluator(str(tmp_path / "net.onnx"))
    generator = torch.Generator().manual_seed(2)
    for size in ((1, 3, 40, 64), (2, 3, 33, 51)):
        image = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
        (found,) = evaluator.run(None, {"image": image.numpy()})
        with torch.inference_mode():
            expected = upsample(network(normalise(image)), size[2:], network.stride).softmax(1)
        assert found.shape == expected.shape
        assert expected.std() > 0.05
        torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=1e-3)
    entries = {entry.key: entry.value for entry in onnx.load(str(tmp_path / "net.onnx")).metadata_props}
    assert json.loads(entries["class_names"]) == ["background", "a", "b", "c"]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 96, 128), "its operators depend on the size of the image"),  # as the image that is traced
        ((7, 1), "onnx's evaluator cannot run it: .*reshape"),
    ],
)
def test_sizes_are_blamed_only_where_an_image_of_the_traced_size_can_be_evaluated(shape, message, tmp_path):
    values = onnx.helper.make_tensor("shape", onnx.TensorProto.INT64, [len(shape)], shape)
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None) for name in ("image", "same")]
    node = onnx.helper.make_node("Reshape", ["image", "shape"], ["same"])
    graph = onnx.helper.make_graph([node], "toy", ends[:1], ends[1:], [values])
    versions = [onnx.helper.make_opsetid("", OPSET)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=versions, ir_version=8), str(tmp_path / "net.onnx"))
    with pytest.raises(RuntimeError, match=message):
        _require_free_sizes(nn.Identity(), tmp_path / "net.onnx", tolerance=1e-3)


@pytest.mark.parametrize("size", [(3, 21), (14, 9), (6, 8)])
def test_position_embeddings_are_resized_as_torch_does(size):
    maps = torch.randn(2, 3, 6, 8)
    expected = F.interpolate(maps, size=size, mode="bicubic", antialias=True)
    found = bicubic_matrix(6, size[0]) @ maps @ bicubic_matrix(8, size[1]).T
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_network_that_onnx_cannot_hold_is_one_clear_error(tmp_path, capfd):
    pytest.importorskip("timm")
    network = build_segmenter(NetworkConfig.model_validate(MOBILEVIT), 4, seed=1)
    with pytest.raises(ConfigError, match="cannot be written as ONNX") as caught:
        export_onnx(network, tmp_path / "net.onnx")
    assert len(str(caught.value).splitlines()) < 4
    assert capfd.readouterr().out == ""
