"""The texts by which CLIP knows the classes, and stored vectors of them. No torch here.

texts = texts_of_classes(settings, dataset.class_names)        # {"cat": ("cat",), ...}
names = names_of_rows(settings, texts)                         # "cat", ..., "ground", "land", ...: what vectors are of
"""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from artifacts.errors import ConfigError, DataError
from artifacts.text import did_you_mean
from artifacts.yaml_files import read_yaml
from stages.localization.clip_config import NO_WEIGHTS, TEXT_SETS, ClipConfig
from stages.networks.config import CLIP_INSTALL, CLIP_WEIGHTS

MAKE_VECTORS = "make them again: every artifact of seeds with source=clip has such a file, text_vectors.npz"

Texts = Mapping[str, Sequence[str]]


def check_clip(settings: ClipConfig, class_names: Sequence[str]) -> None:
    """ConfigError or DataError where weights, packages or texts are missing, before any work."""
    texts = texts_of_classes(settings, class_names)
    if not settings.weights:
        raise ConfigError(f"{settings.key}: CLIP has no weights", CLIP_WEIGHTS)
    if importlib.util.find_spec("timm") is None:
        raise ConfigError(f"{settings.key}: the network of CLIP is built by timm, which is not installed", CLIP_INSTALL)
    if settings.vectors:
        if idle := [name for name in ("texts", "templates") if name in settings.model_fields_set]:
            key = settings.key
            raise ConfigError(f"{key}.{idle[0]} has no effect with {key}.vectors", "leave one of them out")
        read_vectors(Path(settings.vectors).expanduser(), names_of_rows(settings, texts))
    elif settings.weights != NO_WEIGHTS and importlib.util.find_spec("open_clip") is None:
        raise ConfigError(
            f"{settings.key}: the texts of CLIP need open_clip, which is not installed",
            f"{CLIP_INSTALL}, or give the vectors of the texts ({settings.key}.vectors=FILE.npz): seeds stores them",
        )


def texts_of_classes(settings: ClipConfig, class_names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The texts of each foreground class; ConfigError where a class has none and its name is no word."""
    given = TEXT_SETS.get(settings.texts)
    texts = {name: (text,) for name, text in given.items()} if given is not None else _read_texts(settings, class_names)
    found, mute = {}, []
    for name in class_names[1:]:
        found[name] = texts.get(name) or (" ".join(name.replace("_", " ").split()),)
        if name not in texts and not settings.vectors and not _is_word(found[name][0]):
            mute.append(name)
    if mute:
        raise ConfigError(
            f"CLIP cannot be told of the classes {', '.join(mute)}: their names are not words",
            f"write a YAML file with lines CLASS: TEXT, such as `c1: dog`, and set {settings.key}.texts to it",
        )
    return found


def _is_word(name: str) -> bool:
    """Whether all parts of a name consist of letters, and one has more than one."""
    parts = name.replace("-", " ").split()
    return bool(parts) and all(part.isalpha() for part in parts) and max(map(len, parts)) > 1


def _read_texts(settings: ClipConfig, class_names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    file = Path(settings.texts).expanduser()
    found: dict[str, tuple[str, ...]] = {}
    for key, value in read_yaml(file).items():
        name = str(key)
        if name not in class_names[1:]:
            raise ConfigError(
                f"{file}: the data set has no class {name!r}{did_you_mean(name, class_names[1:])}", "correct the file"
            )
        texts = value if isinstance(value, list) else [value]
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise ConfigError(
                f"{file}: {name}: expected a text or a list of texts, found {value!r}", "correct the file"
            )
        found[name] = tuple(texts)
    return found


def names_of_rows(settings: ClipConfig, texts: Texts) -> list[str]:
    """What the rows of the vectors are of: the classes, then the background texts that remain."""
    return [*texts, *remaining_background(settings, texts)]


def remaining_background(settings: ClipConfig, texts: Texts) -> list[str]:
    """The background texts without those that are the name or a text of a class; ConfigError if none remains."""
    taken = {part.strip().lower() for name, own in texts.items() for text in (name, *own) for part in text.split(",")}
    kept = [text for text in dict.fromkeys(settings.background) if text.strip().lower() not in taken]
    if not kept:
        raise ConfigError(
            f"{settings.key}.background: all of these texts are of classes",
            "name something else that the images show",
        )
    return kept


def sentences_of_rows(settings: ClipConfig, texts: Texts) -> list[list[str]]:
    """The sentences of each row: every text in every template."""
    rows = [*texts.values(), *((text,) for text in remaining_background(settings, texts))]
    return [[template.replace("{}", text) for text in row for template in settings.templates] for row in rows]


def read_vectors(file: Path, names: Sequence[str]) -> NDArray[np.float32]:
    """The vectors (len(names), vector) of the names, in their order; DataError: the file is damaged or lacks some."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            known, vectors = [str(name) for name in arrays["names"]], arrays["vectors"]
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"the text vectors {file} cannot be read: {error}", MAKE_VECTORS) from error
    fractions = vectors.dtype.kind == "f" and vectors.ndim == 2 and np.isfinite(vectors).all()
    if not fractions or len(vectors) != len(known) or not vectors.any(axis=1).all():
        raise DataError(
            f"{file} holds vectors of type {vectors.dtype} and shape {vectors.shape} for {len(known)} names: expected "
            "a row of finite numbers, not all 0, for each",
            MAKE_VECTORS,
        )
    if missing := [name for name in names if name not in known]:
        raise DataError(f"{file} has no vectors of {', '.join(missing)}", MAKE_VECTORS)
    found: NDArray[np.float32] = vectors[[known.index(name) for name in names]].astype(np.float32)
    return found
