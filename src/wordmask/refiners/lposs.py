"""LPOSS and LPOSS+ (Stojnic et al., Label Propagation Over Patches and Pixels, CVPR 2025)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.errors import WordmaskError
from wordmask.refiners.base import Refiner, RefinerInput, register_refiner
from wordmask.towers.auxiliary import AuxiliaryModels
from wordmask.towers.memory import check_memory
from wordmask.windows import ScoreMap, Tile, Window, place_windows

TOLERANCE = 1e-6  # of the residual, against the length of the scores
BLOCK_BYTES = 2 * 2**20  # for one copy of the maps whose pixels are spread together


@dataclass(frozen=True)
class Graphs:
    """The graphs of one picture.

    Attributes:
        patches: (N, N) normalised weights between the patches of all windows.
        centres: (N, 2) of the patches, y and x in [-1, 1] over the picture.
        windows: in pixels, and `grid` the h, w of the patches of each.
        size: (H, W) of the picture as it was prepared.
        mass: (1, N), what scores of 1 become; None if maps are not divided by it.
        pixels: of LPOSS+, and `pixel_mass` (1, H, W) likewise.
    """

    patches: Tensor
    centres: Tensor
    windows: tuple[Window, ...]
    grid: tuple[int, int]
    size: tuple[int, int]
    mass: Tensor | None = None
    pixels: PixelGraph | None = None
    pixel_mass: Tensor | None = None


@register_refiner
@dataclass(frozen=True)
class Lposs(Refiner):
    """Label propagation: patches that are near and alike share scores, over any number of steps.

    Every patch is joined to its k nearest by the cosine c_ij of VFM features, with the weight
    max(c_ij, 0)^gamma exp(-sigma d_ij), d the distance in pixels. With W the weights, made
    symmetric as W + W^T, and D their sums, the scores y become z = (I - alpha Wn)^-1 y with
    Wn = D^-1/2 W D^-1/2 (conjugate gradients). LPOSS+ (`pixels`) then does the same at every pixel,
    joined to those within `radius` rows and columns with the weight exp(-|Lab_i - Lab_j| / tau).

    Variants. Source: the released code, revision e489a74, by the card of it; the paper was not at
    hand.

    - `official` and `official-plus`: the released code, which ends after 10 iterations, 3e-4 of the
      largest value before the solution, and leaves z as it is: up to 20 times the scores. The VFM
      sees windows of 224 every 112 pixels, one graph joins the patches of all of them, and their
      maps are averaged. One deviation: y is read from the method's map of the whole picture, where
      the release resizes CLIP's features in each window; pictures smaller than `short_side` are
      not enlarged.
    - `paper` and `plus`: solved until the residual is 1e-6 of y, and divided by what scores of 1
      become, so that z is a weighted mean: cosines stay cosines, which later softmaxes, thresholds
      and refiners rely on. At a patch the order of the classes is the same. The VFM sees the whole
      picture.

    Cost: one forward of the VFM, and on one CPU core for 20 classes 0.04 s and 30 MiB with 768
    patches, 1.2 s and 305 MiB with 4096; LPOSS+ 84 floats a pixel, and for each class and megapixel
    0.8 s in 10 iterations, 3 s until solved.

    Args:
        short_side: larger pictures are resized to it, in pixels, and distances are in pixels of a
            picture of this short side; None: pictures keep their size.
        window, stride: of the VFM, in pixels; 0: the whole picture.
        facet: features of the VFM's last block, see `vfm`.
        neighbours: k, with the patch itself; all patches if there are fewer.
        alpha: share of the neighbours against the scores themselves.
        gamma, sigma: see above.
        iterations: of the conjugate gradients, at most.
        mean: divide by what scores of 1 become.
        pixels, radius, tau: LPOSS+, see above.
    """

    name = "lposs"
    title = "Label propagation (LPOSS)"
    network = "vfm"
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "plus": {"pixels": True},
        "official": {"iterations": 10, "mean": False, "window": 224, "stride": 112},
        "official-plus": {
            "iterations": 10,
            "mean": False,
            "window": 224,
            "stride": 112,
            "pixels": True,
        },
    }

    short_side: int | None = 448
    window: int = 0
    stride: int = 0
    facet: Literal["output", "queries", "keys", "values"] = "values"
    neighbours: int = 400
    alpha: float = 0.95
    gamma: float = 3.0
    sigma: float = 0.01
    iterations: int = 100
    mean: bool = True
    pixels: bool = False
    radius: int = 6
    tau: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        side = 1 if self.short_side is None else self.short_side
        if min(side, self.neighbours, self.iterations, self.radius) < 1:
            raise WordmaskError(
                f"got short_side={self.short_side}, neighbours={self.neighbours}, iterations="
                f"{self.iterations}, radius={self.radius}; all are at least 1"
            )
        if not 0 < self.alpha < 1 or min(self.gamma, self.tau) <= 0 or self.sigma < 0:
            raise WordmaskError(
                f"got alpha={self.alpha}, gamma={self.gamma}, sigma={self.sigma}, tau={self.tau}; "
                "alpha is between 0 and 1, gamma and tau are above 0, sigma is not below 0"
            )
        if self.window and not 0 < self.stride <= self.window:
            raise WordmaskError(
                f"got window={self.window}, stride={self.stride}; the stride is between 1 and the "
                "window, and window=0 takes the whole picture"
            )

    def prepare(self, picture: RefinerInput, networks: AuxiliaryModels) -> Graphs:
        """The VFM's features of the picture, and the graphs over its patches and pixels."""
        image = picture.image
        short = min(image.shape[1:])
        if self.short_side and short > self.short_side:
            size = [round(side * self.short_side / short) for side in image.shape[1:]]
            image = F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]
        height, width = image.shape[1:]
        windows = place_windows(height, width, self.window or max(height, width), self.stride or 1)
        crops = [image[None, :, y : y + h, x : x + w] for y, x, h, w in windows]
        features = torch.cat([networks.vfm.features(crop, self.facet) for crop in crops])
        grid = features.shape[2], features.shape[3]
        centres = patch_centres(windows, grid).to(features)
        per_pixel = (self.short_side or min(height, width)) / min(height, width)
        patches = self.patch_graph(
            F.normalize(features.flatten(2).transpose(1, 2).flatten(0, 1), dim=-1),
            centres * per_pixel,
        )
        pixels = PixelGraph(lab(image), self.radius, self.tau) if self.pixels else None
        mass = pixel_mass = None
        if self.mean:
            mass = self.spread(patches.__rmatmul__, torch.ones_like(centres[None, :, 0]))
            if pixels is not None:
                pixel_mass = self.spread(pixels.times, torch.ones_like(image[:1]))
        return Graphs(
            patches,
            centres / centres.new_tensor([height, width]) * 2 - 1,
            windows,
            grid,
            (height, width),
            mass,
            pixels,
            pixel_mass,
        )

    def refine(self, prepared: Graphs, scores: Tensor) -> Tensor:
        """Scores (R, h, w) on any grid, to that of the VFM, with windows or LPOSS+ to pixels."""
        return self.join(prepared, self.propagate(prepared, nodes(scores, prepared.centres)))

    def propagate(self, prepared: Graphs, scores: Tensor) -> Tensor:
        """Scores of the patches of all windows, (R, N), spread over their graph."""
        found = self.spread(prepared.patches.__rmatmul__, scores)
        return found if prepared.mass is None else found / prepared.mass

    def join(self, prepared: Graphs, scores: Tensor) -> Tensor:
        """Maps from the scores of all patches, (R, N): the mean of the windows; then LPOSS+."""
        grids = scores.unflatten(1, (len(prepared.windows), *prepared.grid)).unbind(1)
        if len(grids) == 1 and prepared.pixels is None:
            return grids[0]
        tiles = [
            Tile(x, window, (window.height, window.width), (0, 0))
            for x, window in zip(grids, prepared.windows, strict=True)
        ]
        maps = ScoreMap(tiles, prepared.size).rows(0, prepared.size[0], prepared.size)
        if prepared.pixels is None:
            return maps
        few = max(BLOCK_BYTES // (4 * maps[0].numel()), 1)
        parts = [self.spread(prepared.pixels.times, part) for part in maps.split(few)]
        spread = torch.cat(parts)
        return spread if prepared.pixel_mass is None else spread / prepared.pixel_mass

    def spread(self, times: Callable[[Tensor], Tensor], scores: Tensor) -> Tensor:
        """(I - alpha Wn)^-1 y for every map y of scores (R, ...); `times` multiplies by Wn.

        Conjugate gradients from 0, which end for a map where its residual is small.
        """
        over = tuple(range(1, scores.ndim))
        peak = scores.abs().amax(over, keepdim=True)
        peak = peak.masked_fill(peak == 0, 1)
        rest = step = scores / peak  # the squares of unlikely classes would be 0
        found = torch.zeros_like(scores)
        length = rest.square().sum(over, keepdim=True)
        enough = TOLERANCE**2 * length
        for _ in range(self.iterations):
            active = length > enough
            if not active.any():
                break
            moved = step - self.alpha * times(step)
            far = torch.where(active, length / (step * moved).sum(over, keepdim=True), 0)
            found = found + far * step
            rest = rest - far * moved
            before, length = length, rest.square().sum(over, keepdim=True)
            step = rest + torch.where(active, length / before, 0) * step
        return found * peak

    def patch_graph(self, unit: Tensor, centres: Tensor) -> Tensor:
        """Normalised weights (N, N) between patches.

        Args:
            unit: (N, D) features of length 1.
            centres: (N, 2) in pixels.
        """
        smaller = "give a smaller picture, short_side or window"
        needed = 5 * 4 * len(unit) ** 2  # of the matrices below
        check_memory(f"a graph of {len(unit)} patches", needed, unit.device, smaller)
        cosines = unit @ unit.T
        nearest = cosines.topk(min(self.neighbours, len(unit))).indices
        kept = torch.zeros_like(cosines).scatter_(1, nearest, cosines.gather(1, nearest))
        kept = kept.clamp_min_(0).pow_(self.gamma)
        exact = "donot_use_mm_for_euclid_dist"
        kept *= torch.cdist(centres, centres, compute_mode=exact).mul_(-self.sigma).exp_()
        kept = kept + kept.T
        kept.fill_diagonal_(0)
        root = inverse_root(kept.sum(1))
        return kept.mul_(root).mul_(root[:, None])


class PixelGraph:
    """The graph of LPOSS+, each pair of pixels stored once.

    Args:
        colours: (3, H, W).
        radius, tau: as in `Lposs`.
    """

    def __init__(self, colours: Tensor, radius: int, tau: float):
        self.offsets = [
            (down, across)
            for down in range(min(radius + 1, colours.shape[1]))
            for across in range(-radius, radius + 1)
            if (down, across) > (0, 0) and abs(across) < colours.shape[2]
        ]
        self.weights = [
            ((a - b).square().sum(0).sqrt() / -tau).exp() for a, b in self.pairs(colours, colours)
        ]
        root = inverse_root(self.times(torch.ones_like(colours[:1]))[0])
        pairs = self.pairs(root, root)
        self.weights = [w * a * b for w, (a, b) in zip(self.weights, pairs, strict=True)]

    def pairs(self, x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """For each offset x (..., H, W) at the first pixel of all pairs and y at the second."""
        height, width = x.shape[-2:]
        for down, across in self.offsets:
            left, right = max(-across, 0), max(across, 0)
            yield (
                x[..., : height - down, left : width - right],
                y[..., down:, right : width - left],
            )

    def times(self, x: Tensor) -> Tensor:
        """The weights times maps (R, H, W)."""
        out = torch.zeros_like(x)
        sources, targets = self.pairs(x, x), self.pairs(out, out)
        for weight, (a, b), (to_a, to_b) in zip(self.weights, sources, targets, strict=True):
            to_a.addcmul_(weight, b)
            to_b.addcmul_(weight, a)
        return out


def patch_centres(windows: tuple[Window, ...], grid: tuple[int, int]) -> Tensor:
    """Centres y, x of the patches of windows in pixels, row by row, (N, 2)."""
    parts = []
    for top, left, height, width in windows:
        y = top + (torch.arange(grid[0]) + 0.5) * (height / grid[0])
        x = left + (torch.arange(grid[1]) + 0.5) * (width / grid[1])
        parts.append(torch.cartesian_prod(y, x))
    return torch.cat(parts)


def nodes(scores: Tensor, centres: Tensor) -> Tensor:
    """Scores (R, h, w) at places (N, 2) in [-1, 1], bilinearly, (R, N)."""
    h, w = scores.shape[1:]
    edge = centres.new_tensor([1 - 1 / h, 1 - 1 / w])  # no padding, which Apple's GPUs lack
    inside = centres.clamp(-edge, edge).flip(1)[None, None]
    return F.grid_sample(scores[None], inside, align_corners=False)[0, :, 0]


def inverse_root(degree: Tensor) -> Tensor:
    """D^-1/2; a degree of 0 counts as 1."""
    return degree.masked_fill(degree == 0, 1).rsqrt()


def lab(image: Tensor) -> Tensor:
    """CIE Lab of sRGB (3, H, W) in [0, 1], white D65, as (L / 100, a / 128, b / 128)."""
    linear = torch.where(image > 0.04045, ((image + 0.055) / 1.055) ** 2.4, image / 12.92)
    to_xyz = linear.new_tensor(
        [
            [0.412453, 0.35758, 0.180423],
            [0.212671, 0.71516, 0.072169],
            [0.019334, 0.119193, 0.950227],
        ]
    )
    white = linear.new_tensor([0.95047, 1.0, 1.08883])
    xyz = ((to_xyz / white[:, None]) @ linear.flatten(1)).unflatten(1, image.shape[1:])
    cube_root = xyz.clamp_min(0.008856) ** (1 / 3)
    x, y, z = torch.where(xyz > 0.008856, cube_root, 7.787 * xyz + 4 / 29).unbind()
    return torch.stack([1.16 * y - 0.16, 500 / 128 * (x - y), 200 / 128 * (y - z)])
