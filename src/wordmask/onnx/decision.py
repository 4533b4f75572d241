"""From score maps to labels in numpy: the rules of `wordmask.scoring` and `wordmask.windows`.

R maps (one for each text, or for each class), C classes. Label 0 is background.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from wordmask.errors import unknown
from wordmask.sliding import Window
from wordmask.vocabulary import Background

BLOCK_BYTES = 16 * 2**20  # of the maps of a block of rows
COMPLEMENT_POWER = 2.0  # where class maps have names as background


@dataclass(frozen=True, eq=False)
class Texts:
    """Text embeddings and the class that each belongs to.

    Attributes:
        embeddings: (Q, E) unit rows, float32: the names of all classes, then background names.
        owner: (Q,) class index of each row, 0..C-1; C marks a background name.
        names: one name for each class.
        strategy: how pixels that show none of the classes are found.
        known: (C,) bool, the classes that are known to be in the picture; None: nothing is known.
    """

    embeddings: np.ndarray
    owner: np.ndarray
    names: tuple[str, ...]
    strategy: Background
    known: np.ndarray | None = None

    @property
    def classes(self) -> int:
        """C, without the background."""
        return len(self.names)

    def among(self, image_labels: Sequence[str | int] | None) -> Texts:
        """The same texts for a picture in which only these classes are known to be."""
        if image_labels is None:
            return self
        known = np.zeros(self.classes, bool)
        for item in image_labels:
            if isinstance(item, str) and item in self.names:
                known[self.names.index(item)] = True
            elif isinstance(item, int) and 0 <= item < self.classes:
                known[item] = True
            else:
                raise unknown("image-level label", str(item), self.names)
        return replace(self, known=known)

    def pool(self, maps: np.ndarray) -> np.ndarray:
        """Maximum over the names of each class, then over background names if there are any."""
        count = self.classes + bool((self.owner == self.classes).any())
        if len(maps) == count:
            return maps
        starts = np.searchsorted(self.owner, np.arange(count))  # rows go class by class
        return np.maximum.reduceat(maps, starts)


class Tile(NamedTuple):
    """Maps (R, h, w) over `canvas` pixels, which show `window` from `offset` on."""

    scores: np.ndarray
    window: Window
    canvas: tuple[int, int]
    offset: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Maps:
    """The score maps of one picture; rows are read at any output size, see `windows.ScoreMap`.

    Attributes:
        tiles: one for a whole picture, else one for each window.
        pixel_size: (H', W') of the picture as the network takes it.
        size: (H, W) of the labels.
    """

    tiles: Sequence[Tile]
    pixel_size: tuple[int, int]
    size: tuple[int, int]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows start..stop of all maps at the size of the labels, (R, stop - start, W)."""
        tile, out = self.tiles[0], np.arange(start, stop)
        if len(self.tiles) == 1 and tile.canvas == self.pixel_size:
            return _stretch(tile.scores, out, *self.size)
        low, high, weight = _neighbours(out, self.pixel_size[0], self.size[0])
        first, last = int(low.min()), int(high.max()) + 1
        total = np.zeros((len(tile.scores), last - first, self.pixel_size[1]), np.float32)
        hits = np.zeros(total.shape[1:], np.float32)
        for tile in self.tiles:
            top, left, height, width = tile.window
            a, b = max(first, top), min(last, top + height)
            if a >= b:
                continue
            part = _stretch(tile.scores, np.arange(a, b) - top + tile.offset[0], *tile.canvas)
            here = slice(a - first, b - first), slice(left, left + width)
            total[:, here[0], here[1]] += part[..., tile.offset[1] : tile.offset[1] + width]
            hits[here] += 1
        total /= hits
        mixed = _mix(total, low - first, high - first, weight)
        return _widen(mixed, self.size[1])

    def on_patches(self, grid: tuple[int, int]) -> np.ndarray:
        """All maps on the patch grid of the whole picture, (R, h, w)."""
        if len(self.tiles) == 1:
            return self.tiles[0].scores
        return replace(self, size=grid).rows(0, grid[0])

    def blocks(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """First row, row after the last, and the maps of blocks of rows."""
        height, width = self.size
        rows = max(BLOCK_BYTES // (4 * width * len(self.tiles[0].scores)), 1)
        for start in range(0, height, rows):
            stop = min(start + rows, height)
            yield start, stop, self.rows(start, stop)

    def extremes(self) -> tuple[np.ndarray, np.ndarray]:
        """Minimum and maximum of every map at the size of the labels, each (R, 1, 1)."""
        found = [(block.min((1, 2)), block.max((1, 2))) for *_, block in self.blocks()]
        low, high = (np.stack(one) for one in zip(*found, strict=True))
        return low.min(0)[:, None, None], high.max(0)[:, None, None]


def _neighbours(
    rows: np.ndarray, source: int, target: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    at = (rows.astype(np.float32) + np.float32(0.5)) * np.float32(source / target)
    at = (at - np.float32(0.5)).clip(0)
    low = np.minimum(at.astype(np.int64), source - 1)
    return low, np.minimum(low + 1, source - 1), at - low.astype(np.float32)


def _mix(x: np.ndarray, low: np.ndarray, high: np.ndarray, weight: np.ndarray) -> np.ndarray:
    below = x[:, low]
    return below + weight[:, None] * (x[:, high] - below)


def _widen(x: np.ndarray, width: int) -> np.ndarray:
    """Rows (R, n, w) stretched bilinearly to `width` columns, corners not aligned."""
    source = x.shape[-1]
    if source == width:
        return x
    low, high, weight = _neighbours(np.arange(width), source, width)
    mixing = np.zeros((source, width), np.float32)
    np.add.at(mixing, (low, np.arange(width)), 1 - weight)
    np.add.at(mixing, (high, np.arange(width)), weight)
    return x @ mixing


def _stretch(x: np.ndarray, rows: np.ndarray, height: int, width: int) -> np.ndarray:
    """Rows of `x` (R, h, w) stretched bilinearly to height x width, corners not aligned."""
    return _widen(_mix(x, *_neighbours(rows, x.shape[1], height)), width)


def softmax(x: np.ndarray) -> np.ndarray:
    """Softmax over the first axis."""
    x = np.exp(x - x.max(0))
    return x / x.sum(0)


@dataclass(frozen=True)
class SoftmaxRule:
    """As `wordmask.scoring.SoftmaxRule`.

    Args:
        mixture: scores are mixed probabilities: a name's probability is its share of them.
    """

    logit_scale: float = 40.0
    area_threshold: float = 0.0
    min_max: bool = False
    mixture: bool = False

    def probability(self, scores: np.ndarray, texts: Texts) -> np.ndarray:
        """Scores of names (R, ...) as probabilities of classes, and of the background if named."""
        if self.mixture:
            mixed = scores.clip(0)
            return texts.pool(mixed / mixed.sum(0).clip(1e-12))
        return texts.pool(softmax(np.float32(self.logit_scale) * scores))

    def pool(self, maps: np.ndarray, texts: Texts) -> np.ndarray:
        """Maps of names (R, h, w) as maps of classes."""
        return self.probability(maps, texts) if self.mixture else texts.pool(maps)

    def label(self, maps: Maps, texts: Texts) -> Callable[[np.ndarray], np.ndarray]:
        """What labels a block of rows (R, n, W)."""
        classes, strategy, kept = texts.classes, texts.strategy, texts.known
        plain = strategy.probability is None and strategy.power is None
        if plain and not self.area_threshold and not self.min_max:
            return _best_name(texts)
        extremes = maps.extremes() if self.min_max else None

        def values(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            probability = self.probability(block, texts)
            if extremes is None:
                return probability, probability
            low, high = extremes
            return probability, texts.pool((block - low) / (high - low).clip(1e-12))

        if kept is None and self.area_threshold:
            area = np.zeros(classes + 1, np.int64)
            for *_, block in maps.blocks():
                area += np.bincount(values(block)[1].argmax(0).ravel(), minlength=classes + 1)
            kept = area[:classes] / max(area[:classes].sum(), 1) > self.area_threshold
            kept = None if strategy.kind == "none" and not kept.any() else kept
        elif kept is not None and not kept.any():
            return _nothing

        def label(block: np.ndarray) -> np.ndarray:
            probability, value = values(block)
            if kept is not None:
                value = value.copy()
                value[:classes][~kept] = -1
                probability = value if extremes is None else probability
            named = len(value) > classes  # a tie goes to the background
            labels = np.roll(value, 1, 0).argmax(0) if named else value.argmax(0) + 1
            best = probability[:classes].max(0)
            if strategy.probability is not None:
                labels[probability.max(0) < strategy.probability] = 0
            elif strategy.power is not None:
                labels[(1 - best) ** strategy.power > best] = 0
            return labels

        return label


def _nothing(block: np.ndarray) -> np.ndarray:
    return np.zeros(block.shape[1:], np.int64)


def _best_name(texts: Texts) -> Callable[[np.ndarray], np.ndarray]:
    """The label of the name with the largest score; of equal ones the background's."""
    label = np.where(texts.owner < texts.classes, texts.owner + 1, 0)
    if texts.known is not None:
        if not texts.known.any():
            return _nothing
        label = np.where(np.concatenate([[True], texts.known])[label], label, -1)
    names = label.argsort(kind="stable")
    names = names[label[names] >= 0]
    return lambda block: label[names][block[names].argmax(0)]


@dataclass(frozen=True)
class ClassMapRule:
    """As `wordmask.scoring.ClassMapRule`."""

    score_threshold: float = 0.0
    normalize: bool = False

    def pool(self, maps: np.ndarray, texts: Texts) -> np.ndarray:
        """Class maps stay as they are."""
        return maps

    def label(self, maps: Maps, texts: Texts) -> Callable[[np.ndarray], np.ndarray]:
        """What labels a block of rows (C, n, W)."""
        strategy, kept = texts.strategy, texts.known
        score = np.max([tile.scores.max((1, 2)) for tile in maps.tiles], axis=0)
        if kept is None:
            kept = score > self.score_threshold
            if strategy.kind == "none" and not kept.any():
                kept = np.ones_like(kept)
        if not kept.any():
            return _nothing
        low, high = maps.extremes()
        factor = score[:, None, None] / (high + np.float32(1e-5))
        if self.normalize:
            factor = 1 / (high - low).clip(1e-12)
        else:
            low = np.zeros_like(low)

        def label(block: np.ndarray) -> np.ndarray:
            values = (block - low) * factor
            values[~kept] = -1
            best, labels = values.max(0), values.argmax(0) + 1
            if strategy.probability is not None:
                labels[best < strategy.probability] = 0
            elif strategy.kind != "none":
                power = strategy.power or COMPLEMENT_POWER
                labels[(1 - best).clip(0) ** power >= best] = 0
            return labels

        return label


RULES: dict[str, type[SoftmaxRule] | type[ClassMapRule]] = {
    "softmax": SoftmaxRule,
    "class maps": ClassMapRule,
}


def make_rule(about: Mapping[str, Any]) -> SoftmaxRule | ClassMapRule:
    """The rule that an exported folder names."""
    values = dict(about)
    return RULES[values.pop("kind")](**values)


def labels(maps: Maps, rule: SoftmaxRule | ClassMapRule, texts: Texts) -> np.ndarray:
    """Labels (H, W), uint8, or uint16 for more than 255 classes."""
    found = np.empty(maps.size, np.uint8 if texts.classes <= 255 else np.uint16)
    decide = rule.label(maps, texts)
    for start, stop, block in maps.blocks():
        found[start:stop] = decide(block)
    return found


def confidence(
    maps: Maps, rule: SoftmaxRule | ClassMapRule, texts: Texts, labels: np.ndarray
) -> np.ndarray | None:
    """The probability (H, W) of the class of each label, 0 where there is none."""
    if isinstance(rule, ClassMapRule):
        return None
    sure = np.zeros(maps.size, np.float32)
    for start, stop, block in maps.blocks():
        label = labels[start:stop].astype(np.int64)
        probability = np.take_along_axis(rule.probability(block, texts), label[None] - 1, 0)[0]
        sure[start:stop] = np.where(label, probability, 0)
    return sure
