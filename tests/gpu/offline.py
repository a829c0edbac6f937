"""The offline stages on images of VOC's sizes: images a second, and memory on the device."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from artifacts import checkpoint
from artifacts.canonical import digest
from artifacts.dataset import Dataset
from artifacts.masks import IGNORE
from artifacts.store import Artifact, Work, Writer
from stages.localization.crf_parameters import PARAMETERS
from stages.localization.dense_crf import backend_of, crf_of_each, crf_together, energies
from stages.localization.grid import resize_maps
from stages.networks.boundary import build_boundary_network
from stages.networks.config import ClassifierConfig
from stages.parallel.processes import preload
from tests.benchmarks import inputs
from tests.benchmarks.crf import one_thread
from tests.gpu.data import of_voc
from tests.gpu.inside import MainThread, Profile, empty_gpu
from tests.gpu.place import Place, Watch
from tests.gpu.training import values

TAGGED, ALL = ("train", "weak"), ("val", "train", "weak")
SEAM_SCALES = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]


class Job(NamedTuple):
    """A run of a stage: its config, the inputs beside the data set, the splits, and how it is run."""

    what: str
    stage: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    splits: Sequence[str]
    how: Mapping[str, Any] = {}

    @property
    def output(self) -> str:
        return self.what.replace(", ", "-").replace(" ", "-")


CLASSIFIER, SEGMENTER, SCORES = {"classifier": "classifier"}, {"segmenter": "segmenter"}, {"predictions": "scores"}
IRN = {"seeds": "seeds-maps-alone", "refiner": "refiner"}
JOBS = (
    Job("seeds, maps alone", "seeds", {"labels": {"mode": "dense"}}, CLASSIFIER, TAGGED),
    Job("predict, masks", "predict", {"output": "masks"}, SEGMENTER, ALL),
    Job("crf", "crf", {}, SCORES, ("val", "weak")),
    Job("refine, irn", "refine", {"method": "irn"}, IRN, TAGGED),
    Job("predict, with score maps", "predict", {"output": "both"}, SEGMENTER, ALL),
    Job("predict, scales of SEAM", "predict", {"output": "masks", "scales": SEAM_SCALES, "flip": True}, SEGMENTER, ALL),
    Job("refine, par", "refine", {"method": "par"}, {"seeds": "seeds-maps-alone"}, TAGGED),
    Job("seeds, with saliency", "seeds", {}, CLASSIFIER, TAGGED),
    Job("evaluate", "evaluate", {}, {"predictions": "predict-masks"}, ALL),
    Job("crf, CPU processes", "crf", {}, SCORES, ("val", "weak"), {"device": "cpu"}),
)
# what the processes of the stages' pools need: their server loads it once
POOLED = ("stages.seeds", "stages.refine", "stages.crf", "stages.evaluate", "stages.evaluation.image_scores")
POOLED += ("stages.localization.saliency", "stages.localization.random_walk", "h5py", "scipy.ndimage")
COMPARED, FILTERED = 4, 16  # images of the dense CRF on one CPU thread, and on the GPU


def offline(place: Place) -> None:
    preload(POOLED)
    with place.rows.guarded("train-classifier"):
        _classifier(place)
    with place.rows.guarded("a segmenter"):
        place.run(place.voc, "train", "segmenter", values(place, "supervised", place.size(8, 2)), {"data": "data"})
    with place.rows.guarded("a refiner"):
        _refiner(place)
    for job in place.size(JOBS, JOBS[:4]):
        with place.rows.guarded(job.what):
            timed(place, job)


def timed(place: Place, job: Job) -> None:
    """Adds the row of a stage, and its device time as another run of fewer images has it, which also warms it up."""
    dataset, few = Dataset(of_voc(place)), job.splits[:1]
    images = {splits: sum(len(dataset.ids(split)) for split in splits) for splits in (few, job.splits)}
    empty_gpu()
    inside = Profile(place, images[few], calls=False)
    inside.begin()
    _run(place, job, few)
    inside.end()
    place.forget_peak()
    begin, watch = time.perf_counter(), Watch()
    with MainThread() as thread:
        _run(place, job, job.splits, watch)
    seconds = time.perf_counter() - begin
    flow = watch.flow(job.stage)
    rate, main = images[job.splits] * flow.rate, thread.shares(flow.begin, flow.end)
    figures = {
        "images/s": rate,
        "start s": flow.first,
        "s": seconds,
        "images": images[job.splits],
        "GiB": place.peak_gib(),
    }
    busy = inside.device_ms()
    figures |= {"device ms": busy, "device share": busy * rate / 1e3} if place.on_gpu else {}
    words = ", ".join(f"{name} {100 * share:.0f} %" for name, share in main[:4])
    kernels = inside.kernels() if place.on_gpu else []
    place.rows.add(job.what, figures | {"main thread": words}, kernels=kernels, main_thread=main)


def _run(place: Place, job: Job, splits: Sequence[str], watch: Watch | None = None) -> None:
    output = job.output if watch else f"{job.output}-few"
    given = {"data": "data", **job.inputs}
    place.run(place.voc, job.stage, output, {**job.config, "splits": splits}, given, watch, **job.how)


def mean_field(place: Place) -> None:
    """The dense CRF of images of VOC's size by torch on the device, against one thread of the CPU."""
    with place.rows.guarded("mean field, to one CPU thread"):
        _mean_field(place)


def _mean_field(place: Place) -> None:
    size, compared = place.size(inputs.VOC_SIZE, (48, 64)), place.size(COMPARED, 1)
    images, scores = [], []
    for number in range(compared):
        image, mask = inputs.drawn_image(number, size)
        labels = sorted({0, *np.unique(mask).tolist()} - {IGNORE})
        found = resize_maps(inputs.class_probabilities(mask, seed=number)[labels], size, 4)
        images.append(image)
        scores.append(found / found.sum(0))
    reference, ours = (replace(PARAMETERS["dsrg-test"], backend=name) for name in ("auto", "torch"))
    many = place.size(FILTERED, 2) // compared
    unaries = [energies(image, own, ours) for image, own in zip(images, scores, strict=True)]
    inside = Profile(place, many * compared, calls=False)
    for begin, end in ((lambda: None, lambda: None), (inside.begin, inside.end)):  # the first call loads its code
        begin()
        found = crf_together(images * many, unaries * many, ours, place.device)
        end()
    mine = place.seconds(lambda: crf_together(images * many, unaries * many, ours, place.device), 3, warm=0)
    rate = many * compared / mine
    busy = {"device ms": inside.device_ms(), "device share": inside.device_ms() * rate / 1e3} if place.on_gpu else {}
    figures: dict[str, Any] = {"images/s": rate, **busy, "GiB": place.peak_gib()}
    place.rows.add("mean field, on the device", figures, kernels=inside.kernels() if place.on_gpu else [])
    begin = time.perf_counter()
    with one_thread():
        expected = [crf_of_each(image, [own], reference)[0] for image, own in zip(images, scores, strict=True)]
    theirs = compared / (time.perf_counter() - begin)
    most = max(float(np.abs(a - b).max()) for a, b in zip(expected, found, strict=False))
    same = np.mean([np.mean(a.argmax(0) == b.argmax(0)) for a, b in zip(expected, found, strict=False)])
    figures = {"ratio": rate / theirs, f"images/s of {backend_of(reference)}": theirs}
    figures |= {"largest difference": most, "equal labels": float(same)}
    wanted = {"ratio": 20.0, "equal labels": 0.999}
    place.rows.add("mean field, to one CPU thread", figures, wanted)


def _classifier(place: Place) -> None:
    """A few steps, so that BatchNorm has statistics: the classifier whose maps are timed."""
    full = {"preset": "resnet50", "weights": "none", "freeze_batch_norm": False}
    warm, steps = place.size((10, 30), (1, 3))
    config = values(place, "cam", steps, network=place.size(full, {"preset": "tiny"}), log_every=place.size(10, 1))
    watch = Watch()
    made = place.run(place.voc, "train-classifier", "classifier", config, {"data": "data"}, watch)
    step = watch.seconds(warm, steps) / (steps - warm)
    figures = {"images/s": config["batch_size"] / step, "MiB": made.manifest.summary["peak_memory_mib"]}
    place.rows.add("train-classifier, cam", figures)


def _refiner(place: Place) -> Artifact:
    """IRNet's network with random weights, as train-refiner would leave it."""
    config = place.size({"preset": "resnet50", "weights": "none"}, {"preset": "tiny"})
    network = build_boundary_network(ClassifierConfig.model_validate(config | {"freeze_batch_norm": False}), seed=0)
    names = Dataset(of_voc(place)).class_names

    def fill(writer: Writer) -> None:
        with writer.item("weights.pt") as temporary:
            checkpoint.save(temporary, network.state_dict())
        writer.write_json("network.json", network.spec(names))

    work = Work("train-refiner", 1, "refiner", digest("refiner"), {"method": {"name": "irn"}}, {}, {})
    with place.voc.writing("refiner", work) as writer:
        fill(writer)
        return place.voc.publish("refiner", writer, work, {})
