"""The table of published lists: against the real lists, every one of which must also be read."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from artifacts.errors import DataError
from stages.data.lists.id_lists import check_disjoint, check_subset, list_digest, read_list
from stages.data.lists.published_lists import PUBLISHED
from stages.data.lists.splits import check_unlabelled, describe_labelled

ids_of = functools.cache(read_list)
S4GAN = {"1_50": "s4GAN 1/50", "1_20": "s4GAN 1/20", "1_8": "s4GAN 1/8", "1_4": "s4GAN 1/4", "1_2": "s4GAN 1/2"}
CLASSIC = ("92", "183", "366", "732")


@pytest.fixture(scope="module")
def folder(real_data: Path) -> Path:
    """The real lists, a folder for each repository."""
    found = real_data / "data" / "voc-lists"
    if not found.is_dir():
        pytest.skip(f"{real_data} has no data/voc-lists")
    return found


@pytest.fixture(scope="module")
def voc(folder: Path) -> dict[str, set[str]]:
    return {name: set(ids_of(folder / "voc12" / f"{name}.txt")) for name in ("train", "train_aug", "val")}


def name_of(file: Path) -> str:
    """The name in the table of a labelled list: its repository and its file."""
    repository, *parts = file.with_suffix("").parts
    path = "/".join(part for part in parts if part != "labeled")
    if repository == "s4gan_split0":
        return S4GAN[path] if path in S4GAN else path.replace("cutmix_n", "CutMix-Seg ")
    names = {
        "cps_torchsemiseg": "CPS",
        "pseudoseg_wss": "PseudoSeg",
        "stpp": "ST++",
        "u2pl": "U2PL",
        "unimatch": "UniMatch",
    }
    return f"{names[repository]} {path}"


def labelled_files(folder: Path) -> list[Path]:
    every = sorted(path.relative_to(folder) for path in folder.rglob("*.txt"))
    return [
        path
        for path in every
        if path.name == "labeled.txt" or "_labeled_" in path.name or path.parts[0] == "pseudoseg_wss"
    ]


def test_the_table_makes_sense():
    for digest, published in PUBLISHED.items():
        assert len(digest) == 64
        assert set(digest) <= set("0123456789abcdef")
        assert 0 < published.official <= min(published.count, 1464)
        assert len(set(published.names)) == len(published.names) > 0
    families = [(published.family, published.name) for published in PUBLISHED.values()]
    assert len(set(families)) == len(families)
    words = {str(published) for published in PUBLISHED.values()}
    assert "CPS list 1/8 (1,323 ids, 14.6 % official masks)" in words
    assert "U2PL list 1/8 (1,323 ids, 100 % official masks)" in words
    assert "classic list 732, version II (732 ids, 100 % official masks)" in words


def test_every_list_is_read_or_refused_with_a_reason(folder, voc):
    refused = {}
    for path in sorted(folder.rglob("*.txt")):
        lines = len(path.read_text().split("\n")) - 1
        try:
            ids = ids_of(path)
        except DataError as error:
            refused[str(path.relative_to(folder))] = str(error)
            continue
        assert len(ids) == lines  # the files hold a bare id a line
        assert path.parts[-2:] == ("voc12", "test.txt") or set(ids) <= voc["train_aug"] | voc["val"]
    assert list(refused) == ["voc12/image_labels.txt"]
    assert "line 1: '2007_000032 aeroplane person' is not a list entry" in refused["voc12/image_labels.txt"]
    assert "label file (tag_file)" in refused["voc12/image_labels.txt"]
    assert set(ids_of(folder / "s4gan_split0" / "order.txt")) == voc["train_aug"]  # ids, not row numbers


def test_every_digest_is_that_of_a_real_list(folder, voc):
    met = set()
    for file in labelled_files(folder):
        ids = ids_of(folder / file)
        check_disjoint(ids, voc["val"], str(file), "val")
        check_subset(ids, voc["train_aug"], str(file), "trainaug")
        published = PUBLISHED[list_digest(ids)]
        assert name_of(file) in published.names
        assert (published.count, published.official) == (len(ids), len(set(ids) & voc["train"])), file
        met.add(list_digest(ids))
    for name, ids in voc.items():
        if published := PUBLISHED.get(list_digest(ids)):
            assert name != "val"
            assert (published.count, published.official) == (len(ids), len(ids & voc["train"]))
            met.add(list_digest(ids))
    assert met == PUBLISHED.keys()


def test_names_stand_once_and_classic_lists_are_the_same_everywhere(folder):
    every = [name for published in PUBLISHED.values() for name in published.names]
    assert all(every.count(name_of(file)) == 1 for file in labelled_files(folder))
    for n in CLASSIC:
        files = [folder / "unimatch" / n, folder / "u2pl" / n, folder / "stpp" / n / "split_0"]
        digests = {list_digest(ids_of(file / "labeled.txt")) for file in files}
        assert len(digests) == 1
        assert PUBLISHED[digests.pop()].name == n


def test_a_list_in_another_dialect_is_recognised(folder, voc, tmp_path):
    ids = ids_of(folder / "cps_torchsemiseg" / "train_aug_labeled_1-8.txt")
    path = tmp_path / "list.txt"
    lines = [f"/JPEGImages/{i}.jpg /SegmentationClassAug/{i}.png" for i in reversed(ids)]
    path.write_bytes("\ufeff".encode() + "\r\n".join(lines).encode())
    facts = describe_labelled(read_list(path), voc["train_aug"], voc["val"], voc["train"])
    assert facts["family"] == "CPS list 1/8 (1,323 ids, 14.6 % official masks)"
    assert (facts["official"], facts["official_share"], facts["in_val"]) == (193, 0.1459, 0)
    assert "UniMatch 1_8" in facts["published_as"]
    assert describe_labelled(ids[:-1], voc["train_aug"], voc["val"], voc["train"])["family"] is None


def test_published_unlabelled_lists_are_the_rest_or_say_what_is_wrong(folder, voc):
    """All but CPS's pseudoseg lists, each of which holds one labelled image (and lists the 1,464 only)."""
    for path in sorted(folder.rglob("unlabeled.txt")):
        labelled = ids_of(path.with_name("labeled.txt"))
        check_unlabelled(ids_of(path), labelled, voc["train_aug"], str(path))
    cps = folder / "cps_torchsemiseg"
    twice = {"1-16": "2008_004822", "1-8": "2009_001036", "1-4": "2007_000032", "1-2": "2009_000662"}
    for part, image_id in twice.items():
        labelled = ids_of(cps / f"train_aug_labeled_{part}.txt")
        check_unlabelled(ids_of(cps / f"train_aug_unlabeled_{part}.txt"), labelled, voc["train_aug"], part)
        both = [ids_of(cps / f"pseudoseg_{kind}_{part}.txt") for kind in ("unlabeled", "labeled")]
        with pytest.raises(DataError, match=rf"1 of its ids are labelled: {image_id}\n"):
            check_unlabelled(*both, voc["train"], "the unlabelled list")
