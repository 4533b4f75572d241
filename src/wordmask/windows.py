"""Score maps, whole or in sliding windows, from which rows are read at any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.sliding import Window as Window
from wordmask.sliding import place_windows as place_windows


class GridMean:
    """What windows have on the grid of a picture, averaged where they overlap; only sums are held.

    grid: h, w of the picture. Windows are counted in cells of this grid.
    """

    def __init__(self, grid: tuple[int, int]):
        self.hits = torch.zeros(*grid, 1)
        self.total: Tensor | None = None

    def add(self, window: Window, cells: Tensor) -> None:
        """Add cells (B, height, width, D) of a window."""
        top, left, height, width = window
        here = slice(top, top + height), slice(left, left + width)
        if self.total is None:
            self.total = cells.new_zeros(len(cells), *self.hits.shape[:2], cells.shape[3]).float()
        self.total[:, here[0], here[1]] += cells
        self.hits[here] += 1

    def mean(self) -> Tensor:
        """The mean, (B, h, w, D) float32; every cell must be in a window."""
        assert self.total is not None
        return self.total / self.hits.to(self.total)


class Tile(NamedTuple):
    """One map on its patch grid and the pixels that it covers.

    scores (R, h, w) cover `canvas` pixels (height, width); from `offset` on, the canvas shows
    `window`; the rest is padding, which is cut off.
    """

    scores: Tensor
    window: Window
    canvas: tuple[int, int]
    offset: tuple[int, int]


class ScoreMap:
    """The score maps of one picture, from which rows are read at any output size.

    Every tile is stretched bilinearly to its pixels, tiles are averaged where they overlap, and
    the mean is stretched to the output size, as in the SCLIP harness, but a block of rows at a
    time, so the maps of all classes never exist at full size.

    Args:
        tiles: one tile for a whole picture, else one for each window.
        pixel_size: (H', W') of the picture as the network takes it.
    """

    def __init__(self, tiles: Sequence[Tile], pixel_size: tuple[int, int]):
        self.tiles = tuple(tiles)
        self.pixel_size = pixel_size
        (tile,) = self.tiles if len(self.tiles) == 1 else (None,)
        self.direct = tile is not None and tile.canvas == pixel_size

    @classmethod
    def whole(cls, maps: Tensor, pixel_size: tuple[int, int]) -> ScoreMap:
        """Maps (R, h, w) that cover the whole picture without padding."""
        return cls([Tile(maps, Window(0, 0, *pixel_size), pixel_size, (0, 0))], pixel_size)

    @property
    def count(self) -> int:
        """R, the number of maps."""
        return len(self.tiles[0].scores)

    def rows(self, start: int, stop: int, size: tuple[int, int]) -> Tensor:
        """Rows start..stop of the maps at `size` (H, W), as (R, stop - start, W)."""
        return widen(self.narrow(start, stop, size), size[1])

    def narrow(self, start: int, stop: int, size: tuple[int, int]) -> Tensor:
        """The columns from which `widen` makes `rows`, as (R, stop - start, w); w is W or less."""
        out = torch.arange(start, stop)
        if self.direct:  # one step from the grid to the output
            grid = self.tiles[0].scores
            return _mix(grid, *neighbours(out, grid.shape[1], size[0]))
        low, high, weight = neighbours(out, self.pixel_size[0], size[0])
        first, last = int(low.min()), int(high.max()) + 1
        return _mix(self._pixel_rows(first, last), low - first, high - first, weight)

    def stretches(self, size: tuple[int, int]) -> list[tuple[Tensor, float]] | None:
        """For a single tile, the weights of patches at each pixel of `size`, by axis.

        Returns:
            For both axes (H, h) weights, with which `rows` is a product, and how many patches away
            from its place a pixel may take a value from; None for several tiles.
        """
        if len(self.tiles) > 1:
            return None
        ((scores, _, canvas, offset),) = self.tiles
        axes = []
        for patches, side, first, pixels, out in zip(
            scores.shape[1:], canvas, offset, self.pixel_size, size, strict=True
        ):
            places = torch.arange(out) if self.direct else torch.arange(pixels) + first
            low, high, weight = neighbours(places, patches, out if self.direct else side)
            one = torch.eye(patches)
            stretch = torch.lerp(one[low], one[high], weight[:, None])
            if not self.direct:  # a second step, from the pixels of the network to the output
                low, high, weight = neighbours(torch.arange(out), pixels, out)
                stretch = torch.lerp(stretch[low], stretch[high], weight[:, None])
            axes.append((stretch, 0.0 if self.direct else patches / side))
        return axes

    def _pixel_rows(self, first: int, last: int) -> Tensor:
        """The mean over tiles at pixel rows first..last, (R, last - first, W')."""
        like = self.tiles[0].scores
        total = like.new_zeros(self.count, last - first, self.pixel_size[1])
        hits = like.new_zeros(last - first, self.pixel_size[1])
        for tile in self.tiles:
            top, left, height, width = tile.window
            a, b = max(first, top), min(last, top + height)
            if a >= b:
                continue
            on_canvas = torch.arange(a, b) - top + tile.offset[0]
            part = _stretch(tile.scores, on_canvas, *tile.canvas)
            columns = slice(left, left + width)
            total[:, a - first : b - first, columns] += part[
                ..., tile.offset[1] : tile.offset[1] + width
            ]
            hits[a - first : b - first, columns] += 1
        return total / hits


def neighbours(rows: Tensor, source: int, target: int) -> tuple[Tensor, Tensor, Tensor]:
    """For output rows of `target`, the two source rows and the weight of the second."""
    position = ((rows.float() + 0.5) * (source / target) - 0.5).clamp_(min=0)
    low = position.floor().long().clamp_(max=source - 1)
    return low, (low + 1).clamp_(max=source - 1), position - low


def _mix(x: Tensor, low: Tensor, high: Tensor, weight: Tensor) -> Tensor:
    return torch.lerp(x[:, low], x[:, high], weight[:, None].to(x))


def widen(x: Tensor, width: int) -> Tensor:
    """Rows (R, n, w) stretched bilinearly to `width` columns, corners not aligned."""
    if x.shape[-1] == width:
        return x
    return F.interpolate(x[None], size=(x.shape[1], width), mode="bilinear")[0]


def _stretch(x: Tensor, rows: Tensor, height: int, width: int) -> Tensor:
    """Rows of `x` (R, h, w) stretched bilinearly to height x width, corners not aligned."""
    return widen(_mix(x, *neighbours(rows, x.shape[1], height)), width)
