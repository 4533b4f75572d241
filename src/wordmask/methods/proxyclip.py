"""ProxyCLIP (Lan et al., Proxy Attention Improves CLIP for Open-Vocabulary Segmentation, 2024)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.affinity import MaskedSoftmax
from wordmask.encoding import DenseFeatures
from wordmask.errors import WordmaskError
from wordmask.methods.base import Method, Towers, register, to_grid
from wordmask.towers.clip import ClipTower, Need, Trace


@register
@dataclass(frozen=True)
class ProxyClip(Method):
    """Attention of a vision foundation model's features in place of the last block's.

    With c_ij the cosine of the VFM's patches i and j, A = softmax(gamma (c - beta mean(c)) + mask),
    the mask -inf where that is below 0. The values of CLIP's last block, without the class token,
    are enlarged bilinearly to the VFM's grid and mixed with A, one map for all heads; no residual,
    no FFN. Features and scores are on the VFM's grid (DINO ViT-B/8 has 4 patches for one of
    CLIP's). The output projection is applied before the values are enlarged, which is equivalent
    and cheaper: A and the enlargement act on patches, the projection on channels.

    Variants. `paper` and `official` differ only in how pictures are resized:

    - `paper`, the default, since it covers all of a picture of any size: both sides are rounded to
      whole patches.
    - `official` (released code): the aspect is kept to the pixel, and pictures are padded with
      zeros to whole patches. The code pads its windows to multiples of 56 and not of CLIP's patch,
      which is the same for all windows of its size of 336.
    - `hard-masking`: a fixed threshold on the cosines and no shift or scale (supplement D, Table 2;
      0.4 to 0.6 for DINO, 0.8 for MAE and SAM).

    Deviations of the released code that are not offered: its caller swaps rows and columns, so only
    square windows are right there; the mean is over all pictures of a batch, here over one picture,
    so that its result does not depend on the others; a picture with all patches masked gives NaN,
    here every patch keeps its own value. The published numbers slide windows of 336 pixels with
    stride 112 (options `window`, `stride`). Cost: one forward of CLIP, one of the VFM, and L^2
    cosines.

    Args:
        beta, gamma: shift and scale (good from 1.0 to 1.6 and 2 to 5, supplement B).
        threshold: a fixed cosine from which patches attend, in place of beta mean(c).
        attention: "vfm", or CLIP's own last queries and keys in its place, heads concatenated:
            "qk", "qq", "kk" (supplement E, Table 3).
        facet: features of the VFM's last block: its "output", or "queries", "keys" or "values".
    """

    name = "proxyclip"
    title = "ProxyCLIP"
    year = 2024
    network = "vfm"
    variants = {
        "paper": {},
        "official": {"whole_patches": False, "remainder": "pad"},
        "hard-masking": {"threshold": 0.4, "gamma": 1.0},
    }

    whole_patches: bool = True
    beta: float = 1.2
    gamma: float = 3.0
    threshold: float | None = None
    attention: Literal["vfm", "qk", "qq", "kk"] = "vfm"
    facet: Literal["output", "queries", "keys", "values"] = "output"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gamma <= 0 or not -1 <= (self.threshold or 0) <= 1:
            raise WordmaskError(
                f"got gamma={self.gamma}, threshold={self.threshold}; gamma is above 0, threshold "
                "a cosine between -1 and 1"
            )

    def need(self, depth: int) -> Need:
        """V of block N, and its Q and K if they attend."""
        letters = "" if self.attention == "vfm" else self.attention
        return Need.of(projections={depth: letters + "v"})

    def trace(self, towers: Towers, pixels: Tensor, need: Need) -> Trace:
        """The pass of CLIP, and the VFM's features of the same pixels."""
        trace = super().trace(towers, pixels, need)
        if self.attention != "vfm":
            return trace
        pictures = self.unnormalise(pixels, towers.clip)
        return replace(trace, auxiliary=towers.networks.vfm.features(pictures, self.facet))

    def features(self, tower: ClipTower, trace: Trace) -> DenseFeatures:
        """Proj(LN(A Up(W_o V))), on the grid of A."""
        n = tower.depth
        values = to_grid(tower.block(n).output(trace.values[n]), trace.grid)  # (B, D, h, w)
        grid = self._grid(trace)
        mixed = [
            self._affinity(trace, n, i).mix(value, grid).flatten(1).T  # (L', D)
            for i, value in enumerate(values)
        ]
        return DenseFeatures(to_grid(tower.project(torch.stack(mixed)), grid))

    def mixing_map(self, tower: ClipTower, trace: Trace) -> Tensor:
        """A on CLIP's grid, (B, 1, T, T); the class token attends to itself alone.

        The attention of a patch is the mean over the VFM's patches around its centre.
        """
        h, w = trace.grid
        patches = torch.eye(h * w, device=tower.device).unflatten(1, trace.grid)
        alone = tower.class_tokens
        maps = []
        for i in range(len(trace.values[tower.depth])):
            given = self._affinity(trace, tower.depth, i).mix(patches, self._grid(trace))
            given = F.interpolate(given[None], size=trace.grid, mode="bilinear", antialias=True)
            maps.append(F.pad(given[0].flatten(1).T, (alone, 0, alone, 0)))
            maps[-1][:alone, :alone] = torch.eye(alone)
        return torch.stack(maps)[:, None]

    def _grid(self, trace: Trace) -> tuple[int, int]:
        """h', w' of the attention."""
        if trace.auxiliary is None:
            return trace.grid
        return trace.auxiliary.shape[2], trace.auxiliary.shape[3]

    def _affinity(self, trace: Trace, n: int, i: int) -> MaskedSoftmax:
        """A of picture i."""
        if trace.auxiliary is not None:
            queries = keys = trace.auxiliary[i].flatten(1).T  # (L', D')
        else:
            h, w = trace.grid
            letters = {"q": trace.queries, "k": trace.keys}
            left, right = (letters[x][n][i, :, -h * w :] for x in self.attention)  # (M, L, d)
            queries, keys = (x.transpose(0, 1).flatten(1) for x in (left, right))
        return MaskedSoftmax(
            queries, keys, beta=self.beta, gamma=self.gamma, threshold=self.threshold
        )
