"""The pictures of CLIPer (Sun et al., ICCV 2025): Fig. 2a, 2b, 3; Fig. 6 is the view `refined`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from wordmask.affinity import Affinity, Chain, Mean
from wordmask.explain.canvas import Panel, chart, rows
from wordmask.explain.subject import Point, Subject, patches_of
from wordmask.explain.views import view
from wordmask.refiners.diffusion import Diffusion
from wordmask.segmenter import Segmenter

MOST_BLOCKS = 6  # drawn in a row


def three_axes(states: Tensor) -> tuple[Tensor, float]:
    """Coordinates of vectors (L, D) on their three principal axes, (L, 3), in [0, 1].

    Each axis goes from the 1st to the 99th percentile, and its sign makes its largest weight
    positive. Returned with the share of the variance that the three hold.
    """
    centred = states.double() - states.double().mean(0)
    _, size, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = axes[:3] * axes[:3].gather(1, axes[:3].abs().argmax(1, keepdim=True)).sign()
    at = F.pad(centred @ axes.T, (0, 3 - len(axes)))  # (L, 3)
    low, high = (torch.quantile(at, q, dim=0) for q in (0.01, 0.99))
    share = float(size[:3].square().sum() / size.square().sum().clamp_min(1e-12))
    return ((at - low) / (high - low).clamp_min(1e-12)).clamp(0, 1).float(), share


@view(
    "embeddings",
    "Patch embeddings in three dimensions, block by block (CLIPer, Fig. 2a)",
    "Each patch is a point on the three principal axes of its block, coloured by its place there "
    "(red, green, blue from dark to bright along axis 1, 2, 3). Where one thing has one colour and "
    "its outline is sharp, the block keeps the picture's structure; early blocks should.",
)
def embeddings(subject: Subject) -> list[Image.Image]:
    """The picture in the colours of its patches, and the cloud of patches, for several blocks."""
    photo = subject.photo(250)
    coloured, clouds = [Panel(photo.plain, "photo")], []
    for n in subject.few_blocks(MOST_BLOCKS):
        at, share = three_axes(patches_of(subject, subject.states[n]))
        picture = subject.grid.spread(at.T.unflatten(1, subject.grid.size), photo.size)
        pixels = np.rint(255 * picture.transpose(1, 2, 0)).astype(np.uint8)
        coloured.append(
            Panel(Image.fromarray(pixels), f"block {n}: {100 * share:.0f} % of variance")
        )
        cloud = chart(lambda figure, at=at: _cloud(figure, at), *photo.size[::-1])  # type: ignore[misc]
        clouds.append(Panel(cloud, f"block {n}"))
    clouds.insert(0, Panel(_key(photo.size), "key: the colours along each axis"))
    return [rows([*coloured, *clouds], columns=len(coloured))]


def _cloud(figure: Any, at: Tensor) -> None:
    """Points (L, 3) in [0, 1], coloured by their coordinates."""
    axes = figure.add_subplot(projection="3d")
    axes.set_box_aspect(None, zoom=0.82)
    axes.scatter(*at.T.numpy(), c=at.numpy(), s=8, depthshade=False)
    axes.set(xticks=[0, 1], yticks=[0, 1], zticks=[0, 1])
    axes.tick_params(labelsize=7, pad=-3)
    for name, label in (("x", "1"), ("y", "2"), ("z", "3")):
        getattr(axes, f"set_{name}label")(label, labelpad=-12)


def _key(size: tuple[int, int]) -> Image.Image:
    """Three ramps: axis 1 in red, axis 2 in green, axis 3 in blue."""

    def paint(figure: Any) -> None:
        for i, axes in enumerate(figure.subplots(3)):
            ramp = np.zeros((1, 64, 3))
            ramp[..., i] = np.linspace(0, 1, 64)
            axes.imshow(ramp, aspect="auto", extent=(0, 1, 0, 1))
            axes.set(yticks=[], xticks=[0, 1], title=f"axis {i + 1}, 1st to 99th percentile")
            axes.title.set_fontsize(8)
            axes.tick_params(labelsize=7)

    return chart(paint, size[1], size[0])


def similarity_to_last(segmenter: Segmenter, image: Any, point: Point | None = None) -> Tensor:
    """Cosine of F^n at a point with F^N at all patches, n = 1..N, (N, h, w) (CLIPer, Fig. 2b).

    Arguments and errors as for `attention_of_patch`.
    """
    subject = Subject(segmenter, image, points=[] if point is None else [point])
    return _to_last(subject, subject.points[0])


def _to_last(subject: Subject, point: Point) -> Tensor:
    states = [F.normalize(patches_of(subject, x), dim=-1) for x in subject.states[1:]]
    chosen = torch.stack([x[subject.patch(point)] for x in states])  # (N, D)
    return (chosen @ states[-1].T).unflatten(1, subject.grid.size)


@view(
    "early-last",
    "Early embeddings at a point against the last block's embeddings (CLIPer, Fig. 2b)",
    "The cosine of block n's embedding of the framed patch with block N's embeddings of all "
    "patches. Where early blocks light up the same thing as block N does, the embeddings share a "
    "space and can be fused. Scales differ: early cosines are lower.",
)
def early_last(subject: Subject) -> list[Image.Image]:
    """A row of maps for each point, each with its own scale."""
    photo, parts = subject.photo(240), []
    for point in subject.points:
        maps = _to_last(subject, point)
        panels = [photo.marked([point])]
        for n, values in enumerate(maps, 1):
            scale = float(values.min()), float(values.max())
            title = f"block {n} to {len(maps)}: mean {round(float(values.mean()), 2) + 0.0:.2f}"
            panels.append(photo.heat(values, title, scale, [subject.patch(point)]))
        parts.append(rows(panels))
    return parts


@view(
    "diffusion",
    "Attention at a point: CLIP's against Stable Diffusion's (CLIPer, Fig. 3)",
    "CLIP's attention covers broad areas; Stable Diffusion's should keep to the thing and follow "
    "its outline. The last map is the fused attention, the product of all heads (Eq. 9): where the "
    "refined score of the point comes from.",
    networks=("diffusion",),
)
@torch.inference_mode()
def diffusion(subject: Subject) -> list[Image.Image]:
    """Photo, CLIP's last block, Stable Diffusion's mean over heads, and their product."""
    refiners = [one for one in subject.segmenter.refiners if isinstance(one, Diffusion)]
    refiner = refiners[0] if refiners else Diffusion()
    tower = subject.segmenter.networks.diffusion
    image = torch.from_numpy(subject.grid.picture).to(tower.device).permute(2, 0, 1) / 255
    heads = refiner.heads(image, tower)
    fused = refiner.fuse(heads).attention
    depth, first = subject.tower.depth, subject.tower.class_tokens
    clip = subject.attention(depth)[first:, first:].unflatten(1, subject.grid.size)
    photo, panels = subject.photo(360), []
    for point in subject.points:
        h, w = heads.grid
        height, width = subject.grid.picture.shape[:2]
        at = int((point[1] + 0.5) / height * h) * w + int((point[0] + 0.5) / width * w)
        patch = subject.patch(point)
        panels += [
            photo.marked([point]),
            photo.heat(clip[patch], f"CLIP, block {depth}", patches=[patch]),
            photo.heat_of_picture(
                affinity_row(Mean(heads.heads), at).unflatten(0, heads.grid),
                f"Stable Diffusion, mean of {len(heads.heads)} heads",
            ),
            photo.heat_of_picture(
                affinity_row(fused, at).unflatten(0, heads.grid), "fused attention (Eq. 9)"
            ),
        ]
    return [rows(panels, columns=4)]


def affinity_row(affinity: Affinity, index: int) -> Tensor:
    """Row `index` of an affinity, (L,); a chain is multiplied from the left and never formed."""
    if isinstance(affinity, Mean):
        return torch.stack([affinity_row(one, index) for one in affinity.members]).mean(0)
    if not isinstance(affinity, Chain):
        rows_of: Any = affinity
        return rows_of.rows(slice(index, index + 1))[0].float()
    row = affinity_row(affinity.factors[0], index)
    for factor in affinity.factors[1:]:
        row = _times_rows(row, factor)
    return row


def _times_rows(row: Tensor, factor: Any) -> Tensor:
    """row A, a block of rows of A at a time."""
    if isinstance(factor, Mean):
        return torch.stack([_times_rows(row, one) for one in factor.members]).mean(0)
    return sum((row[b] @ factor.rows(b).float() for b in factor.blocks()), torch.zeros_like(row))
