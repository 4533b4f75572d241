"""OV-Stitcher (2026, code at atw617/OV-Stitcher): CorrCLIP on windows joined before attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.encoding import DenseFeatures
from wordmask.methods.base import Towers, register, to_grid
from wordmask.methods.corrclip import CorrClip, region_tokens
from wordmask.region_maps import nearest, region_map
from wordmask.towers.clip import ClipTower, Need, Trace
from wordmask.windows import GridMean, place_windows


@register
@dataclass(frozen=True)
class OvStitcher(CorrClip):
    """CorrCLIP for pictures seen in windows, with its attention over all windows at once.

    Windows go through CLIP one by one. What they have is averaged on the patch grid of the picture
    where they overlap; so are the VFM's patch tokens before its last block and their queries, keys
    and values in it, which attend to each other over the whole picture. Regions, their joining, the
    scope, A and the map correction are CorrCLIP's, once for the whole picture. Three branches:

    - main: A V of block N, as there, V averaged;
    - spatial: in each of the same middle blocks, the windows' inputs, queries, keys and values are
      averaged, attention is global and the FFN follows; the mean of these outputs gives V;
    - semantic: in each window a copy of the class token for each region, painted on its patches.

    Variants: `repaired`, the default, has attention heads in the spatial branch, and 0 for no
    region. In `official` (released code) there is one softmax over the whole width, scaled as if
    there were heads, and no region is the smallest number.

    Windows are taken in whole patches, of each network its own. The published numbers have windows
    of 336 and stride 112, SAM 2, DINO ViT-B/8, and 15 sentences for each class beside the
    templates. Cost: one forward of CLIP and of the VFM for each window, the last block of the VFM
    and L^2 attention in the spatial blocks over the whole picture, and CorrCLIP's L^2 cosines.

    Args:
        facet: features of the VFM's last block: here its "output", before the last norm.
        split_heads: see the variants.
    """

    name = "ov_stitcher"
    title = "OV-Stitcher"
    year = 2026
    variants = {
        "repaired": {},
        "official": {"split_heads": False, "smallest_unsegmented": True},
    }
    own_windows = True

    window: int = 336
    facet: Literal["queries+keys", "output", "queries", "keys", "values"] = "output"
    split_heads: bool = True

    def encode(
        self, towers: Towers, pixels: Tensor, regions: Tensor | None = None
    ) -> DenseFeatures:
        """As `CorrClip.encode`; the pictures are whole."""
        tower = towers.clip
        tower.require_class_token(self.title)
        pictures = self.unnormalise(pixels, tower)
        if regions is None:
            maps = [region_map(self.region_maps, one, towers.networks) for one in pictures]
            regions = torch.stack(maps).to(tower.device)
        sides = (self.window or max(pixels.shape[2:]), self.stride)
        vfm = towers.networks.vfm.stitched(pictures, *sides, self.facet)
        weights = (1.0, self.spatial_weight, self.semantic_weight)
        features = []
        for one in zip(pixels.split(1), regions.split(1), vfm.split(1), strict=True):
            parts = zip(weights, self.branches(tower, *one), strict=True)
            rows = torch.stack([weight * tower.project(x) for weight, x in parts]).sum(0)
            features.append(to_grid(rows, (vfm.shape[2], vfm.shape[3])))
        return DenseFeatures(torch.stack(features))

    def branches(
        self, tower: ClipTower, pixels: Tensor, regions: Tensor, vfm: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Main, spatial and semantic tokens of one picture, (L', D) each, on the VFM's grid.

        pixels (1, 3, H, W), regions (1, H, W), vfm (1, C, h', w').
        """
        p, fine = tower.patch, (vfm.shape[2], vfm.shape[3])
        height, width = pixels.shape[2], pixels.shape[3]
        whole = Trace((height // p, width // p), auxiliary=vfm, regions=regions)
        merged, attention = self._scope(whole, 0)
        inside = nearest(nearest(merged, (height, width)), whole.grid)
        values, state, semantic = self.joined(tower, pixels, inside)
        last = tower.block(tower.depth)
        spatial = _joined(last.values(last.norm1(state.flatten(1, 2))))
        both = torch.cat([values, spatial.view_as(values)]).permute(0, 3, 1, 2)
        rows = F.interpolate(both, size=fine, mode="bilinear").flatten(2).transpose(1, 2)
        main, spatial = (last.output((attention @ x)[None, None])[0] for x in rows)
        painted = nearest(semantic.permute(0, 3, 1, 2), fine)[0]
        return main, spatial, painted.flatten(1).T

    def joined(
        self, tower: ClipTower, pixels: Tensor, regions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What windows have, averaged on the patch grid of the picture, (1, h, w, D) each.

        Returns:
            The values of block N, the mean output of the spatial blocks, and region tokens.
        """
        n, p = tower.depth, tower.patch
        grid = regions.shape[0], regions.shape[1]
        blocks = sorted({max(s, 1) for s in self._spatial(n)})
        need = Need.of(
            range(n), dict.fromkeys(range(1, n + 1), "kv") | dict.fromkeys(blocks, "qkv")
        )
        values, semantic = GridMean(grid), GridMean(grid)
        inner = {b: GridMean(grid) for b in blocks}
        sides = (self.window or max(pixels.shape[2:]), self.stride)
        for window in place_windows(*grid, *(max(side // p, 1) for side in sides)):
            y, x, h, w = window
            crop = pixels[..., y * p : (y + h) * p, x * p : (x + w) * p]
            trace = tower.trace(crop, need, self.position)
            ids, place = regions[y : y + h, x : x + w].unique(return_inverse=True)
            tokens = region_tokens(tower, trace, 0, ids[:, None] == ids[place].flatten())
            semantic.add(window, tokens[place][None])
            values.add(window, to_cells(_joined(trace.values[n]), (h, w)))
            for b, mean in inner.items():
                parts = [trace.states[b - 1]]
                parts += [_joined(x[b]) for x in (trace.queries, trace.keys, trace.values)]
                mean.add(window, to_cells(torch.cat(parts, dim=-1), (h, w)))
        outputs = [self._attended(tower, b, mean.mean()) for b, mean in inner.items()]
        means = values.mean(), torch.stack(outputs).mean(0), semantic.mean()
        dtype = tower.dtype
        return means[0].to(dtype), means[1].to(dtype), means[2].to(dtype)

    def _attended(self, tower: ClipTower, b: int, parts: Tensor) -> Tensor:
        """Block b over the whole picture from x, q, k, v (1, h, w, 4 D): (1, h, w, D)."""
        block = tower.block(b)
        x, *projections = parts.to(tower.dtype).flatten(1, 2).chunk(4, dim=-1)
        scale = (x.shape[-1] // tower.heads) ** -0.5
        heads = tower.heads if self.split_heads else 1
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in projections)
        x = x + block.output(tower.attend(q, k, v, scale=scale))
        x = x + block.feed_forward(x)
        return x.unflatten(1, parts.shape[1:3])


def _joined(x: Tensor) -> Tensor:
    """The heads of x (B, M, T, d) side by side, (B, T, D)."""
    return x.transpose(1, 2).flatten(2)


def to_cells(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """The patches of tokens (B, T, D) on their grid, (B, h, w, D)."""
    return x[:, -grid[0] * grid[1] :].unflatten(1, grid)
