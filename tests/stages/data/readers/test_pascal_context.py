"""The PASCAL-Context reader on a tiny tree: three numberings of the classes become one; lists, counts, mistakes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from artifacts.dataset import Dataset
from artifacts.errors import ConfigError, DataError
from artifacts.store import Artifact, Workspace
from stages.config import build
from stages.contract import Execution
from stages.data.config import PASCAL_CONTEXT_CLASS_NAMES, VOC_CLASS_NAMES, PascalContextConfig
from stages.data.preparation_config import PrepareDataConfig
from stages.data.readers import pascal_context
from stages.pipeline.run_stage import run_stage
from stages.prepare_data import STAGE

WIDTH, HEIGHT = 30, 20

# The ids that labels.txt has for the 59 classes, in the order of 59_labels.txt.
LABEL_IDS = """
aeroplane 2, bicycle 23, bird 25, boat 31, bottle 34, bus 45, car 59, cat 65, chair 72, cow 98, table 397, dog 113,
horse 207, motorbike 258, person 284, pottedplant 308, sheep 347, sofa 368, train 416, tvmonitor 427, bag 9, bed 18,
bench 22, book 33, building 44, cabinet 46, ceiling 68, cloth 80, computer 85, cup 104, door 115, fence 144, floor
158, flower 159, food 162, grass 187, ground 189, keyboard 220, light 232, mountain 259, mouse 260, curtain 105,
platform 296, sign 355, plate 295, road 324, rock 326, shelves 349, sidewalk 354, sky 360, snow 366, bedclothes 19,
track 415, tree 420, truck 424, wall 440, water 445, window 454, wood 458
"""
IDS = {name: int(number) for name, number in (entry.split() for entry in LABEL_IDS.replace("\n", " ").split(","))}
NUMBER = {label_id: position for position, label_id in enumerate(IDS.values(), start=1)}  # as in 59_labels.txt
DOG, PERSON, BEDCLOTHES, GRASS, SKY, WOOD = (IDS[n] for n in ("dog", "person", "bedclothes", "grass", "sky", "wood"))
WINDOW_BLINDS, UNKNOWN, HAY = 455, 431, 200  # labels that are none of the 59


def alphabetical(label_map: np.ndarray) -> np.ndarray:
    """As the detail API's users convert: the rank of a label among the ids of the 59, 0 for others."""
    ranked = [0, *sorted(IDS.values())]
    return np.array([[ranked.index(v) if v in ranked else 0 for v in row] for row in label_map.tolist()], np.uint8)


def official(label_map: np.ndarray) -> np.ndarray:
    """As 59_context_labels has it, pixel by pixel."""
    return np.array([[NUMBER.get(value, 0) for value in row] for row in label_map.tolist()], np.uint8)


class Tree:
    """A devkit with trainval/*.mat and labels.txt: 3 images of train, 2 of val, one without annotation."""

    def __init__(self, root: Path) -> None:
        self.root = root / "VOCdevkit" / "VOC2010"
        self.label_maps = {
            "2008_000002": bars(DOG, GRASS, HAY),
            "2008_000003": bars(PERSON, BEDCLOTHES, WOOD),
            "2009_000001": bars(UNKNOWN, WINDOW_BLINDS, HAY),
            "2008_000007": bars(SKY, GRASS),
            "2010_000009": bars(PERSON, DOG),
        }
        (self.root / "JPEGImages").mkdir(parents=True)
        (self.root / "trainval").mkdir()
        for number, image_id in enumerate([*self.label_maps, "2010_000010"]):
            noise = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
            Image.fromarray(noise).save(self.root / "JPEGImages" / f"{image_id}.jpg")
        for image_id, label_map in self.label_maps.items():
            scipy.io.savemat(self.root / "trainval" / f"{image_id}.mat", {"LabelMap": label_map}, do_compression=True)
        self.write_list("Main", "train", "2009_000001", "2008_000002", "2008_000003")
        self.write_list("Main", "val", "2008_000007", "2010_000009")
        names = {label_id: name for name, label_id in IDS.items()}
        lines = [f"{number}: {names.get(number, f'label {number}')}" for number in range(1, 460)]
        (self.root / "labels.txt").write_text("\n".join(lines) + "\n")

    def write_list(self, folder: str, split: str, *ids: str) -> None:
        path = self.root / "ImageSets" / folder / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{image_id}\n" for image_id in ids))

    def convert(self, folder: str, number: Callable[[np.ndarray], np.ndarray]) -> Path:
        """PNGs of all label maps instead of the .mat files."""
        (self.root / folder).mkdir(parents=True)
        for image_id, label_map in self.label_maps.items():
            Image.fromarray(number(label_map)).save(self.root / folder / f"{image_id}.png")
        shutil.rmtree(self.root / "trainval", ignore_errors=True)
        (self.root / "labels.txt").unlink(missing_ok=True)
        return self.root / folder


def bars(*labels: int) -> np.ndarray:
    label_map = np.full((HEIGHT, WIDTH), IDS["wall"], np.uint16)
    for place, label in enumerate(labels):
        label_map[3:17, 2 + 9 * place : 9 + 9 * place] = label
    return label_map


def by_hand(label_map: np.ndarray, num_classes: int) -> np.ndarray:
    """The mask of a label map, pixel by pixel."""
    mask = np.zeros(label_map.shape, np.uint8)
    for y, x in np.ndindex(label_map.shape):
        number = NUMBER.get(int(label_map[y, x]), 0)
        mask[y, x] = number if num_classes == 60 else (number - 1 if number else 255)
    return mask


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.fixture
def prepare(tree: Tree, tmp_path: Path) -> Callable[..., Artifact]:
    def run(name: str = "data", workers: int = 1, **settings: Any) -> Artifact:
        own = {"source": str(settings.pop("source", tree.root))}
        own |= {k: str(settings.pop(k)) for k in ("annotations", "png_order") if k in settings}
        own |= {k: settings.pop(k) for k in ("num_classes",) if k in settings}
        values = {"dataset": {"name": "pascal-context", **own}, "allow_subset": True} | settings
        config = build(PrepareDataConfig, values, "test")
        return run_stage(STAGE, config, Workspace(tmp_path / "ws"), name, {}, Execution(workers=workers)).artifact

    return run


# ------------------------------------------------------------------------------------------------- classes


def test_the_names_are_in_the_order_of_59_labels():
    assert tuple(IDS) == PASCAL_CONTEXT_CLASS_NAMES
    voc = ["table" if name == "diningtable" else name for name in VOC_CLASS_NAMES[1:]]
    assert list(PASCAL_CONTEXT_CLASS_NAMES[:20]) == voc
    # What the detail API's masks rest on: the order of the ids in labels.txt is that of the alphabet.
    assert sorted(IDS) == sorted(IDS, key=IDS.__getitem__)


# ------------------------------------------------------------------------------------------------- the data set


def test_mat_files_with_background(prepare, tree):
    artifact = prepare()
    dataset = Dataset(artifact)
    assert dataset.class_names == ("background", *IDS)
    assert dataset.ids("train") == ("2008_000002", "2008_000003", "2009_000001")
    assert dataset.ids("val") == ("2008_000007", "2010_000009")
    for image_id, label_map in tree.label_maps.items():
        np.testing.assert_array_equal(dataset.mask(image_id), by_hand(label_map, 60))
    names = [[dataset.class_names[tag] for tag in dataset.tags(image_id)] for image_id in dataset.ids("train")]
    assert names == [["dog", "grass", "wall"], ["person", "bedclothes", "wall", "wood"], ["wall"]]
    assert artifact.summary["tag_source"] == "masks"
    assert artifact.summary["deviations"] == [
        "train has 3 images, expected 4,998",
        "val has 2 images, expected 5,105",
    ]


def test_mat_files_without_background(prepare, tree):
    dataset = Dataset(prepare(num_classes=59))
    assert dataset.class_names == tuple(IDS)
    assert not dataset.has_background
    for image_id, label_map in tree.label_maps.items():
        np.testing.assert_array_equal(dataset.mask(image_id), by_hand(label_map, 59))
    assert (dataset.mask("2009_000001") == 255).any()
    assert 0 not in dataset.tags("2008_000002")
    assert [dataset.class_names[tag] for tag in dataset.tags("2008_000002")] == ["dog", "grass", "wall"]


@pytest.mark.parametrize("num_classes", [59, 60])
def test_all_numberings_give_the_same_masks(prepare, tree, num_classes):
    expected = {image_id: by_hand(label_map, num_classes) for image_id, label_map in tree.label_maps.items()}
    for folder, number in (("59_context_labels", official), ("SegmentationClassContext", alphabetical)):
        tree.convert(folder, number)
        dataset = Dataset(prepare(folder, num_classes=num_classes))
        for image_id, mask in expected.items():
            np.testing.assert_array_equal(dataset.mask(image_id), mask)
        shutil.rmtree(tree.root / folder)


@settings(max_examples=25)
@given(label_map=arrays.arrays(np.uint16, (4, 6), elements=st.integers(0, 459)), num_classes=st.sampled_from([59, 60]))
def test_any_label_map(tmp_path_factory, label_map, num_classes):
    path = tmp_path_factory.mktemp("mat") / "2008_000002.mat"
    scipy.io.savemat(path, {"LabelMap": label_map})
    read = pascal_context.ContextMasks(pascal_context.class_table(IDS, 460, num_classes))
    np.testing.assert_array_equal(read(path), by_hand(label_map, num_classes))


def test_two_processes_give_the_same(prepare):
    assert prepare("one").manifest.content == prepare("two", workers=2).manifest.content


def test_some_classes_and_a_labelled_share(prepare):
    dataset = Dataset(prepare(classes="dog,person", labelled=2, labelled_seed=1))
    assert dataset.class_names == ("background", "dog", "person")
    assert (len(dataset.ids("train")), len(dataset.ids("weak"))) == (2, 1)
    with pytest.raises(ConfigError, match="did you mean 'bedclothes'"):
        prepare(classes="bedcloth")


# ------------------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize(
    ("source", "place"),
    [
        (source, place)
        for source in ("", "..", "../..")
        for place in ("trainval", "trainval/trainval", "../trainval", "../trainval/trainval")
    ]
    + [("../..", "../../trainval"), ("../..", "../../trainval/trainval")],
)
def test_mat_files_in_the_devkit_beside_it_or_below_the_source(tree, source, place):
    folder = (tree.root / place).resolve()
    (tree.root / "trainval").rename(tree.root / "files")
    folder.parent.mkdir(exist_ok=True)
    (tree.root / "files").rename(folder)
    (tree.root / "labels.txt").rename(folder.parent / "labels.txt")
    layout = pascal_context.locate(PascalContextConfig(source=str((tree.root / source).resolve())))
    assert layout.annotations.folder == folder
    assert layout.labels == folder.parent / "labels.txt"
    assert set(layout.annotations.files) == set(tree.label_maps)


def test_mat_files_elsewhere_are_named(prepare, tree, tmp_path):
    expected = prepare("before")
    (tree.root / "trainval").rename(tmp_path / "context")
    (tree.root / "labels.txt").rename(tmp_path / "context" / "labels.txt")
    with pytest.raises(DataError, match="there are no annotations in"):
        prepare()
    assert prepare(annotations=tmp_path / "context").manifest.content == expected.manifest.content


def test_mat_files_come_before_converted_ones_and_each_have_their_lists(prepare, tree):
    labels = (tree.root / "labels.txt").read_text()
    shutil.copytree(tree.root / "trainval", tree.root / "kept")
    converted = tree.convert("SegmentationClassContext", alphabetical)
    (tree.root / "kept").rename(tree.root / "trainval")
    (tree.root / "labels.txt").write_text(labels)
    tree.write_list("SegmentationContext", "train", "2008_000002", "2008_000003")
    tree.write_list("SegmentationContext", "val", "2008_000007", "2010_000009")
    first = prepare("first")
    assert (first.summary["annotations"], first.summary["lists"]) == ("mat", "Main")
    other = prepare("other", annotations=converted)
    assert (other.summary["annotations"], other.summary["lists"]) == ("alphabetical", "SegmentationContext")
    assert len(Dataset(other).ids("train")) == 2
    assert other.summary["deviations"][0] == (
        "train has 2 images, expected 4,998 (the lists of the detail API have 4,996)"
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, list[str]]:
    """A devkit with 10,103 empty annotations of each kind, and their ids."""
    root = tmp_path_factory.mktemp("whole")
    ids = [f"2008_{number:06d}" for number in range(10_103)]
    for folder, suffix in (("JPEGImages", ".jpg"), ("trainval", ".mat"), ("SegmentationClassContext", ".png")):
        (root / folder).mkdir()
        for image_id in ids if suffix != ".jpg" else ():
            (root / folder / f"{image_id}{suffix}").touch()
    (root / "59_context_labels").symlink_to(root / "SegmentationClassContext")
    (root / "labels.txt").write_text("".join(f"{number}: {name}\n" for name, number in IDS.items()))
    return root, ids


@pytest.mark.parametrize(
    ("folder", "counts", "deviating"),
    [
        ("trainval", (4998, 5105), 0),
        ("trainval", (4996, 5104), 2),
        ("SegmentationClassContext", (4996, 5104), 0),
        ("SegmentationClassContext", (4998, 5105), 0),
        ("SegmentationClassContext", (4996, 5105), 1),
        ("59_context_labels", (4998, 5105), 0),
        ("59_context_labels", (4996, 5104), 2),
        ("SegmentationClassContext", (964, 964), 2),
    ],
)
def test_which_counts_belong_to_which_annotations(whole, folder, counts, deviating):
    root, ids = whole
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / "train.txt").write_text("\n".join(ids[: counts[0]]))
    (lists / "val.txt").write_text("\n".join(ids[-counts[1] :]))
    raw = pascal_context.find(PascalContextConfig(source=str(root), annotations=str(root / folder)), Execution())
    assert len(raw.deviations) == deviating
    assert counts != (964, 964) or "964 is VOC 2010's list for segmentation" in raw.deviations[0]


def test_images_without_annotation_are_no_part(prepare, tree):
    tree.write_list("Main", "val", "2008_000007", "2010_000009", "2010_000010")
    artifact = prepare()
    assert Dataset(artifact).ids("val") == ("2008_000007", "2010_000009")
    assert artifact.summary["deviations"][1] == (
        "val has 2 images, expected 5,105 (1 id of val.txt has no annotation: 2010_000010)"
    )


def test_png_folders_of_other_names_need_their_order(prepare, tree):
    folder = tree.convert("masks_png", official)
    with pytest.raises(
        DataError, match=r"the order of the classes in the PNG files of .*masks_png is not known"
    ) as caught:
        prepare(annotations=folder)
    assert "dataset.png_order=official" in caught.value.hint
    dataset = Dataset(prepare(annotations=folder, png_order="official"))
    np.testing.assert_array_equal(dataset.mask("2008_000002"), by_hand(tree.label_maps["2008_000002"], 60))


# ------------------------------------------------------------------------------------------------- mistakes


def test_a_subset_is_refused_unless_allowed(prepare):
    with pytest.raises(DataError, match=r"is not all of pascal-context-60: train has 3 images, expected 4,998"):
        prepare(allow_subset=False)


def test_what_is_missing_is_named_at_once(prepare, tree):
    (tree.root / "labels.txt").unlink()
    shutil.rmtree(tree.root / "ImageSets")
    with pytest.raises(DataError) as caught:
        prepare()
    assert caught.value.message.splitlines() == [
        f"labels.txt is neither in {tree.root / 'trainval'} nor beside or above it",
        f"{tree.root / 'ImageSets'} has no train.txt and val.txt in Main or SegmentationContext",
    ]
    shutil.rmtree(tree.root / "trainval")
    with pytest.raises(
        DataError, match=r"no trainval/\*.mat, no PNGs in 59_context_labels or SegmentationClassContext"
    ):
        prepare()
    with pytest.raises(DataError, match="is not a VOC 2010 devkit"):
        prepare(source=tree.root / "JPEGImages")


def test_png_order_is_no_setting_of_mat_files(prepare):
    with pytest.raises(ConfigError, match=r"png_order has no effect on the \.mat files"):
        prepare(png_order="official")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1: aeroplane\n2: bicycle\n", "lacks the labels bird, boat, bottle, bus, car and 52 more"),
        ("aeroplane\n", r"labels.txt, line 1: 'aeroplane' is not a label"),
        ("one: aeroplane\n", r"labels.txt, line 1: 'one: aeroplane' is not a label"),
    ],
)
def test_other_files_than_labels_txt(prepare, tree, text, expected):
    (tree.root / "labels.txt").write_text(text)
    with pytest.raises(DataError, match=expected):
        prepare()


def test_another_numbering_in_labels_txt_is_followed(prepare, tree):
    """It belongs to the .mat files: a later release may number otherwise."""
    lines = (tree.root / "labels.txt").read_text().splitlines()
    lines[DOG - 1], lines[HAY - 1] = f"{DOG}: hay", f"{HAY}: dog"
    (tree.root / "labels.txt").write_text("\n".join(lines))
    dataset = Dataset(prepare())
    assert dataset.mask("2008_000002")[10, 22] == 1 + list(IDS).index("dog")  # where HAY is
    assert dataset.mask("2008_000002")[10, 4] == 0  # where DOG was


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"LabelMap": np.full((HEIGHT, WIDTH), 460, np.uint16)}, "has the values 460, expected 0..459"),
        ({"LabelMap": np.zeros((HEIGHT, WIDTH, 3), np.uint16)}, "LabelMap is uint16"),
        ({"LabelMap": np.zeros((HEIGHT, WIDTH))}, "LabelMap is float64"),
        ({"GTcls": np.zeros(3)}, r"cannot be read as an annotation of PASCAL-Context \(LabelMap\): KeyError"),
        (None, "cannot be read as an annotation of PASCAL-Context"),
        ({"LabelMap": np.zeros((HEIGHT, WIDTH + 1), np.uint16)}, "is 31x20"),
    ],
)
def test_mat_files_that_are_no_annotations_are_named(prepare, tree, content, expected):
    path = tree.root / "trainval" / "2008_000007.mat"
    if content is None:
        path.write_bytes(path.read_bytes()[:200])
    else:
        scipy.io.savemat(path, content)
    with pytest.raises(DataError, match=expected) as caught:
        prepare()
    assert str(path) in caught.value.message


def test_pngs_of_all_labels_are_refused(prepare, tree):
    tree.convert("SegmentationClassContext", lambda label_map: label_map.astype(np.uint8))  # as a script does it
    with pytest.raises(DataError, match=r"expected 0\.\.59") as caught:
        prepare()
    assert "all 459 labels" in caught.value.hint


def test_pngs_may_have_ignored_pixels(prepare, tree):
    folder = tree.convert("SegmentationClassContext", alphabetical)
    mask = alphabetical(tree.label_maps["2008_000002"])
    mask[0, :5] = 255
    Image.fromarray(mask).save(folder / "2008_000002.png")
    expected = by_hand(tree.label_maps["2008_000002"], 60)
    expected[0, :5] = 255
    np.testing.assert_array_equal(Dataset(prepare()).mask("2008_000002"), expected)
