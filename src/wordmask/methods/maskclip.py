"""MaskCLIP (Zhou et al., Extract Free Dense Labels from CLIP, ECCV 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.encoding import DenseFeatures, Encoding
from wordmask.methods.base import Method, Towers, finish_block, register, to_grid
from wordmask.scoring import SoftmaxRule
from wordmask.text_queries import TextQueries
from wordmask.towers.clip import ClipTower, Need, Trace

IMAGENET: dict[str, Any] = {
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}


SCALE = 100.0  # of the softmax in both refinements


@dataclass(frozen=True)
class MixtureRule(SoftmaxRule):
    """For scores that are mixed probabilities: a name's probability is its share of them."""

    def probability(self, scores: Tensor, texts: TextQueries) -> Tensor:
        """The share of each class, the best of its names, of the mixture (R, ...)."""
        mixed = scores.clamp_min(0)
        return texts.pool(mixed / mixed.sum(0).clamp_min(1e-12), dim=0)

    def pool(self, maps: Tensor, texts: TextQueries) -> Tensor:
        """The same: class maps are probabilities."""
        return self.probability(maps, texts)


@dataclass(frozen=True)
class Keys:
    """The keys of the last block, for key smoothing.

    Attributes:
        keys: (B, h*w, D) float32.
    """

    keys: Tensor


@register
@dataclass(frozen=True)
class MaskClip(Method):
    """Every patch keeps its own value: the last block's attention is the identity.

    Three baselines have this name; their numbers differ by up to 25 mIoU, so each is a variant:

    - `harness` (default): "MaskCLIP" in the tables of ClearCLIP, ProxyCLIP and CLIPer.
      Residual and FFN kept, CLIP's own activation and normalisation, 80 templates.
    - `official`: the released code. As above with exact GELU, layer norm epsilon 1e-6, ImageNet
      mean and std, 85 templates, short side 512. Its argmax is over plain cosines.
    - `dinoiser`: CLIP-DINOiser's, meant for laion2b weights: logit scale 100.
    - `clearclip`: `harness` without residual and FFN (ClearCLIP, supplement, Table 2).

    Key smoothing mixes probabilities, P_i <- sum_j <k_i, k_j> P_j, with unit keys k (at scale 100;
    classes that prompt denoising dropped have none). Rows of weights do not sum to 1; pixels are
    labelled by the mixture stretched to their size, and its shares are the probabilities.

    Deviations of the released code: the paper's key smoothing normalises keys over channels, the
    code over tokens (`smoothing_over_tokens`); both refinements are off in its configurations.
    Cost: one forward of CLIP less the last attention.

    Args:
        residual, ffn: keep the last block's residual and feed-forward network.
        prompt_denoising: a class with a best probability (at scale 100) in the picture below this
            is dropped; 0 keeps all. The paper's value is 0.5.
        key_smoothing: patches with a best probability of at most this get a mixture of the
            probabilities of all patches, weighted by their keys; 0 is off, 1 smooths all. The
            paper's value is 1.
        smoothing_over_tokens: normalise keys as the released code does.
    """

    name = "maskclip"
    title = "MaskCLIP"
    year = 2022
    variants = {
        "harness": {},
        "official": {
            **IMAGENET,
            "activation": "gelu",
            "norm_eps": 1e-6,
            "short_side": 512,
            "position": "bicubic",
            "templates": "maskclip",
            "logit_scale": 100.0,
            "smoothing_over_tokens": True,
        },
        "dinoiser": {"short_side": 448, "position": "bicubic", "logit_scale": 100.0},
        "clearclip": {"residual": False, "ffn": False},
    }

    residual: bool = True
    ffn: bool = True
    prompt_denoising: float = 0.0
    key_smoothing: float = 0.0
    smoothing_over_tokens: bool = False

    def need(self, depth: int) -> Need:
        """V of block N (K for smoothing) and, for the residual, F^{N-1}."""
        letters = "kv" if self.key_smoothing else "v"
        return Need.of(states=[depth - 1] if self.residual else [], projections={depth: letters})

    def features(self, tower: ClipTower, trace: Trace) -> DenseFeatures:
        """Proj(V), then the rest of the block."""
        n = tower.depth
        tokens = finish_block(tower, trace, trace.values[n], residual=self.residual, ffn=self.ffn)
        state = None
        if self.key_smoothing:
            keys = tower.block(n).output(trace.keys[n])  # the code applies out_proj to keys
            state = Keys(keys[:, tower.class_tokens :].float())
        return DenseFeatures(to_grid(tower.project(tokens), trace.grid), state)

    def mixing_map(self, tower: ClipTower, trace: Trace) -> Tensor:
        """The identity."""
        tokens = trace.values[tower.depth].shape[2]
        return torch.eye(tokens, device=tower.device).expand(
            len(trace.values[tower.depth]), 1, -1, -1
        )

    @property
    def gives_cosines(self) -> bool:
        """Without the two refinements."""
        return not (self.prompt_denoising or self.key_smoothing)

    def scores(self, towers: Towers, encoding: Encoding, texts: TextQueries) -> Tensor:
        """Cosines (B, Q, h, w), after prompt denoising; with key smoothing mixed probabilities."""
        scores = super().scores(towers, encoding, texts)
        if self.prompt_denoising:
            best = torch.softmax(SCALE * scores, dim=1).amax(dim=(2, 3), keepdim=True)
            absent = (best < self.prompt_denoising) & (best < best.amax(dim=1, keepdim=True))
            scores = scores.masked_fill(absent, -1.0)  # the smallest possible cosine
        if self.key_smoothing:
            scores = self._smooth(scores, encoding.state.keys)
        return scores

    def rule(self, encoding: Encoding, i: int) -> SoftmaxRule:
        """The shared rule, on mixed probabilities if keys are smoothed."""
        rule = MixtureRule if self.key_smoothing else SoftmaxRule
        return rule(self.logit_scale, self.area_threshold, self.min_max)

    def _smooth(self, scores: Tensor, keys: Tensor) -> Tensor:
        keys = F.normalize(keys, dim=1 if self.smoothing_over_tokens else 2)
        probability = torch.softmax(SCALE * scores.flatten(2), dim=1)  # (B, Q, h*w)
        smooth = probability @ (keys @ keys.transpose(1, 2))
        unsure = probability.amax(1, keepdim=True) <= self.key_smoothing
        return torch.where(unsure, smooth, probability).view_as(scores)
