"""`semiseg run own`: from a folder of photos to a model. The recipe's nodes follow from a plan, and from a choice."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from artifacts.canonical import digest
from artifacts.dataset import Dataset
from artifacts.errors import ArtifactError, ConfigError, DataError, UsageError
from artifacts.json_items import read_json
from artifacts.store import Artifact
from artifacts.text import amount
from semiseg_cli.console import bullets, duration, is_main_rank, json_text, plain_table, say, talk, written
from semiseg_cli.data_commands import check_raw_data, tell_findings
from semiseg_cli.own_model import write_model
from semiseg_cli.plan_command import bytes_in, seconds_in
from semiseg_cli.recipe_run import Run
from stages.contract import Execution, PlainProgress, Progress
from stages.parallel.meeting import barrier
from stages.pipeline.recipe import Recipe, resolve
from stages.pipeline.recipe_file import recipe_values
from stages.planning.own_recipe import (
    DATA,
    FINAL,
    RESAMPLES,
    SURE,
    OwnPlan,
    choose,
    favoured_of,
    iterations_again,
    own_plan,
    predictions_of,
    scores_of,
    with_choice,
    with_plan,
)
from stages.planning.records import Plan, Wishes
from stages.planning.rules import MANY_OTHERS
from stages.serving.model_folder import MODEL, SUMMARY

PLAN_FILE = "own-plan.json"
ENOUGH_FOR = {"val": 5, "holdout": 10}  # images with masks from which a fifth is set aside


class Own:
    """One run, whose recipe grows: the data, the nodes of the plan, those of the choice."""

    def __init__(self, path: Path, settings: Sequence[str], running: Run) -> None:
        running.execution = dataclasses.replace(running.execution, progress=_Once(running.execution.progress))
        self.path, self.settings, self.running = path, settings, running
        self.workspace, self.execution = running.workspace, running.execution
        self.began = time.monotonic()

    def run(self) -> None:
        raw = recipe_values(self.path)
        self.settings = [*self.settings, *_set_aside(self._resolved(_bare(raw)), self.execution)]
        recipe = self._resolved(raw)
        target = self._target(recipe.parameters)
        self._wishes(recipe.parameters)  # mistakes come before any work
        _memory(recipe.parameters)
        with _first_alone(self.execution) as first:
            if first:
                self._check(recipe)
        self._make(recipe)
        data = self.workspace.artifact(DATA)
        dataset = Dataset(data)
        has_masks, has_val, has_holdout = (bool(dataset.ids(split)) for split in ("train", "val", "holdout"))
        with _first_alone(self.execution) as first:
            plan = self._plan(data, recipe.parameters) if first else None
        plan = plan or self._plan(data, recipe.parameters)  # the remaining ranks read it
        self._show(plan)
        raw = with_plan(raw, plan, has_holdout)
        self._make(self._resolved(raw))
        chosen = self._choose(plan, dataset, has_holdout)
        again = self._iterations_again(plan, chosen) if has_holdout else 0
        self._make(self._resolved(with_choice(raw, plan, chosen, has_masks, again, has_val)))
        try:
            segmenter = FINAL if again else chosen
            if is_main_rank():
                classes = dataset.class_names
                summary = write_model(self.workspace, target, classes, chosen, segmenter, has_val)
        finally:
            self.running.finish()  # its page names the folder
        if is_main_rank():
            say(self._last_line(summary, target))

    def _resolved(self, raw: dict[str, Any]) -> Recipe:
        return resolve(raw, str(self.path), None, self.settings)

    def _make(self, recipe: Recipe) -> None:
        self.running.make(recipe)
        self.running.stop_if_failed()

    def _target(self, given: dict[str, Any]) -> Path:
        """The folder of the results; UsageError where it holds something else."""
        target = Path(given["target"] or self.workspace.path / MODEL).expanduser()
        if target.exists() and not target.is_dir():
            raise UsageError(f"target names {target}, which is not a folder", "name a new folder")
        try:
            if target.is_dir() and any(target.iterdir()) and not (target / SUMMARY).is_file():
                raise UsageError(f"the folder {target} holds other files", "--set target=DIR names a new one")
            if given["target"]:  # the folder of the workspace is tried by what is made there
                target.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=target):
                    pass
        except OSError as error:
            raise UsageError(
                f"target names {target}, where nothing can be written: {error.strerror}", "name a folder of yours"
            ) from None
        return target

    def _check(self, recipe: Recipe) -> None:
        """All problems of the files at once, before anything is made; later changes are checked by prepare-data."""
        if DATA not in self.workspace.names():
            say("checking the files")
            config: Any = recipe.nodes[DATA].config
            tell_findings(check_raw_data(config, self.execution), as_json=False)

    # --------------------------------------------------------------------------------------------- the plan

    def _plan(self, data: Artifact, given: dict[str, Any]) -> OwnPlan:
        """The plan that was made for this data and these wishes; a new one where there is none."""
        asked = {
            key: given[key] for key in ("budget", "memory", "weights", "network", "method", "iterations", "precision")
        }
        key = digest({"data": data.manifest.content, "wishes": asked, "device": self.execution.device})
        path = self.workspace.path / PLAN_FILE
        if path.is_file():
            try:
                recorded = read_json(path, OwnPlan, "a new plan is made")
            except ArtifactError as error:
                say(f"{error.message}: a new plan is made")
            else:
                if recorded.key == key:
                    say(f"the plan is that of {path}")
                    return recorded
        wishes = self._wishes(given)
        plan = own_plan(self._planned(data, given, wishes), key, wishes, self._spent(data))
        with written(path):
            path.write_text(json_text(plan.model_dump()) + "\n", encoding="utf-8")
        return plan

    def _wishes(self, given: dict[str, Any]) -> Wishes:
        iterations = str(given["iterations"])
        if iterations and not iterations.isdigit():
            raise ConfigError(f"iterations is {iterations}, expected a number of steps", "--set iterations=300")
        return Wishes(
            network=str(given["network"]),
            weights=str(given["weights"]),
            method=str(given["method"]),
            iterations=int(iterations) if iterations else None,
            budget_s=seconds_in(str(given["budget"]), "budget") if given["budget"] else None,
            precision=str(given["precision"]),
            model=True,
            jobs=self.running.jobs,
        )

    def _planned(self, data: Artifact, given: dict[str, Any], wishes: Wishes) -> Plan:
        from stages.planning.fingerprint import fingerprint
        from stages.planning.machine import this_machine
        from stages.planning.probe import probed_plan

        self.running.compute_as_a_node()
        machine = this_machine(self.execution.device, _memory(given), self.execution.workers)
        say("planning: a few steps of each training are measured")
        return probed_plan(data, fingerprint(data), machine, wishes, DATA, say, partial(self._spent, data))

    def _spent(self, data: Artifact) -> float:
        """Seconds since the command began, and those that an earlier run took to prepare the data."""
        return time.monotonic() - self.began + (data.manifest.seconds if self.running.kept(DATA) else 0)

    def _show(self, plan: OwnPlan) -> None:
        table = plain_table("setting", "value", "because")
        for choice in plan.choices:
            table.add_row(*choice[:3])
        talk().print(table)
        if plan.remarks:
            talk().print(bullets(plan.remarks))
        later, first = plan.all_s(self.running.jobs), plan.up_to_choice_s(self.running.jobs)
        of_budget = "" if plan.budget_s is None else f"; {duration(plan.spent_s)} of {duration(plan.budget_s)} are over"
        say(f"predicted: {duration(later)}, {duration(first)} of it up to the choice{of_budget}")

    # --------------------------------------------------------------------------------------------- the choice

    def _choose(self, plan: OwnPlan, dataset: Dataset, has_holdout: bool) -> str:
        """What is favoured, unless another is surely better on the holdout: few images would choose by chance."""
        favoured, why = self._favoured(plan, dataset)
        if not has_holdout:
            say(f"chosen: {favoured}, {why}: no masks are set aside to choose on (holdout)")
            return favoured
        scores = {
            name: self.workspace.artifact(scores_of(name)).recorded("summary", "mean_iou", float)
            for name in plan.segmenters
        }
        listed = ", ".join(f"{name} {100 * score:.1f}" for name, score in scores.items())
        listed = f"mean IoU on the holdout, percent: {listed}"
        chosen, best, sure = choose(scores, favoured, lambda name: self._sure_of(name, favoured, dataset))
        if chosen == best:
            say(f"chosen: {best} ({listed})")
            return best
        say(
            f"chosen: {favoured}, {why} ({listed}; that {best} is better is not sure: it is in {sure:.0%} of holdouts "
            f"drawn from these images, asked for are {SURE:.0%})"
        )
        return favoured

    def _favoured(self, plan: OwnPlan, dataset: Dataset) -> tuple[str, str]:
        """The network to take where the holdout does not tell, and why: with few other images the baseline."""
        name = favoured_of(plan.segmenters, sum(len(dataset.ids(split)) for split in ("weak", "unlabelled")))
        if name != plan.segmenters[-1]:
            return name, f"as the rule is with fewer than {MANY_OTHERS} images without masks"
        return name, "by the plan"

    def _sure_of(self, best: str, favoured: str, dataset: Dataset) -> float:
        """In what share of holdouts that are drawn from the images of this one `best` is above `favoured`."""
        from stages.evaluation.image_scores import score_with_images
        from stages.evaluation.intervals import share_of_draws_higher
        from stages.evaluation.stored_masks import find_pairs

        first, second = (
            score_with_images(
                find_pairs(dataset, self.workspace.artifact(predictions_of(name)), ["holdout"]),
                dataset.num_classes,
                self.execution.workers,
                counted=True,
            )[2]
            for name in (best, favoured)
        )
        return share_of_draws_higher(first, second, RESAMPLES)

    def _iterations_again(self, plan: OwnPlan, chosen: str) -> int:
        """The iterations that the time left allows, and a sentence where they are fewer than planned.

        Time is what the nodes took, in earlier runs too, so that a run that is repeated comes to the same answer.
        """
        networks = [name for one in plan.segmenters for name in (predictions_of(one), scores_of(one))]
        nodes = [*(step.name for step in plan.steps), *networks]
        took = {name: self.workspace.artifact(name).manifest.seconds for name in nodes}
        again = iterations_again(plan, chosen, took, self.running.jobs)
        planned = next(step for step in plan.steps if step.name == chosen).config["iterations"]
        if again < planned and plan.budget_s is not None:
            passed = plan.spent_s + plan.passed_s(took, self.running.jobs)
            over = f"{duration(passed)} of {duration(plan.budget_s)} are over"
            left = f"{again:,} of {planned:,} steps" if again else "no time"
            what = f"{left} to train the choice again, with the masks of the holdout"
            say(f"{over}, which leaves {what}{'' if again else ': it is taken as it is'}")
        return again

    def _last_line(self, summary: Mapping[str, Any], target: Path) -> str:
        """Which model it is, how good it is, how long it took."""
        line = f"the model in {target} is {summary['method']}"
        if scores := summary.get("val"):
            low, high = scores.get("mean_iou_interval", (None, None))
            between = "" if low is None else f" (95 %: {100 * low:.1f} to {100 * high:.1f})"
            images = amount(scores["images"], "image")
            line += f", mean IoU {100 * scores['mean_iou']:.1f} %{between} on the {images} of val"
        return f"{line}; this run took {duration(time.monotonic() - self.began)}"


def _memory(given: dict[str, Any]) -> int | None:
    return bytes_in(str(given["memory"]), "memory") if given["memory"] else None


@contextlib.contextmanager
def _first_alone(doing: Execution) -> Iterator[bool]:
    """True in the first process of torchrun, for which the others wait at the end of the block."""
    yield doing.rank == 0
    barrier()


class _Once:
    """Says each sentence once: the same files are checked, prepared, and prepared again with the holdout's masks."""

    def __init__(self, progress: Progress) -> None:
        self.track = progress.track
        self._progress, self._said = progress, set[str]()

    def note(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._progress.note(text)


class _Silent(PlainProgress):
    """Says nothing: the same is said again when the data set is made."""

    def note(self, text: str) -> None:
        pass


def _bare(raw: dict[str, Any]) -> dict[str, Any]:
    """The recipe with nothing set aside and no scenes: for the number of masks."""
    nodes = copy.deepcopy(raw["nodes"])
    nodes[DATA]["config"] |= {"holdout": ""}
    nodes[DATA]["config"]["dataset"] |= {"val": "", "scenes": ""}
    return {**raw, "nodes": nodes}


def _set_aside(recipe: Recipe, doing: Execution) -> list[str]:
    """--set of val and holdout where the recipe or the user leaves them to the number of masks, or wants none."""
    from stages.prepare_data import find_raw

    config: Any = recipe.nodes[DATA].config
    asked = {split: str(recipe.parameters[split]) for split in ENOUGH_FOR}
    try:
        masks = len(find_raw(config.dataset, dataclasses.replace(doing, progress=_Silent())).masks)
    except DataError:  # said by the check of the files
        masks = 0
    auto = {split: "0.2" if masks >= least else '""' for split, least in ENOUGH_FOR.items()}
    chosen = {split: {"auto": auto[split], "none": '""'}.get(text, text) for split, text in asked.items()}
    return [f"{split}={amount}" for split, amount in chosen.items()]
