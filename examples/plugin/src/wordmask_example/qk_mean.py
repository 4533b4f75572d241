"""Q-q and k-k attention, averaged over the last blocks (an example)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from wordmask.errors import WordmaskError
from wordmask.methods import ClipTower, DenseFeatures, Method, Need, Trace, register, to_grid


@register
@dataclass(frozen=True)
class QkMean(Method):
    """The mean of q-q and k-k attention over the last blocks mixes the values of the last one.

    Args:
        layers: how many last blocks.
    """

    name = "qk_mean"
    title = "Mean of q-q and k-k attention"
    year = 2026
    variants = {"default": {}, "last": {"layers": 1}}

    layers: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers < 1:
            raise WordmaskError(f"got layers={self.layers}; at least one block is averaged")

    def need(self, depth: int) -> Need:
        """Q and K of the last blocks, and V of block N."""
        blocks = range(max(depth - self.layers, 0) + 1, depth + 1)
        return Need.of(projections=dict.fromkeys(blocks, "qk") | {depth: "qkv"})

    def features(self, tower: ClipTower, trace: Trace) -> DenseFeatures:
        """Proj(A V), without the residual and the feed-forward network."""
        n = tower.depth
        attended = self.mixing_map(tower, trace) @ trace.values[n]
        return DenseFeatures(to_grid(tower.project(tower.block(n).output(attended)), trace.grid))

    def mixing_map(self, tower: ClipTower, trace: Trace) -> Tensor:
        """A, the mean of softmax(QQ^T / sqrt d) and softmax(KK^T / sqrt d) over the blocks."""
        streams = [*trace.queries.values(), *trace.keys.values()]
        return torch.stack([tower.attention_map(s, s) for s in streams]).mean(0)
