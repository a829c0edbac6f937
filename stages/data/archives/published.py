"""The archives of PASCAL VOC 2012 and SBD as they were published: addresses, sizes, digests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Archive:
    """One archive on the web.

    Attributes:
        name: for messages.
        file: its file name.
        urls: its addresses, tried in order.
        bytes: its size, None where no source gives it.
        digest: "md5:..." or "sha256:...", hexadecimal.
        unpacks_to: the folder it holds, relative to where it is extracted. Nothing outside of it is kept.
    """

    name: str
    file: str
    urls: tuple[str, ...]
    bytes: int | None
    digest: str
    unpacks_to: str


# MD5 and the first address: torchvision, datasets/voc.py. The administrator of the Oxford servers calls that address
# the permanent one; the old host redirects to it (pytorch/vision pull request 9216). Size: Content-Length in published
# logs of wget and Keras, 1999639040 in all of them.
VOC2012 = Archive(
    name="VOC 2012",
    file="VOCtrainval_11-May-2012.tar",
    urls=(
        "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        "http://host.robots.ox.ac.uk:8080/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    ),
    bytes=1_999_639_040,
    digest="md5:6cd6e144f989b92b3379bac3b3de84fd",
    unpacks_to="VOCdevkit/VOC2012",
)


# MD5 and address: torchvision, datasets/sbd.py. Size: the log in pytorch/vision issue 8471 (June 2024).
SBD = Archive(
    name="SBD",
    file="benchmark.tgz",
    urls=("https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",),
    bytes=1_419_539_633,
    digest="md5:82b4d87ceb2ed10f6038a1cba92111cb",
    unpacks_to="benchmark_RELEASE",
)
