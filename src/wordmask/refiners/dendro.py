"""Nested clusters of a vision foundation model's patches: our own refiner (docs/beyond.md)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.clusters import Linkage, cluster_tree, cut_tree
from wordmask.errors import WordmaskError
from wordmask.refiners.base import Refiner, RefinerInput, register_refiner
from wordmask.refiners.vfm import Facet, features_of
from wordmask.towers.auxiliary import AuxiliaryModels


@dataclass(frozen=True)
class Nested:
    """The clusters of one picture at all levels.

    Attributes:
        members: (K, L), 1 where a patch is in a cluster: K clusters of all cuts.
        cuts: how many there are; every patch is in one cluster of each.
        grid: h, w of the L patches.
    """

    members: Tensor
    cuts: int
    grid: tuple[int, int]


@register_refiner
@dataclass(frozen=True)
class Dendro(Refiner):
    """Every patch gets the mean probabilities of the clusters it is in, coarse ones and fine ones.

    The VFM's patches are joined to trees (`wordmask.clusters`), and each is cut into 2, 4, 8, ...
    2^levels clusters. The scores s of a patch become probabilities p = softmax(t s) over the words;
    those of a cluster are the mean of its patches', weighted by max(p)^power, since a patch that is
    sure of its word knows more than one that is not. A patch gets the mean q of its clusters of all
    cuts of all trees. t is `sharpness` over the contrast of the scores, the root of the mean square
    of their differences from their mean over the words: it fits cosines as well as class maps of
    any size, and no temperature of a method is needed.

    What comes back are scores again: (log q + Z) / t, Z the log-sum-exp of t s averaged like p.
    Their softmax at t is q, and at any temperature it has q's order; where nothing is averaged they
    are s; they are not below the average of s over the clusters; and a times the scores gives a
    times the result. A word's map depends on the other words; one word alone is averaged linearly.

    Variants: `nested`.
    Cost: one forward of the VFM, L^2 distances and their trees, L its patches: on one CPU core and
    for 20 words 0.05 s and 17 MiB with 768 patches, 1.6 s and 250 MiB with 4096.

    Args:
        short_side: larger pictures are resized to it, in pixels; None: pictures keep their size.
        facet: features of the VFM's last block, see `vfm`.
        levels: number of cuts of a tree; where there are fewer patches, each is a cluster.
        sharpness, power: see above; power 0 weighs all patches alike.
        linkage, spacing: of the trees, see `wordmask.clusters.cluster_tree`.
        trees: how many there are, each with twice the spacing of the one before, `spacing` in the
            middle. One is three times as fast, and hangs on small differences.
    """

    name = "dendro"
    title = "Nested clusters"
    network = "vfm"
    variants = {"nested": {}}

    short_side: int | None = 336
    facet: Facet = "output"
    levels: int = 7
    sharpness: float = 1.0
    power: float = 3.0
    linkage: Linkage = "weighted"
    spacing: float = 0.3
    trees: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        side = 1 if self.short_side is None else self.short_side
        if not 1 <= self.levels <= 16 or self.trees < 1 or side < 1:
            raise WordmaskError(
                f"got levels={self.levels}, trees={self.trees}, short_side={self.short_side}; "
                "levels are 1 to 16, trees at least 1, short_side pixels above 0"
            )
        if self.sharpness <= 0 or min(self.power, self.spacing) < 0:
            raise WordmaskError(
                f"got sharpness={self.sharpness}, power={self.power}, spacing={self.spacing}; "
                "sharpness is above 0, the others are not below 0"
            )

    def prepare(self, picture: RefinerInput, networks: AuxiliaryModels) -> Nested:
        """The VFM's features of the picture, and the clusters of its patches."""
        features = features_of(picture, networks, self.short_side, self.facet)
        spacings = [self.spacing * 2 ** (i - (self.trees - 1) / 2) for i in range(self.trees)]
        trees = [cluster_tree(features, spacing, self.linkage) for spacing in spacings]
        cuts = [cut_tree(tree, 2**n) for tree in trees for n in range(1, self.levels + 1)]
        members = np.concatenate([np.arange(cut.max() + 1)[:, None] == cut for cut in cuts])
        grid = features.shape[1], features.shape[2]
        return Nested(torch.from_numpy(members).to(features), len(cuts), grid)

    def refine(self, prepared: Nested, scores: Tensor) -> Tensor:
        """Scores (R, h, w) on any grid, to (R, h', w') on the VFM's grid."""
        members = prepared.members.to(scores)
        s = F.interpolate(scores[None], size=prepared.grid, mode="bilinear")[0].flatten(1)
        contrast = (s - s.mean(0)).square().mean().sqrt()
        t = torch.where(contrast > 1e-6 * s.abs().amax(), self.sharpness / contrast, 1)
        z = torch.logsumexp(t * s, dim=0, keepdim=True)
        p = torch.exp(t * s - z)
        weight = p.amax(0) ** self.power
        total = members @ weight
        of_clusters = (torch.cat([p, z]) * weight) @ members.T / total
        mean = of_clusters @ members / prepared.cuts
        tiny = torch.finfo(mean.dtype).tiny
        return ((mean[:-1].clamp_min(tiny).log() + mean[-1]) / t).unflatten(1, prepared.grid)
