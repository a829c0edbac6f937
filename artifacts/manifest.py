"""`manifest.json`: what an artifact is, what made it and from what. Written last, so its presence means "whole"."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from artifacts.canonical import digest, file_digest, pretty_json
from artifacts.errors import ArtifactError

MANIFEST_SCHEMA = 1
MANIFEST_NAME = "manifest.json"

# The version of a kind is raised when its layout on disk changes; readers refuse versions they do not know.
KINDS: dict[str, int] = {
    "dataset": 2,
    "classifier": 1,
    "seeds": 2,
    "segmenter": 1,
    "predictions": 2,
    "masks": 1,
    "metrics": 1,
    "reliability": 1,
}

LOCAL = "local"  # facts of this machine and run: kept beside the content, not part of it


@dataclass(frozen=True)
class Manifest:
    """The record of one artifact; the fields are specified in docs/formats.md."""

    kind: str
    kind_version: int
    stage: str
    stage_version: int
    fingerprint: str
    content: str
    config: dict[str, Any]
    inputs: dict[str, dict[str, Any]]
    items: dict[str, dict[str, Any]]  # relative path -> {"bytes", "sha256"}, everything but `local/`
    summary: dict[str, Any]
    made_by: dict[str, Any]
    started: str
    finished: str
    seconds: float
    resumed: int
    argv: list[str]
    externals: dict[str, str] = field(default_factory=dict)  # config key -> sha256 of the file it named
    schema: int = MANIFEST_SCHEMA

    @property
    def count(self) -> int:
        return len(self.items)

    @property
    def bytes(self) -> int:
        return sum(item["bytes"] for item in self.items.values())

    def to_json(self) -> str:
        return pretty_json(dataclasses.asdict(self))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the artifact in `folder`.

    Raises ArtifactError when it is missing, is not JSON, or has a schema, kind or kind version unknown here.
    """
    path = folder / MANIFEST_NAME
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(
            f"{folder} is not an artifact: it has no {MANIFEST_NAME}", "run the stage that makes it"
        ) from None
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}", "check the permissions") from None
    except (ValueError, RecursionError) as error:  # neither JSON nor UTF-8
        raise ArtifactError(f"{path} is damaged: {error}", "delete the artifact and rerun its stage") from None
    if not isinstance(record, dict) or record.get("schema") != MANIFEST_SCHEMA:
        found = record.get("schema") if isinstance(record, dict) else type(record).__name__
        raise ArtifactError(
            f"{path} has manifest schema {found!r}, this version of semiseg reads {MANIFEST_SCHEMA}",
            "use the semiseg version that made it, or rerun its stage",
        )
    names = {f.name for f in dataclasses.fields(Manifest)}
    if missing := sorted(names - record.keys()):
        raise ArtifactError(f"{path} lacks {', '.join(missing)}", "delete the artifact and rerun its stage")
    manifest = Manifest(**{name: record[name] for name in names})
    if wrong := _wrong_fields(manifest):
        raise ArtifactError(f"{path} is damaged: wrong {', '.join(wrong)}", "delete the artifact and rerun its stage")
    if manifest.kind not in KINDS:
        raise ArtifactError(f"{path} has the unknown kind {manifest.kind!r}, known: {', '.join(KINDS)}")
    if manifest.kind_version != KINDS[manifest.kind]:
        raise ArtifactError(
            f"{path}: {manifest.kind} has version {manifest.kind_version}, "
            f"this version of semiseg reads version {KINDS[manifest.kind]}",
            "rerun its stage",
        )
    return manifest


def _wrong_fields(manifest: Manifest) -> list[str]:
    """Names of the fields whose value has the wrong type."""
    types: dict[str, Any] = {
        **dict.fromkeys(("kind", "stage", "fingerprint", "content", "started", "finished"), str),
        **dict.fromkeys(("kind_version", "stage_version", "resumed"), int),
        **dict.fromkeys(("config", "inputs", "items", "summary", "made_by", "externals"), dict),
        "seconds": (int, float),
        "argv": list,
    }
    wrong = [name for name, expected in types.items() if not isinstance(getattr(manifest, name), expected)]
    if "items" not in wrong and not all(
        isinstance(item, dict) and isinstance(item.get("bytes"), int) and isinstance(item.get("sha256"), str)
        for item in manifest.items.values()
    ):
        wrong.append("items")
    return wrong


def list_items(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every content file below `folder`, by sorted relative path.

    Left out: the manifest, `local/`, and hidden files and folders (temporary files, scratch, progress).
    """
    items = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if hidden or relative.parts[0] in (LOCAL, MANIFEST_NAME) or not path.is_file():
            continue
        items[relative.as_posix()] = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
    return items


def content_digest(items: dict[str, dict[str, Any]]) -> str:
    """One digest for all items: equal exactly when every path and every byte is equal."""
    return digest({path: item["sha256"] for path, item in items.items()})
