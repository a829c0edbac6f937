"""Which masks of an artifact are compared with which true masks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from artifacts.dataset import Dataset
from artifacts.errors import ArtifactError, DataError
from artifacts.store import Artifact
from stages.data.images import ids_of

SHOWN = 50  # names listed in one message


def shown(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def ids_with_truth(dataset: Dataset, splits: Collection[str]) -> list[str]:
    """Sorted ids of the splits; DataError where there are none, or some have no true mask."""
    ids = ids_of(dataset, splits)
    if without := [image_id for image_id in ids if not dataset.has_mask(image_id)]:
        raise DataError(
            f"{len(without)} of {len(ids)} images of {', '.join(splits)} have no ground truth: {shown(without)}",
            "score a split that has masks",
        )
    return ids


@dataclass(frozen=True)
class MaskPairs(Mapping[str, tuple[Path, Path]]):
    """id -> (predicted mask, true mask); the paths of an image are made when they are asked for."""

    ids: Sequence[str]
    folder: Path
    dataset: Dataset

    def __getitem__(self, image_id: str) -> tuple[Path, Path]:
        return self.folder / f"{image_id}.png", self.dataset.mask_path(image_id)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self.ids)


def find_pairs(dataset: Dataset, predictions: Artifact, splits: Collection[str]) -> MaskPairs:
    """id -> (predicted mask, true mask) of the splits; an error lists every id that lacks one of them."""
    folder = predictions.path / "masks"
    if not folder.is_dir():
        raise ArtifactError(
            f"artifact {predictions.name!r} ({predictions.kind}) holds no masks",
            "predict with output=masks or output=both, or evaluate the masks of crf",
        )
    ids = ids_with_truth(dataset, splits)
    if missing := [image_id for image_id in ids if not (folder / f"{image_id}.png").is_file()]:
        raise DataError(
            f"artifact {predictions.name!r} has no mask for {len(missing)} of {len(ids)} images of "
            f"{', '.join(splits)}: {shown(missing)}",
            "predict these splits, or score the splits that were predicted",
        )
    return MaskPairs(ids, folder, dataset)
