"""GEM (Bousselham et al., Grounding Everything, CVPR 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.encoding import DenseFeatures
from wordmask.errors import WordmaskError
from wordmask.methods.base import Method, register, to_grid
from wordmask.towers.clip import ClipTower, Need, PositionMode, Trace


@register
@dataclass(frozen=True)
class Gem(Method):
    """Generalised self-self attention in the last blocks, summed in a second stream.

    For each of q, k, v: s <- s/||s||; repeated: s <- softmax(ss^T / tau) s, s <- s/||s||; then
    O_s = softmax(ss^T / tau) V. The stream adds Proj(mean of O_q, O_k, O_v); no FFN. 1 / tau is the
    mean norm of the normed tokens over sqrt d, per picture.

    Deviations of the released code: `depth` 7 changes the last 6 blocks; pictures are squashed to
    448 x 448 (here the aspect is kept); prompt "a photo of a {}." only; its segmentation recipe
    stretches each prompt's map to [0, 1] before the argmax (variant `official`). Variant
    `clearclip` reads the last block's attention output alone (ClearCLIP, supplement, Table 2).
    Cost: one forward of CLIP and 6 more attentions in each of 6 blocks.

    Args:
        depth: as in the released code: the last `depth - 1` blocks are used.
        iterations: rounds of s <- softmax(ss^T / tau) s before O_s.
        inverse_temperature: 1 / tau; None: adaptive.
        stream: keep the stream's residual (False: `clearclip`).
    """

    name = "gem"
    title = "GEM"
    year = 2024
    maps = 9
    variants = {
        "paper": {},
        "official": {"min_max": True},
        "clearclip": {"stream": False},
    }

    short_side: int | None = 448
    resample: Literal["pil-bicubic", "pil-bilinear", "cv2-bilinear"] = "pil-bicubic"
    whole_patches: bool = True
    position: PositionMode = "bicubic_antialias"
    templates: str | tuple[str, ...] = "single"
    logit_scale: float = 100.0
    depth: int = 7
    iterations: int = 1
    inverse_temperature: float | None = None
    stream: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth < 2 or self.iterations < 0:
            raise WordmaskError(
                f"got depth={self.depth}, iterations={self.iterations}; depth is at least 2 "
                "(one block), iterations at least 0"
            )

    def _blocks(self, tower_depth: int) -> range:
        if not self.stream:
            return range(tower_depth, tower_depth + 1)
        return range(max(tower_depth - self.depth + 2, 1), tower_depth + 1)

    def need(self, depth: int) -> Need:
        """Q, K, V of the last blocks and the states before them."""
        blocks = self._blocks(depth)
        return Need.of(states=[n - 1 for n in blocks], projections=dict.fromkeys(blocks, "qkv"))

    def features(self, tower: ClipTower, trace: Trace) -> DenseFeatures:
        """x <- x + Proj((O_q + O_k + O_v) / 3) over the last blocks."""
        blocks = self._blocks(tower.depth)
        x = trace.states[blocks[0] - 1]
        if not self.stream:
            x = torch.zeros_like(x)
        for n in blocks:
            v = trace.values[n]
            scale = self._scale(tower, trace, n)
            streams = self._self_attended(tower, trace, n, scale)
            x = x + tower.block(n).output(tower.attend_sum(streams, v, scale=scale) / 3)
        return DenseFeatures(to_grid(tower.project(x), trace.grid))

    def mixing_map(self, tower: ClipTower, trace: Trace) -> Tensor:
        """Mean of the three maps of the last block."""
        n = tower.depth
        scale = self._scale(tower, trace, n)
        streams = self._self_attended(tower, trace, n, scale)
        return torch.stack([tower.attention_map(s, s, scale=scale) for s in streams]).mean(0)

    def _scale(self, tower: ClipTower, trace: Trace, n: int) -> Tensor | float:
        """1 / tau: mean over tokens of ||LN(x)||, over sqrt d; (B, 1, 1, 1)."""
        if self.inverse_temperature is not None:
            return self.inverse_temperature
        z = tower.block(n).norm1(trace.states[n - 1])
        d = trace.values[n].shape[-1]
        return z.norm(dim=-1).mean(dim=-1)[:, None, None, None] * d**-0.5

    def _self_attended(
        self, tower: ClipTower, trace: Trace, n: int, scale: Tensor | float
    ) -> list[Tensor]:
        """q, k, v after their rounds of s <- softmax(ss^T / tau) s: (B, M, T, d), unit rows."""
        out = []
        for s in (trace.queries[n], trace.keys[n], trace.values[n]):
            s = F.normalize(s, dim=-1)
            for _ in range(self.iterations):
                s = F.normalize(tower.attend(s, s, s, scale=scale), dim=-1)
            out.append(s)
        return out
