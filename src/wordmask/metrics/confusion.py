"""One confusion matrix over a set, and the means that are taken from it.

A truth is an (H, W) array of whole numbers: 0 background, 1 to C classes, `VOID` without truth. An
answer is an (H, W) array from 0 (background, or none of the words) to C. Shares and means are from
0 to 1, and NaN where there is nothing to take a mean of.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    """The pixels of one picture by truth and answer, for the labels that occur in it.

    Attributes:
        rows, columns: (T,) and (A,) labels of truth and answer, sorted.
        pixels: (T, A) int64.
        void: pixels that were left out.
    """

    rows: np.ndarray
    columns: np.ndarray
    pixels: np.ndarray
    void: int = 0

    def state(self) -> list[Any]:
        """All of it as plain values for JSON."""
        return [self.rows.tolist(), self.columns.tolist(), self.pixels.tolist(), self.void]

    @classmethod
    def from_state(cls, state: list[Any]) -> Pairs:
        """What `state` gave."""
        rows, columns = (np.array(labels, np.int64) for labels in state[:2])
        pixels = np.array(state[2], np.int64).reshape(len(rows), len(columns))
        return cls(rows, columns, pixels, state[3])


class Confusion:
    """One confusion matrix over a whole set.

    Args:
        classes: C, how many words there are to tell apart.
        background: whether label 0 is a class of the set. Where it is not, it is no class of any
            mean, and an answer of 0 (none of the words) is simply wrong.
        void: pixels without truth are left out ("ignore", the custom of the field), or their truth
            is taken to be the background ("background", as in CLIPtrase's released code).

    Attributes:
        counts: (C + 1, C + 1) int64, pixels by truth (rows) and answer (columns), label 0 first.
        void_pixels: how many pixels were left out.
        images: how many pictures were counted.

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

    def update(self, truth: np.ndarray, answer: np.ndarray) -> None:
        """Count a picture.

        Raises:
            WordmaskError: sizes that differ, labels out of range; nothing is counted then.
        """
        self.add(self.count(truth, answer))

    def count(self, truth: np.ndarray, answer: np.ndarray) -> Pairs:
        """What a picture adds, for `add`; nothing is counted yet."""
        rows, columns, pixels = count_pairs(self.scored(truth), answer)
        self._check(rows, columns)
        if rows[-1] == VOID:
            return Pairs(rows[:-1], columns, pixels[:-1], int(pixels[-1].sum()))
        return Pairs(rows, columns, pixels)

    def scored(self, truth: np.ndarray) -> np.ndarray:
        """The truth that an answer is held against: void is background where it counts as that."""
        return truth if self.void == "ignore" else np.where(truth == VOID, np.uint16(0), truth)

    def add(self, pairs: Pairs) -> None:
        """Add what `count` made of a picture."""
        self.counts[np.ix_(pairs.rows, pairs.columns)] += pairs.pixels
        self.void_pixels += pairs.void
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
        check_same(self, other, "classes", "background", "void")
        self.counts += other.counts
        self.void_pixels += other.void_pixels
        self.images += other.images

    def state(self) -> dict[str, Any]:
        """What was counted as plain values for JSON; only the pairs that occur are listed."""
        rows, columns = np.nonzero(self.counts)
        return {
            "classes": self.classes,
            "background": self.background,
            "void": self.void,
            "void_pixels": self.void_pixels,
            "images": self.images,
            "truth": rows.tolist(),
            "answer": columns.tolist(),
            "pixels": self.counts[rows, columns].tolist(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Confusion:
        """What `state` gave, to be counted on."""
        confusion = cls(state["classes"], state["background"], state["void"])
        confusion.counts[state["truth"], state["answer"]] = state["pixels"]
        confusion.void_pixels, confusion.images = state["void_pixels"], state["images"]
        return confusion

    @property
    def first(self) -> int:
        """The first label that is a class of the set: 0 with a background, else 1."""
        return 0 if self.background else 1

    @property
    def labels(self) -> np.ndarray:
        """(K,) labels of the set's classes, what all areas and per-class values belong to."""
        return np.arange(self.first, self.classes + 1)

    @property
    def intersect(self) -> np.ndarray:
        """(K,) int64, pixels of each class that are answered right."""
        return self.counts.diagonal()[self.first :]

    @property
    def truth_area(self) -> np.ndarray:
        """(K,) int64, pixels of each class in the truth."""
        return self.counts.sum(1)[self.first :]

    @property
    def answer_area(self) -> np.ndarray:
        """(K,) int64, pixels that were given each class."""
        return self.counts.sum(0)[self.first :]

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
        """Mean over the classes with union > 0 ("union"), or in the truth ("present")."""
        return float(mean_iou(self.intersect, self.truth_area, self.answer_area, over))

    def pixel_accuracy(self) -> float:
        """Share of the pixels with truth that are answered right."""
        return float(pixel_accuracy(self.intersect, self.truth_area))

    def mean_accuracy(self, over: AccuracyOver = "present") -> float:
        """Mean over the classes in the truth ("present"), or over all, absent ones as 0 ("all")."""
        return float(mean_accuracy(self.intersect, self.truth_area, over))

    def frequency_weighted_iou(self) -> float:
        """Intersection over union, each class weighted by its pixels in the truth."""
        return float(frequency_weighted_iou(self.intersect, self.truth_area, self.answer_area))

    def summary(self) -> dict[str, float]:
        """All means by name, see `all_means`."""
        means = all_means(self.intersect, self.truth_area, self.answer_area)
        return {name: float(value) for name, value in means.items()}


def count_pairs(truth: np.ndarray, answer: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count the pixels of a picture by truth and answer, for the labels that occur in it.

    Labels are put in a row of their own first, so that it costs about the same for 20 classes and
    for 847.

    Args:
        truth, answer: (H, W) whole numbers, 0 to 65535.

    Returns:
        The labels (T,) of the truth and (A,) of the answer, sorted, and (T, A) int64 pixels.
    """
    if truth.shape != answer.shape or truth.ndim != 2 or not truth.size:
        raise WordmaskError(
            f"got a truth of shape {truth.shape} and an answer of shape {answer.shape}; both must "
            "be (H, W), of the same size"
        )
    rows, row_of = _compact(truth, "truth")
    columns, column_of = _compact(answer, "answer")
    row_of *= np.uint32(len(columns))
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
    return np.flatnonzero(seen), (np.cumsum(seen) - 1).astype(np.uint32)


def check_same(mine: Any, other: Any, *names: str) -> None:
    """Refuse to merge counts whose attributes differ."""
    for name in names:
        a, b = getattr(mine, name), getattr(other, name)
        if a != b:
            raise WordmaskError(f"cannot merge counts with {name} {a} and {b}; they must agree")


# -- means of areas; the last axis of every array is the classes ----------------------------------


def mean_iou(
    intersect: np.ndarray, truth: np.ndarray, answer: np.ndarray, over: MeanOver = "union"
) -> np.ndarray:
    """Mean over classes of intersection over union, of areas (..., K) in pixels.

    over: "union": classes with union > 0, so that a class that is answered and not in the truth
    counts as 0 (mmseg); "present": classes in the truth (CLIPer, CLIPtrase).
    """
    union = truth + answer - intersect
    chosen = {"union": union > 0, "present": truth > 0}
    if over not in chosen:
        raise unknown("mean over", over, chosen)
    return mean(ratio(intersect, union), chosen[over])


def pixel_accuracy(intersect: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Share of the pixels with truth that are answered right, of areas (..., K)."""
    return ratio(intersect.sum(-1), truth.sum(-1))


def mean_accuracy(
    intersect: np.ndarray, truth: np.ndarray, over: AccuracyOver = "present"
) -> np.ndarray:
    """Mean over classes of the share of their pixels that are answered right, of areas (..., K).

    over: "present": classes in the truth (mmseg, CLIPer v1); "all": absent classes count as 0
    (CLIPer v2, CLIPtrase).
    """
    chosen = {"present": truth > 0, "all": np.ones(truth.shape, bool)}
    if over not in chosen:
        raise unknown("mean over", over, chosen)
    return mean(ratio(intersect, truth), chosen[over])


def frequency_weighted_iou(
    intersect: np.ndarray, truth: np.ndarray, answer: np.ndarray
) -> np.ndarray:
    """Intersection over union, each class weighted by its pixels in the truth, of (..., K)."""
    iou = np.nan_to_num(ratio(intersect, truth + answer - intersect))
    return ratio((iou * truth).sum(-1), truth.sum(-1))


def all_means(
    intersect: np.ndarray, truth: np.ndarray, answer: np.ndarray
) -> dict[str, np.ndarray]:
    """Every mean of areas (..., K), by name."""
    return {
        "miou_union": mean_iou(intersect, truth, answer, "union"),
        "miou_present": mean_iou(intersect, truth, answer, "present"),
        "pixel_accuracy": pixel_accuracy(intersect, truth),
        "mean_accuracy_present": mean_accuracy(intersect, truth, "present"),
        "mean_accuracy_all": mean_accuracy(intersect, truth, "all"),
        "frequency_weighted_iou": frequency_weighted_iou(intersect, truth, answer),
    }


def ratio(part: Any, whole: Any) -> np.ndarray:
    """`part / whole` in float64, NaN where the whole is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def mean(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Mean over the last axis of the chosen values; a chosen NaN is a 0."""
    return ratio(np.where(chosen, np.nan_to_num(values), 0).sum(-1), chosen.sum(-1))
