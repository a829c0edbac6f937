"""The offline stages on images of VOC's sizes: images a second, and memory on the device."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from artifacts import checkpoint
from artifacts.canonical import digest
from artifacts.dataset import Dataset
from artifacts.store import Artifact, Work, Writer
from stages.networks.boundary import build_boundary_network
from stages.networks.config import ClassifierConfig
from tests.benchmarks.__main__ import benchmark
from tests.gpu.data import of_voc
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
    Job("predict, with score maps", "predict", {"output": "both"}, SEGMENTER, ALL),
    Job("predict, scales of SEAM", "predict", {"output": "masks", "scales": SEAM_SCALES, "flip": True}, SEGMENTER, ALL),
    Job("refine, irn", "refine", {"method": "irn"}, IRN, TAGGED),
    Job("evaluate", "evaluate", {}, {"predictions": "predict-masks"}, ALL),
    Job("crf", "crf", {}, SCORES, ("val", "train")),
    Job("crf, CPU processes", "crf", {}, SCORES, ("val", "train"), {"device": "cpu"}),
    Job("seeds, with saliency", "seeds", {}, CLASSIFIER, TAGGED),
)


def offline(place: Place) -> None:
    with place.rows.guarded("train-classifier"):
        _classifier(place)
    with place.rows.guarded("a segmenter"):
        place.run(place.voc, "train", "segmenter", values(place, "supervised", place.size(20, 2)), {"data": "data"})
    with place.rows.guarded("a refiner"):
        _refiner(place)
    for job in JOBS:
        with place.rows.guarded(job.what):
            _timed(place, job)


def mean_field(place: Place) -> None:
    """The benchmark of the dense CRF by torch: all images at once on the GPU, against one thread of the CPU."""
    with place.rows.guarded("mean field, GPU to one CPU thread"):
        result = benchmark("crf-torch")(place.size("full", "tiny"), place.folder / "crf-torch")
        figures = {"ratio": result.ratio, **result.figures, "equal": result.equality}
        place.rows.add("mean field, GPU to one CPU thread", figures, {"ratio": 20.0})


def _timed(place: Place, job: Job) -> None:
    """Adds the row of a stage: images/s by the difference between one split and all, which leaves the start out."""
    dataset = Dataset(of_voc(place))
    place.forget_peak()
    seconds = []
    for splits, name in ((job.splits[:1], "-first"), (job.splits[:1], "-few"), (job.splits, "")):
        begin, config = time.perf_counter(), {**job.config, "splits": splits}
        place.run(place.voc, job.stage, job.output + name, config, {"data": "data", **job.inputs}, **job.how)
        seconds.append(time.perf_counter() - begin)
    images, few = (sum(len(dataset.ids(split)) for split in part) for part in (job.splits, job.splits[:1]))
    more = seconds[2] - seconds[1]
    rate = (images - few) / more if more > 0 else None
    figures = {"images/s": rate, "images": images, "s": seconds[2], "GiB": place.peak_gib()}
    place.rows.add(job.what, figures)


def _classifier(place: Place) -> None:
    """A few steps, so that BatchNorm has statistics: the classifier whose maps are timed."""
    full = {"preset": "resnet50", "weights": "none", "freeze_batch_norm": False}
    warm, steps = place.size((10, 40), (1, 3))
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
