"""The vote of regions: what belongs together gets one word (CorrCLIP's map correction)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from wordmask.errors import WordmaskError
from wordmask.refiners.base import Refiner, RefinerInput, register_refiner
from wordmask.region_maps import check_source, nearest, network_of, region_map
from wordmask.region_vote import RegionVote, region_means
from wordmask.scoring import Rule
from wordmask.towers.auxiliary import AuxiliaryModels


@register_refiner
@dataclass(frozen=True)
class Vote(Refiner):
    """All pixels of a region of the picture vote for one word, whatever made the regions.

    Pixels in no region keep what they have. Variants:

    - `mean`, the default: every pixel gets the mean probability that its region has for each word,
      so that thresholds, backgrounds and later refiners go on with probabilities.
    - `majority`: labels are made as without it, the background among them; then every region takes
      the one that most of its pixels have, the smaller of equally frequent ones. This is step h of
      CorrCLIP's released code. Maps and scores stay as they are.

    Regions come from `region_maps`:

    - `felzenszwalb`, the default, and `slic`: by colour alone, no network.
    - `attention`: clusters of the VFM's patches, by average linkage of the cosines of their keys.
    - `sam`, `sam2`: their masks of everything, small ones over large ones.
    - `mask2former`, `eomt`: segments of a network that was trained to find things and stuff.
    - a folder: a map for each picture, `NAME.png` (numbers, 8 or 16 bit, 0 for none; or colours,
      black for none) or `NAME.npz` (one array, integers (H, W) or masks (K, H, W)).

    Args:
        region_maps: see above.
        vote: "mean" or "majority".
        short_side: `mean` works on a grid of at most this short side, in pixels.
    """

    name = "vote"
    title = "Vote of regions"
    extra = "regions"
    of_probabilities = True
    variants = {"mean": {}, "majority": {"vote": "majority"}}

    region_maps: str = "felzenszwalb"
    vote: Literal["mean", "majority"] = "mean"
    short_side: int = 448

    def __post_init__(self) -> None:
        super().__post_init__()
        check_source(self.region_maps)
        if self.short_side < 1:
            raise WordmaskError(f"got short_side={self.short_side}; it is pixels above 0")

    @property
    def networks(self) -> tuple[str, ...]:
        """The network that makes the regions, if one does."""
        return network_of(self.region_maps)

    @property
    def active(self) -> bool:
        """False for the vote of labels, which leaves maps alone."""
        return not self.decides

    @property
    def decides(self) -> bool:
        """Whether labels vote."""
        return self.vote == "majority"

    def prepare(self, picture: RefinerInput, networks: AuxiliaryModels) -> Tensor:
        """The region map (h, w) of the picture."""
        return region_map(
            self.region_maps, picture.image, networks, name=picture.name, size=picture.size
        )

    def grid(self, prepared: Tensor) -> tuple[int, int]:
        """That of the regions, or coarser."""
        h, w = prepared.shape
        shrink = min(self.short_side / min(h, w), 1)
        return max(round(h * shrink), 1), max(round(w * shrink), 1)

    def refine(self, prepared: Tensor, scores: Tensor) -> Tensor:
        """The mean of maps (R, h, w) in each region, on the regions' grid."""
        grid = self.grid(prepared)
        if scores.shape[1:] != grid:
            scores = F.interpolate(scores[None], size=grid, mode="bilinear")[0]
        return region_means(scores, nearest(prepared, grid).to(scores.device))

    def rule(self, prepared: Tensor, rule: Rule) -> Rule:
        """The rule of the method, then the vote of labels."""
        return RegionVote(rule, prepared, "majority")
