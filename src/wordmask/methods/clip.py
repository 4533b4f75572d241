"""CLIP as it is (Radford et al., Learning Transferable Visual Models, ICML 2021): the baseline."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from wordmask.encoding import DenseFeatures
from wordmask.methods.base import Method, last_attention, register, to_grid
from wordmask.towers.clip import ClipTower, Need, Trace


@register
@dataclass(frozen=True)
class Clip(Method):
    """The last block as it is, its patch tokens projected like the class token.

    Source: the "CLIP" rows of the papers' tables. Cost: one forward of CLIP.
    """

    name = "clip"
    title = "CLIP, last block as it is"
    year = 2021
    variants = {"paper": {}}

    def need(self, depth: int) -> Need:
        """F^N, and F^{N-1} for the attention map of the last block."""
        return Need.of(states=[depth - 1, depth])

    def features(self, tower: ClipTower, trace: Trace) -> DenseFeatures:
        """proj(LN(F^N))."""
        return DenseFeatures(to_grid(tower.project(trace.states[tower.depth]), trace.grid))

    def mixing_map(self, tower: ClipTower, trace: Trace) -> Tensor:
        """softmax(QK^T / sqrt d) of the last block."""
        return last_attention(tower, trace)
