from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from artifacts.dataset import Dataset, check_class_names, check_image_id, read_image, write_dataset
from artifacts.errors import ArtifactError, DataError, SemisegError
from artifacts.masks import voc_palette, write_mask
from artifacts.store import Work, Workspace, Writer
from tests.artifacts.small_artifacts import change_json

CLASSES = ("background", "cat", "cow", "dog")
SIZE = (12, 16)  # H, W
SPLITS = {"train": ["2007_b", "2007_a"], "weak": ["2008_c", "2008_d"], "val": ["2009_e"]}
TAGS = {"2007_a": [1], "2007_b": [3, 1], "2008_c": [2], "2008_d": [], "2009_e": [1, 2]}
MASKED = ["2007_a", "2007_b", "2008_c", "2009_e"]


def pixels(image_id: str) -> np.ndarray:
    rng = np.random.default_rng([ord(letter) for letter in image_id])
    return rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def mask(image_id: str) -> np.ndarray:
    rng = np.random.default_rng([ord(letter) for letter in image_id])
    found = rng.integers(0, len(CLASSES), SIZE, dtype=np.uint8)
    found[0] = 255
    return found


def fill(writer: Writer, images: Path | None = None, **changes) -> None:
    """Writes the small data set; images as PNG in the artifact, or below the folder `images`."""
    for image_id in TAGS:
        if images is None:
            with writer.item(f"images/{image_id}.png") as temporary:
                Image.fromarray(pixels(image_id)).save(temporary)
        else:
            images.mkdir(exist_ok=True)
            Image.fromarray(pixels(image_id)).save(images / f"{image_id}.bmp")
    for image_id in MASKED:
        with writer.item(f"masks/{image_id}.png") as temporary:
            write_mask(temporary, mask(image_id))
    options = {
        "name": "tiny",
        "class_names": CLASSES,
        "splits": SPLITS,
        "tags": TAGS,
        "tag_source": "xml",
        "mask_ids": MASKED,
        "sizes": dict.fromkeys(TAGS, SIZE),
        "facts": {"note": "five images"},
        **changes,
    }
    if images is not None:
        options = {"image_root": images, "image_pattern": "{id}.bmp", **options}
    write_dataset(writer, **options)


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    fill(Writer(tmp_path / "data"))
    return Dataset(tmp_path / "data")


def refusal(call, *arguments, kind: type[SemisegError] = DataError) -> str:
    with pytest.raises(kind) as caught:
        call(*arguments)
    return caught.value.message


# --- reading back ----------------------------------------------------------------------------------------------


def test_everything_comes_back(dataset):
    assert dataset.name == "tiny"
    assert dataset.class_names == CLASSES
    assert dataset.num_classes == 4
    assert dataset.tag_source == "xml"
    assert dataset.facts == {"note": "five images"}
    assert dataset.palette == voc_palette()
    assert dataset.splits["train"] == dataset.ids("train") == ("2007_a", "2007_b")  # sorted
    assert (dataset.ids("weak"), dataset.ids("val")) == (("2008_c", "2008_d"), ("2009_e",))
    assert dataset.tags("2007_b") == (1, 3)  # sorted
    assert dataset.tags("2008_d") == ()
    for image_id in TAGS:
        np.testing.assert_array_equal(dataset.image(image_id), pixels(image_id))
        assert dataset.size(image_id) == SIZE
        assert dataset.has_mask(image_id) == (image_id in MASKED)
    for image_id in MASKED:
        np.testing.assert_array_equal(dataset.mask(image_id), mask(image_id))
    assert dataset.mask_path("2007_a").is_file()
    assert dataset.image_path("2007_a").is_file()


def test_tags_vector_leaves_the_background_out(dataset):
    vector = dataset.tags_vector("2007_b")
    assert vector.dtype == np.float32
    assert vector.tolist() == [1, 0, 1]  # classes 1 and 3 of 1..3
    assert dataset.tags_vector("2008_d").tolist() == [0, 0, 0]


def test_a_published_artifact_is_read_as_such(tmp_path):
    workspace, work = Workspace(tmp_path), Work("prepare-data", 1, "dataset", "0" * 64, {}, {}, {})
    with workspace.writing("tiny", work) as writer:
        fill(writer)
        artifact = workspace.publish("tiny", writer, work, {})
    assert Dataset(artifact).ids("val") == ("2009_e",)
    assert artifact.verify() == []


def test_images_in_their_own_folder_are_no_part_of_the_content(tmp_path):
    contents = []
    work = Work("prepare-data", 1, "dataset", "0" * 64, {}, {}, {})
    for place in ("here", "there"):
        workspace = Workspace(tmp_path / place)
        with workspace.writing("tiny", work) as writer:
            fill(writer, images=tmp_path / f"images-{place}")
            artifact = workspace.publish("tiny", writer, work, {})
        dataset = Dataset(artifact)
        assert dataset.image_path("2007_a") == tmp_path / f"images-{place}" / "2007_a.bmp"
        np.testing.assert_array_equal(dataset.image("2007_a"), pixels("2007_a"))
        contents.append(artifact.manifest.content)
        assert str(tmp_path) not in (artifact.path / "dataset.json").read_text()
    assert contents[0] == contents[1]


def test_single_images_may_have_their_own_file(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(pixels("2009_e")).save(images / "other name.png")
    fill(Writer(tmp_path / "data"), images=images, image_files={"2009_e": "other name.png"})
    (images / "2009_e.bmp").unlink()
    dataset = Dataset(tmp_path / "data")
    np.testing.assert_array_equal(dataset.image("2009_e"), pixels("2009_e"))
    assert dataset.image_path("2007_a").name == "2007_a.bmp"


def test_without_recorded_sizes_they_come_from_the_files(tmp_path):
    fill(Writer(tmp_path / "data"), sizes=None)
    dataset = Dataset(tmp_path / "data")
    assert dataset.size("2007_a") == SIZE
    Image.fromarray(pixels("2007_a")[:5]).save(dataset.image_path("2007_a"))
    assert dataset.size("2007_a") == SIZE  # read once
    assert dataset.image("2007_a").shape == (5, 16, 3)


def test_equal_data_sets_have_equal_bytes(tmp_path):
    fill(Writer(tmp_path / "one"))
    fill(
        Writer(tmp_path / "two"),
        splits={split: ids[::-1] for split, ids in reversed(SPLITS.items())},
        tags={image_id: TAGS[image_id][::-1] for image_id in reversed(TAGS)},
        mask_ids=set(MASKED),
    )
    for path in (tmp_path / "one").rglob("*.[jp]*"):  # json and png
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_grey_indexed_and_transparent_images_become_rgb(tmp_path):
    colours = Image.fromarray(pixels("a"))
    for mode in ("L", "P", "RGBA", "LA", "1", "CMYK"):
        path = tmp_path / f"{mode}.tif"
        colours.convert(mode).save(path)
        assert read_image(path).shape == (*SIZE, 3)
        assert read_image(path).dtype == np.uint8


def test_exif_orientation_is_not_applied(tmp_path):
    """VOC's masks are drawn on the pixels as stored."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(pixels("a")).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels("a"))


def test_twelve_thousand_images_open_at_once(tmp_path):
    """10,582 training and 1,449 validation images, as VOC with SBD has them."""
    ids = [f"20{number // 1000:02d}_{number:06d}" for number in range(12_031)]
    record = {
        "schema": 2,
        "name": "voc-aug",
        "classes": ["background", *(f"class {number}" for number in range(20))],
        "palette": "voc",
        "splits": {"train": ids[:1464], "weak": ids[1464:10_582], "val": ids[10_582:]},
        "tags": {image_id: [1, 5] for image_id in ids},
        "tag_source": "masks",
        "masks": ids,
        "images": {"place": "local", "pattern": "JPEGImages/{id}.jpg", "files": {}, "copied": {}},
        "sizes": {image_id: [375, 500] for image_id in ids},
        "facts": {},
    }
    Writer(tmp_path).write_json("dataset.json", record)
    begin = time.perf_counter()
    dataset = Dataset(tmp_path)
    for image_id in ids:
        dataset.tags_vector(image_id)
        dataset.size(image_id)
        dataset.mask_path(image_id)
    assert time.perf_counter() - begin < 2  # 0.1 s in fact; no file is touched but the record
    assert len(dataset.ids("weak")) == 9118


# --- damage ----------------------------------------------------------------------------------------------------


def test_missing_image_is_named_with_id_split_and_file(dataset):
    dataset.image_path("2008_c").unlink()
    message = refusal(dataset.image, "2008_c")
    assert message.startswith("id 2008_c in split 'weak' has no file ")
    assert str(dataset.image_path("2008_c")) in message


def test_missing_image_is_named_when_its_size_is_asked(tmp_path):
    fill(Writer(tmp_path / "data"), sizes=None)
    dataset = Dataset(tmp_path / "data")
    dataset.image_path("2009_e").unlink()
    assert refusal(dataset.size, "2009_e").startswith("id 2009_e in split 'val' has no file ")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_image_cut_anywhere_is_refused(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(np.kron(pixels("a"), np.ones((3, 3, 1), np.uint8))).save(path)
    data = path.read_bytes()
    for length in [0, 1, 10, len(data) // 3, len(data) // 2, len(data) - 50, len(data) - 3, len(data) - 1]:
        path.write_bytes(data[:length])
        assert f"image {path} cannot be read: " in refusal(read_image, path)


def test_damaged_image_is_named_with_id_split_and_file(dataset):
    path = dataset.image_path("2009_e")
    path.write_bytes(path.read_bytes()[:-30])
    assert refusal(dataset.image, "2009_e").startswith(f"id 2009_e in split 'val': image {path} cannot be read: ")


def test_image_of_16_bits_is_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 3000, np.uint16)).save(tmp_path / "a.png")
    assert "more than 8 bits" in refusal(read_image, tmp_path / "a.png")


def test_image_of_another_size_than_recorded_is_refused(dataset):
    Image.fromarray(pixels("2007_a")[:5]).save(dataset.image_path("2007_a"))
    assert "is 16x5 (width x height), but was 16x12" in refusal(dataset.image, "2007_a")


def test_mask_of_another_size_than_its_image_is_refused(dataset):
    write_mask(dataset.mask_path("2007_a"), mask("2007_a")[:5])
    assert "is 16x5 (width x height), expected 16x12, the size of its image" in refusal(dataset.mask, "2007_a")


def test_mask_value_outside_the_classes_is_refused(dataset):
    wrong = mask("2007_a")
    wrong[5, 5:7] = 4
    write_mask(dataset.mask_path("2007_a"), wrong)
    assert "values outside the classes: 4 (2 px); expected 0..3" in refusal(dataset.mask, "2007_a")


def test_missing_mask_file_and_image_without_mask_are_told_apart(dataset):
    dataset.mask_path("2007_a").unlink()
    with pytest.raises(DataError, match="is missing") as caught:
        dataset.mask("2007_a")
    assert "make the data set again" in str(caught.value.hint)
    assert refusal(dataset.mask, "2008_d") == "id 2008_d in split 'weak' has no mask"


def test_unknown_ids_and_splits_are_named(dataset):
    for call in (dataset.image, dataset.mask, dataset.size, dataset.tags, dataset.tags_vector):
        assert refusal(call, "2010_x") == "data set 'tiny' has no image '2010_x'"
    assert refusal(dataset.ids, "trainval") == "data set 'tiny' has no split 'trainval'"
    assert not dataset.has_mask("2010_x")


def test_labels_that_were_not_given_are_not_made_up(tmp_path):
    fill(Writer(tmp_path), tags={image_id: TAGS[image_id] for image_id in TAGS if image_id != "2009_e"})
    assert refusal(Dataset(tmp_path).tags, "2009_e") == "id 2009_e in split 'val' has no image-level labels"


def test_unknown_labels_are_no_number(tmp_path):
    splits = {**SPLITS, "weak": ["2008_c"], "unlabelled": ["2008_d"]}
    fill(Writer(tmp_path), splits=splits, tags={i: tags for i, tags in TAGS.items() if i != "2008_d"})
    dataset = Dataset(tmp_path)
    assert dataset.ids("unlabelled") == ("2008_d",)
    assert (dataset.has_tags("2008_c"), dataset.has_tags("2008_d")) == (True, False)
    assert np.isnan(dataset.tags_vector("2008_d")).all()
    assert dataset.tags_vector("2007_b").tolist() == [1, 0, 1]


def test_without_background_the_first_class_can_be_a_label(tmp_path):
    fill(Writer(tmp_path), class_names=["road", "car", "person", "sky"], tags={**TAGS, "2007_a": [0, 3]})
    dataset = Dataset(tmp_path)
    assert (dataset.has_background, dataset.num_labels, dataset.label_names[0]) == (False, 4, "road")
    assert dataset.tags_vector("2007_a").tolist() == [1, 0, 0, 1]
    assert dataset.possible_classes("2007_a") == (0, 3)
    assert "needs a class background" in refusal(dataset.require_background, "x")


def test_copied_images_lie_in_the_artifact(tmp_path):
    fill(Writer(tmp_path / "data"), images=tmp_path / "images", copied_images={"2007_a": "masks/2007_a.png"})
    dataset = Dataset(tmp_path / "data")
    assert dataset.image_path("2007_a") == tmp_path / "data" / "masks" / "2007_a.png"
    assert dataset.image_path("2007_b").parent == tmp_path / "images"


def test_moved_images_folder_is_named(tmp_path):
    images = tmp_path / "images"
    fill(Writer(tmp_path / "data"), images=images)
    images.rename(tmp_path / "moved")
    dataset = Dataset(tmp_path / "data")
    assert f"the images' folder {images} (recorded in " in refusal(dataset.image, "2007_a")
    (tmp_path / "data" / "local" / "images.json").write_text(json.dumps({"root": str(tmp_path / "moved")}))
    np.testing.assert_array_equal(dataset.image("2007_a"), pixels("2007_a"))  # the hint helps
    np.testing.assert_array_equal(dataset.mask("2007_a"), mask("2007_a"))


def test_missing_record_of_the_images_folder_is_named(tmp_path):
    fill(Writer(tmp_path / "data"), images=tmp_path / "images")
    (tmp_path / "data" / "local" / "images.json").unlink()
    assert "images.json" in refusal(Dataset(tmp_path / "data").image, "2007_a", kind=ArtifactError)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("[]", "expected an object"),
        ('{"schema": 1}', "schema 1, this version of semiseg reads 2"),
        ('{"schema": 2}', "lacks"),
    ],
)
def test_damaged_record_is_named(dataset, text, message):
    (dataset.path / "dataset.json").write_text(text)
    assert message in refusal(Dataset, dataset.path, kind=ArtifactError)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ["background", "cat", "cat", "dog"]}, "distinct names"),
        ({"classes": ["cat", "background"]}, "'background' first or nowhere"),
        ({"classes": ["background", "a\x1b[31mb"]}, "it has control characters"),
        ({"classes": "cat"}, "damaged at classes: expected a list"),
        ({"splits": {"train": "abc"}}, "damaged at splits.train: expected a list"),
        ({"splits": {"training": []}}, "damaged at splits.training"),
        ({"splits": {"weak": ["../x"]}}, "'../x' cannot be an image id"),
        ({"splits": {"val": ["2007_a", "2007_a"]}}, "2007_a occurs twice in split 'val'"),
        ({"splits": {"weak": ["2008_c", "new"]}}, "id new in split 'weak' has no image-level labels"),
        ({"tags": {"2007_a": [99]}}, "has the labels [99], expected class ids 1..3"),
        ({"tags": {"2007_a": [2, 1]}}, "has the labels [2, 1]"),
        ({"tags": {"2007_a": ["1"]}}, "damaged at tags.2007_a[0]: expected a whole number"),
        ({"tags": {"nobody": [1]}}, "tags has 1 id that is in no split, e.g. 'nobody'"),
        ({"masks": []}, "of split 'train' without a mask"),
        ({"sizes": {"2007_a": [0, 5]}}, "damaged at sizes.2007_a[0]: expected greater than or equal to 1"),
        ({"sizes": {"2007_a": [5]}}, "damaged at sizes.2007_a"),
        ({"sizes": {"2007_a": [5, 1e9]}}, "damaged at sizes.2007_a[1]: expected a whole number"),
        ({"images": {"files": {"2007_a": "../../secret.png"}}}, "'../../secret.png' leaves the folder of the images"),
        ({"images": {"pattern": "/etc/{id}"}}, "'/etc/{id}' leaves the folder of the images"),
        ({"images": {"copied": {"2007_a": "images/../../x.png"}}}, "leaves the folder of the images"),
        ({"images": {"place": "web"}}, "damaged at images.place: expected 'artifact' or 'local'"),
        ({"images": []}, "damaged at images: expected an object"),
        ({"facts": None}, "damaged at facts: expected an object"),
    ],
)
def test_a_field_that_cannot_be_one_of_a_data_set_is_refused_when_it_is_opened(dataset, change, message):
    record = json.loads((dataset.path / "dataset.json").read_text())
    for key, value in change.items():
        merge = isinstance(value, dict) and isinstance(record[key], dict)
        record[key] = record[key] | value if merge else value
    (dataset.path / "dataset.json").write_text(json.dumps(record))
    assert message in refusal(Dataset, dataset.path, kind=ArtifactError)


@pytest.mark.parametrize("text", ["{", "[]", '{"root": 3}', "[" * 100_000])
def test_a_damaged_record_of_the_images_folder_is_named(tmp_path, text):
    fill(Writer(tmp_path / "data"), images=tmp_path / "images")
    (tmp_path / "data" / "local" / "images.json").write_text(text)
    assert "images.json is damaged" in refusal(Dataset(tmp_path / "data").image, "2007_a", kind=ArtifactError)


def test_an_artifact_that_is_named_by_its_folder_is_compared_with_its_manifest_too(tmp_path):
    work = Work("prepare-data", 1, "dataset", "a" * 64, {}, {}, {})
    space = Workspace(tmp_path / "space")
    with space.writing("data", work) as writer:
        fill(writer)
        path = space.publish("data", writer, work, {}).path
    assert Dataset(path).facts == {"note": "five images"}
    change_json(path, "dataset.json", lambda record: record["facts"].update(note="six"), sign=False)
    assert "changed since it was published" in refusal(Dataset, path, kind=ArtifactError)


def test_folder_that_is_no_data_set(tmp_path):
    assert "has no dataset.json" in refusal(Dataset, tmp_path, kind=ArtifactError)


# --- what may be written ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ["cat", "background", "dog", "horse"]}, "'background' first or nowhere"),
        ({"class_names": ["background", "cat", "cat", "dog"]}, "distinct names"),
        ({"class_names": ["background", *(f"c{n}" for n in range(255))]}, "256 classes"),
        ({"splits": {**SPLITS, "trainval": []}}, "unknown split 'trainval'"),
        ({"splits": {**SPLITS, "test": ["2007_a"]}}, "in both 'train' and 'test'"),
        ({"splits": {**SPLITS, "unlabelled": ["2009_e"]}}, "in both 'unlabelled' and 'val'"),
        ({"splits": {**SPLITS, "train": ["2007_a", "2007_a"]}}, "id 2007_a occurs twice in split 'train'"),
        ({"splits": {**SPLITS, "train": ["2007_a", "2009_e"]}}, "1 id is in both 'train' and 'val', e.g. 2009_e"),
        ({"splits": {**SPLITS, "weak": ["2009_e"]}}, "in both 'weak' and 'val'"),
        ({"splits": {**SPLITS, "train": ["2008_d"]}}, "1 id of split 'train' without a mask, e.g. 2008_d"),
        ({"splits": {**SPLITS, "val": ["2008_d"], "weak": []}}, "1 id of split 'val' without a mask"),
        (
            {"splits": {**SPLITS, "weak": ["2008_z"]}, "tags": {**TAGS, "2008_z": []}},
            "id 2008_z in split 'weak' has no file",
        ),
        ({"splits": {**SPLITS, "weak": [20070033]}}, "it is a int, not text"),
        ({"splits": {**SPLITS, "weak": ["a/b"]}}, "'a/b' cannot be an image id"),
        ({"mask_ids": [*MASKED, "2008_d"]}, "id 2008_d has no mask file masks/2008_d.png"),
        ({"tags": {**TAGS, "2007_a": [0]}}, "has the labels [0], expected class ids 1..3"),
        ({"tags": {**TAGS, "2007_a": [1, 4]}}, "has the labels [1, 4], expected class ids 1..3"),
        ({"tags": {"2007_a": [1]}}, "id 2007_b in split 'train' has no image-level labels"),
    ],
)
def test_lists_labels_and_files_must_agree(tmp_path, changes, message):
    assert message in refusal(lambda: fill(Writer(tmp_path), **changes))
    assert not (tmp_path / "dataset.json").exists()


@pytest.mark.parametrize("wrong", ["aachen/000001", "..", ".hidden", "", " a", "a\n", "x.tmp-1", "a\\b", "a" * 201, 7])
def test_ids_that_cannot_name_a_file_are_refused(wrong):
    """Files with '.tmp-' in their name are temporary: the next run of a stage would delete them."""
    assert "cannot be an image id" in refusal(check_image_id, wrong)


@given(st.text(max_size=20))
def test_an_accepted_id_names_one_visible_file_in_its_folder(text):
    try:
        check_image_id(text)
    except DataError:
        return
    path = Path("masks", f"{text}.png")
    assert path.parent == Path("masks")
    assert path.name == f"{text}.png"
    assert not path.name.startswith(".")
    path.name.encode()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([f"c{number}" for number in range(256)], "256 classes: an 8-bit mask holds 255"),
        (["background", "x" * 3000], "it has 3,000 characters, at most 200 are possible"),
        (["background", "c\x1b[31mat"], r"'c\x1b[31mat' cannot be a class name: it has control characters"),
        (["background", "c\nat"], "control characters"),
        (["background", "c\x7fat"], "control characters"),
        (["background", "c\x9bat"], "control characters"),
        (["background", "\ud800"], "control characters, or characters that cannot be shown"),
        (["background", "\u202etac"], "cannot be shown"),
        (["background", " "], "it is empty"),
        (["background", 7], "it is a int, not text"),
        (["background", None], "it is a NoneType, not text"),
        (["background", "cat", "cat"], "expected distinct names"),
        (["cat", "background"], "'background' first or nowhere"),
        ([], "expected distinct names"),
    ],
)
def test_names_that_can_be_no_classes_are_refused(tmp_path, names, said):
    message = refusal(check_class_names, names, "classes.txt")
    assert message.startswith("classes.txt: ")
    assert said in message
    assert message.isprintable()
    assert len(message) < 200
    fill(Writer(tmp_path))
    record = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps(record | {"classes": names}))
    with pytest.raises(ArtifactError, match=r"dataset\.json is damaged"):
        Dataset(tmp_path)


@pytest.mark.parametrize(
    "name", ["traffic light", "Straße", "猫", "\u06af\u200c\u0647", "🐈", "a" * 200, "[/red]", "#7"]
)
def test_names_of_any_language_are_classes(name):
    check_class_names(["background", name])


def test_classes_that_are_no_list_are_refused(tmp_path):
    fill(Writer(tmp_path))
    record = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps(record | {"classes": {"0": "background"}}))
    with pytest.raises(ArtifactError, match="damaged at classes: expected a list"):
        Dataset(tmp_path)
