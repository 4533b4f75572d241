"""CLIP-ES (Lin et al., CLIP is Also an Efficient Segmenter, CVPR 2023).

C classes, K background words, L = h*w patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.encoding import DenseFeatures, Encoding
from wordmask.errors import WordmaskError
from wordmask.methods.base import Method, Towers, last_attention, register, to_grid
from wordmask.methods.clip_es.maps import affinities, cosine_maps, gradcam, spread_in_boxes
from wordmask.scoring import ClassMapRule
from wordmask.text_queries import TextQueries
from wordmask.towers.clip import ClipTower, Need, PositionMode, Trace


@dataclass(frozen=True)
class LateStates:
    """What the maps are made of.

    Attributes:
        states: (B, T, D), F^{N-1}.
        spread: (B, L, L), the affinity that spreads the maps.
    """

    states: Tensor
    spread: Tensor


@register
@dataclass(frozen=True)
class ClipEs(Method):
    """GradCAM of CLIP's softmax, spread by its attention: pseudo-masks from image-level labels.

    1. Softmax GradCAM on z, the first layer norm of the last block, for softmax(100 cos(f, t)) over
       the words and the background words, f the mean of all patch features: words that look alike
       suppress each other's maps. Divided by its maximum.
    2. Class-aware attention-based affinity: the mean attention of the last blocks, made doubly
       stochastic, symmetric and squared, spreads the map from the boxes around its strong parts.

    It is made for pictures whose words are known (`image_labels`): these alone, and the background
    words, are in the softmax. Nothing known, all words are, and as every map's maximum is 1, words
    that are not there get pixels as well. The background is a complement, (1 - max)^power.

    Deviations of the released code: no dense CRF (see `car`); its picture is rounded up to whole
    patches, here to the nearest. Several names of a class are one text, their mean. Of a batch that
    was encoded as one tensor all words compete. Cost: one forward of CLIP, and one backward pass of
    a block for each word.

    Args:
        box_threshold: strong parts of a map are above this share of its maximum; 0.4 for VOC, 0.7
            for COCO (variant `coco`).
        attention_blocks: number of last blocks with attention that spreads the maps.
    """

    name = "clip_es"
    title = "CLIP-ES"
    year = 2023
    maps = 5
    variants = {"paper": {}, "coco": {"box_threshold": 0.7}}
    class_maps = True
    scoring = Method.scoring | {"box_threshold"}

    short_side: int | None = None
    resample: Literal["pil-bicubic", "pil-bilinear", "cv2-bilinear"] = "pil-bicubic"
    whole_patches: bool = True
    position: PositionMode = "bilinear"
    templates: str | tuple[str, ...] = ("a clean origami {}.",)
    logit_scale: float = 100.0
    box_threshold: float = 0.4
    attention_blocks: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.box_threshold < 1 or self.attention_blocks < 1:
            raise WordmaskError(
                f"got box_threshold={self.box_threshold}, attention_blocks="
                f"{self.attention_blocks}; the first is a share from 0 to below 1, the second at "
                "least 1"
            )

    @property
    def unexported(self) -> str:
        """Its maps."""
        return "its maps are gradients, spread from boxes"

    def need(self, depth: int) -> Need:
        """F^{N-1}, F^N and the sum of the last blocks' attention."""
        blocks = range(max(depth - self.attention_blocks, 0) + 1, depth + 1)
        return Need.of(states=[depth - 1, depth], attention_sum=blocks)

    def features(self, tower: ClipTower, trace: Trace) -> DenseFeatures:
        """CLIP's features as they are, F^{N-1}, and the affinity."""
        spread = affinities(trace)
        features = to_grid(tower.project(trace.states[tower.depth]), trace.grid)
        return DenseFeatures(features, LateStates(trace.states[tower.depth - 1], spread))

    def mixing_map(self, tower: ClipTower, trace: Trace) -> Tensor:
        """softmax(QK^T / sqrt d) of the last block, which is unchanged."""
        return last_attention(tower, trace)

    def scores(self, towers: Towers, encoding: Encoding, texts: TextQueries) -> Tensor:
        """The spread maps in [0, 1], (B, C, h, w); 0 for words that are known not to be there."""
        device = texts.embeddings.device
        known = torch.ones(texts.classes) if texts.known is None else texts.known
        there = known.nonzero().flatten().to(device)
        rows = [texts.embeddings[texts.owner == c].mean(0) for c in there]
        result = encoding.features.new_zeros(len(encoding.features), texts.classes, *encoding.grid)
        if not rows:
            return result
        queries = F.normalize(torch.cat([torch.stack(rows), texts.background]), dim=-1)
        state, patches = encoding.state, encoding.grid[0] * encoding.grid[1]
        for i, (late, spread) in enumerate(zip(state.states, state.spread, strict=True)):
            cosines, signed = cosine_maps(towers.clip, late, queries, patches)
            maps = gradcam(self.logit_scale * cosines, signed)[: len(there)]
            maps = maps.unflatten(1, encoding.grid)
            result[i, there] = spread_in_boxes(maps, spread, self.box_threshold).to(result)
        return result

    def rule(self, encoding: Encoding, i: int) -> ClassMapRule:
        """Maximum of the maps, and the complement."""
        return ClassMapRule()
