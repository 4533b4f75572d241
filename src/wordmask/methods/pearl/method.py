"""PEARL (2026; code: PGSmall/PEARL): keys aligned with queries, and propagation by texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.devices import check_finite, for_float64
from wordmask.encoding import DenseFeatures, Encoding
from wordmask.errors import WordmaskError
from wordmask.methods.base import Method, register, to_grid
from wordmask.methods.pearl.propagation import pooled, propagate, text_matrix
from wordmask.text_queries import TextQueries
from wordmask.towers.clip import ClipTower, Need, Trace
from wordmask.windows import ScoreMap

NEWTON_SCHULZ = 5  # iterations of the released code


@register
@dataclass(frozen=True)
class Pearl(Method):
    """Keys turned to where queries lie in the last block, then scores spread over the picture.

    1. In each head of the last block, Q and K are centred at means weighted by the lengths of the
       patches' queries: Qc, Kc. R, the orthogonal factor of Kc^T Qc, turns keys to queries, and the
       attention is softmax((Q (K R)^T + `key_weight` Kc Kc^T) / sqrt d), without residual and FFN.
    2. The cosines S of all texts are stretched to the picture and averaged in cells, `grid` or so
       per side. With p = softmax(S) over the texts and a matrix M of how near texts are, X solves
       c X + L X = c S: c is high where one text is likely and its near ones agree, and L is the
       Laplacian whose edges are strong between cells of one grey and of texts that agree.

    Variants. Source: the released code, revision c26062b, by the card of it; the paper was not at
    hand.

    - `repaired`: R is the factor itself, and M p a product of matrices.
    - `official`: 5 Newton-Schulz iterations, which do not reach the factor when singular values
      differ much, and an index pattern that takes only the diagonal of M. The effect of the second
      is small, 1e-4 of a cosine at most, since p is nearly the same for all texts and M nearly
      diagonal.

    As in the released code, the system is not solved to the end, p is of cosines without a scale,
    and the picture of the edges is the network's input. One deviation in both: float64.
    Cost: one forward of CLIP, and for every list of words 25 products with a sparse matrix of some
    80 x 80 cells: 0.06 s of a CPU core for 20 words, 0.7 s for 171. Memory does not grow with the
    picture.

    Args:
        key_weight: of Kc Kc^T; the released 0.3 is for ADE and Cityscapes.
        rotation: how R is found, see above: "exact" or by "newton-schulz".
        grid: cells along a side, about; 0 leaves step 2 out. The released 224 is for Cityscapes.
        coupling: "full" for the product with M, or its "diagonal".
        iterations: of the conjugate gradients.
    """

    name = "pearl"
    title = "PEARL"
    year = 2026
    variants = {
        "repaired": {},
        "official": {"rotation": "newton-schulz", "coupling": "diagonal"},
    }
    scoring = Method.scoring | {"grid", "coupling", "iterations"}

    key_weight: float = 0.08
    rotation: Literal["exact", "newton-schulz"] = "exact"
    grid: int = 80
    coupling: Literal["full", "diagonal"] = "full"
    iterations: int = 25

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.key_weight, self.grid, self.iterations) < 0:
            raise WordmaskError(
                f"got key_weight={self.key_weight}, grid={self.grid}, iterations="
                f"{self.iterations}; all are at least 0"
            )

    def need(self, depth: int) -> Need:
        """Q, K, V of block N."""
        return Need.of(projections={depth: "qkv"})

    def features(self, tower: ClipTower, trace: Trace) -> DenseFeatures:
        """Step 1: the attention output alone, projected."""
        v = trace.values[tower.depth]
        width = v.shape[-1]
        q, k = self._aligned(tower, trace)
        same = F.pad(v, (0, q.shape[-1] - width))  # torch attends in blocks if all widths are equal
        attended = tower.attend(q, k, same, scale=width**-0.5)[..., :width]
        tokens = tower.block(tower.depth).output(attended)
        return DenseFeatures(to_grid(tower.project(tokens), trace.grid))

    def mixing_map(self, tower: ClipTower, trace: Trace) -> Tensor:
        """The attention of step 1; rows sum to 1."""
        q, k = self._aligned(tower, trace)
        return tower.attention_map(q, k, scale=trace.values[tower.depth].shape[-1] ** -0.5)

    def _aligned(self, tower: ClipTower, trace: Trace) -> tuple[Tensor, Tensor]:
        """[Q, key_weight Kc] and [Kc R, Kc], (B, M, T, 2 d), whose products are the logits.

        Kc R in place of K R shifts all logits of a row alike, which the softmax undoes.
        """
        given = trace.queries[tower.depth]
        q, k = given.float(), trace.keys[tower.depth].float()
        weight = q.norm(dim=-1, keepdim=True)  # (B, M, T, 1)
        weight[:, :, : tower.class_tokens] = 0
        weight = weight / (weight.sum(2, keepdim=True) + 1e-6)
        qc, kc = (x - (weight * x).sum(2, keepdim=True) for x in (q, k))
        product = kc.transpose(2, 3) @ qc
        check_finite(product, "queries and keys of the last block", given.dtype)
        turned = kc @ self._rotation(product)
        pair = torch.cat([q, self.key_weight * kc], dim=-1), torch.cat([turned, kc], dim=-1)
        return pair[0].to(given.dtype), pair[1].to(given.dtype)

    def _rotation(self, m: Tensor) -> Tensor:
        """The orthogonal factor of matrices (B, M, d, d), or what iterations make of them."""
        if self.rotation == "exact":
            left, _, right = torch.linalg.svd(for_float64(m).double())
            return (left @ right).to(m)
        gram = m.transpose(2, 3) @ m
        one = torch.eye(m.shape[-1]).to(m)
        size = gram.flatten(2).norm(dim=2)[..., None, None].clamp_min(1e-12)
        y, z = gram / size + 1e-6 * one, one
        for _ in range(NEWTON_SCHULZ):
            t = 0.5 * (3 * one - z @ y)
            y, z = y @ t, z @ t
        return m @ z / size.sqrt()

    def whole_maps(
        self, encoding: Encoding, maps: list[ScoreMap], texts: TextQueries
    ) -> list[ScoreMap]:
        """Step 2."""
        if not self.grid:
            return maps
        matrix = text_matrix(texts.embeddings)
        if self.coupling == "diagonal":
            matrix = matrix.diagonal().diag()
        size = encoding.pixel_size
        out = []
        for cosines, pixels, picture in zip(maps, encoding.pixels, encoding.sizes, strict=True):
            image = ScoreMap.whole(pixels.to(cosines.tiles[0].scores), size)
            cells = pooled(cosines, picture, self.grid), pooled(image, picture, self.grid)
            out.append(ScoreMap.whole(propagate(*cells, matrix, self.iterations), size))
        return out
