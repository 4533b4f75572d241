"""The maps of CLIP-ES and their affinity, of which CaR makes its masks too.

Q texts, T tokens, L = h*w patches, D token width, E joint width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.boxes import attention_affinity, component_boxes, fill_boxes
from wordmask.progress import steps
from wordmask.towers.clip import ClipTower, Trace


def cosine_maps(
    tower: ClipTower, state: Tensor, texts: Tensor, patches: int
) -> tuple[Tensor, Tensor]:
    """The cosine of a picture with every text, and the contribution of every patch to it.

    Args:
        state: (T, D), F^{N-1} of one picture, its patches last.
        texts: (Q, E) unit rows.
        patches: L.

    Returns:
        (Q,) cosines of the mean patch feature; (Q, L) the inner product of each patch of z, the
        first layer norm of the last block, with the gradient averaged over the patches (GradCAM
        before its relu). Source: CLIP-ES, section 3.1.
    """
    with torch.inference_mode(False), torch.enable_grad():
        state, texts = state.clone()[None], texts.clone()
        block = tower.block(tower.depth)
        z = block.norm1(state).detach()
        shift = z.new_zeros(1, 1, z.shape[2], requires_grad=True)  # one vector for all patches
        first = z.shape[1] - patches
        moved = torch.cat([z[:, :first], z[:, first:] + shift], dim=1)
        attended = tower.attend(block.queries(moved), block.keys(moved), block.values(moved))
        x = state + block.output(attended)
        x = x + block.feed_forward(x)
        feature = tower.project(x)[0, first:].mean(0)
        cosines = texts @ F.normalize(feature, dim=0)
        gradients = [  # of L cosines: what one patch adds to their mean would vanish in float16
            torch.autograd.grad(patches * cosine, shift, retain_graph=True)[0][0, 0]
            for cosine in steps("gradients", cosines)
        ]
    gradient = torch.stack(gradients).float() / patches**2  # (Q, D)
    return cosines.detach(), gradient @ z[0, first:].float().T


def gradcam(logits: Tensor, signed: Tensor) -> Tensor:
    """GradCAM of each probability of softmax(logits), divided by its maximum.

    logits (Q,); signed (Q, L), each logit's own map before the relu, up to one factor for all.
    The map of c is relu(M_c - sum of P_j M_j over the others), P the softmax of the others alone;
    for a single text, relu(M_c). Returns (Q, L) in [0, 1]; a map without positive part is 0.
    """
    others = logits.expand(len(logits), -1).clone().fill_diagonal_(-torch.inf)
    weights = torch.softmax(others, dim=1).nan_to_num(0)  # (Q, Q), rows of a single text are 0
    return over_maximum((signed - weights @ signed).relu())


def affinities(trace: Trace) -> Tensor:
    """The affinities (B, L, L) from the summed attention of a pass, the mean over its heads.

    Source: CLIP-ES, section 3.3.
    """
    assert trace.attention_sum is not None
    patches = trace.grid[0] * trace.grid[1]
    attention = trace.attention_sum.mean(1)[:, -patches:, -patches:]
    return torch.stack([attention_affinity(a) for a in attention])


def spread_in_boxes(maps: Tensor, spread: Tensor, threshold: float) -> Tensor:
    """Spread maps (n, h, w) inside the boxes of their parts above a threshold by spread (L, L).

    Returns them divided by their maxima. Source: CLIP-ES, section 3.3.
    """
    boxes = fill_boxes(component_boxes(maps > threshold), maps)
    return over_maximum((maps * boxes).flatten(1) @ spread.T).view_as(maps)


def over_maximum(maps: Tensor) -> Tensor:
    """Each map (n, L) divided by its maximum; a map of zeros stays."""
    peak = maps.amax(1, keepdim=True)
    return torch.where(peak > 0, maps / peak, 0)
