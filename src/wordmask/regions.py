"""The pixels of a class as regions: exact outlines, run lengths, connected components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from wordmask.extras import need


@dataclass(frozen=True, eq=False)
class Polygon:
    """The outline of pixels that are connected by their edges, along the edges of the pixels.

    Attributes:
        exterior: (N, 2) integers, the corners (x, y) in [0, W] and [0, H], clockwise on the screen,
            without the first one again.
        holes: the same for each hole, counter-clockwise.
    """

    exterior: np.ndarray
    holes: tuple[np.ndarray, ...] = ()
    # of each hole: the ring that it is cut open to (0: exterior), and at which of its edges
    _cuts: tuple[tuple[int, int], ...] = ()

    def ring(self, inset: float = 0.0) -> np.ndarray:
        """Return one closed line (N, 2), for formats without holes: each is joined by a cut.

        A cut runs up from the hole and back in the same column of pixels, so that a rasteriser that
        goes by the even-odd rule draws the mask.

        Args:
            inset: how far the line lies inside of the edges of the pixels, in pixels.
        """
        rings = [self.exterior, *self.holes]
        points = [_inset(ring, inset).tolist() for ring in rings]
        cuts: dict[tuple[int, int], list[int]] = {}
        for hole, cut in enumerate(self._cuts, start=1):
            cuts.setdefault(cut, []).append(hole)
        line: list[Any] = []
        todo: list[Any] = [0]  # rings to be drawn, and points
        while todo:
            one = todo.pop()
            if isinstance(one, list):
                line.append(one)
                continue
            steps: list[Any] = []
            for i, point in enumerate(points[one]):
                steps.append(point)
                # the mask lies below such an edge, which therefore runs to the right
                for hole in sorted(cuts.get((one, i), ()), key=lambda k: points[k][0][0]):
                    on_edge = [points[hole][0][0], point[1]]
                    steps += [on_edge, hole, points[hole][0], on_edge]
            todo += reversed(steps)
        return np.array(line)


def polygons(mask: np.ndarray) -> list[Polygon]:
    """Return the outlines of the parts of a mask (H, W) bool, from top to bottom.

    Pixels that touch at a corner alone belong to two parts. Drawn at the size of the mask, the
    outlines are the mask: nothing is simplified.
    """
    rows = np.flatnonzero(mask.any(1))
    if not len(rows):
        return []
    columns = np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    inside = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1)
    corners, order = _corners(inside)
    x, y = (one.tolist() for one in corners)
    vertical = order.tolist()
    ring_of = [-1] * len(x)
    rings: list[list[int]] = []
    for start in range(0, len(x), 2):  # the top left corner of a ring is its first
        if ring_of[start] >= 0:
            continue
        at, ring = start, []
        while ring_of[at] < 0:
            ring += [at, at ^ 1]  # the other end of the horizontal edge
            ring_of[at] = ring_of[at ^ 1] = len(rings)
            at = vertical[at ^ 1]
        if not inside[y[start] + 1, x[start] + 1]:  # a hole: the mask stays on the right
            ring = [ring[0], *ring[:0:-1]]
        rings.append(ring)
    outline = [corners.T[ring] + (left, top) for ring in rings]
    place = {ring[i]: i for ring in rings for i in range(len(ring))}
    keys = corners[1] * inside.shape[1] + corners[0]
    owner: list[int] = []  # the exterior of each ring
    holes: dict[int, list[int]] = {}
    index: list[int] = []  # of each ring in its polygon
    cuts: dict[int, list[tuple[int, int]]] = {}
    for number, ring in enumerate(rings):
        column, row = x[ring[0]], y[ring[0]]
        if inside[row + 1, column + 1]:
            owner.append(number)
            index.append(0)
            holes[number], cuts[number] = [], []
            continue
        # up from the hole's first corner, in the column of pixels on its left
        edge = int(np.flatnonzero(~inside[: row + 1, column])[-1])
        end = int(np.searchsorted(keys, edge * inside.shape[1] + column - 1, "right")) - 1
        above = ring_of[end]
        root = owner[above]
        cuts[root].append((index[above], place[end]))
        holes[root].append(number)
        owner.append(root)
        index.append(len(holes[root]))
    return [
        Polygon(outline[one], tuple(outline[k] for k in holes[one]), tuple(cuts[one]))
        for one in holes
    ]


def _corners(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners (2, N) of all rings, x and y, and the other end of the vertical edge at each.

    In a row of corners the 1st and 2nd, the 3rd and 4th, ... end a horizontal edge, and so they do
    in a column. Where two pixels touch at a corner, the corner occurs twice.
    """
    nw, ne, sw, se = inside[:-1, :-1], inside[:-1, 1:], inside[1:, :-1], inside[1:, 1:]
    twice = (nw == se) & (ne == sw) & (nw != ne)
    times = (nw ^ ne ^ sw ^ se) + 2 * twice.astype(np.int8)
    y, x = np.nonzero(times)
    repeats = times[y, x]
    y, x = np.repeat(y, repeats), np.repeat(x, repeats)
    second = np.zeros(len(x), bool)  # of two at one place, the one whose edge runs to the right
    second[1:] = (x[1:] == x[:-1]) & (y[1:] == y[:-1])
    lower = second == nw[y, x]  # and whether its vertical edge runs down
    order = np.lexsort((lower, y, x))
    other = np.empty(len(x), np.intp)
    other[order[0::2]], other[order[1::2]] = order[1::2], order[0::2]
    return np.stack([x, y]), other


def _inset(ring: np.ndarray, distance: float) -> np.ndarray:
    """A ring whose mask is on the right, moved into the mask by a distance on both axes."""
    if not distance:
        return ring
    ahead = np.sign(np.roll(ring, -1, axis=0) - ring)
    steps = ahead + np.roll(ahead, 1, axis=0)  # a corner: one horizontal and one vertical
    return ring + distance * np.stack([-steps[:, 1], steps[:, 0]], axis=1)


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """Encode a mask (H, W) as COCO's compressed run lengths: `size` [H, W] and `counts`.

    Raises:
        WordmaskError: pycocotools is not installed.
    """
    coco = need("pycocotools.mask", "formats", "run-length encoding")
    code = coco.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": code["counts"].decode("ascii")}


@dataclass(frozen=True, eq=False)
class Region:
    """Pixels of one class: all in a picture, or a connected component of them.

    A component is no object: two cats that touch are one, a cat behind a post is two.

    Attributes:
        label: i = ``names[i - 1]``.
        name: the class.
        box: x0, y0, x1, y1 in pixels; x1 and y1 lie behind the last column and row.
        area: its pixels.
        score: the mean of the scores of its class over it, stretched from the patch grid; None if
            scores were not kept.
        pixels: (y1 - y0, x1 - x0) bool, which pixels of the box are its own.
    """

    label: int
    name: str
    box: tuple[int, int, int, int]
    area: int
    score: float | None
    pixels: np.ndarray

    @property
    def xywh(self) -> tuple[int, int, int, int]:
        """The box as x0, y0, width, height, as COCO has it."""
        x0, y0, x1, y1 = self.box
        return x0, y0, x1 - x0, y1 - y0

    def mask(self, size: tuple[int, int]) -> np.ndarray:
        """Its pixels in a picture of `size` (H, W), (H, W) bool."""
        x0, y0, x1, y1 = self.box
        mask = np.zeros(size, bool)
        mask[y0:y1, x0:x1] = self.pixels
        return mask


def regions(
    labels: np.ndarray,
    names: Sequence[str],
    scores: np.ndarray | None = None,
    *,
    components: bool = False,
    min_area: int = 1,
) -> list[Region]:
    """Return the regions of the classes that occur, by label and from top to bottom.

    Args:
        labels: (H, W) integers, 0 = none.
        names: the classes (C).
        scores: (C, h, w) on the patch grid, or None.
        components: one region for each connected component (pixels that share an edge) and not for
            each class.
        min_area: leave out regions with fewer pixels.

    Raises:
        WordmaskError: scipy, which finds components, is not installed.
    """
    found = []
    height, width = labels.shape
    for label in np.unique(labels).tolist():
        if not label:
            continue
        mask = labels == label
        if components:
            ndimage = need("scipy.ndimage", "formats", "finding components")
            parts, _ = ndimage.label(mask)
            boxes = ndimage.find_objects(parts)
        else:
            parts, boxes = mask, [_box(mask)]
        level = None
        if scores is not None:
            picture = Image.fromarray(scores[label - 1].astype(np.float32))
            level = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
        for number, (rows, columns) in enumerate(boxes, start=1):
            pixels = parts[rows, columns] == number
            area = int(pixels.sum())
            if area < min_area:
                continue
            score = None if level is None else float(level[rows, columns][pixels].mean(dtype=float))
            box = columns.start, rows.start, columns.stop, rows.stop
            found.append(Region(label, names[label - 1], box, area, score, pixels))
    return found


def _box(mask: np.ndarray) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
