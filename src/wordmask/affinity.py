"""Affinities between patches: row-stochastic maps, kept in the form that makes them cheap."""

from __future__ import annotations

import torch
from torch import Tensor


class Affinity:
    """A row-stochastic L x L map A between the places of one picture, used as `A @ x`.

    A subclass says how A is applied; what it keeps is its own matter. Places are the grid's
    patches, row by row from the top left.

    Attributes:
        size: L.
    """

    size: int

    def __matmul__(self, x: Tensor) -> Tensor:
        """A x for x (L, C), in the type and on the device of x."""
        raise TypeError(f"{type(self).__name__} does not say how it is applied")

    def dense(self) -> Tensor:
        """A as a tensor (L, L), float32: for pictures and tests."""
        return self @ torch.eye(self.size)


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
        else entries below the row's mean are set to 0, as the supplement is read here.
        """
        kept = self.next_unnormalised(symmetric)
        return kept / kept.sum(-1, keepdim=True)

    def next_unnormalised(self, symmetric: bool) -> Tensor:
        """`next_map` before its rows are divided by their sums."""
        self.c = 1 / (self.r.transpose(-2, -1) @ self.p)
        self.r = 1 / (self.p @ self.c.transpose(-2, -1))
        tokens = self.p.shape[-1]
        b = self.p * self.c
        b *= self.r
        if not symmetric:
            return b.masked_fill_(b < 1 / tokens, 0)
        twice_mean = (b.sum(-2, keepdim=True) + 1) / tokens  # rows of b sum to 1
        b = b + b.transpose(-2, -1)
        b -= twice_mean
        return b.relu_()
