"""SC-CLIP (Bai et al., Self-Calibrated CLIP for Training-Free OVSS, 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.compiler import is_compiling

from wordmask.encoding import DenseFeatures
from wordmask.errors import WordmaskError
from wordmask.methods.base import Method, patch_cosines, pool_patches, register, to_grid
from wordmask.towers.clip import ClipTower, Need, Trace

GAMMA = 3.0  # inverse temperature of the similarity that the last block attends by


@register
@dataclass(frozen=True)
class ScClip(Method):
    """Outlier tokens repaired, and patches pooled by the similarity of CLIP's own middle blocks.

    1. Patches of F^{N-1} whose local density stands out are replaced by the mean of their sound
       neighbours, there and in a middle block's output, of which S are the cosines.
    2. Patches are averaged with weights S where S is at least `beta` (pre-aggregation).
    3. The last block attends by the mean of softmax(3 (S - mean S)), negatives removed, and
       softmax(KK^T / sqrt d), without class token, residual and FFN; then `class_weight` times the
       class token is added to every patch.
    4. The same is done to the sum of the outputs of many blocks; both results are averaged as in 2,
       by the similarity of an early block, and added.

    Deviations of the released code: it computes an outlier's row and column with the number of rows
    in place of columns, so that a grid that is not square fails or repairs the wrong cell (variant
    `official`; a cell outside of the grid, where the released code fails, is left out). It fails if
    no patch is an outlier or a picture has at most 30 patches; here nothing is repaired, or all
    patches are neighbours. What paper and code call a local outlier factor has a patch's own
    distance in place of its neighbours', so it is a ratio of distances; it is kept. Blocks are
    given for 12; for another depth the same fractions, rounded, are taken.
    Cost: one forward of CLIP less the last block, and four attentions in place of its one.

    Args:
        similarity_block: the block of S, counted from 1; None: the 9th of 12.
        early_block: the block of the post-aggregation's similarity; None: the 4th of 12.
        levels: the first and the last of the blocks that are summed; None: 4 to 10 of 12.
        beta: cosines below it count as 0 in both aggregations.
        class_weight: how much of the class token is added to every patch.
        neighbours: number of neighbours by which outliers are found.
        contamination: share of patches that are outliers; 0: none.
        released_positions: place outliers as the released code does.
    """

    name = "sc_clip"
    title = "SC-CLIP"
    year = 2024
    maps = 7
    variants = {"repaired": {}, "official": {"released_positions": True}}

    similarity_block: int | None = None
    early_block: int | None = None
    levels: tuple[int, ...] | None = None
    beta: float = 0.4
    class_weight: float = 0.3
    neighbours: int = 30
    contamination: float = 0.05
    released_positions: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        levels = (1, 1) if self.levels is None else self.levels
        blocks = [1 if b is None else b for b in (self.similarity_block, self.early_block)]
        if len(levels) != 2 or min(*levels, *blocks) < 1 or levels[0] > levels[1]:
            raise WordmaskError(
                f"got similarity_block={self.similarity_block}, early_block={self.early_block}, "
                f"levels={self.levels}; blocks count from 1, and levels are the first and the last"
            )
        if not 0 <= self.beta < 1 or not 0 <= self.contamination < 1 or self.neighbours < 1:
            raise WordmaskError(
                f"got beta={self.beta}, contamination={self.contamination}, "
                f"neighbours={self.neighbours}; the first two are in [0, 1), neighbours count "
                "from 1"
            )

    def _blocks(self, depth: int) -> tuple[int, int, range]:
        """Similarity block, early block and levels of a tower of `depth` blocks."""

        def after(blocks: int) -> int:  # the number of the block after `blocks` of 12
            return min(round(blocks * depth / 12) + 1, depth - 1)

        end = min(round(10 * depth / 12), depth - 1)
        first, last = self.levels or (after(3), end)
        similarity = self.similarity_block or after(8)
        return similarity, self.early_block or after(3), range(first, last + 1)

    def need(self, depth: int) -> Need:
        """F^{N-1} and the outputs of the blocks of similarities and levels."""
        similarity, early, levels = self._blocks(depth)
        return Need.of(states=[similarity, early, *levels, depth - 1])

    def features(self, tower: ClipTower, trace: Trace) -> DenseFeatures:
        """Steps 1 to 4 of the class's docstring."""
        if self.class_weight:
            tower.require_class_token("class_weight of SC-CLIP")
        _, early, levels = self._blocks(tower.depth)
        first = tower.class_tokens
        last = trace.states[tower.depth - 1]
        x, similarity = self._repaired(tower, trace)
        x = pool_patches(x, similarity, self.beta)
        late = patch_cosines(trace.states[early][:, first:])
        z = torch.stack([trace.states[n] for n in levels]).sum(0)
        y = self._last_block(tower, x, similarity, last[:, :1])
        more = self._last_block(tower, z[:, first:], similarity, z[:, :1])
        y = pool_patches(y, late, self.beta) + pool_patches(more, late, self.beta)
        return DenseFeatures(to_grid(tower.project(y), trace.grid))

    def mixing_map(self, tower: ClipTower, trace: Trace) -> Tensor:
        """The mean of both maps in the last block, in which the class token has no part."""
        x, similarity = self._repaired(tower, trace)
        block = tower.block(tower.depth)
        k = block.keys(block.norm1(pool_patches(x, similarity, self.beta)))
        mixing = (tower.attention_map(k, k) + _weights(similarity).to(k.dtype)[:, None]) / 2
        first = tower.class_tokens
        shown = F.pad(mixing, (first, 0, first, 0))
        shown[..., :first, :first] = torch.eye(first, device=k.device)
        return shown

    def _repaired(self, tower: ClipTower, trace: Trace) -> tuple[Tensor, Tensor]:
        """Patches (B, h*w, D) of F^{N-1} after step 1, and the similarity S (B, h*w, h*w)."""
        first = tower.class_tokens
        x = trace.states[tower.depth - 1][:, first:]
        middle = trace.states[self._blocks(tower.depth)[0]][:, first:]
        wrong = outliers(outlier_scores(x, self.neighbours), self.contamination)
        cells = place_outliers(wrong, trace.grid, transposed=self.released_positions)
        return repair(x, cells), patch_cosines(repair(middle, cells))

    def _last_block(self, tower: ClipTower, x: Tensor, similarity: Tensor, cls: Tensor) -> Tensor:
        """Step 3 of patches x (B, h*w, D) with the class token cls (B, 1, D): (B, h*w, D)."""
        block = tower.block(tower.depth)
        z = block.norm1(x)
        k, v = block.keys(z), block.values(z)
        shared = _weights(similarity).to(v.dtype)[:, None] @ v
        y = block.output((shared + tower.attend(k, k, v)) / 2)
        return y + self.class_weight * cls if self.class_weight else y


def outlier_scores(x: Tensor, neighbours: int) -> Tensor:
    """How far each patch lies from its neighbours, against how far these lie from theirs, (B, L).

    K_i, the squared distance from the last of the nearest `neighbours` others, times the mean of
    1 / K_j over these. With fewer patches all are neighbours; a single one has the score 1.

    x: (B, L, D).
    """
    count = torch.sym_min(neighbours, x.shape[1] - 1)
    if not count:
        return torch.ones_like(x[..., 0], dtype=torch.float32)
    x = x.float()
    distance = torch.cdist(x, x).square() if not is_compiling() else _distances(x)
    distance = distance.masked_fill(_diagonal(distance), -1)  # the nearest is the patch itself
    nearest = distance.topk(count + 1, largest=False)
    reach = nearest.values[..., -1].clamp_min(1e-12)  # (B, L); equal patches have the score 1
    others = nearest.indices[..., 1:]  # (B, L, count)
    inverse = (1 / reach)[:, None].expand_as(distance).gather(2, others)
    return reach * inverse.mean(-1)


def _distances(x: Tensor) -> Tensor:
    """Squared distances of x (B, L, D) by products alone, for graphs, (B, L, L)."""
    x = x - x.mean(1, keepdim=True)  # distances stay, and what cancels is small
    squares = x.square().sum(-1)
    return (squares[:, :, None] + squares[:, None] - 2 * x @ x.transpose(1, 2)).clamp_min(0)


def outliers(scores: Tensor, contamination: float) -> Tensor:
    """The patches above the quantile 1 - contamination of their picture's scores, (B, L) bool."""
    return scores > torch.quantile(scores, 1 - contamination, dim=1, keepdim=True)


def place_outliers(wrong: Tensor, grid: tuple[int, int], *, transposed: bool = False) -> Tensor:
    """Outliers (B, h*w) on the grid, (B, 1, h, w) bool.

    transposed: divide their numbers by h in place of w, as the released code does.
    """
    h, w = grid
    if not transposed or h == w:
        return wrong.view(-1, 1, h, w)
    cells = wrong.view(-1, 1, w, h)  # number i in cell (i // h, i % h)
    return F.pad(cells, (0, w - h, 0, h - w))  # negative: cells outside of the grid are cut off


def repair(x: Tensor, wrong: Tensor) -> Tensor:
    """Patches x (B, h*w, D), those in `wrong` (B, 1, h, w) as the mean of their sound neighbours.

    An outlier without any among its 8 neighbours stays.
    """
    grid = wrong.shape[-2:]
    sound = (~wrong).float()
    patches = x.transpose(1, 2).unflatten(2, grid).float()  # (B, D, h, w)
    near = F.avg_pool2d(patches * sound, 3, stride=1, padding=1)
    share = F.avg_pool2d(sound, 3, stride=1, padding=1)
    mean = near / share.clamp_min(0.1)  # a single neighbour is 1/9
    fixed = torch.where(wrong & (share > 0), mean, patches)
    return fixed.flatten(2).transpose(1, 2).to(x.dtype)


def _weights(similarity: Tensor) -> Tensor:
    """softmax(gamma (S - mean S)) with negatives removed, (B, L, L); a patch always counts."""
    logits = GAMMA * (similarity - similarity.mean((1, 2), keepdim=True))
    # the diagonal is below 0 by rounding alone, in a picture without any contrast
    negative = (logits < 0) & ~_diagonal(logits)
    return torch.softmax(logits.masked_fill(negative, -torch.inf), dim=-1)


def _diagonal(maps: Tensor) -> Tensor:
    """Where the diagonal of maps (B, L, L) is, (L, L) bool."""
    return torch.eye(maps.shape[-1], dtype=torch.bool, device=maps.device)
