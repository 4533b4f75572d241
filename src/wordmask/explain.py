"""Visualisations of a method: attention of one patch, similarity by layer, class maps.

The picture is taken whole: sliding windows are ignored here. A point is (x, y) in pixels of the
upright picture, None its centre. h, w is the patch grid, N the number of blocks, C of classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from wordmask import drawing
from wordmask.errors import WordmaskError
from wordmask.images import read_image
from wordmask.methods.base import cosine
from wordmask.segmentation import Segmentation
from wordmask.segmenter import Segmenter
from wordmask.towers.clip import Need, Trace
from wordmask.windows import ScoreMap, Tile, Window

Point = tuple[int, int]

MOST_CLASSES = 14  # heat maps drawn for one picture
PAGE = 2000  # width of a page of pictures in pixels, about


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


@dataclass(frozen=True)
class PatchAttention:
    """The attention of one patch, averaged over the heads, without the class token.

    Attributes:
        before: (h, w), softmax(QK^T / sqrt d) of CLIP's last block.
        after: (h, w), the map with which the method mixes patches instead.
        patch: row and column of the patch.
    """

    before: Tensor
    after: Tensor
    patch: tuple[int, int]


def attention_of_patch(
    segmenter: Segmenter, image: Any, point: Point | None = None
) -> PatchAttention:
    """Attention of the patch at a point, before and after the method's change.

    Rows of CLIP's map sum to 1 with the class token, so `before` sums to a little less.

    Args:
        segmenter: the method and the network.
        image: a path, a PIL image or a uint8 array (H, W, 3).
        point: (x, y) in pixels; None: the centre.

    Raises:
        WordmaskError: a picture that cannot be read, or a point outside it.
    """
    grid = PatchGrid(segmenter, image)
    return _attention(segmenter, grid, grid.patch_at(point))


def similarity_by_layer(segmenter: Segmenter, image: Any, point: Point | None = None) -> Tensor:
    """Cosine of the token state at a point with those of all patches after blocks 1..N, (N, h, w).

    Arguments and errors as for `attention_of_patch`.
    """
    grid = PatchGrid(segmenter, image)
    return _similarity(segmenter, grid, grid.patch_at(point))


def draw_attention(segmenter: Segmenter, image: Any, point: Point | None = None) -> Image.Image:
    """Draw the photo with the point, and `attention_of_patch` over it with the patch framed.

    Each map has its own scale from 0 to its 99th percentile, which its title gives.
    """
    grid = PatchGrid(segmenter, image)
    attention = _attention(segmenter, grid, grid.patch_at(point))
    photo = _Photo(grid, point, side=420)
    titles = [
        f"before: q-k of block {segmenter.tower.depth}",
        f"after: {segmenter.method.name}",
    ]
    pictures = [photo.marked()]
    for i, values in enumerate((attention.before, attention.after)):
        high = float(torch.quantile(values.flatten(), 0.99)) or float(values.max())
        pictures.append(photo.framed(photo.heat(values, 0.0, high)))
        titles[i] += f" (0 to {high:.2g})"
    return drawing.strip(pictures, [photo.title, *titles], columns=3)


def draw_layers(
    segmenter: Segmenter,
    image: Any,
    words: Any,
    background: Any = None,
    point: Point | None = None,
) -> Image.Image:
    """Draw `similarity_by_layer` on one scale, then the labels of each feature set alone.

    The scale begins at the 1st percentile. The labels from all sets come last, with the legend. A
    method with one set of features has the first part only.
    """
    segmenter = _whole(segmenter)
    grid = PatchGrid(segmenter, image)
    photo = _Photo(grid, point, side=240)
    maps = _similarity(segmenter, grid, grid.patch_at(point))
    low = float(torch.quantile(maps.flatten(), 0.01))
    pictures = [photo.marked(), *(photo.framed(photo.heat(x, low, 1.0)) for x in maps)]
    titles = [f"{photo.title}; cosine {low:.2f} to 1"]
    titles += [f"block {n}" for n in range(1, len(maps) + 1)]
    page = _in_rows(pictures, titles)
    sets = _set_maps(segmenter, grid, words, background)
    if sets is None:
        return page
    result = segmenter(grid.picture, words, background)
    names = result.names
    pictures = [photo.overlay(_labels(grid.spread(x, photo.size), len(names)), names) for x in sets]
    titles = [f"set {i} alone" for i in range(1, len(sets) + 1)]
    return _stacked([page, _in_rows(pictures, titles), photo.final(result)])


def draw_classes(
    segmenter: Segmenter, image: Any, words: Any, background: Any = None
) -> Image.Image:
    """Draw the scores of the classes over the photo on one shared scale, then the labels.

    Titles give the range of each class. Of more than 14 classes, those with most pixels are drawn.
    """
    segmenter = _whole(segmenter)
    grid = PatchGrid(segmenter, image)
    photo = _Photo(grid, None, side=320)
    result = segmenter(grid.picture, words, background)
    assert result.scores is not None
    shown = list(range(len(result.names)))
    if len(shown) > MOST_CLASSES:
        pixels = np.bincount(result.labels.ravel(), minlength=len(shown) + 1)[1:]
        shown = sorted(np.argsort(-pixels, kind="stable")[:MOST_CLASSES].tolist())
    scores = result.scores[shown]
    low, high = float(scores.min()), float(scores.max())
    digits = max(1 - math.floor(math.log10(high - low or 1.0)), 0)

    def span(values: np.ndarray) -> str:
        return f"{values.min():.{digits}f} to {values.max():.{digits}f}"

    pictures = [photo.plain]
    titles = [f"photo; scale {span(scores)}"]
    for i, values in zip(shown, scores, strict=True):
        pictures.append(photo.heat(torch.from_numpy(values), low, high))
        titles.append(f"{result.names[i]}: {span(values)}")
    return _stacked([_in_rows(pictures, titles), photo.final(result)])


# -- what is computed ---------------------------------------------------------------------------


def _whole(segmenter: Segmenter) -> Segmenter:
    """The same segmenter without sliding windows."""
    method = segmenter.method
    if not method.window:
        return segmenter
    return segmenter.with_method(replace(method, window=0), refine=segmenter.refiners)


@torch.inference_mode()
def _trace(segmenter: Segmenter, grid: PatchGrid, need: Need) -> Trace:
    return segmenter.method.trace(segmenter.towers, grid.pixels, need)


@torch.inference_mode()
def _attention(segmenter: Segmenter, grid: PatchGrid, patch: tuple[int, int]) -> PatchAttention:
    tower, method = segmenter.tower, segmenter.method
    trace = _trace(segmenter, grid, method.need(tower.depth) | Need.of(attention=[tower.depth]))
    first = tower.class_tokens
    token = first + patch[0] * grid.size[1] + patch[1]

    def row(attention: Tensor) -> Tensor:  # (1, M, T, T) -> (h, w)
        return attention[0, :, token, first:].float().mean(0).unflatten(0, grid.size).cpu()

    after = method.mixing_map(tower, trace)
    return PatchAttention(row(trace.attention[tower.depth]), row(after), patch)


@torch.inference_mode()
def _similarity(segmenter: Segmenter, grid: PatchGrid, patch: tuple[int, int]) -> Tensor:
    first, blocks = segmenter.tower.class_tokens, range(1, segmenter.tower.depth + 1)
    trace = _trace(segmenter, grid, Need.of(states=blocks))
    states = torch.stack([trace.states[n][0, first:].float() for n in blocks])  # (N, L, D)
    unit = F.normalize(states, dim=-1)
    chosen = unit[:, patch[0] * grid.size[1] + patch[1], :, None]  # (N, D, 1)
    return (unit @ chosen)[..., 0].unflatten(-1, grid.size).cpu()


@torch.inference_mode()
def _set_maps(segmenter: Segmenter, grid: PatchGrid, words: Any, background: Any) -> Tensor | None:
    """Probabilities of classes, (S, C or C + 1, h, w), by every feature set of the method."""
    tower, method = segmenter.tower, segmenter.method
    texts = segmenter.encode_text(words, background)
    dense = method.features(tower, _trace(segmenter, grid, method.need(tower.depth)))
    sets = method.feature_sets(dense)
    if sets is None:
        return None
    cosines = cosine(sets[:, 0], texts.embeddings)  # (S, Q, h, w)
    return texts.pool(torch.softmax(method.logit_scale * cosines, dim=1), dim=1).cpu()


def _labels(maps: np.ndarray, classes: int) -> np.ndarray:
    """Argmax of (C or C + 1, H, W) as labels; a map after those of the classes is label 0."""
    labels = maps.argmax(0) + 1
    return np.where(labels > classes, 0, labels)


# -- what is drawn ------------------------------------------------------------------------------


class _Photo:
    """The picture at the size of a strip, to draw with maps over it and the point marked."""

    def __init__(self, grid: PatchGrid, point: Point | None, side: int):
        height, width = grid.picture.shape[:2]
        factor = min(side / math.sqrt(height * width), 4 * side / max(height, width))
        self.size = (max(round(factor * height), 1), max(round(factor * width), 1))
        x, y = check_point(point, grid.picture)
        self.patch = grid.patch_at(point)
        self.title = f"photo, point {x},{y}"
        self.at = (int((x + 0.5) * self.size[1] / width), int((y + 0.5) * self.size[0] / height))
        small = Image.fromarray(grid.picture)
        self.plain = small.resize(self.size[::-1], Image.Resampling.LANCZOS)
        self.grid = grid

    def marked(self) -> Image.Image:
        """The photo with the point marked."""
        return drawing.mark_point(self.plain, *self.at)

    def framed(self, picture: Image.Image) -> Image.Image:
        """Draw a frame around the patch on a picture of this size; a mark would hide the patch."""
        left, top, right, bottom = self.grid.cell(self.patch, self.size)
        draw = ImageDraw.Draw(picture)
        draw.rectangle((left - 2, top - 2, right + 2, bottom + 2), outline=drawing.INK)
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=drawing.WHITE)
        return picture

    def heat(self, values: Tensor, low: float, high: float) -> Image.Image:
        """A map (h, w) over the photo."""
        (spread,) = self.grid.spread(values[None], self.size)
        return drawing.heat_map(spread, self.size, low, high, self.plain)

    def final(self, result: Segmentation) -> Image.Image:
        """A page of its own with the labels and the legend."""
        labelled = self.overlay(result.labels, result.names, legend=True)
        return drawing.strip([labelled], [f"labels of {result.provenance['method']}"])

    def overlay(
        self, labels: np.ndarray, names: Sequence[str], legend: bool = False
    ) -> Image.Image:
        """Labels of any size over the photo."""
        rows = np.arange(self.size[0]) * labels.shape[0] // self.size[0]
        columns = np.arange(self.size[1]) * labels.shape[1] // self.size[1]
        return drawing.overlay(self.plain, labels[rows][:, columns], names, legend=legend)


def _in_rows(pictures: Sequence[Image.Image], titles: Sequence[str]) -> Image.Image:
    """A strip of rows that are about equally full and not much wider than a page."""
    across = max(PAGE // pictures[0].width, 2)
    rows = math.ceil(len(pictures) / min(across, 9))
    return drawing.strip(pictures, titles, columns=math.ceil(len(pictures) / rows))


def _stacked(pages: Sequence[Image.Image]) -> Image.Image:
    """Pages below each other on white."""
    width = max(page.width for page in pages)
    whole = Image.new("RGB", (width, sum(page.height for page in pages)), drawing.WHITE)
    top = 0
    for page in pages:
        whole.paste(page, (0, top))
        top += page.height
    return whole
