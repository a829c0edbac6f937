"""The page of a workspace made by hand: what it gathers, against the files; its HTML, by a parser and in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import jaccard_score

from artifacts.dataset import Dataset
from artifacts.masks import read_mask, write_mask
from artifacts.score_maps import ScoreMapWriter
from artifacts.store import Work, Workspace, Writer
from semiseg_cli.main import main
from stages.config import build
from stages.contract import Execution, load_stage
from stages.evaluation.image_scores import IMAGE_IOU
from stages.pipeline.run_stage import run_stage
from stages.pipeline.seen import Seen
from stages.report.page.document import page_html
from stages.report.page.facts import PageFacts, gather

EVIL = "<script>alert(1)</script>"


def stage(workspace: Workspace, name: str, artifact: str, values: dict[str, Any], **inputs: str) -> None:
    run_stage(
        load_stage(name),
        build(load_stage(name).config, values, "test"),
        workspace,
        artifact,
        inputs,
        Execution("cpu", 1),
    )


def publish(
    workspace: Workspace, name: str, made_by: str, kind: str, write: Callable[[Writer], None], **inputs: str
) -> None:
    """An artifact of that stage with what `write` writes; its config is empty, and its summary looks like markup."""
    sources = {key: workspace.artifact(source).manifest for key, source in inputs.items()}
    records = {key: {"artifact": inputs[key], "content": made.content} for key, made in sources.items()}
    work = Work(made_by, 1, kind, name.ljust(64, "0"), {}, records, {})  # type: ignore[arg-type]
    with workspace.writing(name, work) as writer:
        write(writer)
        workspace.publish(name, writer, work, {"note": EVIL})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Data, seeds of the weak images, a training, predictions of val, and their evaluation."""
    workspace = Workspace(tmp_path_factory.mktemp("page") / "work")
    stage(
        workspace,
        "prepare-data",
        "data",
        {"dataset": {"name": "shapes", "train": 3, "weak": 13, "val": 15, "long_side": 64}},
    )
    dataset = Dataset(workspace.artifact("data"))

    def write_seeds(writer: Writer) -> None:
        with ScoreMapWriter(writer, class_names=dataset.class_names) as maps:
            for shard in maps.plan(dataset.ids("weak")):
                for image_id in shard:
                    height, width = dataset.size(image_id)
                    tags = dataset.tags(image_id)
                    scores = np.ones((len(tags), -(-height // 4), -(-width // 4)))
                    maps.add(image_id, scores, tags, size=(height, width), stride=4)
        for image_id in dataset.ids("weak"):
            with writer.item(f"masks/{image_id}.png") as path:
                write_mask(path, np.full(dataset.size(image_id), 255, np.uint8))

    def write_training(writer: Writer) -> None:
        writer.write_bytes("weights.pt", b"x")
        lines = [json.dumps({"step": k, "time": 1.0, "cross_entropy": 1 / k, "lr": 0.1 / k}) for k in range(1, 1001)]
        writer.write_bytes("local/metrics.jsonl", "\n".join(lines).encode())
        with writer.item("local/batches/batch-1.jpg") as path:
            Image.fromarray(np.zeros((90, 1200, 3), np.uint8)).save(path, format="JPEG")

    def write_predictions(writer: Writer) -> None:
        """The truth, of which more is lost from image to image."""
        for number, image_id in enumerate(dataset.ids("val")):
            mask = dataset.mask(image_id).copy()
            mask[: mask.shape[0] * number // 15] = 0
            with writer.item(f"masks/{image_id}.png") as path:
                write_mask(path, mask)

    publish(workspace, "seeds", "seeds", "seeds", write_seeds, data="data")
    publish(workspace, "train-s0", "train", "segmenter", write_training, data="data", seeds="seeds")
    publish(workspace, "predict", "predict", "predictions", write_predictions, data="data", segmenter="train-s0")
    stage(workspace, "evaluate", "evaluate", {}, data="data", predictions="predict")
    return workspace


@pytest.fixture
def space(made: Workspace, tmp_path: Path) -> Workspace:
    shutil.copytree(made.path, tmp_path / "work")
    return Workspace(tmp_path / "work")


def facts_of(workspace: Workspace) -> PageFacts:
    return gather(Seen.read(workspace), None, None, Execution("cpu", 1))


def image_iou_of(workspace: Workspace) -> dict[str, float]:
    """Scikit-learn's mean IoU of each image, over the classes in its truth or prediction."""
    dataset, folder = Dataset(workspace.artifact("data")), workspace.path / "predict" / "masks"
    found = {}
    for image_id in dataset.ids("val"):
        truth, prediction = dataset.mask(image_id).ravel(), read_mask(folder / f"{image_id}.png").ravel()
        known = truth != 255
        there = np.union1d(truth[known], prediction[known])
        found[image_id] = jaccard_score(truth[known], prediction[known], labels=there, average="macro")
    return found


def test_the_mean_iou_of_single_images_is_that_of_scikit_learn(space: Workspace) -> None:
    expected = image_iou_of(space)
    assert facts_of(space).evaluations[0].images == pytest.approx(expected)
    content = space.artifact("evaluate").manifest.content
    (space.path / "evaluate" / IMAGE_IOU).unlink()  # as of an evaluation that did not keep it
    assert facts_of(space).evaluations[0].images == pytest.approx(expected)
    assert space.artifact("evaluate").verify() == []
    assert space.artifact("evaluate").manifest.content == content
    assert not (space.path / "evaluate" / IMAGE_IOU).exists()  # a report changes no artifact


def test_what_is_shown_of_an_image_is_what_the_workspace_has_of_it(made: Workspace) -> None:
    facts, iou = facts_of(made), image_iou_of(made)
    groups = {group.key: group for group in facts.images.groups}
    assert {key: len(group.rows) for key, group in groups.items()} == {"fixed": 12, "worst": 12, "training": 12}
    worst = [row.image_id for row in groups["worst"].rows]
    assert worst == sorted(iou, key=lambda image_id: (iou[image_id], image_id))[:12]
    assert [row.iou for row in groups["worst"].rows] == pytest.approx([iou[image_id] for image_id in worst])
    assert [tile.column for tile in groups["worst"].rows[0].tiles] == ["photograph", "prediction", "truth", "errors"]
    columns = [tile.column for tile in groups["training"].rows[0].tiles]
    assert columns[:3] == ["photograph", "class-activation maps", "seeds"]
    assert set(Dataset(made.artifact("data")).ids("weak")) >= {row.image_id for row in groups["training"].rows}


def test_curves_and_settings_are_gathered(made: Workspace) -> None:
    facts = facts_of(made)
    (training,) = facts.trainings
    assert (training.artifact, training.steps, training.finished) == ("train-s0", 1000, True)
    assert {name: len(points) for name, points in training.curves.items()} == {"cross_entropy": 300, "lr": 300}
    assert [(sheets.artifact, len(sheets.sheets)) for sheets in facts.batches] == [("train-s0", 1)]
    by_name = {artifact.name: artifact for artifact in facts.artifacts}
    assert ("dataset.long_side", 64) in by_name["data"].settings
    assert by_name["predict"].inputs == {"data": "data", "segmenter": "train-s0"}
    assert facts.problems == []


VOID = {"meta", "img", "br", "link", "input", "hr", "col"}
SHAPES = {"rect", "line", "path", "polyline"}


class Page(HTMLParser):
    """What is checked of the HTML: nesting, ids, links, headings, images, buttons, and what would be loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.headings: list[int] = []
        self.images: list[dict[str, str | None]] = []
        self.loaded: list[str] = []
        self.unnamed: list[str] = []
        self.words: list[str] = []
        self.wrong: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if len(values) != len(attributes):
            self.wrong.append(f"{name} has an attribute twice")
        if name not in VOID:
            self.open.append(name)
        if values.get("id"):
            self.ids.append(str(values["id"]))
        if "href" in values:
            self.links.append(str(values["href"]))
        if re.fullmatch("h[1-6]", name):
            self.headings.append(int(name[1]))
        if name == "img":
            self.images.append(values)
        if name in ("link", "iframe", "object", "embed", "audio", "video", "base", "form"):
            self.wrong.append(f"{name} in the page")
        self.loaded += [str(values[key]) for key in ("src", "srcset", "poster", "action", "data") if key in values]
        if name == "p" and "p" in self.open[:-1]:
            self.wrong.append("p in p")

    def handle_endtag(self, name: str) -> None:
        if not self.open or self.open.pop() != name:
            self.wrong.append(f"unexpected end of {name}")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)


def test_the_page_is_valid_and_loads_nothing(made: Workspace) -> None:
    text = page_html(facts_of(made))
    page = Page(text)
    assert page.wrong == []
    assert page.open == []
    assert len(page.ids) == len(set(page.ids)) > 10
    assert all(re.fullmatch(r"\S+", identifier) for identifier in page.ids)
    assert {unquote(link.removeprefix("#")) for link in page.links} <= set(page.ids)
    assert all(link.startswith("#") for link in page.links)
    assert page.images
    assert all(image["alt"] and image["loading"] == "lazy" and image["width"] for image in page.images)
    assert all(source.startswith("data:image/") for source in page.loaded)
    assert "url(" not in text
    assert "@import" not in text
    assert set(re.findall(r"https?://[^\s\"']*", text)) == {"http://www.w3.org/2000/svg"}  # a name, not a place
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
    assert EVIL not in text
    assert "&lt;script&gt;" in text
    assert len(text) < 600_000


def damage(space: Workspace, name: str, relative: str) -> None:
    (space.path / name / relative).write_bytes(b"{")


DAMAGES: dict[str, tuple[Callable[[Workspace], None], str]] = {
    "a manifest": (lambda s: damage(s, "predict", "manifest.json"), "predict is damaged"),
    "metrics": (lambda s: damage(s, "evaluate", "metrics.json"), "evaluate is damaged: metrics.json has 1 bytes"),
    "the data set": (lambda s: damage(s, "data", "dataset.json"), "data is damaged: dataset.json has 1 bytes"),
    "a photograph": (
        lambda s: [p.write_bytes(b"x" * p.stat().st_size) for p in s.path.glob("data/images/*")][:0],
        "cannot be read",
    ),
    "score maps": (
        lambda s: [p.write_bytes(b"x" * p.stat().st_size) for p in s.path.glob("seeds/scores/*.h5")][:0],
        "cannot be opened",
    ),
    "a log": (lambda s: damage(s, "train-s0", "local/metrics.jsonl"), "Artifacts and their settings"),
    "the record": (lambda s: (s.path / ".recipe.json").write_text("{") and None, "without its recipe"),
    "no predictions": (lambda s: shutil.rmtree(s.path / "predict"), "evaluate"),
    "no data": (lambda s: shutil.rmtree(s.path / "data"), "the workspace has no data set"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_workspace_has_a_page_that_says_so(space: Workspace, what: str) -> None:
    spoil, said = DAMAGES[what]
    spoil(space)
    assert main(["report", "--html", "-w", str(space.path), "--workers", "1"]) == 0
    page = Page((space.path / "report.html").read_text())
    assert page.wrong == []
    assert said in " ".join(page.words)


def test_html_names_the_file_and_refuses_what_it_cannot_do(
    space: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "--html", str(tmp_path / "page.html"), "-w", str(space.path)]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == f"wrote {tmp_path / 'page.html'}"
    assert not (space.path / "report.html").exists()
    (tmp_path / "nothing").mkdir()
    for arguments, code, said in (
        (["--html", "-w", str(tmp_path / "nothing")], 3, "is empty: there is nothing to show"),
        (["page.html", "-w", str(space.path)], 2, "is only written with --html"),
        (["--html", str(tmp_path / "no" / "page.html"), "-w", str(space.path)], 3, "cannot be written"),
    ):
        assert main(["report", *arguments]) == code
        assert said in capsys.readouterr().err
    assert list(tmp_path.glob("**/.*tmp*")) == []


# --- in a browser ---

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=3000")


def browsed(page: Path, script: str, width: int = 1280) -> tuple[dict[str, Any], list[str]]:
    """What `script` finds in the page (it fills the object `seen`), and the messages of the console.

    The page lies in a frame of that width: a window of Chromium has at least 500 pixels.
    """
    inner = page.with_name("inner.html")
    tell = f"addEventListener('load', () => {{ const seen = {{}}; {script}; parent.postMessage(seen, '*'); }})"
    inner.write_text(page.read_text().replace("</body>", f"<script>{tell}</script></body>"))
    outer = page.with_name("outer.html")
    outer.write_text(
        "<body><script>onmessage = (event) => { document.body.dataset.seen = JSON.stringify(event.data); }</script>"
        f"<iframe src='inner.html' style='width:{width}px;height:900px;border:0'></iframe></body>"
    )
    done = subprocess.run(
        [str(BROWSER), *FLAGS, f"--user-data-dir={page.with_name('profile')}", "--dump-dom", outer.as_uri()],
        capture_output=True,
        text=True,
        timeout=240,
    )
    found = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    messages = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(found[1].replace("&quot;", '"').replace("&amp;", "&")), messages


LOOK = """
  seen.overflow = document.documentElement.scrollWidth - innerWidth;
  seen.heat = [...document.querySelectorAll('.heat tbody td')].map((cell) => cell.dataset.words);
  seen.rows = document.querySelectorAll('.every-image tbody tr').length;
  const theme = document.getElementById('theme');
  seen.themes = [];
  for (let k = 0; k < 3; k += 1) { theme.click(); seen.themes.push(getComputedStyle(document.body).backgroundColor); }
  const every = document.querySelector('.every-image'); every.open = true;
  const first = document.querySelector('.enlarge'); first.click();
  const viewer = document.getElementById('viewer');
  seen.viewer = viewer.open;
  seen.before = viewer.querySelector('img').alt;
  viewer.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowRight' }));
  seen.after = viewer.querySelector('img').alt;
  viewer.close();
  const cell = document.querySelector('.heat td[tabindex="0"]'); cell.focus();
  cell.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowDown', bubbles: true }));
  seen.reading = document.querySelector('.reading').textContent;
  const entry = document.querySelector('svg.curves');
  const box = entry.getBoundingClientRect();
  entry.dispatchEvent(new PointerEvent('pointermove', { clientX: box.right, clientY: box.top + 30 }));
  seen.readout = entry.parentElement.querySelector('.readout').textContent;
  seen.unnamed = [...document.querySelectorAll('button, a')].filter((one) => !one.textContent.trim()
    && !one.ariaLabel && !one.querySelector('img[alt]')).length;
"""


@pytest.fixture(scope="module")
def page(made: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("browser") / "report.html"
    path.write_text(page_html(facts_of(made)))
    return path


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_the_page_without_errors(made: Workspace, page: Path, width: int) -> None:
    seen, messages = browsed(page, LOOK, width)
    assert messages == []
    assert seen["overflow"] <= 0
    metrics = made.artifact("evaluate").json("metrics.json")
    names, counts = metrics["class_names"], metrics["confusion_matrix"]
    assert len(seen["heat"]) == len(names) ** 2
    assert f"{names[1]} taken for {names[0]}: {counts[1][0]:,} pixels" in seen["heat"][len(names)]
    assert seen["reading"] == seen["heat"][len(names)]
    assert len(set(seen["themes"])) == 2
    assert seen["viewer"] is True
    assert seen["before"].endswith(": photograph")
    assert seen["after"].endswith(": prediction of predict")
    assert seen["readout"].startswith("train-s0: 0.00")
    assert seen["unnamed"] == 0


@needs_browser
def test_an_error_in_the_page_would_be_seen(page: Path) -> None:
    broken = page.with_name("broken.html")
    broken.write_text(page.read_text())
    _, messages = browsed(broken, "setTimeout(() => { throw new Error('seen') })")
    assert any("seen" in message for message in messages)
    _, messages = browsed(
        broken, "document.body.append(Object.assign(new Image(), { src: 'https://example.org/x.png' }))"
    )
    assert any("Content Security Policy" in message for message in messages)
