"""CaR (Sun et al., CLIP as RNN: Segment Countless Visual Concepts without Training Endeavor, 2024).

Its masks come from CLIP-ES, see ../clip_es. C classes, K background words, L = h*w patches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.devices import check_finite
from wordmask.encoding import DenseFeatures, Encoding
from wordmask.errors import WordmaskError, unknown
from wordmask.methods.base import Method, Towers, last_attention, register, to_grid
from wordmask.methods.car.paint import PaintRule
from wordmask.methods.car.visual_prompts import PROMPTS, Prompter
from wordmask.methods.clip_es.maps import affinities, cosine_maps, gradcam, spread_in_boxes
from wordmask.progress import steps
from wordmask.text_queries import TextQueries
from wordmask.towers.clip import ClipTower, Need, PositionMode, Trace
from wordmask.vocabulary import templates

AT_ONCE = 8  # prompted pictures in one batch of the classifier


@dataclass(frozen=True)
class Proposals:
    """The state from which masks are proposed, and the pictures into which they are drawn.

    Attributes:
        states: (B, T, D), F^{N-1}.
        spread: (B, L, L), the affinity that spreads the maps.
        pictures: (B, 3, H, W) in [0, 1]; None until `encode` adds them.
    """

    states: Tensor
    spread: Tensor
    pictures: Tensor | None = None


@register
@dataclass(frozen=True)
class Car(Method):
    """Propose a mask for each word, classify each mask, drop absent words, and repeat.

    1. Mask proposals (CLIP-ES) for the words left: GradCAM on z, the first layer norm of the last
       block, for softmax(100 cos(f, t)) over words and background words, f the mean of all patch
       features. The map is spread by the attention of the last blocks inside the boxes around its
       strong parts (class-aware attention-based affinity).
    2. Each word gets its picture with a visual prompt: blurred or gray outside of its mask, a red
       ellipse around it. A CLIP compares the pictures with all words left.
    3. A word stays if its probability in its own picture is above `confidence`; if no word's is,
       the surest stays. Repeat until all stay.

    A pixel gets the word with the highest probability among those with a mask that covers it (masks
    are painted in ascending order), and no word if no mask does; with background "none", the word
    with the highest map there. So one word always stays: alone, its softmax is over itself.

    The gradient of a softmax is a mixture of the gradients of its cosines, so one backward pass for
    each word serves all rounds: with M_q = <z, dcos_q/dz averaged over patches>, the map of word c
    is relu(M_c - sum_j P_j M_j), j over the others, P their softmax. (The factor left out cancels
    in the division by the maximum; and with a probability of 1 the map remains, while the gradient
    itself would vanish.) A picture is classified again only if its mask changed since the last
    round.

    Deviations. The paper and its code classify the prompted pictures with ViT-L/14: that is
    `classifier="second"` with `networks={"classifier": ...}`; by default the same CLIP does it. No
    dense CRF: no maintained package of it exists (pydensecrf's last release is of 2018, its fork
    pydensecrf2 had one, without wheels); a refiner can replace it. The released code's 23
    background words are given as `background` here. Several names of a class are one text,
    their mean. Prompted pictures are drawn at CLIP's input size and resized to the classifier's
    square; the ellipse touches the mask's box and is 1/100 of the short side thick (neither is
    stated). SAM and the second run for stuff are not offered. If the words in the picture are
    known, `confidence=0` keeps them all. Cost: one forward and one backward pass of a block for
    each word, and one forward of the classifier for each word and round.

    Args:
        confidence: a word stays with a probability above this.
        mask_threshold: a mask covers pixels at which its map is above this share of its maximum.
        box_threshold: strong parts of a map are above this share of its maximum.
        prompts: visual prompts, combined: "blur", "gray" or "black" outside, "circle".
        classifier: "same" CLIP, or the "second" one of `networks`.
        classifier_templates: prompt templates of the words for the classifier.
        attention_blocks: number of last blocks with attention that spreads the maps.
    """

    name = "car"
    title = "CaR (CLIP as RNN)"
    year = 2024
    variants = {
        "paper": {},
        "context": {
            "confidence": 0.25,
            "mask_threshold": 0.6,
            "prompts": ("blur", "circle"),
        },
        "stuff": {"confidence": 0.25, "mask_threshold": 0.6, "prompts": ("blur", "gray")},
        "object": {
            "confidence": 0.3,
            "mask_threshold": 0.5,
            "box_threshold": 0.5,
            "prompts": ("blur", "gray"),
        },
        "ade": {
            "confidence": 0.25,
            "mask_threshold": 0.6,
            "box_threshold": 0.7,
            "prompts": ("gray", "blur"),
        },
    }
    class_maps = True
    scoring = Method.scoring | {
        "confidence",
        "mask_threshold",
        "box_threshold",
        "prompts",
        "classifier",
        "classifier_templates",
    }

    short_side: int | None = 512
    resample: Literal["pil-bicubic", "pil-bilinear", "cv2-bilinear"] = "pil-bicubic"
    whole_patches: bool = True
    position: PositionMode = "bilinear"
    templates: str | tuple[str, ...] = ("a clean origami {}.",)
    logit_scale: float = 100.0
    confidence: float = 0.6
    mask_threshold: float = 0.4
    box_threshold: float = 0.4
    prompts: tuple[str, ...] = ("circle", "blur")
    classifier: Literal["same", "second"] = "same"
    classifier_templates: str | tuple[str, ...] = "cliper"
    attention_blocks: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        shares = (self.confidence, self.mask_threshold, self.box_threshold)
        if not all(0 <= share < 1 for share in shares):
            raise WordmaskError(
                f"got confidence={self.confidence}, mask_threshold={self.mask_threshold}, "
                f"box_threshold={self.box_threshold}; all are shares from 0 to below 1"
            )
        for prompt in self.prompts:
            if prompt not in PROMPTS:
                raise unknown("visual prompt", prompt, PROMPTS)
        if self.attention_blocks < 1:
            raise WordmaskError(f"got attention_blocks={self.attention_blocks}; at least one")

    @property
    def networks(self) -> tuple[str, ...]:
        """The second CLIP, if it classifies the prompted pictures."""
        return ("classifier",) if self.classifier == "second" else ()

    # -- what does not depend on the words ------------------------------------------------------

    @property
    def unexported(self) -> str:
        """Its rounds."""
        return "its maps are gradients, and it asks again without the words that were not there"

    def need(self, depth: int) -> Need:
        """F^{N-1}, F^N and the sum of the last blocks' attention."""
        blocks = range(max(depth - self.attention_blocks, 0) + 1, depth + 1)
        return Need.of(states=[depth - 1, depth], attention_sum=blocks)

    def features(self, tower: ClipTower, trace: Trace) -> DenseFeatures:
        """CLIP's features as they are, F^{N-1}, and the affinity that spreads the maps."""
        spread = affinities(trace)
        features = to_grid(tower.project(trace.states[tower.depth]), trace.grid)
        return DenseFeatures(features, Proposals(trace.states[tower.depth - 1], spread))

    def mixing_map(self, tower: ClipTower, trace: Trace) -> Tensor:
        """softmax(QK^T / sqrt d) of the last block, which is unchanged."""
        return last_attention(tower, trace)

    def encode(self, towers: Towers, pixels: Tensor) -> DenseFeatures:
        """As for every method; the state also holds the pictures, for visual prompts."""
        dense = super().encode(towers, pixels)
        pictures = self.unnormalise(pixels.to(towers.clip.device), towers.clip).clamp(0, 1)
        return DenseFeatures(dense.features, replace(dense.state, pictures=pictures))

    # -- the rounds -----------------------------------------------------------------------------

    def scores(self, towers: Towers, encoding: Encoding, texts: TextQueries) -> Tensor:
        """Each map divided by its maximum, times its word's probability; 0 for dropped words.

        Returns (B, C, h, w).
        """
        classifier = towers.clip
        if self.classifier == "second":
            classifier = towers.networks.classifier.tower
        rows = torch.stack(
            [texts.embeddings[texts.owner == c].mean(0) for c in range(texts.classes)]
        )
        rows = F.normalize(torch.cat([rows, texts.background]), dim=-1)  # (C + K, E)
        labels = self._labels(towers, texts, rows[: texts.classes], classifier)
        state = encoding.state
        return torch.stack(
            [
                self._rounds(towers.clip, classifier, rows, labels, *parts).unflatten(
                    -1, encoding.grid
                )
                for parts in zip(state.states, state.spread, state.pictures, strict=True)
            ]
        )

    def rule(self, encoding: Encoding, i: int) -> PaintRule:
        """Masks are painted one over the other."""
        return PaintRule(mask_threshold=self.mask_threshold)

    def _labels(
        self, towers: Towers, texts: TextQueries, rows: Tensor, classifier: ClipTower
    ) -> Tensor:
        """The texts with which prompted pictures are compared, (C, E') unit rows.

        One for each class: the mean of its names in all `classifier_templates`, or `rows` (C, E) if
        words were given as text features.
        """
        second = self.classifier == "second"
        if texts.vocabulary is None:
            if second:
                raise WordmaskError(
                    "got words as a tensor and classifier='second', which needs names; give names, "
                    "or classifier='same'"
                )
            return rows
        text = towers.networks.classifier.text if second else towers.text
        if text is None:
            raise WordmaskError(
                "got names, but the classifier has no text encoder; give another classifier"
            )
        names = text.encode(texts.vocabulary.queries, templates(self.classifier_templates))
        groups = names.split([len(synonyms) for synonyms in texts.vocabulary])
        unit = F.normalize(torch.stack([x.mean(0) for x in groups]), dim=-1)
        return unit.to(classifier.device)

    def _rounds(
        self,
        tower: ClipTower,
        classifier: ClipTower,
        texts: Tensor,
        labels: Tensor,
        state: Tensor,
        spread: Tensor,
        picture: Tensor,
    ) -> Tensor:
        """The scores (C, L) of one picture: state (T, D), spread (L, L), picture (3, H, W)."""
        classes = len(labels)
        grid = picture.shape[1] // tower.patch, picture.shape[2] // tower.patch
        cosines, signed = cosine_maps(tower, state, texts, grid[0] * grid[1])
        check_finite(signed, "the gradients of CLIP's last block", tower.dtype)
        background = torch.arange(classes, len(texts), device=texts.device)
        draw = Prompter(picture, self.prompts)
        active = torch.arange(classes, device=texts.device)
        masks: dict[int, int] = {}  # hash of the last classified mask of each word
        found = labels.new_zeros(classes, classes)  # cosine of each word's picture with each word
        result = signed.new_zeros(classes, signed.shape[1])
        number = 0
        while len(active):
            number += 1
            rows = torch.cat([active, background])
            maps = gradcam(self.logit_scale * cosines[rows], signed[rows])[: len(active)]
            maps = self._spread(maps, spread, grid)  # (n, L)
            parts = list(zip(active.split(AT_ONCE), maps.split(AT_ONCE), strict=True))
            text, total = f"round {number}, words", len(active)
            for words, some in steps(text, parts, total, lambda part: len(part[0])):
                shown = self._masks(some.unflatten(1, grid), (picture.shape[1], picture.shape[2]))
                keys = [hash(mask.cpu().numpy().tobytes()) for mask in shown]
                new = [i for i, c in enumerate(words.tolist()) if masks.get(c) != keys[i]]
                if new:
                    prompted = torch.stack([draw(shown[i]) for i in new])
                    found[words[new]] = embed(classifier, prompted) @ labels.T
                masks.update(zip(words.tolist(), keys, strict=True))
            own = torch.softmax(self.logit_scale * found[active][:, active], dim=1).diagonal()
            mapped = maps.amax(1) > 0
            stays = (own > self.confidence) & mapped
            if not stays.any():  # the surest stays, of those with a map if any has one
                stays[own.where(mapped, own - 1).argmax()] = True
            if stays.all():
                result[active] = maps * own[:, None]
                break
            active = active[stays]
        return result

    def _masks(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """The masks (n, H, W) bool of maps (n, h, w)."""
        maps = F.interpolate(maps[None], size, mode="bilinear")[0]
        return maps > self.mask_threshold * maps.amax((1, 2), keepdim=True)

    def _spread(self, maps: Tensor, spread: Tensor, grid: tuple[int, int]) -> Tensor:
        """Spread each map (n, L) inside the boxes of its strong parts; divide by its maximum."""
        return spread_in_boxes(maps.unflatten(1, grid), spread, self.box_threshold).flatten(1)


def embed(tower: ClipTower, pictures: Tensor) -> Tensor:
    """Embeddings (n, E) of pictures (n, 3, H, W) in [0, 1], resized to the native square."""
    side = tower.vision.config.image_size
    pixels = F.interpolate(pictures, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (pixels.new_tensor(x)[:, None, None] for x in (tower.mean, tower.std))
    trace = tower.trace((pixels - mean) / std, Need.of(states=[tower.depth]))
    pooled = tower.pool(trace.states[tower.depth])
    check_finite(pooled, "the classifier's embeddings of prompted pictures", tower.dtype)
    return F.normalize(pooled, dim=-1)
