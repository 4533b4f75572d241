"""ResCLIP (Yang et al., Residual Attention for Training-free Dense Inference, CVPR 2025).

Q texts, K labels, L = h*w patches, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.encoding import DenseFeatures, Encoding
from wordmask.errors import WordmaskError
from wordmask.methods.base import Method, Towers, cosine, finish_block, register, to_grid
from wordmask.methods.naclip import gaussian
from wordmask.refiners.pamr import Pamr
from wordmask.text_queries import TextQueries
from wordmask.towers.clip import ClipTower, Need, Trace

KK, QQ, QK = ("k", "k"), ("q", "q"), ("q", "k")
HOSTS = {"naclip": (KK,), "sclip": (QQ, KK), "clearclip": (QQ,), "clip": (QK,)}
PRIOR_WIDTH = 5.0  # of NACLIP's Gaussian, in patches
SMOOTHING_WIDTH, SMOOTHING_LENGTH = 5.0, 31  # of the Gaussian along the columns of M


@dataclass(frozen=True)
class LastBlock:
    """What the second evaluation of block N takes; None what the host does not need.

    Attributes:
        queries, keys, values: (B, M, T, d).
        states: (B, T, D), F^{N-1}, for the residual.
        recalled: (B, M, T, d) float32, R V: the values mixed by the middle blocks' attention.
        pixels: (B, 3, H, W), normalised, cut to whole patches.
    """

    queries: Tensor | None
    keys: Tensor | None
    values: Tensor
    states: Tensor | None
    recalled: Tensor
    pixels: Tensor | None = None


@register
@dataclass(frozen=True)
class ResClip(Method):
    """Attention of middle blocks and of a first segmentation, added to that of the last block.

    RCS (residual cross-correlation self-attention): with R the mean of the middle blocks' own
    attention, A <- tau_r ((1 - l_r) A + l_r R) after the softmax. SFR (semantic feedback
    refinement): the first pass, with RCS alone, gives every patch a label; M_ij is 1 for equal
    labels, times exp(-D_ij / max D) if the straight line between the patches meets another label, D
    the Chebyshev distance; rows are smoothed and normalised; logits <- tau_s ((1 - l_s) logits +
    l_s M / max M), before the Gaussian and the softmax. The first pass's labels are those of
    softmax(40 cosine) after PAMR (10 steps, dilations 8 and 16), by majority of a patch's pixels.
    So features depend on the words: those of an encoding are the first pass's.

    Variants:

    - `repaired`, the default: all of the line between two patches is looked at; the names of a
      class are one label, and so are those of the background; unsure pixels are a label of their
      own; of labels with equal votes in a patch the more probable one wins.
    - `official` (released code): lines are sampled with the step of the longest one, and of that as
      many points as the pair's own line has, so for neighbours nothing between them; every text
      is a label; unsure pixels get the first text's (of the background, if it has names), so the
      result depends on the order of words; of equal votes the first wins; M is rounded to float16.
    - `sclip`, `clearclip`: `repaired` with these methods' last block in place of NACLIP's.

    As in the released code, M is smoothed along the flattened patches, so over the ends of lines.
    Blocks are numbered for 12 in the paper; here the same share of any depth. Constants are those
    of VOC21; the released code has others for each data set. Cost: one forward of CLIP with
    explicit attention in a third of its blocks, and for every list of words another attention,
    PAMR, and L^2 max(h, w) points of lines.

    Args:
        host: whose last block is changed: "naclip", "sclip", "clearclip", or "clip" as it is.
        blocks: numbers, from 1, of the blocks that R is the mean of; None: 6 to 9 of 12.
        rcs_scale, rcs_share: tau_r, l_r; 1 and 0 leave RCS out.
        sfr_scale, sfr_share: tau_s, l_s; 1 and 0 leave SFR out.
        label_threshold: pixels with a lower best probability in the first pass are unsure.
        decay: weaken pairs with another label between them.
        lines: "whole", or as "released".
        labels: "classes", or every text for itself, as released: "texts".
        half: round M / max M to float16.
    """

    name = "resclip"
    title = "ResCLIP"
    year = 2025
    maps = 13
    variants = {
        "repaired": {},
        "official": {"lines": "released", "labels": "texts", "half": True},
        "sclip": {"host": "sclip"},
        "clearclip": {"host": "clearclip"},
    }
    scoring = Method.scoring | {
        *("sfr_scale", "sfr_share", "label_threshold"),
        *("decay", "lines", "labels", "half"),
    }

    host: Literal["naclip", "sclip", "clearclip", "clip"] = "naclip"
    blocks: tuple[int, ...] | None = None
    rcs_scale: float = 2.0
    rcs_share: float = 0.3
    sfr_scale: float = 2.2
    sfr_share: float = 0.7
    label_threshold: float = 0.5
    decay: bool = True
    lines: Literal["whole", "released"] = "whole"
    labels: Literal["classes", "texts"] = "classes"
    half: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        shares = self.rcs_share, self.sfr_share, self.label_threshold
        if min(shares) < 0 or max(shares) > 1 or min(self.rcs_scale, self.sfr_scale) <= 0:
            raise WordmaskError(
                f"got rcs_share={self.rcs_share}, sfr_share={self.sfr_share}, label_threshold="
                f"{self.label_threshold}, rcs_scale={self.rcs_scale}, sfr_scale={self.sfr_scale}; "
                "the first three are from 0 to 1, scales above 0"
            )
        if self.blocks is not None and (not self.blocks or min(self.blocks) < 1):
            raise WordmaskError(f"got blocks={self.blocks}; give numbers from 1, at least one")

    # -- the last block -------------------------------------------------------------------------

    def _middle(self, depth: int) -> tuple[int, ...]:
        first = round(5 * depth / 12) + 1
        return self.blocks or tuple(range(first, max(round(9 * depth / 12), first) + 1))

    @property
    def _rest(self) -> bool:
        """Whether the host keeps the residual and the FFN."""
        return self.host in ("sclip", "clip")

    def need(self, depth: int) -> Need:
        """The middle blocks' attention, Q, K, V of block N and, for the residual, F^{N-1}."""
        letters = "".join(sorted({"v"}.union(*HOSTS[self.host])))
        return Need.of(
            states=[depth - 1] if self._rest else [],
            projections={depth: letters},
            attention_sum=self._middle(depth),
        )

    def encode(self, towers: Towers, pixels: Tensor) -> DenseFeatures:
        """Features of the first pass, and what the second needs."""
        dense = super().encode(towers, pixels)
        h, w = (side * towers.clip.patch for side in dense.features.shape[-2:])
        state = replace(dense.state, pixels=pixels[..., :h, :w].to(dense.features))
        return replace(dense, state=state)

    def features(self, tower: ClipTower, trace: Trace) -> DenseFeatures:
        """The first pass: RCS without SFR."""
        n = tower.depth
        v = trace.values[n]
        recalled = self._recall(tower, trace) @ v.float()
        block = LastBlock(
            trace.queries.get(n), trace.keys.get(n), v, trace.states.get(n - 1), recalled
        )
        return DenseFeatures(self._finish(tower, block, trace.grid), block)

    def mixing_map(self, tower: ClipTower, trace: Trace) -> Tensor:
        """tau_r ((1 - l_r) A + l_r R) of the first pass, (B, M, T, T)."""
        n = tower.depth
        by_letter = {"q": trace.queries, "k": trace.keys}
        maps = [
            tower.attention_map(
                by_letter[left][n],
                by_letter[right][n],
                bias=self._omega(trace.values[n], trace.grid),
            )
            for left, right in HOSTS[self.host]
        ]
        recalled = self._recall(tower, trace)
        return self.rcs_scale * torch.lerp(sum(maps[1:], maps[0]).float(), recalled, self.rcs_share)

    def _recall(self, tower: ClipTower, trace: Trace) -> Tensor:
        """R, (B, M, T, T)."""
        assert trace.attention_sum is not None
        return trace.attention_sum / len(set(self._middle(tower.depth)))

    def _omega(self, like: Tensor, grid: tuple[int, int]) -> Tensor | None:
        """NACLIP's Gaussian prior (T, T) for tokens `like` (B, M, T, d)."""
        if self.host != "naclip":
            return None
        return gaussian(grid, PRIOR_WIDTH, like.shape[2] - grid[0] * grid[1]).to(like)

    def _finish(
        self,
        tower: ClipTower,
        block: LastBlock,
        grid: tuple[int, int],
        feedback: Tensor | None = None,
    ) -> Tensor:
        """Features (B, E, h, w) of block N; feedback (L, L) is M / max M, of the second pass."""
        v = block.values
        bias, scale = self._omega(v, grid), v.shape[-1] ** -0.5
        if feedback is not None:
            alone = v.shape[2] - len(feedback)  # tokens that are no patches
            blend = F.pad(self.sfr_scale * self.sfr_share * feedback, (alone, 0, alone, 0)).to(v)
            bias = blend if bias is None else blend + bias
            scale *= self.sfr_scale * (1 - self.sfr_share)
        given: dict[str, Any] = {"q": block.queries, "k": block.keys}
        attended = block.recalled * self.rcs_share
        for left, right in HOSTS[self.host]:
            mixed = tower.attend(given[left], given[right], v, bias=bias, scale=scale)
            attended = attended + (1 - self.rcs_share) * mixed.float()
        states = {} if block.states is None else {tower.depth - 1: block.states}
        tokens = finish_block(
            tower,
            Trace(grid, states=states),
            (self.rcs_scale * attended).to(v.dtype),
            residual=self._rest,
            ffn=self._rest,
        )
        return to_grid(tower.project(tokens), grid)

    # -- semantic feedback ----------------------------------------------------------------------

    @property
    def gives_cosines(self) -> bool:
        """Without SFR."""
        return self.sfr_share == 0 and self.sfr_scale == 1

    @property
    def unexported(self) -> str:
        """The second pass takes its attention from labels."""
        if self.gives_cosines:
            return ""
        return (
            "its second pass depends on labels of the first (SFR); without it, --set sfr_share=0 "
            "--set sfr_scale=1, it can"
        )

    def scores(self, towers: Towers, encoding: Encoding, texts: TextQueries) -> Tensor:
        """Cosines of the second pass's features, (B, Q, h, w)."""
        return cosine(self.second_pass(towers, encoding, texts), texts.embeddings)

    def second_pass(self, towers: Towers, encoding: Encoding, texts: TextQueries) -> Tensor:
        """Features with SFR, (B, E, h, w), for these texts."""
        if self.gives_cosines:
            return encoding.features
        out = []
        for i, features in enumerate(encoding.features):
            parts: dict[str, Any] = {
                name: x if x is None else x[i : i + 1] for name, x in vars(encoding.state).items()
            }
            block = LastBlock(**parts)
            labels = self.patch_labels(features, encoding.state.pixels[i], texts)
            feedback = self.feedback(labels)
            feedback = feedback / feedback.max()
            if self.half:
                feedback = feedback.half().float()
            out.append(self._finish(towers.clip, block, encoding.grid, feedback))
        return torch.cat(out)

    def patch_labels(self, features: Tensor, pixels: Tensor, texts: TextQueries) -> Tensor:
        """Labels (h, w) of patches, from first-pass features (E, h, w) and pixels (3, H, W)."""
        probability = self.first_probabilities(features, pixels, texts)
        best, labels = probability.max(0)
        unsure = best < self.label_threshold
        count = len(probability)
        if self.labels == "texts":
            labels, best = labels.masked_fill(unsure, 0), torch.zeros_like(best)
        else:
            labels = labels.masked_fill(unsure, count)
        h, w = features.shape[-2:]
        side = pixels.shape[-1] // w
        by_patch = [
            x.unflatten(0, (h, side)).unflatten(2, (w, side)).transpose(1, 2).reshape(h * w, -1)
            for x in (labels, best)
        ]
        weight = 1 + by_patch[1] / side**2 / 2  # the sum of probabilities decides equal votes
        votes = weight.new_zeros(h * w, count + 1).scatter_add_(1, by_patch[0], weight)
        return votes.argmax(1).view(h, w)

    def first_probabilities(self, features: Tensor, pixels: Tensor, texts: TextQueries) -> Tensor:
        """softmax(scale * PAMR(cosines)), (K, H, W), of the first pass."""
        maps = cosine(features, texts.embeddings)
        if self.labels == "classes":
            maps = texts.pool(maps, dim=0)
        else:  # the order of the released code's lists: the background is class 0
            maps = maps[torch.argsort((texts.owner < texts.classes).int(), stable=True)]
        maps = F.interpolate(maps[None], size=pixels.shape[1:], mode="bilinear")[0]
        pamr = Pamr(steps=10, dilations=(8, 16))
        maps = pamr.refine(pamr.affinity(pixels), maps)
        return torch.softmax(self.logit_scale * maps, dim=0)

    def feedback(self, labels: Tensor) -> Tensor:
        """M, (L, L), smoothed, rows summing to 1, from the labels (h, w) of patches."""
        flat = labels.flatten()
        same = (flat[:, None] == flat).float()
        if self.decay:
            distance = chebyshev(labels.shape, labels.device)
            longest = distance.max().clamp_min(1)
            far = torch.exp(-distance / longest)
            same = torch.where(self._broken(labels, distance, longest), same * far, same)
        length = min(len(flat), SMOOTHING_LENGTH) // 2 * 2 + 1
        offset = torch.arange(length, device=labels.device) - length // 2
        kernel = torch.exp(-(offset**2) / (2 * SMOOTHING_WIDTH**2))
        kernel = kernel / kernel.sum()
        smooth = F.conv1d(same[:, None], kernel[None, None], padding=length // 2)[:, 0]
        return smooth / (smooth.sum(1, keepdim=True) + 1e-8)

    def _broken(self, labels: Tensor, distance: Tensor, longest: Tensor) -> Tensor:
        """Whether the line from patch i to j meets another label than i's, (L, L)."""
        h, w = labels.shape
        flat = labels.flatten()
        place = torch.arange(h * w, device=labels.device)
        down, across = place // w, place % w
        steps = distance.clamp_min(1) if self.lines == "whole" else longest
        broken = torch.zeros_like(distance, dtype=torch.bool)
        for k in range(1, int(longest) + 1):
            # k / steps would be k times a reciprocal, and round half-way points otherwise
            share = (torch.full_like(steps, k) / steps).clamp_max(1)
            rows = torch.round(down[:, None] * (1 - share) + down * share).long()
            columns = torch.round(across[:, None] * (1 - share) + across * share).long()
            here = k <= distance
            met = flat[torch.where(here, rows * w + columns, place[:, None])]
            broken |= met != flat[:, None]
        return broken


def chebyshev(grid: tuple[int, ...], device: torch.device) -> Tensor:
    """max(|rows|, |columns|) between all pairs of patches of a grid (h, w), (L, L) float32."""
    place = torch.arange(grid[0] * grid[1], device=device)
    down, across = place // grid[1], place % grid[1]
    apart = torch.maximum((down[:, None] - down).abs(), (across[:, None] - across).abs())
    return apart.float()
