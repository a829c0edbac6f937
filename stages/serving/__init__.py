"""Trained segmenters inside other programs: load one, predict images.

    from stages.serving import Segmenter

    segmenter = Segmenter.load("runs/default/dual-branch")
    prediction = segmenter("image.jpg")
    prediction.save("mask.png")

Importing this loads no torch; loading a segmenter does.
"""

from stages.serving.prediction import Prediction
from stages.serving.trained_segmenter import Segmenter

__all__ = ["Prediction", "Segmenter"]
