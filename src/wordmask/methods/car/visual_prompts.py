"""Visual prompts, drawn into a picture for a classifier (CaR, section 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.devices import for_float64

PROMPTS = ("blur", "gray", "black", "circle")
RED = (1.0, 0.0, 0.0)
BLUR_SIDE, BLUR_SIGMA = 15, 2.6  # a 15 x 15 Gaussian, its width by OpenCV's rule for that side


class Prompter:
    """Draws visual prompts into one picture (3, H, W) in [0, 1] for one mask after the other.

    `prompts`: any of `PROMPTS`; "blur", "gray" and "black" act outside of the mask, one after the
    other, "circle" draws a red ellipse that touches the mask's bounding box.
    """

    def __init__(self, picture: Tensor, prompts: tuple[str, ...]):
        self.picture = outside = picture
        self.circle = "circle" in prompts
        if "blur" in prompts:
            outside = blur(outside)
        if "gray" in prompts:
            luma = outside.new_tensor([0.299, 0.587, 0.114])
            outside = (luma @ outside.flatten(1)).view(outside.shape[1:]).expand_as(outside)
        if "black" in prompts:
            outside = torch.zeros_like(outside)
        self.outside = outside

    def __call__(self, mask: Tensor) -> Tensor:
        """The picture with prompts for a mask (H, W) bool, which must not be empty for a circle."""
        drawn = torch.where(mask, self.picture, self.outside)
        if self.circle and mask.any():
            red = drawn.new_tensor(RED)[:, None, None]
            drawn = torch.where(ellipse_around(mask), red, drawn)
        return drawn


def blur(picture: Tensor) -> Tensor:
    """A Gaussian blur of (3, H, W) by BLUR_SIDE pixels, edges repeated."""
    reach = BLUR_SIDE // 2
    along = torch.arange(-reach, reach + 1, dtype=picture.dtype, device=picture.device)
    kernel = torch.exp(-((along / BLUR_SIGMA) ** 2) / 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    padded = F.pad(picture[None], (reach,) * 4, mode="replicate")
    rows = F.conv2d(padded, kernel, groups=3)
    return F.conv2d(rows, kernel.transpose(2, 3), groups=3)[0]


def ellipse_around(mask: Tensor) -> Tensor:
    """The outline (H, W) bool of the ellipse that touches the bounding box of a mask (H, W)."""
    device, mask = mask.device, for_float64(mask)
    y, x = mask.nonzero(as_tuple=True)
    low, high = torch.stack([y.min(), x.min()]).double(), torch.stack([y.max(), x.max()]).double()
    centre, half = (low + high) / 2, ((high - low) / 2).clamp_min(1)
    down, across = (
        (torch.arange(side, device=mask.device) - c) / r
        for side, c, r in zip(mask.shape, centre, half, strict=True)
    )
    radius = (down[:, None] ** 2 + across**2).sqrt()  # 1 on the ellipse
    slope = ((down[:, None] / half[0]) ** 2 + (across / half[1]) ** 2).sqrt() / radius
    distance = (radius - 1).abs() / slope  # in pixels, near the ellipse
    return (distance <= max(min(mask.shape) / 100, 1.5) / 2).to(device)
