"""The web server of the tests, running."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.stages.data.archives.web_server import Site, serving


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as running:
        yield running
