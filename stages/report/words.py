"""Times, sizes and figures in words, as every report shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def duration(seconds: float) -> str:
    """1.2 s, 48 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(count: float) -> str:
    """Bytes in words: 412 B, 31.0 KiB, 1.2 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


# The main figures of a result, most important first: key (or prefix with *), label, whether it is a share.
_SPLITS = "images.*"
_HEADLINES: tuple[tuple[str, str, bool], ...] = (
    ("mean_iou", "mean IoU", True),
    ("pixel_accuracy", "pixel accuracy", True),
    ("mean_average_precision", "mAP", True),
    ("quality.train.mean.iou", "IoU", True),
    ("quality.train.coverage", "coverage", True),
    ("images_per_second", "images/s", False),
    ("observed.*", "", False),
    ("losses.*", "loss", False),
    (_SPLITS, "", False),
    ("images", "images", False),
)


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        name = f"{prefix}{key}"
        flat |= flatten(inner, f"{name}.") if isinstance(inner, Mapping) else {name: inner}
    return flat


def percent(share: float | None) -> str:
    """A share of 1 in percent, without the sign; - where it is not known."""
    return "-" if share is None else f"{100 * share:.2f}"


def short_number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


_SHARES = {"iou", "mean_iou", "mean_iou_of_last", "pixel_accuracy", "precision", "recall", "coverage"}
_SHARES |= {"average_precision", "mean_average_precision"}


def is_share(key: str) -> bool:
    """Whether the figure with this dotted key is a fraction of 1, which people read in percent."""
    return not _SHARES.isdisjoint(key.split(".")) or key.endswith("_share")


def headline(summary: Mapping[str, Any], most: int = 3) -> str:
    """The main figures of a summary on one line; its first plain values when none of them is known."""
    flat = flatten(summary)
    shown = []
    for pattern, label, share in _HEADLINES:
        found = []
        for key, value in flat.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            if key == pattern or (pattern.endswith("*") and key.rpartition(".")[0] == pattern[:-2]):
                name = " ".join(filter(None, [label, key.rpartition(".")[2] if pattern.endswith("*") else ""]))
                found.append(f"{name} {100 * value:.1f} %" if share else f"{name} {short_number(value)}")
        shown += [", ".join(found)] if found and pattern == _SPLITS else found  # one figure: all its parts are shown
    if not shown:
        plain = {key: value for key, value in flat.items() if isinstance(value, (int, float, str))}
        shown = [f"{key.replace('_', ' ')} {short_number(value)}" for key, value in plain.items()]
    return ", ".join(shown[:most])
