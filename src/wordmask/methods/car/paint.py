"""CaR's decision: masks are painted one over the other, that of the surest class last."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wordmask.scoring import BlockLabels, ClassMapRule, Rule, Scored, nothing


@dataclass(frozen=True)
class PaintRule(ClassMapRule):
    """A class covers the pixels at which its map is above a share of its maximum.

    Pixels that no mask covers are background; without a background they get the class with the
    highest weighted map.

    Args:
        mask_threshold: the share.
    """

    mask_threshold: float = 0.4

    values = Rule.values  # what is painted depends on other masks, too

    def decide(self, scored: Scored, allowed: Tensor | None) -> BlockLabels:
        """See `Rule.decide`."""
        strategy = scored.texts.strategy
        image = self.image_scores(scored)
        kept = self.present(scored, image, allowed)
        if not kept.any():
            return nothing
        _, factor = self.weights(scored, image)
        score, dropped = image[:, None, None], ~kept[:, None, None]
        threshold = self.mask_threshold * score

        def label(block: Tensor) -> Tensor:
            value = block.mul_(factor)  # score * map / maximum
            painted = torch.where(value > threshold, 1 + score, value)
            best, index = painted.masked_fill_(dropped, -1).max(0)
            labels = index + 1
            if strategy.kind == "none":
                return labels
            own = value.gather(0, index[None])[0]
            if strategy.probability is not None:
                labels = labels.masked_fill(own < strategy.probability, 0)
            if strategy.power is not None:
                unsure = (1 - own).clamp_min(0) ** strategy.power >= own
                labels = labels.masked_fill(unsure, 0)
            return labels.masked_fill(best <= 1, 0)

        return label
