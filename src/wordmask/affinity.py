"""Affinities between patches: row-stochastic maps, each stored in a form that is cheap to apply.

Nothing here multiplies two L x L matrices, and only `dense()` forms one: a chain is applied right
to left, an attention is computed a block of rows at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.compiler import is_compiling

from wordmask.devices import for_float64, has_sparse
from wordmask.errors import WordmaskError

BLOCK = 2**20  # numbers in a block of rows: 4 MiB, which stays in a CPU's cache
SPARSE = 1 / 10  # share of entries up to which storing them is faster


class Affinity:
    """A row-stochastic L x L map A between the patches of one picture, used as `A @ x`.

    A subclass defines how A is stored and applied. Patches go row by row from the top left.

    Attributes:
        size: L.
    """

    size: int

    def __matmul__(self, x: Tensor) -> Tensor:
        """A x for x (L, C), in the type and on the device of x."""
        raise TypeError(f"{type(self).__name__} does not implement __matmul__")

    def dense(self) -> Tensor:
        """A as a tensor (L, L), float32: for pictures and tests."""
        return self @ torch.eye(self.size)


class ByRows(Affinity):
    """An affinity that can compute any of its rows; it is applied a block of rows at a time."""

    def rows(self, index: slice) -> Tensor:
        """The rows that `index` picks, (n, L)."""
        raise TypeError(f"{type(self).__name__} does not implement rows")

    def blocks(self) -> Iterator[slice]:
        """Slices that cover all rows. A block spreads over the whole picture: every n-th row."""
        n = -(-self.size * self.size // BLOCK)
        return (slice(start, None, n) for start in range(n))

    def __matmul__(self, x: Tensor) -> Tensor:
        out = torch.empty_like(x)
        for block in self.blocks():
            out[block] = _times(self.rows(block).to(x), x)
        return out

    def dense(self) -> Tensor:
        """All rows, (L, L)."""
        return self.rows(slice(None)).float()

    def mix(self, maps: Tensor, grid: tuple[int, int]) -> Tensor:
        """A U x for maps x on another grid, U their bilinear resizing to this affinity's grid.

        If that grid is much coarser and maps are many, (A U) x is cheaper: a row of A is itself a
        map and is resized to the coarse grid, one axis after the other.

        Args:
            maps: (C, h', w').
            grid: h, w with h w = L.

        Returns:
            (C, h, w), in the type and on the device of the maps.
        """
        x = maps.to(torch.promote_types(maps.dtype, torch.float32))
        saved = len(x) * (1 - x[0].numel() / self.size)  # products for each entry of A
        coarse = saved > 3 * x.shape[2]  # measured cost of resizing to the coarse grid
        if coarse:
            along_y = _resizing(x.shape[1], grid[0]).to(x)  # (h, h')
            along_x = _resizing(x.shape[2], grid[1]).to(x)  # (w, w')
        elif x.shape[1:] != grid:
            x = F.interpolate(x[None], size=grid, mode="bilinear")[0]
        values = x.flatten(1).T  # (h' w', C)
        out = values.new_empty(self.size, len(x))
        for block in self.blocks():
            weights = self.rows(block).to(x)
            if coarse:
                narrow = weights.unflatten(1, grid) @ along_x  # (n, h, w')
                weights = (along_y.T @ narrow).flatten(1)
            out[block] = weights @ values
        return out.T.unflatten(1, grid).to(maps)


class HeadAttention(ByRows):
    """softmax(scale * q k^T) of one head, from q and k (L, d); scale is d^-1/2 by default."""

    def __init__(self, q: Tensor, k: Tensor, scale: float | None = None):
        dtype = torch.promote_types(q.dtype, torch.float32)
        self.q = q.to(dtype) * (q.shape[-1] ** -0.5 if scale is None else scale)
        self.k = k.to(dtype)
        self.size = len(q)

    def rows(self, index: slice) -> Tensor:
        """The softmax of these rows, (n, L)."""
        return torch.softmax(self.q[index] @ self.k.T, dim=-1)


class Sharpened(ByRows):
    """An attention with its small entries set to 0 (CLIPer, supplement 6); rows sum to 1 again.

    With `column_maximum`, as the released code does: every column is divided by its maximum, and
    entries below `threshold` are small; a row without any large entry stays 0. Without, entries
    below `threshold` times the mean of a row, 1 / L, are small.

    The column maxima need every row's softmax. One pass computes them and stores, on the way, the
    entries that are large against the maxima so far; a filter at the end makes that exact. Since
    every block is spread over the picture, few entries are stored in vain. If few entries are
    large, they are kept as a sparse matrix and `attention` is dropped; else its rows are computed
    again on each use, as it is on devices without sparse matrices (Apple's).

    Args:
        attention: the attention, rows summing to 1.
        threshold: between 0 and 1 with column maxima, else in units of a row's mean.
        column_maximum: see above.
        epsilon: added to divisors.
        sparse: share of entries up to which they are stored; 0 stores none.
    """

    def __init__(
        self,
        attention: ByRows,
        threshold: float,
        *,
        column_maximum: bool = True,
        epsilon: float = 1e-5,
        sparse: float = SPARSE,
    ):
        self.size = attention.size
        self.attention: ByRows | None = attention
        self.threshold = threshold
        self.epsilon = epsilon
        self.maximum: Tensor | None = None  # (L,) of every column
        self.kept: Tensor | None = None  # sparse (L, L), its rows in the order of the blocks
        if column_maximum or sparse:
            self._scan(attention, column_maximum, sparse)

    def _scan(self, attention: ByRows, column_maximum: bool, sparse: float) -> None:
        # Allocated once: many small pieces would fragment the memory.
        room = int(2 * sparse * self.size**2)
        columns = values = counts = torch.empty(0)
        scanned = count = 0
        keep = sparse > 0
        for block in self.blocks():
            rows = attention.rows(block)
            keep = keep and has_sparse(rows.device)
            if column_maximum:
                largest = rows.amax(0)
                self.maximum = largest if self.maximum is None else self.maximum.maximum(largest)
            if not keep:
                if not column_maximum:
                    return
                continue
            if not scanned:
                values = rows.new_empty(room)
                columns = values.new_empty(room, dtype=torch.int32)
                counts = values.new_empty(self.size, dtype=torch.int64)
            places = (rows >= self._least).flatten().nonzero()[:, 0]
            here = slice(scanned, scanned + len(rows))
            scanned, start, count = here.stop, count, count + len(places)
            keep = count <= 2 * sparse * scanned * self.size
            if keep:
                columns[start:count] = places % self.size
                values[start:count] = rows.flatten()[places]
                counts[here] = (places // self.size).bincount(minlength=len(rows))
        if keep:
            self._keep(counts, columns[:count], values[:count], sparse)

    @property
    def _least(self) -> Tensor | float:
        """The smallest value of a large entry."""
        if self.maximum is None:
            return self.threshold / self.size
        return self.threshold * (self.maximum + self.epsilon)

    def _keep(self, counts: Tensor, columns: Tensor, values: Tensor, sparse: float) -> None:
        row = torch.arange(self.size, device=counts.device).repeat_interleave(counts)
        if self.maximum is not None:
            maximum = self.maximum[columns] + self.epsilon
            stays = values >= self.threshold * maximum
            row, columns, values = row[stays], columns[stays], (values / maximum)[stays]
        if len(values) > sparse * self.size**2:
            return
        total = values.new_zeros(self.size).index_add_(0, row, values)
        starts = torch.bincount(row, minlength=self.size).cumsum(0).int()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that sparse tensors are in beta
            self.kept = torch.sparse_csr_tensor(
                torch.cat([starts.new_zeros(1), starts]),
                columns,
                values / (total + self.epsilon)[row],
                (self.size, self.size),
                check_invariants=False,
            )
        self.attention = None

    def __matmul__(self, x: Tensor) -> Tensor:
        out = torch.empty_like(x)
        if self.kept is not None:
            parts = (self.kept @ x.to(self.kept)).split([len(out[b]) for b in self.blocks()])
            for block, part in zip(self.blocks(), parts, strict=True):
                out[block] = part
            return out
        weight = x.new_ones(len(x), 1)
        if self.maximum is not None:
            weight /= self.maximum[:, None].to(x.device) + self.epsilon
        weighted = torch.cat([x * weight, weight], dim=1)  # the last column adds up the rows
        for block in self.blocks():
            y = _times(self._large(block).to(x), weighted)
            out[block] = y[:, :-1] / (y[:, -1:] + self.epsilon)
        return out

    def _large(self, index: slice) -> Tensor:
        assert self.attention is not None
        rows = self.attention.rows(index)
        return rows.masked_fill(rows < self._least, 0)

    def rows(self, index: slice) -> Tensor:
        """Rows as they are applied, (n, L)."""
        if self.kept is not None:
            return self.dense()[index]
        rows = self._large(index)
        if self.maximum is not None:
            rows /= self.maximum + self.epsilon
        return rows / (rows.sum(-1, keepdim=True) + self.epsilon)

    def dense(self) -> Tensor:
        """The map as it is applied, (L, L)."""
        if self.kept is None:
            return super().dense()
        return self @ torch.eye(self.size, device=self.kept.device)


class Chain(Affinity):
    """The product A_0 A_1 ... A_n, applied right to left; the product matrix is never formed."""

    def __init__(self, factors: Sequence[Affinity]):
        self.factors = tuple(factors)
        self.size = self.factors[0].size

    def __matmul__(self, x: Tensor) -> Tensor:
        for factor in reversed(self.factors):
            x = factor @ x
        return x


class Mean(Affinity):
    """The mean of several affinities."""

    def __init__(self, members: Sequence[Affinity]):
        self.members = tuple(members)
        self.size = self.members[0].size

    def __matmul__(self, x: Tensor) -> Tensor:
        total = self.members[0] @ x
        for member in self.members[1:]:
            total = total + member @ x
        return total / len(self.members)


class Sinkhorn:
    """Rounds of column and row normalisation of P (..., T, T), kept as two vectors.

    A round divides columns, then rows, by their sums. Its result is diag(r) P diag(c), so a round
    costs two matrix-vector products and the map is formed only when it is used.
    """

    def __init__(self, p: Tensor):
        self.p = p
        self.r = p.new_ones(*p.shape[:-1], 1)  # (..., T, 1)
        self.c = p.new_ones(*p.shape[:-2], 1, p.shape[-1])  # (..., 1, T)

    def next_map(self, symmetric: bool) -> Tensor:
        """One more round, then zero the small values; (..., T, T), rows sum to 1.

        symmetric: B <- (B + B^T) / 2, B <- relu(B - column mean), as the released code does;
        else entries below the row's mean are set to 0, our reading of the supplement. A row of
        which nothing is left, as in a picture without any contrast, keeps its own value.
        """
        kept, total = self.next_unnormalised(symmetric)
        return kept / total

    def next_unnormalised(self, symmetric: bool) -> tuple[Tensor, Tensor]:
        """`next_map` before its rows are divided by their sums, and these (..., T, 1)."""
        self.c = 1 / (self.r.transpose(-2, -1) @ self.p)
        self.r = 1 / (self.p @ self.c.transpose(-2, -1))
        tokens = self.p.shape[-1]
        b = self.p * self.c
        b *= self.r
        if symmetric:
            twice_mean = (b.sum(-2, keepdim=True) + 1) / tokens  # rows of b sum to 1
            b = b + b.transpose(-2, -1)
            b -= twice_mean
            b.relu_()
        else:
            b.masked_fill_(b < 1 / tokens, 0)
        total = b.sum(-1, keepdim=True)
        empty = total == 0
        if is_compiling():
            b = torch.where(empty, torch.eye(tokens, device=b.device), b)
            total = total.masked_fill(empty, 1)
        elif empty.any():
            b.diagonal(dim1=-2, dim2=-1).masked_fill_(empty[..., 0], 1)
            total = total.masked_fill(empty, 1)
        return b, total


class MaskedSoftmax(ByRows):
    """Softmax of the cosines between features, with dissimilar pairs masked (ProxyCLIP).

    With c_ij = cos(q_i, k_j), A = softmax(gamma (c_ij - beta mean(c)) + mask), where the mask is
    -inf below 0: c_ij counts if it is at least beta mean(c). The mean is over the whole matrix but
    is computed without it, as the scalar product of the mean unit query and the mean unit key.

    A patch whose row is fully masked, as in a picture without any contrast, keeps its own value.

    Args:
        queries: (L, D) features; vectors of zeros have cosine 0.
        keys: (L, D); None: the queries.
        beta, gamma: shift and scale of the cosines.
        threshold: a fixed cosine in place of beta mean(c) (supplement D).

    Raises:
        WordmaskError: features that are NaN or infinite, or of different shapes.
    """

    def __init__(
        self,
        queries: Tensor,
        keys: Tensor | None = None,
        *,
        beta: float = 1.2,
        gamma: float = 3.0,
        threshold: float | None = None,
    ):
        keys = queries if keys is None else keys
        if queries.ndim != 2 or queries.shape != keys.shape:
            raise WordmaskError(
                f"got features of shapes {tuple(queries.shape)} and {tuple(keys.shape)}; an "
                "affinity needs (L, D), the same for both"
            )
        self.size = len(queries)
        unit = self.keys = _unit(queries)
        mean_query = mean_key = for_float64(unit).mean(0, dtype=torch.float64)
        if keys is not queries:
            self.keys = _unit(keys)
            mean_key = for_float64(self.keys).mean(0, dtype=torch.float64)
        mean = mean_query @ mean_key
        if not torch.isfinite(mean):
            raise WordmaskError("got features that are NaN or infinite; run the network in float32")
        self.queries, self.gamma = unit, gamma
        least = beta * mean if threshold is None else mean.new_tensor(threshold)
        least = (gamma * least).to(unit.dtype)
        self.below = torch.nextafter(least, torch.full_like(least, -torch.inf)).item()

    def rows(self, index: slice) -> Tensor:
        """The rows that `index` picks, (n, L)."""
        queries = self.queries[index]
        scores = torch.addmm(queries.new_zeros(1), queries, self.keys.T, beta=0, alpha=self.gamma)
        F.threshold(scores, self.below, -torch.inf, inplace=True)  # keeps what is above `below`
        weights = torch.softmax(scores, dim=-1)
        empty = weights[:, 0].isnan().nonzero()[:, 0]
        if len(empty):
            itself = torch.arange(self.size, device=empty.device)[index][empty]
            weights[empty] = 0
            weights[empty, itself] = 1
        return weights


def _times(rows: Tensor, x: Tensor) -> Tensor:
    """rows @ x; in this order a third faster on a CPU if x has few columns."""
    return (x.T @ rows.T).T


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x if x.dtype == torch.float64 else x.float(), dim=-1)


def _resizing(old: int, new: int) -> Tensor:
    """The matrix (new, old) of linear resizing along one axis."""
    return F.interpolate(torch.eye(old)[None], size=new, mode="linear")[0].T.contiguous()
