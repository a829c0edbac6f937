"""README.md of the folder that `semiseg run own` delivers: how good the model is, and how it is used."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from artifacts.item_shapes import network_inference
from artifacts.text import amount
from stages.serving.model_folder import NETWORK

PAGE, NEXT = "README.md", "label-next.csv"

_TEXT = """\
# A segmentation model

{score}

It was made by `semiseg run own` in {workspace}, whose `report.html` shows images of val. The folder may be copied
anywhere; the commands below then name its new place.

## Masks of new photos

```sh
semiseg predict --workspace {model} --segmenter network{scales} \\
    --images NEW_PHOTOS --output masks --name new
semiseg export files new new-masks --part masks --workspace {model}
```

The value of a pixel is its class: {numbers}; 255 is unknown. The network sees photos with their sides times
{scale}, for which the score holds; `--set scales=[...]` changes that.

## In Python

```python
from stages.serving import Segmenter

segmenter = Segmenter.load({path!r})
prediction = segmenter("photo.jpg")
prediction.save("mask.png")
prediction.overlay().save("overlay.png")
```

## Without semiseg

`segmenter.onnx` needs onnxruntime, NumPy and Pillow alone:

```python
import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession({onnx!r})
photo = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
seen = photo.resize([max(1, round({scale} * side)) for side in photo.size])
(probabilities,) = session.run(None, {{"image": np.asarray(seen).transpose(2, 0, 1)[None]}})
mask = Image.fromarray(probabilities[0].argmax(0).astype(np.uint8)).resize(photo.size, Image.NEAREST)
mask.save("mask-onnx.png")
```
"""
_MORE = """
## A better model

`label-next.csv` lists the photos whose masks would help most. Write what the model predicts for LabelMe (or `cvat`,
`label-studio`, `coco`), and correct it there:

```sh
semiseg export labelme predictions for-labelme --workspace {workspace} --only {next}
```

Then run `semiseg run own` again, with the corrected masks in addition to the first ones
(`--set 'masks=[masks,for-labelme]'`), and in another workspace (`--workspace DIR`) to keep this model.
"""


def model_page(model: Path, workspace: Path, summary: Mapping[str, Any]) -> str:
    """summary: what summary.json holds. How to label more is said where the folder has a list of images for that."""
    model, workspace = model.absolute(), workspace.absolute()
    parts = {
        "score": _score(summary),
        "workspace": shlex.quote(str(workspace)),
        "model": shlex.quote(str(model)),
        "path": str(model),
        "onnx": str(model / "segmenter.onnx"),
        "next": shlex.quote(str(model / NEXT)),
        "scales": _scales_option(summary["scales"], network_inference(model / NETWORK)),
        "scale": f"{summary['scales'][0]:g}",
        "numbers": ", ".join(f"{number} {name}" for number, name in enumerate(summary["classes"])),
    }
    return (_TEXT + (_MORE if (model / NEXT).is_file() else "")).format(**parts)


def _scales_option(scales: Sequence[float], recorded: Mapping[str, Any]) -> str:
    """What predict must be told: nothing where the network records the scales, or they are predict's default."""
    if list(scales) == recorded.get("scales", [1.0]):
        return ""
    return f" --set scales=[{','.join(f'{scale:g}' for scale in scales)}]"


def _score(summary: Mapping[str, Any]) -> str:
    """The scores on val in words and as a table; that there are none."""
    scores = summary.get("val")
    if not scores:
        return f"Method: {summary['method']}. No masks were set aside, so that nothing says how good it is."
    ends = [f"{100 * end:.1f}" for end in scores.get("mean_iou_interval", ())]
    between = f" (95 %: {' to '.join(ends)})" if ends else ""
    rows = [f"| {name} | {'-' if iou is None else f'{100 * iou:.1f} %'} |" for name, iou in scores["iou"].items()]
    mean = f"Mean IoU {100 * scores['mean_iou']:.1f} %{between}"
    lines = [
        f"Method: {summary['method']}. {mean} on val: {amount(scores['images'], 'image')} that it was neither trained",
        "nor chosen on. IoU is the area where mask and truth agree, as a share of what either covers.",
        "",
        "| class | IoU |",
        "|---|---|",
    ]
    return "\n".join([*lines, *rows])
