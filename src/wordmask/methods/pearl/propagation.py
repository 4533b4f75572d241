"""PEARL's propagation: score maps of one picture, smoothed where colours and classes agree.

Q texts, h x w the grid of the propagation, which does not grow with the picture.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wordmask.devices import for_float64
from wordmask.windows import ScoreMap, neighbours

TEXT_TEMPERATURE = 0.5
SELF_WEIGHT = 10.0  # of a text in its own row of the matrix of texts
EDGE_DECAY = 5.0
LEAST_CONFIDENCE = 0.05
GREY = (0.299, 0.587, 0.114)
BLOCK_BYTES = 32 * 2**20  # for the rows that are read at once


def pooled(maps: ScoreMap, size: tuple[int, int], grid: int) -> Tensor:
    """Maps (Q, h, w) as if stretched to `size` and averaged in cells of whole pixels.

    Cells have round(side / grid) pixels per side, 1 at least, and a remainder is dropped. Only rows
    at the network's size are read, a block at a time.
    """
    height, width = maps.pixel_size
    down, across = (
        cells(side, out, max(round(out / grid), 1))
        for side, out in zip(maps.pixel_size, size, strict=True)
    )
    like = maps.tiles[0].scores
    across = across.T.to(like)
    rows = max(BLOCK_BYTES // (4 * width * maps.count), 1)
    read = [
        maps.rows(top, min(top + rows, height), maps.pixel_size) @ across
        for top in range(0, height, rows)
    ]
    return down.to(like) @ torch.cat(read, dim=1)


def cells(side: int, out: int, factor: int) -> Tensor:
    """The means of `factor` of `out` pixels each, as weights (out // factor, side).

    The out pixels are `side` values stretched linearly.
    """
    count = out // factor
    places = torch.arange(count * factor)
    low, high, weight = neighbours(places, side, out)
    means = torch.zeros(count, side)
    for index, share in ((low, 1 - weight), (high, weight)):
        means.index_put_((places // factor, index), share / factor, accumulate=True)
    return means


def text_matrix(texts: Tensor) -> Tensor:
    """How much texts (Q, E) of length 1 go together, (Q, Q); rows sum to 1."""
    matrix = torch.softmax(texts @ texts.T / TEXT_TEMPERATURE, dim=1)
    matrix = matrix + SELF_WEIGHT * torch.eye(len(texts)).to(matrix)
    return matrix / matrix.sum(1, keepdim=True)


def propagate(scores: Tensor, image: Tensor, matrix: Tensor, iterations: int) -> Tensor:
    """Cosines (Q, h, w) spread between neighbours that look alike, where no class is sure.

    X of c X + L X = c S in float64: S the cosines, c the confidence, L the Laplacian of the grid
    with `edges` as weights, by conjugate gradients from S.

    Args:
        scores: (Q, h, w).
        image: (3, h, w), normalised.
        matrix: of the texts, (Q, Q).
        iterations: of the conjugate gradients.
    """
    given, image, matrix = (for_float64(x).double() for x in (scores, image, matrix))
    probability = torch.softmax(given, dim=0)
    mixed = torch.tensordot(matrix, probability, dims=1)
    sure = probability.amax(0).clamp_min(LEAST_CONFIDENCE) ** 2
    sure = sure * (1 + (probability * mixed).sum(0).clamp(0, 1))
    down, across = (edges(image, probability, mixed, dim) for dim in (1, 2))

    def times(x: Tensor) -> Tensor:
        out = sure * x
        for dim, weights in ((1, down), (2, across)):
            flow = weights * x.diff(dim=dim)
            out.narrow(dim, 1, flow.shape[dim]).add_(flow)
            out.narrow(dim, 0, flow.shape[dim]).sub_(flow)
        return out

    found = given.clone()
    rest = step = sure * given - times(given)
    length = rest.square().sum()
    for _ in range(iterations):
        moved = times(step)
        far = length / ((step * moved).sum() + 1e-12)
        found += far * step
        rest = rest - far * moved
        before, length = length, rest.square().sum()
        step = rest + length / (before + 1e-12) * step
    return found.to(scores)


def edges(image: Tensor, probability: Tensor, mixed: Tensor, dim: int) -> Tensor:
    """Weights in [0, 1] between neighbours along one side, (h - 1, w) or (h, w - 1)."""
    side = image.shape[dim] - 1
    grey = torch.tensordot(image.new_tensor(GREY), image, dims=1)
    change = grey.diff(dim=dim - 1).abs()
    mean = change.sum() / max(change.numel(), 1)  # there may be none
    alike = torch.exp(-EDGE_DECAY * change / (mean + 1e-6))
    agree = (probability.narrow(dim, 1, side) * mixed.narrow(dim, 0, side)).sum(0).clamp(0, 1)
    return (alike * (1 + agree)).clamp(0, 1)
