"""What every method is: a frozen set of options, what it needs of the tower, features, scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from wordmask.encoding import Encoding, Queries
from wordmask.errors import WordmaskError
from wordmask.options import Options, check_class, create, parse_assignment, variant_of
from wordmask.registry import Registry, split_variant
from wordmask.towers.auxiliary import Networks
from wordmask.towers.clip import ClipTower, Need, Trace
from wordmask.towers.text import TextTower
from wordmask.vocabulary import Vocabulary


@dataclass(frozen=True)
class Method(Options):
    """A training-free method. Its fields are its options; a subclass is one paper.

    Common options, all of which a subclass or a variant may change:

    Args:
        short_side: the picture's short side in pixels; None keeps its size.
        long_side: limit of the long side in pixels.
        resample: "pil-bicubic", "pil-bilinear" (both antialiased) or "cv2-bilinear".
        whole_patches: round both sides to whole patches when resizing.
        remainder: what happens to pixels beyond whole patches: "drop" them and stretch the map, or
            "pad" with zeros around the picture and cut the pad off the map.
        position: how the position embedding is resized, see `towers.clip.position_embedding`.
        activation: "checkpoint", or "gelu" / "quick_gelu" to run the weights with another one.
        norm_eps: epsilon of the blocks' layer norms; None leaves them as they are.
        mean, std: normalisation; None takes what the checkpoint states, else CLIP's.
        window, stride: sliding windows in pixels; window 0 takes the picture whole.
        templates: prompt templates: "openai", "cliper", "maskclip", "single", a file, or a tuple.
        pooling: several names of a class: "max" of their probabilities after the softmax over all
            names, or "mean" of their embeddings.
        logit_scale: what cosines are multiplied by before the softmax.
        area_threshold: a class with at most this share of all labelled pixels is dropped (SCLIP).
        min_max: stretch each name's map to [0, 1] before the argmax (GEM).
    """

    year: ClassVar[int]
    decision: ClassVar[Literal["softmax", "presence", "paint"]] = "softmax"  # see decide.py
    own_windows: ClassVar[bool] = False  # the method's `encode` slides windows itself
    # options that only scores and labels read: encodings that differ in these alone are the same
    scoring: ClassVar[frozenset[str]] = frozenset(
        {"templates", "pooling", "logit_scale", "area_threshold", "min_max"}
    )

    short_side: int | None = 336
    long_side: int = 2048
    resample: Literal["pil-bicubic", "pil-bilinear", "cv2-bilinear"] = "cv2-bilinear"
    whole_patches: bool = False
    remainder: Literal["drop", "pad"] = "drop"
    position: Literal["bicubic_offset", "bicubic", "bicubic_antialias", "bilinear"] = (
        "bicubic_offset"
    )
    activation: Literal["checkpoint", "gelu", "quick_gelu"] = "checkpoint"
    norm_eps: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    window: int = 0
    stride: int = 112
    templates: str | tuple[str, ...] = "openai"
    pooling: Literal["max", "mean"] = "max"
    logit_scale: float = 40.0
    area_threshold: float = 0.0
    min_max: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        sides = [self.stride, self.long_side]
        sides += [] if self.short_side is None else [self.short_side]
        if self.window < 0 or min(sides) < 1:
            raise WordmaskError(
                f"got window={self.window}, stride={self.stride}, short_side={self.short_side}, "
                f"long_side={self.long_side}; sizes are pixels above 0 (window 0: whole picture)"
            )

    @property
    def wants_empty_text(self) -> bool:
        """Whether scores compare with the embedding of the empty name."""
        return False

    def classifier_texts(
        self, vocabulary: Vocabulary, text: TextTower | None, networks: Networks
    ) -> Tensor | None:
        """Texts of the classes (C, E') for a method that classifies pictures of its own (CaR)."""
        return None

    # -- what a method defines ------------------------------------------------------------------

    def need(self, depth: int) -> Need:
        """What the method reads from a tower of `depth` blocks."""
        raise TypeError(f"{type(self).__name__} does not say what it needs")

    def features(self, tower: ClipTower, trace: Trace) -> Encoding:
        """Turn what the tower left behind into dense features."""
        raise TypeError(f"{type(self).__name__} makes no features")

    def mixing_map(self, tower: ClipTower, trace: Trace) -> Tensor:
        """The map that the last block mixes tokens with, (B, M or 1, T, T), for pictures of it."""
        raise TypeError(f"{type(self).__name__} shows no attention")

    # -- what all share -------------------------------------------------------------------------

    def encode(self, tower: ClipTower, pixels: Tensor, networks: Networks) -> Encoding:
        """Features of normalised pixels (B, 3, H, W).

        networks: those beside CLIP, for a method that names one in `network`.
        """
        return self.features(tower, self.trace(tower, pixels, self.need(tower.depth), networks))

    def trace(self, tower: ClipTower, pixels: Tensor, need: Need, networks: Networks) -> Trace:
        """One pass over pixels (B, 3, H, W), and what a network beside CLIP sees in them."""
        return tower.trace(pixels, need, self.position)

    def scores(self, encoding: Encoding, queries: Queries) -> Tensor:
        """Cosine of every patch feature with every query, (B, Q, h, w)."""
        return cosine(encoding.features, queries.embeddings)


METHODS: Registry[type[Method]] = Registry(
    "method", "wordmask.methods", partial(check_class, Method)
)
register = METHODS.register


def create_method(
    given: str | type[Method],
    variant: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[Method, str]:
    """Build a method from its name, `FILE.py:NAME` or class, a variant and options.

    Returns it with the variant's name.

    Raises:
        WordmaskError: unknown method, variant or option, or a value of the wrong type.
    """
    return create(METHODS, given, variant, options)


def read_method(
    given: str | type[Method] | Method,
    variant: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[Method, str]:
    """A method and its variant's name, from all that a person may give.

    Args:
        given: a name or `FILE.py:NAME`, each with or without `:VARIANT`, a class, or a method.
        variant: where it is not in `given`; None takes the first.
        options: over those of the variant.

    Raises:
        WordmaskError: unknown method, variant or option; a variant twice; or a variant or options
            with a method that has its own.
    """
    if isinstance(given, str):
        given, own = split_variant(given)
        if own is not None and variant is not None:
            raise WordmaskError(f"got the variants {own!r} and {variant!r} of {given}; give one")
        return create_method(given, own if variant is None else variant, options)
    if not isinstance(given, Method):
        return create_method(given, variant, options)
    if options or variant is not None:
        raise WordmaskError(
            f"got a variant or options with a method {type(given).__name__}(...), which has its "
            "own; give its class or name with them"
        )
    METHODS.resolve(type(given))
    return given, variant_of(given)


def parse_option(method: str | type[Method], text: str) -> tuple[str, Any]:
    """Read `option=value` from a command line into a value of the option's type."""
    return parse_assignment(METHODS, method, text)


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
