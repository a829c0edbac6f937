"""ST++ (Yang et al., CVPR 2022): self-training in two rounds, the reliable images first.

The stage `reliability` ranks the unlabelled images by how stable their masks were while the teacher trained. A first
student learns from the reliable half and labels the other half; the last student learns from all.

    semiseg train --method supervised --set snapshots=3 --name teacher
    semiseg reliability --segmenter teacher --name ranks
    semiseg predict --segmenter teacher --selection ranks --set part=reliable --output masks --name half
    semiseg train --method st-plus-plus --weak-labels half --name student
    semiseg predict --segmenter student --keep half --output masks --set splits=[weak,unlabelled] --name all
    semiseg train --method st-plus-plus --weak-labels all --name segmenter
"""

from __future__ import annotations

from collections.abc import Sequence

from artifacts.errors import DataError
from stages.engine.method import Sources
from stages.methods.self_training import SelfTraining


class StPlusPlus(SelfTraining):
    """L = CE([f(x), f(S(u))], [y, y_T]),  as self-training, over those images u that have a mask so far

    First the half whose masks were stable while the teacher trained, then all.
    """

    @classmethod
    def pseudo_labelled(cls, sources: Sources) -> Sequence[str]:
        ids = sources.with_map("weak_labels", sources.without_masks)
        if not ids:
            raise DataError(
                "st-plus-plus: the estimated masks are of none of the images without masks",
                "predict the splits weak and unlabelled of this data set (--set part=reliable)",
            )
        return ids
