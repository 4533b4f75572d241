"""Sliding windows over a picture. Importing this module loads no torch."""

from __future__ import annotations

from typing import NamedTuple


class Window(NamedTuple):
    """A window in pixels."""

    top: int
    left: int
    height: int
    width: int


def place_windows(height: int, width: int, window: int, stride: int) -> tuple[Window, ...]:
    """Windows over an H x W picture, row by row; the last ones are shifted back to end at the edge.

    n = max(L - window + stride - 1, 0) // stride + 1 along each axis, as the SCLIP harness does; a
    picture smaller than a window is taken as it is.
    """

    def starts(length: int) -> list[int]:
        count = max(length - window + stride - 1, 0) // stride + 1
        return [max(min(i * stride + window, length) - window, 0) for i in range(count)]

    size = min(window, height), min(window, width)
    return tuple(Window(y, x, *size) for y in starts(height) for x in starts(width))
