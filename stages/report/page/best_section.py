"""The network with the highest score: how good it is, where it fails, which folder it is, and how it is used."""

from __future__ import annotations

import json

from artifacts.text import amount
from stages.report.page.evaluation_section import evaluation_id
from stages.report.page.facts import PageFacts
from stages.report.page.graph_section import artifact_id
from stages.report.page.lineage import network_of
from stages.report.page.markup import Markup, command_block, join, tag
from stages.report.page.scored import Metrics
from stages.serving.model_folder import MODEL

WEAKEST = 3  # classes that are named


def best_section(facts: PageFacts) -> Markup | None:
    """None where nothing was scored."""
    if facts.best is None or facts.best.metrics.mean_iou is None:
        return None
    metrics, name, mean_iou = facts.best.metrics, facts.best.artifact, facts.best.metrics.mean_iou
    score = [
        tag("b", f"{100 * mean_iou:.1f} % mean IoU"),
        f" on {', '.join(metrics.splits)}, {amount(metrics.images, 'image')}{_interval(metrics)} (",
        tag("a", name, href=f"#{evaluation_id(name)}"),
        ").",
    ]
    lines = [tag("li", line) for line in (score, *_not_compared(facts), *weak_lines(metrics))]
    return join([tag("ul", lines, class_="notes plain"), _use(facts, name)])


def _not_compared(facts: PageFacts) -> list[str]:
    """How many evaluations are of different images, so that a higher figure among them says nothing."""
    best = facts.best
    others = [e for e in facts.evaluations if best and e.of_scored_split and e.same_images != best.same_images]
    if not others:
        return []
    return [f"Not compared with {amount(len(others), 'evaluation')} of different images or classes."]


def _interval(metrics: Metrics) -> str:
    if metrics.mean_iou_interval is None:
        return ""
    low, high = metrics.mean_iou_interval
    return f"; 95 % interval {100 * low:.1f} to {100 * high:.1f}, by the bootstrap over images"


def weak_lines(metrics: Metrics) -> list[str]:
    """The classes that are never predicted, and the weakest of the others with what they are taken for."""
    names, counts = metrics.class_names, metrics.confusion_matrix
    never = [name for name in names if metrics.classes[name].truth and not metrics.classes[name].predicted]
    lines = [f"Never predicted: {', '.join(never)}."] if never else []
    known = {name: value for name in names if name not in never and (value := metrics.classes[name].iou) is not None}
    if len(known) < 2:
        return lines
    weakest = []
    for name in sorted(known, key=lambda name: known[name])[: min(WEAKEST, len(known) - 1)]:
        row = counts[names.index(name)]
        wrong = {other: count for other, count in zip([*names, "nothing"], row, strict=True) if other != name}
        other = max(wrong, key=lambda name: wrong[name])
        about = f", {100 * wrong[other] / sum(row):.0f} % of its pixels taken for {other}" if wrong[other] else ""
        weakest.append(f"{name} (IoU {100 * known[name]:.1f} %{about})")
    return [*lines, f"Weakest classes: {'; '.join(weakest)}."]


def _use(facts: PageFacts, evaluation: str) -> Markup | None:
    made = {artifact.name: artifact.manifest for artifact in facts.artifacts if artifact.manifest}
    network = network_of(evaluation, made)
    if network is None:
        return None
    delivered = facts.delivered == made[network].content
    folder = f"{facts.workspace}/{MODEL if delivered else network}"
    where = [
        "The network is the folder ",
        tag("code", folder),
        " (the workspace is named as it is seen from the folder around it",
        "; its README.md says how it is used, also without semiseg" if delivered else "",
        "); ",
        tag("a", "its settings and how it was made", href=f"#{artifact_id(network)}"),
        ". In Python:",
    ]
    parts = [tag("p", where)]
    if made[network].kind == "segmenter":
        code = (
            "from stages.serving import Segmenter\n\n"
            f'prediction = Segmenter.load({json.dumps(folder, ensure_ascii=False)})("photo.jpg")\n'
            'prediction.save("mask.png")'
        )
        parts.append(command_block(code, "uses the network"))
        if not delivered:
            export = f"semiseg export onnx {network} {network}.onnx --workspace {facts.workspace}"
            parts += [tag("p", "As one file for other programs:"), command_block(export, "exports it")]
    return join(parts)
