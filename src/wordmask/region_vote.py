"""The vote of regions: all pixels of a region get one label, or the mean of their scores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from wordmask.region_maps import nearest
from wordmask.scoring import BlockLabels, Rule, Scored, best_names
from wordmask.text_queries import TextQueries
from wordmask.windows import ScoreMap


@dataclass(frozen=True, eq=False)
class RegionVote(Rule):
    """The rule of a method, followed by a vote in each region of the picture.

    Args:
        pixelwise: turns scores into labels.
        regions: a region map (h, w) of the picture on any grid, 0 for no region; or maps (1 + K),
            each pixel being in the region whose map is the highest, with map 0 for no region.
            Pixels in no region keep their own label.
        vote: "majority" of the pixels' labels, where a tie goes to the smaller, or the "mean" of
            their scores.
    """

    pixelwise: Rule
    regions: Tensor | ScoreMap
    vote: Literal["majority", "mean"]

    @property
    def gives_probabilities(self) -> bool:  # type: ignore[override]
        """As the pixelwise rule does."""
        return self.pixelwise.gives_probabilities

    def decide(self, scored: Scored, allowed: Tensor | None) -> BlockLabels:
        """As for the pixelwise rule."""
        return self.pixelwise.decide(scored, allowed)

    def pool(self, maps: Tensor, texts: TextQueries) -> Tensor:
        """As for the pixelwise rule."""
        return self.pixelwise.pool(maps, texts)

    def image_maps(self, maps: Tensor, texts: TextQueries) -> Tensor:
        """As for the pixelwise rule."""
        return self.pixelwise.image_maps(maps, texts)

    def image_scores(self, scored: Scored) -> Tensor:
        """As for the pixelwise rule."""
        return self.pixelwise.image_scores(scored)

    def labels(self, scored: Scored, allowed: Tensor | None) -> np.ndarray:
        """See `Scored.labels`."""
        if self.vote == "mean":
            return super().labels(self._voted(scored), allowed)
        return take_majority(
            self.pixelwise.labels(scored, allowed), self._region_of_pixels(scored).numpy()
        )

    def confidence(self, scored: Scored, labels: np.ndarray) -> np.ndarray:
        """See `Scored.confidence`."""
        return self.pixelwise.confidence(self._voted(scored), labels)

    def _voted(self, scored: Scored) -> Scored:
        """The scores, averaged over regions if they vote by their mean."""
        if self.vote == "majority":
            return scored
        return replace(scored, maps=_RegionMeans(scored, self._region_of_pixels(scored)))

    def _region_of_pixels(self, scored: Scored) -> Tensor:
        """The region of each pixel of the picture, (H, W) int32 on the CPU."""
        if isinstance(self.regions, Tensor):
            return nearest(self.regions.cpu().int(), scored.size)
        region = torch.empty(scored.size, dtype=torch.int32)
        everywhere = torch.arange(self.regions.count)
        for top, best in best_names(replace(scored, maps=self.regions), everywhere):
            region[top : top + len(best)] = best
        return region


def take_majority(labels: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Labels (H, W) of which every region has the one that most of its pixels had.

    Of equally frequent labels the smaller wins; pixels in region 0 keep their own.
    """
    shape = int(regions.max()) + 1, int(labels.max()) + 1
    pairs = regions.astype(np.int64) * shape[1] + labels
    votes = np.bincount(pairs.ravel(), minlength=shape[0] * shape[1])
    winner = votes.reshape(shape).argmax(1).astype(labels.dtype)
    return np.where(regions > 0, winner[regions], labels)


def region_means(scores: Tensor, regions: Tensor) -> Tensor:
    """The mean of scores (R, h, w) in each region of a map (h, w); in region 0 they stay."""
    flat = regions.flatten().long()
    total = scores.new_zeros(len(scores), int(flat.max()) + 1)
    total.index_add_(1, flat, scores.flatten(1))
    means = total / flat.bincount().clamp_min(1)
    return torch.where(regions > 0, means[:, flat].view_as(scores), scores)


class _RegionMeans(ScoreMap):
    """Scores averaged over each region; pixels outside of all regions keep their own."""

    def __init__(self, scored: Scored, regions: Tensor):
        super().__init__(scored.maps.tiles, scored.maps.pixel_size)
        self.scores, self.size = scored.maps, scored.size
        like = scored.maps.tiles[0].scores
        self.regions = regions.to(like.device)
        count = int(regions.max()) + 1
        total, pixels = like.new_zeros(self.count, count), like.new_zeros(count)
        for start, stop in scored.blocks():
            region = self.regions[start:stop].flatten().long()
            total.index_add_(1, region, self.scores.rows(start, stop, scored.size).flatten(1))
            pixels += region.bincount(minlength=count)
        self.means = total / pixels.clamp_min(1)

    def stretches(self, size: tuple[int, int]) -> None:
        """See `ScoreMap.stretches`; the borders of regions are no bilinear weights."""

    def narrow(self, start: int, stop: int, size: tuple[int, int]) -> Tensor:
        """See `ScoreMap.narrow`; here as wide as the picture."""
        region = nearest(self.regions, size)[start:stop].long()
        own = self.scores.rows(start, stop, size)
        return torch.where(region > 0, self.means[:, region], own)
