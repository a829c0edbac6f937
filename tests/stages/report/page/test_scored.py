"""Which evaluation of a workspace is the best: only those of the same images and classes are compared."""

from __future__ import annotations

from stages.report.page.scored import Evaluation, Metrics, best_of


def evaluation(name: str, mean_iou: float, split: str = "val", images: int = 100, classes: int = 3) -> Evaluation:
    names = [f"class {number}" for number in range(classes)]
    figures = {"iou": mean_iou, "precision": None, "recall": None, "truth": 1, "predicted": 1}
    metrics = Metrics.model_validate(
        {
            "splits": [split],
            "mean_iou": mean_iou,
            "pixel_accuracy": mean_iou,
            "images": images,
            "class_names": names,
            "classes": dict.fromkeys(names, figures),
            "confusion_matrix": [[1] * (classes + 1)] * classes,
        }
    )
    return Evaluation(name, "predictions", "data", metrics)


def best(*evaluations: Evaluation) -> str:
    found = best_of(list(evaluations))
    assert found == best_of(list(reversed(evaluations)))  # whatever their order
    return found.artifact if found else ""


def test_a_higher_figure_on_other_images_or_classes_is_not_better() -> None:
    league = evaluation("a", 0.5), evaluation("b", 0.6)
    assert best(*league) == "b"
    assert best(*league, evaluation("fewer images", 0.9, images=10)) == "b"
    assert best(*league, evaluation("fewer classes", 0.9, classes=2)) == "b"


def test_val_goes_before_other_splits_and_training_images_never_count() -> None:
    assert best(evaluation("val", 0.4), evaluation("holdout", 0.5, "holdout"), evaluation("h", 0.6, "holdout")) == "val"
    assert best(evaluation("holdout", 0.5, "holdout"), evaluation("train", 0.9, "train")) == "holdout"
    assert best(evaluation("train", 0.9, "train")) == ""


def test_of_sets_that_were_scored_as_often_the_one_with_more_images_counts() -> None:
    assert best(evaluation("few", 0.9, images=10), evaluation("many", 0.3, images=1000)) == "many"
