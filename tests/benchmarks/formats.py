"""Score maps on disk: our HDF5 shards against one compressed NumPy file per image."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from artifacts.score_maps import ScoreMaps, ScoreMapWriter
from artifacts.store import Writer
from stages.data.config import VOC_CLASS_NAMES
from tests.benchmarks import inputs
from tests.benchmarks.measure import Result, in_turn

# (images, different ones among them, their size, repeats)
SIZES = {
    "tiny": (3, 2, (48, 64), 1),
    "quick": (60, 12, inputs.VOC_SIZE, 2),
    "full": (500, 24, inputs.VOC_SIZE, 5),
}


def score_maps(scale: str, folder: Path) -> Result:
    """Writing the maps of the classes present and reading them all back."""
    count, different, size, repeats = SIZES[scale]
    maps = [_maps(number, size) for number in range(different)]
    ids = [f"{number:05d}" for number in range(count)]
    records = {image_id: maps[number % different] for number, image_id in enumerate(ids)}
    shards, files = folder / "shards", folder / "files"

    def one_file_each() -> dict[str, np.ndarray]:
        shutil.rmtree(files, ignore_errors=True)
        files.mkdir()
        for image_id, (scores, classes) in records.items():
            np.savez_compressed(files / f"{image_id}.npz", scores=scores, classes=classes)
        found = {}
        for image_id in ids:
            with np.load(files / f"{image_id}.npz") as file:
                found[image_id] = file["scores"].astype(np.float32)
        return found

    def in_shards() -> dict[str, np.ndarray]:
        shutil.rmtree(shards, ignore_errors=True)
        shards.mkdir()
        with ScoreMapWriter(Writer(shards), class_names=VOC_CLASS_NAMES) as writer:
            writer.plan(ids)
            for image_id, (scores, classes) in records.items():
                writer.add(image_id, scores, classes, size=size, stride=4)
        reader = ScoreMaps(shards)
        found = {image_id: reader[image_id].scores for image_id in ids}
        reader.close()
        return found

    baseline, ours, expected, found = in_turn(one_file_each, in_shards, repeats)
    return Result(
        "score-maps",
        "maps written to HDF5 shards and read back; baseline: one compressed .npz per image",
        f"{count} images of {size[0]}x{size[1]}, maps of stride 4 in float16",
        baseline,
        ours,
        "the maps read back, value by value",
        all(np.array_equal(expected[image_id], found[image_id]) for image_id in ids),
        figures={
            "images_per_s": count / ours.median,
            "kib_an_image": _bytes(shards) / 1024 / count,
            "baseline_kib_an_image": _bytes(files) / 1024 / count,
        },
    )


def _maps(number: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Scores float16 (K, h, w) of the classes present, background among them, and their ids."""
    mask = inputs.drawn_image(number, size)[1]
    classes = np.unique(mask[mask < inputs.NUM_CLASSES]).astype(np.uint8)
    return inputs.class_probabilities(mask, seed=number)[classes].astype(np.float16), classes


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
