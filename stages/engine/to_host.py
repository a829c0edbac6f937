"""Results on their way from the device to the host, while the device works on what comes next.

sent = ((ids, Transfer(masks=p.argmax(1))) for ids, p in predict_probabilities(...))
for ids, arrays in received(sent):
    arrays["masks"]  # of one batch; a GPU computes the next one meanwhile
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Key = TypeVar("Key")


class Transfer:
    """Tensors that are copied to the host, by name; those of a CPU are there already.

    Attributes:
        copied: the events of GPUs after which they are there.
    """

    def __init__(self, **tensors: Tensor) -> None:
        self._tensors = {name: one.to("cpu", non_blocking=True) for name, one in tensors.items()}  # to pinned memory
        devices = {one.device for one in tensors.values() if one.is_cuda}
        self.copied = [torch.cuda.current_stream(device).record_event() for device in devices]

    def arrays(self) -> dict[str, np.ndarray]:
        """The values, as soon as they have arrived; what was queued later may still be computed."""
        for event in self.copied:
            event.synchronize()
        return {name: one.numpy() for name, one in self._tensors.items()}


def received(sent: Iterable[tuple[Key, Transfer]]) -> Iterator[tuple[Key, dict[str, np.ndarray]]]:
    """The values of each transfer, in turn; from a GPU when the next one is queued, which is computed meanwhile."""
    waiting: deque[tuple[Key, Transfer]] = deque()
    for key, transfer in sent:
        waiting.append((key, transfer))
        while len(waiting) > bool(transfer.copied):
            first, found = waiting.popleft()
            yield first, found.arrays()
    for first, found in waiting:
        yield first, found.arrays()
