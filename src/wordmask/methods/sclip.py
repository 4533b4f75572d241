"""SCLIP (Wang et al., Rethinking Self-Attention for Dense Vision-Language Inference, ECCV 2024)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from wordmask.encoding import DenseFeatures
from wordmask.methods.base import Method, finish_block, register, to_grid
from wordmask.towers.clip import ClipTower, Need, Trace


@register
@dataclass(frozen=True)
class Sclip(Method):
    """Correlative self-attention in the last block: softmax(QQ^T) + softmax(KK^T).

    The two softmaxes are added and not averaged, so rows sum to 2; residual and FFN are kept.
    Variant `clearclip` drops both (ClearCLIP, supplement, Table 2).

    Deviations of the released code: none in the block. Its protocol has sliding windows of 224 with
    stride 112, logit scale 40 and, on VOC only, an area threshold of 0.1: windows and threshold are
    options here, off by default.
    Cost: one forward of CLIP, with two attentions in the last block.

    Args:
        residual, ffn: keep the last block's residual and feed-forward network.
    """

    name = "sclip"
    title = "SCLIP"
    year = 2024
    maps = 6
    variants = {"paper": {}, "clearclip": {"residual": False, "ffn": False}}

    residual: bool = True
    ffn: bool = True

    def need(self, depth: int) -> Need:
        """Q, K, V of block N and, for the residual, F^{N-1}."""
        return Need.of(states=[depth - 1], projections={depth: "qkv"})

    def features(self, tower: ClipTower, trace: Trace) -> DenseFeatures:
        """(softmax(QQ^T / sqrt d) + softmax(KK^T / sqrt d)) V, then the rest of the block."""
        n = tower.depth
        attended = tower.attend_sum([trace.queries[n], trace.keys[n]], trace.values[n])
        tokens = finish_block(tower, trace, attended, residual=self.residual, ffn=self.ffn)
        return DenseFeatures(to_grid(tower.project(tokens), trace.grid))

    def mixing_map(self, tower: ClipTower, trace: Trace) -> Tensor:
        """The sum of both maps; rows sum to 2."""
        q, k = trace.queries[tower.depth], trace.keys[tower.depth]
        return tower.attention_map(q, q) + tower.attention_map(k, k)
