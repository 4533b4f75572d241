"""The base of all methods: options, what is needed of the tower, features, scores."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from wordmask.encoding import DenseFeatures, Encoding
from wordmask.errors import WordmaskError
from wordmask.options import check_class, create, parse_assignment, variant_of
from wordmask.preprocessing import Preprocessing
from wordmask.registry import Registry, split_variant
from wordmask.scoring import Rule, SoftmaxRule
from wordmask.text_queries import TextQueries
from wordmask.towers.auxiliary import AuxiliaryModels
from wordmask.towers.clip import ClipTower, Need, Trace
from wordmask.towers.text import TextTower
from wordmask.windows import ScoreMap


@dataclass(frozen=True)
class Towers:
    """The frozen networks that a method may use: CLIP's two towers, and auxiliary models."""

    clip: ClipTower
    text: TextTower | None
    networks: AuxiliaryModels


@dataclass(frozen=True)
class Method(Preprocessing):
    """A training-free method. Its fields are its options; a subclass is one paper.

    Common options besides those of `Preprocessing`; a subclass or a variant may change all of them:

    Args:
        templates: prompt templates: "openai", "cliper", "maskclip", "single", "tips", a file, or a
            tuple.
        pooling: several names of a class: "max" of their probabilities after the softmax over all
            names, or "mean" of their embeddings.
        logit_scale: factor of the cosines before the softmax.
        area_threshold: a class with at most this share of all labelled pixels is dropped (SCLIP).
        min_max: stretch each name's map to [0, 1] before the argmax (GEM).
    """

    year: ClassVar[int]
    class_maps: ClassVar[bool] = False  # scores are maps of classes and not cosines of names
    maps: ClassVar[int] = 2  # from patches to patches, held at once besides attention that is kept
    takes_regions: ClassVar[bool] = False  # `encode` takes region maps (B, H, W), also true ones
    # options that only `scores` and `rule` read: encodings do not depend on them
    scoring: ClassVar[frozenset[str]] = frozenset(
        {"templates", "pooling", "logit_scale", "area_threshold", "min_max"}
    )

    templates: str | tuple[str, ...] = "openai"
    pooling: Literal["max", "mean"] = "max"
    logit_scale: float = 40.0
    area_threshold: float = 0.0
    min_max: bool = False

    @property
    def region_source(self) -> str | None:
        """Where the region maps come from that `encode` takes, see `region_maps`; None: nowhere."""
        return None

    def encoding_key(self) -> Hashable:
        """All that an encoding depends on; equal keys give equal encodings of a picture."""
        options = self.options().items()
        return self.name, tuple((key, value) for key, value in options if key not in self.scoring)

    # -- what a method defines ------------------------------------------------------------------

    def need(self, depth: int) -> Need:
        """What the method needs of a tower of `depth` blocks."""
        raise TypeError(f"{type(self).__name__} does not implement need")

    def features(self, tower: ClipTower, trace: Trace) -> DenseFeatures:
        """Compute dense features from the recorded pass."""
        raise TypeError(f"{type(self).__name__} does not implement features")

    def mixing_map(self, tower: ClipTower, trace: Trace) -> Tensor:
        """The map with which the last block mixes tokens, (B, M or 1, T, T), for visualisation."""
        raise TypeError(f"{type(self).__name__} does not implement mixing_map")

    @property
    def gives_cosines(self) -> bool:
        """Whether scores are the cosines of the features with the texts, and nothing else."""
        return type(self).scores is Method.scores

    @property
    def unexported(self) -> str:
        """Why the method cannot be exported as a graph; "" if it can."""
        if self.networks:
            return f"it needs a second network, {' and '.join(self.networks)}"
        if type(self).whole_maps is not Method.whole_maps:
            return "what it does to the maps of whole pictures is no part of a graph"
        return ""

    # -- what all share -------------------------------------------------------------------------

    def maps_held(self, tower: ClipTower) -> int:
        """Those of every head too, if the method keeps attention."""
        return self.maps + self.need(tower.depth).maps_held(tower.heads)

    def encode(self, towers: Towers, pixels: Tensor) -> DenseFeatures:
        """Features of normalised pixels (B, 3, H, W)."""
        return self.features(towers.clip, self.trace(towers, pixels, self.need(towers.clip.depth)))

    def trace(self, towers: Towers, pixels: Tensor, need: Need) -> Trace:
        """One pass over pixels (B, 3, H, W); a method may add features of an auxiliary model."""
        return towers.clip.trace(pixels, need, self.position)

    def scores(self, towers: Towers, encoding: Encoding, texts: TextQueries) -> Tensor:
        """Cosine of every patch feature with every text, (B, Q, h, w).

        A method with `class_maps` returns maps of the classes (B, C, h, w), at least 0.
        """
        return cosine(encoding.features, texts.embeddings)

    def whole_maps(
        self, encoding: Encoding, maps: list[ScoreMap], texts: TextQueries
    ) -> list[ScoreMap]:
        """What becomes of the scores of each whole picture, over all its windows; as they are."""
        return maps

    def rule(self, encoding: Encoding, i: int) -> Rule:
        """The rule by which scores of picture i of an encoding become labels."""
        return SoftmaxRule(self.logit_scale, self.area_threshold, self.min_max)

    def feature_sets(self, dense: DenseFeatures) -> Tensor | None:
        """Several sets of features (S, B, E, h, w), for visualisation; None if there is one."""
        return None


METHODS: Registry[type[Method]] = Registry(
    "method", "wordmask.methods", partial(check_class, Method)
)
register = METHODS.register


def list_methods() -> list[str]:
    """Names of the registered methods, sorted."""
    return sorted(METHODS)


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
    """A method and its variant's name, from any form in which they are given.

    Args:
        given: a name or `FILE.py:NAME`, each with or without `:VARIANT`, a class, or a method.
        variant: if it is not in `given`; None takes the first.
        options: override those of the variant.

    Raises:
        WordmaskError: unknown method, variant or option; two variants; or a variant or options
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
    METHODS.check(type(given))
    return given, variant_of(given)


def parse_option(method: str | type[Method], text: str) -> tuple[str, Any]:
    """Read `option=value` from a command line into a value of the option's type."""
    return parse_assignment(METHODS, method, text)


# -- steps shared by several papers -------------------------------------------------------------


def to_grid(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens (..., T, E), patches last, as patch features (..., E, h, w)."""
    h, w = grid
    return tokens[..., -h * w :, :].transpose(-1, -2).unflatten(-1, grid)


def cosine(features: Tensor, texts: Tensor) -> Tensor:
    """Cosine of features (..., E, h, w) with unit rows (Q, E), as (..., Q, h, w)."""
    grid = features.shape[-2:]
    unit = F.normalize(features.flatten(-2), dim=-2)  # (..., E, h*w)
    return (texts @ unit).unflatten(-1, grid)


def last_attention(tower: ClipTower, trace: Trace) -> Tensor:
    """softmax(QK^T / sqrt d) of the last block as it is, (B, heads, T, T), from F^{N-1}."""
    block = tower.block(tower.depth)
    z = block.norm1(trace.states[tower.depth - 1])
    return tower.attention_map(block.queries(z), block.keys(z))


def patch_cosines(x: Tensor) -> Tensor:
    """Cosines between all patches x (B, L, D), (B, L, L) float32."""
    unit = F.normalize(x.float(), dim=-1)
    return unit @ unit.transpose(1, 2)


def pool_patches(x: Tensor, similarity: Tensor, least: float) -> Tensor:
    """The mean of x (B, L, D), weighted by the similarities (B, L, L) that are at least `least`."""
    weights = similarity.masked_fill(similarity < least, 0)
    pooled = weights @ x.float() / (weights.sum(-1, keepdim=True) + 1e-6)
    return pooled.to(x.dtype)


def finish_block(
    tower: ClipTower, trace: Trace, attended: Tensor, *, residual: bool, ffn: bool
) -> Tensor:
    """The rest of the last block after its attention, with or without its residual and FFN.

    attended (B, M, T, d) -> tokens (B, T, D). Without the residual the FFN, if kept, takes the
    attention output alone (ClearCLIP's ablation).
    """
    n = tower.depth
    block = tower.block(n)
    x = block.output(attended)
    if residual:
        x = x + trace.states[n - 1]
    return x + block.feed_forward(x) if ffn else x
