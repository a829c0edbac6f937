"""The errors that are shown to people: what was found, where, and how to mend it."""

from __future__ import annotations

import re


class SemisegError(Exception):
    """A mistake that can be mended. `message`: what and where; `hint`: how to mend it.

    `exit_code` is the exit status of the command line: 2 usage, 3 bad config or data, 4 busy, 5 stale.
    """

    exit_code = 3

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message

    def __reduce__(self):  # keeps the hint when the error crosses a process pool
        return (type(self), (self.message, self.hint))


def about(name: str, error: SemisegError) -> SemisegError:
    """The error, with a message that says that it is about the image `name`."""
    named = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", error.message)  # the name "7" does not stand in "57 rows"
    return error if named else type(error)(f"{name}: {error.message}", error.hint)


class UsageError(SemisegError):
    """The command line itself is wrong."""

    exit_code = 2


class ConfigError(SemisegError):
    """A config value or key is wrong."""


class DataError(SemisegError):
    """An image, mask, list or label file is missing, damaged or inconsistent."""


class ArtifactError(SemisegError):
    """An artifact is missing, damaged, or of the wrong kind or version."""


class OlderFormatError(ArtifactError):
    """An artifact is whole, of a format that this version of semiseg reads no more."""


class BusyError(SemisegError):
    """Another process holds the artifact."""

    exit_code = 4


class StaleError(SemisegError):
    """An artifact is not fresh, and the caller asked for an error in this case."""

    exit_code = 5
