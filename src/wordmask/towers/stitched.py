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
from wordmask.windows import GridMean, place_windows


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

    def embed(self, pixels: Tensor, position: str = "bicubic_offset") -> Tensor:
        """Refused: who starts from the embedding goes through the blocks without windows."""
        raise WordmaskError(
            "got stitch=True for a method with a pass of its own, whose windows cannot be joined; "
            "leave stitch out"
        )

    def trace(self, pixels: Tensor, need: Need, position: str = "bicubic_offset") -> Trace:
        """See `ClipTower.trace`; a picture of one window is taken as it is."""
        p, (count, _, height, width) = self._tower.patch, pixels.shape
        h, w = height // p, width // p
        windows = place_windows(h, w, *(max(side // p, 1) for side in self._sizes))
        if len(windows) < 2:
            return self._tower.trace(pixels, need, position)
        wanted = need.sources(self._tower.depth)
        patches = {n: GridMean((h, w)) for n in wanted}
        alone: dict[int, Any] = dict.fromkeys(wanted, 0.0)  # sums of tokens that are no patches
        many = max(self._at_once // count, 1)
        groups = [windows[i : i + many] for i in range(0, len(windows), many)]
        for group in steps("windows", groups, len(windows), len):
            crops = [pixels[..., y * p : (y + m) * p, x * p : (x + n) * p] for y, x, m, n in group]
            states = self._tower.trace(torch.cat(crops), Need.of(wanted), position).states
            for n in wanted:
                for part, window in zip(states[n].split(count), group, strict=True):
                    first = part.shape[1] - window.height * window.width
                    alone[n] = alone[n] + part[:, :first].float()
                    cells = part[:, first:].unflatten(1, (window.height, window.width))
                    patches[n].add(window, cells)
        joined = {
            n: torch.cat([alone[n] / len(windows), patches[n].mean().flatten(1, 2)], dim=1)
            for n in wanted
        }
        dtype = self._tower.dtype
        return self._tower.retrace({n: x.to(dtype) for n, x in joined.items()}, (h, w), need)
