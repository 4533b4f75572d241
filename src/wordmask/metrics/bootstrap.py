"""Areas per picture: the mIoU of each picture, and bootstrap intervals over pictures."""

from __future__ import annotations

import numpy as np

from wordmask.errors import WordmaskError
from wordmask.metrics.confusion import MeanOver, Pairs, all_means, mean_iou


class PerPicture:
    """Areas per picture, for bootstrap intervals over pictures and for the mIoU of each.

    A picture takes 16 bytes for each class in its target or prediction.

    Args:
        classes, background: as in `Confusion`.

    Attributes:
        areas: by the id of the picture, (4, T) uint32: labels, and pixels in both, in the target
            and in the prediction, for the classes with any.
    """

    def __init__(self, classes: int, background: bool = True):
        self.classes = classes
        self.background = background
        self.areas: dict[str, np.ndarray] = {}

    def add(self, picture: str, pairs: Pairs) -> None:
        """Add the counts of a picture from `Confusion.count`.

        Raises:
            WordmaskError: the picture was counted before.
        """
        if picture in self.areas:
            raise WordmaskError(f"the picture {picture!r} is counted already; count each one once")
        labels = np.union1d(pairs.rows, pairs.columns)
        areas = np.zeros((4, len(labels)), np.uint32)
        areas[0] = labels
        _, rows, columns = np.intersect1d(pairs.rows, pairs.columns, True, return_indices=True)
        areas[1, np.searchsorted(labels, pairs.rows[rows])] = pairs.pixels[rows, columns]
        areas[2, np.searchsorted(labels, pairs.rows)] = pairs.pixels.sum(1)
        areas[3, np.searchsorted(labels, pairs.columns)] = pairs.pixels.sum(0)
        keep = areas[2:].any(0) if self.background else areas[2:].any(0) & (labels > 0)
        self.areas[picture] = areas[:, keep]

    def mean_iou(self, over: MeanOver = "present") -> dict[str, float]:
        """The mIoU of every picture by its id; NaN if all of it is void."""
        means = {}
        for picture, areas in self.areas.items():
            intersect, target, prediction = areas[1:].astype(np.int64)
            means[picture] = float(mean_iou(intersect, target, prediction, over))
        return means

    def resamples(self, count: int = 1000, seed: int = 0) -> dict[str, np.ndarray]:
        """Every mean over pictures drawn with replacement.

        The draws depend on `seed` and the ids of the pictures alone, so values of two methods or
        checkpoints on the same pictures are paired, see `paired_interval`.

        Args:
            count: number of resamples.
            seed: of the draws.

        Returns:
            By the names of `all_means`, (count,) each; NaN without a picture.
        """
        if count < 1:
            raise WordmaskError(f"got {count} resamples; give 1 or more")
        pictures = len(self.areas)
        if not pictures:
            return dict.fromkeys(all_means(*np.zeros((3, 1))), np.full(count, np.nan))
        ordered = [self.areas[picture] for picture in sorted(self.areas)]
        owner = np.repeat(np.arange(pictures), [areas.shape[1] for areas in ordered])
        labels, *areas = np.concatenate(ordered, axis=1).astype(np.int64)
        # how often each picture is in each resample; a float64 product of whole numbers below 2^53
        # is exact, so the order of the sums does not matter
        random = np.random.default_rng(seed)
        draws = random.multinomial(pictures, np.full(pictures, 1 / pictures), count)
        weights = draws.astype(np.float64)
        totals = np.zeros((3, count, self.classes + 1))
        for first in range(0, self.classes + 1, 64):  # a few classes at a time, to save memory
            here = (labels >= first) & (labels < first + 64)
            for total, area in zip(totals, areas, strict=True):
                table = np.zeros((pictures, min(64, self.classes + 1 - first)))
                table[owner[here], labels[here] - first] = area[here]
                total[:, first : first + 64] = weights @ table
        return all_means(*totals[..., 0 if self.background else 1 :])

    def intervals(
        self, level: float = 0.95, resamples: int = 1000, seed: int = 0
    ) -> dict[str, tuple[float, float]]:
        """Percentile bootstrap intervals of every mean, over pictures drawn with replacement.

        The same pictures give the same intervals whatever the order in which they were counted.

        Args:
            level: share of the resamples inside an interval.
            resamples: number of resamples.
            seed: of the draws.

        Returns:
            By the names of `all_means`, (low, high); NaN without a picture.
        """
        drawn = self.resamples(resamples, seed)
        return {name: percentile_interval(values, level) for name, values in drawn.items()}


def percentile_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The interval (low, high) that holds a share `level` of resampled values.

    Raises:
        WordmaskError: a level that is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise WordmaskError(f"got level {level}; give a level between 0 and 1")
    low, high = np.percentile(values, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def paired_interval(one: np.ndarray, other: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The interval of the difference `one - other` on the same pictures (paired bootstrap).

    one, other: (N,) values of `PerPicture.resamples` over the same pictures, with the same seed.
    """
    return percentile_interval(np.asarray(one) - np.asarray(other), level)
