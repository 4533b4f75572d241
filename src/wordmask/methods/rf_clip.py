"""RF-CLIP (2025; code: liblacklucy/RF-CLIP): distraction removed from tokens and attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.encoding import DenseFeatures, Encoding
from wordmask.errors import WordmaskError
from wordmask.extras import need
from wordmask.methods.base import (
    Method,
    Towers,
    cosine,
    patch_cosines,
    pool_patches,
    register,
    to_grid,
)
from wordmask.text_queries import TextQueries
from wordmask.towers.clip import ClipTower, Need, Trace

SINK_CHANNELS = {  # by width: of OpenAI's ViT-B/16 and ViT-L/14
    768: (4, 162, 189, 326, 429, 474, 633, 713),
    1024: (250, 261, 437, 650, 720, 779, 936, 1005),
}
NEIGHBOURS = 0.4  # share of the neighbours' mean in a patch that is denoised


@dataclass(frozen=True)
class ImageVector:
    """The embedding of the denoised picture, or window.

    Attributes:
        embedding: (B, E).
    """

    embedding: Tensor


@register
@dataclass(frozen=True)
class RfClip(Method):
    """Tokens denoised after every block, a guide from all blocks, and texts moved to the picture.

    1. After every block, a patch in which one of the sink channels is high, above `sigma` / D of
       its sum over its minimum, becomes 0.6 x + 0.4 of the mean of the 3 x 3 patches around it.
    2. Refocusing: in a block's attention, columns of patches that get more than `sink_share` of all
       weight keep 0.6 of it; the rest goes to the row's other patches in proportion.
    3. The guide is the mean of all blocks' outputs. F^{N-1} and the guide are both averaged with
       the guide's cosines, where these are at least `beta`, and go through the last block with the
       mean of all blocks' softmax(KK^T / sqrt d), without class token, residual and FFN.
       The mean of both results is projected.
    4. Of each cluster of texts (complete linkage at cosine distance `text_distance`) the one that
       is nearest to the image vector moves towards its two best patches by `text_shift`; a score is
       (1 - `image_weight`) of the patch's cosine with the moved texts, and `image_weight` of the
       image vector's with the original ones.

    Variants: `paper` refocuses; `official` does not, as the released code, in which it is written
    but never switched on. Deviations of the released code that are kept: the mean of 3 x 3 patches
    counts those beyond the border as 0, and a column's share is of all rows but that of the class
    token, over a number that counts it. Its sink channels were found in two networks of OpenAI's
    and are chosen by width: a CLIP of another width and networks of other families (SigLIP, TIPSv2,
    ...) have none unless they are given. Its published numbers include PAMR (10 steps), which is a
    refiner here. Its text options differ by data set; the defaults are those of VOC21. Texts with
    equal embeddings count as one.
    Cost: one forward of CLIP, an attention map in every block, and the last block twice more.

    Args:
        sink_channels: channels that are high in distracting patches; None: by width, see above.
        sigma: how high, as a multiple of the mean share 1 / D.
        refocus: weaken columns of attention, as in step 2.
        sink_share: see step 2; the released 0.1 is for windows of 14 x 14 patches.
        beta: cosines of the guide below it count as 0.
        image_weight, text_shift, text_distance: see step 4.
        image_vector: with windows, that of the whole "picture" or of each "window".
    """

    name = "rf_clip"
    title = "RF-CLIP"
    year = 2025
    maps = 7
    extra = "cluster"
    variants = {"paper": {"refocus": True}, "official": {}}
    scoring = Method.scoring | {"image_weight", "text_shift", "text_distance", "image_vector"}

    sink_channels: tuple[int, ...] | None = None
    sigma: float = 5.0
    refocus: bool = False
    sink_share: float = 0.1
    beta: float = 0.4
    image_weight: float = 0.1
    text_shift: float = 0.03
    text_distance: float = 0.1
    image_vector: Literal["picture", "window"] = "picture"

    def __post_init__(self) -> None:
        super().__post_init__()
        shares = {"beta": self.beta, "image_weight": self.image_weight}
        shares |= {"text_shift": self.text_shift, "sink_share": self.sink_share}
        for option, value in shares.items():
            if not 0 <= value < 1:
                raise WordmaskError(f"got {option}={value}; it is in [0, 1)")
        if self.text_distance < 0 or self.sigma <= 0 or min(self.sink_channels or (0,)) < 0:
            raise WordmaskError(
                f"got text_distance={self.text_distance}, sigma={self.sigma}, sink_channels="
                f"{self.sink_channels}; distances are at least 0, sigma is above 0 and channels "
                "count from 0"
            )

    # -- features -------------------------------------------------------------------------------

    def need(self, depth: int) -> Need:
        """Nothing of CLIP's own pass, since every block gets denoised tokens."""
        return Need()

    @torch.no_grad()
    def trace(self, towers: Towers, pixels: Tensor, need: Need) -> Trace:
        """A pass with steps 1 and 2: all denoised states, and K of all blocks but the last.

        The last block is as it is: its output is the side stream of the image vector. The attention
        of blocks in `need` is recorded too, before step 2.
        """
        tower = towers.clip
        channels = self._channels(tower)
        trace = Trace((pixels.shape[-2] // tower.patch, pixels.shape[-1] // tower.patch))
        x, heads = tower.embed(pixels, self.position), _each_head(tower)
        for n in range(1, tower.depth + 1):
            block = tower.block(n)
            z = block.norm1(x)
            q, k, v = block.queries(z), block.keys(z), block.values(z)
            if n < tower.depth:
                trace.keys[n] = k
            if n in need.attention:
                trace.attention[n] = tower.attention_map(q, k)
            if self.refocus and n < tower.depth:
                attended = torch.cat([self._refocused(tower, q, k, v, m) for m in heads], dim=1)
            else:
                attended = tower.attend(q, k, v)
            x = x + block.output(attended)
            x = x + block.feed_forward(x)
            x = denoise(x, trace.grid, channels, self.sigma)
            trace.states[n] = x
        return trace

    def _refocused(self, tower: ClipTower, q: Tensor, k: Tensor, v: Tensor, head: slice) -> Tensor:
        """Step 2 in one head: its values, mixed."""
        attention = tower.attention_map(q[:, head], k[:, head])
        return refocus(attention, tower.class_tokens, self.sink_share) @ v[:, head]

    def _channels(self, tower: ClipTower) -> tuple[int, ...]:
        width = tower.vision.config.hidden_size
        channels = self.sink_channels
        if channels is None:
            is_clip = tower.vision.config.model_type == "clip_vision_model"
            channels = SINK_CHANNELS.get(width, ()) if is_clip else ()
        if max(channels, default=0) >= width:
            raise WordmaskError(
                f"got sink_channels={channels} for a network of width {width}; give lower numbers"
            )
        return channels

    def features(self, tower: ClipTower, trace: Trace) -> DenseFeatures:
        """Step 3, and the image vector."""
        block, first = tower.block(tower.depth), tower.class_tokens
        inputs = [block.norm1(x) for x in self.enhanced(tower, trace)]
        streams = [(block.keys(z), block.values(z)) for z in inputs]
        mixed = []
        for head in _each_head(tower):
            early = self._key_maps(tower, trace, head)
            for k, v in streams:
                attention = (early + _key_map(tower, k[:, head])) / tower.depth
                mixed.append(attention[..., first:, first:] @ v[:, head, first:])
        outputs = [block.output(torch.cat(mixed[i::2], dim=1)) for i in range(2)]
        features = tower.project((outputs[0] + outputs[1]) / 2)
        vector = tower.pool(trace.states[tower.depth])
        return DenseFeatures(to_grid(features, trace.grid), ImageVector(vector))

    def mixing_map(self, tower: ClipTower, trace: Trace) -> Tensor:
        """The mean of all blocks' softmax(KK^T / sqrt d), the last block's from F^{N-1}."""
        block = tower.block(tower.depth)
        k = block.keys(block.norm1(self.enhanced(tower, trace)[0]))
        return (self._key_maps(tower, trace) + _key_map(tower, k)) / tower.depth

    def guide(self, trace: Trace) -> Tensor:
        """The mean of all blocks' outputs, (B, T, D)."""
        return torch.stack(list(trace.states.values())).mean(0)

    def enhanced(self, tower: ClipTower, trace: Trace) -> list[Tensor]:
        """F^{N-1} and the guide, their patches averaged by the guide's cosines; both (B, T, D).

        With one block F^{N-1} is that block's output.
        """
        first, guide = tower.class_tokens, self.guide(trace)
        similarity = patch_cosines(guide[:, first:])
        inputs = (trace.states[max(tower.depth - 1, 1)], guide)
        return [
            torch.cat([x[:, :first], pool_patches(x[:, first:], similarity, self.beta)], dim=1)
            for x in inputs
        ]

    @staticmethod
    def _key_maps(tower: ClipTower, trace: Trace, heads: slice = slice(None)) -> Tensor | float:
        """The sum of softmax(KK^T / sqrt d) over all blocks but the last, of some heads."""
        total: Tensor | float = 0.0
        for k in trace.keys.values():
            total = total + _key_map(tower, k[:, heads])
        return total

    # -- scores ---------------------------------------------------------------------------------

    @property
    def unexported(self) -> str:
        """Step 4."""
        return "it clusters the texts, and moves them for each picture"

    def scores(self, towers: Towers, encoding: Encoding, texts: TextQueries) -> Tensor:
        """Step 4, (B, Q, h, w)."""
        features = encoding.features
        rows, number = torch.unique(texts.embeddings.cpu(), dim=0, return_inverse=True)
        rows = rows.to(features.device)
        vectors = F.normalize(self._image_vectors(towers, encoding), dim=-1) @ rows.T  # (B, Q)
        moved = move_texts(features, rows, vectors, self.text_distance, self.text_shift)
        patches = torch.stack([cosine(f, t) for f, t in zip(features, moved, strict=True)])
        scores = (1 - self.image_weight) * patches + self.image_weight * vectors[..., None, None]
        return scores[:, number.to(scores.device)]

    def _image_vectors(self, towers: Towers, encoding: Encoding) -> Tensor:
        """The image vector of each picture, or of each window, (B * windows, E)."""
        if not encoding.windows or self.image_vector == "window":
            return encoding.state.embedding
        key = "image vectors", self.encoding_key()
        if key not in encoding.prepared:
            pixels, _ = self.pad(encoding.pixels, towers.clip.patch)
            whole = [self.trace(towers, x[None], Need()).states[towers.clip.depth] for x in pixels]
            encoding.prepared[key] = towers.clip.pool(torch.cat(whole))
        return encoding.prepared[key].repeat_interleave(len(encoding.windows), dim=0)


def _each_head(tower: ClipTower) -> list[slice]:
    """Heads one by one: the maps of all would take most of the memory."""
    return [slice(m, m + 1) for m in range(tower.heads)]


def _key_map(tower: ClipTower, k: Tensor) -> Tensor:
    return tower.attention_map(k, k)


def denoise(x: Tensor, grid: tuple[int, int], channels: tuple[int, ...], sigma: float) -> Tensor:
    """Tokens x (B, T, D) after step 1; tokens that are no patches stay."""
    if not channels:
        return x
    first = x.shape[1] - grid[0] * grid[1]
    patches = x[:, first:].float()
    above = patches - patches.amin(-1, keepdim=True)
    share = above / above.sum(-1, keepdim=True).clamp_min(1e-12)
    flagged = share[..., list(channels)].amax(-1, keepdim=True) > sigma / x.shape[-1]
    spatial = patches.transpose(1, 2).unflatten(2, grid)
    around = F.avg_pool2d(spatial, 3, stride=1, padding=1).flatten(2).transpose(1, 2)  # over 9
    fixed = torch.where(flagged, (1 - NEIGHBOURS) * patches + NEIGHBOURS * around, patches)
    return torch.cat([x[:, :first], fixed.to(x.dtype)], dim=1)


def refocus(attention: Tensor, first: int, sink_share: float, kept: float = 0.6) -> Tensor:
    """Attention maps (B, M, T, T) after step 2; the first tokens are no patches."""
    patches = attention[..., first:, first:]
    sink = patches.sum(-2, keepdim=True) / attention.shape[-1] > sink_share
    weak = patches * (1 - (1 - kept) * sink)
    others = patches.masked_fill(sink, 0)
    total = others.sum(-1, keepdim=True)
    removed = (patches - weak).sum(-1, keepdim=True)
    spread = weak + removed * others / total.clamp_min(1e-12)
    out = attention.clone()
    out[..., first:, first:] = torch.where(total > 0, spread, patches)
    return out


def cluster_texts(rows: Tensor, distance: float) -> np.ndarray:
    """Complete-linkage clusters of unit rows (Q, E) at a cosine distance: numbers (Q,).

    Raises:
        WordmaskError: SciPy is not installed.
    """
    hierarchy = need("scipy.cluster.hierarchy", "cluster", "a cluster of texts")
    if len(rows) == 1:
        return np.zeros(1, dtype=np.int32)
    unit = rows.cpu().double().numpy()
    apart = np.clip(1 - unit @ unit.T, 0, 2)[np.triu_indices(len(rows), 1)]
    return hierarchy.fcluster(hierarchy.linkage(apart, "complete"), distance, "distance")


def move_texts(
    features: Tensor, rows: Tensor, vectors: Tensor, distance: float, shift: float
) -> Tensor:
    """Texts (B, Q, E) of which the best of each cluster has moved to its two best patches.

    features (B, E, h, w), rows (Q, E) unit texts, vectors (B, Q) their cosines with the image
    vector.
    """
    number = torch.from_numpy(cluster_texts(rows, distance).astype(np.int64)).to(rows.device)
    together = number[:, None] == number  # (Q, Q)
    best = torch.where(together, vectors[:, None], -torch.inf).amax(-1)  # (B, Q)
    moves = vectors >= best
    unit = F.normalize(features.flatten(2), dim=1).transpose(1, 2)  # (B, L, E)
    near = (unit @ rows.T).topk(min(2, unit.shape[1]), dim=1).indices  # (B, 2, Q)
    patches = torch.stack([u[i].mean(0) for u, i in zip(unit, near, strict=True)])  # (B, Q, E)
    moved = F.normalize((1 - shift) * rows + shift * F.normalize(patches, dim=-1), dim=-1)
    return torch.where(moves[..., None], moved, rows)
