"""Expected calibration error: the gap between confidence and accuracy of predictions."""

from __future__ import annotations

import numpy as np

from wordmask.datasets import VOID
from wordmask.errors import WordmaskError
from wordmask.metrics.confusion import ratio

CONFIDENCE_LEVELS = 65535  # confidences are rounded to this many steps, so that sums are exact


class Calibration:
    """Expected calibration error over pixels (Guo et al., ICML 2017, Eq. 3).

    Pixels are put in bins of equal width by the confidence of their prediction. Confidences are
    rounded to 1 / 65535 first, which keeps every sum a whole number.

    Args:
        bins: number of bins.

    Attributes:
        counts: (3, bins) int64: pixels, pixels predicted right, sum of confidences in 1 / 65535.
    """

    def __init__(self, bins: int = 15):
        if not 1 <= bins <= 1000:
            raise WordmaskError(f"got {bins} bins; give 1 to 1000")
        self.bins = bins
        self.counts = np.zeros((3, bins), np.int64)

    def count(
        self, target: np.ndarray, prediction: np.ndarray, confidence: np.ndarray
    ) -> np.ndarray:
        """The counts of a picture, for `add`: (3, bins). Void pixels are left out.

        Args:
            target, prediction: (H, W) labels.
            confidence: (H, W), 0 to 1, of the prediction, such as its probability.

        Raises:
            WordmaskError: another size, or a number outside 0 to 1.
        """
        if confidence.shape != target.shape:
            raise WordmaskError(
                f"got confidences of shape {confidence.shape} for a target of shape {target.shape}"
            )
        if not (confidence.min() >= 0 and confidence.max() <= 1):  # NaN fails as well
            raise WordmaskError("got confidences outside 0 to 1, or NaN; give probabilities")
        valid = target != VOID
        levels = np.rint(confidence[valid] * CONFIDENCE_LEVELS).astype(np.int64)
        bins = np.minimum(levels * self.bins // CONFIDENCE_LEVELS, self.bins - 1)
        right = bins[target[valid] == prediction[valid]]
        sums = np.bincount(bins, levels, self.bins)  # float64 of whole numbers, exact
        counts = (np.bincount(bins, minlength=self.bins), np.bincount(right, minlength=self.bins))
        return np.stack([*counts, sums.astype(np.int64)])

    def add(self, counts: np.ndarray) -> None:
        """Add the counts of a picture from `count`."""
        self.counts += counts

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean confidence and accuracy in every bin, (bins,) each; NaN in an empty one."""
        pixels, right, levels = self.counts
        return ratio(levels, pixels * CONFIDENCE_LEVELS), ratio(right, pixels)

    def error(self) -> float:
        """Mean over pixels of the distance of confidence and accuracy in their bin."""
        confidence, accuracy = self.curve()
        pixels = self.counts[0]
        gap = np.nan_to_num(np.abs(confidence - accuracy))
        return float(ratio((gap * pixels).sum(), pixels.sum()))
