"""GLA-CLIP (2026, code of April at 2btlFe/GLA-CLIP): windows attend to each other."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.affinity import ByRows
from wordmask.encoding import DenseFeatures
from wordmask.errors import WordmaskError
from wordmask.methods.base import Method, Towers, register, to_grid
from wordmask.towers.clip import ClipTower, Need, Trace

TOGETHER = 8  # windows in one pass


@register
@dataclass(frozen=True)
class GlaClip(Method):
    """ProxyCLIP whose patches attend to those of all windows, with a proxy in place of each query.

    K are the unit features of a vision foundation model in all n windows, M patches in all, and V
    the values of CLIP's last block there, without the class token, enlarged bilinearly to their
    grid. A patch's proxy is the mean of the K_j with a cosine above `similar` to it, normalised;
    twice. With A = proxies K^T, P_i the patches in the last mean, u = 1 + 0.3 ln(1 + n) and
    w_i = 1 + 30 / |P_i|:

        A_ij <- w_i (A_ij - u max(mean of row i, 0)); removed below min(the row's maximum, 0)

    then softmax(A) V, output projection, layer norm and projection; no residual, no FFN. So a patch
    like few others looks sharply at them, and more windows raise the bar. Scores of windows are
    averaged where they overlap. `similar` belongs to DINO ViT-B/8: where all patches of a network
    are more alike, as those of `wordmask/tiny-vfm`, all proxies are one; raise it then.

    Variants: `paper`, the default, has proxies and adapted scales, as the released run script, and
    rounds both sides to whole patches; `official` (released code) pads pictures in their place;
    `no-proxy` has K itself as queries; `plain`, the released code's defaults, is ProxyCLIP over all
    windows: 3 (A - 1.2 mean A), the mean over all of A.

    `window` is 224 here by default; in a picture of one window proxies and scales are left. The
    released code forms A, whose M is 4704 for 6 windows and patches of 8 pixels; here rows are
    computed in blocks and none is kept. Cost: one forward of CLIP and of the VFM for each window,
    and M^2 cosines, 5 times with proxies.

    Args:
        proxies: whether each query is the mean of the patches like it.
        adaptive: u, w and the mean of each row; False: `beta`, `gamma` and the mean of all rows.
        beta, gamma: shift and scale if they are not adapted.
        similar: the cosine above which patches are like each other.
    """

    name = "gla_clip"
    title = "GLA-CLIP"
    year = 2026
    network = "vfm"
    variants = {
        "paper": {},
        "official": {"whole_patches": False, "remainder": "pad"},
        "no-proxy": {"proxies": False},
        "plain": {"proxies": False, "adaptive": False},
    }
    joint_windows = True

    whole_patches: bool = True
    window: int = 224
    proxies: bool = True
    adaptive: bool = True
    beta: float = 1.2
    gamma: float = 3.0
    similar: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gamma <= 0 or not -1 <= self.similar <= 1:
            raise WordmaskError(
                f"got gamma={self.gamma}, similar={self.similar}; gamma is above 0, similar a "
                "cosine between -1 and 1"
            )

    def need(self, depth: int) -> Need:
        """V of block N."""
        return Need.of(projections={depth: "v"})

    def encode(self, towers: Towers, pixels: Tensor) -> DenseFeatures:
        """Features of all windows of one picture, (n, 3, H, W), or of one that is taken whole."""
        need, n = self.need(towers.clip.depth), towers.clip.depth
        parts = [self.trace(towers, x, need) for x in pixels.split(TOGETHER)]
        features = [part.auxiliary for part in parts if part.auxiliary is not None]
        values = torch.cat([part.values[n] for part in parts])
        joined = Trace(parts[0].grid, values={n: values}, auxiliary=torch.cat(features))
        return self.features(towers.clip, joined)

    def trace(self, towers: Towers, pixels: Tensor, need: Need) -> Trace:
        """The pass of CLIP, and the VFM's features of the same pixels."""
        trace = super().trace(towers, pixels, need)
        pictures = self.unnormalise(pixels, towers.clip)
        return replace(trace, auxiliary=towers.networks.vfm.features(pictures, "output"))

    def features(self, tower: ClipTower, trace: Trace) -> DenseFeatures:
        """Proj(LN(A Up(W_o V))) of windows of one picture, (n, E, h', w') on the VFM's grid."""
        assert trace.auxiliary is not None
        n, grid = tower.depth, (trace.auxiliary.shape[2], trace.auxiliary.shape[3])
        values = to_grid(tower.block(n).output(trace.values[n]), trace.grid)  # (n, D, h, w)
        rows = F.interpolate(values, size=grid, mode="bilinear").flatten(2).transpose(1, 2)
        mixed = self.affinity(trace.auxiliary) @ rows.flatten(0, 1)  # (M, D)
        return DenseFeatures(to_grid(tower.project(mixed).unflatten(0, rows.shape[:2]), grid))

    def affinity(self, features: Tensor) -> WindowAffinity:
        """A of VFM features (n, C, h', w') of the windows of one picture."""
        return WindowAffinity(features, self)

    def mixing_map(self, tower: ClipTower, trace: Trace) -> Tensor:
        """A of each picture taken whole, on CLIP's grid, (B, 1, T, T), as that of ProxyCLIP."""
        assert trace.auxiliary is not None
        (h, w), alone, grid = trace.grid, tower.class_tokens, trace.auxiliary.shape[-2:]
        patches = torch.eye(h * w, device=tower.device).unflatten(1, (h, w))[None]
        rows = F.interpolate(patches, size=grid, mode="bilinear")[0].flatten(1).T  # (L', L)
        maps = []
        for features in trace.auxiliary.split(1):
            given = (self.affinity(features) @ rows).T.unflatten(1, grid)[None]
            given = F.interpolate(given, size=(h, w), mode="bilinear", antialias=True)
            maps.append(F.pad(given[0].flatten(1).T, (alone, 0, alone, 0)))
            maps[-1][:alone, :alone] = torch.eye(alone)
        return torch.stack(maps)[:, None]


class WindowAffinity(ByRows):
    """GLA-CLIP's attention over the patches of all windows; its rows sum to 1.

    Args:
        features: (n, C, h, w) of n windows; M = n h w.
        method: its options.

    Attributes:
        keys, queries: (M, C) unit rows.
        likes: (M,) how many patches are like each.
    """

    def __init__(self, features: Tensor, method: GlaClip):
        self.method = method
        self.windows = len(features)
        self.keys = F.normalize(features.float().flatten(2).transpose(1, 2).flatten(0, 1), dim=-1)
        self.size = len(self.keys)
        self.queries = self.keys
        if method.proxies or method.adaptive:
            proxies, self.likes = self._means(self._means(self.keys)[0])
            self.queries = proxies if method.proxies else self.keys
        self.mean = self.queries.mean(0) @ self.keys.mean(0)

    def _means(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """The normalised mean of the keys like each query, (M, C), and how many there are, (M,)."""
        means, count = torch.empty_like(queries), queries.new_empty(self.size)
        for block in self.blocks():
            like = (queries[block] @ self.keys.T > self.method.similar).to(queries)
            number = like.sum(1)
            sums = torch.where(number[:, None] > 0, like @ self.keys, self.keys[block])
            count[block] = number.clamp_min(1)
            means[block] = F.normalize(sums, dim=-1)
        return means, count

    def rows(self, index: slice) -> Tensor:
        """The rows that `index` picks, (m, M)."""
        scores = self.queries[index] @ self.keys.T
        if self.method.adaptive:
            bar = 1 + 0.3 * math.log(1 + self.windows)
            scores -= bar * scores.mean(1, keepdim=True).clamp_min(0)
            scores *= 1 + 30 / self.likes[index, None]
        else:
            scores = self.method.gamma * (scores - self.method.beta * self.mean)
        least = scores.amax(1, keepdim=True).clamp_max(0)
        return torch.softmax(scores.masked_fill(scores < least, -torch.inf), dim=1)
