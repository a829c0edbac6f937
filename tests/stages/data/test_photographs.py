"""Images as cameras and programs leave them: turned by EXIF, 16 bits, transparent, palettes, CMYK, grey."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from artifacts.dataset import Dataset
from artifacts.errors import DataError
from artifacts.store import Artifact, Workspace
from semiseg_cli.main import main
from stages.config import build
from stages.contract import Execution
from stages.data.images import ImageFolder
from stages.data.photographs import look_at
from stages.data.preparation_config import PrepareDataConfig
from stages.pipeline.run_stage import run_stage
from stages.prepare_data import STAGE
from tests.stages.data.conftest import Notes

ORIENTATION = 274
H, W = 6, 9


def shown(stored: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels as a viewer shows them. TIFF 6.0, tag 274: where row 0 and column 0 of the stored pixels lie.

    1 top left, 2 top right, 3 bottom right, 4 bottom left, 5 left top, 6 right top, 7 right bottom, 8 left bottom.
    """
    height, width = stored.shape[:2]
    turned = np.zeros((width, height, *stored.shape[2:]) if orientation >= 5 else stored.shape, stored.dtype)
    for row in range(height):
        for column in range(width):
            place = {
                1: (row, column),
                2: (row, width - 1 - column),
                3: (height - 1 - row, width - 1 - column),
                4: (height - 1 - row, column),
                5: (column, row),
                6: (column, height - 1 - row),
                7: (width - 1 - column, height - 1 - row),
                8: (width - 1 - column, row),
            }[orientation]
            turned[place] = stored[row, column]
    return turned


@dataclass
class Result:
    dataset: Dataset
    artifact: Artifact
    notes: list[str]

    @property
    def copies(self) -> list[str]:
        return sorted(path.name for path in (self.artifact.path / "images").glob("*"))


@dataclass
class Album:
    """Images, and masks for some of them; `prepare` makes a data set of them."""

    root: Path

    def add(self, name: str, pixels: np.ndarray | Image.Image, orientation: int | None = None, **options: Any) -> Path:
        (self.root / "photos").mkdir(exist_ok=True)
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        if orientation is not None:
            options["exif"] = Image.Exif()
            options["exif"][ORIENTATION] = orientation
        image.save(self.root / "photos" / name, **options)
        return self.root / "photos" / name

    def add_mask(self, name: str, mask: np.ndarray) -> None:
        (self.root / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(self.root / "masks" / f"{name}.png")

    def prepare(self, name: str = "data", **settings: Any) -> Result:
        (self.root / "classes.txt").write_text("background\ncat\ndog\n")
        outer = {key: settings.pop(key) for key in ("copy_images", "verify_images") if key in settings}
        own = {"images": str(self.root / "photos"), "class_table": str(self.root / "classes.txt"), "val": ""}
        if (self.root / "masks").is_dir():
            own |= {"masks": str(self.root / "masks"), "mask_format": "ids"}
        config = build(PrepareDataConfig, {"dataset": {"name": "folder", **own, **settings}, **outer}, "test")
        progress = Notes()
        execution = Execution(workers=1, progress=progress)
        artifact = run_stage(STAGE, config, Workspace(self.root / "ws"), name, {}, execution).artifact
        return Result(Dataset(artifact), artifact, progress.said)


@pytest.fixture
def album(tmp_path: Path) -> Album:
    return Album(tmp_path)


def noise(height: int = H, width: int = W, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def labels(height: int, width: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, (height, width)).astype(np.uint8)


# ------------------------------------------------------------------------------------------------- turned

FORMATS = {"png": {}, "webp": {"lossless": True}, "tif": {}}  # without loss, so that pixels can be compared


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_images_without_a_mask_with_one_as_stored_and_with_one_as_shown(album, suffix, orientation):
    stored = noise()
    upright = shown(stored, orientation)
    for name in ("bare", "as_stored", "as_shown"):
        album.add(f"{name}.{suffix}", stored, orientation, **FORMATS[suffix])
    album.add_mask("as_stored", labels(H, W))
    album.add_mask("as_shown", labels(*upright.shape[:2]))
    result = album.prepare()
    data = result.dataset
    np.testing.assert_array_equal(data.image("bare"), upright)
    np.testing.assert_array_equal(data.image("as_shown"), upright)
    either = upright.shape == stored.shape  # then the image is taken as viewers show it
    np.testing.assert_array_equal(data.image("as_stored"), upright if either else stored)
    np.testing.assert_array_equal(data.mask("as_stored"), labels(H, W))
    for name in ("bare", "as_shown", "as_stored"):
        assert data.size(name) == data.image(name).shape[:2]
    turned = 0 if orientation == 1 else 3 if either else 2
    assert data.facts.get("turned_by_exif", 0) == turned
    assert data.facts.get("left_as_stored_against_exif", 0) == (0 if either else 1)
    if not either:
        assert any("2 images are turned" in note and "1 image is left as stored" in note for note in result.notes)
    assert data.facts.get("turned_by_exif_where_either_fits", 0) == (2 if either and turned else 0)
    copied = {"bare.png", "as_shown.png"} | ({"as_stored.png"} if either else set())
    if suffix == "tif":  # Pillow shows these turned: those that are wanted as stored are copied
        copied = {"as_stored.png"} - copied
    assert result.copies == (sorted(copied) if turned else [])


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_square_images_say_how_many_fit_either_way(album, suffix, orientation):
    stored = noise(7, 7)
    album.add(f"a.{suffix}", stored, orientation, **FORMATS[suffix])
    album.add_mask("a", labels(7, 7))
    result = album.prepare()
    np.testing.assert_array_equal(result.dataset.image("a"), shown(stored, orientation))
    assert result.dataset.facts.get("turned_by_exif_where_either_fits", 0) == (orientation > 1)
    told = [note for note in result.notes if "EXIF" in note]
    assert bool(told) == (orientation > 1)
    if told:
        assert "--set dataset.exif=apply" in told[0]
        assert "1 of them" in told[0]
    apply = album.prepare("apply", exif="apply")
    np.testing.assert_array_equal(apply.dataset.image("a"), shown(stored, orientation))
    ignore = album.prepare("ignore", exif="ignore")
    np.testing.assert_array_equal(ignore.dataset.image("a"), stored)
    assert "turned_by_exif" not in ignore.dataset.facts
    assert not [note for note in [*apply.notes, *ignore.notes] if "EXIF" in note]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_apply_and_ignore_hold_whatever_the_size_of_the_mask(album, suffix, orientation):
    stored = noise()
    album.add(f"a.{suffix}", stored, orientation, **FORMATS[suffix])
    album.add_mask("a", labels(H, W))
    with pytest.raises(DataError, match=rf"a\.png is {W}x{H} .*expected {H}x{W}"):
        album.prepare(exif="apply")
    np.testing.assert_array_equal(album.prepare(exif="ignore").dataset.image("a"), stored)
    album.add_mask("a", labels(W, H))
    with pytest.raises(DataError, match=rf"a\.png is {H}x{W} .*expected {W}x{H}"):
        album.prepare(exif="ignore")
    np.testing.assert_array_equal(album.prepare(exif="apply").dataset.image("a"), shown(stored, orientation))


def test_a_turned_jpeg_has_the_pixels_of_its_decoder(album):
    path = album.add("a.jpg", noise(16, 24), 6, quality=80)
    with Image.open(path) as image:
        stored = np.asarray(image)
    result = album.prepare()
    assert result.copies == ["a.png"]
    np.testing.assert_array_equal(result.dataset.image("a"), shown(stored, 6))
    assert result.dataset.image_path("a") == result.artifact.path / "images" / "a.png"


def exif_of(kind: int, count: int, value: bytes) -> bytes:
    """An EXIF block with an orientation of any TIFF type."""
    entry = struct.pack("<HHI", ORIENTATION, kind, count) + value.ljust(4, b"\0")
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 1) + entry + b"\0\0\0\0"


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize(
    "block",
    [
        exif_of(2, 2, b"6\0"),
        exif_of(7, 1, b"\6"),
        exif_of(3, 1, b"\0\0"),
        exif_of(3, 1, b"\x09\0"),
        exif_of(9, 1, struct.pack("<i", -1)),
        exif_of(3, 60_000, struct.pack("<I", 9999)),
        exif_of(99, 1, b"\6"),
        b"Exif\0\0hello world",
        b"Exif\0\0II*",
    ],
    ids=["text", "bytes", "0", "9", "-1", "too long", "no type", "junk", "cut"],
)
@pytest.mark.filterwarnings("ignore")
def test_damaged_exif_leaves_the_image_as_it_is_stored(tmp_path, suffix, block):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise()).save(path, exif=block)
    image = look_at(path, None, True, "auto", True)
    assert (image.size, image.copy, image.turned) == ((H, W), None, False)


ODD = {
    "text": exif_of(2, 2, b"6\0"),
    "two values": exif_of(3, 2, struct.pack("<HH", 6, 6)),
    "a float": exif_of(11, 1, struct.pack("<f", 6)),
    "a rational": exif_of(5, 1, struct.pack("<I", 8)),
    "9": exif_of(3, 1, b"\x09\0"),
    "65535": exif_of(3, 1, b"\xff\xff"),
    "cut": exif_of(3, 1, b"\6\0")[:20],
}


@pytest.mark.parametrize("workers", [1, 2])
def test_one_photo_with_an_odd_orientation_took_down_a_whole_folder(album, workers):
    """Without a pool, too, and when it is predicted."""
    for number, (name, block) in enumerate(ODD.items()):
        for suffix in ("jpg", "png", "webp"):
            pixels = noise(seed=number)
            options = {"webp": {"lossless": True}}.get(suffix, {})
            Image.fromarray(pixels).save(album.add(f"{name} {suffix}.{suffix}", pixels), exif=block, **options)
    config = {"images": str(album.root / "photos"), "class_table": str(album.root / "classes.txt"), "val": ""}
    (album.root / "classes.txt").write_text("background\ncat\n")
    execution = Execution(workers=workers, progress=Notes())
    config = build(PrepareDataConfig, {"dataset": {"name": "folder", **config}}, "test")
    data = Dataset(run_stage(STAGE, config, Workspace(album.root / "ws"), "data", {}, execution).artifact)
    images = ImageFolder(album.root / "photos")
    assert len(images.ids) == 3 * len(ODD)
    for image_id in images.ids:
        assert images.size(image_id) == data.size(image_id) == (H, W)
        np.testing.assert_array_equal(images.image(image_id), data.image(image_id))


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_image_of_ones_own_is_turned_once_and_its_size_with_it(album, suffix, orientation):
    album.add(f"a.{suffix}", noise(), orientation, **FORMATS[suffix])
    images = ImageFolder(album.root / "photos")
    np.testing.assert_array_equal(images.image("a"), shown(noise(), orientation))
    assert images.size("a") == shown(noise(), orientation).shape[:2]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize(
    "tag",
    [
        (0x010F, 5, 1, 0),  # text that is a rational
        (0x0132, 5, 1, 8),
        (0x011A, 1, 1, 1),  # a resolution that is a byte
        (0x0128, 1, 1, 1),
        (0x0100, 1, 1, 8),
        (0x8769, 9, 1, 2**31),  # a directory before the block
        (0x010F, 2, 2**32 - 1, 2**31),  # a text of 4 GB
        (0x0132, 12, 2**32 - 1, 2**31),
        (0x8825, 99, 1, 8),
    ],
)
def test_a_broken_tag_beside_the_orientation_stopped_the_turning(album, suffix, tag):
    entries = sorted([(ORIENTATION, 3, 1, 6), tag])
    block = b"II*\0\x08\0\0\0\2\0" + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    path = album.add(f"a.{suffix}", noise())
    options = {"webp": {"lossless": True}}.get(suffix, {})
    Image.fromarray(noise()).save(path, exif=b"Exif\0\0" + block, **options)
    with Image.open(path) as opened:
        stored = np.asarray(opened.convert("RGB"))
    images = ImageFolder(album.root / "photos")
    assert images.size("a") == (W, H)
    np.testing.assert_array_equal(images.image("a"), shown(stored, 6))
    np.testing.assert_array_equal(album.prepare().dataset.image("a"), shown(stored, 6))


def test_a_turned_tiff_with_a_directory_that_is_not_there(album):
    """Pillow looks at the directories of EXIF and GPS when it has loaded a TIFF file."""
    path = album.add("a.tif", noise())
    tifffile.imwrite(
        path, noise(), photometric="rgb", extratags=[(ORIENTATION, "H", 1, 6, True), (0x8769, "I", 1, 2**31, True)]
    )
    np.testing.assert_array_equal(ImageFolder(album.root / "photos").image("a"), shown(noise(), 6))
    np.testing.assert_array_equal(album.prepare("again").dataset.image("a"), shown(noise(), 6))


def test_every_image_that_cannot_be_read_is_named_at_once(album, capsys):
    for name in ("a.jpg", "b.png", "c.tif", "d.webp", "good.jpg"):
        path = album.add(name, noise(40, 40))
        if name != "good.jpg":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError) as caught:
        album.prepare(verify_images=True)
    assert caught.value.message.startswith("4 images cannot be used:")
    for name in ("a.jpg", "b.png", "c.tif", "d.webp"):
        assert name in caught.value.message
        assert name in check(album, capsys)


def check(album: Album, capsys: pytest.CaptureFixture[str]) -> str:
    """What check-data says, which ends in 3."""
    assert main(["check-data", "--images", str(album.root / "photos"), "--classes", f"{album.root}/classes.txt"]) == 3
    return capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")
@hypothesis_settings(max_examples=60)
@given(data=st.data())
def test_random_exif_never_stops_anything(tmp_path_factory, data):
    block = bytearray(exif_of(3, 1, b"\6") + data.draw(st.binary(max_size=30)))
    for place, value in data.draw(st.lists(st.tuples(st.integers(6, len(block) - 1), st.integers(0, 255)), max_size=5)):
        block[place] = value
    path = tmp_path_factory.mktemp("exif") / "a.jpg"
    Image.fromarray(noise()).save(path, exif=bytes(block))
    image = look_at(path, None, True, "auto", True)
    assert image.size == ((W, H) if image.turned and image.size != (H, W) else (H, W))


# ------------------------------------------------------------------------------------------------- kinds of pixels


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Each pixel by the formula, in float."""
    share = alpha[..., None] / 255
    return colour * share + 255 * (1 - share)


def test_16_bit_grey(album):
    values = np.random.default_rng(0).integers(0, 65536, (H, W)).astype(np.uint16)
    for name in ("a.png", "b.tif"):
        album.add(name, Image.fromarray(values))
    result = album.prepare()
    expected = np.repeat((values // 256).astype(np.uint8)[..., None], 3, axis=2)
    for name in ("a", "b"):
        np.testing.assert_array_equal(result.dataset.image(name), expected)
    assert result.copies == ["a.png", "b.png"]
    assert result.dataset.facts["converted_images"] == 2


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_parts_lie_on_white(album, mode):
    channels = noise(channels=len(mode))
    channels[..., -1] = np.random.default_rng(3).choice([0, 255, 100], (H, W))
    album.add("a.png", Image.fromarray(channels, mode))
    result = album.prepare()
    colour = channels[..., :3] if mode == "RGBA" else np.repeat(channels[..., :1], 3, axis=2)
    expected = over_white(colour.astype(float), channels[..., -1].astype(float))
    np.testing.assert_allclose(result.dataset.image("a"), expected, atol=1)
    assert result.copies == ["a.png"]


@pytest.mark.parametrize("transparency", [2, bytes([255, 0, 255, 128])])
def test_palettes_with_transparency(album, transparency):
    values = labels(H, W) + labels(H, W, 7) // 2
    colours = np.array([[10, 20, 30], [200, 0, 0], [0, 99, 0], [7, 8, 9]], np.uint8)
    image = Image.fromarray(values)
    image.putpalette(colours.ravel().tolist())
    album.add("a.png", image, transparency=transparency)
    alphas = np.full(4, 255)
    if isinstance(transparency, int):
        alphas[transparency] = 0
    else:
        alphas[:] = list(transparency)
    result = album.prepare()
    expected = over_white(colours[values].astype(float), alphas[values].astype(float))
    np.testing.assert_allclose(result.dataset.image("a"), expected, atol=1)
    assert result.copies == ["a.png"]


def test_a_colour_that_stands_for_transparent(album):
    pixels = noise()
    pixels[0, 0] = (1, 2, 3)
    album.add("a.png", pixels, transparency=(1, 2, 3))
    expected = pixels.copy()
    expected[0, 0] = 255
    np.testing.assert_array_equal(album.prepare().dataset.image("a"), expected)


def test_images_that_can_stay_are_not_copied(album):
    grey, cmyk, values = noise(channels=1), noise(channels=4), labels(H, W)
    colours = np.array([[10, 20, 30], [200, 0, 0], [0, 99, 0]], np.uint8)
    palette = Image.fromarray(values)
    palette.putpalette(colours.ravel().tolist())
    album.add("plain.png", noise())
    album.add("plain.jpg".replace("plain", "photo"), noise())
    album.add("grey.jpg", grey, quality=95)
    album.add("grey_png.png", grey)
    album.add("print.tif", Image.fromarray(cmyk, "CMYK"))
    album.add("palette.png", palette)
    result = album.prepare(verify_images=True)
    assert result.copies == []
    assert "converted_images" not in result.dataset.facts
    data = result.dataset
    assert data.image_path("plain") == album.root / "photos" / "plain.png"
    np.testing.assert_array_equal(data.image("plain"), noise())
    np.testing.assert_array_equal(data.image("grey_png"), np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_array_equal(data.image("palette"), colours[values])
    with Image.open(album.root / "photos" / "grey.jpg") as stored:
        np.testing.assert_array_equal(data.image("grey"), np.repeat(np.asarray(stored)[..., None], 3, axis=2))
    light, key = 255 - cmyk[..., :3].astype(float), 255 - cmyk[..., 3:].astype(float)
    np.testing.assert_allclose(data.image("print"), light * key / 255, atol=1.5)


def test_a_cmyk_jpeg(album):
    """Programs for print write these; Pillow turns the ink values around by itself."""
    album.add("a.jpg", Image.new("RGB", (W, H), (200, 40, 40)).convert("CMYK"), quality=100)
    result = album.prepare(verify_images=True)
    assert result.copies == []
    np.testing.assert_allclose(result.dataset.image("a"), np.full((H, W, 3), (200, 40, 40)), atol=6)


def test_black_and_white_images(album):
    values = labels(H, W) > 0
    album.add("a.png", Image.fromarray(values))
    np.testing.assert_array_equal(
        album.prepare().dataset.image("a"), np.repeat(values[..., None] * np.uint8(255), 3, axis=2)
    )


def test_copies_of_everything(album):
    """With copy_images, images that can stay are copied as they are, and the others as RGB."""
    plain = album.add("plain.jpg", noise())
    album.add("turned.jpg", noise(), 6)
    album.add("clear.png", noise(channels=4))
    result = album.prepare(copy_images=True)
    assert result.copies == ["clear.png", "plain.jpg", "turned.png"]
    assert (result.artifact.path / "images" / "plain.jpg").read_bytes() == plain.read_bytes()
    first = {name: album.prepare("in_place").dataset.image(name) for name in ("plain", "turned", "clear")}
    for path in (album.root / "photos").iterdir():
        path.unlink()
    for name, pixels in first.items():
        np.testing.assert_array_equal(result.dataset.image(name), pixels)
    assert result.artifact.verify() == []


def test_copies_of_a_broken_off_run_stay(album):
    album.add("a.png", noise(channels=4))
    bad = album.add("z.png", noise(channels=4))
    whole = bad.read_bytes()
    bad.write_bytes(whole[:80])
    with pytest.raises(DataError, match=r"z\.png"):
        album.prepare()
    bad.write_bytes(whole)
    result = album.prepare()
    assert result.copies == ["a.png", "z.png"]
    assert result.artifact.verify() == []


def test_published_sets_are_read_as_stored(tmp_path):
    """Only a folder of one's own looks at EXIF: the masks of the published sets lie on stored pixels."""
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(noise()).save(path, exif=exif)
    assert look_at(path, None, False, "apply", False).size == (H, W)
    assert look_at(path, None, False, "apply", True).copy is None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(b""), r"a\.png cannot be read: it is empty \(0 bytes\)"),
        (lambda path: path.write_bytes(b"no image"), r"a\.png cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), r"a\.png cannot be read"),
        (lambda path: path.unlink(), r"there is no image .*a\.png"),
    ],
)
def test_images_that_are_none(tmp_path, spoil: Callable[[Path], Any], message):
    path = tmp_path / "a.png"
    Image.fromarray(noise(40, 40)).save(path)
    spoil(path)
    with pytest.raises(DataError, match=message):
        look_at(path, None, True, "auto", True)


@pytest.mark.real
@pytest.mark.skipif("SEMISEG_TEST_DATA" not in os.environ, reason="SEMISEG_TEST_DATA names no folder of real images")
def test_real_photographs_stay_where_they_are(tmp_path):
    folder = Path(os.environ["SEMISEG_TEST_DATA"]) / "data" / "voc-animals" / "JPEGImages"
    for path in sorted(folder.glob("*.jpg"))[:200]:
        image = look_at(path, None, True, "auto", False)
        assert image.copy is None
        with Image.open(path) as opened:
            assert image.size == opened.size[::-1]
