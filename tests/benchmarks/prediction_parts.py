"""What makes the stage predict fast, one by one: batches, folded BatchNorm, records in threads, memory that stays."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np
import torch
from PIL import Image
from torch import nn

from artifacts.dataset import Dataset, write_dataset
from artifacts.masks import read_mask
from artifacts.score_maps import ScoreMaps, ScoreMapWriter
from artifacts.store import Artifact, Workspace, Writer
from stages.data.config import VOC_CLASS_NAMES
from stages.engine.inference import batches_of, predict_batches
from stages.networks import build_segmenter
from stages.networks.config import NetworkConfig
from stages.networks.folding import for_inference
from stages.predict import SHARD_SIZE, PredictConfig, stored_maps
from tests.benchmarks import inputs
from tests.benchmarks.command_line import call
from tests.benchmarks.crf import one_thread
from tests.benchmarks.measure import CPU, Clock, Result, Timing, in_turn
from tests.benchmarks.prediction import FILTERS, STRIDE, plain_loop, untrained_segmenter

WIDTH = 250  # of all images of `folded`: half of VOC's
SMALL = 125  # as many in a batch of a CPU as of VOC's in one of a GPU
# (images, repeats)
BATCHES = {"tiny": (6, 1), "quick": (400, 2), "full": (1200, 3)}
# (network, images, repeats)
FOLDED = {"tiny": ("tiny", 3, 1), "quick": ("mobilenet_v2", 24, 3), "full": ("mobilenet_v2", 48, 3)}
# (images, their size, repeats)
RECORDS = {"tiny": (3, (48, 64), 1), "quick": (24, inputs.VOC_SIZE, 3), "full": (96, inputs.VOC_SIZE, 5)}
PEAKS = {"tiny": (4, 8), "quick": (100, 300), "full": (300, 1200)}
FLAT = 0.1  # share that the peak may grow, of few images to many

PEAK = """
import sys
from pathlib import Path
from tests.benchmarks.prediction_parts import predicted
predicted(*sys.argv[1:3], Path(sys.argv[3]))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def batches(scale: str, folder: Path) -> Result:
    """Images of many sizes, as in VOC: batches of one size over all of them, against batches within parts of 100."""
    count, repeats = BATCHES[scale]
    dataset = Dataset(various_images(Workspace(folder), count))
    config, device = PredictConfig(), torch.device("cpu")
    network = for_inference(build_segmenter(NetworkConfig.model_validate("tiny"), inputs.NUM_CLASSES, seed=1), device)
    ids = dataset.ids("unlabelled")
    parts = [ids[start : start + SHARD_SIZE] for start in range(0, count, SHARD_SIZE)]

    def run(made: Sequence[list[str]]) -> dict[str, np.ndarray]:
        views = predict_batches(network, dataset, made, config, device, workers=1)
        return {i: mask for members, p in views for i, mask in zip(members, p.argmax(1).byte().numpy(), strict=True)}

    within = [batch for part in parts for batch in batches_of(dataset, part, config, device)]
    over = batches_of(dataset, ids, config, device)
    with one_thread():
        baseline, own, expected, found = in_turn(lambda: run(within), lambda: run(over), repeats, CPU, each=count)
    alike = _alike(expected, found)
    return Result(
        "predict-batches",
        f"an image in batches of one size over all images, {count / len(over):.1f} in each; "
        f"baseline: within every {SHARD_SIZE} images, {count / len(within):.1f} in each",
        f"{count} images of {len({dataset.size(i) for i in ids})} sizes, {SMALL} pixels wide, preset tiny, one thread",
        baseline,
        own,
        f"the masks, {100 * alike:.3f} % of the pixels (wanted: 99.9)",
        alike >= 0.999,
        target_ratio=1.0,
        figures={"batches": len(over), "baseline_batches": len(within)},
    )


def folded(scale: str, folder: Path) -> Result:
    """The network with BatchNorm in its convolutions, on the same batches."""
    preset, count, repeats = FOLDED[scale]
    dataset = Dataset(inputs.images(Workspace(folder), count, (WIDTH * 3 // 4, WIDTH))[0])
    given = {} if preset == "tiny" else {"weights": "none", "freeze_batch_norm": False}
    config, device = PredictConfig(), torch.device("cpu")
    plain = build_segmenter(NetworkConfig.model_validate({"preset": preset} | given), inputs.NUM_CLASSES, seed=1)
    made = batches_of(dataset, dataset.ids("val"), config, device)

    def run(network: nn.Module) -> dict[str, np.ndarray]:
        views = predict_batches(network, dataset, made, config, device, workers=1)
        return {i: mask for members, p in views for i, mask in zip(members, p.argmax(1).byte().numpy(), strict=True)}

    ready = for_inference(plain, device)
    with one_thread():
        baseline, own, expected, found = in_turn(lambda: run(plain), lambda: run(ready), repeats, CPU, each=count)
    alike = _alike(expected, found)
    return Result(
        "predict-folded",
        "an image, BatchNorm folded into the convolutions; baseline: the network as it was trained",
        f"{count} images of {WIDTH * 3 // 4}x{WIDTH}, network {preset}, one thread",
        baseline,
        own,
        f"the masks, {100 * alike:.3f} % of the pixels (wanted: 99.9)",
        alike >= 0.999,
        target_ratio=1.06,
    )


def main_thread(scale: str, folder: Path) -> Result:
    """What the thread that feeds the device does for the files of an image."""
    count, size, repeats = RECORDS[scale]
    ids = [f"{number:05d}" for number in range(count)]
    found = dict(zip(ids, (_probabilities(number % 4, size) for number in range(count)), strict=True))
    limit = PredictConfig().min_class_probability

    def stored(image_id: str) -> tuple[np.ndarray, np.ndarray]:
        scores = found[image_id].astype(np.float16)
        return stored_maps(scores, scores.max((1, 2)), np.zeros(len(scores), bool), limit)

    def formerly() -> None:
        with h5py.File(folder / "plain.h5", "w", libver="v110") as file:
            for image_id in ids:
                scores, classes = stored(image_id)
                group = file.create_group(image_id)
                group.create_dataset("scores", data=scores, chunks=(1, *scores.shape[1:]), **FILTERS)
                group.create_dataset("classes", data=classes)

    def ours() -> None:
        for file in (folder / "scores").glob("*"):
            file.unlink()
        with (
            ScoreMapWriter(Writer(folder), class_names=VOC_CLASS_NAMES, meaning="probability") as maps,
            ThreadPoolExecutor(2) as threads,
        ):
            maps.plan(ids)
            writing = [threads.submit(lambda i: maps.add(i, *stored(i), size=size, stride=STRIDE), i) for i in ids]
            for future in writing:
                future.result()

    clock = Clock(CPU.unit, time.thread_time)
    baseline, own, _, _ = in_turn(formerly, ours, repeats, clock, each=count)
    made = ScoreMaps(folder)
    with h5py.File(folder / "plain.h5") as file:
        equal = all(np.array_equal(file[image_id]["scores"][...], made[image_id].scores) for image_id in ids)
    return Result(
        "predict-main-thread",
        "what the main thread does for the score maps of an image, which threads write; baseline: it writes them",
        f"{count} images of {size[0]}x{size[1]}, 21 classes, maps of stride {STRIDE}",
        baseline,
        own,
        "the maps, value by value",
        equal,
        target_ratio=4.0,
    )


def memory(scale: str, folder: Path) -> Result:
    """How the peak of memory of a process grows with the images, of many sizes."""
    few, many = PEAKS[scale]
    peaks: dict[str, list[float]] = {"plain": [], "ours": []}
    for count in (few, many):
        workspace = Workspace(folder / str(count))
        various_images(workspace, count)
        untrained_segmenter(workspace)
        for how, found in peaks.items():
            found.append(float(call("-c", PEAK, how, str(workspace.path), str(folder / how))))
    places = {"plain": folder / "plain", "ours": workspace.artifact("predicted").path / "masks"}
    masks = [{file.stem: read_mask(file) for file in place.glob("*.png")} for place in places.values()]
    alike = _alike(*masks)
    grown = {how: max(after - before, 0.0) / (many - few) for how, (before, after) in peaks.items()}
    return Result(
        "predict-memory",
        f"growth of the peak of memory an image; baseline: a plain loop; target: a peak within 10 %; of {many} images: "
        f"{peaks['ours'][1] / 1024:.0f} MiB, {peaks['plain'][1] / 1024:.0f}",
        f"{few} and {many} images of many sizes, {SMALL} pixels wide, preset tiny, one thread, a process each",
        Timing((grown["plain"],), "KiB"),
        Timing((grown["ours"],), "KiB"),
        f"the masks, {100 * alike:.3f} % of the pixels (wanted: 99.9)",
        alike >= 0.999,
        target_most=FLAT * peaks["ours"][0] / (many - few),
        figures={f"{how}_kib": found[1] for how, found in peaks.items()},
    )


def predicted(how: str, workspace_folder: str, folder: Path) -> None:
    """Predicts the data set of a workspace with its segmenter, one thread: the work of a process that is measured."""
    torch.set_num_threads(1)
    workspace = Workspace(Path(workspace_folder))
    if how == "plain":
        folder.mkdir(exist_ok=True)
        dataset = Dataset(workspace.artifact("data"))
        plain_loop(workspace.artifact("segmenter"), dataset, dataset.ids("unlabelled"), folder)
        return
    given = {"data": "data", "segmenter": "segmenter"}
    config = {"splits": ["unlabelled"]}
    inputs.stage(workspace, "predict", "predicted", config, given, device="cpu", workers=1)


def various_images(workspace: Workspace, count: int) -> Artifact:
    """A data set of drawn images in the proportions of VOC's: three frequent sizes, and a quarter of any height."""
    rng, width = np.random.default_rng(0), SMALL
    frequent = [(width * 3 // 4, width), (width * 2 // 3, width), (width, width * 3 // 4)]
    names = {f"{number:06d}": rng.random() for number in rng.permutation(count)}  # sizes follow no order of the ids
    sizes = {
        name: frequent[int(rng.choice(3, p=(0.6, 0.2, 0.2)))]
        if share < 0.75
        else (int(rng.integers(width // 2, width)), width)
        for name, share in names.items()
    }

    def fill(writer: Writer) -> None:
        for number, (name, (height, width)) in enumerate(sorted(sizes.items())):
            image = inputs.drawn_image(number % 16)[0][:height, :width]  # of 375 x 500
            with writer.item(f"images/{name}.jpg") as temporary:
                Image.fromarray(np.ascontiguousarray(image)).save(temporary, format="JPEG", quality=92)
        write_dataset(
            writer,
            name="benchmark",
            class_names=VOC_CLASS_NAMES,
            splits={"unlabelled": list(sizes)},
            tags={},
            tag_source="none",
            mask_ids=(),
            image_pattern="images/{id}.jpg",
            sizes=sizes,
        )

    return inputs.hand_made(workspace, "data", "dataset", fill)


@lru_cache
def _probabilities(number: int, size: tuple[int, int]) -> np.ndarray:
    return inputs.class_probabilities(inputs.drawn_image(number, size)[1], seed=number, stride=STRIDE)


def _alike(expected: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> float:
    return float(np.mean([(mask == found[image_id]).mean() for image_id, mask in expected.items()]))
