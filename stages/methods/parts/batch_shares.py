"""How a batch is shared between labelled and unlabelled images, and the streams they come from."""

from __future__ import annotations

from artifacts.errors import ConfigError
from stages.engine.method import Sources
from stages.engine.streams import Stream
from stages.methods.settings.base import SemiSupervisedSettings

SHARE_TOLERANCE = 0.05  # images: a share of .333 is a third


def strong_and_unlabelled(
    settings: SemiSupervisedSettings, sources: Sources, batch_size: int, partner: bool = False
) -> dict[str, Stream]:
    """Streams "strong" and "unlabelled", which share the batch; `partner`: with a second batch of these to mix."""
    sources.require(settings.name, "strong", "without_masks")
    labelled, others = shares(settings, batch_size)
    unlabelled = sources.entries(sources.without_masks, None)
    partners = ("partner",) if partner else ()
    return {
        "strong": Stream(sources.entries(sources.strong, "masks"), labelled),
        "unlabelled": Stream(unlabelled, others, group=1 + len(partners), apart=partners),
    }


def shares(settings: SemiSupervisedSettings, batch_size: int) -> tuple[int, int]:
    """How many images of a batch are labelled and how many are not; ConfigError where these are not whole numbers."""

    def labelled(size: int) -> int | None:
        exact = size * settings.labelled_share
        return round(exact) if abs(exact - round(exact)) <= SHARE_TOLERANCE and 0 < round(exact) < size else None

    if (count := labelled(batch_size)) is not None:
        return count, batch_size - count
    fitting = next((size for size in range(batch_size + 1, batch_size + 100) if labelled(size)), None)
    raise ConfigError(
        f"method {settings.name}: labelled_share {settings.labelled_share:g} of batch_size {batch_size} is "
        f"{batch_size * settings.labelled_share:.4g} images; whole ones are needed, of both kinds",
        (f"use batch_size {fitting}, or " if fitting else "") + "set another method.labelled_share",
    )


def halves(batch_size: int, method: str) -> int:
    """Half of the batch, for methods that take equal numbers of two kinds of images."""
    if batch_size % 2:
        raise ConfigError(
            f"method {method} takes equal halves of two kinds of images: batch_size {batch_size} is odd",
            f"use batch_size {batch_size + 1}",
        )
    return batch_size // 2
