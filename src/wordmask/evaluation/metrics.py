"""Metrics of segmentation, from counts of pixels that are kept in integers.

Everything here is fed one picture at a time, adds up exactly, and can be merged with what another
worker counted: the numbers do not depend on the order of pictures or on how they were shared out.
Shares and means are Python floats from 0 to 1.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from wordmask.errors import WordmaskError, unknown

VOID = 65535  # the label of pixels that have no truth

Void = Literal["ignore", "background"]
MeanOver = Literal["union", "present"]
AccuracyOver = Literal["present", "all"]


class Confusion:
    """One confusion matrix over a whole set.

    Args:
        classes: C, how many words there are to tell apart.
        background: whether label 0 is a class of the set. Where it is not, it is no class of any
            mean, and an answer of 0 (none of the words) is simply wrong.
        void: pixels without truth are left out ("ignore", the custom of the field), or their truth
            is taken to be the background ("background", as CLIPtrase's released code does it).

    Attributes:
        counts: (C + 1, C + 1) int64, pixels by truth (rows) and answer (columns), label 0 first.
        void_pixels: how many pixels were left out.
        images: how many pictures were counted.
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

    def update(self, truth: np.ndarray, answer: np.ndarray) -> None:
        """Count a picture.

        Args:
            truth: (H, W) integers: 0 background, 1 to C, `VOID`.
            answer: (H, W) integers from 0 to C; 0 is background, or none of the words.

        Raises:
            WordmaskError: sizes that differ, labels out of range; nothing is counted then.
        """
        rows, columns, pairs = count_pairs(truth, answer)
        self._check(rows, columns)
        if rows[-1] == VOID:
            if self.void == "background":
                rows = np.where(rows == VOID, 0, rows)
            else:
                self.void_pixels += int(pairs[-1].sum())
                rows, pairs = rows[:-1], pairs[:-1]
        np.add.at(self.counts, np.ix_(rows, columns), pairs)  # row 0 may be there twice
        self.images += 1

    def _check(self, rows: np.ndarray, columns: np.ndarray) -> None:
        bad = rows[(rows > self.classes) & (rows != VOID)]
        if bad.size:
            raise WordmaskError(
                f"got the label {bad[0]} in a truth; labels are 0 to {self.classes}, and {VOID} "
                "for void"
            )
        if rows[0] == 0 and not self.background:
            raise WordmaskError(
                f"got the label 0 in a truth without background; such pixels are void ({VOID})"
            )
        if columns[-1] > self.classes:
            raise WordmaskError(
                f"got the label {columns[-1]} in an answer; labels are 0 to {self.classes}"
            )

    def merge(self, other: Confusion) -> None:
        """Add what another worker counted.

        Raises:
            WordmaskError: another number of classes, another background or void.
        """
        for name in ("classes", "background", "void"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise WordmaskError(f"cannot merge counts with {name} {mine} and {theirs}")
        self.counts += other.counts
        self.void_pixels += other.void_pixels
        self.images += other.images

    def state(self) -> dict[str, Any]:
        """What was counted as plain values for JSON; only the pairs that occur are listed."""
        truth, answer = np.nonzero(self.counts)
        return {
            "classes": self.classes,
            "background": self.background,
            "void": self.void,
            "void_pixels": self.void_pixels,
            "images": self.images,
            "truth": truth.tolist(),
            "answer": answer.tolist(),
            "pixels": self.counts[truth, answer].tolist(),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Confusion:
        """What `state` gave, counted on from there."""
        confusion = cls(state["classes"], state["background"], state["void"])
        confusion.counts[state["truth"], state["answer"]] = state["pixels"]
        confusion.void_pixels, confusion.images = state["void_pixels"], state["images"]
        return confusion

    # -- what the counts say --------------------------------------------------------------------

    @property
    def _first(self) -> int:
        return 0 if self.background else 1

    @property
    def labels(self) -> np.ndarray:
        """(K,) labels of the set's classes: 0 to C with a background, 1 to C without."""
        return np.arange(self._first, self.classes + 1)

    @property
    def intersect(self) -> np.ndarray:
        """(K,) int64, pixels of each class that are answered right."""
        return self.counts.diagonal()[self._first :].copy()

    @property
    def truth_area(self) -> np.ndarray:
        """(K,) int64, pixels of each class in the truth."""
        return self.counts.sum(1)[self._first :]

    @property
    def answer_area(self) -> np.ndarray:
        """(K,) int64, pixels that were given each class."""
        return self.counts.sum(0)[self._first :]

    @property
    def union(self) -> np.ndarray:
        """(K,) int64, pixels of each class in truth or answer."""
        return self.truth_area + self.answer_area - self.intersect

    def per_class_iou(self) -> np.ndarray:
        """(K,) intersection over union; NaN for classes neither in the truth nor answered."""
        return ratio(self.intersect, self.union)

    def per_class_accuracy(self) -> np.ndarray:
        """(K,) share of a class's pixels that are answered right; NaN for absent classes."""
        return ratio(self.intersect, self.truth_area)

    def mean_iou(self, over: MeanOver = "union") -> float:
        """Mean over classes of intersection over union.

        Args:
            over: "union": classes with union > 0 (mmseg: a class that was answered and is not in
                the truth counts as 0); "present": classes in the truth (CLIPer, CLIPtrase).

        Returns:
            NaN where there is no such class.
        """
        return mean_iou(self.intersect, self.truth_area, self.answer_area, over)

    def pixel_accuracy(self) -> float:
        """Share of the pixels with truth that are answered right."""
        return float(ratio(self.intersect.sum(), self.truth_area.sum()))

    def mean_accuracy(self, over: AccuracyOver = "present") -> float:
        """Mean over classes of the share of their pixels that are answered right.

        over: "present": classes in the truth (mmseg, CLIPer v1); "all": absent classes count as 0
        (CLIPer v2, CLIPtrase).
        """
        if over not in ("present", "all"):
            raise unknown("mean over", over, ("present", "all"))
        accuracy = self.per_class_accuracy()
        if over == "present":
            return mean(accuracy[self.truth_area > 0])
        return mean(np.nan_to_num(accuracy))

    def frequency_weighted_iou(self) -> float:
        """Intersection over union, weighted by the share of the pixels that a class has."""
        present = self.truth_area > 0
        weighted = self.per_class_iou()[present] * self.truth_area[present]
        return float(ratio(weighted.sum(), self.truth_area.sum()))

    def summary(self) -> dict[str, float]:
        """All means by name, from 0 to 1."""
        return {
            "miou_union": self.mean_iou("union"),
            "miou_present": self.mean_iou("present"),
            "pixel_accuracy": self.pixel_accuracy(),
            "mean_accuracy_present": self.mean_accuracy("present"),
            "mean_accuracy_all": self.mean_accuracy("all"),
            "frequency_weighted_iou": self.frequency_weighted_iou(),
        }


def count_pairs(truth: np.ndarray, answer: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count the pixels of a picture by truth and answer, for the labels that occur in it.

    Args:
        truth, answer: (H, W) integers, 0 to 65535.

    Returns:
        The labels (T,) of the truth and (A,) of the answer, sorted, and (T, A) int64 pixels. It
        costs the same for 20 classes and for 847.
    """
    if truth.shape != answer.shape or truth.ndim != 2 or not truth.size:
        raise WordmaskError(
            f"got a truth of shape {truth.shape} and an answer of shape {answer.shape}; both must "
            "be (H, W), of the same size"
        )
    rows, row_of = _compact(truth, "truth")
    columns, column_of = _compact(answer, "answer")
    row_of *= len(columns)
    pairs = row_of[truth.ravel()]
    pairs += column_of[answer.ravel()]
    counts = np.bincount(pairs, minlength=len(rows) * len(columns))
    return rows, columns, counts.reshape(len(rows), len(columns))


def _compact(labels: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The labels that occur, and a table from label to its place among them."""
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() > VOID:
        raise WordmaskError(
            f"got {labels.dtype} labels as the {name}; give whole numbers from 0 to {VOID}"
        )
    seen = np.bincount(labels.ravel()) > 0
    return np.flatnonzero(seen), np.cumsum(seen) - 1


# -- means --------------------------------------------------------------------------------------


def mean_iou(
    intersect: np.ndarray, truth_area: np.ndarray, answer_area: np.ndarray, over: MeanOver
) -> float:
    """Mean over classes, as in `Confusion.mean_iou`, of areas (K,) in pixels."""
    if over not in ("union", "present"):
        raise unknown("mean over", over, ("union", "present"))
    union = truth_area + answer_area - intersect
    chosen = union > 0 if over == "union" else truth_area > 0
    return mean(ratio(intersect, union)[chosen])


def ratio(part: Any, whole: Any) -> np.ndarray:
    """`part / whole` in float64, NaN where the whole is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def mean(values: np.ndarray) -> float:
    """The mean, NaN of none."""
    return float(values.mean()) if values.size else float("nan")
