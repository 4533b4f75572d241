"""One confusion matrix over a set, and the means computed from it.

A target is an (H, W) array of whole numbers: 0 background, 1 to C classes, `VOID` for pixels that
are not scored. A prediction is an (H, W) array from 0 (background, or none of the words) to C.
Shares and means are from 0 to 1, and NaN if there is nothing to average.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from wordmask.datasets import VOID
from wordmask.errors import WordmaskError, unknown

Void = Literal["ignore", "background"]
MeanOver = Literal["union", "present"]
AccuracyOver = Literal["present", "all"]


@dataclass(frozen=True)
class Pairs:
    """The pixels of one picture by target and prediction, for the labels that occur in it.

    Attributes:
        rows, columns: (T,) and (P,) labels of target and prediction, sorted.
        pixels: (T, P) int64.
        void: pixels that were left out.
    """

    rows: np.ndarray
    columns: np.ndarray
    pixels: np.ndarray
    void: int = 0

    def state(self) -> list[Any]:
        """All counts as plain values for JSON."""
        return [self.rows.tolist(), self.columns.tolist(), self.pixels.tolist(), self.void]

    @classmethod
    def from_state(cls, state: list[Any]) -> Pairs:
        """Restore what `state` returned."""
        rows, columns = (np.array(labels, np.int64) for labels in state[:2])
        pixels = np.array(state[2], np.int64).reshape(len(rows), len(columns))
        return cls(rows, columns, pixels, state[3])


class Confusion:
    """One confusion matrix over a whole set.

    Args:
        classes: C, the number of classes without background.
        background: whether label 0 is a class of the set. If not, it is not a class of any mean,
            and a prediction of 0 (none of the words) is wrong.
        void: void pixels are left out ("ignore", the custom of the field), or are background in the
            target ("background", as in CLIPtrase's released code).

    Attributes:
        counts: (C + 1, C + 1) int64, pixels by target (rows) and prediction (columns), label 0
            first.
        void_pixels: number of pixels left out.
        images: number of pictures counted.

    Raises:
        WordmaskError: a number of classes that labels cannot hold, an unknown `void`.
    """

    def __init__(self, classes: int, background: bool = True, void: Void = "ignore"):
        if not 1 <= classes < VOID:
            raise WordmaskError(f"got {classes} classes; give 1 to {VOID - 1}")
        if void not in ("ignore", "background"):
            raise unknown("void", void, ("ignore", "background"))
        if void == "background" and not background:
            raise WordmaskError(
                'got void="background" for a set without background; give void="ignore"'
            )
        self.classes = classes
        self.background = background
        self.void: Void = void
        self.counts = np.zeros((classes + 1, classes + 1), np.int64)
        self.void_pixels = 0
        self.images = 0

    def update(self, target: np.ndarray, prediction: np.ndarray) -> None:
        """Count a picture.

        Raises:
            WordmaskError: sizes that differ, labels out of range; nothing is counted then.
        """
        self.add(self.count(target, prediction))

    def count(self, target: np.ndarray, prediction: np.ndarray) -> Pairs:
        """The counts of a picture, for `add`; the matrix is not changed."""
        rows, columns, pixels = count_pairs(self.resolve_void(target), prediction)
        self._check(rows, columns)
        if rows[-1] == VOID:
            return Pairs(rows[:-1], columns, pixels[:-1], int(pixels[-1].sum()))
        return Pairs(rows, columns, pixels)

    def resolve_void(self, target: np.ndarray) -> np.ndarray:
        """The target to compare with; with void="background", void pixels become background."""
        return target if self.void == "ignore" else np.where(target == VOID, np.uint16(0), target)

    def add(self, pairs: Pairs) -> None:
        """Add the counts of a picture from `count`."""
        self.counts[np.ix_(pairs.rows, pairs.columns)] += pairs.pixels
        self.void_pixels += pairs.void
        self.images += 1

    def _check(self, rows: np.ndarray, columns: np.ndarray) -> None:
        bad = rows[(rows > self.classes) & (rows != VOID)]
        if bad.size:
            raise WordmaskError(
                f"got the label {bad[0]} in a target; labels are 0 to {self.classes}, and {VOID} "
                "for void"
            )
        if rows[0] == 0 and not self.background:
            raise WordmaskError(
                f"got the label 0 in a target without background; such pixels are void ({VOID})"
            )
        if columns[-1] > self.classes:
            raise WordmaskError(
                f"got the label {columns[-1]} in a prediction; labels are 0 to {self.classes}"
            )

    @property
    def first(self) -> int:
        """The first label that is a class of the set: 0 with a background, else 1.

        Areas and per-class values are for the labels from this one to C, K in all.
        """
        return 0 if self.background else 1

    @property
    def intersect(self) -> np.ndarray:
        """(K,) int64, pixels of each class that are predicted right."""
        return self.counts.diagonal()[self.first :]

    @property
    def target_area(self) -> np.ndarray:
        """(K,) int64, pixels of each class in the target."""
        return self.counts.sum(1)[self.first :]

    @property
    def prediction_area(self) -> np.ndarray:
        """(K,) int64, pixels of each class in the prediction."""
        return self.counts.sum(0)[self.first :]

    @property
    def union(self) -> np.ndarray:
        """(K,) int64, pixels of each class in target or prediction."""
        return self.target_area + self.prediction_area - self.intersect

    def per_class_iou(self) -> np.ndarray:
        """(K,) intersection over union; NaN for classes in neither target nor prediction."""
        return ratio(self.intersect, self.union)

    def per_class_accuracy(self) -> np.ndarray:
        """(K,) share of a class's pixels that are predicted right; NaN for absent classes."""
        return ratio(self.intersect, self.target_area)

    def mean_iou(self, over: MeanOver = "union") -> float:
        """Mean over the classes with union > 0 ("union"), or in the target ("present")."""
        return float(mean_iou(self.intersect, self.target_area, self.prediction_area, over))

    def pixel_accuracy(self) -> float:
        """Share of the scored pixels that are predicted right."""
        return float(pixel_accuracy(self.intersect, self.target_area))

    def mean_accuracy(self, over: AccuracyOver = "present") -> float:
        """Mean over the classes in the target ("present"), or all, absent ones as 0 ("all")."""
        return float(mean_accuracy(self.intersect, self.target_area, over))

    def frequency_weighted_iou(self) -> float:
        """Intersection over union, each class weighted by its pixels in the target."""
        return float(frequency_weighted_iou(self.intersect, self.target_area, self.prediction_area))

    def summary(self) -> dict[str, float]:
        """All means by name, see `all_means`."""
        means = all_means(self.intersect, self.target_area, self.prediction_area)
        return {name: float(value) for name, value in means.items()}


def count_pairs(
    target: np.ndarray, prediction: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count the pixels of a picture by target and prediction, for the labels that occur in it.

    Labels are renumbered without gaps first, so that the cost is about the same for 20 classes and
    847.

    Args:
        target, prediction: (H, W) whole numbers, 0 to 65535.

    Returns:
        The labels (T,) of the target and (P,) of the prediction, sorted, and (T, P) int64 pixels.
    """
    if target.shape != prediction.shape or target.ndim != 2 or not target.size:
        raise WordmaskError(
            f"got a target of shape {target.shape} and a prediction of shape {prediction.shape}; "
            "both must be (H, W), of the same size"
        )
    rows, row_of = _compact(target, "target")
    columns, column_of = _compact(prediction, "prediction")
    row_of *= np.uint32(len(columns))
    pairs = row_of[target.ravel()]
    pairs += column_of[prediction.ravel()]
    counts = np.bincount(pairs, minlength=len(rows) * len(columns))
    return rows, columns, counts.reshape(len(rows), len(columns))


def _compact(labels: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The labels that occur, and a table from label to its index among them."""
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() > VOID:
        raise WordmaskError(
            f"got {labels.dtype} labels as the {name}; give whole numbers from 0 to {VOID}"
        )
    occurs = np.bincount(labels.ravel()) > 0
    return np.flatnonzero(occurs), (np.cumsum(occurs) - 1).astype(np.uint32)


# -- means of areas; the last axis of every array is the classes ----------------------------------


def mean_iou(
    intersect: np.ndarray, target: np.ndarray, prediction: np.ndarray, over: MeanOver = "union"
) -> np.ndarray:
    """Mean over classes of intersection over union, of areas (..., K) in pixels.

    over: "union": classes with union > 0, so that a class that is predicted and not in the
    target counts as 0 (mmseg); "present": classes in the target (CLIPer, CLIPtrase).
    """
    union = target + prediction - intersect
    chosen = {"union": union > 0, "present": target > 0}
    if over not in chosen:
        raise unknown("mean over", over, chosen)
    return mean(ratio(intersect, union), chosen[over])


def pixel_accuracy(intersect: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Share of the scored pixels that are predicted right, of areas (..., K)."""
    return ratio(intersect.sum(-1), target.sum(-1))


def mean_accuracy(
    intersect: np.ndarray, target: np.ndarray, over: AccuracyOver = "present"
) -> np.ndarray:
    """Mean over classes of the share of their pixels that are predicted right, of areas (..., K).

    over: "present": classes in the target (mmseg, CLIPer v1); "all": absent classes count as 0
    (CLIPer v2, CLIPtrase).
    """
    chosen = {"present": target > 0, "all": np.ones(target.shape, bool)}
    if over not in chosen:
        raise unknown("mean over", over, chosen)
    return mean(ratio(intersect, target), chosen[over])


def frequency_weighted_iou(
    intersect: np.ndarray, target: np.ndarray, prediction: np.ndarray
) -> np.ndarray:
    """Intersection over union, each class weighted by its pixels in the target, of (..., K)."""
    iou = np.nan_to_num(ratio(intersect, target + prediction - intersect))
    return ratio((iou * target).sum(-1), target.sum(-1))


def all_means(
    intersect: np.ndarray, target: np.ndarray, prediction: np.ndarray
) -> dict[str, np.ndarray]:
    """Every mean of areas (..., K), by name."""
    return {
        "miou_union": mean_iou(intersect, target, prediction, "union"),
        "miou_present": mean_iou(intersect, target, prediction, "present"),
        "pixel_accuracy": pixel_accuracy(intersect, target),
        "mean_accuracy_present": mean_accuracy(intersect, target, "present"),
        "mean_accuracy_all": mean_accuracy(intersect, target, "all"),
        "frequency_weighted_iou": frequency_weighted_iou(intersect, target, prediction),
    }


def ratio(part: Any, whole: Any) -> np.ndarray:
    """`part / whole` in float64, NaN if the whole is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def mean(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Mean over the last axis of the chosen values; a chosen NaN is a 0."""
    return ratio(np.where(chosen, np.nan_to_num(values), 0).sum(-1), chosen.sum(-1))
