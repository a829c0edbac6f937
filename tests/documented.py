"""The commands that the documentation tells people to type, and how a test runs them: in order, on small data."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from semiseg_cli.main import main
from stages.contract import STAGE_MODULES

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
VARIABLE = re.compile(r'(\w+)="(.*)"')


def commands(page: Path) -> list[str]:
    """The lines of a page's shell blocks: continued ones joined, comments dropped, the page's variables put in."""
    found, variables = [], {}
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.sub(r"\s+#.*$", "", line).strip()
            if setting := VARIABLE.fullmatch(command):
                variables[setting[1]] = setting[2]
            elif command and not command.startswith("#"):
                for name, value in variables.items():
                    command = command.replace(f"${name}", value)
                found.append(command)
    return found


def semiseg_part(command: str) -> str:
    """The command of semiseg in a line, which may be started by torchrun or sbatch; "" if there is none."""
    words = shlex.split(command)
    if words[0] == "torchrun":
        words = ["semiseg", *words[words.index("semiseg_cli") + 1 :]]
    if words[0] == "sbatch":
        words = shlex.split(words[-1])
    return shlex.join(words) if words[0] == "semiseg" else ""


NOT_RUN = {  # what a command holds -> why it is not run; its options and settings are checked all the same
    r"^make ": "the targets are what runs the tests, or take longer than they may",
    r"^sbatch ": "needs Slurm",
    r"--download": "downloads 3.4 GB",
    r"^torchrun ": "tests/stages/parallel trains with two processes",
    r"--dataset (cityscapes|coco|pascal-context)": "needs the data set; tests/stages/data has tiny ones",
    r"--split test|test-masks": "needs the test images of VOC or Cityscapes; tests/stages/export has tiny ones",
    r"timm:vit_small": "downloads weights",
    r"source=clip": "needs weights of CLIP; tests/stages/test_seeds_clip.py",
    r"--source sam": "needs weights of SAM; tests/semiseg_cli/test_sam_recipe.py",
    r"--objects VOCdevkit": "needs the instance masks of VOC",
    r"--precision (fp16|int8)": "tests/stages/serving measures on a data set",
    r"^semiseg plan |run own ": "takes minutes: it measures trainings; tests/semiseg_cli/test_plan.py, test_own.py",
    r"^source |^labelme ": "the shell, and an annotation program",
    r"^snakemake |^pip install snakemake": "tests/semiseg_cli/test_snakemake.py, where it is there",
    r"runs/own": "needs what run own has made; tests/semiseg_cli/test_own.py",
    r"^semiseg report$": "needs a recipe that was run; tests/semiseg_cli/test_report.py",
}
NOT_RUN_PAGES = {"results.md": "what was run for the figures, for hours, on VOC"}
SHORTER = (  # what stands for the networks, lengths and sizes of the page
    (r"--iterations \d+", "--iterations 2"),
    (r"crop_size=\d+", "crop_size=80"),
    (r"--batch-size \d+", "--batch-size 4"),
    (r"--network \S+|--set network=\S+", "--network tiny"),
    (r"--weights \S+", ""),
    (r"dataset.train=\d+ --set dataset.long_side=\d+", "dataset.train=12 --set dataset.long_side=64"),
    (r"--labelled (183|1/8)", "--labelled 2"),
    (r"holdout=(20|0.2)", "holdout=1"),
)
TRAINING = ("iterations=2", "batch_size=4", "crop_size=80")  # the least that the refiner irn takes is 73
SHAPES = ("dataset.train=10", "dataset.weak=6", "dataset.val=4", "dataset.long_side=48")
SMALL = {  # stage -> settings that make it quick, where the page has none of its own
    "train": ("network=tiny", *TRAINING),
    "train-classifier": TRAINING,
    "train-refiner": TRAINING,
    "retrain": ("training.network=tiny", *(f"training.{setting}" for setting in TRAINING)),
}


def why_not_run(line: str) -> str:
    """The reason; "" for a command that a test runs."""
    return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, line)), "")


def shortened(line: str) -> list[str]:
    """The words of a command that does the same on small data in little time; a recipe is planned, not run."""
    for pattern, shorter in SHORTER:
        line = re.sub(pattern, shorter, line)
    name, *words = shlex.split(line)[1:]
    settings = SMALL.get(name, ())
    if (name == "prepare-data" and not {"--images", "--dataset"} & set(words)) or "--dataset shapes" in line:
        settings = SHAPES
    if name in ("prepare-data", "check-data") and "voc-aug" in words:
        words.append("--allow-subset")
    if name == "run" and not {"--parameters", "--dry-run"} & set(words):
        words.append("--dry-run")
    if name in STAGE_MODULES:
        words += ["--workers", "0"]  # of a dozen images, processes cost more than they do
    for setting in settings:
        option = f"--{setting.partition('=')[0].replace('_', '-')}"
        if option not in words and f"{setting.partition('=')[0]}=" not in line:
            words += ["--set", setting]
    return [name, *words]


def run(line: str) -> None:
    """Runs a command of the documentation here, in the working directory."""
    assert main(shortened(line)) == 0, line
