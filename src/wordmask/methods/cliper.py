"""CLIPer (Sun et al., Hierarchically Improving Spatial Representation of CLIP, ICCV 2025).

Only the stage inside CLIP, early-layer fusion. N is the number of blocks, T = 1 + L tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.compiler import is_compiling

from wordmask.affinity import Sinkhorn
from wordmask.encoding import DenseFeatures, Encoding
from wordmask.errors import WordmaskError
from wordmask.methods.base import Method, Towers, cosine, register, to_grid
from wordmask.scoring import ClassMapRule
from wordmask.text_queries import TextQueries
from wordmask.towers.clip import ClipTower, Need, PositionMode, Trace
from wordmask.windows import place_windows


@dataclass(frozen=True)
class EarlyEmbeddings:
    """The features and the attention from which class maps are computed.

    Attributes:
        features: (B, N, E, h, w), projected from every embedding, the last one last.
        propagation: (B, L, L), the fused attention between patches, mean over the heads.
        windows: (B, N, E, h, w), the mean of the windows' unit features, mixed by the windows'
            attention; None without windows.
    """

    features: Tensor
    propagation: Tensor
    windows: Tensor | None = None


@register
@dataclass(frozen=True)
class Cliper(Method):
    """Early-layer fusion: the attention maps of blocks 1..N-1 together replace the last block's.

    A_avg = sum of A^n over n = 1..N-1, head by head (Eq. 8; its 1/N cancels), normalised and with
    its small values zeroed (supplement 6). The last block, without residual and FFN, mixes the
    values of all early embeddings with it; every embedding gives features, and their class maps are
    fused into one.

    Variants. The paper's text leaves open details that its code fixes, so the code is the default:

    - `official-v2` (released code of September 2025) and `official-v1` (December 2024, with which
      the paper's numbers were computed). Embeddings LN_n(F^{n-1}) for n < N and the raw F^{N-1},
      all normed again by the last block. The map for the n-th embedding has n rounds of column and
      row normalisation. Each embedding gives class probabilities: softmax over classes, background
      words and the mean of the classes' texts. One map is thresholded, propagated once more by the
      fused attention, and added to the mean: v2 propagates a chosen layer with A^T and averages
      over all; v1 propagates the last with A and averages over the early ones.
    - `paper`: embeddings F^1..F^{N-1}, one round, small values (below the row's mean) zeroed, mean
      cosine over the embeddings, softmax over classes and background words.

    Deviations of the released code that are not offered: the ViT-H settings of v1 (weight 0.2 for
    early maps, features minus their input); rounding the position embedding to fp16.
    Cost: one forward of CLIP with explicit maps in N-1 blocks and N value products in the last.

    Args:
        attention: "early" or, for Table 6, its replacement: "qq", "kk", "vv", "qk", "identity".
        early_embeddings: use all embeddings; False: the last one alone (Table 6).
        fusion: how the class maps are fused: "paper", "v1" or "v2", as above.
        attention_threshold: entries of the propagated map below this share of the class's maximum
            are set to 0 (0.1 to 0.35 by data set in v2, 0.2 in v1).
        select_layer: which embedding v2 propagates, counted from the end (-1: the last).
        window_weight: with windows, the weight of their probabilities; the rest is the whole
            picture's.
        score_threshold: classes with an image-level score not above this are absent (the paper
            gives no value; those of the code lie between 0 and 0.7, by data set).
        normalize: stretch each class's map to [0, 1] before the argmax (VOC in the code).
    """

    name = "cliper"
    title = "CLIPer (without diffusion)"
    year = 2025
    maps = 6
    variants = {
        "official-v2": {},
        "official-v1": {"fusion": "v1", "attention_threshold": 0.2},
        "paper": {"fusion": "paper", "attention_threshold": 0.0},
    }
    class_maps = True
    own_windows = True
    scoring = Method.scoring | {
        "attention_threshold",
        "select_layer",
        "window_weight",
        "score_threshold",
        "normalize",
    }

    resample: Literal["pil-bicubic", "pil-bilinear", "cv2-bilinear"] = "pil-bicubic"
    whole_patches: bool = True
    position: PositionMode = "bilinear"
    templates: str | tuple[str, ...] = "cliper"
    logit_scale: float = 100.0
    attention: Literal["early", "qq", "kk", "vv", "qk", "identity"] = "early"
    early_embeddings: bool = True
    fusion: Literal["v2", "v1", "paper"] = "v2"
    attention_threshold: float = 0.1
    select_layer: int = -1
    window_weight: float = 0.5
    score_threshold: float = 0.3
    normalize: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.attention_threshold < 1 and 0 <= self.window_weight <= 1):
            raise WordmaskError(
                f"got attention_threshold={self.attention_threshold}, "
                f"window_weight={self.window_weight}; both are shares between 0 and 1"
            )
        if self.select_layer >= 0:
            raise WordmaskError(f"got select_layer={self.select_layer}; count from the end: -1, -2")

    # -- features -------------------------------------------------------------------------------

    def need(self, depth: int) -> Need:
        """F^0..F^{N-1} and the sum of A^1..A^{N-1}."""
        return Need.of(
            states=range(depth) if self.early_embeddings else [depth - 1],
            attention_sum=range(1, depth) if self.attention == "early" else [],
        )

    def features(self, tower: ClipTower, trace: Trace) -> DenseFeatures:
        """The features of the last embedding; the state holds those of all."""
        values = self._values(tower, trace)
        attended, fused = self._attend(tower, trace, values)
        block = tower.block(tower.depth)
        sets = torch.stack([tower.project(block.output(x)) for x in attended])  # (N, B, T, E)
        grids = to_grid(sets, trace.grid)
        return DenseFeatures(grids[-1], EarlyEmbeddings(grids.transpose(0, 1), fused))

    def feature_sets(self, dense: DenseFeatures) -> Tensor:
        """The features of every embedding, (N, B, E, h, w)."""
        return dense.state.features.transpose(0, 1)

    def mixing_map(self, tower: ClipTower, trace: Trace) -> Tensor:
        """The fused attention after one round of normalisation, per head; or its replacement."""
        if self.attention == "early":
            assert trace.attention_sum is not None
            return Sinkhorn(trace.attention_sum).next_map(symmetric=not self._paper)
        return self._last_map(tower, trace)

    @property
    def _paper(self) -> bool:
        return self.fusion == "paper"

    def _values(self, tower: ClipTower, trace: Trace) -> list[Tensor]:
        """V of the last block for every embedding, each (B, M, T, d)."""
        n = tower.depth
        block = tower.block(n)
        if not self.early_embeddings:
            items = [trace.states[n - 1]]
        elif self._paper:
            items = [trace.states[i] for i in range(1, n)]
        else:
            items = [tower.block(i).norm1(trace.states[i - 1]) for i in range(1, n)]
            items.append(trace.states[n - 1])
        return [block.values(block.norm1(x)) for x in items]

    def _attend(
        self, tower: ClipTower, trace: Trace, values: list[Tensor]
    ) -> tuple[list[Tensor], Tensor]:
        """A V for every embedding, and the head mean of the last A without the class token."""
        if self.attention != "early":
            attention = self._last_map(tower, trace)
            return [attention @ v for v in values], _patches(attention, trace.grid).float().mean(1)
        assert trace.attention_sum is not None
        if self._paper:
            joined, fused = early_layer_fusion(
                trace.attention_sum, [torch.cat(values, dim=-1)], trace.grid, symmetric=False
            )
            return list(joined[0].chunk(len(values), dim=-1)), fused
        return early_layer_fusion(trace.attention_sum, values, trace.grid, symmetric=True)

    def _last_map(self, tower: ClipTower, trace: Trace) -> Tensor:
        """The map of the last block from its own input (Table 6), (B, M, T, T)."""
        block = tower.block(tower.depth)
        z = block.norm1(trace.states[tower.depth - 1])
        if self.attention == "identity":
            tokens = z.shape[1]
            return torch.eye(tokens, device=z.device, dtype=z.dtype).expand(
                len(z), tower.heads, tokens, tokens
            )
        letters = {"q": block.queries, "k": block.keys, "v": block.values}
        left, right = letters[self.attention[0]], letters[self.attention[1]]
        return tower.attention_map(left(z), right(z))

    @property
    def unexported(self) -> str:
        """Its windows are mixed on the grid of the picture."""
        return "its windows are no part of a graph; leave window at 0" if self.window else ""

    # -- sliding windows (released code v2) -----------------------------------------------------

    def encode(self, towers: Towers, pixels: Tensor) -> DenseFeatures:
        """As for every method; with windows, also their features and attention on the whole grid.

        Windows are averaged as unit features, since logits are linear in them, and mixed by the
        windows' fused attention, averaged and row-normalised on the whole grid.
        """
        whole = super().encode(towers, pixels)
        h, w = whole.features.shape[2:]
        p = towers.clip.patch
        if not self.window or (h * p <= self.window and w * p <= self.window):
            return whole
        if self.window % p or self.stride % p:
            raise WordmaskError(
                f"got window={self.window}, stride={self.stride}; "
                f"CLIPer's windows are whole patches of {p} pixels"
            )
        features = torch.zeros_like(whole.state.features)  # (B, N, E, h, w)
        hits = features.new_zeros(h, w)
        mixing = features.new_zeros(len(features), h, w, h, w)
        pairs = features.new_zeros(h, w, h, w)
        for top, left, height, width in place_windows(h, w, self.window // p, self.stride // p):
            y, x = slice(top, top + height), slice(left, left + width)
            crop = pixels[..., top * p : (top + height) * p, left * p : (left + width) * p]
            part = super().encode(towers, crop).state
            features[..., y, x] += F.normalize(part.features, dim=2)
            hits[y, x] += 1
            pairs[y, x, y, x] += 1
            mixing[:, y, x, y, x] += part.propagation.view(-1, height, width, height, width)
        features /= hits
        mixing /= pairs.clamp_(min=1)
        attention = mixing.flatten(3).flatten(1, 2)  # (B, L, L)
        attention = attention / attention.sum(-1, keepdim=True)
        mixed = (features.flatten(3) @ attention[:, None]).view_as(features)
        return DenseFeatures(whole.features, replace(whole.state, windows=mixed))

    # -- class maps -----------------------------------------------------------------------------

    def scores(self, towers: Towers, encoding: Encoding, texts: TextQueries) -> Tensor:
        """The coarse segmentation map, (B, C, h, w)."""
        state, foreground = encoding.state, texts.foreground
        compared = [foreground, texts.background]
        if not self._paper:
            compared.append(F.normalize(foreground.mean(0, keepdim=True), dim=-1))
        rows = torch.cat(compared)  # (K, E)
        maps = self._probabilities(cosine(state.features, rows))  # (N, B, K, h, w)
        if state.windows is not None:
            cosines = (rows @ state.windows.flatten(3)).unflatten(-1, encoding.grid)
            maps = torch.lerp(maps, self._probabilities(cosines), self.window_weight)
        maps = texts.pool_foreground(maps[:, :, : foreground.shape[0]], dim=2)  # (N, B, C, h, w)
        if self._paper:
            return maps[0]
        return self._fuse(maps, state.propagation)

    def rule(self, encoding: Encoding, i: int) -> ClassMapRule:
        """Maps divided by their maxima and weighted by image-level scores (supplement 6)."""
        return ClassMapRule(self.score_threshold, self.normalize)

    def _probabilities(self, cosines: Tensor) -> Tensor:
        """Softmax over texts of (B, N, K, h, w), as (N, B, K, h, w).

        For `paper`, softmax of the mean over embeddings, N = 1.
        """
        cosines = cosines.transpose(0, 1)
        if self._paper:
            cosines = cosines.mean(0, keepdim=True)
        return torch.softmax(self.logit_scale * cosines, dim=2)

    def _fuse(self, maps: Tensor, attention: Tensor) -> Tensor:
        """One map propagated by the attention (B, L, L), plus the mean over embeddings."""
        chosen = max(len(maps) + (self.select_layer if self.fusion == "v2" else -1), 0)
        peak = maps[chosen].amax(dim=(-2, -1), keepdim=True)
        kept = maps[chosen].where(maps[chosen] >= self.attention_threshold * peak, 0)
        flat = kept.flatten(2)  # (B, C, L)
        if self.fusion == "v1":
            propagated = (flat @ attention.transpose(1, 2)).view_as(kept)  # A s
            rest = maps[:-1]
        else:
            propagated = (flat @ attention).view_as(kept)  # A^T s
            rest = torch.cat([maps[:chosen], kept[None], maps[chosen + 1 :]])
        return propagated + rest.mean(0) if len(maps) > 1 else propagated


def early_layer_fusion(
    summed: Tensor, values: list[Tensor], grid: tuple[int, int], *, symmetric: bool
) -> tuple[list[Tensor], Tensor]:
    """Mix each item's values with its own round of the fused attention.

    Args:
        summed: (B, M, T, T), the sum of the early attention maps, head by head.
        values: N items of (B, M, T, d); item n is mixed after n rounds of normalisation.
        grid: h, w of the patches, which are the last tokens.
        symmetric: see `Sinkhorn.next_map`.

    Returns:
        N items of (B, M, T, d), and the head mean of the last map without the class token,
        (B, L, L).
    """
    if is_compiling():  # a graph takes any number of pictures, so it has no loop over them
        fusion = Sinkhorn(summed)
        maps = [fusion.next_map(symmetric) for _ in values]
        mixed = [a.to(v.dtype) @ v for a, v in zip(maps, values, strict=True)]
        return mixed, _patches(maps[-1], grid).mean(1)
    pictures, heads = summed.shape[:2]
    mixed = [torch.empty_like(v) for v in values]
    mean = _patches(torch.zeros_like(summed[:, 0]), grid)
    step = 1 if summed.device.type == "cpu" else heads  # one head's map stays in the cache
    for picture in range(pictures):
        for m in range(0, heads, step):
            here = picture, slice(m, m + step)
            fusion = Sinkhorn(summed[here])
            for value, out in zip(values, mixed, strict=True):
                kept, total = fusion.next_unnormalised(symmetric)
                out[here] = ((kept.to(value.dtype) @ value[here]) / total).to(out.dtype)
            mean[picture] += _patches(kept / total, grid).sum(0)
    return mixed, mean / heads


def _patches(attention: Tensor, grid: tuple[int, int]) -> Tensor:
    """The part of a map (..., T, T) between patches, (..., L, L)."""
    patches = grid[0] * grid[1]
    return attention[..., -patches:, -patches:]
