"""Image-level classification: mAP, precision, recall and F1 (Table 2 of CLIPer)."""

from __future__ import annotations

import numpy as np

from wordmask.errors import WordmaskError
from wordmask.metrics.confusion import Pairs, mean, ratio


class ImageLevel:
    """Image-level classification: which classes a picture shows (Table 2 of CLIPer).

    The paper scores a class by the maximum of its map and does not state the average, nor the
    threshold; see `summary`. A class is present if it has a pixel in the target. It is predicted if
    it has a pixel in the prediction, or if its score reaches a threshold.

    Args:
        classes: C. The background is never one of the classes here.

    Attributes:
        pictures: by id, (present, predicted, scores): sorted labels of the target and of the
            prediction, and float32 (C,), or None if no scores were given.
    """

    def __init__(self, classes: int):
        self.classes = classes
        self.pictures: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray | None]] = {}

    def check(self, scores: np.ndarray | None) -> np.ndarray | None:
        """Check the scores of a picture: (C,) float32, or None.

        Raises:
            WordmaskError: another shape, NaN.
        """
        if scores is None:
            return None
        scores = np.asarray(scores, np.float32)
        if scores.shape != (self.classes,) or np.isnan(scores).any():
            raise WordmaskError(
                f"got scores of shape {scores.shape} for the classes of a picture; give "
                f"({self.classes},) numbers, none NaN"
            )
        return scores

    def add(self, picture: str, pairs: Pairs, scores: np.ndarray | None = None) -> None:
        """Add the counts of a picture from `Confusion.count`, and (C,) scores of its classes."""
        if picture in self.pictures:
            raise WordmaskError(f"the picture {picture!r} is counted already; count each one once")
        scores = self.check(scores)
        present = pairs.rows[(pairs.rows > 0) & pairs.pixels.any(1)]
        predicted = pairs.columns[(pairs.columns > 0) & pairs.pixels.any(0)]
        self.pictures[picture] = present.astype(np.uint16), predicted.astype(np.uint16), scores

    def tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Present and predicted, (N, C) bool; the scores (N, C) if every picture has them, or None.

        Pictures are in the order of their ids.
        """
        ordered = [self.pictures[picture] for picture in sorted(self.pictures)]
        present = np.zeros((len(ordered), self.classes), bool)
        predicted = np.zeros_like(present)
        for row, (targets, predictions, _) in enumerate(ordered):
            present[row, targets.astype(int) - 1] = True
            predicted[row, predictions.astype(int) - 1] = True
        scores = [scores for _, _, scores in ordered if scores is not None]
        complete = len(scores) == len(ordered) and scores
        return present, predicted, np.stack(scores) if complete else None

    def summary(self, threshold: float | None = None) -> dict[str, float]:
        """mAP, precision, recall and F1.

        Args:
            threshold: a class is predicted if its score is at least this; None: if it has a pixel
                in the prediction.

        Returns:
            "map": mean of average precision over the classes that some picture shows, only if all
            pictures have scores. "precision", "recall", "f1": means over the classes that some
            picture shows (a class that is never predicted has a precision of 0), f1 the mean of
            their F1. "..._micro": the same of all (picture, class) pairs together. "f1_of_means":
            the harmonic mean 2 P R / (P + R) of "precision" and "recall", which CLIPer's Table 2
            prints (in 16 of its 18 cells), and not the mean of the classes' F1.
        """
        present, predicted, scores = self.tables()
        if threshold is not None:
            if scores is None:
                raise WordmaskError(
                    f"got the threshold {threshold}, but pictures have no scores; leave it out"
                )
            predicted = scores >= threshold
        both, in_target, in_prediction = (
            x.sum(0) for x in (present & predicted, present, predicted)
        )
        shown = in_target > 0
        result = {}
        if scores is not None:
            precisions = [
                average_precision(present[:, c], scores[:, c]) for c in shown.nonzero()[0]
            ]
            result["map"] = float(np.mean(precisions)) if precisions else float("nan")
        for name, part, whole in (
            ("precision", both, in_prediction),
            ("recall", both, in_target),
            ("f1", 2 * both, in_target + in_prediction),
        ):
            result[name] = float(mean(ratio(part, whole), shown))
            result[f"{name}_micro"] = float(ratio(part.sum(), whole.sum()))
        p, r = result["precision"], result["recall"]
        result["f1_of_means"] = 0.0 if p + r == 0 else 2 * p * r / (p + r)
        return result


def average_precision(present: np.ndarray, scores: np.ndarray) -> float:
    """Area under precision over recall, without interpolation: sum of (R_n - R_n-1) P_n.

    Args:
        present: (N,) bool.
        scores: (N,), higher is more confident. Equal scores reach a threshold together, so that the
            order of the pictures does not matter.

    Returns:
        0 to 1, NaN if nothing is present.
    """
    if not present.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(present[order])
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # of each run of equals
    precision = right[last] / (last + 1)
    recall = right[last] / right[-1]
    return float(np.sum(np.diff(recall, prepend=0) * precision))
