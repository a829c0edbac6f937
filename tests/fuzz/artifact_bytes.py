"""Score maps, weights and masks on disk, damaged and forged: read as they were written, or refused by an ArtifactError.

A forged file tells a reader to look elsewhere (links, virtual data sets, values in another file), claims sizes that it
does not have, or holds what the formats do not know. Beside it lies a file whose numbers nobody may read through it.
"""

from __future__ import annotations

import functools
import io
import random
import struct
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from artifacts import checkpoint
from artifacts.errors import ArtifactError, ConfigError, DataError
from artifacts.masks import encode_mask, read_mask
from artifacts.score_maps import ScoreMaps, ScoreMapWriter
from artifacts.store import Writer
from stages.localization.saliency import encode_saliency, read_saliency
from stages.networks.weights import load_strictly, read_state

NAMES = ("background", "cat", "cow", "dog")
IDS = ("a", "b", "c")
SIZE, STRIDE, CELLS = (29, 38), 4, (8, 10)
SHARD = "scores/shard-00000.h5"


def fuzz(rng: random.Random, folder: Path) -> str:
    kind = rng.choice([_shard_damaged, _shard_forged, _weights_damaged, _weights_forged, _png_damaged, _png_forged])
    return kind(rng, folder)


# --- score maps ------------------------------------------------------------------------------------------------


def scores_of(image_id: str) -> np.ndarray:
    """float16 (3, 8, 10) of the classes 0, 1 and 3, that may be probabilities as well."""
    logits = np.random.default_rng(ord(image_id)).normal(size=(3, *CELLS)) * 3
    powers = np.exp(logits)
    return (powers / powers.sum(0)).astype(np.float16)


@functools.cache
def _good_maps(meaning: str) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        with ScoreMapWriter(Writer(path), class_names=NAMES, meaning=meaning) as maps:
            maps.plan(IDS)
            for image_id in IDS:
                maps.add(image_id, scores_of(image_id), [0, 1, 3], size=SIZE, stride=STRIDE)
        return {name: (path / name).read_bytes() for name in (SHARD, "scores/index.json")}


def write_maps(folder: Path, meaning: str = "cam") -> Path:
    """Three images of score maps below `folder`; the path of their shard."""
    (folder / "scores").mkdir(parents=True)
    for name, data in _good_maps(meaning).items():
        (folder / name).write_bytes(data)
    return folder / SHARD


def _read_maps(folder: Path) -> str:
    """Reads every image; AssertionError unless it is as it was or refused."""
    refused = 0
    try:
        maps = ScoreMaps(folder)
    except ArtifactError:
        return "shard refused"
    for image_id in IDS:
        try:
            found = maps[image_id]
        except ArtifactError:
            refused += 1
            continue
        assert (found.size, found.stride, found.classes.tolist()) == (SIZE, STRIDE, [0, 1, 3]), found
        assert np.array_equal(found.scores, scores_of(image_id).astype(np.float32)), image_id
    maps.close()
    return "shard refused" if refused else "shard read"


def _shard_damaged(rng: random.Random, folder: Path) -> str:
    shard = write_maps(folder, rng.choice(["cam", "probability"]))
    shard.write_bytes(_damaged(rng, shard.read_bytes()))
    return _read_maps(folder)


def _damaged(rng: random.Random, data: bytes) -> bytes:
    """Bits flipped, bytes written over, cut off, swapped or put in between."""
    changed = bytearray(data)
    kind, place = rng.randrange(5), rng.randrange(len(data))
    length = rng.choice([1, 2, 8, 64])
    if kind == 0:
        for _ in range(length):
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        changed[place : place + length] = rng.choice([b"\0", b"\xff", b"\x7f"]) * length
    elif kind == 2:
        del changed[place:]
    elif kind == 3:
        del changed[place : place + length]
    else:
        changed[place:place] = rng.randbytes(length)
    return bytes(changed)


PLAIN: dict[str, Any] = dict.fromkeys(("chunks", "compression", "compression_opts", "shuffle", "fletcher32"))
PACKED: dict[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True}

Forgery = Callable[[h5py.File, Path, random.Random], None]


def _replace(group: h5py.Group, name: str, data: Any, **options: Any) -> h5py.Dataset:
    """A data set that is written as ours, but for `options`."""
    del group[name]
    data = np.asarray(data)
    ours = {"chunks": (1, *data.shape[1:])} | PACKED if name == "scores" else {"chunks": data.shape, "fletcher32": True}
    return group.create_dataset(name, data=data, **({"track_times": False} | ours | options))


def _linked(file: h5py.File, place: str, link: Any) -> None:
    del file[place]
    file[place] = link


def _stored_outside(file: h5py.File, name: str, other: Path) -> None:
    dtype, shape = file[f"b/{name}"].dtype, file[f"b/{name}"].shape
    del file[f"b/{name}"]
    length = int(np.prod(shape)) * dtype.itemsize
    file["b"].create_dataset(name, shape, dtype, external=[(str(other.with_suffix(".raw")), 0, length)])


def _virtual(file: h5py.File, other: Path) -> None:
    layout = h5py.VirtualLayout(shape=(3, *CELLS), dtype=np.float16)
    layout[:] = h5py.VirtualSource(str(other), "c/scores", shape=(3, *CELLS))
    del file["b/scores"]
    file["b"].create_virtual_dataset("scores", layout)


def write_chunk(file: h5py.File, data: bytes, mask: int = 0) -> None:
    """Writes a chunk of scores as it shall lie in the file, with the checksum HDF5 expects."""
    file["b/scores"].id.write_direct_chunk((1, 0, 0), data + struct.pack("<I", _fletcher32(data)), mask)


def _fletcher32(data: bytes) -> int:
    words = np.frombuffer(data + b"\0" * (len(data) % 2), ">u2").astype(object)
    one = two = 0
    for word in words:
        one = (one + word) % 65535
        two = (two + one) % 65535
    return two << 16 | one


def _bomb(file: h5py.File) -> None:
    write_chunk(file, zlib.compress(bytes(2_000_000)))


def _huge(file: h5py.File, size: tuple[int, int], stride: int) -> None:
    cells = (-(-size[0] // stride), -(-size[1] // stride))
    file["b"].attrs["height"], file["b"].attrs["width"] = size
    file["b"].attrs["stride"] = stride
    del file["b/scores"]
    file["b"].create_dataset("scores", (3, *cells), np.float16, chunks=(1, *cells), **PACKED)


def _emptied(file: h5py.File) -> None:
    scores = file["b/scores"][...]
    del file["b/scores"]
    made = file["b"].create_dataset("scores", scores.shape, np.float16, chunks=(1, *CELLS), **PACKED)
    made[0] = scores[0]


def _attribute(name: str, value: Any) -> Forgery:
    return lambda file, other, rng: file["b"].attrs.__setitem__(name, value)


def _classes(*ids: int, dtype: Any = np.uint8) -> Forgery:
    return lambda file, other, rng: _replace(file["b"], "classes", np.array(ids, dtype)) and None


def _scores(change: Callable[[np.ndarray], Any], **options: Any) -> Forgery:
    return lambda file, other, rng: _replace(file["b"], "scores", change(scores_of("b")), **options) and None


def _with(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(scores: np.ndarray) -> np.ndarray:
        scores[1, 2, 3] = value
        return scores

    return change


def _references(file: h5py.File) -> None:
    del file["b/scores"]
    made = file["b"].create_dataset("scores", (3, *CELLS), h5py.ref_dtype, chunks=(1, *CELLS))
    made[...] = file["a/scores"].ref


def _regions(file: h5py.File) -> None:
    del file["b/scores"]
    made = file["b"].create_dataset("scores", (3, *CELLS), h5py.regionref_dtype, chunks=(1, *CELLS))
    made[0, 0, 0] = file["a/scores"].regionref[0]


SHARD_FORGERIES: dict[str, Forgery] = {
    "an external link to an image": lambda f, o, r: _linked(f, "b", h5py.ExternalLink(str(o), "/c")),
    "an external link to scores": lambda f, o, r: _linked(f, "b/scores", h5py.ExternalLink(str(o), "/c/scores")),
    "an external link to classes": lambda f, o, r: _linked(f, "b/classes", h5py.ExternalLink(str(o), "/c/classes")),
    "a soft link to an image": lambda f, o, r: _linked(f, "b", h5py.SoftLink("/a")),
    "a soft link to scores": lambda f, o, r: _linked(f, "b/scores", h5py.SoftLink("/a/scores")),
    "a soft link to nothing": lambda f, o, r: _linked(f, "b/scores", h5py.SoftLink("/b/scores")),
    "scores stored in another file": lambda f, o, r: _stored_outside(f, "scores", o),
    "classes stored in another file": lambda f, o, r: _stored_outside(f, "classes", o),
    "virtual scores": lambda f, o, r: _virtual(f, o),
    "a data set for an image": lambda f, o, r: _linked(f, "b", np.zeros(3)),
    "a type for an image": lambda f, o, r: _linked(f, "b", np.dtype("f4")),
    "a group for scores": lambda f, o, r: _linked(f, "b/scores", f["a"]),
    "no scores": lambda f, o, r: f.__delitem__("b/scores"),
    "no classes": lambda f, o, r: f.__delitem__("b/classes"),
    "no image": lambda f, o, r: f.__delitem__("b"),
    "no height": lambda f, o, r: f["b"].attrs.__delitem__("height"),
    "a stride of 0": _attribute("stride", 0),
    "a negative stride": _attribute("stride", -4),
    "another stride": _attribute("stride", 5),
    "a stride that is not a whole number": _attribute("stride", 4.5),
    "a stride in text": _attribute("stride", "4"),
    "two strides": _attribute("stride", [4, 4]),
    "another height": _attribute("height", 33),
    "a negative height": _attribute("height", -29),
    "a height in a reference": lambda f, o, r: f["b"].attrs.__setitem__("height", f["a"].ref),
    "a huge width and stride": lambda f, o, r: _huge(f, (2**40, 2**40), 2**37),
    "huge scores": lambda f, o, r: _huge(f, (16000, 16000), 1),
    "large scores of no chunk": lambda f, o, r: _huge(f, (3000, 3000), 1),
    "a class twice": _classes(0, 1, 1),
    "classes that fall": _classes(0, 3, 1),
    "an unknown class": _classes(0, 1, 4),
    "class 255": _classes(0, 1, 255),
    "too few classes": _classes(0, 1),
    "too many classes": _classes(0, 1, 2, 3),
    "negative classes": _classes(-1, 0, 1, dtype=np.int8),
    "classes of another type": _classes(0, 1, 3, dtype=np.int64),
    "a score below 0": _scores(_with(-0.1)),
    "a score above 1": _scores(_with(1.01)),
    "a score of NaN": _scores(_with(np.nan)),
    "an infinite score": _scores(_with(np.inf)),
    "scores in float32": _scores(lambda scores: scores.astype(np.float32)),
    "scores in whole numbers": _scores(lambda scores: np.ones(scores.shape, np.uint16)),
    "scores in another order of bytes": _scores(lambda scores: scores.astype(">f2")),
    "complex scores": _scores(lambda scores: scores.astype(np.complex64)),
    "scores in text": _scores(lambda scores: scores.astype(str).astype(object), dtype=h5py.string_dtype(), **PLAIN),
    "scores in references": lambda f, o, r: _references(f),
    "scores in references to regions": lambda f, o, r: _regions(f),
    "scores of fewer rows": _scores(lambda scores: scores[:, 1:]),
    "scores turned": _scores(lambda scores: scores.transpose(0, 2, 1)),
    "scores of one map": _scores(lambda scores: scores[:1]),
    "scores in two dimensions": _scores(lambda scores: scores[0], **PLAIN),
    "scores that can grow": _scores(lambda scores: scores, maxshape=(None, None, None), chunks=(2, 3, 4)),
    "scores without checksums": _scores(lambda scores: scores, fletcher32=False),
    "scores in lzf": _scores(lambda scores: scores, compression="lzf", compression_opts=None),
    "scores in nbit": _scores(lambda scores: scores.astype(np.uint16), scaleoffset=3, fletcher32=False),
    "scores in one chunk": _scores(lambda scores: scores, chunks=(3, *CELLS)),
    "scores without chunks": _scores(lambda scores: scores, **PLAIN),
    "a chunk that was never written": lambda f, o, r: _emptied(f),
    "a chunk that inflates to more": lambda f, o, r: _bomb(f),
    "a chunk that inflates to less": lambda f, o, r: write_chunk(f, zlib.compress(bytes(80))),
    "a chunk that does not inflate": lambda f, o, r: write_chunk(f, r.randbytes(100)),
    "a chunk that skips deflate, too short": lambda f, o, r: write_chunk(f, bytes(80), 2),
    "a chunk that skips deflate, too long": lambda f, o, r: write_chunk(f, bytes(240), 2),
    "a chunk that skips all filters": lambda f, o, r: write_chunk(f, bytes(160), 7),
    "another schema": lambda f, o, r: f.attrs.__setitem__("schema", 99),
    "a schema in text": lambda f, o, r: f.attrs.__setitem__("schema", "1"),
    "other classes": lambda f, o, r: f.attrs.__setitem__("class_names", [b"background", b"cat", b"dog", b"cow"]),
    "classes in text of any length": lambda f, o, r: f.attrs.__setitem__("class_names", list(NAMES)),
    "another meaning": lambda f, o, r: f.attrs.__setitem__("meaning", b"camera"),
    "no class names": lambda f, o, r: f.attrs.__delitem__("class_names"),
}


def forge_shard(folder: Path, name: str, rng: random.Random, meaning: str = "cam") -> None:
    """Score maps below `folder`, a forgery in image b of them, and beside it the files that it leads to."""
    shard = write_maps(folder, meaning)
    other = folder.parent / "outside.h5"
    other.write_bytes(shard.read_bytes())
    other.with_suffix(".raw").write_bytes(np.ones(3 * 8 * 10, np.float16).tobytes())
    with h5py.File(shard, "r+", libver="v110") as file:
        SHARD_FORGERIES[name](file, other, rng)


def _shard_forged(rng: random.Random, folder: Path) -> str:
    name = rng.choice(list(SHARD_FORGERIES))
    forge_shard(folder / "maps", name, rng, rng.choice(["cam", "probability"]))
    assert _read_maps(folder / "maps") == "shard refused", name
    return "shard refused"


# --- weights ---------------------------------------------------------------------------------------------------


def tiny_module() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))


@functools.cache
def _good_weights() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder) / "weights.pt", tiny_module().state_dict())
        return (Path(folder) / "weights.pt").read_bytes()


def read_weights(path: Path) -> torch.nn.Module:
    module = tiny_module()
    with torch.no_grad():
        for value in module.state_dict().values():
            value.zero_()
    load_strictly(module, read_state(path), str(path), "the module")
    return module


def _read_weights(path: Path) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, on what is sparse
            found = read_weights(path).state_dict()
    except (ArtifactError, ConfigError):
        return "weights refused"
    assert all(torch.equal(value, found[key]) for key, value in tiny_module().state_dict().items())
    return "weights read"


def _weights_damaged(rng: random.Random, folder: Path) -> str:
    (folder / "w.pt").write_bytes(_damaged(rng, _good_weights()))
    return _read_weights(folder / "w.pt")


def _zipped_again(path: Path, change: Callable[[str, bytes, zipfile.ZipFile], None]) -> None:
    with zipfile.ZipFile(io.BytesIO(_good_weights())) as old, zipfile.ZipFile(path, "w") as new:
        for part in old.infolist():
            change(part.filename, old.read(part), new)


def _deflated(path: Path, rng: random.Random) -> None:
    method = rng.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    _zipped_again(path, lambda name, data, new: new.writestr(name, data, method))


def _zip_bomb(path: Path, rng: random.Random) -> None:
    def change(name: str, data: bytes, new: zipfile.ZipFile) -> None:
        new.writestr(name, bytes(2_000_000) if name.endswith("data/0") else data, zipfile.ZIP_DEFLATED)

    _zipped_again(path, change)


def _a_part_twice(path: Path, rng: random.Random) -> None:
    def change(name: str, data: bytes, new: zipfile.ZipFile) -> None:
        new.writestr(name, data)
        if name.endswith("data/0"):
            new.writestr(name if rng.random() < 0.5 else name.upper(), bytes(len(data)))

    _zipped_again(path, change)


def _overlapping(path: Path, rng: random.Random) -> None:
    """Hundreds of parts that are the same bytes: the list at the end names one part again and again."""
    data = _good_weights()
    start = data.rindex(b"PK\x05\x06")
    count, length, offset = struct.unpack_from("<HII", data, start + 10)
    listed, again = data[offset : offset + length], rng.randrange(50, 500)
    end = data[start : start + 8] + struct.pack("<HHII", count * again, count * again, length * again, offset)
    path.write_bytes(data[:offset] + listed * again + end + data[start + 20 :])


def _larger_than_the_file(path: Path, rng: random.Random) -> None:
    data = bytearray(_good_weights())
    place = data.index(b"PK\x01\x02")
    struct.pack_into("<II", data, place + 20, 0xFFFF0000, 0xFFFF0000)
    path.write_bytes(data)


def _in_front(path: Path, rng: random.Random) -> None:
    path.write_bytes(b"PK\x03\x04" + rng.randbytes(60) + _good_weights())


def _changed(key: str, change: Callable[[torch.Tensor], Any]) -> Callable[[Path, random.Random], None]:
    def forge(path: Path, rng: random.Random) -> None:
        state = dict(tiny_module().state_dict())
        state[key] = change(state[key])
        torch.save(state, path, _use_new_zipfile_serialization=rng.random() < 0.8)

    return forge


def _instead(value: Any) -> Callable[[Path, random.Random], None]:
    return lambda path, rng: torch.save(value, path)


WEIGHTS_FORGERIES: dict[str, Callable[[Path, random.Random], None]] = {
    "compressed": _deflated,
    "a part that inflates": _zip_bomb,
    "a part twice": _a_part_twice,
    "parts that are the same bytes": _overlapping,
    "a part larger than the file": _larger_than_the_file,
    "something in front": _in_front,
    "all NaN": lambda path, rng: torch.save(
        {key: value * float("nan") for key, value in tiny_module().state_dict().items()}, path
    ),
    "one NaN": _changed("1.running_var", lambda value: torch.tensor([1, 1, float("nan"), 1])),
    "one infinite": _changed("0.bias", lambda value: torch.tensor([1, 1, float("inf"), 1])),
    "another shape": _changed("0.weight", lambda value: value[:, :2]),
    "a number that is spread": _changed("0.bias", lambda value: torch.ones(1).expand(2**40)),
    "whole numbers": _changed("0.weight", lambda value: value.long()),
    "half precision": _changed("0.weight", lambda value: value.half()),
    "complex numbers": _changed("0.weight", lambda value: value.to(torch.complex64)),
    "a sparse tensor": _changed("0.weight", lambda value: value.to_sparse()),
    "a tensor without values": _changed("0.weight", lambda value: value.to("meta")),
    "a quantised tensor": _changed("0.bias", lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)),
    "a list for a tensor": _changed("0.weight", lambda value: value.tolist()),
    "another key": _instead({"2.weight": torch.ones(1)}),
    "a list": _instead([torch.ones(2)]),
    "a tensor": _instead(torch.ones(2)),
    "nothing": _instead(None),
    "no tensors": _instead({}),
    "numbers for names": _instead({0: torch.ones(2)}),
    "a module": _instead(torch.nn.Linear(1, 1)),
    "bytes": _instead(bytearray(10)),
}


def forge_weights(path: Path, name: str, rng: random.Random) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what torch is about to leave off, and of a name that is in the zip already
        WEIGHTS_FORGERIES[name](path, rng)


def _weights_forged(rng: random.Random, folder: Path) -> str:
    name = rng.choice(list(WEIGHTS_FORGERIES))
    forge_weights(folder / "w.pt", name, rng)
    assert _read_weights(folder / "w.pt") == "weights refused", name
    return "weights refused"


# --- masks and saliency ----------------------------------------------------------------------------------------


def _values() -> np.ndarray:
    return np.random.default_rng(5).integers(0, len(NAMES), SIZE).astype(np.uint8)


def _read_png(path: Path, grey: bool, truth: np.ndarray) -> str:
    try:
        found = read_saliency(path, SIZE) if grey else read_mask(path, len(NAMES), (SIZE[1], SIZE[0]))
    except DataError:
        return "image refused"
    assert np.array_equal(found, truth / np.float32(255) if grey else truth)
    return "image read"


def _good_png(grey: bool) -> tuple[bytes, np.ndarray]:
    values = _values()
    return (encode_saliency(values / 255) if grey else encode_mask(values)), values


def _png_damaged(rng: random.Random, folder: Path) -> str:
    grey = rng.random() < 0.5
    data, truth = _good_png(grey)
    (folder / "p.png").write_bytes(_damaged(rng, data))
    return _read_png(folder / "p.png", grey, truth)


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png_forged(rng: random.Random, folder: Path) -> str:
    """A header of other sizes and depths, or a strange chunk, with right checksums."""
    grey = rng.random() < 0.5
    data, truth = _good_png(grey)
    head = bytearray(data[16:29])
    kind = rng.choice(["IHDR", "sizes", "zTXt", "iTXt", "iCCP", "tRNS", "acTL", "fdAT", "eXIf", "pHYs", "PLTE", "gAMA"])
    extra = b""
    if kind == "IHDR":
        field = rng.randrange(5)  # bits (1, 2 or 4 would make it another image, not a forged one), colours, ...
        head[8 + field] = rng.choice([0, 3, 16, 255] if field == 0 else [0, 1, 2, 3, 4, 6, 7, 8, 16, 255])
    elif kind == "sizes":
        struct.pack_into(">I", head, rng.choice([0, 4]), rng.choice([0, 1, 2**14, 2**16, 2**31 - 1, 2**32 - 1]))
    else:
        bomb = b"a\0\0" + zlib.compress(bytes(2_000_000))
        extra = _png_chunk(kind.encode(), rng.choice([bomb, rng.randbytes(rng.randrange(40)), b""]))
    (folder / "p.png").write_bytes(data[:8] + _png_chunk(b"IHDR", bytes(head)) + extra + data[33:])
    return _read_png(folder / "p.png", grey, truth)
