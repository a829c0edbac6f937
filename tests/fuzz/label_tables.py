"""Label tables in made-up forms: exactly the labels meant, or an error that names the row; never other classes."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path

from artifacts.errors import DataError
from stages.data.annotations.image_labels import read_label_table
from stages.data.lists.id_lists import Names

IDS = ["a", "photo", "photo 1", "photo 2", "IMG (1)", "IMG_2", "x.v2", "red,green", "b;c", "bär", "12", "000000000009"]
IDS += ["2007_000032", "a b.c", "it's", "cat"]
CLASSES = ["cat", "dog", "traffic light", "red car", "bus", "Größe", "x-ray", "other-thing", "class1", "no_entry"]
YES = ["1", "1.0", "yes", "True", "TRUE", "y", "T", "x", "X", "1.00"]
NO = ["0", "0.0", "no", "False", "FALSE", "n", "F", "-", "0.00"]
ODD = ["0.93", "-1", "-1.0", "nan", "NaN", "?", "maybe", "2", "uncertain", "N/A", "0,5", "cat?", "1e9"]
FIRST = ["file", "image", "image_id", "filename", "File Name", "id", "ID", "Image Index", "name", "path", "img"]
ONE_LABEL = ["label", "class", "category", "Class Name", "class_id"]
LABEL = [*ONE_LABEL, "labels", "tags", "label_1"]


def written(rng: random.Random, one: str) -> str:
    return rng.choice([one, f"{one}.jpg", f"photos/{one}.PNG", f"my photos\\{one}.tif"])


def one_hot(rng: random.Random, rows: list[tuple[str, set[str]]], classes: list[str]) -> list[list[str]]:
    yes = rng.choice(YES)
    no = rng.choice([*NO, ""])
    header = [rng.choice(FIRST), *classes]
    return [header, *([written(rng, i), *(yes if name in has else no for name in classes)] for i, has in rows)]


def of_names(rng: random.Random, rows: list[tuple[str, set[str]]], separator: str) -> list[list[str]]:
    between = rng.choice([mark for mark in "|;," if mark != separator])
    header = [[rng.choice(FIRST), rng.choice(LABEL)]] if rng.random() < 0.6 else []
    if rng.random() < 0.3:
        return header + [[written(rng, i), *sorted(has)] for i, has in rows]
    return header + [[written(rng, i), between.join(sorted(has))] for i, has in rows]


def long_form(rng: random.Random, rows: list[tuple[str, set[str]]]) -> list[list[str]]:
    return [
        [rng.choice(FIRST), rng.choice(ONE_LABEL)],
        *([written(rng, i), name] for i, has in rows for name in sorted(has) or [""]),
    ]


def text_of(table: list[list[str]], separator: str, rng: random.Random) -> str:
    file = io.StringIO()
    quoting = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    csv.writer(file, delimiter=separator, quoting=quoting, lineterminator=rng.choice(["\n", "\r\n"])).writerows(table)
    return file.getvalue()


def fuzz(rng: random.Random, folder: Path) -> str:
    ids = rng.sample(IDS, 2 + rng.randrange(5))
    known_too = rng.random() < 0.5
    form = rng.choice(["one-hot", "one-hot", "names", "long"])
    possible = CLASSES if known_too or form != "names" else [name for name in CLASSES if " " not in name]
    classes = rng.sample(possible, 1 + rng.randrange(4))
    rows = [(i, {name for name in classes if rng.random() < 0.5}) for i in ids]
    rows += [(i, {rng.choice(classes)}) for i in ids if rng.random() < 0.2]  # a second row of an image
    separator = rng.choice("\t;,|")
    if form == "one-hot":
        table = one_hot(rng, rows, classes)
    else:
        table = of_names(rng, rows, separator) if form == "names" else long_form(rng, rows)
    marks = sum(
        cell != "" for row in table[1:] for cell in row[1:]
    )  # of one or two alone, nobody can say what they are
    odd = form == "one-hot" and marks > 2 and rng.random() < 0.4
    at, column = 1 + rng.randrange(len(rows)), 1 + rng.randrange(len(classes))
    if odd:
        table[at][column] = rng.choice(ODD)
    if form != "names" and rng.random() < 0.2:  # as pandas writes an index
        table = [["", *table[0]], *([str(number), *row] for number, row in enumerate(table[1:]))]
    known = classes if known_too else []
    path = folder / "labels.csv"
    path.write_bytes(text_of(table, separator, rng).encode(rng.choice(["utf-8", "utf-8-sig", "utf-16"])))
    meant: dict[str, set[str]] = {}
    for image_id, has in rows:
        meant.setdefault(image_id, set()).update(has)
    shown = f"{path.read_bytes().decode('utf-8', 'replace')!r}, known {known}"
    uncertain = rng.choice(["refuse", "refuse", "absent", "present"])
    refusal = ""
    try:
        found = read_label_table(path, known, Names(IDS), uncertain)  # type: ignore[arg-type]
    except DataError as error:
        refusal = error.message
    if refusal and not odd and form == "one-hot" and not marks:
        return f"{form}: refused without a mark"
    if refusal:
        assert odd, f"{shown}: {refusal}"
        assert f"line {at + 1}, column {classes[column - 1]!r}" in refusal, f"{shown}: {refusal}"
        return f"{form}: the odd cell is named"
    assert set(found.class_names) <= set(classes), f"{shown}: the classes {found.class_names}"
    if odd:
        assert uncertain != "refuse", f"{shown}: nothing said"
        return f"{form}: uncertain as set"
    assert {i: set(has) for i, has in found.labels.items()} == meant, f"{shown} read as {found.labels}"
    return f"{form}: read"
