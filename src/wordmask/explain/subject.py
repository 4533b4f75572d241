"""What is drawn: one picture, a method, words and points, with what several views need of them.

The picture is taken whole: sliding windows are ignored here. A point is (x, y) in pixels of the
upright picture. h, w is the patch grid, L = h * w, N the number of blocks, C of classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from wordmask import drawing
from wordmask.errors import WordmaskError
from wordmask.explain.canvas import Panel
from wordmask.images import read_image
from wordmask.scoring import Scored
from wordmask.segmentation import Segmentation
from wordmask.segmenter import Segmenter
from wordmask.towers.clip import Need, Trace
from wordmask.windows import ScoreMap, Tile, Window

Point = tuple[int, int]

RED = (235, 30, 60)


def check_point(point: Point | None, picture: np.ndarray) -> Point:
    """Return a point of a picture (H, W, 3), or its centre for None.

    Raises:
        WordmaskError: the point is outside the picture.
    """
    height, width = picture.shape[:2]
    x, y = (width // 2, height // 2) if point is None else point
    if not (0 <= x < width and 0 <= y < height):
        raise WordmaskError(
            f"the point {x},{y} is outside the picture of {width} x {height} pixels; give X,Y "
            f"from 0,0 to {width - 1},{height - 1}"
        )
    return x, y


class PatchGrid:
    """One picture as a method's network takes it, with the mapping between pixels and patches.

    Attributes:
        picture: (H, W, 3) uint8, upright.
        pixels: (1, 3, H' + pad, W' + pad) float32, normalised.
        size: h, w.
    """

    def __init__(self, segmenter: Segmenter, image: Any):
        self.picture = read_image(image, max_pixels=segmenter.max_pixels)
        pixels = segmenter.method.prepare(self.picture, segmenter.tower)[None]
        patch = segmenter.tower.patch
        self._inner = (pixels.shape[2], pixels.shape[3])  # H', W'
        self.pixels, (top, left, _, _) = segmenter.method.pad(pixels, patch)
        self._offset = (top, left)
        self._canvas = (self.pixels.shape[2], self.pixels.shape[3])
        self.size = (self._canvas[0] // patch, self._canvas[1] // patch)

    def patch_at(self, point: Point | None = None) -> tuple[int, int]:
        """Row and column of the patch that contains a point of the picture.

        Raises:
            WordmaskError: the point is outside the picture.
        """
        height, width = self.picture.shape[:2]
        x, y = check_point(point, self.picture)
        found = []
        for at, length, axis in ((y, height, 0), (x, width, 1)):
            pixel = (at + 0.5) / length * self._inner[axis] + self._offset[axis]
            patch = int(pixel / self._canvas[axis] * self.size[axis])
            found.append(min(patch, self.size[axis] - 1))
        return found[0], found[1]

    def spread(self, maps: Tensor, size: tuple[int, int]) -> np.ndarray:
        """Resize maps (R, h, w) to the picture at `size`, (R, *size), as is done for labels."""
        window = Window(0, 0, *self._inner)
        tile = Tile(maps.float(), window, self._canvas, self._offset)
        return ScoreMap([tile], self._inner).rows(0, size[0], size).cpu().numpy()

    def blocky(self, values: Tensor, size: tuple[int, int]) -> np.ndarray:
        """Values (h, w) of patches for the pixels of the picture at `size`, not interpolated."""
        index = []
        for axis in (0, 1):
            pixel = (np.arange(size[axis]) + 0.5) / size[axis] * self._inner[axis]
            patch = (pixel + self._offset[axis]) / self._canvas[axis] * values.shape[axis]
            index.append(patch.astype(int).clip(0, values.shape[axis] - 1))
        return values.cpu().numpy()[index[0][:, None], index[1]]

    def cell(self, patch: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Left, top, right and bottom pixel of a patch in the picture at `size`."""
        edges = []
        for axis in (1, 0):
            for side in (0, 1):
                canvas = (patch[axis] + side) / self.size[axis] * self._canvas[axis]
                pixel = (canvas - self._offset[axis]) / self._inner[axis] * size[axis]
                edges.append(min(max(round(pixel) - side, 0), size[axis] - 1))
        left, right, top, bottom = edges
        return left, top, right, bottom


class Subject:
    """One picture under one method.

    Args:
        segmenter: the method with its refiners, and the networks.
        image: a path, a PIL image or a uint8 array (H, W, 3).
        words, background: as for `Segmenter.encode_text`; None for views without classes.
        points: of which patches are shown; none: the centre.

    Raises:
        WordmaskError: a picture that cannot be read, or a point outside it.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        image: Any,
        words: Any = None,
        background: Any = None,
        points: Sequence[Point] = (),
    ):
        self.segmenter = _whole(segmenter)
        self.tower, self.method = self.segmenter.tower, self.segmenter.method
        self.grid = PatchGrid(self.segmenter, image)
        self.words, self.background = words, background
        self.points = [check_point(p, self.grid.picture) for p in points or (None,)]

    @cached_property
    def texts(self) -> Any:
        """The encoded words."""
        return self.segmenter.encode_text(self.words, self.background)

    @cached_property
    def scored(self) -> Scored:
        """The scores of the classes, after refiners if there are any."""
        scored: Scored = self.segmenter.score(self.grid.picture, self.texts)
        return scored

    @cached_property
    def result(self) -> Segmentation:
        """The labels."""
        return self.scored.segmentation()

    @torch.inference_mode()
    def trace(self, need: Need) -> Trace:
        """One pass of the method over the picture."""
        return self.method.trace(self.segmenter.towers, self.grid.pixels, need)

    @cached_property
    def states(self) -> list[Tensor]:
        """F^0..F^N, each (1, T, D)."""
        with torch.inference_mode():
            need = Need.of(states=range(self.tower.depth + 1))
            return list(
                self.tower.trace(self.grid.pixels, need, self.method.position).states.values()
            )

    @torch.inference_mode()
    def streams(self, n: int) -> list[Tensor]:
        """Q, K and V of block n, each (1, M, T, d)."""
        block = self.tower.block(n)
        z = block.norm1(self.states[n - 1])
        return [block.queries(z), block.keys(z), block.values(z)]

    @torch.inference_mode()
    def attention(self, n: int) -> Tensor:
        """softmax(QK^T / sqrt d) of block n, mean over the heads, (T, T) on the CPU."""
        q, k, _ = self.streams(n)
        return self.tower.attention_map(q, k)[0].float().mean(0).cpu()

    def patch(self, point: Point) -> int:
        """The number of the patch at a point, 0..L-1."""
        row, column = self.grid.patch_at(point)
        return row * self.grid.size[1] + column

    def few_blocks(self, most: int) -> list[int]:
        """At most so many of the blocks 1..N, the first and the last among them."""
        depth = self.tower.depth
        count = min(most, depth)
        return sorted({round(1 + i * (depth - 1) / max(count - 1, 1)) for i in range(count)})

    def labels(self, maps: ScoreMap | None = None) -> np.ndarray:
        """Labels (H, W) of the method's own maps, or of others in their place."""
        if maps is None:
            return self.result.labels
        return replace(self.scored, maps=maps, coarse=None).labels()

    def photo(self, side: int) -> Photo:
        """The picture with sides of about this many pixels, to draw on."""
        return Photo(self.grid, side)


def _whole(segmenter: Segmenter) -> Segmenter:
    """The same segmenter without sliding windows."""
    method = segmenter.method
    if not method.window:
        return segmenter
    return segmenter.with_method(replace(method, window=0, stitch=False), refine=segmenter.refiners)


class Photo:
    """A picture at the size of a panel, to draw it with maps over it and points marked."""

    def __init__(self, grid: PatchGrid, side: int):
        height, width = grid.picture.shape[:2]
        factor = min(side / math.sqrt(height * width), 4 * side / max(height, width))
        self.size = (max(round(factor * height), 1), max(round(factor * width), 1))
        self._given = (height, width)
        small = Image.fromarray(grid.picture)
        self.plain = small.resize(self.size[::-1], Image.Resampling.LANCZOS)
        self.grid = grid

    def marked(self, points: Sequence[Point]) -> Panel:
        """The photo with points marked."""
        picture = self.plain
        for x, y in points:
            at = [
                int((v + 0.5) * n / m)
                for v, n, m in zip((x, y), self.size[::-1], self._given[::-1], strict=True)
            ]
            picture = drawing.mark_point(picture, *at)
        shown = "; ".join(f"{x},{y}" for x, y in points)
        return Panel(picture, f"photo, {'points' if len(points) > 1 else 'point'} {shown}")

    def framed(
        self,
        picture: Image.Image,
        patches: Sequence[int],
        colour: tuple[int, int, int] = drawing.WHITE,
    ) -> Image.Image:
        """Frames around patches on a picture of this size; a mark would hide the patch."""
        picture = picture.copy()
        draw = ImageDraw.Draw(picture)
        for patch in patches:
            left, top, right, bottom = self.grid.cell(divmod(patch, self.grid.size[1]), self.size)
            draw.rectangle((left - 2, top - 2, right + 2, bottom + 2), outline=drawing.INK)
            draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=colour)
            draw.rectangle((left, top, right, bottom), outline=colour)
        return picture

    def heat(
        self,
        values: Tensor,
        title: str,
        scale: tuple[float, float] | None = None,
        patches: Sequence[int] = (),
    ) -> Panel:
        """A map (h, w) on the patch grid over the photo; patches are framed.

        scale: by default from 0, or a lower minimum, to the 99th percentile.
        """
        (spread,) = self.grid.spread(values.float().cpu()[None], self.size)
        scale = scale or robust_scale(values)
        picture = drawing.heat_map(spread, self.size, *scale, self.plain)
        return Panel(self.framed(picture, patches), title, scale)

    def heat_of_picture(
        self, values: Tensor, title: str, scale: tuple[float, float] | None = None
    ) -> Panel:
        """A map (h', w') of any grid that covers just the picture, over the photo."""
        scale = scale or robust_scale(values)
        picture = drawing.heat_map(values.float().cpu().numpy(), self.size, *scale, self.plain)
        return Panel(picture, title, scale)

    def overlay(
        self, labels: np.ndarray, names: Sequence[str], legend: bool = False, alpha: float = 0.55
    ) -> Image.Image:
        """Labels of any size over the photo."""
        index = [np.arange(n) * m // n for n, m in zip(self.size, labels.shape, strict=True)]
        shown = labels[index[0]][:, index[1]]
        return drawing.overlay(self.plain, shown, names, alpha=alpha, legend=legend)

    def final(self, result: Segmentation) -> Image.Image:
        """A row of its own with the labels and the legend."""
        labelled = self.overlay(result.labels, result.names, legend=True)
        refiners = [one["name"] for one in result.provenance["refiners"]]
        title = f"labels of {' + '.join([result.provenance['method'], *refiners])}"
        return drawing.strip([labelled], [title])


def robust_scale(values: Tensor) -> tuple[float, float]:
    """From 0, or the 1st percentile if that is lower, to the 99th percentile of values."""
    flat = values.float().flatten()
    low, high = (float(torch.quantile(flat, q)) for q in (0.01, 0.99))
    low = min(low, 0.0)
    return low, high if high > low else max(float(flat.max()), low)


def patches_of(subject: Subject, tokens: Tensor) -> Tensor:
    """The patches of tokens (1, T, D), as (L, D) float32 on the CPU."""
    return tokens[0, subject.tower.class_tokens :].float().cpu()
