"""PTC (arXiv 2608.03991): prototypes of the picture correct the text."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.errors import WordmaskError
from wordmask.refiners.base import WordScores, WordStep, register_refiner


@register_refiner
@dataclass(frozen=True)
class Ptc(WordStep):
    """Moves the words' embeddings towards prototypes of the picture, and scores again.

    Every patch goes to its best class, with the margin to the second. Of each class with at least
    K patches those of highest margin are taken, max(K, a tenth of them), and their features
    averaged by margin: the prototype, averaged over windows. All names of the class become
    (1 - m_c) t + m_c prototype, of unit length, with
    m_c = m min(1, ln(1 + n) / ln(1 + 10 K)) for n patches taken.

    Variants. Source: the card of a stored version of the released module; no golden vectors. Read
    from it so: names of the background are one class; K and the tenth count the patches of one
    window, n those of all; features have unit length before they are averaged.

    - `base` and `voc21`: the released settings. The released windows hold 196 patches; with fewer
      than K patches of a class nothing of it moves.

    Cost: the method's scores once more.

    Args:
        patches: K.
        share: of the patches of a class, the largest share that is taken.
        momentum: m.
        logit_scale: factor of the margins.
        support: windows that a prototype needs, if there are more than 16 windows or 30 classes.
    """

    name = "ptc"
    title = "Prototypes of the picture (PTC)"
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        "base": {},
        "voc21": {"patches": 100, "momentum": 0.3},
    }

    patches: int = 40
    share: float = 0.1
    momentum: float = 0.1
    logit_scale: float = 40.0
    support: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patches < 1 or not 0 <= self.share <= 1 or not 0 <= self.momentum <= 1:
            raise WordmaskError(
                f"got patches={self.patches}, share={self.share}, momentum={self.momentum}; "
                "patches are at least 1, the others from 0 to 1"
            )
        if self.logit_scale <= 0 or self.support < 1:
            raise WordmaskError(
                f"got logit_scale={self.logit_scale}, support={self.support}; a scale is above 0, "
                "a support at least 1"
            )

    @property
    def active(self) -> bool:
        """False where nothing moves."""
        return self.momentum > 0

    def rescore(self, words: WordScores) -> Tensor:
        """The scores (W, Q, h, w) by moved texts, or as they are where no class has patches."""
        moved = self.move(words)
        if torch.equal(moved, words.texts.embeddings):
            return words.scores
        return words.again(replace(words.texts, embeddings=moved))

    def move(self, words: WordScores) -> Tensor:
        """The texts (Q, E) of this picture."""
        texts, scores = words.texts, words.scores
        if scores.shape[2:] != words.features.shape[2:]:
            scores = F.interpolate(scores, words.features.shape[2:], mode="bilinear")
        classes = texts.pool(scores, dim=1).flatten(2)  # (W, C or C + 1, L)
        count = classes.shape[1]
        if count < 2:
            return texts.embeddings
        (best, second), (own, _) = (x.unbind(1) for x in classes.topk(2, dim=1))
        margins = self.logit_scale * (best - second)  # (W, L)
        unit = F.normalize(words.features.flatten(2), dim=1)  # (W, E, L)
        prototypes = unit.new_zeros(count, unit.shape[1])
        windows, taken = [0] * count, [0] * count
        for window in range(len(classes)):
            for c in own[window].unique().tolist():
                patches = (own[window] == c).nonzero()[:, 0]
                if len(patches) < self.patches:
                    continue
                most = max(self.patches, int(self.share * len(patches)))
                weight, which = margins[window, patches].topk(most)
                mean = unit[window][:, patches[which]] @ (weight / weight.sum().clamp_min(1e-12))
                prototypes[c] += mean
                windows[c] += 1
                taken[c] += most
        least = 1
        if len(classes) > 16 or count > 30:
            least = min(self.support, len(classes))
        moved = texts.embeddings.clone()
        for c in range(count):
            if windows[c] >= least:
                pull = math.log(1 + taken[c]) / math.log(1 + 10 * self.patches)
                pull = self.momentum * min(1.0, pull)
                names = texts.owner == c
                prototype = F.normalize(prototypes[c], dim=0)
                moved[names] = F.normalize((1 - pull) * moved[names] + pull * prototype, dim=-1)
        return moved
