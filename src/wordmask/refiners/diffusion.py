"""CLIPer's fine-grained compensation (Sun et al., ICCV 2025, section 3, Eq. 9 and 10).

A score map is multiplied by the self-attention of Stable Diffusion, which follows the outlines of
objects, head after head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from wordmask.affinity import Affinity, Chain, Mean, Sharpened
from wordmask.errors import WordmaskError
from wordmask.refiners.base import Refiner, RefinerInput, register_refiner
from wordmask.towers.auxiliary import AuxiliaryModels
from wordmask.towers.diffusion import LAYERS, DiffusionTower, SelfAttention


class Fused(NamedTuple):
    """The fused attention A_f of one picture and its grid h, w."""

    attention: Affinity
    grid: tuple[int, int]


@register_refiner
@dataclass(frozen=True)
class Diffusion(Refiner):
    """Scores spread by the self-attention of Stable Diffusion, head after head.

    S_f = A_f S_c with A_f = A[0] A[1] ... A[n], the heads' attention. S_c is the score map,
    bilinearly upscaled to the attention's grid (64 x 64 for Stable Diffusion 2.1-base). The product
    is applied right to left and never formed.

    Variants. The paper says that small values are zeroed before the multiplication (supplement 6)
    but not which, nor which layers' heads are multiplied; its code fixes both:

    - `official-v2` and `official-v1` (released code): the second and the first attention of the
      last up block, in this order; every head divided by its columns' maxima, entries below
      `threshold` zeroed, rows normalised. v1 fixes the threshold at 0.1, v2 sets it by data set
      (0.1 for VOC with ViT-B/16, 0.2 or 0.35 for others); here both start from 0.1.
    - `paper`: no column maxima; entries below the mean of their row are zeroed.

    Deviation: the noise is seeded; the code draws it anew for every picture.

    Args:
        fusion: "chain" multiplies the heads (Eq. 9); "mean" and "single" as in Table 7.
        head: the head for "single", counted over the layers.
        layers: layers of the self-attention; names as in diffusers, see `towers.diffusion`.
        threshold: entries below it are zeroed; in units of the column's maximum, or of the row's
            mean if `column_maximum` is off.
        column_maximum: divide every column by its maximum first.
        time_step: index among 50 time steps; 41 to 49 in Table 10.
        t: the time step itself, 0 to 999, in place of the index.
        side: side of Stable Diffusion's input in pixels; 0 is its native one (512).
        aspect: "square" stretches the picture, as the code does; with "kept", `side` is the short
            side.
        seed: of the noise.
    """

    name = "diffusion"
    title = "Stable Diffusion attention (CLIPer)"
    network = "diffusion"
    extra = "diffusion"
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        "official-v2": {},
        "official-v1": {},
        "paper": {"column_maximum": False, "threshold": 1.0},
    }

    fusion: Literal["chain", "mean", "single"] = "chain"
    head: int = 0
    layers: tuple[str, ...] = LAYERS
    threshold: float = 0.1
    column_maximum: bool = True
    time_step: int = 45
    t: int | None = None
    side: int = 0
    aspect: Literal["square", "kept"] = "square"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold < 0 or (self.column_maximum and self.threshold >= 1):
            raise WordmaskError(
                f"got threshold={self.threshold}; choose a share of the column's maximum from 0 to "
                "below 1, or with column_maximum=False any number of row means"
            )
        if self.side < 0 or self.head < 0:
            raise WordmaskError(
                f"got side={self.side}, head={self.head}; side is pixels (0: native), head counts "
                "from 0"
            )

    def prepare(self, picture: RefinerInput, networks: AuxiliaryModels) -> Fused:
        """Run one denoising pass and return its fused attention."""
        return self.fuse(self.heads(picture.image, networks.diffusion))

    def heads(self, image: Tensor, tower: DiffusionTower) -> SelfAttention:
        """The self-attention of a picture (3, H, W) in [0, 1], head by head."""
        return tower.attention(
            image,
            self.layers,
            time_step=self.time_step,
            t=self.t,
            size=self._size(image, tower.size),
            seed=self.seed,
        )

    def _size(self, image: Tensor, native: int) -> tuple[int, int]:
        side = self.side or native
        if self.aspect == "square":
            return side, side
        scale = side / min(image.shape[-2:])
        return round(image.shape[-2] * scale), round(image.shape[-1] * scale)

    def fuse(self, attention: SelfAttention) -> Fused:
        """A_f of the heads, Eq. 9 or Table 7.

        Raises:
            WordmaskError: a single head that does not exist.
        """
        heads = attention.heads
        if self.fusion == "single":
            if self.head >= len(heads):
                raise WordmaskError(f"got head={self.head}; these layers have {len(heads)} heads")
            heads = heads[self.head : self.head + 1]
        epsilon = 1e-5 if self.column_maximum else 0.0  # of the released code
        sharpened = [
            Sharpened(h, self.threshold, column_maximum=self.column_maximum, epsilon=epsilon)
            for h in heads
        ]
        return Fused(Mean(sharpened) if self.fusion == "mean" else Chain(sharpened), attention.grid)

    def refine(self, prepared: Fused, scores: Tensor) -> Tensor:
        """S_f of S_c (R, h, w), on the attention's grid."""
        upscaled = F.interpolate(scores[None].float(), size=prepared.grid, mode="bilinear")[0]
        refined = prepared.attention @ upscaled.flatten(1).T.contiguous()
        return refined.T.unflatten(1, prepared.grid).contiguous()
