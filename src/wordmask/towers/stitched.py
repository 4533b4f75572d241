"""A tower that looks at a picture in windows and joins them before the last block.

Windows apart are labelled apart: a patch attends to its window alone, and what lies across a
border gets another context, so that seams show. Joined, as in OV-Stitcher (2026), blocks see
windows of the size that the network was trained with, and the last one sees the whole picture.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wordmask.errors import WordmaskError
from wordmask.progress import steps
from wordmask.towers.clip import Need, Trace
from wordmask.windows import place_windows


class StitchedTower:
    """A tower whose passes are made in windows; else the same as the tower.

    The token states that a method reads are those of all windows, averaged on the patch grid of the
    whole picture, class tokens over all windows; the blocks that the method reads from the inside
    (attention, queries, keys, values) and the last one run once on them. OV-Stitcher averages the
    last block's projections of each window; averaging their input instead is the same where
    windows do not overlap, and any method can go on from there. Of all windows, only the sums of
    these states are held.

    Args:
        tower: a CLIP tower.
        window, stride: in pixels, taken in whole patches, at least one, so that windows lie on one
            grid. The last windows of a row and of a column are shifted back to end at the border.
        at_once: windows in one pass.
    """

    def __init__(self, tower: Any, window: int, stride: int, at_once: int = 1):
        self._tower = tower
        self._sizes = window, stride
        self._at_once = at_once

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tower, name)

    def trace(self, pixels: Tensor, need: Need, position: str = "bicubic_offset") -> Trace:
        """See `ClipTower.trace`; a picture of one window is taken as it is.

        Raises:
            WordmaskError: a need of nothing: a method with a pass of its own.
        """
        p, (count, _, height, width) = self._tower.patch, pixels.shape
        h, w = height // p, width // p
        windows = place_windows(h, w, *(max(side // p, 1) for side in self._sizes))
        wanted = need.sources(self._tower.depth)
        if not wanted:
            raise WordmaskError(
                "got stitch=True for a method with a pass of its own, whose windows cannot be "
                "joined; leave stitch out"
            )
        if len(windows) < 2:
            return self._tower.trace(pixels, need, position)
        many = max(self._at_once // count, 1)
        hits = torch.zeros(h, w, 1)
        sums: dict[int, tuple[Tensor, Tensor]] = {}  # of tokens that are no patches, and patches
        groups = [windows[i : i + many] for i in range(0, len(windows), many)]
        for group in steps("windows", groups, len(windows), len):
            crops = [pixels[..., y * p : (y + m) * p, x * p : (x + n) * p] for y, x, m, n in group]
            trace = self._tower.trace(torch.cat(crops), Need.of(wanted), position)
            for n in wanted:
                for part, (top, left, tall, wide) in zip(
                    trace.states[n].float().split(count), group, strict=True
                ):
                    first = part.shape[1] - tall * wide
                    if n not in sums:
                        shape = count, h, w, part.shape[2]
                        sums[n] = torch.zeros_like(part[:, :first]), part.new_zeros(shape)
                    sums[n][0].add_(part[:, :first])
                    cells = part[:, first:].unflatten(1, (tall, wide))
                    sums[n][1][:, top : top + tall, left : left + wide] += cells
        for top, left, tall, wide in windows:
            hits[top : top + tall, left : left + wide] += 1
        states = {
            n: torch.cat([alone / len(windows), (patches / hits.to(patches)).flatten(1, 2)], 1)
            for n, (alone, patches) in sums.items()
        }
        dtype = self._tower.dtype
        return self._tower.retrace({n: x.to(dtype) for n, x in states.items()}, (h, w), need)
