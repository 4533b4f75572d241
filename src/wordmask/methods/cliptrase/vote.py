"""The vote of regions: all pixels of a region get one label, or the mean of their scores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from wordmask.scoring import BlockLabels, Rule, Scored, SoftmaxRule, best_names
from wordmask.text_queries import TextQueries
from wordmask.windows import ScoreMap


@dataclass(frozen=True, eq=False)
class RegionVote(Rule):
    """A pixelwise rule, followed by a vote in each region of the picture.

    Args:
        pixelwise: turns scores into labels.
        regions: (1 + K) maps; each pixel belongs to the region of the highest. Map 0 stands for no
            region: its pixels keep their own label.
        vote: "majority" of the pixels' labels, or the "mean" of their scores.
    """

    gives_probabilities: ClassVar[bool] = True

    pixelwise: SoftmaxRule
    regions: ScoreMap
    vote: Literal["majority", "mean"]

    def decide(self, scored: Scored, allowed: Tensor | None) -> BlockLabels:
        """As for the pixelwise rule."""
        return self.pixelwise.decide(scored, allowed)

    def pool(self, maps: Tensor, texts: TextQueries) -> Tensor:
        """As for the pixelwise rule."""
        return self.pixelwise.pool(maps, texts)

    def image_maps(self, maps: Tensor, texts: TextQueries) -> Tensor:
        """As for the pixelwise rule."""
        return self.pixelwise.image_maps(maps, texts)

    def labels(self, scored: Scored, allowed: Tensor | None) -> np.ndarray:
        """See `Scored.labels`."""
        if self.vote == "mean":
            return super().labels(self._voted(scored), allowed)
        labels = self.pixelwise.labels(scored, allowed)
        self._apply_majority(scored, labels)
        return labels

    def confidence(self, scored: Scored, labels: np.ndarray) -> np.ndarray:
        """See `Scored.confidence`."""
        return self.pixelwise.confidence(self._voted(scored), labels)

    def _voted(self, scored: Scored) -> Scored:
        """The scores, averaged over regions if they vote by their mean."""
        if self.vote == "majority":
            return scored
        return replace(scored, maps=_RegionMeans(scored, self.regions))

    def _apply_majority(self, scored: Scored, labels: np.ndarray) -> None:
        """Give all pixels of a region the label that most of them have, in place."""
        region = np.empty(labels.shape, np.intp)
        everywhere = torch.arange(self.regions.count)
        for top, best in best_names(replace(scored, maps=self.regions), everywhere):
            region[top : top + len(best)] = best.numpy()
        shape = self.regions.count, scored.texts.classes + 1
        votes = np.bincount((region * shape[1] + labels).ravel(), minlength=shape[0] * shape[1])
        winner = votes.reshape(shape).argmax(1).astype(labels.dtype)
        np.copyto(labels, winner[region], where=region > 0)


class _RegionMeans(ScoreMap):
    """Scores averaged over each region; pixels outside of all regions keep their own."""

    def __init__(self, scored: Scored, regions: ScoreMap):
        super().__init__(scored.maps.tiles, scored.maps.pixel_size)
        self.scores, self.regions = scored.maps, regions
        like = scored.maps.tiles[0].scores
        total = like.new_zeros(self.count, regions.count)
        pixels = like.new_zeros(regions.count)
        for start, stop in scored.blocks():
            region = regions.rows(start, stop, scored.size).max(0).indices.flatten()
            total.index_add_(1, region, self.scores.rows(start, stop, scored.size).flatten(1))
            pixels += region.bincount(minlength=regions.count)
        self.means = total / pixels.clamp_min(1)

    def stretches(self, size: tuple[int, int]) -> None:
        """See `ScoreMap.stretches`; the borders of regions are no bilinear weights."""

    def narrow(self, start: int, stop: int, size: tuple[int, int]) -> Tensor:
        """See `ScoreMap.narrow`; here as wide as the picture."""
        region = self.regions.rows(start, stop, size).max(0).indices
        own = self.scores.rows(start, stop, size)
        return torch.where(region > 0, self.means[:, region], own)
