"""How a batch is shared between labelled and unlabelled images, and the streams they come from."""

from __future__ import annotations

from artifacts.errors import ConfigError
from stages.engine.method import Sources
from stages.engine.streams import Entry, Stream
from stages.methods.settings.base import SemiSupervisedSettings

SHARE_TOLERANCE = 0.05  # images: a share of .333 is a third


def strong_and_unlabelled(
    settings: SemiSupervisedSettings,
    sources: Sources,
    batch_size: int,
    partner: bool = False,
    estimated: bool = False,
) -> dict[str, Stream]:
    """Streams "strong" and "unlabelled", which share the batch.

    partner: with a second batch of unlabelled images, to mix. estimated: these have estimated masks as labels, where
    there are any.
    """
    sources.require(settings.name, "strong", "without_masks")
    labelled, others = shares(settings, batch_size)
    guided = set(_estimated(settings.name, sources)) if estimated else set()
    unlabelled = [Entry(image_id, "weak_labels" if image_id in guided else None) for image_id in sources.without_masks]
    partners = ("partner",) if partner else ()
    return {
        "strong": Stream(sources.entries(sources.strong, "masks"), labelled),
        "unlabelled": Stream(unlabelled, others, group=1 + len(partners), apart=partners),
    }


def _estimated(method: str, sources: Sources) -> list[str]:
    """The images without masks that have estimated ones; ConfigError where none has."""
    sources.require(method, "weak_labels")
    if not (found := sources.with_map("weak_labels", sources.without_masks)):
        raise ConfigError(
            f"method {method}: no image without a mask has an estimated one in {sources.folders['weak_labels'].folder}",
            "make them for the splits weak or unlabelled, or train without method.guidance",
        )
    return found


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
