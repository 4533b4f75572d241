"""Collages of pieces of unlabelled scenes, whose regions are known because we cut them ourselves.

Where a scene's things end is not given. But two pieces of different scenes, laid side by side, end
where they were cut. A network that has to find those seams learns which local looks belong
together, up to the very rim, without a mask, a label or a word of a scene (as in copy-paste
pretraining: Wang et al., CP2, 2022; and in texture mosaics).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wordmask import toybox

SIZE = 96  # the scenes of tiny-clip
EVEN = 0.25  # how far tokens of one look may be from their mean, as 1 - cosine
SAME = 0.93  # cosine from which they count as the same
ALIKE = 0.7  # cosine from which two pieces look alike
OF_A_SCENE = 12  # pieces that are cut out of a scene


class Piece(NamedTuple):
    """A square (p, p, 3) cut out of a scene, and its token on average, (C,), of length 1."""

    square: np.ndarray
    token: np.ndarray | None


class Collages:
    """Collages from a ring of scenes that is kept fresh.

    Pieces shall show one look. At first, colour and contrast say whether they do (`unevenness`);
    later a network that has learned from such collages can say it better (`trust`).
    """

    def __init__(self, first_seed: int, rendered: int = 0, count: int = 384, seed: int = 0) -> None:
        self.first_seed, self.rendered = first_seed, rendered
        self.rng = np.random.default_rng([seed, rendered])
        self.ring = [self._next() for _ in range(count)]
        self.look: Callable[[np.ndarray], np.ndarray] | None = None
        self.pieces: list[np.ndarray] = []  # OF_A_SCENE for each scene of the ring
        self.tokens = np.zeros((0, 0), np.float32)  # (pieces, C): what their tokens are on average
        self.weights = np.zeros(0)  # of pieces: one over the number of those that look like it

    def _next(self) -> np.ndarray:
        self.rendered += 1
        image = toybox.render(self.first_seed + self.rendered, SIZE).image
        return image.astype(np.float32) / 255

    def renew(self, count: int) -> None:
        """Render `count` new scenes in place of old ones."""
        for _ in range(count):
            place = self.rendered % len(self.ring)
            self.ring[place] = self._next()
            if self.look:
                self._cut(place)
                which = slice(place * OF_A_SCENE, (place + 1) * OF_A_SCENE)
                like = self.tokens[which] @ self.tokens.T > ALIKE
                self.weights[which] = 1 / like.sum(1).clip(1)

    def trust(self, look: Callable[[np.ndarray], np.ndarray]) -> None:
        """From now on, even is what has tokens alike: (96, 96, 3) to unit tokens (g, g, C)."""
        self.look = look
        width = look(self.ring[0]).shape[-1]
        self.pieces = [self.ring[0]] * (len(self.ring) * OF_A_SCENE)
        self.tokens = np.zeros((len(self.pieces), width), np.float32)
        for place in range(len(self.ring)):
            self._cut(place)
        like = self.tokens @ self.tokens.T > ALIKE
        self.weights = 1 / like.sum(1).clip(1)

    def _cut(self, place: int) -> None:
        """Cut pieces out of a scene, each a square that shrinks until its tokens are alike."""
        rng, image = self.rng, self.ring[place]
        assert self.look is not None
        tokens = self.look(image)
        grid, found, bar = len(tokens), 0, EVEN
        while found < OF_A_SCENE:
            centre = (rng.integers(grid, size=2) + 0.5) * SIZE / grid
            side = int(rng.integers(14, 36))
            while side >= 10:
                top, left = (int(min(max(i - side / 2, 0), SIZE - side)) for i in centre)
                rows, columns = (
                    slice(int(i * grid / SIZE), int(np.ceil((i + side) * grid / SIZE)))
                    for i in (top, left)
                )
                if disagreement(tokens[rows, columns]) < bar:
                    mean = tokens[rows, columns].mean((0, 1))
                    self.tokens[place * OF_A_SCENE + found] = mean / np.linalg.norm(mean)
                    self.pieces[place * OF_A_SCENE + found] = image[
                        top : top + side, left : left + side
                    ]
                    found += 1
                    break
                side = int(0.8 * side)
            else:
                bar *= 1.03  # a scene may have nothing as even as that

    def scenes(self, count: int, side: int) -> Tensor:
        """Cut plain crops out of scenes, (count, 3, side, side) in 0 ... 1."""
        crops = []
        for index in self.rng.integers(len(self.ring), size=count):
            top, left = self.rng.integers(SIZE - side + 1, size=2)
            crop = self.ring[index][top : top + side, left : left + side]
            crops.append(crop[:, ::-1] if self.rng.random() < 0.5 else crop)
        return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)

    def draw(self, count: int, side: int) -> tuple[Tensor, Tensor]:
        """Make collages (count, 3, side, side) in 0 ... 1 and their regions (count, side, side)."""
        made = [self.collage(side) for _ in range(count)]
        images = torch.from_numpy(np.stack([image for image, _ in made])).permute(0, 3, 1, 2)
        return images, torch.from_numpy(np.stack([regions for _, regions in made])).long()

    def collage(self, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Make one collage (side, side, 3) in 0 ... 1 and its regions (side, side) from 0 on.

        Of the pieces that are laid side by side, some are chosen for being of like colours.
        """
        rng = self.rng
        pieces = [self.piece(rare=rng.random() < 0.4)]
        image, regions = self.fill(pieces[0].square, side), np.zeros((side, side), np.uint8)
        most = 5 if side <= 48 else 9
        for index in range(1, int(rng.integers(1, most)) + 1):
            found = [self.piece(rare=rng.random() < 0.85) for _ in range(rng.choice((2, 6)))]
            found = [f for f in found if not any(one_look(f, p) for p in pieces)] or found[:1]
            if len(found) > 2:
                found.sort(key=lambda f: min(unlike(f.square, p.square) for p in pieces))
            pieces.append(found[0])
            cover = draw_shape(rng, side)
            fall, depth = int(rng.integers(1, 5)), rng.uniform(0.1, 0.4)
            if rng.random() < 0.6:  # what lies on top throws a shadow on what lies below
                image[fall:, fall:] *= 1 - depth * cover[:-fall, :-fall, None]
            image += cover[..., None] * (self.fill(pieces[-1].square, side) - image)
            regions[cover >= 0.5] = index
        return image.clip(0, 1), regions

    def fill(self, square: np.ndarray, side: int) -> np.ndarray:
        """Continue a piece of a scene by mirroring to (side, side, 3), in a light of its own."""
        rng = self.rng
        piece = square.transpose(1, 0, 2) if rng.random() < 0.5 else square
        rows, columns = (
            (np.arange(side) + int(offset)) % (2 * len(piece))
            for offset in rng.integers(2 * len(piece), size=2)
        )
        rows, columns = (np.minimum(i, 2 * len(piece) - 1 - i) for i in (rows, columns))
        filled = piece[rows[:, None], columns[None]]
        slope = rng.uniform(-0.25, 0.25, 2) * side / SIZE
        along = np.linspace(-1, 1, side, dtype=np.float32)
        light = rng.uniform(0.9, 1.1) + slope[0] * along[:, None] + slope[1] * along[None]
        return filled * light[..., None].astype(np.float32)

    def piece(self, rare: bool) -> Piece:
        """Cut out a square that mostly shows one look; things' looks are the rare ones.

        Rare is guessed from colours that are unlike the scene's, or known from how many other
        pieces have tokens like it.
        """
        if not self.look:
            return Piece(self._even_piece(rare), None)
        index = int(self.rng.integers(len(self.pieces)))
        if rare:
            summed = self.weights.cumsum()
            index = int(np.searchsorted(summed, self.rng.random() * summed[-1]))
        return Piece(self.pieces[index], self.tokens[index])

    def _even_piece(self, rare: bool) -> np.ndarray:
        """Choose the most even of some random squares, or of the two most even the stranger."""
        rng = self.rng
        side = 2 * int(5 + 12 * rng.random() ** 1.5)
        found = []
        for _ in range(6):
            image = self.ring[int(rng.integers(len(self.ring)))]
            top, left = (int(i) for i in rng.integers(SIZE - side + 1, size=2))
            square = image[top : top + side, left : left + side]
            found.append((unevenness(square), square, unlike(square, image[::4, ::4])))
        found.sort(key=lambda item: item[0])
        return max(found[:2], key=lambda item: item[2])[1] if rare else found[0][1]


def one_look(piece: Piece, other: Piece) -> bool:
    """Say whether two pieces are so alike that no seam between them should be learned."""
    if piece.token is None or other.token is None:
        return False
    return float(piece.token @ other.token) > SAME


def unlike(piece: np.ndarray, other: np.ndarray) -> float:
    """Say how far apart two pieces' colours are, marks that are dark or pale aside."""
    colours = []
    for square in (piece[::2, ::2], other[::2, ::2]):
        weight = np.ptp(square, axis=2, keepdims=True) ** 2 + 1e-4
        colours.append((square * weight).sum((0, 1)) / weight.sum())
    return float(np.abs(colours[0] - colours[1]).sum())


def disagreement(tokens: np.ndarray) -> float:
    """Say how far the strangest of unit tokens (h, w, C) is from the others' mean: 1 - cosine."""
    mean = tokens.mean((0, 1))
    return float(1 - (tokens @ mean).min() / max(np.linalg.norm(mean), 1e-6))


def unevenness(square: np.ndarray) -> float:
    """Say how much the quarters of a square (p, p, 3) differ in colour and contrast.

    In units of what differs by chance in a texture whose grains are some pixels wide.
    """
    half = len(square) // 2
    quarters = square.reshape(2, half, 2, half, 3).swapaxes(1, 2).reshape(4, half * half, 3)
    mean, spread = quarters.mean(1), quarters.std(1)
    chance = 0.02 + spread.mean() * 4 / half
    return float((np.ptp(mean, axis=0).max() + np.ptp(spread, axis=0).max()) / chance)


def draw_shape(rng: np.random.Generator, side: int) -> np.ndarray:
    """Draw the cover (side, side), 0 ... 1, of a blob, a polygon, a band or a ring."""
    radius = rng.uniform(8, 26)
    centre = rng.uniform(-0.1, 1.1, 2) * side
    y = np.arange(side, dtype=np.float32)[:, None] - np.float32(centre[0])
    x = np.arange(side, dtype=np.float32)[None] - np.float32(centre[1])
    kind = rng.random()
    if kind < 0.4:  # a blob
        angle, reach = np.arctan2(y, x), np.float32(radius)
        for waves in range(2, 7):
            swing = np.float32(rng.normal() * 0.35 / waves)
            reach = reach + radius * swing * np.cos(waves * angle + np.float32(rng.uniform(0, 6.3)))
        inside = reach - np.hypot(y, x)
    elif kind < 0.75:  # a polygon
        corners = int(rng.integers(3, 6))
        turns = rng.uniform(0, 6.3) + 2 * np.pi / corners * (
            np.arange(corners) + rng.uniform(-0.2, 0.2, corners)
        )
        far = radius * rng.uniform(0.4, 0.9, corners)
        sides = [
            np.float32(f) - np.float32(np.cos(t)) * x - np.float32(np.sin(t)) * y
            for t, f in zip(turns, far, strict=True)
        ]
        inside = np.minimum.reduce(sides)
    elif kind < 0.88:  # a ring
        inside = np.float32(radius * rng.uniform(0.15, 0.35)) - np.abs(
            np.hypot(y, x) - np.float32(0.75 * radius)
        )
    else:  # a wavy shore
        turn = rng.uniform(0, 6.3)
        across, along = (
            np.float32(np.cos(turn)) * x + np.float32(np.sin(turn)) * y,
            np.float32(np.cos(turn)) * y - np.float32(np.sin(turn)) * x,
        )
        inside = across + 3 * np.sin(along * np.float32(rng.uniform(0.05, 0.2)))
    return np.clip(inside + 0.5, 0, 1).astype(np.float32)
