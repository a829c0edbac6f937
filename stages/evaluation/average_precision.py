"""Average precision of a multi-label classifier."""

from __future__ import annotations

import numpy as np


def average_precision(scores: np.ndarray, present: np.ndarray) -> float | None:
    """Area under the precision-recall curve as a sum over the ranks of the positives (scikit-learn's definition).

    AP = sum_n (R_n - R_{n-1}) P_n; equal scores share a threshold. None when no image has the class.

    Args:
        scores: (N,), larger means more certain.
        present: bool (N,).
    """
    if not present.any():
        return None
    order = np.argsort(-scores, kind="stable")
    scores, present = scores[order], present[order]
    last_of_score = np.append(scores[1:] != scores[:-1], True)
    right = np.cumsum(present)[last_of_score]
    taken = np.flatnonzero(last_of_score) + 1
    recall = right / right[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * right / taken))
