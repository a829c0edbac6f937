"""evaluation/mask_quality.py: the quality of the masks of a folder, and that it says how far it is."""

from __future__ import annotations

import re
import shutil

from artifacts.store import Writer
from stages.contract import Execution, PlainProgress
from stages.evaluation.mask_quality import quality_of_masks


def test_masks_of_each_split_with_ground_truth_are_scored_and_counted_while_they_are(bench, tmp_path, capsys):
    """Reading thousands of masks after the last one was made looked like a stage that hangs."""
    doing = Execution(workers=1, progress=PlainProgress(every_s=0))
    ids = bench.dataset.ids("train")
    shutil.copytree(bench.dataset.path / "masks", tmp_path / "masks")
    quality = quality_of_masks(bench.dataset, Writer(tmp_path), ["train"], doing)
    assert (quality["train"]["images"], quality["train"]["of"]) == (len(ids), len(ids))
    said = re.findall(r"scoring masks of train: (\d+)/(\d+) images", capsys.readouterr().err)
    assert said == [(str(number), str(len(ids))) for number in range(1, len(ids) + 1)]
