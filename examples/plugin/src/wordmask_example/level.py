"""Words are compared by how far they rise above their own mean (an example)."""

from dataclasses import dataclass

from torch import Tensor

from wordmask.refiners import WordScores, WordStep, register_refiner


@register_refiner
@dataclass(frozen=True)
class Level(WordStep):
    """Takes a share of each word's mean score over the picture off its scores.

    Args:
        share: from 0 to 1.
    """

    name = "level"
    title = "Level words"
    variants = {"default": {}}

    share: float = 0.5

    def rescore(self, words: WordScores) -> Tensor:
        """Scores (W, Q, h, w) of W windows and Q names, of the same shape."""
        return words.scores - self.share * words.scores.mean((0, 2, 3), keepdim=True)
