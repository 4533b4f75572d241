"""Segment Anything (Kirillov et al., ICCV 2023; SAM 2: Ravi et al., 2024) as a refiner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.errors import WordmaskError
from wordmask.progress import steps
from wordmask.refiners.base import Refiner, RefinerInput, register_refiner
from wordmask.towers.auxiliary import AuxiliaryModels
from wordmask.towers.sam import SamImage, centres


@register_refiner
@dataclass(frozen=True)
class Sam(Refiner):
    """Score maps prompt SAM, or vote within its masks.

    - `vote`: a grid of points gives masks of everything in the picture, independent of the words.
      Each mask gets the mean of the scores inside it, a pixel the mean over the masks that contain
      it, weighted by SAM's estimate of their quality; a pixel in no mask keeps its own scores.
    - `points`, `boxes`, `masks`, `surgery`: every map that is the highest somewhere prompts SAM. It
      becomes its mean inside the returned mask and its mean outside, mixed by the mask's
      probability, so that scores stay cosines or probabilities. Maps that are the highest nowhere
      are only resized.

    Args:
        prompt: "vote"; "points": the patches with the highest scores of each map, those of the
            other maps as negatives, as CLIPtrase prompts SAM with clusters; "boxes": around the
            patches at which each map is the highest; "masks": the margin of a map over all others,
            and its points; "surgery": the highest and lowest patches of each map by itself (CLIP
            Surgery's text to points).
        points: number of positive points, and of negative points at most, per prompt.
        points_per_side: the grid of `vote`.
        min_iou: masks of `vote` need this estimated IoU, and this IoU between the masks with the
            threshold of their logits moved up and down by 1 (SAM's stability).
        max_overlap: of masks of `vote` with a higher IoU than this, the better one is kept.
    """

    name = "sam"
    title = "Segment Anything"
    network = "sam"
    variants = {
        "vote": {},
        "points": {"prompt": "points"},
        "boxes": {"prompt": "boxes"},
        "masks": {"prompt": "masks"},
        "surgery": {"prompt": "surgery"},
    }

    prompt: Literal["vote", "points", "boxes", "masks", "surgery"] = "vote"
    points: int = 16
    points_per_side: int = 16
    min_iou: float = 0.8
    max_overlap: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.points, self.points_per_side) < 1:
            raise WordmaskError(
                f"got points={self.points}, points_per_side={self.points_per_side}; "
                "both are at least 1"
            )

    def prepare(self, picture: RefinerInput, networks: AuxiliaryModels) -> Any:
        """The embedded picture; for `vote` its masks (K, h, w) and their quality (K,)."""
        embedded = networks.sam.embed(picture.image)
        if self.prompt != "vote":
            return embedded
        return embedded.everything(self.points_per_side, self.min_iou, self.max_overlap)

    def refine(self, prepared: Any, scores: Tensor) -> Tensor:
        """Scores (R, h, w) on the grid of SAM's masks."""
        if self.prompt == "vote":
            masks, quality = prepared
            return vote(masks, quality, scores)
        won = scores.flatten(1).argmax(0)
        classes = won.unique().tolist()
        prompted = self.prompted(prepared, scores, classes)
        out = F.interpolate(scores[None], size=prepared.grid, mode="bilinear")[0]
        for c, mask in zip(classes, prompted, strict=True):
            inside = mask.sigmoid().to(out)
            if inside.sum() < 1:
                continue
            mean = (inside * out[c]).sum() / inside.sum()
            rest = ((1 - inside) * out[c]).sum() / (1 - inside).sum().clamp_min(1)
            out[c] = inside * mean + (1 - inside) * rest
        return out

    def prompted(self, image: SamImage, scores: Tensor, classes: list[int]) -> list[Tensor]:
        """SAM's mask for each of the maps `classes`, (h, w) logits."""
        won = scores.argmax(0)
        peaks = [peak_places(scores[c], won == c, self.points, image.size) for c in classes]
        if self.prompt == "points":
            return list(image.separate(peaks, self.points))
        if self.prompt == "boxes":
            boxes = torch.stack([box_around(won == c, image.size) for c in classes])
            return list(image.predict(boxes=boxes).best)
        if self.prompt == "surgery":
            prompts = [text_to_points(scores[c], image.size) for c in classes]
            some = steps("prompts", prompts)
            return [image.predict(p[None], labels[None]).best[0] for p, labels in some]
        masks = []
        for c, own in steps("prompts", list(zip(classes, peaks, strict=True))):
            others = torch.cat([scores[:c], scores[c + 1 :]])
            above = scores[c] - others.amax(0) if len(others) else scores[c]
            margin = 5 * above / above.abs().mean().clamp_min(1e-12)
            masks.append(image.predict(own[None], masks=margin.clamp(-10, 10)[None]).best[0])
        return masks


def vote(masks: Tensor, quality: Tensor, scores: Tensor) -> Tensor:
    """Scores (R, h, w) after the vote of all masks, on the masks' grid.

    masks (K, h', w') bool and quality (K,). A pixel gets the mean over its masks, weighted by
    their quality, of the mean score inside each; a pixel in no mask keeps its own.
    """
    own = F.interpolate(scores[None], size=masks.shape[1:], mode="bilinear")[0]
    inside = masks.flatten(1).to(own)  # (K, L)
    votes = own.flatten(1) @ inside.T / inside.sum(1).clamp_min(1)  # (R, K)
    weight = quality.to(own).clamp_min(1e-3)  # an estimate may be below 0
    voted = (votes * weight) @ inside / (weight @ inside).clamp_min(1e-12)
    return torch.where(masks.any(0), voted.view_as(own), own)


def peak_places(scores: Tensor, where: Tensor, most: int, size: tuple[int, int]) -> Tensor:
    """The highest patches of a map (h, w) among those `where`, (n, 2) as x, y in a picture."""
    inside = scores.masked_fill(~where, -torch.inf).flatten()
    best = inside.topk(min(most, int(where.sum()))).indices
    return centres(best, scores.shape, size)


def box_around(where: Tensor, size: tuple[int, int]) -> Tensor:
    """The box (4,) around the patches `where` (h, w), without 2 % of them on each side."""
    h, w = where.shape
    rows, columns = where.nonzero().float().unbind(1)
    share = where.new_tensor([0.02, 0.98], dtype=torch.float32)
    (top, bottom), (left, right) = rows.quantile(share), columns.quantile(share)
    box = torch.stack([left / w, top / h, (right + 1) / w, (bottom + 1) / h])
    return box * box.new_tensor([size[1], size[0], size[1], size[0]])


def text_to_points(
    scores: Tensor, size: tuple[int, int], threshold: float = 0.8, coarser: int = 2
) -> tuple[Tensor, Tensor]:
    """Point prompts from the map of one text (CLIP Surgery, section on prompting SAM).

    The map (h, w) is reduced by `coarser` and stretched to [0, 1]; patches of at least
    `threshold`, at most half of all, are positives, and as many of the lowest are negatives.

    Returns:
        (2n, 2) as x, y in a picture of `size` H, W, positives first, both from low to high; and
        their labels (2n,), 1 and 0.
    """
    grid = [max(n // coarser, 1) for n in scores.shape]
    coarse = F.interpolate(scores[None, None], size=grid, mode="bilinear")[0, 0]
    span = (coarse.max() - coarse.min()).clamp_min(1e-12)
    high = ((coarse - coarse.min()) / span >= threshold).sum()
    count = max(min(int(high), coarse.numel() // 2), 1)
    order = coarse.flatten().argsort(stable=True)
    chosen = torch.cat([order[-count:], order[:count]])
    labels = torch.ones(len(chosen), device=scores.device)
    labels[count:] = 0
    return centres(chosen, coarse.shape, size), labels
