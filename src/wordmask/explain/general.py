"""Views of every method: attention of a patch, similarity by layer, class maps, refinement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from wordmask.explain.canvas import Panel, rows
from wordmask.explain.subject import Point, Subject, patches_of
from wordmask.explain.views import NotDrawableError, view
from wordmask.methods.base import cosine
from wordmask.segmenter import Segmenter
from wordmask.towers.clip import Need

MOST_CLASSES = 14  # heat maps drawn for one picture
MOST_REFINED = 6  # classes drawn before and after refiners


@dataclass(frozen=True)
class PatchAttention:
    """The attention of one patch, averaged over the heads, without the class token.

    Attributes:
        before: (h, w), softmax(QK^T / sqrt d) of CLIP's last block.
        after: (h, w), the map with which the method mixes patches instead.
        patch: row and column of the patch.
    """

    before: Tensor
    after: Tensor
    patch: tuple[int, int]


def attention_of_patch(
    segmenter: Segmenter, image: Any, point: Point | None = None
) -> PatchAttention:
    """Attention of the patch at a point, before and after the method's change.

    Rows of CLIP's map sum to 1 with the class token, so `before` sums to a little less.

    Args:
        segmenter: the method and the network.
        image: a path, a PIL image or a uint8 array (H, W, 3).
        point: (x, y) in pixels; None: the centre.

    Raises:
        WordmaskError: a picture that cannot be read, or a point outside it.
    """
    subject = Subject(segmenter, image, points=[] if point is None else [point])
    before, after = _attention(subject)
    patch = subject.patch(subject.points[0])
    where = subject.grid.patch_at(subject.points[0])
    return PatchAttention(before[patch], after[patch], where)


@torch.inference_mode()
def _attention(subject: Subject) -> tuple[Tensor, Tensor]:
    """CLIP's and the method's attention between patches, mean over heads, both (L, h, w)."""
    tower, method, first = subject.tower, subject.method, subject.tower.class_tokens
    trace = subject.trace(method.need(tower.depth) | Need.of(attention=[tower.depth]))
    try:
        mixing = method.mixing_map(tower, trace)
    except TypeError:
        raise NotDrawableError(
            f"{method.name} does not say with which map it mixes patches; give it a mixing_map"
        ) from None
    before, after = (
        one[0, :, first:, first:].float().mean(0).cpu().unflatten(1, subject.grid.size)
        for one in (trace.attention[tower.depth], mixing)
    )
    return before, after


def similarity_by_layer(segmenter: Segmenter, image: Any, point: Point | None = None) -> Tensor:
    """Cosine of the token state at a point with those of all patches after blocks 1..N, (N, h, w).

    Arguments and errors as for `attention_of_patch`.
    """
    subject = Subject(segmenter, image, points=[] if point is None else [point])
    return _similarity(subject, subject.points[0])


def _similarity(subject: Subject, point: Point) -> Tensor:
    states = torch.stack([patches_of(subject, x) for x in subject.states[1:]])  # (N, L, D)
    unit = F.normalize(states, dim=-1)
    chosen = unit[:, subject.patch(point), :, None]  # (N, D, 1)
    return (unit @ chosen)[..., 0].unflatten(-1, subject.grid.size)


@view(
    "attention",
    "Attention of a patch in the last block, before and after the method's change",
    "The framed patch should take from patches that show the same thing. Each map has its own "
    "scale, up to its 99th percentile; brighter patches give more.",
)
def attention(subject: Subject) -> list[Image.Image]:
    """Photo, CLIP's attention and the method's, a row for each point."""
    before, after = _attention(subject)
    photo = subject.photo(420)
    panels = []
    for point in subject.points:
        patch = subject.patch(point)
        panels.append(photo.marked([point]))
        titles = f"before: q-k of block {subject.tower.depth}", f"after: {subject.method.name}"
        panels += [
            photo.heat(one[patch], title, patches=[patch])
            for one, title in zip((before, after), titles, strict=True)
        ]
    return [rows(panels, columns=3)]


@view(
    "layers",
    "Similarity of a patch to all others, block by block",
    "The cosine within each block, on one scale: where it stays high on the thing itself and low "
    "elsewhere, the block tells things apart. Below, for classes and a method with several feature "
    "sets, the labels of each set alone.",
)
def layers(subject: Subject) -> list[Image.Image]:
    """Maps of all blocks for each point; the labels of every feature set, and of all."""
    photo, parts = subject.photo(240), []
    for point in subject.points:
        maps, patch = _similarity(subject, point), subject.patch(point)
        scale = float(torch.quantile(maps.flatten(), 0.01)), 1.0
        panels = [photo.marked([point])]
        for n, values in enumerate(maps, 1):
            panels.append(photo.heat(values, f"block {n}", scale, [patch]))
        parts.append(rows(panels))
    sets = None if subject.words is None else set_maps(subject)
    if sets is None:
        return parts
    names = subject.texts.names
    panels = []
    for i, maps in enumerate(sets, 1):
        labels = _labels(subject.grid.spread(maps, photo.size), len(names))
        panels.append(Panel(photo.overlay(labels, names), f"set {i} alone"))
    return [*parts, rows(panels), photo.final(subject.result)]


@torch.inference_mode()
def set_maps(subject: Subject) -> Tensor | None:
    """Probabilities of classes, (S, C or C + 1, h, w), by every feature set of the method.

    None for a method with one set of features.
    """
    tower, method = subject.tower, subject.method
    dense = method.features(tower, subject.trace(method.need(tower.depth)))
    sets = method.feature_sets(dense)
    if sets is None:
        return None
    cosines = cosine(sets[:, 0], subject.texts.embeddings)  # (S, Q, h, w)
    return subject.texts.pool(torch.softmax(method.logit_scale * cosines, dim=1), dim=1).cpu()


def _labels(maps: np.ndarray, classes: int) -> np.ndarray:
    """Argmax of (C or C + 1, H, W) as labels; a map after those of the classes is label 0."""
    labels = maps.argmax(0) + 1
    return np.where(labels > classes, 0, labels)


@view(
    "classes",
    "Scores of the classes, and the labels",
    "All maps share one scale: at each pixel the brightest wins, except for what the method does "
    "after its scores. A word that is bright nowhere was not found.",
    words=True,
)
def classes(subject: Subject) -> list[Image.Image]:
    """The scores on the patch grid; of more than 14 classes, those with most pixels."""
    photo, result = subject.photo(320), subject.result
    shown = largest(result.labels, len(result.names), MOST_CLASSES)
    scores = torch.from_numpy(np.asarray(result.scores)[shown])
    scale = float(scores.min()), float(scores.max())
    panels = [Panel(photo.plain, "photo")]
    for i, values in zip(shown, scores, strict=True):
        panels.append(photo.heat(values, result.names[i], scale))
    return [rows(panels), photo.final(result)]


def largest(labels: np.ndarray, classes: int, most: int) -> list[int]:
    """Numbers from 0 of the classes, in order; of more than `most`, those with most pixels."""
    if classes <= most:
        return list(range(classes))
    pixels = np.bincount(labels.ravel(), minlength=classes + 1)[1:]
    return sorted(np.argsort(-pixels, kind="stable")[:most].tolist())


@view(
    "refined",
    "Class maps and masks before and after the refiners (CLIPer, Fig. 6)",
    "The refined map should end where the thing ends, and the mask with it. Before and after have "
    "scales of their own, since refiners change the range of scores.",
    words=True,
)
@torch.inference_mode()
def refined(subject: Subject) -> list[Image.Image]:
    """A row for each class: its map and its mask before, and after."""
    names = " and ".join(refiner.name for refiner in subject.segmenter.refiners)
    scored = subject.scored
    if scored.coarse is None:
        raise NotDrawableError(
            "the picture 'refined' needs a refiner of maps; give --refine, as in diffusion"
        )
    photo = subject.photo(320)
    before, after = scored.coarse, scored.maps
    masks = subject.labels(before), subject.labels()
    maps = [
        scored.rule.pool(one.rows(0, photo.size[0], photo.size), scored.texts)
        for one in (before, after)
    ]
    panels: list[Panel] = []
    found = np.stack(masks)
    for i in largest(found, scored.texts.classes, MOST_REFINED):
        if not (found == i + 1).any():
            continue
        name = scored.texts.names[i]
        for values, when in zip(maps, ("before", f"after {names}"), strict=True):
            scale = float(values.min()), float(values.max())
            panels.append(photo.heat_of_picture(values[i], f"{name}: map {when}", scale))
        for labels, when in zip(masks, ("before", f"after {names}"), strict=True):
            mask = np.where(labels == i + 1, i + 1, 0)
            panels.append(Panel(photo.overlay(mask, scored.texts.names), f"{name}: mask {when}"))
    parts = [rows(panels, columns=4)] if panels else []
    return [*parts, _both(subject, masks, names)]


def _both(subject: Subject, labels: Sequence[np.ndarray], refiners: str) -> Image.Image:
    """The labels of all classes before and after, each with its legend."""
    photo, names = subject.photo(420), subject.scored.texts.names
    titles = "labels before", f"labels after {refiners}"
    return rows(
        [
            Panel(photo.overlay(one, names, legend=True), title)
            for one, title in zip(labels, titles, strict=True)
        ]
    )
