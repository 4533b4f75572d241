"""Tiles over a picture of any size, and who decides which pixel.

Along each axis tiles of one length lie evenly, the first at the start and the last at the end, and
overlap their neighbours by `overlap` pixels or more. Half way through the overlap lies the seam.
Either each tile decides up to the seam (crop), or the scores of both are mixed in a ramp of
`overlap` pixels around it, from one tile's alone to the other's alone (blend). Ramps never meet,
so that a pixel is seen by four tiles at most.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from wordmask.errors import WordmaskError

SMALLEST = 32  # pixels a side of a tile


class Span(NamedTuple):
    """A tile along one axis, in pixels of the picture.

    It covers start..stop. From `enter` on it decides; in enter..full it fades in, in fade..leave
    it fades out, and what it began there the next tile decides.
    """

    start: int
    enter: int
    full: int
    fade: int
    leave: int
    stop: int


class Tile(NamedTuple):
    """A tile: its row and column among the tiles, and its span along each axis."""

    row: int
    column: int
    y: Span
    x: Span


class Plan:
    """The tiles of a picture.

    Args:
        height, width: of the picture, in pixels.
        tile: side of a tile; a picture that is smaller along an axis is one tile there.
        overlap: of neighbouring tiles at least; at most a third of a tile.
        ramp: whether scores fade into each other; else each tile decides up to the seam.

    Raises:
        WordmaskError: the tile is too small, or the overlap too large.
    """

    def __init__(self, height: int, width: int, tile: int, overlap: int, ramp: bool):
        if tile < SMALLEST:
            raise WordmaskError(f"got a tile of {tile} pixels; give at least {SMALLEST}")
        if not 0 <= 3 * overlap <= tile:
            raise WordmaskError(
                f"got an overlap of {overlap} pixels for tiles of {tile}; give 0 to a third of a "
                f"tile ({tile // 3})"
            )
        self.rows = spans(height, tile, overlap, ramp)
        self.columns = spans(width, tile, overlap, ramp)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def __iter__(self) -> Iterator[Tile]:
        """The tiles row by row."""
        for i, y in enumerate(self.rows):
            for j, x in enumerate(self.columns):
                yield Tile(i, j, y, x)


def spans(length: int, tile: int, overlap: int, ramp: bool) -> list[Span]:
    """The tiles along an axis of `length` pixels."""
    if length <= tile:
        return [Span(0, 0, 0, length, length, length)]
    count = -(-(length - overlap) // (tile - overlap))
    starts = [i * (length - tile) // (count - 1) for i in range(count)]
    width = overlap if ramp else 0
    enters = [(a + tile + b) // 2 - width // 2 for a, b in pairwise(starts)]
    ins = [(0, 0), *((a, a + width) for a in enters)]
    outs = [*ins[1:], (length, length)]
    return [Span(s, *i, *o, s + tile) for s, i, o in zip(starts, ins, outs, strict=True)]


def lines(row: list[Span]) -> list[int]:
    """Where seams lie along an axis: the ends and the middle of each ramp."""
    return sorted({x for s in row[1:] for x in (s.enter, (s.enter + s.full) // 2, s.full)})
