"""Drawn images of VOC's sizes and classes, written to disk as VOC has them: JPEG, and masks as PNG."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

from artifacts.dataset import write_dataset
from artifacts.masks import encode_mask
from artifacts.score_maps import ScoreMapWriter
from artifacts.store import Artifact, Writer
from stages.data.annotations.image_labels import tags_of_mask
from stages.data.config import VOC_CLASS_NAMES
from tests.benchmarks import inputs
from tests.gpu.place import Place

SPLITS = {"train": 16, "weak": 192, "val": 16, "holdout": 12}  # of the smaller ones stages are profiled
TINY = {"train": 4, "weak": 4, "val": 2, "holdout": 2}
DRAWN = 40  # different ones: all heights, each upright and lying
HEIGHTS = (375, 375, 375, 375, 333, 333, 334, 332, 281, 357)  # of 500 pixels of width: about as often as in VOC


def data(place: Place) -> None:
    """The artifacts data and scores (score maps of val and weak)."""
    splits = {
        split: [f"{split}-{number}" for number in range(count)] for split, count in place.size(SPLITS, TINY).items()
    }
    ids = [image_id for members in splits.values() for image_id in members]
    count = place.size(DRAWN, 4)
    drawings = [_encoded(number, place.tiny) for number in range(count)]
    drawn = {image_id: drawings[number % count] for number, image_id in enumerate(ids)}
    scored = splits["val"] + splits["weak"]
    guesses = [_scores(mask) for _, mask, _ in drawings]
    scores = {image_id: guesses[number % count] for number, image_id in enumerate(ids) if image_id in {*scored}}

    def fill(writer: Writer) -> None:
        for image_id, (image, mask, _) in drawn.items():
            writer.write_bytes(f"images/{image_id}.jpg", image)
            writer.write_bytes(f"masks/{image_id}.png", mask)
        write_dataset(
            writer,
            name="drawn",
            class_names=VOC_CLASS_NAMES,
            splits=splits,
            tags={image_id: tags for image_id, (_, _, tags) in drawn.items()},
            tag_source="masks",
            mask_ids=ids,
            image_pattern="images/{id}.jpg",
        )

    def probable(writer: Writer) -> None:
        with ScoreMapWriter(writer, class_names=VOC_CLASS_NAMES, meaning="probability") as maps:
            maps.plan(scored)
            for image_id, (size, values) in scores.items():
                maps.add(image_id, values, range(inputs.NUM_CLASSES), size=size, stride=4)
        names = {"class_names": list(VOC_CLASS_NAMES), "ids": sorted(scored), "splits": ["val", "weak"]}
        writer.write_json("classes.json", names)

    inputs.hand_made(place.voc, "data", "dataset", fill)
    inputs.hand_made(place.voc, "scores", "predictions", probable)
    size = sum(len(image) for image, _, _ in drawn.values())
    place.rows.add("drawn images", {"images": len(ids), "kB an image": size / len(ids) / 1000})


def of_voc(place: Place) -> Artifact:
    return place.voc.artifact("data")


def _encoded(number: int, tiny: bool) -> tuple[bytes, bytes, list[int]]:
    """JPEG, mask as PNG, and image-level labels."""
    height, width = (60, 80) if tiny else (HEIGHTS[number % len(HEIGHTS)], 500)
    image, mask = inputs.drawn_image(number, (width * 3 // 4, width))
    image, mask = image[:height], mask[:height]
    if number % 4 == 3:  # upright
        image, mask = image.transpose(1, 0, 2), mask.T
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, format="JPEG", quality=92)
    return buffer.getvalue(), encode_mask(np.ascontiguousarray(mask)), tags_of_mask(mask)


def _scores(mask: bytes) -> tuple[tuple[int, int], np.ndarray]:
    """The size of an image, and class probabilities as a network would give them for its true mask."""
    with Image.open(BytesIO(mask)) as file:
        truth = np.array(file)
    return (truth.shape[0], truth.shape[1]), inputs.class_probabilities(truth, seed=len(mask))
