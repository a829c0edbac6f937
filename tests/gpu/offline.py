"""The offline stages on images of VOC's sizes: images a second, and memory on the device."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

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

ALL = ["train", "weak", "val"]
SEAM_SCALES = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]


def offline(place: Place) -> None:
    with place.rows.guarded("train-classifier"):
        _classifier(place)
    seeds = {"data": "data", "classifier": "classifier"}
    with place.rows.guarded("seeds, four scales, maps alone"):
        _timed(place, "seeds, four scales, maps alone", "seeds", "seeds", {"labels": {"mode": "dense"}}, seeds)
    with place.rows.guarded("segmenter"):
        _segmenter(place)
    given = {"data": "data", "segmenter": "segmenter"}
    for what, config in (
        ("predict, masks", {"output": "masks"}),
        ("predict, masks and score maps", {"output": "both"}),
        ("predict, six scales and mirrors", {"output": "masks", "scales": SEAM_SCALES, "flip": True}),
    ):
        with place.rows.guarded(what):
            config |= {"splits": ALL}
            _timed(place, what, "predict", what.replace(", ", "-").replace(" ", "-"), config, given)
    with place.rows.guarded("refine, irn"):
        _refiner(place)
        given = {"data": "data", "seeds": "seeds", "refiner": "refiner"}
        _timed(place, "refine, irn", "refine", "refined", {"method": "irn", "splits": ["train", "weak"]}, given)
    with place.rows.guarded("evaluate"):
        given = {"data": "data", "predictions": "predict-masks"}
        _timed(place, "evaluate", "evaluate", "metrics", {"splits": ALL}, given)
    for what, how in (("crf", {}), ("crf, CPU processes", {"device": "cpu"})):
        with place.rows.guarded(what):
            given = {"data": "data", "predictions": "probabilities"}
            _timed(place, what, "crf", what.replace(", ", "-").replace(" ", "-"), {"splits": ["val"]}, given, **how)
    with place.rows.guarded("seeds, four scales, saliency for the background"):
        _timed(place, "seeds, four scales, saliency for the background", "seeds", "seeds-saliency", {}, seeds)


def mean_field(place: Place) -> None:
    """The benchmark of the dense CRF by torch: all images at once on the GPU, against one thread of the CPU."""
    with place.rows.guarded("mean field, GPU to one CPU thread"):
        result = benchmark("crf-torch")(place.size("full", "tiny"), place.folder / "crf-torch")
        figures = {"ratio": result.ratio, **result.figures, "equal": result.equality}
        place.rows.add("mean field, GPU to one CPU thread", figures, {"ratio": 20.0})


def _timed(
    place: Place,
    what: str,
    stage: str,
    output: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    **how: Any,
) -> None:
    """Adds the row of a stage; images/s are those after the first ones, which wait for networks and processes."""
    place.forget_peak()
    watch, begin = Watch(), time.perf_counter()
    made = place.run(place.voc, stage, output, config, inputs, watch, **how)
    whole = time.perf_counter() - begin
    times = watch.longest()
    first, last = sorted(times)[1], max(times)
    dataset = Dataset(of_voc(place))
    images = sum(len(dataset.ids(split)) for split in made.config["splits"])
    steady = images / last * (last - first) / (times[last] - times[first]) if last > first else None
    place.rows.add(what, {"images/s": steady, "images": images, "s in all": whole, "GiB": place.peak_gib()})


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


def _segmenter(place: Place) -> None:
    place.run(place.voc, "train", "segmenter", values(place, "supervised", place.size(20, 2)), {"data": "data"})


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
