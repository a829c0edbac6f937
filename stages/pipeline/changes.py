"""The differences between planned work and an existing artifact: versions, settings, inputs, external files.

Settings are compared as the present code reads them: a key that a recorded config lacks has its default, which by the
convention of stages/contract.py is what was computed before the key existed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from artifacts.manifest import Manifest
from artifacts.store import Work
from stages.config import Config, mistakes
from stages.contract import Stage, fingerprint


@dataclass(frozen=True)
class Change:
    """One difference: `text` describes it, `key` is the dotted key if it is a setting."""

    text: str
    key: str = ""

    @property
    def reason(self) -> str:
        """The text of `status` for a stale artifact: "config lr: 0.1 -> 0.2"."""
        return f"config {self.key}: {self.text}" if self.key else self.text

    def __str__(self) -> str:
        return f"{self.key} {self.text}" if self.key else self.text


def is_made_by(stage: Stage, config: Config, work: Work, manifest: Manifest) -> bool:
    """Whether an artifact is what `work` (of this config) would make, by its recorded fingerprint."""
    if manifest.fingerprint == work.fingerprint:
        return True
    if work_changes(stage, work, manifest):
        return False
    contents = {key: record["content"] for key, record in work.inputs.items()}
    return manifest.fingerprint == fingerprint(stage, config, contents, work.externals, recorded=manifest.config)


def work_changes(stage: Stage, work: Work, manifest: Manifest) -> list[Change]:
    """Why an artifact is not what `work` would make; empty if it is."""
    settings = setting_changes(stage, manifest, work.config)
    if manifest.stage != stage.name:
        return settings
    inputs = {key: (record["artifact"], record["content"]) for key, record in work.inputs.items()}
    return [
        *settings,
        *input_changes(manifest, inputs),
        *external_changes(manifest, work.externals),
    ]


def setting_changes(stage: Stage, manifest: Manifest, config: Mapping[str, Any]) -> list[Change]:
    """Changes of the stage, its version and its settings; for a path to an external file, its content counts."""
    if manifest.stage != stage.name:
        return [Change(f"made by the stage {manifest.stage}, expected {stage.name}")]
    version = manifest.stage_version
    found = [] if version == stage.version else [Change(f"stage version {version} -> {stage.version}")]
    for key, before, now in differences(as_read_today(stage, manifest.config), dict(config)):
        if key not in manifest.externals:
            found.append(Change(f"{before} -> {now}", key))
    return found


def input_changes(manifest: Manifest, inputs: Mapping[str, tuple[str, str | None]]) -> list[Change]:
    """Changes of the inputs, given as (artifact, its content, None if it is not made)."""
    found = []
    for key in sorted(set(manifest.inputs) | set(inputs)):
        recorded = manifest.inputs.get(key)
        source, content = inputs.get(key, (None, None))
        if source is None:
            found.append(Change(f"input {key} was {manifest.inputs[key]['artifact']}, now none"))
        elif recorded is None:
            found.append(Change(f"input {key} was none, now {source}"))
        elif content is None:
            found.append(Change(f"input {source} is not made"))
        elif content != recorded["content"]:
            before = recorded["artifact"]
            text = f"input {source} changed" if before == source else f"input {key}: {before} -> {source}"
            found.append(Change(text))
    return found


def external_changes(manifest: Manifest, now: Mapping[str, str]) -> list[Change]:
    """Changes of files outside the workspace, given as their digests by config key."""
    before = manifest.externals
    found = []
    for key in sorted(set(now) | set(before)):
        if now.get(key) != before.get(key):
            if key not in before:
                text = f"a file counts now that did not before ({key})"
            elif key not in now:
                text = f"a file does not count any more ({key})"
            else:
                text = f"the file of {key} changed its content"
            found.append(Change(text))
    return found


def as_read_today(stage: Stage, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded config with the defaults of later keys; unchanged if it can no longer be read."""
    config, _ = mistakes(stage.config, recorded, recorded=True)
    return dict(recorded) if config is None else config.model_dump(mode="json")


def settings_apart(config: Config, default: Config | None = None, prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted key, value) of the settings that differ from their defaults; a chosen variant has its own defaults.

    Values are those of JSON. `default` is the default of the field that holds `config`, None for its class's own
    defaults.
    """
    plain, found = config.model_dump(mode="json"), []
    for name, field in type(config).model_fields.items():
        key, value = f"{prefix}{name}", getattr(config, name)
        usual = field.get_default(call_default_factory=True) if default is None else getattr(default, name)
        if not isinstance(value, Config):
            if field.is_required() or value != usual:
                found.append((key, plain[name]))
            continue
        same = type(usual) is type(value)
        if not same and isinstance(variant := field.discriminator, str):
            found.append((f"{key}.{variant}", plain[name][variant]))
        found += settings_apart(value, usual if same else None, f"{key}.")
    return found


def differences(before: Any, now: Any, key: str = "") -> list[tuple[str, str, str]]:
    """The differences of two configs: (dotted key, before, now), values as short text, "absent" if there is none."""
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for name in sorted(before.keys() | now.keys()):
            inner = f"{key}.{name}" if key else name
            if name not in before:
                found.append((inner, "absent", short(now[name])))
            elif name not in now:
                found.append((inner, short(before[name]), "absent"))
            else:
                found += differences(before[name], now[name], inner)
        return found
    return [] if before == now else [(key, short(before), short(now))]


def short(value: Any) -> str:
    """A value as text of at most 40 characters; empty text as ''."""
    text = "''" if value == "" else str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def listed(changes: list[Change], most: int = 3) -> str:
    """The changes on one line, at most `most`; those of keys that both sides have come first."""
    ordered = sorted(changes, key=lambda change: change.key != "" and "absent" in change.text.split(" -> "))
    more = f" and {len(changes) - most} more" if len(changes) > most else ""
    return ", ".join(map(str, ordered[:most])) + more
