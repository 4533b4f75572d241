"""Metrics of segmentation, all computed from integer counts.

Everything is counted one picture at a time and sums are exact: the numbers depend neither on the
order of the pictures nor on which process counted them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wordmask.metrics.bootstrap import PerPicture
from wordmask.metrics.boundary import Boundary
from wordmask.metrics.calibration import Calibration
from wordmask.metrics.confusion import Confusion, Pairs, Void
from wordmask.metrics.image_level import ImageLevel
from wordmask.metrics.seams import Seams

TYPES: dict[str, Any] = {  # of the arrays of `Counted`
    "boundary": np.int64,
    "scores": np.float32,
    "calibration": np.int64,
    "seams": np.int64,
}


@dataclass(frozen=True)
class Counted:
    """The counts of one picture for `Metrics`: small, so that a run can keep a journal of them.

    Attributes:
        picture: its id.
        pairs: of `Confusion.count`.
        boundary: of `Boundary.count`, or None.
        scores: (C,) float32 of `ImageLevel`, or None.
        calibration: of `Calibration.count`, or None.
        seams: of `Seams.counts`, or None.
    """

    picture: str
    pairs: Pairs
    boundary: np.ndarray | None = None
    scores: np.ndarray | None = None
    calibration: np.ndarray | None = None
    seams: np.ndarray | None = None

    def state(self) -> dict[str, Any]:
        """All counts as plain values for JSON; floats are restored exactly."""
        arrays = {name: getattr(self, name) for name in TYPES}
        plain = {name: array.tolist() for name, array in arrays.items() if array is not None}
        return {"picture": self.picture, "pairs": self.pairs.state(), **plain}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Counted:
        """Restore what `state` returned."""
        arrays = {
            name: np.array(state[name], kind) for name, kind in TYPES.items() if name in state
        }
        return cls(state["picture"], Pairs.from_state(state["pairs"]), **arrays)


class Metrics:
    """All metrics of one method on one benchmark.

    Args:
        classes, background, void: as in `Confusion`.
        boundary: whether boundary IoU is counted.
        calibration_bins: for `Calibration`.

    Attributes:
        confusion, boundary, calibration, image_level, per_picture, seams: the single metrics;
            boundary may be None.
    """

    def __init__(
        self,
        classes: int,
        background: bool = True,
        void: Void = "ignore",
        *,
        boundary: bool = True,
        calibration_bins: int = 15,
    ):
        self.confusion = Confusion(classes, background, void)
        self.boundary = Boundary(classes, background) if boundary else None
        self.calibration = Calibration(calibration_bins)
        self.image_level = ImageLevel(classes)
        self.per_picture = PerPicture(classes, background)
        self.seams = Seams()

    def update(
        self,
        picture: str,
        target: np.ndarray,
        prediction: np.ndarray,
        *,
        scores: np.ndarray | None = None,
        confidence: np.ndarray | None = None,
        seams: np.ndarray | None = None,
    ) -> None:
        """Count a picture: `add` the result of `count`; arguments as there."""
        given = {"scores": scores, "confidence": confidence, "seams": seams}
        self.add(self.count(picture, target, prediction, **given))

    def count(
        self,
        picture: str,
        target: np.ndarray,
        prediction: np.ndarray,
        *,
        scores: np.ndarray | None = None,
        confidence: np.ndarray | None = None,
        seams: np.ndarray | None = None,
    ) -> Counted:
        """The counts of a picture, for `add`; `Metrics` is not changed.

        Args:
            picture: its id; each is counted once.
            target, prediction: (H, W) labels.
            scores: (C,) image-level scores of the classes, for mAP.
            confidence: (H, W), 0 to 1, for the calibration error.
            seams: `Seams.counts` of the prediction, at the borders of windows.

        Raises:
            WordmaskError: arrays of wrong shapes or values.
        """
        target = self.confusion.resolve_void(target)
        pairs = self.confusion.count(target, prediction)
        return Counted(
            picture,
            pairs,
            None if self.boundary is None else self.boundary.count(target, prediction),
            self.image_level.check(scores),
            None if confidence is None else self.calibration.count(target, prediction, confidence),
            seams,
        )

    def add(self, counted: Counted) -> None:
        """Add the counts of a picture from `count`.

        Raises:
            WordmaskError: the picture was counted before.
        """
        self.per_picture.add(counted.picture, counted.pairs)
        self.confusion.add(counted.pairs)
        self.image_level.add(counted.picture, counted.pairs, counted.scores)
        if self.boundary is not None and counted.boundary is not None:
            self.boundary.add(counted.boundary)
        if counted.calibration is not None:
            self.calibration.add(counted.calibration)
        if counted.seams is not None:
            self.seams.counts += counted.seams

    def summary(self) -> dict[str, float | None]:
        """Every number by name, without intervals; those that were not counted are left out."""
        result: dict[str, float | None] = {**self.confusion.summary()}
        if self.boundary is not None:
            result["boundary_miou_union"] = self.boundary.mean_iou("union")
            result["boundary_miou_present"] = self.boundary.mean_iou("present")
        result |= {f"image_{name}": value for name, value in self.image_level.summary().items()}
        if self.calibration.counts[0].any():
            result["calibration_error"] = self.calibration.error()
        if self.seams.counts[1, 0]:
            rates = self.seams.summary()
            result["changes_at_seams"] = rates["at_seams"]
            result["changes_elsewhere"] = rates["elsewhere"]
            result["seam_ratio"] = rates["ratio"]
        return result
