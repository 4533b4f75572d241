"""The affinity of a vision foundation model, applied once to any score map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from wordmask.affinity import MaskedSoftmax
from wordmask.errors import WordmaskError
from wordmask.refiners.base import Refiner, RefinerInput, register_refiner
from wordmask.towers.auxiliary import AuxiliaryModels

Facet = Literal["output", "queries", "keys", "values"]


@dataclass(frozen=True)
class PatchAffinity:
    """The affinity of one picture, and the grid h, w of its patches."""

    affinity: MaskedSoftmax
    grid: tuple[int, int]


def features_of(
    picture: RefinerInput, networks: AuxiliaryModels, short_side: int | None, facet: Facet
) -> Tensor:
    """The VFM's features (D, h, w) of a picture, first resized if it is larger than short_side."""
    image = picture.image[None]
    shrink = (short_side or min(image.shape[2:])) / min(image.shape[2:])
    if shrink < 1:
        size = [round(side * shrink) for side in image.shape[2:]]
        image = F.interpolate(image, size=size, mode="bilinear", antialias=True)
    features: Tensor = networks.vfm.features(image, facet)[0]
    return features


@register_refiner
@dataclass(frozen=True)
class Vfm(Refiner):
    """Every patch gets the mean score of the patches with similar VFM features.

    A = softmax(gamma (c - beta mean(c)) + mask) over the cosines c of the VFM's features, the mask
    -inf where that is below 0: ProxyCLIP's attention. The refined map is A Up(S), the scores S
    enlarged bilinearly to the VFM's grid.

    Variants: `proxyclip`, the default, takes the picture at the size that ProxyCLIP uses, which
    bounds the cost; `cliper` at its own size, as the released code of CLIPer does when DINO or
    DINOv2 replaces Stable Diffusion (supplement, Table 9; one application, beta 1.2 and gamma 3).
    Cost: one forward of the VFM and L^2 cosines, L its patches.

    Args:
        short_side: larger pictures are resized to it, in pixels; None: pictures keep their size.
        beta, gamma: shift and scale of the cosines.
        threshold: a fixed cosine in place of beta mean(c).
        facet: features of the VFM's last block: its "output", or "queries", "keys" or "values".
    """

    name = "vfm"
    title = "VFM affinity"
    network = "vfm"
    variants = {"proxyclip": {}, "cliper": {"short_side": None}}

    short_side: int | None = 336
    beta: float = 1.2
    gamma: float = 3.0
    threshold: float | None = None
    facet: Facet = "output"

    def __post_init__(self) -> None:
        super().__post_init__()
        side = 1 if self.short_side is None else self.short_side
        if self.gamma <= 0 or not -1 <= (self.threshold or 0) <= 1 or side < 1:
            raise WordmaskError(
                f"got gamma={self.gamma}, threshold={self.threshold}, short_side={self.short_side};"
                " gamma is above 0, threshold a cosine between -1 and 1, short_side pixels above 0"
            )

    def prepare(self, picture: RefinerInput, networks: AuxiliaryModels) -> PatchAffinity:
        """The VFM's features of the picture, and the affinity between them."""
        features = features_of(picture, networks, self.short_side, self.facet)
        affinity = MaskedSoftmax(
            features.flatten(1).T, beta=self.beta, gamma=self.gamma, threshold=self.threshold
        )
        return PatchAffinity(affinity, (features.shape[1], features.shape[2]))

    def refine(self, prepared: PatchAffinity, scores: Tensor) -> Tensor:
        """A Up(S): scores (R, h, w) on any grid, to (R, h', w') on the VFM's grid."""
        return prepared.affinity.mix(scores, prepared.grid)
