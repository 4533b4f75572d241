"""CLIP Surgery (Li et al., A Closer Look at the Explainability of CLIP, 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.encoding import DenseFeatures, Encoding
from wordmask.errors import WordmaskError
from wordmask.methods.base import Method, Towers, register, to_grid
from wordmask.text_queries import TextQueries
from wordmask.towers.clip import ClipTower, Need, PositionMode, Trace
from wordmask.vocabulary import templates


@dataclass(frozen=True)
class ClassToken:
    """The class token of the original stream, for feature surgery.

    Attributes:
        embedding: (B, E).
    """

    embedding: Tensor


@register
@dataclass(frozen=True)
class ClipSurgery(Method):
    """Architecture surgery: a second stream of value-value attention along the last blocks.

    x <- x + Proj(softmax(VV^T / sqrt d) V), without FFN, V from the original stream; the class
    token is that of the original stream. With feature surgery (variant `feature-surgery`) the
    scores are w_c <x_i, t_c> minus their mean over the classes, w = softmax(2 <CLS, t>) over its
    mean: what all classes share is removed. A single class is scored against the embedding of the
    empty prompt ("redundant feature").

    Deviations of the released code: it resizes the position embedding for square pictures only and
    writes it back into the model; here any grid works and nothing is changed. Its comment says 7
    blocks and its loop takes 6. Its segmentation takes the argmax of plain cosines: the default.
    Cost: one forward of CLIP and one more attention in each of 6 blocks.

    Args:
        blocks: number of last blocks with the second stream.
        feature_surgery: remove what the classes share; scores are then not cosines.
    """

    name = "clip_surgery"
    title = "CLIP Surgery"
    year = 2023
    variants = {"paper": {}, "feature-surgery": {"feature_surgery": True}}

    short_side: int | None = 512
    resample: Literal["pil-bicubic", "pil-bilinear", "cv2-bilinear"] = "pil-bicubic"
    whole_patches: bool = True
    position: PositionMode = "bilinear"
    templates: str | tuple[str, ...] = "maskclip"
    logit_scale: float = 100.0
    blocks: int = 6
    feature_surgery: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blocks < 1:
            raise WordmaskError(f"got blocks={self.blocks}; at least one block is changed")

    def _blocks(self, depth: int) -> range:
        return range(max(depth - self.blocks + 1, 1), depth + 1)

    def need(self, depth: int) -> Need:
        """V of the last blocks, the states before the first and block N, Q and K of block N."""
        blocks = self._blocks(depth)
        letters = dict.fromkeys(blocks, "v") | {depth: "qkv"}
        return Need.of(states=[blocks[0] - 1, depth - 1], projections=letters)

    def features(self, tower: ClipTower, trace: Trace) -> DenseFeatures:
        """x <- x + Proj(softmax(VV^T / sqrt d) V) over the last blocks; the CLS stays CLIP's."""
        blocks = self._blocks(tower.depth)
        x = trace.states[blocks[0] - 1]
        for n in blocks:
            v = trace.values[n]
            x = x + tower.block(n).output(tower.attend(v, v, v))
        state = None
        if self.feature_surgery:
            tower.require_class_token("feature surgery")
            state = ClassToken(tower.project(self._class_token(tower, trace))[:, 0])
        return DenseFeatures(to_grid(tower.project(x), trace.grid), state)

    def mixing_map(self, tower: ClipTower, trace: Trace) -> Tensor:
        """softmax(VV^T / sqrt d) of the last block."""
        v = trace.values[tower.depth]
        return tower.attention_map(v, v)

    @property
    def gives_cosines(self) -> bool:
        """Without feature surgery."""
        return not self.feature_surgery

    def scores(self, towers: Towers, encoding: Encoding, texts: TextQueries) -> Tensor:
        """Cosines, or the similarity after feature surgery; (B, Q, h, w)."""
        scores = super().scores(towers, encoding, texts)
        if not self.feature_surgery:
            return scores
        if texts.embeddings.shape[0] == 1:
            if texts.vocabulary is None or towers.text is None:
                raise WordmaskError(
                    "feature surgery got one text feature and no name; give a second feature"
                )
            empty = towers.text.encode([""], templates(self.templates)).to(towers.clip.device)
            return redundant_scores(encoding.features, texts.embeddings, empty)
        cls = F.normalize(encoding.state.embedding, dim=-1)
        return surgery(scores, cls @ texts.embeddings.T)

    def _class_token(self, tower: ClipTower, trace: Trace) -> Tensor:
        """The class token of the original last block, (B, 1, D), computed from its query alone."""
        n = tower.depth
        block = tower.block(n)
        attended = tower.attend(trace.queries[n][:, :, :1], trace.keys[n], trace.values[n])
        x = trace.states[n - 1][:, :1] + block.output(attended)
        return x + block.feed_forward(x)


def surgery(scores: Tensor, cls_scores: Tensor) -> Tensor:
    """Feature surgery of cosines (B, Q, h, w), given the class token's cosines (B, Q)."""
    weight = torch.softmax(2 * cls_scores, dim=-1)
    weight = weight / weight.mean(dim=-1, keepdim=True)
    scores = scores * weight[..., None, None]
    return scores - scores.mean(dim=1, keepdim=True)


def redundant_scores(features: Tensor, text: Tensor, redundant: Tensor) -> Tensor:
    """Scores of a single class: its similarity minus that of the empty prompt, (B, 1, h, w).

    features (B, E, h, w), text and redundant unit rows (1, E).
    """
    unit = F.normalize(features, dim=1)
    return torch.einsum("behw,qe->bqhw", unit, text - redundant)
