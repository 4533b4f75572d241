"""NACLIP (Hajimiri et al., Pay Attention to Your Neighbours, WACV 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from wordmask.encoding import DenseFeatures
from wordmask.errors import WordmaskError
from wordmask.methods.base import Method, finish_block, register, to_grid
from wordmask.towers.clip import ClipTower, Need, Trace


@register
@dataclass(frozen=True)
class NaClip(Method):
    """Key-key attention with a Gaussian around every patch, without residual and FFN.

    A = softmax(KK^T / sqrt d + Omega), Omega_ij = exp(-||p_i - p_j||^2 / (2 sigma^2)), zero for the
    class token.

    Deviations of the released code: its headline numbers include PAMR (10 steps, dilations 8 and
    16), which is a refiner and not part of the method here; it builds Omega by convolution, which
    gives the same numbers. Cost: one forward of CLIP less the last feed-forward network.

    Args:
        strategy: "naclip", or its ablations: "kk" (no Gaussian), "nonly" (the Gaussian alone, times
            the picture's mean of ||q_i|| ||k_j|| / sqrt d), "csa" (SCLIP's attention).
        sigma: width of the Gaussian in patches.
        residual, ffn: keep the last block's residual and feed-forward network ("vanilla"
            architecture of the paper; both False is "reduced").
    """

    name = "naclip"
    title = "NACLIP"
    year = 2025
    variants = {"paper": {}, "vanilla": {"residual": True, "ffn": True}}

    strategy: Literal["naclip", "kk", "nonly", "csa"] = "naclip"
    sigma: float = 5.0
    residual: bool = False
    ffn: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma <= 0:
            raise WordmaskError(f"got sigma={self.sigma}; the Gaussian's width is above 0 patches")

    def need(self, depth: int) -> Need:
        """K, V of block N (Q for two ablations) and, for the residual, F^{N-1}."""
        letters = "qkv" if self.strategy in ("csa", "nonly") else "kv"
        return Need.of(states=[depth - 1] if self.residual else [], projections={depth: letters})

    def features(self, tower: ClipTower, trace: Trace) -> DenseFeatures:
        """softmax(KK^T / sqrt d + Omega) V, then the rest of the block."""
        n = tower.depth
        k, v = trace.keys[n], trace.values[n]
        if self.strategy in ("naclip", "kk"):
            bias = self._omega(trace.grid, k) if self.strategy == "naclip" else None
            attended = tower.attend(k, k, v, bias=bias)
        else:
            attended = self.mixing_map(tower, trace) @ v
        tokens = finish_block(tower, trace, attended, residual=self.residual, ffn=self.ffn)
        return DenseFeatures(to_grid(tower.project(tokens), trace.grid))

    def mixing_map(self, tower: ClipTower, trace: Trace) -> Tensor:
        """The attention map of the last block."""
        n = tower.depth
        k = trace.keys[n]
        omega = self._omega(trace.grid, k)
        if self.strategy == "csa":
            q = trace.queries[n]
            return tower.attention_map(q, q) + tower.attention_map(k, k)
        if self.strategy == "nonly":
            norms = trace.queries[n].norm(dim=-1).mean(-1) * k.norm(dim=-1).mean(-1)  # (B, M)
            scale = norms.mean(-1)[:, None, None, None] * k.shape[-1] ** -0.5
            return torch.softmax(omega * scale, dim=-1)
        return tower.attention_map(k, k, bias=omega if self.strategy == "naclip" else None)

    def _omega(self, grid: tuple[int, int], like: Tensor) -> Tensor:
        omega = gaussian(grid, self.sigma, like.shape[2] - grid[0] * grid[1])
        return omega.to(like.device, like.dtype)


def gaussian(grid: tuple[int, int], sigma: float, class_tokens: int = 1) -> Tensor:
    """Omega, (1 + h*w, 1 + h*w): a Gaussian of patch distance, zero row and column for the CLS."""
    h, w = grid

    def along(length: int) -> Tensor:
        p = torch.arange(length, dtype=torch.float32)
        return torch.exp(-((p[:, None] - p) ** 2) / (2 * sigma**2))

    patches = torch.einsum("ab,cd->acbd", along(h), along(w)).reshape(h * w, h * w)
    return torch.nn.functional.pad(patches, (class_tokens, 0, class_tokens, 0))
