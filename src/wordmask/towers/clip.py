"""The vision tower: access to the inside of CLIP's image encoder without changing it.

For BLIP, SigLIP and TIPSv2, which have the same parts under other names, see blip.py, siglip.py and
tips.py.

Blocks are counted from 1, as in the papers: F^0 is the embedding after the first layer norm, F^n
the output of block n, N the number of blocks. A method states what it needs (`Need`), one forward
pass records it (`Trace`), and the method finishes the last block itself with the modules of
`ClipTower.block(n)`.

Shapes: B pictures, T = 1 + h*w tokens (the class token first, then patches row by row; SigLIP has
no class token, T = h*w, and TIPSv2 a register behind it, T = 2 + h*w), D width, M heads, d = D / M,
E joint text-image width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling

from wordmask.errors import WordmaskError, unknown

PositionMode = Literal[
    "bicubic_offset", "bicubic", "bicubic_antialias", "bilinear", "bilinear_antialias"
]
POSITION_MODES = get_args(PositionMode)
ACTIVATIONS = ("checkpoint", "gelu", "quick_gelu")
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Need:
    """What a method needs of a forward pass. Needs of several methods can be joined with `|`.

    Args:
        states: numbers n of blocks, for the token states F^n (0 is the embedding).
        projections: pairs (n, letter), letter in "qkv": queries, keys, values of block n.
        attention: numbers of blocks, for their softmaxed attention maps.
        attention_sum: numbers of blocks, for the sum of their attention maps.
    """

    states: frozenset[int] = frozenset()
    projections: frozenset[tuple[int, str]] = frozenset()
    attention: frozenset[int] = frozenset()
    attention_sum: frozenset[int] = frozenset()

    @classmethod
    def of(
        cls,
        states: Iterable[int] = (),
        projections: dict[int, str] | None = None,
        attention: Iterable[int] = (),
        attention_sum: Iterable[int] = (),
    ) -> Need:
        """Build a need from plain collections."""
        letters = {(n, x) for n, text in (projections or {}).items() for x in text}
        return cls(
            frozenset(states), frozenset(letters), frozenset(attention), frozenset(attention_sum)
        )

    def __or__(self, other: Need) -> Need:
        if self.attention_sum and other.attention_sum and self.attention_sum != other.attention_sum:
            raise WordmaskError(
                "two methods sum attention over different blocks; run them separately"
            )
        return Need(
            self.states | other.states,
            self.projections | other.projections,
            self.attention | other.attention,
            self.attention_sum | other.attention_sum,
        )

    @property
    def last_state(self) -> int:
        """The last block with an output that is needed."""
        before = {n - 1 for n, _ in self.projections} | {n - 1 for n in self._maps}
        return max(self.states | before, default=0)

    @property
    def last_block(self) -> int:
        """The last block of which anything is needed."""
        return max({n for n, _ in self.projections} | self._maps | {self.last_state}, default=0)

    def maps_held(self, heads: int) -> int:
        """How many maps from tokens to tokens its trace holds."""
        return heads * (len(self.attention) + bool(self.attention_sum))

    @property
    def _maps(self) -> frozenset[int]:
        return self.attention | self.attention_sum

    def sources(self, depth: int) -> frozenset[int]:
        """The states from which `ClipTower.retrace` makes all of it: none after the last block."""
        inside = {n - 1 for n in self._maps} | {n - 1 for n, _ in self.projections}
        return frozenset(min(n, depth - 1) for n in self.states | inside)

    def inside(self, n: int) -> Need | None:
        """What is needed of the inside of block n; None if nothing is."""
        one = frozenset([n])
        projections = frozenset(pair for pair in self.projections if pair[0] == n)
        if not (projections or n in self._maps):
            return None
        return Need(frozenset(), projections, self.attention & one, self.attention_sum & one)

    def letters(self, n: int) -> str:
        """The projections of block n that are needed, in the order q, k, v."""
        return "".join(x for x in "qkv" if (n, x) in self.projections)


@dataclass
class Trace:
    """The record of one forward pass: exactly what was needed, by block number."""

    grid: tuple[int, int]  # h, w
    states: dict[int, Tensor] = field(default_factory=dict)  # (B, T, D)
    queries: dict[int, Tensor] = field(default_factory=dict)  # (B, M, T, d)
    keys: dict[int, Tensor] = field(default_factory=dict)  # (B, M, T, d)
    values: dict[int, Tensor] = field(default_factory=dict)  # (B, M, T, d)
    attention: dict[int, Tensor] = field(default_factory=dict)  # (B, M, T, T), rows sum to 1
    attention_sum: Tensor | None = None  # (B, M, T, T)
    auxiliary: Tensor | None = None  # (B, D', h', w'): features of an auxiliary model
    regions: Tensor | None = None  # (B, H, W): region maps of the pixels


class Block:
    """One transformer block with the papers' names. Every call goes through its own modules."""

    attention_name: ClassVar[str] = "self_attn"
    output_name: ClassVar[str] = "out_proj"
    norm_names: ClassVar[tuple[str, str]] = ("layer_norm1", "layer_norm2")

    def __init__(self, layer: nn.Module, heads: int, activation: str, norm_eps: float | None):
        self.layer: Any = layer
        self.heads = heads
        self.activation = activation
        self.norm_eps = norm_eps
        self._check()

    def _check(self) -> None:
        names = "q_proj", "k_proj", "v_proj", self.output_name
        if not all(hasattr(self._attention, name) for name in names):
            raise WordmaskError(
                f"got an attention module {type(self._attention).__name__} without q_proj, k_proj, "
                f"v_proj and {self.output_name}; wordmask reads blocks through these"
            )

    @property
    def _attention(self) -> Any:
        return getattr(self.layer, self.attention_name)

    def _norm(self, norm: nn.Module, x: Tensor) -> Tensor:
        if self.norm_eps is None or not isinstance(norm, nn.LayerNorm):
            return norm(x)
        return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, self.norm_eps)

    def norm1(self, x: Tensor) -> Tensor:
        """The layer norm before attention, (B, T, D)."""
        return self._norm(getattr(self.layer, self.norm_names[0]), x)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def queries(self, z: Tensor) -> Tensor:
        """Q of the normed tokens z (B, T, D), as (B, M, T, d)."""
        return self._heads(self._attention.q_proj(z))

    def keys(self, z: Tensor) -> Tensor:
        """K of the normed tokens z (B, T, D), as (B, M, T, d)."""
        return self._heads(self._attention.k_proj(z))

    def values(self, z: Tensor) -> Tensor:
        """V of the normed tokens z (B, T, D), as (B, M, T, d)."""
        return self._heads(self._attention.v_proj(z))

    def output(self, o: Tensor) -> Tensor:
        """Join the heads of o (B, M, T, d) and apply the output projection, (B, T, D)."""
        return getattr(self._attention, self.output_name)(o.transpose(1, 2).flatten(2))

    def feed_forward(self, x: Tensor) -> Tensor:
        """FFN(LN(x)) without the residual, (B, T, D)."""
        z = self._norm(getattr(self.layer, self.norm_names[1]), x)
        mlp = self.layer.mlp
        if self.activation == "checkpoint":
            return mlp(z)
        if not hasattr(mlp, "fc1"):
            raise WordmaskError(
                f"got activation={self.activation!r} for a network with gated feed-forward layers "
                f"({type(mlp).__name__}); leave it at 'checkpoint'"
            )
        y = mlp.fc1(z)
        y = F.gelu(y) if self.activation == "gelu" else y * torch.sigmoid(1.702 * y)
        return mlp.fc2(y)


class ClipTower:
    """The image encoder of a transformers CLIP; subclasses read those of other families.

    Args:
        model: a `CLIPModel` or `CLIPVisionModelWithProjection`; used through its own modules, never
            changed.
        activation: "checkpoint" (that of its configuration), or "gelu" / "quick_gelu" for a method
            that replaces it.
        norm_eps: epsilon of the blocks' layer norms, if a method changes it.
        mean, std: normalisation of pictures; None takes that of the family's training.
    """

    default_mean: ClassVar[tuple[float, ...]] = CLIP_MEAN
    default_std: ClassVar[tuple[float, ...]] = CLIP_STD
    block_type: ClassVar[type[Block]] = Block
    layers_are_fused: ClassVar[bool] = True  # transformers' own layers never form an attention map
    class_tokens: int = 1  # those before the patches; registers count
    parts: ClassVar[tuple[str, ...]] = ("vision_model", "visual_projection")
    expected: ClassVar[str] = (
        "a CLIPModel, a CLIPVisionModelWithProjection, a hub id or a local folder"
    )

    def __init__(
        self,
        model: nn.Module,
        *,
        activation: str = "checkpoint",
        norm_eps: float | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ):
        if activation not in ACTIVATIONS:
            raise unknown("activation", activation, ACTIVATIONS)
        if not all(_has(model, part) for part in self.parts):
            raise WordmaskError(f"got {type(model).__name__} as the model; give {self.expected}")
        self.model: Any = model
        self.activation = activation
        self.norm_eps = norm_eps
        self.mean = mean or self.default_mean
        self.std = std or self.default_std
        self.fused = True  # False forms every attention map: the reference of the tests
        config = self.vision.config
        self.patch: int = config.patch_size
        self.heads: int = config.num_attention_heads

    def with_settings(self, activation: str, norm_eps: float | None) -> ClipTower:
        """The same network with another activation or layer norm epsilon."""
        return type(self)(
            self.model, activation=activation, norm_eps=norm_eps, mean=self.mean, std=self.std
        )

    @property
    def vision(self) -> Any:
        """The vision transformer."""
        return self.model.vision_model

    @property
    def depth(self) -> int:
        """N, the number of blocks."""
        return len(self._layers)

    @property
    def _layers(self) -> Any:
        return self.vision.encoder.layers

    @property
    def _stem(self) -> Any:
        """The convolution that makes patches."""
        return self.vision.embeddings.patch_embedding

    @property
    def width(self) -> int:
        """E, the width of the joint space."""
        return self.model.config.projection_dim

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self._stem.weight.dtype

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self._stem.weight.device

    def block(self, n: int) -> Block:
        """Block n, counted from 1."""
        layer = self._layers[n - 1]
        return self.block_type(layer, self.heads, self.activation, self.norm_eps)

    def require_class_token(self, who: str) -> None:
        """Raise WordmaskError if there is no class token, which `who` needs."""
        if not self.class_tokens:
            raise WordmaskError(
                f"{who} needs a class token, and {type(self.model).__name__} has none; choose "
                "another method or a CLIP"
            )

    # -- attention ------------------------------------------------------------------------------

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None = None, scale: Any = None
    ) -> Tensor:
        """softmax(scale * q k^T + bias) v, without forming the map.

        q, k, v are (B, M, T, d); bias broadcasts to (B, M, T, T); scale is d^-1/2 by default, a
        number or a tensor that broadcasts against q.
        """
        if not self.fused:
            return self.attention_map(q, k, bias=bias, scale=scale) @ v
        if isinstance(scale, Tensor) and scale.numel() == 1 and scale.device.type == "cpu":
            scale = scale.item()
        elif isinstance(scale, Tensor):
            q, scale = q * scale, 1.0
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)

    def attend_sum(
        self, streams: Sequence[Tensor], v: Tensor, *, scale: float | Tensor | None = None
    ) -> Tensor:
        """(sum over s of softmax(scale * s s^T)) v for streams s, all (B, M, T, d).

        On a CPU the maps are summed head by head, in the CPU's cache, and multiplied by v once.
        """
        if not self.fused or v.device.type != "cpu" or is_compiling():
            return torch.stack([self.attend(s, s, v, scale=scale) for s in streams]).sum(0)
        scale = v.shape[-1] ** -0.5 if scale is None else scale
        scaled = [s * scale for s in streams]
        out = torch.empty_like(v)
        for b in range(v.shape[0]):
            for m in range(v.shape[1]):
                pairs = zip(streams, scaled, strict=True)
                maps = [torch.softmax(t[b, m] @ s[b, m].T, dim=-1) for s, t in pairs]
                out[b, m] = sum(maps[1:], maps[0]) @ v[b, m]
        return out

    @staticmethod
    def attention_map(
        q: Tensor, k: Tensor, *, bias: Tensor | None = None, scale: Any = None
    ) -> Tensor:
        """softmax(scale * q k^T + bias), (B, M, T, T): the map that `attend` never forms."""
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        logits = (q * scale) @ k.transpose(-2, -1)
        return torch.softmax(logits if bias is None else logits + bias, dim=-1)

    def _attend_and_add(self, q: Tensor, k: Tensor, v: Tensor, total: Tensor) -> Tensor:
        """Explicit attention whose maps are added to `total`; returns the attended values."""
        if is_compiling():  # a graph takes any number of pictures, so it has no loop over them
            attention = self.attention_map(q, k)
            total += attention
            return attention @ v
        heads = 1 if q.device.type == "cpu" else q.shape[1]  # one head's map stays in the cache
        out = torch.empty_like(q)
        q = q * q.shape[-1] ** -0.5
        for b in range(q.shape[0]):
            for m in range(0, q.shape[1], heads):
                here = b, slice(m, m + heads)
                logits = q[here] @ k[here].transpose(-2, -1)
                attention = torch.softmax(logits, dim=-1, dtype=total.dtype)
                total[here] += attention
                out[here] = attention.to(v.dtype) @ v[here]
        return out

    # -- the pass -------------------------------------------------------------------------------

    @torch.no_grad()
    def trace(self, pixels: Tensor, need: Need, position: str = "bicubic_offset") -> Trace:
        """Run the tower up to the last block that `need` includes.

        Args:
            pixels: (B, 3, H, W) float, normalised; pixels beyond whole patches are dropped.
            need: what to record. Blocks of which nothing inside is needed run fused, as they are.
            position: how the position embedding is resized, see `position_embedding`.
        """
        if need.last_block > self.depth:
            raise WordmaskError(
                f"got block {need.last_block} for a CLIP with {self.depth} blocks; give a lower one"
            )
        h, w = pixels.shape[-2] // self.patch, pixels.shape[-1] // self.patch
        if h < 1 or w < 1:
            raise WordmaskError(
                f"got pixels of {tuple(pixels.shape[-2:])}; at least one patch of "
                f"{self.patch} x {self.patch} is needed"
            )
        trace = Trace((h, w))
        x = self.embed(pixels, position)
        if 0 in need.states:
            trace.states[0] = x
        for n in range(1, need.last_block + 1):
            x = self._step(n, x, need, trace)
            if n in need.states:
                trace.states[n] = x
        return trace

    def retrace(self, states: Mapping[int, Tensor], grid: tuple[int, int], need: Need) -> Trace:
        """A `trace` from states F^n that were kept, without a pass.

        states: (B, T, D) by number, those of `need.sources(depth)`; of the blocks themselves, at
            most the last is run.
        """
        last = self.depth
        trace = Trace(grid, {n: states[n] for n in sorted(need.states) if n != last})
        for n in range(1, last + 1):
            if inside := need.inside(n):
                self._step(n, states[n - 1], inside, trace)
        if last in need.states:
            trace.states[last] = self._step(last, states[last - 1], Need.of([last]), trace)
        return trace

    def _step(self, n: int, x: Tensor, need: Need, trace: Trace) -> Tensor:
        mapped = n in need.attention or n in need.attention_sum
        letters = need.letters(n)
        go_on = n <= need.last_state
        as_is = self.fused and self.activation == "checkpoint" and self.norm_eps is None
        as_is = as_is and self.layers_are_fused
        if not mapped and not letters and as_is:
            return self._layers[n - 1](x, attention_mask=None)
        block = self.block(n)
        z = block.norm1(x)
        q = block.queries(z) if go_on or mapped or "q" in letters else None
        k = block.keys(z) if go_on or mapped or "k" in letters else None
        v = block.values(z) if go_on or "v" in letters else None
        for letter, store, value in zip(
            "qkv", (trace.queries, trace.keys, trace.values), (q, k, v), strict=True
        ):
            if letter in letters and value is not None:
                store[n] = value
        out = None
        if n in need.attention and q is not None and k is not None:
            trace.attention[n] = self.attention_map(q, k)
        if n in need.attention_sum and q is not None and k is not None:
            if trace.attention_sum is None:
                b, m, t, _ = q.shape
                trace.attention_sum = q.new_zeros(b, m, t, t, dtype=torch.float32)
            out = self._attend_and_add(q, k, q if v is None else v, trace.attention_sum)
        if not go_on or q is None or k is None or v is None:
            return x
        if out is None:
            out = trace.attention[n] @ v if n in trace.attention else self.attend(q, k, v)
        x = x + block.output(out)
        return x + block.feed_forward(x)

    def embed(self, pixels: Tensor, position: str = "bicubic_offset") -> Tensor:
        """F^0: patches, class token, position embedding, first layer norm; (B, T, D)."""
        patches = self._stem(pixels.to(self.device, self.dtype))
        h, w = patches.shape[-2:]  # of (B, D, h, w)
        tokens = self._add_class_token(patches.flatten(2).transpose(1, 2))
        return self._first_norm(tokens + position_embedding(self._positions(), (h, w), position))

    def _add_class_token(self, patches: Tensor) -> Tensor:
        """Patches (B, h*w, D) to tokens (B, T, D)."""
        cls = self.vision.embeddings.class_embedding.expand(patches.shape[0], 1, -1)
        return torch.cat([cls.to(patches.dtype), patches], dim=1)

    def _positions(self) -> Tensor:
        """The stored position embedding of the native grid, (T, D)."""
        return self.vision.embeddings.position_embedding.weight

    def _first_norm(self, x: Tensor) -> Tensor:
        """The layer norm before the first block."""
        return self.vision.pre_layrnorm(x)

    def project(self, x: Tensor) -> Tensor:
        """Last layer norm and projection of tokens (..., D) to (..., E), as float32."""
        return self.model.visual_projection(self.vision.post_layernorm(x)).float()

    def pool(self, x: Tensor) -> Tensor:
        """The whole picture's embedding from the last tokens F^N (B, T, D): (B, E), float32."""
        return self.project(x[:, 0])


def _has(module: Any, path: str) -> bool:
    for name in path.split("."):
        module = getattr(module, name, None)
    return module is not None


def position_embedding(table: Tensor, grid: tuple[int, int], mode: str) -> Tensor:
    """The position embedding for another grid, (1 + h*w, D), class token first.

    Args:
        table: the stored (1 + n*n, D) embedding of the native n x n grid; (n*n, D) gives (h*w, D).
        grid: h, w.
        mode: "bicubic_offset" (by the scale factor (h + 0.1) / n: the SCLIP family),
            "bicubic" (by size: MaskCLIP), "bicubic_antialias" (GEM), "bilinear" (CLIPer,
            CLIP Surgery), "bilinear_antialias" (TIPSv2). Corners are never aligned; the native
            grid is returned as it is.
    """
    if mode not in POSITION_MODES:
        raise unknown("position embedding mode", mode, POSITION_MODES)
    n = math.isqrt(len(table))
    first = len(table) - n * n  # 1 with a class token, else 0
    h, w = grid
    patches = table[first:].float().unflatten(0, (n, n)).permute(2, 0, 1)[None]  # (1, D, n, n)
    if is_compiling():  # of any grid, also the native one: no branch of a graph may depend on it
        native = ((h * torch.ones(()) == n) & (w * torch.ones(()) == n)).float()
        rows, columns = (_weights(side, n, mode, native).to(table.device) for side in grid)
        patches = rows @ patches @ columns.T
    elif (h, w) == (n, n):
        return table
    elif mode == "bicubic_offset":
        scale = ((h + 0.1) / n, (w + 0.1) / n)
        patches = F.interpolate(patches, scale_factor=scale, mode="bicubic")
    else:
        patches = F.interpolate(
            patches,
            size=(h, w),
            mode=mode.removesuffix("_antialias"),
            antialias=mode.endswith("_antialias"),
        )
    patches = patches[0].permute(1, 2, 0).flatten(0, 1)  # (h*w, D)
    return torch.cat([table[:first], patches.to(table.dtype)])


def _weights(side: int, n: int, mode: str, native: Tensor) -> Tensor:
    """The weights (side, n) with which `F.interpolate` mixes n values into `side` of them.

    native: 1.0 if the grid is the stored one, which is never mixed; else 0.0.
    """
    offset = 0.1 * (1 - native) if mode == "bicubic_offset" else 0.0
    scale = n / (side * torch.ones(()) + offset)
    at = (torch.arange(side)[:, None] + 0.5) * scale - 0.5  # (side, 1)
    linear = mode.startswith("bilinear")
    if mode.endswith("_antialias"):
        distance = (torch.arange(n) - at) / scale.clamp_min(1)
        weights = _tent(distance) if linear else _cubic(distance, -0.5)
        return weights / weights.sum(1, keepdim=True)
    if linear:
        at = at.clamp_min(0)
    taps = torch.arange(2) if linear else torch.arange(-1, 3)
    near = at.floor() + taps  # (side, taps)
    part = _tent(near - at) if linear else _cubic(near - at, -0.75)
    chosen = near.clamp(0, n - 1)[..., None] == torch.arange(n)
    return (part[..., None] * chosen).sum(1)


def _tent(x: Tensor) -> Tensor:
    """The kernel of linear interpolation."""
    return (1 - x.abs()).clamp_min(0)


def _cubic(x: Tensor, a: float) -> Tensor:
    """Keys' cubic kernel with the parameter a."""
    x = x.abs().clamp_max(2)
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    return torch.where(x <= 1, inner, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a)
