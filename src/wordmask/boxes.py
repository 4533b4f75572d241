"""Maps spread by attention inside the boxes of their parts: a step of CLIP-ES, CaR and FreeCP.

L = h*w patches.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

Box = tuple[int, int, int, int, int]  # number of the map; top, left, bottom, right, ends exclusive


def attention_affinity(attention: Tensor, rounds: int = 3) -> Tensor:
    """The affinity that spreads maps: attention (L, L) made doubly stochastic, symmetric, squared.

    Columns are divided by their sums, then rows, `rounds` times (CLIP-ES, section 3.3).
    """
    for _ in range(rounds):
        attention = attention / attention.sum(0, keepdim=True)
        attention = attention / attention.sum(1, keepdim=True)
    attention = (attention + attention.T) / 2
    return attention @ attention


def component_boxes(masks: Tensor, *, diagonal: bool = True) -> list[Box]:
    """The bounding boxes of the connected components of each mask (n, h, w).

    Computed on the CPU: every step looks at its result, and Apple's GPUs have no float64.

    diagonal: whether pixels that touch at a corner alone are connected.
    """
    masks = masks.cpu()
    number = torch.arange(1, masks.numel() + 1, dtype=torch.float64)
    number = number.view(masks.shape) * masks
    while True:  # the highest number of a component reaches all of it
        if diagonal:
            wider = F.max_pool2d(number[:, None], 3, 1, 1)[:, 0]
        else:
            down = F.max_pool2d(number[:, None], (3, 1), 1, (1, 0))[:, 0]
            wider = down.maximum(F.max_pool2d(number[:, None], (1, 3), 1, (0, 1))[:, 0])
        wider = wider * masks
        if torch.equal(wider, number):
            break
        number = wider
    n, y, x = masks.nonzero(as_tuple=True)
    _, which = number[n, y, x].unique(return_inverse=True)
    size = int(which.max()) + 1 if len(which) else 0

    def edge(values: Tensor, reduce: str) -> Tensor:
        return values.new_zeros(size).scatter_reduce(0, which, values, reduce, include_self=False)

    edges = [edge(n, "amin"), edge(y, "amin"), edge(x, "amin")]
    edges += [edge(y, "amax") + 1, edge(x, "amax") + 1]
    return [(*box,) for box in torch.stack(edges, 1).tolist()]


def fill_boxes(boxes: Iterable[Box], like: Tensor) -> Tensor:
    """Masks of the shape of `like`, (n, h, w) bool, that are true inside of their boxes."""
    filled = torch.zeros_like(like, dtype=torch.bool)
    for number, top, left, bottom, right in boxes:
        filled[number, top:bottom, left:right] = True
    return filled
