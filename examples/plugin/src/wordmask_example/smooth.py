"""A box blur of score maps (an example)."""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from wordmask.refiners import Refiner, RefinerInput, register_refiner


@register_refiner
@dataclass(frozen=True)
class Smooth(Refiner):
    """Every patch takes the mean score of the square around it.

    Args:
        reach: patches on each side.
    """

    name = "smooth"
    title = "Box blur"
    variants = {"default": {}, "wide": {"reach": 3}}

    reach: int = 1

    def prepare(self, picture: RefinerInput, networks: Any) -> None:
        """Nothing of the picture is used."""

    def refine(self, prepared: None, scores: Tensor) -> Tensor:
        """Mean of the (2 reach + 1)^2 patches around each, of maps (R, h, w)."""
        padded = F.pad(scores[None], (self.reach,) * 4, mode="replicate")
        return F.avg_pool2d(padded, 2 * self.reach + 1, stride=1)[0]
