"""Lists of made-up ids in made-up dialects: read back as they were meant, or refused; never as other ids."""

from __future__ import annotations

import random
from pathlib import Path

from artifacts.errors import DataError
from stages.data.lists.id_lists import ENTRY_SUFFIXES, Names, read_list

PIECES = [
    *"abz019",
    " ",
    "  ",
    "(1)",
    "(2)",
    ",",
    ", ",
    ";",
    ".",
    ".v2",
    "'",
    '"',
    "-1",
    "1",
    "2 3",
    "_",
    "é",
    "e\u0301",
]
PIECES += [
    "photo",
    "photo ",
    "IMG_1",
    "img 3",
    ".png",
    ".jpg",
    ".JPG",
    "_leftImg8bit",
    "_gtFine",
    "2007_000032",
    "写真",
]
PIECES += ["000000000009", "a.jpgb", "[x]", "#", "%20", "id", "mask", "\u00a0"]
FOLDERS = ["", "photos/", "my photos/", "./a (1)/", "C:\\Users\\me\\", "/data/set, 2/"]
MASKS = ["", "masks/", "the masks/", "SegmentationClass\\"]


def made_ids(rng: random.Random) -> list[str]:
    """Ids as file names may be, often one the beginning of another one."""
    ids: list[str] = []
    while len(ids) < 1 + rng.randrange(6):
        start = rng.choice([*ids, "", ""])
        one = (start + "".join(rng.choice(PIECES) for _ in range(1 + rng.randrange(4)))).strip()
        folded = {other.casefold() for other in ids}
        if one and not one.startswith(".") and len(one) < 60 and one.casefold() not in folded:
            ids.append(one)
    return ids


def quoted(rng: random.Random, text: str) -> str:
    return rng.choice([text, text, '"' + text.replace('"', '""') + '"'])


def fuzz(rng: random.Random, folder: Path) -> str:
    ids = made_ids(rng)
    listed = rng.sample(ids, 1 + rng.randrange(len(ids)))
    suffix, place, masks = rng.choice(ENTRY_SUFFIXES), rng.choice(FOLDERS), rng.choice(MASKS)
    suffix = rng.choice([suffix, suffix.upper(), ".jpg", ".png"])
    between = rng.choice([" ", "\t", ",", ";", ", ", "  "])
    dialect = rng.choice(["id", "id", "file", "pair", "number", "quoted", "quoted pair"])
    lines = []
    for number, one in enumerate(listed):
        image, mask = f"{place}{one}{suffix}", f"{masks}{one}.png"
        lines.append(
            {
                "id": one,
                "file": image,
                "quoted": quoted(rng, rng.choice([one, image])),
                "pair": f"{image}{between}{mask}",
                "quoted pair": f'"{image}"{between}"{mask}"',
                "number": f"{one}{suffix}{between}{number + 1}",
            }[dialect]
        )
    path = folder / "list.txt"
    path.write_bytes(rng.choice(["\n", "\r\n"]).join(lines).encode(rng.choice(["utf-8", "utf-8-sig", "utf-16"])))
    # `x` may name x_gtFine, and `x.png` names x
    plain = not any(one.lower().endswith(("_leftimg8bit", "_gtfine", *ENTRY_SUFFIXES)) for one in ids)
    missing = {rng.choice(ids)} if rng.random() < 0.3 and plain else set()
    notes: list[str] = []
    refusal = ""
    try:
        found = read_list(path, Names([one for one in ids if one not in missing]), notes.append)
    except DataError as error:
        refusal = error.message
    if refusal:
        assert dialect != "id" or missing, f"{lines} of {ids}: {refusal}"
        assert str(path) in refusal
        return f"{dialect}: refused"
    if missing:  # the images of a list that are there, and no others in the place of one that is not
        known, meant = ([one for one in part if one in ids and one not in missing] for part in (found, listed))
        assert known == meant or notes, f"{lines} of {ids} without {missing} meant {meant}, read as {known}"
        return f"{dialect}, an unknown id: read"
    twofold = any(f"{one}{suffix}" in ids for one in listed)  # photo.jpg, an id and the file of another
    assert found == listed or twofold, f"{lines} of {ids} meant {listed}, read as {found}"
    return f"{dialect}: read"
