"""Feature maps: what a frozen encoder makes of fixed views of images, a closed HDF5 file for each image.

    features.json              which encoder, which views, which maps
    features/<image id>.h5     root: schema
        <map>    float32 (views, C, h, w), one chunk a view, fletcher32; not compressed: features hardly get smaller

A file takes its name when it is whole: a killed stage loses the image that it was at.

    writer.write_bytes(item_of(image_id), pack({"high": features}))   # (views, C, h, w)
    FeatureMaps(artifact).read(image_id, view)["high"]                # (C, h, w)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Literal

import h5py
import numpy as np
from h5py import h5t
from numpy.typing import NDArray
from pydantic import Field

from artifacts.closed_hdf5 import PLAIN, LayoutError, member, values, whole_number
from artifacts.errors import ArtifactError, DataError
from artifacts.item_shapes import Ids
from artifacts.json_items import MAKE_AGAIN, Anything, Shape
from artifacts.store import Artifact

RECORD = "features.json"
SCHEMA = 1  # also of each file

Size = Annotated[int, Field(ge=1, le=2**20)]


class FeatureRecord(Shape):
    """features.json.

    Attributes:
        made_with: all that the values depend on, by name: the encoder with the digest of its weights, and the views.
        views: of each image. maps: the shape (C, h, w) of each map of a view.
    """

    schema_version: Literal[1] = Field(alias="schema")
    made_with: Anything
    views: Size
    maps: dict[str, Annotated[list[Size], Field(min_length=3, max_length=3)]]
    ids: Ids


def item_of(image_id: str) -> str:
    """The item with the features of an image."""
    return f"features/{image_id}.h5"


def pack(maps: Mapping[str, NDArray[np.float32]]) -> bytes:
    """The file of an image with all its maps (views, C, h, w).

    It is built in memory, since the HDF5 library ignores the error of a full disk and then crashes the process.
    """
    with h5py.File("features", "w", driver="core", backing_store=False, libver="v110") as file:
        file.attrs["schema"] = SCHEMA
        for name, features in maps.items():
            file.create_dataset(
                name, data=features, dtype="<f4", chunks=(1, *features.shape[1:]), fletcher32=True, track_times=False
            )
        file.flush()
        return file.id.get_file_image()


class FeatureMaps:
    """Reads the features of an artifact; an instance may be pickled or forked into workers.

    Attributes: record; names, the maps that `read` gives.
    """

    def __init__(self, artifact: Artifact, names: Collection[str] | None = None) -> None:
        """names: the maps that are wanted; None: all. DataError if one is not there."""
        self.path = artifact.path
        self.record = artifact.json(RECORD, FeatureRecord)
        self.names = tuple(self.record.maps if names is None else names)
        if missing := [name for name in self.names if name not in self.record.maps]:
            raise DataError(
                f"the features {artifact.name!r} lack the maps {', '.join(missing)} of the encoder, which this network "
                f"reads (found: {', '.join(self.record.maps)})",
                "make them with the head of this network: semiseg features --set network.head=...",
            )

    def read(self, image_id: str, view: int) -> dict[str, NDArray[np.float32]]:
        """The maps (C, h, w) of one view. ArtifactError where they are missing or damaged."""
        path = self.path / item_of(image_id)
        if not path.is_file():
            raise ArtifactError(f"there are no features of {image_id}: {path} is missing", MAKE_AGAIN)
        try:
            with h5py.File(path, "r", locking=False) as file:
                if (found := whole_number(file, "schema")) != SCHEMA:
                    raise LayoutError(f"it has schema {found}, expected {SCHEMA}")
                return {name: self._values(file, name, view) for name in self.names}
        except Exception as error:  # for damaged bytes HDF5 raises errors of any type
            raise ArtifactError(f"the features {path} are damaged: {error}", MAKE_AGAIN) from error

    def _values(self, file: h5py.File, name: str, view: int) -> NDArray[np.float32]:
        shape = tuple(self.record.maps[name])
        if (found := member(file, name, h5py.Dataset).shape) != (self.record.views, *shape):
            raise LayoutError(f"{name} is {found}, expected {(self.record.views, *shape)}")
        return values(file, name, (1, *shape), h5t.IEEE_F32LE, PLAIN, view)
