"""Metrics of segmentation, all from counts in integers.

Everything is fed one picture at a time, adds up exactly, and merges with what another worker
counted: the numbers depend neither on the order of the pictures nor on how they were shared out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wordmask.datasets import VOID
from wordmask.errors import WordmaskError
from wordmask.metrics.bootstrap import Pictures
from wordmask.metrics.boundary import Boundary
from wordmask.metrics.calibration import Calibration
from wordmask.metrics.confusion import Confusion, Pairs, Void, check_same
from wordmask.metrics.image_level import Presence

__all__ = [
    "VOID",
    "Boundary",
    "Calibration",
    "Confusion",
    "Counted",
    "Metrics",
    "Pairs",
    "Pictures",
    "Presence",
]


@dataclass(frozen=True)
class Counted:
    """What one picture adds to `Metrics`: small, so that a run can keep a journal of its pictures.

    Attributes:
        picture: its id.
        pairs: of `Confusion.count`.
        boundary: of `Boundary.count`, or None.
        scores: (C,) float32 of `Presence`, or None.
        calibration: of `Calibration.count`, or None.
    """

    picture: str
    pairs: Pairs
    boundary: np.ndarray | None = None
    scores: np.ndarray | None = None
    calibration: np.ndarray | None = None

    def state(self) -> dict[str, Any]:
        """All of it as plain values for JSON; floats come back as they were."""
        arrays = {"boundary": self.boundary, "scores": self.scores, "calibration": self.calibration}
        plain = {name: array.tolist() for name, array in arrays.items() if array is not None}
        return {"picture": self.picture, "pairs": self.pairs.state(), **plain}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Counted:
        """What `state` gave."""
        types = {"boundary": np.int64, "scores": np.float32, "calibration": np.int64}
        arrays = {
            name: np.array(state[name], kind) for name, kind in types.items() if name in state
        }
        return cls(state["picture"], Pairs.from_state(state["pairs"]), **arrays)


class Metrics:
    """All metrics of one method on one benchmark.

    Args:
        classes, background, void: as in `Confusion`.
        boundary: whether boundary IoU is counted.
        calibration_bins: for `Calibration`.

    Attributes:
        confusion, pictures, boundary, presence, calibration: what is counted; boundary may be None.
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
        self.pictures = Pictures(classes, background)
        self.boundary = Boundary(classes, background) if boundary else None
        self.presence = Presence(classes)
        self.calibration = Calibration(calibration_bins)

    def __contains__(self, picture: object) -> bool:
        return picture in self.pictures.areas

    def __len__(self) -> int:
        return len(self.pictures.areas)

    def update(
        self,
        picture: str,
        truth: np.ndarray,
        answer: np.ndarray,
        *,
        scores: np.ndarray | None = None,
        confidence: np.ndarray | None = None,
    ) -> None:
        """Count a picture: `add` what `count` makes of it, see there."""
        self.add(self.count(picture, truth, answer, scores=scores, confidence=confidence))

    def count(
        self,
        picture: str,
        truth: np.ndarray,
        answer: np.ndarray,
        *,
        scores: np.ndarray | None = None,
        confidence: np.ndarray | None = None,
    ) -> Counted:
        """What a picture adds, for `add`; nothing is counted yet.

        Args:
            picture: its id; each is counted once.
            truth, answer: (H, W) labels.
            scores: (C,) how sure it is that each class is in the picture, for mAP.
            confidence: (H, W), 0 to 1, for the calibration error.

        Raises:
            WordmaskError: arrays that do not fit.
        """
        truth = self.confusion.scored(truth)
        pairs = self.confusion.count(truth, answer)
        return Counted(
            picture,
            pairs,
            None if self.boundary is None else self.boundary.count(truth, answer),
            self.presence.check(scores),
            None if confidence is None else self.calibration.count(truth, answer, confidence),
        )

    def add(self, counted: Counted) -> None:
        """Add what `count` made of a picture.

        Raises:
            WordmaskError: a picture that is counted already.
        """
        self.pictures.add(counted.picture, counted.pairs)
        self.confusion.add(counted.pairs)
        self.presence.add(counted.picture, counted.pairs, counted.scores)
        if self.boundary is not None and counted.boundary is not None:
            self.boundary.add(counted.boundary)
        if counted.calibration is not None:
            self.calibration.add(counted.calibration)

    def merge(self, other: Metrics) -> None:
        """Add what another worker counted; no picture may be in both."""
        if (self.boundary is None) != (other.boundary is None):
            raise WordmaskError("cannot merge counts with and without boundaries")
        check_same(self.confusion, other.confusion, "classes", "background", "void")
        check_same(self.calibration, other.calibration, "bins")
        self.pictures.merge(other.pictures)
        self.confusion.merge(other.confusion)
        self.presence.merge(other.presence)
        self.calibration.merge(other.calibration)
        if self.boundary is not None and other.boundary is not None:
            self.boundary.merge(other.boundary)

    def state(self) -> dict[str, Any]:
        """What was counted as plain values for JSON."""
        return {
            "confusion": self.confusion.state(),
            "pictures": self.pictures.state(),
            "boundary": None if self.boundary is None else self.boundary.state(),
            "presence": self.presence.state(),
            "calibration": self.calibration.state(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Metrics:
        """What `state` gave, to be counted on."""
        metrics = cls.__new__(cls)
        metrics.confusion = Confusion.from_state(state["confusion"])
        metrics.pictures = Pictures.from_state(state["pictures"])
        kept = state["boundary"]
        metrics.boundary = None if kept is None else Boundary.from_state(kept)
        metrics.presence = Presence.from_state(state["presence"])
        metrics.calibration = Calibration.from_state(state["calibration"])
        return metrics

    def summary(self) -> dict[str, float]:
        """Every number by name, without intervals; those that were not counted are left out."""
        result = self.confusion.summary()
        if self.boundary is not None:
            result["boundary_miou_union"] = self.boundary.mean_iou("union")
            result["boundary_miou_present"] = self.boundary.mean_iou("present")
        result |= {f"image_{name}": value for name, value in self.presence.summary().items()}
        if self.calibration.counts[0].any():
            result["calibration_error"] = self.calibration.error()
        return result
