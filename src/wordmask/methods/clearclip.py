"""ClearCLIP (Lan et al., Decomposing CLIP Representations for Dense Inference, ECCV 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.encoding import DenseFeatures
from wordmask.errors import WordmaskError
from wordmask.methods.base import Method, register, to_grid
from wordmask.towers.clip import ClipTower, Need, Trace


@register
@dataclass(frozen=True)
class ClearClip(Method):
    """Self-self attention in the last block, without its residual and without its FFN.

    X = Proj(Attn_qq V): the residual has a few channels of high value that hide local detail.

    Deviations of the released code: its default is the q-k attention with the residual dropped, so
    a plain run of it is not the paper's method; here `attention="qq"` is the default and `vanilla`
    the variant. It pads windows with zeros to whole patches (`remainder="pad"`), and uses logit
    scale 50 at short side 448.
    Cost: one forward of CLIP less the last feed-forward network.

    Args:
        attention: the pair of projections in the map: "qq", "kk", "vv" or "qk".
        residual, ffn: keep the last block's residual and feed-forward network.
        residual_beta: with the residual, the share of channels, those of highest mean magnitude
            over the tokens, that is set to 0 (supplement B, Table 1); 0 keeps all, 1 drops all.
        residual_norm: with the residual, divide each of its tokens by its L2 norm first
            (supplement B, "Norm").
        last_layers: sum the attention outputs of this many last blocks.
    """

    name = "clearclip"
    title = "ClearCLIP"
    year = 2024
    variants = {
        "paper": {},
        "vanilla": {"attention": "qk", "residual": True, "ffn": True},
    }

    short_side: int | None = 448
    logit_scale: float = 50.0
    remainder: Literal["drop", "pad"] = "pad"
    attention: Literal["qq", "kk", "vv", "qk"] = "qq"
    residual: bool = False
    ffn: bool = False
    residual_beta: float = 0.0
    residual_norm: bool = False
    last_layers: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.residual_beta <= 1 or self.last_layers < 1:
            raise WordmaskError(
                f"got residual_beta={self.residual_beta}, last_layers={self.last_layers}; "
                "beta is a share in [0, 1], layers count from 1"
            )

    def need(self, depth: int) -> Need:
        """Q, K, V of the last blocks and, for the residual, F^{N-1}."""
        letters = "".join(sorted({*self.attention, "v"}))
        blocks = range(depth - self.last_layers + 1, depth + 1)
        return Need.of(
            states=[depth - 1] if self.residual else [], projections=dict.fromkeys(blocks, letters)
        )

    def features(self, tower: ClipTower, trace: Trace) -> DenseFeatures:
        """The sum of the last blocks' attention outputs; residual and FFN if kept."""
        n = tower.depth
        x = self._attention_output(tower, trace, n)
        for earlier in range(n - self.last_layers + 1, n):
            x = x + self._attention_output(tower, trace, earlier)
        if self.residual:
            x = x + self._residual(trace.states[n - 1])
        if self.ffn:
            x = x + tower.block(n).feed_forward(x)
        return DenseFeatures(to_grid(tower.project(x), trace.grid))

    def mixing_map(self, tower: ClipTower, trace: Trace) -> Tensor:
        """softmax(XX^T / sqrt d) of the last block."""
        return tower.attention_map(*self._pair(trace, tower.depth))

    def _pair(self, trace: Trace, n: int) -> tuple[Tensor, Tensor]:
        by_letter = {"q": trace.queries, "k": trace.keys, "v": trace.values}
        left, right = self.attention
        return by_letter[left][n], by_letter[right][n]

    def _attention_output(self, tower: ClipTower, trace: Trace, n: int) -> Tensor:
        return tower.block(n).output(tower.attend(*self._pair(trace, n), trace.values[n]))

    def _residual(self, x: Tensor) -> Tensor:
        """X_res without its highest channels, or normalised; (B, T, D)."""
        if self.residual_norm:
            x = F.normalize(x, dim=-1)
        dropped = round(self.residual_beta * x.shape[-1])
        if dropped:
            high = x.abs().mean(dim=1).topk(dropped, dim=-1).indices  # (B, dropped)
            x = x.clone().transpose(1, 2)
            x[torch.arange(len(x), device=x.device)[:, None], high] = 0
            x = x.transpose(1, 2)
        return x
