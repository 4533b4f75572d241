"""Encoded pictures: dense features, ready to be compared with any words."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wordmask.windows import ScoreMap, Tile, Window


@dataclass(frozen=True, eq=False)
class DenseFeatures:
    """The output of a method for a batch of pictures (or of windows).

    Attributes:
        features: (B, E, h, w) projected patch features, float32, before L2 normalisation.
        state: what else the method's own `scores` and `rule` need: a frozen dataclass of tensors
            (B, ...) and tuples of B items; None if they need nothing else.
    """

    features: Tensor
    state: Any = None

    @classmethod
    def join(cls, parts: Sequence[DenseFeatures]) -> DenseFeatures:
        """Join parts of a batch."""
        if len(parts) == 1:
            return parts[0]
        state = None if parts[0].state is None else _join([part.state for part in parts])
        return cls(torch.cat([part.features for part in parts]), state)


def _join(states: Sequence[Any]) -> Any:
    """Join the states of parts of a batch: tensors and tuples are joined along the pictures."""
    joined: dict[str, Any] = {}
    for item in dataclasses.fields(states[0]):
        values = [getattr(state, item.name) for state in states]
        if isinstance(values[0], Tensor):
            joined[item.name] = torch.cat(values)
        elif isinstance(values[0], tuple):
            joined[item.name] = tuple(one for value in values for one in value)
    return dataclasses.replace(states[0], **joined)


@dataclass(frozen=True, eq=False)
class Encoding:
    """B pictures encoded once by one method.

    Attributes:
        features: (B, E, h, w) projected patch features, float32, before L2 normalisation. With
            sliding windows (B * windows, E, h, w), the windows of a picture one after the other.
        state: what else the method needs, its own dataclass, see `DenseFeatures`.
        pixels: (B, 3, H', W') normalised, the input of the network before padding.
        sizes: (H, W) of every picture as it was given, B of them.
        pad: pixels added at (top, left, bottom, right).
        windows: the windows shared by all pictures of the batch; empty for whole pictures.
        images: the upright uint8 pictures; empty if a tensor was given.
        single: one picture was given, and not a list or a batch.
        names: the file or id of every picture, "" for one that has none; empty for a tensor.
        regions: the region map (h, w) that the method used, of every picture; empty for a method
            that uses none.
        prepared: cached outputs of `Refiner.prepare`, by picture and refiner.
    """

    features: Tensor
    state: Any
    pixels: Tensor
    sizes: tuple[tuple[int, int], ...]
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)
    windows: tuple[Window, ...] = ()
    images: tuple[np.ndarray, ...] = ()
    single: bool = False
    names: tuple[str, ...] = ()
    regions: tuple[Tensor, ...] = ()
    prepared: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.sizes)

    def __repr__(self) -> str:
        many = f"{len(self)} pictures of " if len(self) > 1 else ""
        sizes = list(dict.fromkeys(f"{width}x{height}" for height, width in self.sizes))
        given = ", ".join(sizes[:3]) + (", ..." if len(sizes) > 3 else "")
        (height, width), (h, w) = self.pixel_size, self.grid
        windows = f" in each of {len(self.windows)} windows" if self.windows else ""
        return (
            f"Encoding({many}{given}, seen as {width}x{height}: {w}x{h} patches{windows}, "
            f"{self.features.shape[1]} features each)"
        )

    @property
    def grid(self) -> tuple[int, int]:
        """The patch grid h, w of `features`."""
        return self.features.shape[-2], self.features.shape[-1]

    @property
    def pixel_size(self) -> tuple[int, int]:
        """(H', W') of the network's input before padding."""
        return self.pixels.shape[2], self.pixels.shape[3]

    def split(self) -> list[Encoding]:
        """The pictures, each as an encoding of its own."""
        if len(self) == 1:
            return [self]
        windows = len(self.windows) or 1
        parts = []
        for i, features in enumerate(self.features.split(windows)):
            state = self.state
            if state is not None:
                rows = slice(i * windows, (i + 1) * windows)
                names = [item.name for item in dataclasses.fields(state)]
                own = {name: getattr(state, name) for name in names}
                own = {k: v[rows] for k, v in own.items() if isinstance(v, (Tensor, tuple))}
                state = dataclasses.replace(state, **own)
            parts.append(
                dataclasses.replace(
                    self,
                    features=features,
                    state=state,
                    pixels=self.pixels[i : i + 1],
                    sizes=self.sizes[i : i + 1],
                    images=self.images[i : i + 1],
                    single=True,
                    names=self.names[i : i + 1],
                    regions=self.regions[i : i + 1],
                    prepared={
                        (0, *key[1:]): value
                        for key, value in self.prepared.items()
                        if isinstance(key, tuple) and key[0] == i
                    },
                )
            )
        return parts

    def score_maps(self, scores: Tensor) -> list[ScoreMap]:
        """Scores (B * windows, R, h, w) of `features` as one score map for each picture."""
        count = len(self.windows) or 1
        return [self.score_map(part) for part in scores.split(count)]

    def score_map(self, maps: Tensor) -> ScoreMap:
        """Maps (windows or 1, R, h, w) of one picture; a single one covers the whole picture."""
        whole = (Window(0, 0, *self.pixel_size),)
        windows = self.windows if len(maps) > 1 else whole
        top, left, bottom, right = self.pad
        tiles = [
            Tile(scores, w, (w.height + top + bottom, w.width + left + right), (top, left))
            for scores, w in zip(maps, windows, strict=True)
        ]
        return ScoreMap(tiles, self.pixel_size)

    def patches(self, patch: int) -> tuple[int, int]:
        """The patch grid of the whole picture, without padding and without windows."""
        height, width = (max(side // patch, 1) for side in self.pixel_size)
        return height, width
