"""VIP's pooling of synonyms by saliency (MiSsU-HH/VIP)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.errors import WordmaskError
from wordmask.refiners.base import WordScores, WordStep, register_refiner


@register_refiner
@dataclass(frozen=True)
class Vip(WordStep):
    """Weighs the synonyms of a class by how much the picture looks like each, and joins them.

    The weights of the names of a class are softmax(cosine / temperature), the cosine of each name
    with the mean patch feature of the picture. Each name's map is multiplied by its weight over
    their mean, and the class has (1 / tau) log sum exp(tau map) over its names. Its first name gets
    this map, the others the lowest score. A class of one name stays as it is.

    Source: the card of the released code; no golden vectors, and its two constants are not on the
    card: those here are ours. Maps are the cosines; the mean is of features of unit length, over
    all windows. Names of the background are left to compete one by one.

    Args:
        temperature: of the weights; the smaller, the more the best name counts.
        tau: of the joined maps; the larger, the nearer to their maximum.
    """

    name = "vip"
    title = "Synonyms by saliency (VIP)"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"base": {}}

    temperature: float = 1.0
    tau: float = 100.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0 or self.tau <= 0:
            raise WordmaskError(
                f"got temperature={self.temperature}, tau={self.tau}; both are above 0"
            )

    def rescore(self, words: WordScores) -> Tensor:
        """Scores (W, Q, h, w) in which one name speaks for each class."""
        texts, scores = words.texts, words.scores.clone()
        unit = F.normalize(words.features.flatten(2), dim=1)  # (W, E, L)
        cosines = texts.embeddings @ F.normalize(unit.mean((0, 2)), dim=0)  # (Q,)
        lowest = min(-1.0, float(scores.min()))
        for c in range(texts.classes):
            names = (texts.owner == c).nonzero()[:, 0]
            if len(names) < 2:
                continue
            weights = torch.softmax(cosines[names] / self.temperature, dim=0)
            maps = words.scores[:, names] * (weights / weights.mean())[:, None, None]
            scores[:, names] = lowest
            scores[:, names[0]] = (self.tau * maps).logsumexp(1) / self.tau
        return scores
