"""`prepare-data`: one data set artifact from the embedded shapes or from a PASCAL VOC 2012 devkit.

    semiseg prepare-data --dataset shapes
    semiseg prepare-data --dataset voc-aug --source VOCdevkit/VOC2012 --sbd benchmark_RELEASE

The artifact holds the lists of the splits `train` (masks), `weak` (image-level labels) and `val` (scored), the
labels, the masks, and for shapes the images; the images of VOC stay where they are unless `copy_images` is set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from artifacts.store import Artifact, Writer
from stages.config import Config
from stages.contract import Execution, Stage
from stages.data.config import ShapesConfig


class PrepareDataConfig(Config):
    """Which data set to prepare, and how."""

    dataset: Literal["shapes"] = Field("shapes", description="shapes: drawn, needs no files.")
    shapes: ShapesConfig = Field(
        default_factory=ShapesConfig, description="How `shapes` is drawn (dataset: shapes only)."
    )


def run(
    config: PrepareDataConfig, inputs: Mapping[str, Artifact | None], writer: Writer, execution: Execution
) -> dict[str, Any]:
    """Write the data set; returns what a person wants to know of it."""
    from stages.data.shapes import write_shapes

    return write_shapes(config.shapes, writer, execution)


STAGE = Stage(
    name="prepare-data",
    version=1,
    summary="Prepare a data set: lists, image-level labels, masks.",
    config=PrepareDataConfig,
    inputs={},
    output="dataset",
    run=run,
)
