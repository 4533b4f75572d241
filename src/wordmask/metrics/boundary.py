"""Boundary IoU: how well the outlines of masks agree (Cheng et al., CVPR 2021)."""

from __future__ import annotations

import math

import numpy as np

from wordmask.datasets import VOID
from wordmask.metrics.confusion import MeanOver, mean_iou, ratio

BOUNDARY_RATIO = 0.02  # of the diagonal: how far the band of a boundary reaches into a mask


class Boundary:
    """Boundary IoU of classes over a set (Cheng et al., CVPR 2021, arXiv 2103.16562).

    The boundary of a mask is the mask minus its erosion by d pixels, d being 2 % of the diagonal
    of the picture, rounded, at least 1; what is outside the picture is outside the mask. The
    erosion is by a square of 2 d + 1 pixels, as d erosions by 3 x 3 in the authors' code. Void
    pixels belong to no mask, neither of the target nor of the prediction, so a prediction that is
    right in all scored pixels has a boundary IoU of 1. Boundary areas are summed over a set.

    Args:
        classes, background: as in `Confusion`.
        ratio: d over the diagonal.

    Attributes:
        areas: (3, C + 1) int64, pixels of boundaries: in both, of the target, of the prediction.
    """

    def __init__(
        self,
        classes: int,
        background: bool = True,
        ratio: float = BOUNDARY_RATIO,
    ):
        self.classes = classes
        self.background = background
        self.ratio = ratio
        self.areas = np.zeros((3, classes + 1), np.int64)

    def update(self, target: np.ndarray, prediction: np.ndarray) -> None:
        """Count a picture; its labels must have been checked by `Confusion.count`."""
        self.add(self.count(target, prediction))

    def count(self, target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        """The counts of a picture, for `add`: (4, T) int64, labels over their three areas."""
        distance = boundary_distance(target.shape, self.ratio)
        target_boundary, void = boundary(target, distance), target == VOID
        if void.any():
            prediction = np.where(void, np.uint16(VOID), prediction)
            target_boundary &= ~void
        prediction_boundary = boundary(prediction, distance)
        prediction_boundary &= ~void
        both = target_boundary & prediction_boundary & (target == prediction)
        chosen = target[both], target[target_boundary], prediction[prediction_boundary]
        areas = np.stack([np.bincount(x, minlength=self.classes + 1) for x in chosen])
        labels = np.flatnonzero(areas.any(0))
        return np.concatenate([labels[None], areas[:, labels]])

    def add(self, counted: np.ndarray) -> None:
        """Add the counts of a picture from `count`."""
        self.areas[:, counted[0]] += counted[1:]

    @property
    def _of_classes(self) -> np.ndarray:
        """(3, K): areas in both, in the target, in the prediction."""
        return self.areas[:, 0 if self.background else 1 :]

    def per_class_iou(self) -> np.ndarray:
        """(K,) boundary IoU; NaN for classes without a boundary."""
        intersect, target, prediction = self._of_classes
        return ratio(intersect, target + prediction - intersect)

    def mean_iou(self, over: MeanOver = "union") -> float:
        """Mean over classes, as `Confusion.mean_iou`."""
        intersect, target, prediction = self._of_classes
        return float(mean_iou(intersect, target, prediction, over))


def boundary_distance(size: tuple[int, ...], share: float = BOUNDARY_RATIO) -> int:
    """d in pixels for a picture of (height, width)."""
    height, width = size
    return max(1, round(share * math.hypot(height, width)))


def boundary(labels: np.ndarray, distance: int) -> np.ndarray:
    """The boundaries of all masks of a label map at once: (H, W) bool.

    A pixel is in the boundary of its label's mask if the square of 2 d + 1 pixels around it has
    another label or leaves the picture, that is if the label changes in the middle row of the
    square or in any of its columns: two passes of ORs, whatever the number of classes.
    """
    height, width = labels.shape
    side = 2 * distance
    found = np.ones((height, width), bool)
    if height <= side or width <= side:
        return found
    inner = slice(distance, height - distance)
    columns = _any(labels[1:] != labels[:-1], side, 0)  # (H - 2 d, W): a change within the column
    rows = labels[inner, 1:] != labels[inner, :-1]  # (H - 2 d, W - 1): a change to the right
    steps = _any(rows | columns[:, :-1], side, 1)
    found[inner, distance : width - distance] = steps | columns[:, side:]
    return found


def _any(values: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Whether any of `length` neighbours along an axis is true; shorter by `length` - 1."""
    values = values.swapaxes(0, axis)
    reach = 1
    while reach < length:
        step = min(reach, length - reach)
        values = values[:-step] | values[step:]
        reach += step
    return values.swapaxes(0, axis)
