"""A network that `semiseg export onnx` wrote, as whole-image inference takes a network.

Files of torch.export are not read here: they may hold pickles, which could run code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from artifacts.errors import ArtifactError, ConfigError
from stages.networks.normalisation import pixels_of


class ExportedNetwork(nn.Module):
    """Normalised images (B, 3, H, W) -> log-probabilities (B, C, H, W), which serve as logits at stride 1.

    The file takes pixels: a copy of an image at another scale is rounded to 8 bits.
    """

    stride = 1

    def __init__(self, run: Callable[[np.ndarray], np.ndarray], entries: Mapping[str, str], path: Path) -> None:
        """run: uint8 (B, 3, H, W) -> float32 probabilities (B, C, H, W). entries: the metadata of the file.

        Its settings (`scales`, of a model of `run own`) become the attribute `recorded`.
        """
        super().__init__()
        self._run = run
        try:
            self.class_names = tuple(map(str, json.loads(entries["class_names"])))
            self.palette = np.array(json.loads(entries["palette"]), np.uint8).tobytes()
            if len(self.palette) != 768:
                raise ValueError("palette")
            self.recorded = {key: json.loads(entries[key]) for key in ("scales",) if key in entries}
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"{path} holds no class names and palette of semiseg", "write it with semiseg export onnx"
            ) from error

    def forward(self, images: Tensor) -> Tensor:
        probabilities = torch.from_numpy(self._run(pixels_of(images).numpy()))
        return probabilities.clamp_(min=torch.finfo(torch.float32).tiny).log_()


def load_exported(path: Path, device: str) -> ExportedNetwork:
    """The network of a file, run by onnxruntime on the device. ConfigError without onnxruntime or the device."""
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError(f"running {path} needs the package onnxruntime", "pip install 'semiseg[onnx]'") from None
    providers = _providers(onnxruntime, device)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: it warns of every constant that it can leave out
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # of any type, for a damaged file
        raise ArtifactError(f"{path} cannot be read: {str(error).splitlines()[0]}", "export it again") from error

    def run(pixels: np.ndarray) -> np.ndarray:
        (found,) = session.run(None, {"image": pixels})
        return found

    return ExportedNetwork(run, session.get_modelmeta().custom_metadata_map, path)


def _providers(onnxruntime: Any, device: str) -> list[Any]:
    """Where onnxruntime computes; ConfigError if its build has no GPU and one is asked for."""
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"{device!r} is not a device of onnxruntime", "use auto, cpu, cuda or cuda:1")
    gpu = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if kind == "cuda" and not gpu:
        raise ConfigError(f"device {device!r}: this onnxruntime has no CUDA", "use cpu, or install onnxruntime-gpu")
    cuda = [("CUDAExecutionProvider", {"device_id": int(index or 0)})] if gpu and kind != "cpu" else []
    return [*cuda, "CPUExecutionProvider"]
