"""Odd images, and artifacts of different sets, given by commands to every classifier method and to every refiner.

The methods are those of the cards, so a new one is asked all of this without an entry. Every warning is an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from artifacts.masks import IGNORE, read_mask, write_mask
from artifacts.score_maps import ScoreMaps
from semiseg_cli.main import main
from stages.methods.settings import METHODS
from stages.refiners.settings import REFINERS, TRAINED
from stages.refiners.settings.base import ForegroundRefinerSettings

pytestmark = pytest.mark.filterwarnings("error")

CLASSIFIERS = [name for name, settings in METHODS.items() if settings.card.output == "classifier"]
CLASSES = ("background", "red", "green", "blue")
COLOURS = np.array([(110, 110, 110), (210, 40, 40), (40, 190, 40), (40, 40, 210)])
SIZES = {  # (H, W)
    "none": (40, 50),
    "all": (44, 52),
    "pixel": (1, 1),
    "row": (1, 60),
    "column": (60, 1),
    "large": (700, 60),  # beyond every crop of these tests, and the 512 of IRNet's code
    "grey": (40, 50),
    "grey-rgb": (40, 50),
    "palette": (40, 50),
    "palette-rgb": (40, 50),
    "t0": (40, 48),
    "t1": (40, 48),
    "scored": (40, 48),
}
LABELS = {
    "none": (),
    "all": (1, 2, 3),
    "large": (1, 2),
    "column": (2,),
    "palette": (2,),
    "palette-rgb": (2,),
    "t1": (2,),
}
SAME = (("grey", "grey-rgb"), ("palette", "palette-rgb"))  # the same pixels in files of different kinds
LABELLED, SCORED = ("t0", "t1"), ("scored",)
WEAK = sorted(set(SIZES) - {*LABELLED, *SCORED})
IDS = sorted([*LABELLED, *WEAK])
DATA = ("every", "lacking")  # with an image of all classes; without one of the last class
CHANGED = {"narrow": {"all": (44, 26)}, "more": {"zebra": (40, 50)}, "bare": {}}  # further data sets: other sizes


def labels_of(image_id: str, data: str) -> tuple[int, ...]:
    if data == "bare" and image_id in WEAK:
        return ()
    return tuple(c for c in LABELS.get(image_id, (1,)) if data != "lacking" or c < 3)


def draw(labels: tuple[int, ...], size: tuple[int, int], seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A noisy grey image with a box of each class, side by side, and its mask."""
    mask, (height, width) = np.zeros(size, np.uint8), size
    for place, class_id in enumerate(labels):
        left = width * place // len(labels)
        mask[height // 4 : height // 4 + max(height // 2, 1), left : left + max(width // (2 * len(labels)), 1)] = (
            class_id
        )
    noise = np.random.default_rng(seed).normal(0, 10, (*size, 3))
    return np.clip(COLOURS[mask] + noise, 0, 255).astype(np.uint8), mask


def fill(folder: Path, data: str) -> None:
    """images/, masks/, labels.csv, classes.txt, and lists of the labelled and the scored images."""
    rows = ["image,labels"]
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for image_id, size in (SIZES | CHANGED.get(data, {})).items():
        labels = labels_of(image_id, data)
        pixels, mask = draw(labels, size, len(image_id.split("-")[0]))
        image = Image.fromarray(pixels)
        kind = image_id.split("-")[0]
        image = image.convert("L") if kind == "grey" else image.quantize(32) if kind == "palette" else image
        (image.convert("RGB") if image_id.endswith("-rgb") else image).save(folder / "images" / f"{image_id}.png")
        write_mask(folder / "masks" / f"{image_id}.png", mask)
        rows.append(f"{image_id},{' '.join(CLASSES[class_id] for class_id in labels)}")
    for name, lines in (("labels.csv", rows), ("classes.txt", CLASSES), ("t.txt", LABELLED), ("val.txt", SCORED)):
        (folder / name).write_text("\n".join(lines) + "\n")


Run = Callable[..., Path]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`run("seeds", "NAME", "--classifier", "cam", "cam.flip=false")` makes an artifact once; gives its folder."""
    space = tmp_path_factory.mktemp("odd")

    def command(stage: str, name: str, *arguments: str, code: int = 0) -> Path:
        place = space / "runs" / name
        if code or not place.is_dir():
            words = [w for word in arguments for w in (("--set", word) if "=" in word else (word,))]
            common = ("--name", name, "--workspace", str(space / "runs"), "--device", "cpu", "--workers", "1")
            assert main([stage, *words, *common]) == code
        return place

    for data in (*DATA, *CHANGED):
        fill(space / data, data)
        files = [f"--images {data}/images --masks {data}/masks --classes {data}/classes.txt --labels {data}/labels.csv"]
        files += [f"--val {data}/val.txt labelled={data}/t.txt"]
        with pytest.MonkeyPatch.context() as changes:
            changes.chdir(space)
            command("prepare-data", data, *" ".join(files).split())
    return command


def classifier(run: Run, name: str, data: str) -> Path:
    training = ("--network", "tiny", "--iterations", "2", "--batch-size", "6", "crop_size=32")
    given = ("--data", data, "--method", name, *masks_given(run, name, data))
    return run("train-classifier", f"{name}-{data}", *given, *training)


def masks_given(run: Run, name: str, data: str) -> tuple[str, ...]:
    """The masks that a classifier of the method is given with the images, as options: plain maps' masks, or none."""
    if "predictions" not in METHODS[name].model_validate({"name": name}).inputs():
        return ()
    made_of = ("--data", data, "--predictions", maps(run, "cam", data).name, "labels=tags")
    return ("--predictions", run("crf", f"cam-{data}-masks", *made_of).name)


def maps(run: Run, name: str, data: str) -> Path:
    """Maps of the classifier method `name`, and masks without unknown pixels."""
    trained = classifier(run, name, data).name
    return run(
        "seeds",
        f"{name}-{data}-maps",
        "--data",
        data,
        "--classifier",
        trained,
        *masks_given(run, name, data),
        "labels.mode=dense",
        "cam.scales=[.5,1]",
    )


def training(run: Run, name: str, data: str) -> tuple[str, ...]:
    """The options of `train-refiner` for the network of the refiner `name`, but for the data set."""
    settings = REFINERS[name].training
    assert settings is not None
    crop = max(32, settings().smallest_crop())
    few = ("--network", "tiny", "--iterations", "2", "--batch-size", "6", f"crop_size={crop}")
    return "--seeds", maps(run, "cam", data).name, "--method", settings().name, *few


def refining(run: Run, name: str, data: str) -> tuple[str, ...]:
    """The options of `refine` for the refiner `name`, few steps, but for the data set; makes its network."""
    settings = REFINERS[name]
    given = ["--seeds", maps(run, "cam", data).name, "--method", name]
    if settings.training is not None:
        trained = f"{settings.training().name}-{data}-network"
        given += ["--refiner", run("train-refiner", trained, "--data", data, *training(run, name, data)).name]
    if "segmenter" in settings().inputs():
        few = ("--network", "tiny", "--iterations", "2", "--batch-size", "2", "crop_size=32")
        given += ["--segmenter", run("train", f"segmenter-{data}", "--data", data, "--method", "supervised", *few).name]
    return (*given, "method.steps=3") if "steps" in settings.model_fields else tuple(given)


def refined(run: Run, name: str, data: str) -> Path:
    return run("refine", f"{name}-{data}", "--data", data, *refining(run, name, data))


def check_maps(artifact: Path, data: str, background: bool = False, same: bool = True) -> None:
    """Each image has a map of each of its labels, 0..1, of its size. same: files of the same pixels have the same."""
    found = ScoreMaps(artifact)
    assert list(found.ids) == IDS
    for image_id in IDS:
        one = found[image_id]
        assert tuple(one.classes) == ((0,) if background else ()) + labels_of(image_id, data)
        assert one.size == SIZES[image_id]
        assert one.scores.shape[1:] == tuple(-(-length // one.stride) for length in one.size)
        assert ((one.scores >= 0) & (one.scores <= 1)).all(), image_id  # which no NaN is
    if (artifact / "partners.json").is_file():  # each image was looked at together with others
        same = False
    for first, second in SAME if same else ():
        np.testing.assert_array_equal(found[first].scores, found[second].scores)


def check_masks(artifact: Path, data: str, unknown: bool = False, same: bool = True) -> None:
    """Each image has a mask of its size and of its labels; that of the image without labels is background."""
    assert sorted(file.stem for file in (artifact / "masks").iterdir()) == IDS
    found = {image_id: read_mask(artifact / "masks" / f"{image_id}.png") for image_id in IDS}
    for image_id, mask in found.items():
        assert mask.shape == SIZES[image_id]
        assert {*np.unique(mask).tolist()} <= {0, *labels_of(image_id, data)} | ({IGNORE} if unknown else set())
    assert not found["none"].any()
    for first, second in SAME if same else ():
        np.testing.assert_array_equal(found[first], found[second])


def check_scores(artifact: Path, data: str) -> None:
    """All pixels are counted; a class that no image has has no IoU, and is named."""

    def refuse(word: str) -> None:
        raise AssertionError(word)

    found = json.loads((artifact / "metrics.json").read_text(), parse_constant=refuse)  # NaN, Infinity
    assert found["pixels"]["scored"] == sum(height * width for height, width in map(SIZES.__getitem__, WEAK))
    assert found["absent"] == (["blue"] if data == "lacking" else [])
    assert (found["classes"]["blue"]["iou"] is None) == (data == "lacking")


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_classifier_takes_odd_images(name: str, data: str, run: Run) -> None:
    artifact = maps(run, name, data)
    check_maps(artifact, data)
    check_masks(artifact, data)
    check_scores(
        run("evaluate", f"{name}-{data}-sweep", "--data", data, "--maps", artifact.name, "--split", "weak"), data
    )


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("name", REFINERS)
def test_every_refiner_takes_odd_images(name: str, data: str, run: Run) -> None:
    artifact, settings = refined(run, name, data), REFINERS[name]()
    foreground = isinstance(settings, ForegroundRefinerSettings)
    same = "seed" not in type(settings).model_fields  # else it draws numbers for each image, by its id
    check_maps(artifact, data, not foreground, same)
    check_masks(artifact, data, foreground and settings.margin > 0, same)
    own = (f"background_score={settings.background}",) if foreground else ()
    masks = run("crf", f"{name}-{data}-crf", "--data", data, "--predictions", artifact.name, "labels=tags", *own)
    check_masks(masks, data, same=same)
    given = ("--data", data, "--predictions", masks.name, "--split", "weak")
    check_scores(run("evaluate", f"{name}-{data}-scores", *given), data)


WRONG = {  # data set whose maps are not given -> what is said of them
    "lacking": "the score maps of all are of red, green, blue, its image-level labels are red, green",
    "narrow": "the score maps of all are of 52x44 pixels (width x height), its image has 26x44",
    "more": "zebra",  # which has none
}
TAKERS = [
    *(("train-refiner", name) for name in TRAINED),
    *(("refine", name) for name in REFINERS),
    *((stage, "") for stage in ("seeds", "crf", "evaluate")),
]


@pytest.mark.parametrize(
    ("stage", "name", "data"),
    [(*taker, data) for taker in TAKERS for data in WRONG if (taker[0], data) != ("evaluate", "lacking")],
)
def test_maps_of_another_data_set_are_refused(
    stage: str, name: str, data: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier, both = maps(run, "cam", "every").name, ("splits=[train,weak]",)
    given = {
        "train-refiner": lambda: training(run, name, "every"),
        "refine": lambda: (*refining(run, name, "every"), *both),
        "seeds": lambda: ("--maps", earlier, *both),
        "crf": lambda: ("--predictions", earlier, *both),
        "evaluate": lambda: ("--maps", earlier, "splits=[train,weak]"),
    }[stage]()
    wrong = run(stage, f"wrong-{stage}-{name}-{data}", "--data", data, *given, code=3)
    said = capsys.readouterr().err
    assert WRONG[data] in " ".join(said.split())
    assert "hint: " in said
    assert "Traceback" not in said
    assert not wrong.exists()


@pytest.mark.parametrize("source", ["superpixels", "sam"])
def test_segments_of_odd_images_vote(source: str, run: Run) -> None:
    if source == "sam":
        pytest.importorskip("transformers")
    found = ("points=3", "predicted_iou=0", "stability=0", "max_pixels=3000") if source == "sam" else ()
    weights = ("--weights", "none") if source == "sam" else ()
    keys = [f"source.{setting}" for setting in found]
    run("segments", f"segments-{source}", "--data", "every", "--source", source, *weights, *keys)
    given = ("--data", "every", "--masks", maps(run, "cam", "every").name, "--segments", f"segments-{source}")
    check_masks(run("vote", f"vote-{source}", *given), "every")


@pytest.mark.parametrize("name", [n for n in REFINERS if not issubclass(REFINERS[n], ForegroundRefinerSettings)])
def test_seeds_refuses_maps_that_score_the_background(name: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """It said that the data set had changed."""
    run("seeds", "of-background", "--data", "every", "--maps", refined(run, name, "every").name, code=3)
    assert f"maps '{name}-every' score the background, too" in capsys.readouterr().err


def test_missing_saliency_is_named_and_what_is_there_is_used(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--data", "every", "--classifier", classifier(run, "cam", "every").name, "--saliency", str(tmp_path))
    for image_id in IDS:
        Image.new("L", SIZES[image_id][::-1]).save(tmp_path / f"{image_id}.png")  # nothing is salient
    (tmp_path / "row.png").rename(tmp_path / "rows.png")
    run("seeds", "by-saliency", *given, code=3)
    assert "has no saliency map for 1 of 12 images, e.g. row.png" in " ".join(capsys.readouterr().err.split())
    Image.new("L", (30, 1)).save(tmp_path / "row.png")
    run("seeds", "by-saliency", *given, code=3)
    assert "row.png" in capsys.readouterr().err
    (tmp_path / "rows.png").rename(tmp_path / "row.png")
    check_masks(run("seeds", "by-saliency", *given), "every")  # background wherever there is no class


@pytest.mark.parametrize(
    "stage", ["train-classifier", "seeds", "refine", "evaluate", "crf", "vote", "segments", "import-masks"]
)
def test_splits_without_images_are_refused(stage: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """`seeds` made an artifact without content, other messages had other causes."""
    given = {
        "train-classifier": lambda: ("--network", "tiny"),
        "seeds": lambda: ("--classifier", classifier(run, "cam", "every").name),
        "refine": lambda: refining(run, "irn", "every"),
        "evaluate": lambda: ("--predictions", maps(run, "cam", "every").name),
        "crf": lambda: ("--predictions", maps(run, "cam", "every").name),
        "vote": lambda: ("--masks", maps(run, "cam", "every").name),
        "segments": lambda: (),
        "import-masks": lambda: ("--folder", "."),
    }[stage]()
    run(stage, f"empty-{stage}", "--data", "every", *given, "splits=[holdout]", code=3)
    assert "the splits holdout of 'images' are empty" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["train-classifier", "train-refiner"])
def test_images_without_any_label_are_nothing_to_learn_from(
    stage: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """A refiner learned from background alone."""
    given = ("--network", "tiny") if stage == "train-classifier" else training(run, "irn", "bare")
    run(stage, f"bare-{stage}", "--data", "bare", *given, "splits=[weak]", code=3)
    assert "no image of the splits weak has an image-level label" in capsys.readouterr().err
