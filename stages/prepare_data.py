"""`prepare-data`: one data set artifact from the embedded shapes, a published data set, or a folder of images.

    semiseg prepare-data --dataset shapes
    semiseg prepare-data --dataset voc-aug --source VOCdevkit/VOC2012 --sbd benchmark_RELEASE
    semiseg prepare-data --dataset folder --images photos --masks masks --classes classes.txt

The artifact holds the lists of the splits `train` (masks), `holdout` (masks that are not trained on, for selection),
`weak` (image-level labels), `unlabelled`, `val` (scored) and `test`, the labels, the masks, and for shapes the images;
other images stay where they are unless `copy_images` is set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from artifacts.store import Writer
from stages.contract import Execution, Inputs, Stage
from stages.data.config import DatasetSettings, ShapesConfig
from stages.data.preparation_config import PrepareDataConfig, reader_of

if TYPE_CHECKING:
    from stages.data.readers.raw import RawDataset


def run(config: PrepareDataConfig, inputs: Inputs, writer: Writer, execution: Execution) -> dict[str, Any]:
    """Write the data set; returns its summary."""
    if isinstance(config.dataset, ShapesConfig):
        from stages.data.choose_splits import choose_holdout
        from stages.data.lists.id_lists import Names
        from stages.data.readers.shapes import image_ids, write_shapes

        splits = image_ids(config.dataset)
        names = Names(image_id for ids in splits.values() for image_id in ids)
        splits["train"], splits["holdout"] = choose_holdout(config, splits["train"], names, execution.progress.note)
        return write_shapes(config.dataset, splits, writer, execution)
    if execution.rank != 0:
        return {}  # under torchrun one process prepares, with a pool of its own
    from stages.data.preparation import prepare

    return prepare(find_raw(config.dataset, execution), config, writer, execution)


def find_raw(settings: DatasetSettings, execution: Execution) -> RawDataset:
    """The data set on disk, found by its reader."""
    return reader_of(settings).find(settings, execution)


STAGE = Stage(
    name="prepare-data",
    version=3,
    summary="Prepare a data set: lists, image-level labels, masks.",
    config=PrepareDataConfig,
    inputs=Inputs,
    output="dataset",
    run=run,
)
