"""stages/export/torch_program.py: the written file, loaded by plain torch, against the network."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from artifacts.errors import ConfigError
from stages.export.torch_program import export_torch
from stages.networks import build_segmenter, normalise, upsample
from stages.networks.config import NetworkConfig

NETWORKS = {
    "tiny": {"preset": "tiny"},
    "mobilenet_v2": {"preset": "mobilenet_v2", "weights": "none", "freeze_batch_norm": False},
    "timm-convnext": {"backbone": "timm:test_convnext", "head_channels": 8},  # dilated, to the output stride 16
    "timm-vit": {"backbone": "timm:test_vit", "head_channels": 8},
}
ALONE = """
import json, sys, torch
extra = {"metadata.json": ""}
network = torch.export.load(sys.argv[1], extra_files=extra).module()
image = torch.arange(2 * 3 * 41 * 67, dtype=torch.int32).remainder(256).to(torch.uint8).view(2, 3, 41, 67)
torch.save(network(image), sys.argv[2])
assert "stages" not in sys.modules
print(extra["metadata.json"])
"""


@pytest.mark.parametrize("name", NETWORKS)
def test_plain_torch_loads_it_and_gives_what_the_network_gives(name, tmp_path):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    network = build_segmenter(NetworkConfig.model_validate(NETWORKS[name]), 4, seed=1).eval()
    network.class_names = ("background", "a", "b", "c")
    with torch.no_grad():  # scores that differ
        for parameter in list(network.head.parameters())[-2:]:
            parameter.normal_(std=1.0, generator=torch.Generator().manual_seed(0))
    export_torch(network, tmp_path / "net.pt2")
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path / "net.pt2"), str(tmp_path / "found.pt")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PATH": "", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    image = torch.arange(2 * 3 * 41 * 67, dtype=torch.int32).remainder(256).to(torch.uint8).view(2, 3, 41, 67)
    with torch.no_grad():
        expected = upsample(network(normalise(image)), (41, 67), network.stride).softmax(1)
    assert expected.std() > 0.05
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    record = json.loads(done.stdout)
    assert record["class_names"] == ["background", "a", "b", "c"]
    assert np.array(record["palette"]).shape == (256, 3)
    assert record["palette"][1] == [128, 0, 0]
    assert record["mean"] == [0.485, 0.456, 0.406]


def test_a_network_of_one_size_alone_is_one_clear_error(tmp_path):
    network = build_segmenter(NetworkConfig.model_validate("tiny"), 4, seed=1).eval()
    network.class_names = ("background", "a", "b", "c")
    whole = network.forward
    network.forward = lambda images: whole(images)[..., : 96 // network.stride, :] * int(images.shape[2] == 96)
    with pytest.raises(ConfigError, match="cannot be written by torch") as caught:
        export_torch(network, tmp_path / "net.pt2")
    assert len(str(caught.value).splitlines()) < 4
