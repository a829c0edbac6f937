"""Which images of a stream share image-level labels: the groups that methods learn from together are drawn from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np


class Lists:
    """Lists of whole numbers in two flat arrays (compressed rows): `lists[i]` is the i-th, ascending."""

    def __init__(self, keys: np.ndarray, values: np.ndarray, count: int) -> None:
        """keys: int (n,), which list each of `values`, int (n,), belongs to. count: how many lists there are."""
        self.values = values[np.lexsort((values, keys))]
        self.starts = np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=count))])

    def __getitem__(self, number: int) -> np.ndarray:
        return self.values[self.starts[number] : self.starts[number + 1]]

    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)


class AlikeImages:
    """The images of a stream by their image-level labels. Memory and time grow with the number of labels.

    An image counts once, however often a stream names it.
    """

    def __init__(self, ids: Sequence[str], labels_of: Callable[[str], Iterable[int]], equal: bool = False) -> None:
        """Args:
        ids: the image of each entry of the stream.
        labels_of: the image-level labels of an image, none where they are unknown.
        equal: prefer images with exactly the same labels.
        """
        first: dict[str, int] = {}
        for entry, image_id in enumerate(ids):
            first.setdefault(image_id, entry)
        numbers = {image_id: number for number, image_id in enumerate(first)}
        self.entry_of = np.fromiter(first.values(), np.int64, len(first))  # (images,)
        self.image_of = np.fromiter((numbers[image_id] for image_id in ids), np.int64, len(ids))  # (entries,)
        sets = [tuple(labels_of(image_id)) for image_id in first]
        owners = np.repeat(np.arange(len(sets)), [len(labels) for labels in sets])
        labels = np.fromiter((label for labels in sets for label in labels), np.int64, len(owners))
        self.labels = Lists(owners, labels, len(sets))
        self.members = Lists(labels, owners, int(labels.max(initial=-1)) + 1)
        self.set_of: np.ndarray | None = None
        if equal:
            kinds = {labels: number for number, labels in enumerate(dict.fromkeys(sets))}
            self.set_of = np.fromiter((kinds[labels] for labels in sets), np.int64, len(sets))
            self.equals = Lists(self.set_of, np.arange(len(sets)), len(kinds))

    def others(self, entry: int, number: int, random: np.random.Generator) -> list[int]:
        """Entries of `number` images that share a label with the image of `entry`, all different.

        For each, one of the labels of the first image is drawn, all with equal probability, then one of the images with
        that label: a label that most images have does not crowd out the rest. Where there are not enough such images
        the group repeats those that it has: [a, b] becomes [a, b, a, b], and an image that shares no label is
        repeated alone.
        """
        chosen = [int(self.image_of[entry])]
        while len(chosen) <= number and (members := self._drawn_from(chosen, random)) is not None:
            taken = self._positions(chosen, members)
            place = int(random.integers(len(members) - len(taken)))
            for position in taken:  # ascending, for the index among the images that are left
                place += place >= position
            chosen.append(int(members[place]))
        group = [entry, *(int(self.entry_of[image]) for image in chosen[1:])]
        return [group[k % len(group)] for k in range(1, number + 1)]

    def short(self, number: int) -> int:
        """How many images share a label with fewer than `number` others."""
        lengths = self.members.lengths()
        few = 0
        for image in range(len(self.entry_of)):
            labels = self.labels[image]
            if len(labels) and lengths[labels].max() > number:
                continue
            alike = np.concatenate([self.members[label] for label in labels] or [np.array([image])])
            few += len(np.unique(alike)) - 1 < number
        return few

    def _drawn_from(self, chosen: list[int], random: np.random.Generator) -> np.ndarray | None:
        """The images among which the next one is drawn; None where all that share a label are chosen."""
        image = chosen[0]
        if self.set_of is not None and len(self.labels[image]):
            equal = self.equals[int(self.set_of[image])]
            if len(equal) > len(self._positions(chosen, equal)):
                return equal
        lists = [self.members[label] for label in self.labels[image]]
        lists = [members for members in lists if len(members) > len(self._positions(chosen, members))]
        return lists[int(random.integers(len(lists)))] if lists else None

    @staticmethod
    def _positions(chosen: Sequence[int], members: np.ndarray) -> list[int]:
        """The indices in `members` of those `chosen` that are among them, ascending."""
        places = np.searchsorted(members, chosen)
        return sorted(
            int(place)
            for place, one in zip(places, chosen, strict=True)
            if members[place : place + 1].tolist() == [one]
        )
