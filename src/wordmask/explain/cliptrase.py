"""The pictures of CLIPtrase (Shao et al., ECCV 2024): Fig. 1b, 2, 4, 5, 6, 9 and 10."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wordmask import drawing
from wordmask.explain.canvas import Panel, rows
from wordmask.explain.subject import RED, Photo, Subject, robust_scale
from wordmask.explain.views import NotDrawableError, view
from wordmask.methods.cliptrase import Cliptrase
from wordmask.methods.cliptrase.method import correlate

MOST_BLOCKS = 6  # drawn in a row
GLOBAL = 5.0  # a global patch receives this many times an even share of the attention
MOST_GLOBAL = 40  # framed


@view(
    "global",
    "Attention of the class token, between all patches, and of one patch, by block (CLIPtrase, "
    "Fig. 2)",
    "Bright vertical bars in the L x L maps are global patches, to which all others attend. In "
    "deep blocks the class token (top) and the framed patch (bottom) look at them and not at "
    "the thing. Each map has its own scale, up to its 99th percentile.",
)
def global_patches(subject: Subject) -> list[Image.Image]:
    """Three rows of maps over the blocks."""
    subject.tower.require_class_token("the picture 'global'")
    photo, grid, point = subject.photo(270), subject.grid.size, subject.points[0]
    patch, first = subject.patch(point), subject.tower.class_tokens
    panels: list[list[Panel]] = [[Panel(photo.plain, "photo")], [], [photo.marked([point])]]
    side = photo.size[0]
    blank = Image.new("RGB", photo.size[::-1], drawing.WHITE)
    panels[1].append(Panel(blank, f"{grid[0]} x {grid[1]} patches, row by row"))
    for n in subject.few_blocks(MOST_BLOCKS):
        attention = subject.attention(n)
        between = attention[first:, first:]
        common = attention[0, first:].unflatten(0, grid)
        panels[0].append(photo.heat(common, f"block {n}: class token"))
        scale = robust_scale(between)
        square = drawing.heat_map(between.numpy(), (side, side), *scale)
        panels[1].append(Panel(square, f"block {n}: L x L", scale))
        panels[2].append(
            photo.heat(between[patch].unflatten(0, grid), f"block {n}: patch", patches=[patch])
        )
    return [rows([one for row in panels for one in row], columns=len(panels[0]))]


def correlation(subject: Subject) -> Tensor:
    """w between patches after the recovery (Eq. 3) in the last block, (L, L) on the CPU.

    With the correlation of the method if it is CLIPtrase, else the mean cosine.
    """
    method = subject.method
    kind, heads = "cosine", "mean"
    if isinstance(method, Cliptrase):
        kind, heads = method.correlation, method.heads
    first = subject.tower.class_tokens
    return correlate(subject.streams(subject.tower.depth), kind, heads)[0, first:, first:].cpu()


@view(
    "recovery",
    "Weights of a patch before and after semantic correlation recovery (CLIPtrase, Fig. 1b, 4, 9)",
    "Before, the weights of CLIP's last block lie on a few global patches, whatever the framed "
    "patch shows. After, they should be highest around it and on things of the same kind, also "
    "far away.",
)
def recovery(subject: Subject) -> list[Image.Image]:
    """A row for each point: photo, CLIP's attention, w."""
    depth, first, grid = subject.tower.depth, subject.tower.class_tokens, subject.grid.size
    before, after = subject.attention(depth)[first:, first:], correlation(subject)
    photo, panels = subject.photo(360), []
    for point in subject.points:
        patch = subject.patch(point)
        recovered = after[patch].unflatten(0, grid)
        scale = float(torch.quantile(recovered, 0.02)), float(torch.quantile(recovered, 0.99))
        panels += [
            photo.marked([point]),
            photo.heat(before[patch].unflatten(0, grid), f"CLIP, block {depth}", patches=[patch]),
            photo.heat(recovered, "recovered w (Eq. 3)", scale, [patch]),
        ]
    return [rows(panels, columns=3)]


class Found(NamedTuple):
    """Global patches by the attention that all patches receive.

    Attributes:
        received: (L,), the mean attention of all other patches to each, times L: 1 is an even
            share.
        patches: numbers of the global patches, highest first.
        block: in which they were found.
    """

    received: Tensor
    patches: list[int]
    block: int


def find_global_patches(subject: Subject) -> Found:
    """Global patches: those that receive more than 5 times an even share of the attention.

    In the block of the last half where the most attention goes to such patches; from the paper's
    description, "bright bars in the inter-patch attention maps" (section 3.2).
    """
    depth, first = subject.tower.depth, subject.tower.class_tokens
    best, most = None, -1.0
    for n in range(depth // 2 + 1, depth + 1):
        attention = subject.attention(n)[first:, first:].clone()
        attention.fill_diagonal_(0)
        count = len(attention)
        received = attention.sum(0) / max(count - 1, 1) * count
        high = received > GLOBAL
        share = float(received[high].sum())
        if share > most:
            order = received.argsort(descending=True, stable=True)
            patches = [int(i) for i in order if high[i]]
            best, most = Found(received, patches, n), share
    assert best is not None
    return best


@view(
    "local-global",
    "Global and local patches, found, and their recovered weights (CLIPtrase, Fig. 6)",
    "Patches framed in red receive more than 5 times an even share of attention. Those of CLIP's "
    "deep blocks are alike (their w is higher among them than to the others), wherever they lie "
    "and though they show nothing in common; the w of a local patch follows what it shows.",
)
def local_global(subject: Subject) -> list[Image.Image]:
    """The global patches, what each patch receives, and w of two of them and of the points."""
    found, w, grid = find_global_patches(subject), correlation(subject), subject.grid.size
    photo = subject.photo(340)
    count = len(found.patches)
    framed = photo.framed(photo.plain, found.patches[:MOST_GLOBAL], RED)
    received = found.received.unflatten(0, grid)
    top = [
        Panel(framed, f"{count or 'no'} global patches, block {found.block}"),
        photo.heat(received, f"attention received, block {found.block} (1: even share)"),
    ]
    if count > 1:
        index = torch.tensor(found.patches)
        among = w[index][:, index]
        others = torch.ones(len(w), dtype=torch.bool)
        others[index] = False
        inside = float((among.sum() - among.trace()) / (count * (count - 1)))
        outside = float(w[index][:, others].mean())
        top[0] = top[0]._replace(
            title=f"{count} global patches (block {found.block}): w {inside:.2f} among them, "
            f"{outside:.2f} to the others"
        )
    local = [subject.patch(p) for p in subject.points if subject.patch(p) not in found.patches]
    if not local:  # the patch nearest to the median
        local = [int((found.received - found.received.median()).abs().argmin())]
    scale = float(torch.quantile(w, 0.05)) if w.numel() < 10**7 else float(w.min()), float(w.max())
    chosen = [(p, f"global patch {i}") for i, p in enumerate(found.patches[:2], 1)]
    chosen += [(p, "local patch") for p in local]
    panels = [
        _weights(photo, w[p].unflatten(0, grid), f"w of {name}", scale, p) for p, name in chosen
    ]
    return [rows(top), rows(panels)]


def _weights(
    photo: Photo, values: Tensor, title: str, scale: tuple[float, float], patch: int
) -> Panel:
    panel = photo.heat(values, title, scale)
    return panel._replace(picture=photo.framed(panel.picture, [patch], RED))


@view(
    "clusters",
    "Clusters of patches before and after denoising, and the regions (CLIPtrase, Fig. 5, 10)",
    "A colour is a cluster, grey is noise. Without denoising, global patches (framed in red) form "
    "clusters that follow nothing in the picture; denoising should leave clusters that are things. "
    "The prototypes of these cut the picture into the regions that vote.",
)
@torch.inference_mode()
def clusters(subject: Subject) -> list[Image.Image]:
    """Clusters without and with denoising, the regions and, with words, the labels."""
    method, towers = subject.method, subject.segmenter.towers
    if not isinstance(method, Cliptrase) or method.clusters == "none":
        raise NotDrawableError("the picture 'clusters' needs --method cliptrase, with its clusters")
    photo = subject.photo(340)
    panels = []
    plain = replace(method, denoising="none")
    for one, title in ((plain, "no denoising"), (method, f"denoised: {method.denoising}")):
        (labels,), grid = one.cluster_patches(towers, subject.grid.pixels)
        count, noise = int(labels.max()) + 1, float((labels < 0).float().mean())
        shown = subject.grid.blocky(labels.unflatten(0, grid) + 1, photo.size)
        title += (
            f": {count} {'cluster' if count == 1 else 'clusters'}, {drawing.percent(noise)} noise"
        )
        panels.append(Panel(_coloured(photo, shown), title))
    found = find_global_patches(subject).patches[:MOST_GLOBAL]
    panels[0] = panels[0]._replace(picture=photo.framed(panels[0].picture, found, RED))
    maps = method.encode(towers, subject.grid.pixels).state.maps[0]
    regions = subject.grid.spread(maps, photo.size).argmax(0)
    panels.append(Panel(_coloured(photo, regions), f"{len(np.unique(regions))} regions (Eq. 6)"))
    parts = [rows([Panel(photo.plain, "photo"), *panels], columns=4)]
    return parts if subject.words is None else [*parts, photo.final(subject.result)]


def _coloured(photo: Photo, labels: np.ndarray) -> Image.Image:
    names: Sequence[str] = [str(i) for i in range(1, int(labels.max()) + 1)] or ["1"]
    return photo.overlay(labels, names, alpha=0.65)
