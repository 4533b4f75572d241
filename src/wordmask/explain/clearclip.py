"""The pictures of ClearCLIP (Lan et al., ECCV 2024): Fig. 1, and Fig. 2 of its supplement."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from wordmask import drawing
from wordmask.explain.canvas import Panel, chart, rows
from wordmask.explain.subject import RED, Subject, patches_of
from wordmask.explain.views import view

FEW = 64  # channels of the upper row of Fig. 2
MOSAIC = 270  # width of the maps of all channels, in pixels


class Parts(NamedTuple):
    """The three token states around the attention of a block, each (L, D)."""

    res: Tensor
    attn: Tensor
    sum: Tensor


@torch.inference_mode()
def parts_of_block(subject: Subject, n: int) -> Parts:
    """X_res = F^{n-1}, X_attn (the output of block n's q-k attention) and their sum."""
    q, k, v = subject.streams(n)
    attended = subject.tower.block(n).output(subject.tower.attend(q, k, v))
    res, attn = (patches_of(subject, x) for x in (subject.states[n - 1], attended))
    return Parts(res, attn, res + attn)


@view(
    "residual",
    "X_res, X_attn and X_sum: their norms, and their channels (ClearCLIP, Fig. 1 and 2)",
    "Where the norm of X_res is far above that of X_attn, X_sum is nearly X_res. In CLIP a few "
    "channels (the highest is framed in red) hold most of X_res, for all patches alike, while "
    "X_attn is spread over its channels and differs from patch to patch.",
)
def residual(subject: Subject) -> list[Image.Image]:
    """Norms by block, norms in the last block over the photo, and the maps of the channels."""
    depth = subject.tower.depth
    norms = []  # (N, 3)
    for n in range(1, depth + 1):
        norms.append([float(x.norm(dim=-1).mean()) for x in parts_of_block(subject, n)])
    last = parts_of_block(subject, depth)
    photo = subject.photo(320)
    panels = [
        Panel(chart(lambda figure: _norms(figure, norms), 460, photo.size[0]), "norm by block")
    ]
    for name, x in zip(Parts._fields, last, strict=True):
        values = x.norm(dim=-1)
        title = f"X_{name}, block {depth}: norm {values.mean():.3g}"
        scale = float(values.min()), float(values.max())
        panels.append(photo.heat(values.unflatten(0, subject.grid.size), title, scale))
    few, every = [], []
    for name, x in zip(Parts._fields, last, strict=True):
        mean, scale = x.abs().mean(0), (0.0, _high(x))
        peak = int(mean.argmax())
        maps = x.abs().T.unflatten(1, subject.grid.size)
        shown = mosaic(maps[:FEW], MOSAIC, scale[1], peak)
        few.append(Panel(shown, f"X_{name}: first {min(FEW, len(maps))} channels", scale))
        title = f"X_{name}, all; peak {peak}: {mean[peak] / mean.median():.0f} x median"
        every.append(Panel(mosaic(maps, MOSAIC, scale[1], peak), title, scale))
    return [rows(panels, columns=4), rows([*few, *every], columns=6)]


def _high(x: Tensor) -> float:
    """A bound above 99.5 % of magnitudes."""
    flat = x.abs().flatten()
    return float(flat.kthvalue(max(round(0.995 * flat.numel()), 1)).values)


def _norms(figure: Any, norms: list[list[float]]) -> None:
    axes = figure.subplots()
    colours = (drawing.palette(3)[1:] / 255).tolist()
    for i, name in enumerate(Parts._fields):
        values = [row[i] for row in norms]
        axes.plot(range(1, len(norms) + 1), values, "o-", ms=3, color=colours[i], label=f"X_{name}")
    axes.set(xlabel="block", ylabel="mean norm of a patch", ylim=(0, None))
    axes.legend()


def mosaic(maps: Tensor, width: int, high: float, peak: int) -> Image.Image:
    """Maps (D, h, w) of channels in a grid of about this width, row by row, the peak framed."""
    count, h, w = maps.shape
    even = math.sqrt(count * h / w)  # columns, for a square
    columns = min((c for c in range(1, count + 1) if count % c == 0), key=lambda c: abs(c - even))
    columns = columns if even / 2 < columns < even * 2 else math.ceil(even)
    side = max(width // columns, 3)
    size = max(round((side - 1) * h / w), 2), max(side - 1, 2)
    small = F.interpolate(maps[None], size=size, mode="area")[0]
    lines = math.ceil(count / columns)
    small = F.pad(small, (0, 1, 0, 1, 0, lines * columns - count), value=float("nan"))
    joined = small.unflatten(0, (lines, columns)).permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
    values = joined.numpy()
    gaps = np.isnan(values)
    heat = drawing.heat_map(np.where(gaps, 0, values), values.shape, 0.0, high)
    pixels = np.where(gaps[..., None], np.uint8(255), np.asarray(heat))
    picture = Image.fromarray(pixels)
    if peak < count:
        top, left = peak // columns * (size[0] + 1), peak % columns * (size[1] + 1)
        box = (left - 2, top - 2, left + size[1] + 1, top + size[0] + 1)
        ImageDraw.Draw(picture).rectangle(box, outline=RED, width=2)
    return picture
