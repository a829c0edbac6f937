"""What each part of a page says, of workspaces and figures made by hand."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artifacts.dataset import Dataset
from artifacts.masks import write_mask
from artifacts.store import Work, Workspace, Writer
from semiseg_cli.main import main
from stages.pipeline.status import BLOCKED, FRESH, STALE, State
from stages.pipeline.table import Row, Table
from stages.report.figures import Figure, Results
from stages.report.page.best_section import weak_lines
from stages.report.page.curves import Training
from stages.report.page.document import page_html
from stages.report.page.facts import ArtifactFacts
from stages.report.page.scored import Metrics
from stages.report.page.stage_graph import layout
from stages.report.page.work_section import longest, not_fresh
from tests.stages.report.page.test_page import Page, browsed, facts_of, needs_browser, publish, stage

QUALITY = {
    "train": {
        "images": 3,
        "accuracy": 0.5,
        "coverage": 0.75,
        "mean": {"iou": 0.25, "precision": None, "recall": 0.5},
        "per_class": {
            "background": {"iou": 0.5, "precision": 0.6, "recall": 0.7, "coverage": 0.8},
            "star": {"iou": 0.0, "precision": None, "recall": 0.123, "coverage": 0.9},
        },
    },
    "weak": {"written": "by another version"},
}


def publish_seeds(workspace: Workspace) -> None:
    """Seeds whose summary has figures of two classes."""
    record = {"data": {"artifact": "data", "content": workspace.artifact("data").manifest.content}}
    work = Work("seeds", 1, "seeds", "seeds".ljust(64, "0"), {}, record, {})
    with workspace.writing("seeds", work) as writer:
        writer.write_bytes("classes.json", b"{}")
        workspace.publish("seeds", writer, work, {"quality": QUALITY})


@pytest.fixture(scope="module")
def reviewed(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A network, its predictions of all images, their evaluation, and a review that names three images."""
    workspace = Workspace(tmp_path_factory.mktemp("sections") / "work")
    stage(
        workspace,
        "prepare-data",
        "data",
        {"dataset": {"name": "shapes", "train": 3, "weak": 4, "val": 3, "long_side": 64}},
    )
    dataset = Dataset(workspace.artifact("data"))
    ids = [image_id for split in ("train", "weak", "val") for image_id in dataset.ids(split)]

    def write_predictions(writer: Writer) -> None:
        for image_id in ids:
            with writer.item(f"masks/{image_id}.png") as path:
                write_mask(path, np.zeros(dataset.size(image_id), np.uint8))

    def write_review(writer: Writer) -> None:
        first, second = dataset.ids("weak")[:2]
        doubtful = {"split": "train", "share": 0.25, "mask": "star", "network": "ring", "pixels": 9}
        found = {
            "next": [{"id": i, "doubt": d, "distance": 0.5} for i, d in ((second, 0.4), (first, 0.3))],
            "doubtful": [{"id": dataset.ids("train")[0], **doubtful}],
            "classes": {name: {"masks": k, "iou": None} for k, name in enumerate(dataset.class_names)},
            "help_most": "fish",
        }
        writer.write_json("review.json", found)

    publish(workspace, "net", "train", "segmenter", lambda w: w.write_bytes("weights.pt", b"x"), data="data")
    publish(workspace, "seen", "predict", "predictions", write_predictions, data="data", segmenter="net")
    stage(workspace, "evaluate", "scores", {"bootstrap": 100}, data="data", predictions="seen")
    publish(workspace, "review", "review", "review", write_review, data="data", segmenter="net")
    return workspace


def page_of(workspace: Workspace, tmp_path: Path) -> tuple[Page, str]:
    assert main(["report", "--html", str(tmp_path / "page.html"), "-w", str(workspace.path), "--workers", "1"]) == 0
    text = (tmp_path / "page.html").read_text()
    page = Page(text)
    return page, " ".join(" ".join(page.words).split())


def test_the_page_says_how_good_the_best_network_is_and_how_it_is_used(reviewed: Workspace, tmp_path: Path) -> None:
    page, words = page_of(reviewed, tmp_path)
    low, high = reviewed.artifact("scores").json("metrics.json")["mean_iou_interval"]
    assert "best" in page.ids
    assert f"on val, 3 images; 95 % interval {100 * low:.1f} to {100 * high:.1f}" in words
    assert "Never predicted: " in words
    assert 'Segmenter.load("work/net")("photo.jpg")' in words
    assert "semiseg export onnx net net.onnx --workspace work" in words
    assert "#artifact-net" in page.links


def test_the_page_shows_what_to_label_next_and_the_masks_that_look_wrong(reviewed: Workspace, tmp_path: Path) -> None:
    page, words = page_of(reviewed, tmp_path)
    dataset = Dataset(reviewed.artifact("data"))
    first, second = dataset.ids("weak")[:2]
    assert {"advice", "images-next", "images-doubtful"} <= set(page.ids)
    assert "More masks of fish would help most." in words
    assert words.index(f"{second} doubt 40 %") < words.index(f"{first} doubt 30 %")
    assert "25 % contradicted, most of it star in the mask, ring to the network" in words
    shown = [str(image["alt"]) for image in page.images if str(image["alt"]).startswith(second)]
    assert f"{second}: prediction of seen" in shown
    assert page.wrong == []


def test_a_review_whose_data_set_is_gone_or_that_is_damaged_still_has_a_page(
    reviewed: Workspace, tmp_path: Path
) -> None:
    for name, spoil in (("a", lambda s: shutil.rmtree(s / "data")), ("b", lambda s: shutil.rmtree(s / "seen"))):
        space = tmp_path / name / "work"
        shutil.copytree(reviewed.path, space)
        spoil(space)
        _, words = page_of(Workspace(space), tmp_path)
        assert "More masks of fish would help most." in words
    review = space / "review" / "review.json"
    review.write_bytes(b"{}".ljust(review.stat().st_size))
    _, words = page_of(Workspace(space), tmp_path)
    assert "review.json" in words


def test_the_quality_of_seeds_is_shown_for_each_class(reviewed: Workspace, tmp_path: Path) -> None:
    shutil.copytree(reviewed.path, tmp_path / "work")
    space = Workspace(tmp_path / "work")
    assert "labels" not in page_of(space, tmp_path)[0].ids
    publish_seeds(space)
    page, words = page_of(space, tmp_path)
    assert "labels" in page.ids
    assert "seeds 25.0 % train, 3 images with true masks" in words
    assert "background 50.0 60.0 70.0 80.0 star 0.0 - 12.3 90.0" in words
    assert page.wrong == []


def test_few_scored_images_are_shown_once_the_worst_first(reviewed: Workspace) -> None:
    groups = {group.key: group for group in facts_of(reviewed).images.groups}
    assert "fixed" not in groups
    assert groups["worst"].title == "Images of val, the worst first"
    assert len(groups["worst"].rows) == 3


def with_results(workspace: Workspace) -> str:
    """The page with a table of many columns, in which the network's run is the highest of the first."""
    columns = ["val", *(f"another column, {k}" for k in range(12))]
    rows = [Row("trained", {"val": ["scores"]}, None), Row("not made", {"val": ["gone"]}, None)]
    figures = {
        "trained": {column: Figure({"scores": 40.0 + k}, []) for k, column in enumerate(columns)},
        "not made": {column: Figure({"gone": 30.0, "lost": 31.0}, []) for column in columns},
    }
    results = Results(Table("T", "mean_iou", columns, rows), figures, dict.fromkeys(figures))
    return page_html(dataclasses.replace(facts_of(workspace), results=results))


def test_figures_lead_to_their_evaluation_or_to_their_runs_and_the_highest_is_said(reviewed: Workspace) -> None:
    text = with_results(reviewed)
    page, words = Page(text), " ".join(" ".join(Page(text).words).split())
    assert page.wrong == []
    assert len(page.ids) == len(set(page.ids))
    assert page.links.count("#evaluation-scores") >= 13
    assert page.links.count("#runs-1") == 13  # of two runs: to the list of them
    assert "runs-1" in page.ids
    assert "val trained 40.0 1 +9.5 (one run) not made it is the first row" in words
    assert words.count("40.0 highest") == 1


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_a_wide_table_scrolls_by_itself_and_links_open_what_is_folded(
    reviewed: Workspace, tmp_path: Path, width: int
) -> None:
    path = tmp_path / "report.html"
    path.write_text(with_results(reviewed))
    look = """
      seen.overflow = document.documentElement.scrollWidth - innerWidth;
      location.hash = '#runs-1'; dispatchEvent(new HashChangeEvent('hashchange'));
      seen.opened = document.getElementById('runs-1').closest('details').open;
      document.querySelectorAll('details').forEach((part) => { part.open = true; });
      seen.opened_overflow = document.documentElement.scrollWidth - innerWidth;
    """
    seen, messages = browsed(path, look, width)
    assert messages == []
    assert seen["overflow"] <= 0
    assert seen["opened"] is True
    assert seen["opened_overflow"] <= 0


def metrics(counts: list[list[int]]) -> Metrics:
    """Of a confusion matrix of classes a, b, ..., whose last column is without prediction."""
    names = [chr(ord("a") + k) for k in range(len(counts))]
    classes: dict[str, Any] = {}
    for k, name in enumerate(names):
        truth, predicted = sum(counts[k]), sum(row[k] for row in counts)
        iou = counts[k][k] / (truth + predicted - counts[k][k])
        classes[name] = {"iou": iou, "precision": None, "recall": None, "truth": truth, "predicted": predicted}
    found = {"splits": ["val"], "mean_iou": 0.5, "pixel_accuracy": 0.5, "images": 1, "class_names": names}
    return Metrics.model_validate({**found, "classes": classes, "confusion_matrix": counts})


def test_the_weakest_classes_are_named_with_what_they_are_taken_for() -> None:
    assert weak_lines(metrics([[90, 5, 0, 5], [30, 60, 0, 10], [8, 2, 0, 0]])) == [
        "Never predicted: c.",
        "Weakest classes: b (IoU 56.1 %, 30 % of its pixels taken for a).",
    ]
    assert weak_lines(metrics([[10, 0, 0], [0, 10, 0]])) == ["Weakest classes: a (IoU 100.0 %)."]


def test_a_training_whose_losses_do_not_fall_is_told_from_one_whose_loss_falls() -> None:
    def training(**curves: list[float]) -> Training:
        points = {name: [(10 * k, value) for k, value in enumerate(values, 1)] for name, values in curves.items()}
        return Training("t", points, frozenset(curves) - {"lr"}, 100, True)

    falling, rising = [2.0 - k / 10 for k in range(12)], [1.0 + k / 10 for k in range(12)]
    assert training(loss=falling).fell is True
    assert training(loss=rising).fell is False
    assert training(supervised=falling, consistency=rising).fell is True  # a term of pseudo labels may rise
    assert training(lr=falling).fell is None
    assert training(loss=rising[:9]).fell is None  # too few to say


def test_what_is_not_fresh_is_listed_with_its_reasons_and_the_longest_with_its_share() -> None:
    made = [
        ArtifactFacts(State("a", "train", FRESH, seconds=90.0)),
        ArtifactFacts(State("b", "train", STALE, reasons=["lr was 0.1, is 0.2"], seconds=30.0)),
        ArtifactFacts(State("c", "predict", BLOCKED, reasons=["needs b"])),
    ]
    listed = not_fresh(made, [])
    assert listed is not None
    assert "#artifact-a" not in listed
    assert "lr was 0.1, is 0.2" in listed
    assert "needs b" in listed
    assert not_fresh(made[:1], []) is None
    times = longest(made)
    assert times is not None
    assert times.index("#artifact-a") < times.index("#artifact-b")
    assert "of 2 min 00 s" in times
    assert ">75<" in times
    assert longest(made[2:]) is None


def test_a_box_of_like_artifacts_is_named_by_what_they_share() -> None:
    reads: dict[str, list[str]] = {"data": []}
    for n in range(40):
        reads[f"labels-1-n{n}"] = ["data"]
        reads[f"labels-2-n{n}"] = [f"labels-1-n{n}"]
    labels = {place.label for place in layout(reads, {}, most=5).places.values()}
    assert labels == {"data", "labels-1-n*", "labels-2-n*"}
