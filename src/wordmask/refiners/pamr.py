"""PAMR (Araslanov and Roth, Single-Stage Semantic Segmentation from Image Labels, CVPR 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.errors import WordmaskError
from wordmask.refiners.base import Refiner, RefinerInput, register_refiner
from wordmask.towers.auxiliary import AuxiliaryModels

BLOCK_BYTES = 2 * 2**20  # for one copy of the maps that are refined together, to stay in the cache
AROUND = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]  # 3 x 3, the centre is number 4


@register_refiner
@dataclass(frozen=True)
class Pamr(Refiner):
    """Pixel-adaptive mask refinement: neighbours of similar colour share their scores.

    In every step a pixel takes the mean of its 8 neighbours at every dilation, weighted by the
    softmax over all of them of -mean over channels of |I_p - I_q| / (1e-8 + 0.1 sigma_p), where
    sigma_p is the standard deviation of the colour among these neighbours. Border pixels are
    repeated.

    `harness` has the settings of SCLIP and NACLIP, at the size of CLIP's input; `fine` those for
    showing masks. The harness itself resizes the picture, as CLIP got it, to the size of the result
    (`at="picture"`), whose cost grows with the picture. Maps come at that size too, as labels are
    read from them.

    Args:
        steps: number of averaging steps; 0 changes nothing.
        dilations: distances of the neighbours in pixels.
        at: the size at which it runs: "clip", that of CLIP's input, or "picture".
    """

    name = "pamr"
    title = "PAMR"
    variants = {"harness": {}, "fine": {"steps": 50, "dilations": (1, 2, 4, 8, 12, 24)}}

    steps: int = 10
    dilations: tuple[int, ...] = (8, 16)
    at: Literal["clip", "picture"] = "clip"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 0 or not self.dilations or min(self.dilations) < 1:
            raise WordmaskError(
                f"got steps={self.steps}, dilations={self.dilations}; steps are at least 0, "
                "dilations whole pixels of at least 1"
            )

    @property
    def active(self) -> bool:
        """Whether there is any step."""
        return self.steps > 0

    def prepare(self, picture: RefinerInput, networks: AuxiliaryModels) -> Tensor:
        """The weight of every neighbour, (8 * dilations, H, W)."""
        pixels = picture.pixels
        if self.at == "picture":
            # in float64, so that an area of one colour stays one: its neighbours' deviation is 0,
            # and the last bit of float32, which differs with the number of threads, would decide
            size = picture.image.shape[1:]
            pixels = F.interpolate(pixels[None].double(), size=size, mode="bilinear")[0]
        return self.affinity(pixels.float())

    def grid(self, prepared: Tensor) -> tuple[int, int]:
        """The size of the picture that was prepared."""
        return prepared.shape[1], prepared.shape[2]

    def refine(self, prepared: Tensor, scores: Tensor) -> Tensor:
        """Run all steps on scores (R, H, W).

        Smaller ones are first resized with their corners aligned, as the released module does; in
        its harness they never are.
        """
        height, width = prepared.shape[1:]
        out = scores.new_empty(len(scores), height, width)
        chunk = max(BLOCK_BYTES // (4 * height * width), 1)
        for start in range(0, len(scores), chunk):
            maps = scores[start : start + chunk]
            if maps.shape[1:] != (height, width):
                maps = F.interpolate(
                    maps[None], size=(height, width), mode="bilinear", align_corners=True
                )[0]
            for _ in range(self.steps):
                mean = torch.zeros_like(maps)
                for weight, neighbour in zip(prepared, self._neighbours(maps), strict=True):
                    mean.addcmul_(weight, neighbour)
                maps = mean
            out[start : start + chunk] = maps
        return out

    def affinity(self, pixels: Tensor) -> Tensor:
        """Weights of the neighbours from pixels (3, H, W), (8 * dilations, H, W), summing to 1."""
        around = [x for d in self.dilations for x in shifted(pixels, d)]  # with the centres
        mean = sum(around[1:], around[0]) / len(around)
        squares = sum(((x - mean).square() for x in around[1:]), (around[0] - mean).square())
        scale = 1e-8 + 0.1 * (squares / (len(around) - 1)).sqrt()
        distance = [((x - pixels).abs() / scale).mean(0) for x in self._neighbours(pixels)]
        return torch.softmax(-torch.stack(distance), dim=0)

    def _neighbours(self, x: Tensor) -> Iterator[Tensor]:
        for d in self.dilations:
            for i, neighbour in enumerate(shifted(x, d)):
                if i != 4:
                    yield neighbour


def shifted(x: Tensor, distance: int) -> Iterator[Tensor]:
    """x (C, H, W) and its 8 neighbours at a distance, row by row, as views of a padded copy."""
    height, width = x.shape[1:]
    padded = F.pad(x[None], (distance,) * 4, mode="replicate")[0]
    for down, across in AROUND:
        top, left = (1 + down) * distance, (1 + across) * distance
        yield padded[:, top : top + height, left : left + width]
