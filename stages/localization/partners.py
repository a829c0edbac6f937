"""Which images a network that looks at groups is shown together with each: those with its labels. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence

from artifacts.dataset import Dataset
from stages.engine.groups import AlikeImages
from stages.engine.randomness import generator


def partners_of(dataset: Dataset, ids: Sequence[str], number: int) -> dict[str, list[str]]:
    """`number` images of `ids` for each, with exactly its labels where there are enough, else with one of them.

    They depend on the ids and their labels alone: every process finds the same, at any time.
    """
    alike = AlikeImages(ids, dataset.tags, equal=True)
    return {
        image_id: [ids[other] for other in alike.others(entry, number, generator(0, "partners", image_id))]
        for entry, image_id in enumerate(ids)
    }
