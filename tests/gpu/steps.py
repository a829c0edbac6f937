"""The steps, most telling first. No torch.

The budget, in seconds on the slowest machine seen (an H200 whose processes took about 10 s to load torch and the
stages). Measured there: a training with its profile, 4 to 10; its first step 1 to 2; UniMatch's loop, 5 of 32 steps and
as much before the first batch; a method, 0.1 to 1 of steps. The others are estimates.

| step | seconds | of which |
|---|---|---|
| the warm server | 15 | torch, torchvision and the stages are loaded once; steps are copies of it |
| machine | 8 | CUDA 3, products and copies 3 |
| data, prepared | 15 | at once; 40 drawings 6, five stages of 36 small images 12 |
| crf | 20 | four images by one CPU thread 4, sixteen on the GPU 2 |
| offline | 110 | two networks 15; ten jobs of 8: two starts of 2, a profile of 16 images 1, 208 images 3 |
| equality, methods | 80 | at once; 9 trainings of 5; 37 methods of 6 in four processes |
| backbone | 12 | ResNet-101 on the CPU 2, three measurements of 2 |
| training | 50 | five trainings of 8 |
| peer | 45 | five runs of 8 |
| compiled | 120 | supervised 50, unimatch 70, nearly all of it in torch.compile |
| averages | 20 | two trainings of 8 |

Together 495. The limits are higher, since no machine is slow everywhere; what does not fit is cut at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Step(NamedTuple):
    """A step.

    Attributes:
        place: module and function. limit: the seconds it may take. needs: the steps whose files it reads.
        processes: so many share its items (`Place.taken`).
        timed: it runs alone; neighbours that are not timed run at once.
    """

    place: str
    limit: float
    needs: tuple[str, ...] = ()
    processes: int = 1
    timed: bool = True


STEPS = {
    "machine": Step("machine:machine", 40),
    "data": Step("data:data", 60, timed=False),
    "prepared": Step("methods:prepared", 60, timed=False),
    "crf": Step("offline:mean_field", 60),
    "offline": Step("offline:offline", 160, ("data",)),
    "equality": Step("equality:equality", 110, ("data",), timed=False),
    "methods": Step("methods:methods", 120, ("prepared",), processes=4, timed=False),
    "backbone": Step("training:backbone", 40),
    "training": Step("training:training", 110, ("data",)),
    "peer": Step("peer_unimatch:peer", 80, ("data",)),
    "compiled": Step("training:compiled", 150, ("data",)),
    "averages": Step("training:averages", 60, ("data",)),
}
LOADED = (  # by the server of all steps, before the first begins; none of these may ask for a GPU
    "torch",
    "torch.profiler",
    "torch.utils.flop_counter",
    "torch.utils.tensorboard",
    "torchvision",
    "stages.engine.inference",
    "stages.engine.loop",
    "stages.localization.activation_maps",
    "stages.localization.mean_field",
    "stages.methods.training",
    "stages.networks.folding",
    "tests.gpu.equality",
    "tests.gpu.machine",
    "tests.gpu.methods",
    "tests.gpu.offline",
    "tests.gpu.peer_unimatch",
)
LEAST = 15.0  # seconds: with less left no step is begun
AGAIN = 75  # a process that ends with this leaves what is left of its items to a fresh one


def rounds(names: Sequence[str]) -> Iterator[list[str]]:
    """The steps that run at once, one list after the other."""
    now: list[str] = []
    for name in names:
        if now and (STEPS[name].timed or STEPS[now[-1]].timed or set(STEPS[name].needs) & set(now)):
            yield now
            now = []
        now.append(name)
    if now:
        yield now
