"""Seams: do labels change more often at the borders of tiles or windows than elsewhere?"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np


class Seams:
    """How often neighbouring pixels differ across given lines, against everywhere else.

    Two pixels are neighbours beside or above each other. A picture that was labelled in one piece
    has the same rate at any lines, so that a ratio of 1 says that nothing of them is seen.

    Args:
        rows: lines between rows r - 1 and r.
        columns: lines between columns c - 1 and c.
        ignore: a label whose pixels are not counted (no data, void).

    Attributes:
        counts: (2, 2) int64: pairs and differing pairs, elsewhere and at the lines.
    """

    def __init__(
        self, rows: Iterable[int] = (), columns: Iterable[int] = (), ignore: int | None = None
    ):
        self.rows = np.unique(np.fromiter(rows, np.int64))
        self.columns = np.unique(np.fromiter(columns, np.int64))
        self.ignore = ignore
        self.counts = np.zeros((2, 2), np.int64)

    @classmethod
    def of_windows(
        cls,
        windows: Iterable[tuple[int, int, int, int]],
        inner: tuple[int, int],
        labels: np.ndarray,
    ) -> Seams:
        """Seams of a picture at the borders of its windows, counted.

        Where the labels are larger than the picture that the windows lay on, all lines are taken
        between which their maps are interpolated across a border.

        Args:
            windows: (top, left, height, width) on a picture of `inner` (height, width) pixels.
            labels: (H, W), of the picture at any size.
        """
        lines: list[list[int]] = []
        windows = list(windows)
        for axis in (0, 1):
            scale = labels.shape[axis] / inner[axis]
            ends = {side for one in windows for side in (one[axis], one[axis] + one[axis + 2])}
            lines.append([])
            for end in (end for end in ends if 0 < end < inner[axis]):
                first = math.floor((end - 0.5) * scale - 0.5) + 1
                lines[-1] += range(first, math.ceil((end + 0.5) * scale + 0.5))
        seams = cls(lines[0], lines[1])
        seams.update(labels)
        return seams

    def update(self, labels: np.ndarray, top: int = 0, seen: int = 0) -> None:
        """Count labels (H, W), or a strip of them.

        Args:
            top: the row of the picture at which the strip begins.
            seen: how many of its first rows were counted before; one joins strips.
        """
        self._count(labels[seen:, :-1], labels[seen:, 1:], self.columns - 1, 1)
        self._count(labels[:-1], labels[1:], self.rows - top - 1, 0)

    def _count(self, a: np.ndarray, b: np.ndarray, lines: np.ndarray, axis: int) -> None:
        """Count pairs; `lines`: where along `axis` they lie across a line."""
        differ, other = a != b, 1 - axis
        if self.ignore is None:
            pairs = np.full(differ.shape[axis], differ.shape[other], np.int64)
        else:
            valid = (a != self.ignore) & (b != self.ignore)
            differ &= valid
            pairs = valid.sum(other, dtype=np.int64)
        both = np.stack([pairs, differ.sum(other, dtype=np.int64)])
        at = np.zeros(both.shape[1], bool)
        at[lines[(lines >= 0) & (lines < len(at))]] = True
        self.counts += np.stack([both[:, ~at].sum(1), both[:, at].sum(1)])

    def summary(self) -> dict[str, float | int | None]:
        """The rates (0 to 1) at the lines and elsewhere, their ratio, and the pairs at the lines.

        None where there is no pair, and for the ratio where nothing differs elsewhere.
        """
        (pairs, changes), (at_pairs, at_changes) = self.counts.tolist()
        elsewhere = changes / pairs if pairs else None
        at = at_changes / at_pairs if at_pairs else None
        ratio = at / elsewhere if elsewhere and at is not None else None
        return {"at_seams": at, "elsewhere": elsewhere, "ratio": ratio, "pairs_at_seams": at_pairs}
