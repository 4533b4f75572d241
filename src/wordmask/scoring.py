"""Scored: the score maps of one picture, and the rules that turn them into labels.

Label 0 is background (or none of the words), label i the i-th class. Labels are computed a block
of rows at a time, so that the maps of all classes never exist at full size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.errors import WordmaskError
from wordmask.progress import steps
from wordmask.segmentation import Segmentation
from wordmask.text_queries import TextQueries
from wordmask.windows import ScoreMap

BLOCK_BYTES = 32 * 2**20  # for one float copy of a block of rows
COMPLEMENT_POWER = 2.0  # of CLIPer's released code, v1

BlockLabels = Callable[[Tensor], Tensor]  # scores (R, rows, W) to labels (rows, W)
BlockValues = Callable[[Tensor], Tensor]  # scores (R, rows, W) to values (C + 1, rows, W)


def nothing(block: Tensor) -> Tensor:
    """Label 0 everywhere: of a picture in which no class is known to be."""
    return torch.zeros(block.shape[1:], dtype=torch.long, device=block.device)


@dataclass(frozen=True, eq=False)
class Scored:
    """The score maps of one picture, from which everything else is read.

    Attributes:
        maps: one map for each row of `texts` (cosines), or for each class if the method gives
            class maps; after the refiners, if any.
        texts: the names that were scored, and the background strategy.
        rule: how the method turns scores into labels.
        size: (H, W) of the picture as it was given.
        patches: h, w of its patch grid.
        coarse: the maps before refiners, None if there were none.
        image: the upright uint8 picture (H, W, 3), or None.
        provenance: everything that the scores depend on, as plain values.
        block_bytes: limit for one float copy of a block of rows.
    """

    maps: ScoreMap
    texts: TextQueries
    rule: Rule
    size: tuple[int, int]
    patches: tuple[int, int]
    coarse: ScoreMap | None = None
    image: np.ndarray | None = None
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)
    block_bytes: int = BLOCK_BYTES

    def __repr__(self) -> str:
        (height, width), (h, w), count = self.size, self.patches, self.texts.classes
        classes = "class" if count == 1 else "classes"
        return f"Scored({width}x{height}, {count} {classes} on {w}x{h} patches)"

    @torch.inference_mode()
    def labels(self, image_labels: Sequence[str | int] | None = None) -> np.ndarray:
        """Labels (H, W), uint8, or uint16 for more than 255 classes.

        image_labels: the names (or class numbers from 0) that are known to be in the picture; the
        other classes get no pixel. None: what `texts` know.

        Raises:
            WordmaskError: an image-level label that is not a class.
        """
        return self.rule.labels(self, self.texts.among(image_labels).known)

    @torch.inference_mode()
    def values(self) -> Iterator[tuple[int, int, Tensor]]:
        """What the labels are the argmax of, a block of rows at a time.

        Yields:
            The first row, the row after the last, and values (C + 1, rows, W) on the CPU; those at
            0 are of none of the words. Values of pictures that overlap can be mixed.

        Raises:
            WordmaskError: the rule of the method is no argmax of values of single pixels.
        """
        value = self.rule.values(self)
        for start, stop in self.blocks():
            yield start, stop, value(self.maps.rows(start, stop, self.size)).cpu()

    @torch.inference_mode()
    def image_scores(self) -> Tensor:
        """Image-level scores of the classes, (C,) float32 on the CPU: max pooling.

        Image-level recognition without another network (CLIPer, section 4.3 and Table 2). For
        methods that compare cosines it is the largest probability of the class over the patches,
        softmax over all words; for class maps their largest value, which can be above 1. With
        refiners, the mean of the maxima before and after them (released code of CLIPer).
        """
        return self.rule.image_scores(self).float().cpu()

    @torch.inference_mode()
    def confidence(self, labels: np.ndarray) -> np.ndarray:
        """The probability (H, W) float32 of the label that each pixel has in `labels`.

        The probability of a class is the largest among its names, softmax over all names; that of
        the background is the largest among its own names. With a complement background, and with
        power 1 for a threshold, it is (1 - p)^power if that is larger; p is the probability of the
        best class.

        Raises:
            WordmaskError: the method gives class maps and no probabilities.
        """
        return self.rule.confidence(self, labels)

    @torch.inference_mode()
    def class_maps(self) -> Tensor:
        """The scores of the classes on the patch grid, (C, h, w) float32.

        Cosines, the maximum over the names of a class, or the method's class maps. With windows,
        their mean; refined maps are averaged over each patch.
        """
        rows = self.maps.tiles[0].scores
        if len(self.maps.tiles) > 1:
            rows = self.maps.rows(0, self.patches[0], self.patches)
        elif self.coarse is not None or self.maps.direct:  # refined, or changed as a whole
            rows = F.adaptive_avg_pool2d(rows, self.patches)
        return self.rule.pool(rows, self.texts)[: self.texts.classes].float()

    def segmentation(self, image_labels: Sequence[str | int] | None = None) -> Segmentation:
        """The labels with names, scores and provenance; `image_labels` as for `labels`."""
        return Segmentation(
            labels=self.labels(image_labels),
            names=self.texts.names,
            scores=self.class_maps().cpu().numpy(),
            provenance=self.provenance,
            image=self.image,
        )

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Start and stop of blocks of rows of `maps` in `block_bytes`."""
        height, width = self.size
        rows = max(self.block_bytes // (4 * width * self.maps.count), 1)
        for start in range(0, height, rows):
            yield start, min(start + rows, height)

    def extremes(self) -> tuple[Tensor, Tensor]:
        """Minimum and maximum of every map at the size of the picture, each (R, 1, 1)."""
        like = self.maps.tiles[0].scores
        low = like.new_full((self.maps.count,), torch.inf)
        high = -low
        for start, stop in self.blocks():
            block = self.maps.rows(start, stop, self.size).flatten(1)
            torch.minimum(low, block.amin(1), out=low)
            torch.maximum(high, block.amax(1), out=high)
        return low[:, None, None], high[:, None, None]


class Rule:
    """How the scores of a picture become labels. Each method has one, see `Method.rule`."""

    gives_probabilities: ClassVar[bool] = False

    def decide(self, scored: Scored, allowed: Tensor | None) -> BlockLabels:
        """Compute what depends on the whole picture, and return the labelling of a block of rows.

        allowed: (C,) bool, the classes that may get pixels; None: all.
        """
        raise TypeError(f"{type(self).__name__} does not implement decide")

    def values(self, scored: Scored) -> BlockValues:
        """See `Scored.values`."""
        name = scored.provenance.get("method", "this method")
        raise WordmaskError(
            f"{name} with these options decides by more than the values of a pixel, so that its "
            "tiles cannot be blended; crop them (--join crop)"
        )

    def pool(self, maps: Tensor, texts: TextQueries) -> Tensor:
        """Maps (R, h, w) as maps of classes (C or C + 1, h, w); class maps stay as they are."""
        return maps

    def image_maps(self, maps: Tensor, texts: TextQueries) -> Tensor:
        """The values of which image-level scores are the maximum: (R, L) to (C or C + 1, L)."""
        return maps

    def labels(self, scored: Scored, allowed: Tensor | None) -> np.ndarray:
        """See `Scored.labels`."""
        dtype = label_dtype(scored.texts)
        labels = np.empty(scored.size, dtype)
        decide = self.decide(scored, allowed)
        blocks, rows = list(scored.blocks()), scored.size[0]
        for start, stop in steps("labels, rows", blocks, rows, lambda block: block[1] - block[0]):
            block = decide(scored.maps.rows(start, stop, scored.size))
            labels[start:stop] = block.cpu().numpy().astype(dtype)
        return labels

    def image_scores(self, scored: Scored) -> Tensor:
        """See `Scored.image_scores`; (C,)."""
        maxima = []
        for maps in [scored.maps] if scored.coarse is None else [scored.coarse, scored.maps]:
            tiles = [self.image_maps(tile.scores.flatten(1), scored.texts) for tile in maps.tiles]
            maxima.append(torch.stack([t[: scored.texts.classes].amax(1) for t in tiles]).amax(0))
        return torch.stack(maxima).mean(0)

    def confidence(self, scored: Scored, labels: np.ndarray) -> np.ndarray:
        """See `Scored.confidence`."""
        raise WordmaskError(
            f"{scored.provenance.get('method', 'this method')} gives class maps and no "
            "probabilities"
        )


@dataclass(frozen=True)
class SoftmaxRule(Rule):
    """Softmax over all names, maximum over the names of a class, argmax; then the background.

    The rule of the harness that SCLIP, ClearCLIP, NACLIP and others share.

    Args:
        logit_scale, area_threshold, min_max: as in `Method`.
    """

    gives_probabilities: ClassVar[bool] = True

    logit_scale: float = 40.0
    area_threshold: float = 0.0
    min_max: bool = False

    def probability(self, scores: Tensor, texts: TextQueries) -> Tensor:
        """Scores of names (R, ...) as probabilities of classes, and of the background if named."""
        return texts.pool(torch.softmax(self.logit_scale * scores, dim=0), dim=0)

    def pool(self, maps: Tensor, texts: TextQueries) -> Tensor:
        """The maximum over the names of each class."""
        return texts.pool(maps, dim=0)

    def image_maps(self, maps: Tensor, texts: TextQueries) -> Tensor:
        """Probabilities."""
        return self.probability(maps, texts)

    def labels(self, scored: Scored, allowed: Tensor | None) -> np.ndarray:
        """See `Scored.labels`; there is a shortcut where the best name decides alone."""
        texts = scored.texts
        if (
            texts.strategy.probability is not None
            or texts.strategy.power is not None
            or self.area_threshold
            or self.min_max
        ):
            return super().labels(scored, allowed)
        owner = texts.owner.cpu()
        label = torch.where(owner < texts.classes, owner + 1, 0)  # of each name
        if allowed is not None:
            if not allowed.any():
                return np.zeros(scored.size, label_dtype(texts))
            label = label.where(torch.cat([torch.ones(1).bool(), allowed.cpu()])[label], -1)
        names = label.argsort(stable=True)  # the background first: it wins ties
        names = names[label[names] >= 0]
        labels = np.empty(scored.size, label_dtype(texts))
        for top, best in best_names(scored, names):
            labels[top : top + len(best)] = label[best].numpy()
        return labels

    def decide(self, scored: Scored, allowed: Tensor | None) -> BlockLabels:
        """See `Rule.decide`."""
        texts, strategy, classes = scored.texts, scored.texts.strategy, scored.texts.classes
        extremes = scored.extremes() if self.min_max else None
        kept: Tensor | None = None
        if allowed is not None:
            kept = allowed.to(scored.maps.tiles[0].scores.device)
            if not kept.any():
                return nothing
        elif self.area_threshold:
            kept = self._large_classes(scored, extremes)
            kept = None if strategy.kind == "none" and not kept.any() else kept

        def label(block: Tensor) -> Tensor:
            probability, value = self._values(block, texts, extremes)
            if kept is not None:  # -1: below the 0 that a kept class may have
                dropped = ~kept[:, None, None]
                value = torch.cat([value[:classes].masked_fill(dropped, -1), value[classes:]])
                probability = value if extremes is None else probability
            # a tie goes to the background, which the harness counts first
            value = torch.cat([value[classes:], value[:classes]])
            labels = value.max(0).indices + (0 if len(value) > classes else 1)
            best = probability[:classes].amax(0)
            if strategy.probability is not None:
                unsure = probability.amax(0) < strategy.probability
                return labels.masked_fill(unsure, 0)
            if strategy.power is not None:
                return labels.masked_fill((1 - best) ** strategy.power > best, 0)
            return labels

        return label

    def values(self, scored: Scored) -> BlockValues:
        """See `Rule.values`: probabilities, and that of no class at 0."""
        if self.area_threshold or self.min_max:
            return super().values(scored)
        texts, strategy, classes = scored.texts, scored.texts.strategy, scored.texts.classes

        def value(block: Tensor) -> Tensor:
            probability = self.probability(block, texts)
            best = probability[:classes].amax(0, keepdim=True)
            none = [probability[classes:], torch.full_like(best, strategy.probability or -1)]
            if strategy.power is not None:
                none += [(1 - best) ** strategy.power]
            return torch.cat([torch.cat(none).amax(0, keepdim=True), probability[:classes]])

        return value

    def _values(
        self, block: Tensor, texts: TextQueries, extremes: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """Probabilities and what the argmax compares, both (C or C + 1, rows, W)."""
        probability = self.probability(block, texts)
        if extremes is None:
            return probability, probability
        low, high = extremes
        return probability, texts.pool((block - low) / (high - low).clamp_min(1e-12), dim=0)

    def _large_classes(self, scored: Scored, extremes: tuple[Tensor, Tensor] | None) -> Tensor:
        """Classes with more than `area_threshold` of all pixels that any class won."""
        classes = scored.texts.classes
        area = torch.zeros(classes + 1, dtype=torch.long)
        for start, stop in scored.blocks():
            block = scored.maps.rows(start, stop, scored.size)
            _, value = self._values(block, scored.texts, extremes)
            area += torch.bincount(value.argmax(0).flatten().cpu(), minlength=classes + 1)
        share = area[:classes] / area[:classes].sum().clamp_min(1)
        return (share > self.area_threshold).to(scored.maps.tiles[0].scores.device)

    def confidence(self, scored: Scored, labels: np.ndarray) -> np.ndarray:
        """See `Scored.confidence`."""
        classes, strategy = scored.texts.classes, scored.texts.strategy
        sure = np.empty(labels.shape, np.float32)
        for start, stop in scored.blocks():
            block = scored.maps.rows(start, stop, scored.size)
            probability = self.probability(block, scored.texts)
            own = probability[classes:]
            if not len(own) or strategy.probability is not None or strategy.power is not None:
                best = probability[:classes].amax(0, keepdim=True)
                own = torch.cat([own, (1 - best) ** (strategy.power or 1)])
            probability = torch.cat([own.amax(0, keepdim=True), probability[:classes]])
            label = torch.from_numpy(labels[start:stop].astype(np.int64)).to(probability.device)
            sure[start:stop] = probability.gather(0, label[None])[0].cpu().numpy()
        return sure


def label_dtype(texts: TextQueries) -> type[np.unsignedinteger[Any]]:
    """The type of labels of as many classes."""
    return np.uint8 if texts.classes <= 255 else np.uint16


@dataclass(frozen=True)
class Pieces:
    """One axis of a picture of N pixels, cut at the centres and borders of patches.

    Attributes:
        piece: (N,) the piece of each pixel.
        patches: (n, 4) the patches that pixels of each piece are mixed from.
        pixels: (n, m) the pixels of each piece; the last is repeated in shorter ones.
        weights: (n, m, 4) of the patches at these pixels.
        ends: (3, n, h) weights of all h patches at places between whose values those of the piece
            lie: its ends, and the centre of a patch near it, where the slope changes.
    """

    piece: Tensor
    patches: Tensor
    pixels: Tensor
    weights: Tensor
    ends: Tensor

    @classmethod
    def of(cls, stretch: Tensor, reach: float) -> Pieces:
        """From the weights of patches at every pixel, (N, h).

        reach: how far, in patches, pixels are mixed beyond their own place.
        """
        count = stretch.shape[1]
        half, piece = (
            (stretch @ torch.arange(2.0, 2 * count + 2, 2)).long().unique(return_inverse=True)
        )
        half -= 2
        first = torch.searchsorted(piece, torch.arange(len(half) + 1))
        pixels = first[:-1, None] + torch.arange(int(first.diff().max()))
        pixels = pixels.minimum(first[1:, None] - 1)
        start = (half // 2 - 1).clamp(0, max(count - 4, 0))
        patches = start[:, None] + torch.arange(min(4, count))
        low, high = half / 2 - reach, half / 2 + 0.5 + reach
        centre = ((half + 1) // 2).float()  # that of the only patch in reach
        ends = torch.stack([tent(at, count) for at in (low, centre, high)])
        return cls(piece, patches, pixels, stretch[pixels[..., None], patches[:, None]], ends)

    def split(self, count: int) -> Iterator[Pieces]:
        """So many pieces at a time, with pixels counted from the first of them."""
        for i in range(0, len(self.pixels), count):
            part = slice(i, i + count)
            yield Pieces(
                self.piece[(self.piece >= i) & (self.piece < i + count)] - i,
                self.patches[part],
                self.pixels[part] - self.pixels[i, 0],
                self.weights[part],
                self.ends[:, part],
            )


def tent(at: Tensor, count: int) -> Tensor:
    """Weights (N, n) of n samples in linear interpolation at places (N,), 0 to n - 1."""
    at = at.clamp(0, count - 1)
    return (1 - (at[:, None] - torch.arange(count)).abs()).clamp_min(0)


def best_names(scored: Scored, names: Tensor) -> Iterator[tuple[int, Tensor]]:
    """At each pixel the name with the largest score, which has the largest probability.

    The grid of a whole picture is cut into pieces of half a patch. In a piece, scores lie between
    those at its ends, so that most names are lower than another everywhere in it and need not be
    stretched to pixels. Names are those of the largest probability at every pixel, but where two
    scores are as close as float32 rounds.

    Args:
        names: indices of the names that take part; of equal scores the first wins.

    Yields:
        The first row of a block of pixels, and the index of the best name at each, (rows, W).
    """
    maps, size = scored.maps, scored.size
    device, stretches = maps.tiles[0].scores.device, maps.stretches(size)
    if stretches is None or device.type != "cpu":  # a GPU would wait for small steps
        index = names.to(device)
        for start, stop in scored.blocks():
            best = maps.rows(start, stop, size)[index].max(0).indices
            yield start, names[best.cpu()]
        return
    grid = maps.tiles[0].scores[names]  # (R, h, w)
    slack = 1e-5 * float(grid.abs().amax())
    rows, columns = (Pieces.of(*one) for one in stretches)
    start, wide = 0, len(columns.pixels)
    each = max(16 * len(names) * wide, 32 * rows.pixels.shape[1] * size[1])  # bytes of a row
    for band in rows.split(max(scored.block_bytes // each, 1)):
        corners = [end @ grid @ other.T for end in band.ends for other in columns.ends]
        high, low = reduce(torch.maximum, corners), reduce(torch.minimum, corners)  # (R, n, m)
        alive = (high >= low.amax(0) - slack).flatten(1).T.contiguous()  # (n m, R)
        count = alive.sum(1, dtype=torch.int32)
        best = high.max(0).indices[band.piece][:, columns.piece]  # right where no other is alive
        most = 1
        while most < len(names):
            least, most = most, min(2 * most, len(names))
            for part in ((count > least) & (count <= most)).nonzero()[:, 0].split(2**12):
                # the living, filled up with others to the same number
                some = alive[part].to(torch.uint8).topk(most, dim=1).indices.sort(1).values
                i, j = part // wide, part % wide
                y, x = band.patches[i][:, None, :, None], columns.patches[j][:, None, None]
                near = grid[some[..., None, None], y, x]  # (N, K, 4, 4)
                values = band.weights[i][:, None] @ near @ columns.weights[j][:, None].mT
                index = values.max(1).indices.flatten(1)  # (N, pixels)
                found = some.gather(1, index).unflatten(1, values.shape[2:])
                best[band.pixels[i][..., None], columns.pixels[j][:, None]] = found
        yield start, names[best]
        start += len(best)


@dataclass(frozen=True)
class ClassMapRule(Rule):
    """For methods that give non-negative class maps instead of cosines (CLIPer, supplement 6).

    Each map is divided by its maximum and weighted by the class's image-level score; absent classes
    are dropped; then threshold or complement, and argmax. A pixel at which all maps are 0 is
    background. Without a background every pixel gets the best of the classes that are left, or of
    all classes if none is.

    Args:
        score_threshold: classes with an image-level score not above this are absent.
        normalize: stretch each map to [0, 1] in place of dividing and weighting it.
    """

    score_threshold: float = 0.0
    normalize: bool = False

    def present(self, scored: Scored, score: Tensor, allowed: Tensor | None) -> Tensor:
        """The classes that may get pixels, (C,) bool, from their image-level scores (C,)."""
        if allowed is not None:
            return allowed.to(score.device)
        kept = score > self.score_threshold
        if scored.texts.strategy.kind == "none" and not kept.any():
            return torch.ones_like(kept)
        return kept

    def weights(self, scored: Scored, score: Tensor) -> tuple[Tensor, Tensor]:
        """The offset and the factor of each map, (C, 1, 1), from image-level scores (C,)."""
        low, high = scored.extremes()
        if self.normalize:
            return low, 1 / (high - low).clamp_min(1e-12)
        return torch.zeros_like(low), score[:, None, None] / (high + 1e-5)

    def decide(self, scored: Scored, allowed: Tensor | None) -> BlockLabels:
        """See `Rule.decide`."""
        strategy = scored.texts.strategy
        score = self.image_scores(scored)
        kept = self.present(scored, score, allowed)
        if not kept.any():
            return nothing
        low, factor = self.weights(scored, score)
        dropped = ~kept[:, None, None]

        def label(block: Tensor) -> Tensor:
            # -1: below the 0 that a kept class may have
            best, labels = block.sub_(low).mul_(factor).masked_fill_(dropped, -1).max(0)
            labels = labels + 1
            if strategy.kind == "none":
                return labels
            if strategy.probability is not None:
                return labels.masked_fill(best < strategy.probability, 0)
            power = strategy.power
            if power is None:
                power = COMPLEMENT_POWER  # names alone leave no pixel unlabelled
            return labels.masked_fill((1 - best).clamp_min(0) ** power >= best, 0)

        return label

    def values(self, scored: Scored) -> BlockValues:
        """See `Rule.values`: weighted maps, 0 for classes that are absent, and no class at 0."""
        strategy = scored.texts.strategy
        score = self.image_scores(scored)
        kept = self.present(scored, score, None)
        low, factor = self.weights(scored, score)
        absent = ~kept[:, None, None]

        def value(block: Tensor) -> Tensor:
            maps = block.sub_(low).mul_(factor).clamp_min_(0).masked_fill_(absent, -1e-6)
            best = maps.amax(0, keepdim=True)
            if strategy.kind == "none":
                none = torch.full_like(best, -1)
            elif strategy.probability is not None:
                none = torch.full_like(best, strategy.probability)
            else:
                none = (1 - best).clamp_min(0) ** (strategy.power or COMPLEMENT_POWER)
            return torch.cat([none, maps])

        return value
