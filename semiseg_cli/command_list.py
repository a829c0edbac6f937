"""The commands of semiseg as `semiseg --help` lists them: known without importing what they do.

A new command has its line here; a test compares the lines with what the commands say of themselves.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import typer
import typer.main

STAGES = "Stages"


@dataclass(frozen=True)
class Listed:
    """A command before it is loaded.

    Attributes:
        help: the first paragraph of the command's help; of a stage its summary.
        module: that of its function, named like the command (`_` for `-`), or of its Typer app where it is a group of
            commands; "" for a stage.
    """

    help: str
    panel: str = STAGES
    module: str = ""

    @property
    def together(self) -> bool:
        """Whether the processes of torchrun all run it; else the first alone does."""
        return self.panel == STAGES or self is COMMANDS["run"]


COMMANDS: dict[str, Listed] = {
    "prepare-data": Listed("Prepare a data set: lists, image-level labels, masks."),
    "train-classifier": Listed("Train a multi-label classifier on image-level labels."),
    "seeds": Listed("Locate objects: class-activation maps, saliency, and seeds or dense masks made of them."),
    "train-refiner": Listed("Train the network of a refiner on score maps."),
    "refine": Listed("Refine class-activation maps: better score maps, and masks made of them."),
    "instances": Listed("Masks of single objects from class-activation maps and IRNet's displacement field."),
    "features": Listed("Keep the features of a frozen encoder, so that heads are trained without running it."),
    "train": Listed("Train a segmenter with one of the methods."),
    "reliability": Listed("Rank unlabelled images by how little their masks changed while a network trained (ST++)."),
    "predict": Listed("Predict masks and class probabilities with a trained network."),
    "pseudo-labels": Listed("Keep the most confident pixels of predicted masks as labels, class by class."),
    "crf": Listed("Refine predictions or activation maps with the dense CRF."),
    "segments": Listed("Segments of the images, for the vote: superpixels, or those of SAM."),
    "vote": Listed("Improve estimated masks by segments: superpixels, SAM's, or a folder of segments made elsewhere."),
    "import-masks": Listed("Import a folder of masks made elsewhere, checked against the data set."),
    "retrain": Listed(
        "Label images with a trained segmenter, or take masks of them, and train a fresh one on the masks."
    ),
    "select": Listed("Make a segmenter of the best of a training's snapshots (train --set snapshots=10) on a split."),
    "review": Listed(
        "List the images worth labelling next, masks that look wrong, and the class that needs masks most."
    ),
    "evaluate": Listed("Score masks or score maps against ground truth: IoU of each class, mean IoU, pixel accuracy."),
    "evaluate-instances": Listed(
        "Score instance masks against true ones: average precision at overlaps of .5, .7 and .75."
    ),
    "run": Listed("Run a recipe: every node that is not fresh, in order.", "Pipelines", "recipe_commands"),
    "report": Listed(
        "Print the table of the recipe that was run in a workspace: ours, published, difference.",
        "Pipelines",
        "report_commands",
    ),
    "status": Listed(
        "Show what is fresh, stale (and why), missing, half done, running or damaged, and unfinished work.",
        "Workspace",
        "workspace_commands",
    ),
    "show": Listed(
        "Show an artifact: its manifest, settings and summary; for a data set, its classes and a contact sheet too.",
        "Workspace",
        "workspace_commands",
    ),
    "sheet": Listed(
        "Draw a contact sheet of what stages made: image, maps of each label, masks or segments, truth and IoU.",
        "Workspace",
        "sheet_command",
    ),
    "check-data": Listed(
        "Read every image, mask and label, and list all problems; exit with 3 if there is one.",
        "Workspace",
        "data_commands",
    ),
    "plan": Listed(
        "Propose network, crops, batch, iterations and method for a data set and this machine, with the reasons.",
        "Pipelines",
        "plan_command",
    ),
    "verify": Listed(
        "Compare every byte of artifacts with their manifests; exit with 3 when something is damaged.",
        "Workspace",
        "workspace_commands",
    ),
    "export": Listed(
        "Export results (files, a network as one file, pre-annotations, a test server's archive), or a recipe as a "
        "workflow.",
        "Workspace",
        "export_commands",
    ),
    "clean": Listed(
        "Remove unfinished work; with names or --all, artifacts too. Asks before it removes.",
        "Workspace",
        "workspace_commands",
    ),
    "config": Listed(
        "Print every setting of a stage with its meaning and default, as YAML for --config.",
        "Information",
        "information",
    ),
    "methods": Listed(
        "List the training methods and the refiners: what each needs, what a step costs, which recipe reproduces it.",
        "Information",
        "information",
    ),
    "doctor": Listed(
        "Check versions, GPU, CPU cores, memory, disk and compiled parts; "
        "exit with 3 when something needed is missing.",
        "Information",
        "doctor",
    ),
}


def load_command(name: str) -> Any:
    """The command of this name, with its options: what it needs is imported now."""
    listed = COMMANDS[name]
    if listed.panel == STAGES:
        from semiseg_cli.stage_commands import stage_function

        group: Any = stage_function(name)
    else:
        group = getattr(importlib.import_module(f"semiseg_cli.{listed.module}"), name.replace("-", "_"))
    if not isinstance(group, typer.Typer):
        function = group
        group = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        group.command(name=name, rich_help_panel=listed.panel)(function)
    command: Any = typer.main.get_command(group)
    command.rich_help_panel = listed.panel
    return command
