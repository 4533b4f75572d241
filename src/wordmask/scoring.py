"""Scores to labels, a block of rows at a time.

Label 0 is background (or none of the words), label i the i-th class. Three rules exist, and a
method names its own: `softmax` (the harness that SCLIP, ClearCLIP, NACLIP and others share),
`presence` (CLIPer, supplement 6) and `paint` (CaR). Where a method cuts pictures into regions, a
region's pixels vote (CLIPtrase).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wordmask.encoding import Queries
from wordmask.errors import WordmaskError
from wordmask.methods.base import Method
from wordmask.vocabulary import Background
from wordmask.windows import ScoreMap

BLOCK_BYTES = 32 * 2**20
COMPLEMENT_POWER = 2.0  # of CLIPer's released code, v1


@dataclass(frozen=True)
class Decision:
    """How scores of one picture become labels.

    Args:
        method: gives the rule and its options (logit scale, thresholds, min_max).
        queries: whose score a row is.
        background: what label 0 means; `auto` and `names` need background rows in `queries`.
        block_bytes: limit for one float copy of a block of rows.
        coarse: the score map before refiners, where there were any.
        present: (C,) bool, the classes that are known to be in the picture; the others get no
            pixel. None: nothing is known.
    """

    method: Method
    queries: Queries
    background: Background
    block_bytes: int = BLOCK_BYTES
    coarse: ScoreMap | None = None
    present: Tensor | None = None

    def labels(
        self, scores: ScoreMap, size: tuple[int, int], regions: ScoreMap | None = None
    ) -> np.ndarray:
        """Labels (H, W), uint8, or uint16 for more than 255 classes.

        regions: maps whose argmax cuts the picture into regions that vote, see `Encoding`.
        """
        dtype = np.uint8 if self.queries.classes <= 255 else np.uint16
        vote = getattr(self.method, "vote", "majority")
        scores = self._voted(scores, size, regions)
        labels = np.empty(size, dtype)
        decide = RULES[self.method.decision](self, scores, size)
        for start, stop in self.blocks(scores, size):
            block = decide(scores.rows(start, stop, size))
            labels[start:stop] = block.cpu().numpy().astype(dtype)
        if regions is not None and vote == "majority":
            self._let_majority_decide(labels, regions)
        return labels

    def confidence(
        self, labels: np.ndarray, scores: ScoreMap, regions: ScoreMap | None = None
    ) -> np.ndarray:
        """The probability (H, W) float32 of the label that each pixel got in `labels`.

        That of a class is the largest among its names, softmax over all names. The background's is
        the largest among its own names, or (1 - p)^power where it comes from a complement or (with
        power 1) from a threshold and that is larger; p is the probability of the best class.

        Raises:
            WordmaskError: a method whose scores are no cosines and give no probabilities.
        """
        if self.method.decision != "softmax":
            raise WordmaskError(f"{self.method.name} gives class maps and no probabilities")
        height, width = labels.shape
        classes, rule = self.queries.classes, self.background
        scores = self._voted(scores, (height, width), regions)
        sure = np.empty((height, width), np.float32)
        for start, stop in self.blocks(scores, (height, width)):
            probability = self.probability(scores.rows(start, stop, (height, width)))
            own = probability[classes:]
            if not len(own) or rule.probability is not None or rule.power is not None:
                best = probability[:classes].amax(0, keepdim=True)
                own = torch.cat([own, (1 - best) ** (rule.power or 1)])
            probability = torch.cat([own.amax(0, keepdim=True), probability[:classes]])
            label = torch.from_numpy(labels[start:stop].astype(np.int64)).to(probability.device)
            sure[start:stop] = probability.gather(0, label[None])[0].cpu().numpy()
        return sure

    def probability(self, scores: Tensor) -> Tensor:
        """Scores of names (R, ...) as probabilities of classes, and of the background if named."""
        return self.queries.pool(torch.softmax(self.method.logit_scale * scores, dim=0), dim=0)

    def _voted(self, scores: ScoreMap, size: tuple[int, int], regions: ScoreMap | None) -> ScoreMap:
        """The scores as pixels have them where regions vote by their mean."""
        if regions is None or getattr(self.method, "vote", "majority") != "mean":
            return scores
        return _RegionMeans(self, scores, regions, size)

    def _let_majority_decide(self, labels: np.ndarray, regions: ScoreMap) -> None:
        """Give all pixels of a region the label that most of them have, in place."""
        height, width = labels.shape
        region = np.empty((height, width), np.intp)
        for start, stop in self.blocks(regions, (height, width)):
            region[start:stop] = regions.rows(start, stop, (height, width)).argmax(0).cpu().numpy()
        shape = regions.count, self.queries.classes + 1
        votes = np.bincount((region * shape[1] + labels).ravel(), minlength=shape[0] * shape[1])
        winner = votes.reshape(shape).argmax(1).astype(labels.dtype)
        np.copyto(labels, winner[region], where=region > 0)

    def presence(self, scores: ScoreMap) -> Tensor:
        """How much each class seems to be in the picture, (C,): the maximum of its map.

        Of its probability where the method's scores are cosines. With refiners the mean of the
        maxima before and after them (CLIPer's released code).
        """
        maxima = []
        for maps in [scores] if self.coarse is None else [self.coarse, scores]:
            tiles = [tile.scores.flatten(1) for tile in maps.tiles]
            if self.method.decision == "softmax":
                tiles = [self.probability(tile) for tile in tiles]
            maxima.append(torch.stack([t[: self.queries.classes].amax(1) for t in tiles]).amax(0))
        return torch.stack(maxima).mean(0)

    def blocks(self, scores: ScoreMap, size: tuple[int, int]) -> Iterator[tuple[int, int]]:
        """Start and stop of blocks of rows that fit `block_bytes`."""
        height, width = size
        rows = max(self.block_bytes // (4 * width * scores.count), 1)
        for start in range(0, height, rows):
            yield start, min(start + rows, height)


class _RegionMeans(ScoreMap):
    """Scores whose pixels hold the mean of their region; outside of all regions, their own."""

    def __init__(
        self, decision: Decision, scores: ScoreMap, regions: ScoreMap, size: tuple[int, int]
    ):
        super().__init__(scores.tiles, scores.pixel_size)
        self.scores, self.regions = scores, regions
        like = scores.tiles[0].scores
        total = like.new_zeros(scores.count, regions.count)
        pixels = like.new_zeros(regions.count)
        for start, stop in decision.blocks(scores, size):
            region = regions.rows(start, stop, size).argmax(0).flatten()
            total.index_add_(1, region, scores.rows(start, stop, size).flatten(1))
            pixels += region.bincount(minlength=regions.count)
        self.means = total / pixels.clamp_min(1)

    def rows(self, start: int, stop: int, size: tuple[int, int]) -> Tensor:
        """As of any score map."""
        region = self.regions.rows(start, stop, size).argmax(0)
        own = self.scores.rows(start, stop, size)
        return torch.where(region > 0, self.means[:, region], own)


class _Softmax:
    """Softmax over all names, maximum over the names of a class, argmax; then the background."""

    def __init__(self, decision: Decision, scores: ScoreMap, size: tuple[int, int]):
        self.decision = decision
        self.method = decision.method
        self.low = self.high = None
        if self.method.min_max:
            self.low, self.high = _extremes(decision, scores, size)
        self.kept: Tensor | None = None
        if decision.present is not None:
            self.kept = decision.present.to(scores.tiles[0].scores)
        elif self.method.area_threshold:
            self.kept = self._large_classes(scores, size)

    def _values(self, block: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities and what the argmax compares, both (C or C + 1, rows, W)."""
        queries = self.decision.queries
        probability = self.decision.probability(block)
        if self.low is None or self.high is None:
            return probability, probability
        span = (self.high - self.low).clamp_min(1e-12)
        return probability, queries.pool((block - self.low) / span, dim=0)

    def _large_classes(self, scores: ScoreMap, size: tuple[int, int]) -> Tensor:
        """Classes with more than `area_threshold` of all pixels that any class won."""
        classes = self.decision.queries.classes
        area = torch.zeros(classes + 1, dtype=torch.long)
        for start, stop in self.decision.blocks(scores, size):
            _, value = self._values(scores.rows(start, stop, size))
            area += torch.bincount(value.argmax(0).flatten().cpu(), minlength=classes + 1)
        share = area[:classes] / area[:classes].sum().clamp_min(1)
        return (share > self.method.area_threshold).to(scores.tiles[0].scores)

    def __call__(self, block: Tensor) -> Tensor:
        background = self.decision.background
        classes = self.decision.queries.classes
        probability, value = self._values(block)
        if self.kept is not None:
            value = torch.cat([value[:classes] * self.kept[:, None, None], value[classes:]])
            probability = value if self.low is None else probability
        # a tie goes to the background, which the harness counts first
        value = torch.cat([value[classes:], value[:classes]])
        label = value.argmax(0) + (0 if len(value) > classes else 1)
        best = probability[:classes].amax(0)
        if background.probability is not None:
            unsure = probability.amax(0) < background.probability
            return label.masked_fill(unsure, 0)
        if background.power is not None:
            return label.masked_fill((1 - best) ** background.power > best, 0)
        return label


class _Presence:
    """CLIPer's decision (supplement 6; methods that hand over class maps and not cosines).

    Each map is divided by its maximum and weighted by the class's score (`presence`); absent
    classes are dropped; then threshold or complement, and argmax. A pixel where nothing is left is
    background.
    """

    def __init__(self, decision: Decision, scores: ScoreMap, size: tuple[int, int]):
        self.background = decision.background
        self.method = decision.method
        self.score = score = decision.presence(scores)  # (C,)
        low, high = _extremes(decision, scores, size)
        kept = score > getattr(self.method, "score_threshold", 0.0)
        if decision.present is not None:
            kept = decision.present.to(score.device)
        kept = kept[:, None, None]
        if getattr(self.method, "normalize", False):
            self.low, self.factor = low, kept / (high - low).clamp_min(1e-12)
        else:
            self.low = torch.zeros_like(low)
            self.factor = kept * score[:, None, None] / (high + 1e-5)

    def __call__(self, block: Tensor) -> Tensor:
        best, label = block.sub_(self.low).mul_(self.factor).max(0)
        label = label + 1
        if self.background.probability is not None:
            return label.masked_fill(best < self.background.probability, 0)
        power = self.background.power
        if power is None and self.background.kind in ("names", "auto"):
            power = COMPLEMENT_POWER  # names alone are distractors and leave no pixel unlabelled
        if power is not None:
            return label.masked_fill((1 - best).clamp_min(0) ** power >= best, 0)
        return label.masked_fill(best <= 0, 0)


class _Paint(_Presence):
    """CaR's decision: masks are painted one over the other, that of the surest class last.

    A class covers the pixels where its map is above `mask_threshold` of its maximum. What no mask
    covers is background; where there is no background, the class whose weighted map is highest.
    """

    def __init__(self, decision: Decision, scores: ScoreMap, size: tuple[int, int]):
        super().__init__(decision, scores, size)
        self.score = self.score[:, None, None]
        self.threshold = decision.method.mask_threshold * self.score  # type: ignore[attr-defined]

    def __call__(self, block: Tensor) -> Tensor:
        value = block.mul_(self.factor)  # score * map / maximum
        best, index = torch.where(value > self.threshold, 1 + self.score, value).max(0)
        label = index + 1
        if self.background.kind == "none":
            return label.masked_fill(best <= 0, 0)
        own = value.gather(0, index[None])[0]
        if self.background.probability is not None:
            label = label.masked_fill(own < self.background.probability, 0)
        if self.background.power is not None:
            unsure = (1 - own).clamp_min(0) ** self.background.power >= own
            label = label.masked_fill(unsure, 0)
        return label.masked_fill(best <= 1, 0)


RULES: dict[str, type[_Softmax] | type[_Presence]] = {
    "softmax": _Softmax,
    "presence": _Presence,
    "paint": _Paint,
}


def _extremes(decision: Decision, scores: ScoreMap, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Minimum and maximum of every map at output size, each (R, 1, 1)."""
    like = scores.tiles[0].scores
    low = like.new_full((scores.count,), torch.inf)
    high = -low
    for start, stop in decision.blocks(scores, size):
        block = scores.rows(start, stop, size).flatten(1)
        torch.minimum(low, block.amin(1), out=low)
        torch.maximum(high, block.amax(1), out=high)
    return low[:, None, None], high[:, None, None]
