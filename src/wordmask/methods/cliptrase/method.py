"""CLIPtrase (Shao et al., Explore the Potential of CLIP for Training-Free OVSS, ECCV 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.devices import check_finite
from wordmask.encoding import DenseFeatures, Encoding
from wordmask.errors import WordmaskError
from wordmask.methods.base import Method, Towers, cosine, register, to_grid
from wordmask.methods.cliptrase.clusters import dbscan, prototypes
from wordmask.region_vote import RegionVote
from wordmask.scoring import Rule, SoftmaxRule
from wordmask.text_queries import TextQueries
from wordmask.towers.clip import ClipTower, Need, Trace
from wordmask.towers.sam import centres
from wordmask.windows import place_windows

CODE_PATCHES = 441  # number of patches in the released code, at 336 pixels


@dataclass(frozen=True)
class Regions:
    """The class token, and the maps that cut each picture into regions.

    Attributes:
        class_token: (B, E), projected.
        maps: (1 + K, h', w') for each picture; their argmax cuts it into regions, map 0 stands for
            no region. None if nothing was clustered.
    """

    class_token: Tensor
    maps: tuple[Tensor, ...] | None = None


@register
@dataclass(frozen=True)
class Cliptrase(Method):
    """Recover the correlation of patches, cluster them, and vote for one class in each region.

    Semantic correlation recovery (Eq. 3): w is the mean of the self-cosines of q, k and v over the
    heads, and replaces CLIP's attention. DBSCAN clusters its rows (Eq. 4); the mean row of a
    cluster is its prototype (Eq. 5); the argmax of the prototypes cuts the picture into regions
    (Eq. 6), and all pixels of a region vote for one class. Without clusters there is no vote.

    Variants. Paper and released code differ much, and the code gave the published numbers:

    - `official` (released code): block N attends with softmax(qq^T) + softmax(kk^T) + softmax(vv^T)
      and keeps residual and FFN; w is that of block N-1; the class token's row is subtracted from
      every row of w and negative entries become 0; rows are not normalised; prototypes are
      enlarged 4 times and median filtered; the majority of the pixels' labels decides.
    - `any-size`, the default: the same, with DBSCAN's radius growing with sqrt(L), as distances
      between rows of length L do, and its core with L. This matches both settings of the code: 1.1
      and 7 for its 441 patches at 336 pixels (always, in `official`), about 0.7 and 3 for 196 at
      224.
    - `official-mean` (its detectron2 port): the mean logit of a region decides, and patch features
      are not normalised.
    - `paper`: w of block N itself attends, and is clustered after L2 normalisation of its rows.
      How w becomes weights is not stated; here softmax(sqrt(d) w), as for vectors of RMS 1.
      Patches with a mean correlation above that with themselves are dropped (Eq. 7): with cosines
      no patch is, since nothing is above a self-cosine of 1. Its radius of 0.7 tends to put
      normalised rows into one cluster; it fits the code's rows, which are not normalised.

    Deviations of the released code that are not offered: the centre crop to a square.
    Cost: one forward of CLIP, two more attentions, and DBSCAN on L rows of length L.

    Args:
        attention: how the recovered block mixes: "streams" and "correlation" as above, or for
            Table 4 of the supplement "qk" (CLIP's own) and "self" (each token attends to itself).
        correlation: "cosine", or "inner" for the product over sqrt(d) (Table 2).
        heads: "mean" over the heads' correlations, or "concatenated" (supplement, Eq. 14).
        inverse_temperature: factor of the cosines before their softmax; None: sqrt(d).
        block: the block with the replaced attention, counted from the end (Table 2, "Layers").
        cluster_block: the block of the w that is clustered.
        clusters: what DBSCAN clusters: rows of the "correlation", patch "features" (Table 2), or
            the correlations of a vision foundation model's features, "vfm" (supplement, Table 5);
            "none": the recovery alone.
        denoising: "class" (released code), "self" (Eq. 7) or "none".
        normalize_rows: divide rows by their L2 norm before they are clustered (Eq. 4).
        eps, min_samples: DBSCAN's radius, and the number of rows in it that make a core; None: by
            L.
        median: size of the median filter on prototypes enlarged 4 times; 0: prototypes as they are.
        masks: what cuts the picture: "prototypes", or "sam" (Table 3): the patches of a cluster are
            its points, those of the others its negatives. SAM gets the picture as resized for CLIP.
        vote: "majority" of the pixels' labels, or the "mean" of their scores.
        class_prior: multiply patch logits by those of the class token (the code's rule for VOC20).
        unit_features: L2-normalise patch features before the product with the texts.
    """

    name = "cliptrase"
    extra = "cluster"
    title = "CLIPtrase"
    year = 2024
    maps = 8
    variants = {
        "any-size": {"eps": None, "min_samples": None},
        "official": {},
        "official-mean": {"vote": "mean", "unit_features": False},
        "paper": {
            "attention": "correlation",
            "cluster_block": -1,
            "denoising": "self",
            "normalize_rows": True,
            "eps": 0.7,
            "min_samples": 3,
            "median": 0,
            "vote": "mean",
        },
    }
    own_windows = True
    takes_regions = True
    scoring = Method.scoring | {"vote", "class_prior"}

    resample: Literal["pil-bicubic", "pil-bilinear", "cv2-bilinear"] = "pil-bicubic"
    logit_scale: float = 100.0
    attention: Literal["streams", "correlation", "qk", "self"] = "streams"
    correlation: Literal["cosine", "inner"] = "cosine"
    heads: Literal["mean", "concatenated"] = "mean"
    inverse_temperature: float | None = None
    block: int = -1
    cluster_block: int = -2
    clusters: Literal["correlation", "features", "vfm", "none"] = "correlation"
    denoising: Literal["class", "self", "none"] = "class"
    normalize_rows: bool = False
    eps: float | None = 1.1
    min_samples: int | None = 7
    median: int = 7
    masks: Literal["prototypes", "sam"] = "prototypes"
    vote: Literal["majority", "mean"] = "majority"
    class_prior: bool = False
    unit_features: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if max(self.block, self.cluster_block) >= 0:
            raise WordmaskError(
                f"got block={self.block}, cluster_block={self.cluster_block}; count from the end: "
                "-1, -2"
            )
        eps, min_samples = self._radius(CODE_PATCHES)
        if eps <= 0 or min_samples < 1 or self.median < 0:
            raise WordmaskError(
                f"got eps={self.eps}, min_samples={self.min_samples}, median={self.median}; eps is "
                "above 0, min_samples at least 1, median 0 or a size in quarters of a patch"
            )

    @property
    def networks(self) -> tuple[str, ...]:
        """The VFM if its features are clustered, and SAM if it cuts the picture."""
        vfm = ("vfm",) if self.clusters == "vfm" else ()
        return (*vfm, "sam") if self.masks == "sam" and self.clusters != "none" else vfm

    @property
    def unexported(self) -> str:
        """Its clusters."""
        return super().unexported or "it clusters patches by DBSCAN, and clusters vote"

    # -- semantic correlation recovery ----------------------------------------------------------

    def need(self, depth: int) -> Need:
        """Q, K, V of the recovered and of the clustered block, and the state before the first."""
        n, clustered = self._number(self.block, depth), self._number(self.cluster_block, depth)
        return Need.of(states=[n - 1], projections={n: "qkv", clustered: "qkv"})

    @staticmethod
    def _number(from_end: int, depth: int) -> int:
        return max(depth + 1 + from_end, 1)

    def features(
        self, tower: ClipTower, trace: Trace, regions: Tensor | None = None
    ) -> DenseFeatures:
        """Patch features after the recovery, and the class token's.

        regions (B, h, w) integers: patches attend within their region alone (the upper bound with
        the target given, supplement, Table 4). Clusters are added in `encode`.
        """
        n = self._number(self.block, tower.depth)
        streams = trace.queries[n], trace.keys[n], trace.values[n]
        if self.attention == "streams" and regions is None:
            attended = tower.attend_sum(streams, trace.values[n])
        else:
            mixing = self.mixing_map(tower, trace, regions)
            attended = mixing.to(trace.values[n].dtype) @ trace.values[n]
        x = trace.states[n - 1] + tower.block(n).output(attended)
        x = x + tower.block(n).feed_forward(x)
        for later in range(n + 1, tower.depth + 1):
            block = tower.block(later)
            z = block.norm1(x)
            x = x + block.output(tower.attend(block.queries(z), block.keys(z), block.values(z)))
            x = x + block.feed_forward(x)
        tokens = tower.project(x)
        return DenseFeatures(to_grid(tokens, trace.grid), Regions(tokens[:, 0]))

    def mixing_map(self, tower: ClipTower, trace: Trace, regions: Tensor | None = None) -> Tensor:
        """The map of the recovered block, (B, M or 1, T, T); regions as for `features`."""
        n = self._number(self.block, tower.depth)
        q, k, v = trace.queries[n], trace.keys[n], trace.values[n]
        bias = None if regions is None else region_bias(regions).to(q)
        if self.attention == "streams":
            return torch.stack([tower.attention_map(s, s, bias=bias) for s in (q, k, v)]).sum(0)
        if self.attention == "qk":
            return tower.attention_map(q, k, bias=bias)
        if self.attention == "self":
            return torch.eye(q.shape[2], device=q.device).expand(len(q), 1, -1, -1)
        w = correlate([q, k, v], self.correlation, self.heads)[:, None]
        if self.correlation == "cosine":
            w = w * (self.inverse_temperature or q.shape[-1] ** 0.5)
        return torch.softmax(w if bias is None else w + bias, dim=-1)

    # -- clusters, regions ----------------------------------------------------------------------

    def encode(
        self, towers: Towers, pixels: Tensor, regions: Tensor | None = None
    ) -> DenseFeatures:
        """Features, and the maps that cut each picture into regions.

        Clusters are those of the whole picture; with windows, features are their mean over windows.
        regions (B, H, W) integers: as for `features`, in pixels; of the whole picture alone.
        """
        tower = towers.clip
        tower.require_class_token(self.title)
        trace = self.trace(towers, pixels, self.need(tower.depth))
        if regions is not None:
            if self.window:
                raise WordmaskError(f"got regions and window={self.window}; set window=0")
            near = F.interpolate(regions[:, None].float(), trace.grid, mode="nearest-exact")
            regions = near[:, 0].long()
        dense = self.features(tower, trace, regions)
        features, state = dense.features, dense.state
        if self.clusters != "none":
            state = replace(state, maps=self._regions(towers, trace, features, pixels))
        if self.window:
            features = self._over_windows(tower, pixels, features)
        return DenseFeatures(features, state)

    def _regions(
        self, towers: Towers, trace: Trace, features: Tensor, pixels: Tensor
    ) -> tuple[Tensor, ...]:
        """Maps (1 + K, h', w') of each picture, see `Regions`; map 0 is highest outside regions."""
        pictures = self.unnormalise(pixels, towers.clip)  # (B, 3, H, W) in [0, 1]
        w, common, grid = self._correlations(towers, trace, pictures)
        check_finite(w, "the correlations of patches", towers.clip.dtype)
        rows = features.flatten(2).transpose(1, 2)  # (B, L, E)
        regions = []
        for i in range(len(pixels)):
            clean, labels = self._cluster(w[i], common[i], rows[i])
            if self.masks == "sam":
                image = towers.networks.sam.embed(pictures[i])
                members = [(labels == k).nonzero()[:, 0] for k in range(int(labels.max()) + 1)]
                masks = image.separate([centres(m, grid, image.size) for m in members])
                regions.append(F.pad(masks, (0, 0, 0, 0, 1, 0)))  # in no mask: no region
            else:
                regions.append(prototypes(clean, labels, grid, self.median))
        return tuple(regions)

    def cluster_patches(
        self, towers: Towers, pixels: Tensor
    ) -> tuple[list[Tensor], tuple[int, int]]:
        """DBSCAN's labels of the patches of each picture, (L,) from 0, -1 for noise, and h, w."""
        trace = self.trace(towers, pixels, self.need(towers.clip.depth))
        rows = self.features(towers.clip, trace).features.flatten(2).transpose(1, 2)
        w, common, grid = self._correlations(towers, trace, self.unnormalise(pixels, towers.clip))
        labels = [self._cluster(*one)[1] for one in zip(w, common, rows, strict=True)]
        return labels, grid

    def _correlations(
        self, towers: Towers, trace: Trace, pictures: Tensor
    ) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """w between patches (B, L, L), between class token and patches (B, L), and h, w."""
        if self.clusters == "vfm":
            f = towers.networks.vfm.features(pictures)  # (B, D, h, w) on a grid of its own
            w = correlate([f.flatten(2).transpose(1, 2)[:, None]], self.correlation, self.heads)
            return w, torch.zeros_like(w[:, 0]), (f.shape[2], f.shape[3])
        n = self._number(self.cluster_block, towers.clip.depth)
        streams = [trace.queries[n], trace.keys[n], trace.values[n]]
        w = correlate(streams, self.correlation, self.heads)
        first = towers.clip.class_tokens
        return w[:, first:, first:], w[:, 0, first:], trace.grid

    def _cluster(self, w: Tensor, common: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Denoised w (L, L) and cluster labels (L,) of one picture, -1 for noise."""
        kept = torch.ones(len(w), dtype=torch.bool, device=w.device)
        if self.denoising == "class":
            w = (w - common).relu()
        if self.denoising == "self":
            kept = w.mean(1) <= w.diagonal()  # Eq. 7
        rows = features if self.clusters == "features" else w
        if self.normalize_rows or self.clusters == "features":
            rows = F.normalize(rows, dim=-1)
        labels = torch.full((len(w),), -1, device=w.device)
        labels[kept] = dbscan(rows[kept], *self._radius(len(w)))
        return w, labels

    def _radius(self, patches: int) -> tuple[float, int]:
        """DBSCAN's eps and min_samples for a picture of `patches` patches."""
        share = patches / CODE_PATCHES
        eps = 1.1 * share**0.5 if self.eps is None else self.eps
        return eps, max(round(7 * share), 2) if self.min_samples is None else self.min_samples

    def _over_windows(self, tower: ClipTower, pixels: Tensor, whole: Tensor) -> Tensor:
        """The mean of the windows' features on the picture's grid, (B, E, h, w)."""
        p = tower.patch
        if self.window % p or self.stride % p:
            raise WordmaskError(
                f"got window={self.window}, stride={self.stride}; "
                f"CLIPtrase's windows are whole patches of {p} pixels"
            )
        h, w = whole.shape[2:]
        windows = place_windows(h, w, self.window // p, self.stride // p)
        if len(windows) == 1:
            return whole
        total, hits = torch.zeros_like(whole), whole.new_zeros(h, w)
        for top, left, height, width in windows:
            crop = pixels[..., top * p : (top + height) * p, left * p : (left + width) * p]
            trace = tower.trace(crop, self.need(tower.depth), self.position)
            part = self.features(tower, trace).features
            y, x = slice(top, top + height), slice(left, left + width)
            total[..., y, x] += F.normalize(part, dim=1) if self.unit_features else part
            hits[y, x] += 1
        return total / hits

    # -- scores ---------------------------------------------------------------------------------

    def scores(self, towers: Towers, encoding: Encoding, texts: TextQueries) -> Tensor:
        """Cosine (or product) of every patch feature with every text, (B, Q, h, w)."""
        features, cls = encoding.features, encoding.state.class_token
        if self.unit_features:
            scores, cls = cosine(features, texts.embeddings), F.normalize(cls, dim=-1)
        else:
            scores = torch.einsum("qe,behw->bqhw", texts.embeddings, features)
        if self.class_prior:
            scores = scores * (self.logit_scale * cls @ texts.embeddings.T)[..., None, None]
        return scores

    def rule(self, encoding: Encoding, i: int) -> Rule:
        """The softmax of all methods, then the vote of regions."""
        pixelwise = SoftmaxRule(self.logit_scale, self.area_threshold, self.min_max)
        if encoding.state.maps is None:
            return pixelwise
        regions = encoding.score_map(encoding.state.maps[i][None])
        return RegionVote(pixelwise, regions, self.vote)


def correlate(streams: Sequence[Tensor], kind: str, heads: str) -> Tensor:
    """Mean self-correlation of streams (B, M, T, d) over streams and heads (Eq. 3), (B, T, T).

    The mean of products over heads is one product of their concatenation, so the map of a single
    head is never formed. kind: "cosine", or "inner" over sqrt(d); heads: "mean", or "concatenated"
    before the cosine (supplement, Eq. 14).
    """
    parts = []
    for s in streams:
        x = s.float().transpose(1, 2)  # (B, T, M, d)
        x = x.flatten(2)[:, :, None] if heads == "concatenated" else x
        parts.append(F.normalize(x, dim=-1) if kind == "cosine" else x * x.shape[-1] ** -0.25)
    x = torch.cat(parts, dim=2)
    flat = x.flatten(2)
    return flat @ flat.transpose(1, 2) / x.shape[2]


def region_bias(regions: Tensor) -> Tensor:
    """0 within a region and -inf across, for regions (B, h, w); (B, 1, T, T).

    The class token attends to all, and patches not to it.
    """
    flat = regions.flatten(1)
    apart = F.pad(flat[:, :, None] != flat[:, None, :], (1, 0, 0, 0), value=True)
    apart = F.pad(apart, (0, 0, 1, 0), value=False)
    return torch.zeros(apart.shape, device=apart.device).masked_fill(apart, -torch.inf)[:, None]
