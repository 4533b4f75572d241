"""SAM and SAM 2 from transformers: a picture is embedded once, then prompts become masks.

Points are x, y in pixels of the picture: 0 is its left or top edge, W or H the other one, so the
centre of the first pixel is 0.5, 0.5.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wordmask.devices import check_finite
from wordmask.errors import WordmaskError
from wordmask.progress import stage, steps
from wordmask.towers.fetch import Files
from wordmask.towers.hub import (
    at_revision,
    load_from,
    model_type,
    read_model,
    read_normalisation,
    read_source,
)

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MODELS = {"sam": "SamModel", "sam2": "Sam2Model", "sam2_video": "Sam2Model"}  # by model_type
PROMPTS = 16  # decoded at once
OUTSIDE = -10.0  # logit of a mask prompt beyond the picture, and of a mask without points
STABLE = 1.0  # the shift of the logits' threshold under which a stable mask stays the same
SMALL = 64  # long side of the grid on which masks are compared with each other


class Masks(NamedTuple):
    """Masks of P prompts, m for each.

    logits (P, m, h, w), above 0 inside the mask, on a grid over the whole picture; iou (P, m), the
    network's own estimate of their quality, about 0 to 1.
    """

    logits: Tensor
    iou: Tensor

    @property
    def best(self) -> Tensor:
        """The mask with the highest estimated IoU of each prompt, (P, h, w)."""
        prompts = torch.arange(len(self.iou), device=self.iou.device)
        return self.logits[prompts, self.iou.argmax(1)]


class SamTower:
    """SAM or SAM 2.

    Args:
        model: a `SamModel` or `Sam2Model`; used through its own modules, never changed.
        mean, std: normalisation of pictures.
        source: the id or folder that it was loaded from.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        source: str = "in memory",
    ):
        if not all(hasattr(model, x) for x in ("vision_encoder", "prompt_encoder", "mask_decoder")):
            raise WordmaskError(
                f"got {type(model).__name__} as SAM; give a SamModel, a Sam2Model, a hub id or a "
                "local folder"
            )
        self.model: Any = model
        self.mean, self.std, self.source = mean, std, source
        config: Any = model.config
        prompts = config.prompt_encoder_config
        self.side: int = prompts.image_size  # of the network's square input, in pixels
        self.grid: int = 4 * (prompts.image_size // prompts.patch_size)  # side of its own masks
        self.keeps_aspect: bool = config.model_type == "sam"  # SAM 2 squashes

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return next(self.model.parameters()).dtype

    @torch.no_grad()
    def embed(self, image: Tensor) -> SamImage:
        """Embed a picture (3, H, W) in [0, 1], any size.

        SAM resizes the long side to `side` pixels and pads with zeros at the right or the bottom;
        SAM 2 squashes the picture to a square.
        """
        if image.ndim != 3 or image.shape[0] != 3 or not image.numel():
            raise WordmaskError(f"got a picture of shape {tuple(image.shape)}; SAM takes (3, H, W)")
        height, width = image.shape[1:]
        covered = self.side, self.side
        if self.keeps_aspect:
            scale = self.side / max(height, width)
            covered = max(round(height * scale), 1), max(round(width * scale), 1)
        x = image.to(self.device, torch.float32)[None]
        x = F.interpolate(x, size=covered, mode="bilinear", antialias=True)
        x = (x - x.new_tensor(self.mean)[:, None, None]) / x.new_tensor(self.std)[:, None, None]
        x = F.pad(x, (0, self.side - covered[1], 0, self.side - covered[0]))
        with stage("embedding the picture"):
            embeddings = self.model.get_image_embeddings(x.to(self.dtype))
        levels = (embeddings,) if isinstance(embeddings, Tensor) else tuple(embeddings)
        for level in levels:
            check_finite(level, f"the embeddings of {self.source}", self.dtype)
        return SamImage(self, levels, (height, width), covered)


@dataclass(frozen=True)
class SamImage:
    """A picture that SAM has embedded, ready for prompts.

    Attributes:
        tower: the network.
        embeddings: of the picture, (1, D, h, w) each: one for SAM, three levels for SAM 2.
        size: H, W of the picture.
        covered: height and width of the picture in the network's square.
    """

    tower: SamTower
    embeddings: tuple[Tensor, ...]
    size: tuple[int, int]
    covered: tuple[int, int]

    @property
    def grid(self) -> tuple[int, int]:
        """h, w of the masks: the picture's aspect, the long side as fine as the network's own."""
        scale = self.tower.grid / max(self.size)
        return max(round(self.size[0] * scale), 1), max(round(self.size[1] * scale), 1)

    @torch.no_grad()
    def predict(
        self,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        *,
        multimask: bool = True,
    ) -> Masks:
        """Masks of P prompts, each of points, a box, a mask, or several of these.

        Args:
            points: (P, n, 2), x and y.
            labels: (P, n), 1 for a point on the object and 0 for one off it; None: all 1.
            boxes: (P, 4), left, top, right, bottom.
            masks: (P, h, w) logits over the whole picture on any grid.
            multimask: three masks per prompt, for whole, part and subpart, instead of one.

        Raises:
            WordmaskError: no prompt, or shapes that do not fit together.
        """
        given = [x for x in (points, boxes, masks) if x is not None]
        count = len(given[0]) if given else 0
        fits = (
            all(len(x) == count for x in given)
            and (points is None or (points.ndim == 3 and points.shape[2] == 2))
            and (labels is None or (points is not None and labels.shape == points.shape[:2]))
            and (boxes is None or boxes.shape[1:] == (4,))
            and (masks is None or masks.ndim == 3)
        )
        if not given or not fits:
            shapes = [None if x is None else tuple(x.shape) for x in (points, labels, boxes, masks)]
            raise WordmaskError(
                f"got points, labels, boxes, masks of shapes {shapes}; give P prompts as points "
                "(P, n, 2) with labels (P, n), boxes (P, 4) or masks (P, h, w)"
            )
        prompts: dict[str, Tensor] = {}
        if points is not None:
            prompts["input_points"] = self._to_square(points)[:, None]
            marks = torch.ones(points.shape[:2]) if labels is None else labels
            prompts["input_labels"] = marks.to(self.tower.device, torch.int)[:, None]
        if boxes is not None:
            prompts["input_boxes"] = self._to_square(boxes.unflatten(1, (2, 2))).flatten(1)[:, None]
        if masks is not None:
            prompts["input_masks"] = self._mask_prompts(masks)
        logits, iou = [], []
        for start in steps("prompts", range(0, count, PROMPTS), count, lambda _: PROMPTS):
            part = {name: x[start : start + PROMPTS] for name, x in prompts.items()}
            here = [x.expand(min(PROMPTS, count - start), -1, -1, -1) for x in self.embeddings]
            out = self.tower.model(
                image_embeddings=here[0] if len(here) == 1 else here,
                multimask_output=multimask,
                **part,
            )
            logits.append(self._to_picture(out.pred_masks[:, 0].float()))
            iou.append(out.iou_scores[:, 0].float())
        if not logits:
            return Masks(torch.empty(0, 1, *self.grid), torch.empty(0, 1))
        return Masks(torch.cat(logits), torch.cat(iou))

    def separate(self, groups: Sequence[Tensor], most: int = 32) -> Tensor:
        """One mask for each group of points (n, 2), with the other groups' points as negatives.

        most: number of positive, and of negative, points per prompt at most, evenly picked.

        Returns:
            (groups, h, w) logits; negative everywhere for a group without points.
        """
        out = torch.full((len(groups), *self.grid), OUTSIDE, device=self.tower.device)
        for k, group in enumerate(steps("prompts", groups)):
            if not len(group):
                continue
            own = pick_evenly(group, most)
            rest = [x for i, x in enumerate(groups) if i != k]
            others = pick_evenly(torch.cat([own[:0], *rest]), most)
            labels = torch.cat([torch.ones(len(own)), torch.zeros(len(others))])
            out[k] = self.predict(torch.cat([own, others])[None], labels[None]).best[0]
        return out

    def everything(
        self, points_per_side: int = 16, min_iou: float = 0.8, max_overlap: float = 0.7
    ) -> tuple[Tensor, Tensor]:
        """Masks of everything in the picture, from a grid of points.

        Args:
            points_per_side: of the grid.
            min_iou: masks need this estimated IoU, and this IoU between the masks with the
                threshold of their logits moved up and down by 1 (SAM's stability).
            max_overlap: of masks with a higher IoU than this, the better one is kept.

        Returns:
            (K, h, w) bool, which may overlap, and their estimated IoU (K,), best first.
        """
        axes = [(torch.arange(points_per_side) + 0.5) / points_per_side * n for n in self.size]
        y, x = torch.meshgrid(*axes, indexing="ij")
        points = torch.stack([x, y], -1).flatten(0, 1)[:, None]
        some = steps("points", points.split(PROMPTS), len(points), len)
        good = [good_masks(self.predict(prompts), min_iou) for prompts in some]
        logits, quality = torch.cat([m for m, _ in good]), torch.cat([q for _, q in good])
        return choose_masks(logits, quality, max_overlap)

    def _to_square(self, points: Tensor) -> Tensor:
        """Points (..., 2) in the picture to pixel indices of the network's square."""
        scale = [self.covered[1] / self.size[1], self.covered[0] / self.size[0]]
        points = points.to(self.tower.device, torch.float32)
        return points * points.new_tensor(scale) - 0.5  # the network adds 0.5 itself

    def _to_picture(self, logits: Tensor) -> Tensor:
        """Resample masks on the network's square (P, m, s, s) to the picture's `grid`."""
        return _resample(logits, self.grid, [c / self.tower.side for c in self.covered])

    def _mask_prompts(self, masks: Tensor) -> Tensor:
        """Resample masks on the picture (P, h, w) to the network's square (P, 1, s, s)."""
        s, side = self.tower.grid, self.tower.side
        masks = masks.to(self.tower.device, torch.float32)[:, None]
        prompts = _resample(masks, (s, s), [side / c for c in self.covered])
        middle = (torch.arange(s, device=masks.device) + 0.5) * (side / s)
        inside = (middle[:, None] < self.covered[0]) & (middle < self.covered[1])
        return prompts.masked_fill(~inside, OUTSIDE).to(self.tower.dtype)


def good_masks(masks: Masks, min_iou: float) -> tuple[Tensor, Tensor]:
    """The masks that reach `min_iou`, see `SamImage.everything`: (K, h, w) logits, quality (K,)."""
    logits, iou = masks.logits.flatten(0, 1), masks.iou.flatten()
    high = (logits > STABLE).flatten(1).sum(1)
    low = (logits > -STABLE).flatten(1).sum(1)
    good = (iou >= min_iou) & (high >= min_iou * low) & (high > 0)
    return logits[good], iou[good]


def choose_masks(logits: Tensor, quality: Tensor, max_overlap: float) -> tuple[Tensor, Tensor]:
    """Drop masks that overlap a better one: (K, h, w) bool and quality (K,), best first."""
    order = quality.argsort(descending=True, stable=True)
    kept = order[different(logits[order], max_overlap)]
    return logits[kept] > 0, quality[kept]


def different(logits: Tensor, most: float) -> Tensor:
    """Indices of masks (K, h, w), best first, with no better mask at an IoU above `most`."""
    scale = SMALL / max(logits.shape[1:])
    if scale < 1 and len(logits):
        size = [max(round(n * scale), 1) for n in logits.shape[1:]]
        logits = F.interpolate(logits[:, None], size=size, mode="bilinear")[:, 0]
    masks = (logits > 0).flatten(1).float()
    area, both = masks.sum(1), masks @ masks.T
    iou = both / (area[:, None] + area - both).clamp_min(1)
    kept: list[int] = []
    for k in range(len(masks)):
        if not kept or iou[k, kept].max() <= most:
            kept.append(k)
    return torch.tensor(kept, dtype=torch.long, device=logits.device)


def _resample(x: Tensor, size: tuple[int, int], share: Sequence[float]) -> Tensor:
    """Bilinear values of x (P, m, h, w) at a grid of `size` over `share` (down, across) of it."""
    down, across = (
        (torch.arange(n, device=x.device) + 0.5) / n * part * 2 - 1
        for n, part in zip(size, share, strict=True)
    )
    grid = torch.stack(torch.meshgrid(across, down, indexing="xy"), -1)  # (h', w', 2), x first
    return F.grid_sample(
        x, grid.expand(len(x), -1, -1, -1), padding_mode="border", align_corners=False
    )


def centres(index: Tensor, grid: Sequence[int], size: tuple[int, int]) -> Tensor:
    """Centres (n, 2), in a picture of `size` H, W, of patches (n,) of a grid h, w (flat index)."""
    row, column = index // grid[1] + 0.5, index % grid[1] + 0.5
    return torch.stack([column * (size[1] / grid[1]), row * (size[0] / grid[0])], dim=-1)


def pick_evenly(points: Tensor, most: int) -> Tensor:
    """At most `most` of the points (n, ...), at even steps from the first to the last."""
    if len(points) <= most:
        return points
    return points[torch.linspace(0, len(points) - 1, most).round().long()]


def load_sam(
    source: str | os.PathLike[str] | nn.Module,
    *,
    device: torch.device,
    dtype: torch.dtype,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    revision: str | None = None,
) -> SamTower:
    """Load SAM or SAM 2 in transformers format; a model in memory is used as it is.

    Other arguments as for `load_clip`.

    Raises:
        WordmaskError: no such folder or files, the hub cannot be reached, another kind of model.
    """
    source = read_source(at_revision(source, revision), device, dtype)
    if isinstance(source, nn.Module):
        return SamTower(source)
    name = os.fspath(source)

    def check(folder: Path) -> None:
        kind = model_type(folder, name)
        if kind not in MODELS:
            raise WordmaskError(f"got a {kind!r} model from {name} as SAM; give a SAM or SAM 2")

    def load(folder: Path) -> SamTower:
        kind = MODELS[model_type(folder, name)]
        model = read_model(kind, folder, name, "SAM", device=device, dtype=dtype)
        mean, std = read_normalisation(folder, (IMAGENET_MEAN, IMAGENET_STD))
        return SamTower(model, mean=mean, std=std, source=name)

    return load_from(
        name,
        load,
        Files(),
        kind="SAM",
        check=check,
        half=dtype.itemsize == 2,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
    )
