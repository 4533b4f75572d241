"""FreeCP (Chen et al., Training-Free Class Purification, ICCV 2025)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.boxes import Box, attention_affinity, component_boxes, fill_boxes
from wordmask.errors import WordmaskError
from wordmask.refiners.base import WordScores, WordStep, register_refiner
from wordmask.scoring import BlockValues, Rule, Scored, nothing
from wordmask.towers.clip import ClipTower, Need, Trace


@register_refiner
@dataclass(frozen=True)
class FreeCp(WordStep):
    """Purges the classes that a picture does not show, in each window.

    Of C classes and L patches:

    1. p = softmax over all names of 100 x cosine; n = p stretched to [0, 1] over all names at once.
    2. T: the mean attention of all blocks but the last, made doubly stochastic, symmetric, squared.
    3. r_c = T (n_c inside the boxes of its parts above 0.4 of its maximum), stretched to [0, 1].
    4. Redundancy: classes are dropped where sum(p_c r_c) / (sum(p_c) + sum(r_c)) is too low.
    5. Ambiguity: of classes whose r overlap (sum of minima over sum of maxima), those stay that win
       a box of their mean r: the box is cut out, enlarged, and CLIP's own embedding of it compared
       with their names.
    6. The r that are left are the maps; background is 1 - their maximum.

    Variants. Source: the released code, revision 6946aa7, by the card of it; the paper was not at
    hand. Deviations: of several names of a class the best counts; the crop is compared with these
    names, where the release has descriptions by a language model; classes that are known to be in
    the picture (image-level labels) stay, and no others; and where nothing is left in a window
    without a background, the class of the highest redundancy score stays.

    - `official`: boxes miss the last row and column of patches.
    - `repaired`: boxes reach the border.
    - `purge`: steps 1 to 5 alone. The names of dropped classes get the lowest score, the others
      keep the method's, and the method's rule and background decide.

    Cost: one attention map of CLIP's size for each block of the pass, T of L x L numbers kept, and
    a pass of CLIP for each ambiguous box.

    Args:
        redundancy: classes with a score up to this are dropped; at most 1/2. Released: 0.15 for VOC
            and COCO-Object, 0.1 for Context and Cityscapes, 0.05 for ADE and COCO-Stuff.
        ambiguity: classes whose maps overlap by this much are ambiguous. Released: 0.8 for VOC21,
            COCO-Object and Cityscapes, else 0.7.
        box_threshold: share of the maximum above which a part of a map has a box.
        crop: side in pixels to which a box is enlarged.
        logit_scale: factor of the cosines in p.
        full_boxes: boxes reach the last row and column.
        maps: "refined" (step 6) or "method".
    """

    name = "freecp"
    title = "Purging of absent classes (FreeCP)"
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        "repaired": {},
        "official": {"full_boxes": False},
        "purge": {"maps": "method"},
    }

    redundancy: float = 0.15
    ambiguity: float = 0.7
    box_threshold: float = 0.4
    crop: int = 112
    logit_scale: float = 100.0
    full_boxes: bool = True
    maps: Literal["refined", "method"] = "refined"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.redundancy < 0.5 and self.ambiguity >= 0 and 0 < self.box_threshold < 1):
            raise WordmaskError(
                f"got redundancy={self.redundancy}, ambiguity={self.ambiguity}, box_threshold="
                f"{self.box_threshold}; redundancy is from 0 to below 0.5, ambiguity at least 0, "
                "box_threshold between 0 and 1"
            )
        if self.crop < 1 or self.logit_scale <= 0:
            raise WordmaskError(
                f"got crop={self.crop}, logit_scale={self.logit_scale}; both are above 0"
            )

    @property
    def gives_class_maps(self) -> bool:
        """Maps of the classes, but for `purge`."""
        return self.maps == "refined"

    def rule(self, prepared: Any, rule: Rule) -> Rule:
        """Step 6's own, or the method's."""
        return PurgedRule() if self.gives_class_maps else rule

    @property
    def keeps(self) -> bool:
        """T."""
        return True

    def need(self, depth: int) -> Need:
        """The attention of all blocks but the last."""
        return Need.of(attention_sum=range(1, max(depth, 2)))

    def maps_held(self, tower: ClipTower) -> int:
        """The attention of all heads, and what T is made by."""
        return super().maps_held(tower) + 5

    def keep(self, trace: Trace) -> Tensor:
        """T of step 2, (B, h, w, L)."""
        assert trace.attention_sum is not None
        patches = trace.grid[0] * trace.grid[1]
        attention = trace.attention_sum.mean(1)[:, -patches:, -patches:].float()
        spread = torch.stack([attention_affinity(a) for a in attention])
        return spread.unflatten(1, trace.grid)

    def rescore(self, words: WordScores) -> Tensor:
        """Steps 1 and 3 to 6, each window by itself."""
        assert words.kept is not None
        windows = zip(words.scores, words.kept, words.pixels, strict=True)
        return torch.stack([self._window(words, *one) for one in windows])

    def _window(self, words: WordScores, scores: Tensor, spread: Tensor, pixels: Tensor) -> Tensor:
        texts, own = words.texts, scores
        if scores.shape[1:] != spread.shape[:2]:  # of a method on another network's patches
            scores = F.interpolate(scores[None], spread.shape[:2], mode="bilinear")[0]
        p = torch.softmax(self.logit_scale * scores, dim=0)
        scaled = texts.pool((p - p.min()) / (p.max() - p.min()).clamp_min(1e-12), dim=0)
        p = texts.pool(p, dim=0)[: texts.classes]
        r = self.refine_maps(scaled[: texts.classes], spread)
        score = self.redundancy_scores(p, r)
        kept = score > self.redundancy
        if texts.strategy.kind == "none" and not kept.any():
            kept = score == score.max()
        if texts.known is not None:
            kept = texts.known.to(r.device)
        for group in [] if texts.known is not None else self.ambiguous(r, kept):
            boxes = self.boxes(r[group].mean(0, keepdim=True))
            if any(bottom <= top or right <= left for _, top, left, bottom, right in boxes):
                continue  # an empty box keeps the whole group
            names = torch.isin(texts.owner, group.to(texts.owner.device))
            owner = texts.owner[names]
            winners = [owner[c.argmax()] for c in self._compare(words, pixels, boxes, names)]
            kept[group] = torch.isin(group.to(owner.device), torch.stack(winners)).to(kept.device)
        if self.gives_class_maps:
            # without a background purged maps lie below the 0 that a kept one may have
            purged = -1e-6 if texts.strategy.kind == "none" else 0.0
            return r.masked_fill(~kept[:, None, None], purged)
        absent = torch.cat([~kept, kept.new_zeros(1)])[texts.owner.to(kept.device)]
        return own.masked_fill(absent[:, None, None], min(-1.0, float(own.min())))

    def refine_maps(self, maps: Tensor, spread: Tensor) -> Tensor:
        """Step 3: maps n (C, h, w) spread by T (h, w, L), (C, h, w) in [0, 1]."""
        inside = maps * fill_boxes(self.boxes(maps, holes=False), maps)
        r = (inside.flatten(1) @ spread.flatten(0, 1).T).view_as(maps)
        low, high = r.amin((1, 2), keepdim=True), r.amax((1, 2), keepdim=True)
        return (r - low) / (high - low + 1e-8)

    def boxes(self, maps: Tensor, *, holes: bool = True) -> list[Box]:
        """The boxes of the parts of maps (n, h, w) in [0, 1], and of the rings around their holes.

        A hole's box lies inside of its part's, so that a mask of all needs none.
        """
        level = (255 * maps).floor()
        inside = level > (self.box_threshold * level.amax((1, 2), keepdim=True)).floor()
        boxes = component_boxes(inside)
        if holes:
            outside = F.pad(~inside, (1, 1, 1, 1), value=True)
            h, w = outside.shape[1:]
            found = component_boxes(outside, diagonal=False)
            boxes += [  # from the padded map, one patch larger on each side
                (n, top - 2, left - 2, bottom, right)
                for n, top, left, bottom, right in found
                if (top, left, bottom, right) != (0, 0, h, w)
            ]
        if self.full_boxes:
            return boxes
        h, w = maps.shape[1:]
        return [(n, t, le, min(b, h - 1), min(r, w - 1)) for n, t, le, b, r in boxes]

    def redundancy_scores(self, p: Tensor, r: Tensor) -> Tensor:
        """Step 4: (C,) from maps p and r (C, h, w)."""
        p, r = p.flatten(1), r.flatten(1)
        return (p * r).sum(1) / (p.sum(1) + r.sum(1) + 1e-8)

    def ambiguous(self, r: Tensor, kept: Tensor) -> list[Tensor]:
        """Step 5: the groups of kept classes (C,) that overlap, each of more than one."""
        left = kept.nonzero()[:, 0]
        maps = r[left].flatten(1)
        overlaps = [(m.minimum(maps).sum(1) / m.maximum(maps).sum(1).clamp_min(1e-8)) for m in maps]
        groups: list[Tensor] = []
        if len(left) < 2:
            return groups
        linked = torch.stack(overlaps) >= self.ambiguity
        linked |= torch.eye(len(left), dtype=torch.bool, device=linked.device)
        for _ in range(len(left).bit_length()):  # paths of twice the length each time
            linked = (linked.float() @ linked.float()) > 0
        for row in linked.unique(dim=0):
            if row.sum() > 1:
                groups.append(left[row])
        return groups

    def _compare(
        self, words: WordScores, pixels: Tensor, boxes: list[Box], names: Tensor
    ) -> Tensor:
        """The cosines (boxes, names) of CLIP's embeddings of boxes, cut out, with names."""
        tower = words.tower
        crops = []
        for _, *corners in boxes:
            top, left, bottom, right = (side * tower.patch for side in corners)
            crop = pixels[None, :, top:bottom, left:right]
            crops.append(F.interpolate(crop, (self.crop, self.crop), mode="bilinear"))
        last = Need.of(states=[tower.depth])
        states = [tower.trace(crop, last).states[tower.depth] for crop in crops]
        embeddings = F.normalize(tower.pool(torch.cat(states)), dim=-1)
        return embeddings @ words.texts.embeddings[names].T


@dataclass(frozen=True)
class PurgedRule(Rule):
    """Step 6: the largest map, or the background where 1 - that is not smaller.

    A threshold or a complement with a power takes the place of 1 - the largest.
    """

    def values(self, scored: Scored) -> BlockValues:
        """See `Rule.values`."""
        return partial(self._values, scored, None)

    def decide(self, scored: Scored, allowed: Tensor | None) -> Callable[[Tensor], Tensor]:
        """See `Rule.decide`."""
        if allowed is not None and not allowed.any():
            return nothing
        return lambda block: self._values(scored, allowed, block).argmax(0)

    @staticmethod
    def _values(scored: Scored, allowed: Tensor | None, maps: Tensor) -> Tensor:
        strategy = scored.texts.strategy
        if allowed is not None:
            maps = maps.masked_fill(~allowed.to(maps.device)[:, None, None], -1)
        best = maps.amax(0, keepdim=True)
        if strategy.kind == "none":
            ground = torch.full_like(best, -2)
        elif strategy.probability is not None:
            ground = torch.full_like(best, strategy.probability)
        else:
            ground = (1 - best).clamp_min(0) ** (strategy.power or 1.0)
        return torch.cat([ground, maps])
