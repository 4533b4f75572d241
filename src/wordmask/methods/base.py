"""What every method is: a frozen set of options, what it needs of the tower, features, scores."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from wordmask.encoding import DenseFeatures, Encoding
from wordmask.options import create, parse_assignment
from wordmask.preprocessing import Preprocessing
from wordmask.scoring import Rule, SoftmaxRule
from wordmask.text_queries import TextQueries
from wordmask.towers.auxiliary import Networks
from wordmask.towers.clip import ClipTower, Need, Trace
from wordmask.towers.text import TextTower

METHODS: dict[str, type[Method]] = {}


@dataclass(frozen=True)
class Towers:
    """The frozen networks that a method may use: CLIP's two halves, and auxiliary models."""

    clip: ClipTower
    text: TextTower | None
    networks: Networks


@dataclass(frozen=True)
class Method(Preprocessing):
    """A training-free method. Its fields are its options; a subclass is one paper.

    Common options beside those of `Preprocessing`, all of which a subclass or a variant may change:

    Args:
        templates: prompt templates: "openai", "cliper", "maskclip", "single", a file, or a tuple.
        pooling: several names of a class: "max" of their probabilities after the softmax over all
            names, or "mean" of their embeddings.
        logit_scale: what cosines are multiplied by before the softmax.
        area_threshold: a class with at most this share of all labelled pixels is dropped (SCLIP).
        min_max: stretch each name's map to [0, 1] before the argmax (GEM).
    """

    year: ClassVar[int]
    class_maps: ClassVar[bool] = False  # scores are maps of classes and not cosines of names
    # options that only `scores` and `rule` read: encodings that differ in these alone are the same
    scoring: ClassVar[frozenset[str]] = frozenset(
        {"templates", "pooling", "logit_scale", "area_threshold", "min_max"}
    )

    templates: str | tuple[str, ...] = "openai"
    pooling: Literal["max", "mean"] = "max"
    logit_scale: float = 40.0
    area_threshold: float = 0.0
    min_max: bool = False

    def encoding_key(self) -> Hashable:
        """What an encoding depends on; equal keys give equal encodings of a picture."""
        options = self.options().items()
        return self.name, tuple((key, value) for key, value in options if key not in self.scoring)

    # -- what a method defines ------------------------------------------------------------------

    def need(self, depth: int) -> Need:
        """What the method reads from a tower of `depth` blocks."""
        raise TypeError(f"{type(self).__name__} does not say what it needs")

    def features(self, tower: ClipTower, trace: Trace) -> DenseFeatures:
        """Turn what the tower left behind into dense features."""
        raise TypeError(f"{type(self).__name__} makes no features")

    def mixing_map(self, tower: ClipTower, trace: Trace) -> Tensor:
        """The map that the last block mixes tokens with, (B, M or 1, T, T), for pictures of it."""
        raise TypeError(f"{type(self).__name__} shows no attention")

    # -- what all share -------------------------------------------------------------------------

    def encode(self, towers: Towers, pixels: Tensor) -> DenseFeatures:
        """Features of normalised pixels (B, 3, H, W)."""
        return self.features(towers.clip, self.trace(towers, pixels, self.need(towers.clip.depth)))

    def trace(self, towers: Towers, pixels: Tensor, need: Need) -> Trace:
        """One pass over pixels (B, 3, H, W); a method may add what an auxiliary model gives."""
        return towers.clip.trace(pixels, need, self.position)

    def scores(self, towers: Towers, encoding: Encoding, texts: TextQueries) -> Tensor:
        """Cosine of every patch feature with every text, (B, Q, h, w).

        A method with `class_maps` returns maps of the classes (B, C, h, w), at least 0.
        """
        return cosine(encoding.features, texts.embeddings)

    def rule(self, encoding: Encoding, i: int) -> Rule:
        """How scores of picture i of an encoding become labels."""
        return SoftmaxRule(self.logit_scale, self.area_threshold, self.min_max)

    def feature_sets(self, dense: DenseFeatures) -> Tensor | None:
        """Several sets of features (S, B, E, h, w), to be drawn; None where there is one."""
        return None


def register(method: type[Method]) -> type[Method]:
    """Make a method known by its name."""
    METHODS[method.name] = method
    return method


def create_method(
    name: str, variant: str | None = None, options: dict[str, Any] | None = None
) -> tuple[Method, str]:
    """Build a method from its name, a variant and options; returns it with the variant's name.

    Raises:
        WordmaskError: unknown method, variant or option, or a value of the wrong type.
    """
    return create("method", METHODS, name, variant, options)


def parse_option(method: str, text: str) -> tuple[str, Any]:
    """Read `option=value` from a command line into a value of the option's type."""
    return parse_assignment("method", METHODS, method, text)


# -- steps that several papers share ------------------------------------------------------------


def to_grid(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens (..., T, E), patches last, as patch features (..., E, h, w)."""
    h, w = grid
    return tokens[..., -h * w :, :].transpose(-1, -2).unflatten(-1, grid)


def cosine(features: Tensor, texts: Tensor) -> Tensor:
    """Cosine of features (..., E, h, w) with unit rows (Q, E), as (..., Q, h, w)."""
    grid = features.shape[-2:]
    unit = F.normalize(features.flatten(-2), dim=-2)  # (..., E, h*w)
    return (texts @ unit).unflatten(-1, grid)


def finish_block(
    tower: ClipTower, trace: Trace, attended: Tensor, *, residual: bool, ffn: bool
) -> Tensor:
    """The rest of the last block after its attention, with or without its residual and FFN.

    attended (B, M, T, d) -> tokens (B, T, D). Without the residual the FFN, where kept, reads the
    attention output alone (ClearCLIP's ablation).
    """
    n = tower.depth
    block = tower.block(n)
    x = block.output(attended)
    if residual:
        x = x + trace.states[n - 1]
    return x + block.feed_forward(x) if ffn else x
