"""CorrCLIP (Zhang et al., Reconstructing Patch Correlations in CLIP for OVSS, ICCV 2025)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.affinity import ByRows
from wordmask.devices import for_float64
from wordmask.encoding import DenseFeatures, Encoding
from wordmask.errors import WordmaskError
from wordmask.extras import need as need_module
from wordmask.methods.base import Method, Towers, register, to_grid
from wordmask.region_maps import check_source, nearest, network_of, region_map
from wordmask.region_vote import RegionVote
from wordmask.scoring import Rule
from wordmask.towers.clip import ClipTower, Need, Trace

SPATIAL = {12: 5, 24: 12, 32: 28}  # how many blocks are averaged, by the depth


@register
@dataclass(frozen=True)
class CorrClip(Method):
    """Patches attend within regions alone, by VFM features; regions then vote for one label.

    With U the unit VFM features of the patches, on the VFM's grid, and S = U U^T:

    1. Regions whose mean features are alike (cosine distance up to `merge`) are joined.
    2. Scope: two patches attend if they lie in one region; a patch in no region attends to, and
       from, all with a cosine above the mean of S. A = softmax(gamma S) in the scope, one map for
       all heads.
    3. main = A V, V of block N, and spatial = A V of the mean of middle blocks, enlarged to the
       VFM's grid and without residual or FFN. The output projection is applied first, and both are
       mixed at once, which is the same and cheaper.
    4. semantic: a copy of the class token for each region goes through all blocks, attends to the
       class token and to the patches of its region, and is painted on it.
    5. f = Proj(main) + Proj(spatial) + 0.5 Proj(semantic), each after the last layer norm.
    6. Map correction: every region of the picture takes its most frequent label.

    Variants. Source: the released code, revision 103bc18, by the card of it; the paper was not at
    hand.

    - `repaired`, the default: a pixel is in no region where the region map is 0.
    - `official` (released code): where it has the smallest number that is present. In a picture
      that is wholly segmented the first region then is not joined, attends by similarity alone,
      and its labels are not corrected.

    The published numbers take the regions from SAM 2, windows of 336 pixels with stride 112, and
    DINO ViT-B/8. Here the region map is made of the whole picture and cut into windows. The
    default, `felzenszwalb`, needs no network. An outside ablation finds nearly all of the gain in
    step 6, which is the refiner `vote:majority` of any method. Cost: one forward of CLIP with a
    token more for each region, one of the VFM, L^2 cosines, L its patches, and the regions.

    Args:
        region_maps: where region maps come from, see `vote`: "felzenszwalb", "slic", "attention",
            "sam", "sam2", "mask2former", "eomt", or a folder.
        merge: cosine distance up to which regions are joined; 0: none are.
        gamma: factor of the cosines in the attention.
        spatial_blocks: the first and the last of the blocks whose outputs are averaged, counted
            from 1; None: 6 to 10 of 12, 11 to 22 of 24, 3 to 30 of 32, else all but the first two
            and the last two.
        spatial_weight, semantic_weight: of the last two of the three features.
        facet: features of the VFM's last block: the sum of its "queries+keys", one of these, its
            "values", or its "output".
        smallest_unsegmented: take the smallest number for no region, as the released code does.
        correction: whether every region takes its most frequent label, step 6.
    """

    name = "corrclip"
    title = "CorrCLIP"
    year = 2025
    network = "vfm"
    extra = "regions"
    variants = {"repaired": {}, "official": {"smallest_unsegmented": True}}
    takes_regions = True
    scoring = Method.scoring | {"correction"}

    whole_patches: bool = True
    region_maps: str = "felzenszwalb"
    merge: float = 0.2
    gamma: float = 4.0
    spatial_blocks: tuple[int, ...] | None = None
    spatial_weight: float = 1.0
    semantic_weight: float = 0.5
    facet: Literal["queries+keys", "output", "queries", "keys", "values"] = "queries+keys"
    smallest_unsegmented: bool = False
    correction: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_source(self.region_maps)
        blocks = (1, 1) if self.spatial_blocks is None else self.spatial_blocks
        if len(blocks) != 2 or not 0 <= blocks[0] <= blocks[1]:
            raise WordmaskError(
                f"got spatial_blocks={self.spatial_blocks}; give the first and the last, counted "
                "from 1"
            )
        if self.gamma <= 0 or not 0 <= self.merge <= 2:
            raise WordmaskError(
                f"got gamma={self.gamma}, merge={self.merge}; gamma is above 0, merge a cosine "
                "distance from 0 to 2"
            )

    @property
    def networks(self) -> tuple[str, ...]:
        """The VFM, and the network that makes the regions, if one does."""
        return tuple(dict.fromkeys(("vfm", *network_of(self.region_maps))))

    @property
    def region_source(self) -> str | None:
        """The option `region_maps`."""
        return self.region_maps

    def need(self, depth: int) -> Need:
        """K and V of all blocks, F^0, F^{N-1} and the states that are averaged."""
        states = [0, depth - 1, *self._spatial(depth)]
        return Need.of(states, dict.fromkeys(range(1, depth + 1), "kv"))

    def _spatial(self, depth: int) -> range:
        """The states that are averaged."""
        if self.spatial_blocks is not None:
            return range(self.spatial_blocks[0], self.spatial_blocks[1] + 1)
        return spatial_states(depth)

    def encode(
        self, towers: Towers, pixels: Tensor, regions: Tensor | None = None
    ) -> DenseFeatures:
        """Features of normalised pixels (B, 3, H, W) with their region maps (B, H, W).

        Without maps, those of the pixels.
        """
        towers.clip.require_class_token(self.title)
        trace = self.trace(towers, pixels, self.need(towers.clip.depth), regions)
        return self.features(towers.clip, trace)

    def trace(
        self, towers: Towers, pixels: Tensor, need: Need, regions: Tensor | None = None
    ) -> Trace:
        """The pass of CLIP, and the VFM's features and the regions of the same pixels."""
        trace = super().trace(towers, pixels, need)
        pictures = self.unnormalise(pixels, towers.clip)
        if regions is None:
            maps = [region_map(self.region_maps, one, towers.networks) for one in pictures]
            regions = torch.stack(maps).to(towers.clip.device)
        features = towers.networks.vfm.features(pictures, self.facet)
        return replace(trace, auxiliary=features, regions=regions)

    def features(self, tower: ClipTower, trace: Trace) -> DenseFeatures:
        """Steps 1 to 5, on the VFM's grid."""
        assert trace.auxiliary is not None
        n, grid = tower.depth, (trace.auxiliary.shape[2], trace.auxiliary.shape[3])
        block = tower.block(n)
        mean = torch.stack([trace.states[s] for s in self._spatial(n)]).mean(0)
        spatial = block.values(block.norm1(mean))
        values = torch.cat([block.output(v) for v in (trace.values[n], spatial)], -1)
        maps = to_grid(values, trace.grid)  # (B, 2 D, h, w)
        features = []
        for i, both in enumerate(maps):
            merged, attention = self._scope(trace, i)
            mixed = attention.mix(both, grid).to(tower.dtype).flatten(1).T  # (L', 2 D)
            main, spatial = tower.project(torch.stack(mixed.chunk(2, dim=1)))
            inside = nearest(merged, trace.grid)
            ids, index = inside.unique(return_inverse=True)
            tokens = region_tokens(tower, trace, i, ids[:, None] == inside.flatten())
            painted = tower.project(tokens)[nearest(index, grid).flatten()]
            one = main + self.spatial_weight * spatial + self.semantic_weight * painted
            features.append(to_grid(one, grid))
        return DenseFeatures(torch.stack(features))

    def mixing_map(self, tower: ClipTower, trace: Trace) -> Tensor:
        """A on CLIP's grid, (B, 1, T, T); the class token attends to itself alone.

        The attention of a patch is the mean over the VFM's patches around its centre.
        """
        assert trace.auxiliary is not None
        h, w = trace.grid
        patches = torch.eye(h * w, device=tower.device).unflatten(1, trace.grid)
        maps = []
        for i in range(len(trace.auxiliary)):
            size = (trace.auxiliary.shape[2], trace.auxiliary.shape[3])
            given = self._scope(trace, i)[1].mix(patches, size)
            given = F.interpolate(given[None], size=trace.grid, mode="bilinear", antialias=True)
            alone = tower.class_tokens
            maps.append(F.pad(given[0].flatten(1).T, (alone, 0, alone, 0)))
            maps[-1][:alone, :alone] = torch.eye(alone)
        return torch.stack(maps)[:, None]

    def _scope(self, trace: Trace, i: int) -> tuple[Tensor, RegionAttention]:
        """Steps 1 and 2 for picture i: the joined regions on the VFM's grid, and A."""
        assert trace.auxiliary is not None
        assert trace.regions is not None
        features = trace.auxiliary[i]
        regions = nearest(trace.regions[i], (features.shape[1], features.shape[2]))
        if self.smallest_unsegmented:
            regions = drop_smallest(regions)
        unit = F.normalize(features.flatten(1).T, dim=-1)
        merged = merge_regions(regions.flatten(), unit, self.merge)
        return merged.view(regions.shape), RegionAttention(unit, merged, self.gamma)

    def rule(self, encoding: Encoding, i: int) -> Rule:
        """The softmax of all methods, then the map correction."""
        pixelwise = super().rule(encoding, i)
        if not self.correction or not encoding.regions:
            return pixelwise
        regions = encoding.regions[i]
        if self.smallest_unsegmented:
            regions = drop_smallest(regions)
        return RegionVote(pixelwise, regions, "majority")


def spatial_states(depth: int) -> range:
    """The numbers n of the states F^n that are averaged in a tower of `depth` blocks."""
    count = SPATIAL.get(depth, max(depth - 4, 1))
    return range(max(depth - 1 - count, 0), max(depth - 1, 1))


def drop_smallest(regions: Tensor) -> Tensor:
    """A region map with its smallest number as 0."""
    return regions.masked_fill(regions == regions.min(), 0)


def merge_regions(regions: Tensor, unit: Tensor, most: float) -> Tensor:
    """Join regions (L,) whose mean features are alike, directly or through others (DBSCAN).

    Args:
        regions: integers, 0 for none.
        unit: (L, D) features of length 1.
        most: the distance up to which two are, in cosines below the highest of all pairs.
    """
    ids, index = regions.unique(return_inverse=True)
    named = ids != 0
    if int(named.sum()) < 2 or not most:
        return regions
    means = unit.new_zeros(len(ids), unit.shape[1]).index_add_(0, index, unit)
    means = F.normalize(means[named], dim=-1)
    similarity = means @ means.T
    near = (similarity.max() - similarity <= most).cpu().numpy()
    components = need_module("scipy.sparse.csgraph", "regions", "CorrCLIP").connected_components
    joined = torch.from_numpy(components(near, directed=False)[1]).to(regions)
    numbers = torch.zeros_like(ids)
    numbers[named] = joined + 1
    return numbers[index]


class RegionAttention(ByRows):
    """softmax(gamma S) of the cosines S within regions.

    Two patches attend to each other if they lie in one region, or if either is in none and their
    cosine is above the mean of S; a patch always attends to itself.

    Args:
        unit: (L, D) features of length 1.
        regions: (L,) integers, 0 for no region.
        gamma: factor of the cosines.
    """

    def __init__(self, unit: Tensor, regions: Tensor, gamma: float):
        self.unit, self.regions, self.gamma = unit, regions, gamma
        self.size = len(unit)
        mean = for_float64(unit).mean(0, dtype=torch.float64)
        self.mean = float(mean @ mean)

    def scope(self, index: slice) -> tuple[Tensor, Tensor]:
        """Rows of the cosines, and whether a pair attends, both (n, L)."""
        similarity = self.unit[index] @ self.unit.T
        own, all_ = self.regions[index][:, None], self.regions
        free = (own == 0) | (all_ == 0)
        allowed = torch.where(free, similarity > self.mean, own == all_)
        number = torch.arange(self.size, device=own.device)
        return similarity, allowed | (number[index][:, None] == number)

    def rows(self, index: slice) -> Tensor:
        """The rows that `index` picks, (n, L)."""
        similarity, allowed = self.scope(index)
        return torch.softmax((self.gamma * similarity).masked_fill(~allowed, -torch.inf), dim=-1)


def region_tokens(tower: ClipTower, trace: Trace, i: int, members: Tensor) -> Tensor:
    """Copies of the class token that see one region each, after all blocks: (R, D).

    A copy attends to the class token (and registers) and to the patches of its region, not to
    itself; nothing attends to it, so that all other tokens are those of the plain pass.

    Args:
        tower: a CLIP with a class token.
        trace: a pass with F^0 and the keys and values of all blocks.
        i: the picture in it.
        members: (R, L) bool, the patches of each region; of none, a copy sees the class token.
    """
    count, first = len(members), tower.class_tokens
    bias = torch.zeros(count, first + members.shape[1], device=members.device, dtype=tower.dtype)
    bias[:, first:].masked_fill_(~members, -torch.inf)
    x = trace.states[0][i : i + 1, :1].expand(-1, count, -1)
    for n in range(1, tower.depth + 1):
        block = tower.block(n)
        k, v = trace.keys[n][i : i + 1], trace.values[n][i : i + 1]
        x = x + block.output(tower.attend(block.queries(block.norm1(x)), k, v, bias=bias))
        x = x + block.feed_forward(x)
    return x[0]
