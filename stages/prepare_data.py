"""`prepare-data`: one data set artifact from the embedded shapes, a published data set, or your own pictures.

    semiseg prepare-data --dataset shapes
    semiseg prepare-data --dataset voc-aug --source VOCdevkit/VOC2012 --sbd benchmark_RELEASE
    semiseg prepare-data --dataset folder --images photos --masks masks --classes classes.txt

The artifact holds the lists of the splits `train` (masks), `holdout` (masks that are not trained on, to choose by),
`weak` (image-level labels), `unlabelled`, `val` (scored) and `test`, the labels, the masks, and for shapes the images;
other images stay where they are unless `copy_images` is set.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.errors import ConfigError
from artifacts.store import Artifact, Writer
from stages.contract import Execution, Stage
from stages.data.config import DatasetSettings, ShapesConfig
from stages.data.preparation_config import PrepareDataConfig

if TYPE_CHECKING:
    from stages.data.readers.raw import RawDataset

# The readers of data sets made of files: name -> module with `find` and `text_files`.
READERS = {
    "voc-aug": "stages.data.readers.voc",
    "cityscapes": "stages.data.readers.cityscapes",
    "coco": "stages.data.readers.coco",
    "pascal-context": "stages.data.readers.pascal_context",
    "folder": "stages.data.readers.folder",
}


def run(
    config: PrepareDataConfig, inputs: Mapping[str, Artifact | None], writer: Writer, execution: Execution
) -> dict[str, Any]:
    """Write the data set; returns what a person wants to know of it."""
    if execution.rank != 0:
        return {}  # under torchrun one process prepares, with a pool of its own
    if isinstance(config.dataset, ShapesConfig):
        from stages.data.lists.id_lists import Names
        from stages.data.preparation import choose_holdout
        from stages.data.readers.shapes import image_ids, write_shapes

        splits = image_ids(config.dataset)
        names = Names(image_id for ids in splits.values() for image_id in ids)
        splits["train"], splits["holdout"] = choose_holdout(config, splits["train"], names, execution.progress.note)
        return write_shapes(config.dataset, splits, writer, execution)
    from stages.data.preparation import prepare

    return prepare(find_raw(config.dataset, execution), config, writer, execution)


def find_raw(settings: DatasetSettings, execution: Execution) -> RawDataset:
    """The data set as it lies on disk, found by its reader."""
    reader = importlib.import_module(READERS[settings.name])
    return reader.find(settings, execution)


def externals(config: PrepareDataConfig) -> dict[str, Path]:
    """Lists and label files that the config names or that lie in its folders: their content counts, not their path.

    ConfigError for a folder that is not there: then nothing can be said about its files.
    """
    from stages.data.lists.splits import parse_amount

    check(config, {})
    files: dict[str, Path] = {}
    if config.dataset.name in READERS:
        reader = importlib.import_module(READERS[config.dataset.name])
        files |= {f"dataset.{key}": path for key, path in reader.text_files(config.dataset).items()}
    for key in ("labelled", "holdout"):
        if getattr(config, key) and isinstance(amount := parse_amount(getattr(config, key)), Path):
            files[key] = amount
    for key in ("unlabelled", "tag_file"):
        if getattr(config, key):
            files[key] = Path(getattr(config, key)).expanduser()
    return files


def check(config: PrepareDataConfig, inputs: Mapping[str, Artifact | None]) -> None:
    """The folders named by the config exist."""
    for key in ("source", "sbd", "images", "annotations"):
        folder = getattr(config.dataset, key, "")
        if folder and not Path(folder).expanduser().is_dir():
            raise ConfigError(f"{key} names {folder}, which is no folder", f"correct {key}")


STAGE = Stage(
    name="prepare-data",
    version=3,
    summary="Prepare a data set: lists, image-level labels, masks.",
    config=PrepareDataConfig,
    inputs={},
    output="dataset",
    run=run,
    externals=externals,
    check=check,
)
