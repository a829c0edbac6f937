"""Work on images that is begun in a pool while this process does something else, such as computing their maps.

jobs = Jobs(pool, advance)
jobs.submit(function, ids)      # function(ids) in portions; each returns how many images it finished
jobs.finish()
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future

CHUNK = 16  # images a pool process takes at a time
WAITING = 256  # portions that wait for the pool at most, so that a long list takes no memory


class Jobs:
    """Portions of images in a pool; `advance` is called with what each returns. The first error ends the work."""

    def __init__(self, pool: Executor, advance: Callable[[int], object]) -> None:
        self._pool, self._advance = pool, advance
        self._begun: deque[Future[int]] = deque()

    def submit(self, function: Callable[[Sequence[str]], int], ids: Sequence[str]) -> None:
        """Begins the work, and waits as long as there is too much that is not done."""
        for start in range(0, len(ids), CHUNK):
            self._begun.append(self._pool.submit(function, ids[start : start + CHUNK]))
            while self._begun and (len(self._begun) > WAITING or self._begun[0].done()):
                self._take()

    def finish(self) -> None:
        """Waits until everything is done."""
        while self._begun:
            self._take()

    def _take(self) -> None:
        self._advance(self._begun.popleft().result())
