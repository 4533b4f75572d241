"""What encoding a picture leaves behind, and the text queries it is asked with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.errors import WordmaskError, unknown
from wordmask.windows import ScoreMap, Tile, Window


@dataclass
class Encoding:
    """B pictures encoded once, ready to be asked with any words.

    Attributes:
        features: (B, E, h, w) projected patch features, float32, before L2 normalisation. With
            sliding windows (B * windows, E, h, w), the windows of a picture one after the other.
        feature_sets: (N, B, E, h, w) where a method keeps several sets, else None.
        extras: what else the method keeps for scoring, by name.
        sizes: (H, W) of every picture as it was given, B of them.
        pixel_size: (H', W') that the network saw, before a pad.
        pad: pixels added at (top, left, bottom, right).
        windows: the windows shared by all pictures of the batch; empty for whole pictures.
        images: the upright uint8 pictures, where pictures were given and not a tensor.
        regions: one (1 + K, h', w') a picture where a method cuts pictures into regions that vote:
            each pixel belongs to the highest map; map 0 stands for no region. Else empty.
        pixels: (B, 3, H', W') normalised, what the network saw before a pad.
        seen: what refiners keep of the pictures, by picture and refiner.
        towers: the tower and the networks beside it, where scoring runs them again (CaR).
        single: one picture was given, and not a list or a batch.
    """

    features: Tensor
    feature_sets: Tensor | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)
    sizes: tuple[tuple[int, int], ...] = ()
    pixel_size: tuple[int, int] = (0, 0)
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)
    windows: tuple[Window, ...] = ()
    images: tuple[np.ndarray, ...] = ()
    regions: tuple[Tensor, ...] = ()
    pixels: Tensor | None = None
    seen: dict[Any, Any] = field(default_factory=dict)
    towers: tuple[Any, ...] = ()
    single: bool = False

    def __len__(self) -> int:
        return len(self.sizes)

    @classmethod
    def join(cls, parts: Sequence[Encoding]) -> Encoding:
        """Encodings of parts of a batch, as one; `sizes` and what follows is still to be set."""
        if len(parts) == 1:
            return parts[0]
        sets = None
        if parts[0].feature_sets is not None:
            sets = torch.cat([p.feature_sets for p in parts if p.feature_sets is not None], dim=1)
        extras = {
            name: torch.cat([p.extras[name] for p in parts], dim=1 if name == "window_sets" else 0)
            for name in parts[0].extras
        }
        regions = tuple(r for p in parts for r in p.regions)
        features = torch.cat([p.features for p in parts])
        return cls(features, sets, extras, regions=regions, towers=parts[0].towers)

    def maps(self, scores: Tensor) -> list[ScoreMap]:
        """Scores (B * windows, R, h, w) of `features`, one score map a picture."""
        windows = self.windows or (Window(0, 0, *self.pixel_size),)
        return [
            ScoreMap(
                [self._tile(s, w) for s, w in zip(part, windows, strict=True)], self.pixel_size
            )
            for part in scores.split(len(windows))
        ]

    def region_map(self, i: int) -> ScoreMap | None:
        """The maps that cut picture i into regions that vote, where its method makes them."""
        if not self.regions:
            return None
        return ScoreMap(
            [self._tile(self.regions[i], Window(0, 0, *self.pixel_size))], self.pixel_size
        )

    def _tile(self, scores: Tensor, window: Window) -> Tile:
        top, left, bottom, right = self.pad
        canvas = (window.height + top + bottom, window.width + left + right)
        return Tile(scores, window, canvas, (top, left))

    def patches(self, patch: int) -> tuple[int, int]:
        """The patch grid of a picture alone: without pad, whole though seen through windows."""
        height, width = (max(side // patch, 1) for side in self.pixel_size)
        return height, width

    @property
    def grid(self) -> tuple[int, int]:
        """The patch grid h, w of `features`."""
        return self.features.shape[-2], self.features.shape[-1]


@dataclass(frozen=True)
class Queries:
    """Text embeddings and whose they are.

    Attributes:
        embeddings: (Q, E) unit rows, float32: the names of all classes, then background names.
        owner: (Q,) class index of each row, 0..C-1; C marks a background name.
        names: one name for each class.
        empty: (1, E) embedding of the empty name, for methods that compare with it.
        classifier: (C, E') the classes as a method's second look at the picture reads them.
    """

    embeddings: Tensor
    owner: Tensor
    names: tuple[str, ...]
    empty: Tensor | None = None
    classifier: Tensor | None = None

    @classmethod
    def of(
        cls,
        classes: Sequence[Tensor],
        background: Tensor | None = None,
        names: Sequence[str] | None = None,
    ) -> Queries:
        """Join per-class embeddings (names_c, E) and background embeddings (K, E)."""
        rows = [*classes] + ([] if background is None else [background])
        owner = torch.cat([torch.full((len(x),), i) for i, x in enumerate(rows)])
        embeddings = F.normalize(torch.cat(rows).float(), dim=-1)
        labels = tuple(names) if names else tuple(f"class {i + 1}" for i in range(len(classes)))
        return cls(embeddings, owner.to(embeddings.device), labels)

    def with_empty(self, empty: Tensor) -> Queries:
        """These queries and the embedding of the empty name."""
        return replace(self, empty=empty)

    @property
    def classes(self) -> int:
        """C, without the background."""
        return len(self.names)

    @property
    def foreground(self) -> Tensor:
        """The rows that belong to a class."""
        return self.embeddings[self.owner < self.classes]

    @property
    def background(self) -> Tensor:
        """The rows of background names, (K, E), perhaps none."""
        return self.embeddings[self.owner == self.classes]

    def select(self, present: Sequence[str | int]) -> Tensor:
        """Which classes are among `present`, names or numbers from 0 on, as (C,) bool.

        Raises:
            WordmaskError: a name that is not a class.
        """
        if isinstance(present, str):
            raise WordmaskError(
                f"got {present!r} as image-level labels; give a list of names for each picture"
            )
        chosen = torch.zeros(self.classes, dtype=torch.bool)
        for item in present:
            if isinstance(item, str) and item in self.names:
                chosen[self.names.index(item)] = True
            elif isinstance(item, int) and 0 <= item < self.classes:
                chosen[item] = True
            else:
                raise unknown("image-level label", str(item), self.names)
        return chosen

    def pool_foreground(self, scores: Tensor, dim: int) -> Tensor:
        """Maximum over the names of each class of scores that hold foreground rows only."""
        return self._pool(scores, dim, self.owner[self.owner < self.classes], self.classes)

    def pool(self, scores: Tensor, dim: int) -> Tensor:
        """Maximum over the names of each class along `dim`; a background row is added if any."""
        return self._pool(scores, dim, self.owner, self.classes + bool(len(self.background)))

    @staticmethod
    def _pool(scores: Tensor, dim: int, owner: Tensor, size: int) -> Tensor:
        if scores.shape[dim] == size:
            return scores
        shape = list(scores.shape)
        shape[dim] = size
        view = [1] * scores.ndim
        view[dim] = -1
        index = owner.view(view).expand_as(scores)
        pooled = scores.new_full(shape, -torch.inf)
        return pooled.scatter_reduce(dim, index, scores, "amax")
