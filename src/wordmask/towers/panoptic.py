"""Mask2Former and EoMT from transformers: a picture in segments, whatever they are called."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wordmask.errors import WordmaskError
from wordmask.towers.fetch import Files
from wordmask.towers.hub import at_revision, load_from, model_type, read_model, read_source

MODELS = {  # by model_type
    "mask2former": ("Mask2FormerForUniversalSegmentation", "Mask2FormerImageProcessor"),
    "eomt": ("EomtForUniversalSegmentation", "EomtImageProcessor"),
    "eomt_dinov3": ("EomtDinov3ForUniversalSegmentation", "EomtImageProcessor"),
}
FILES = Files(required=((("preprocessor_config.json",), ("processor_config.json",)),))


class PanopticTower:
    """Mask2Former or EoMT with the image processor of its checkpoint.

    Args:
        model: one of transformers' classes for universal segmentation; used as it is.
        processor: its image processor; None: that of its kind, with its defaults.
        source: the id or folder that it was loaded from.

    Raises:
        WordmaskError: another kind of model.
    """

    def __init__(self, model: Any, processor: Any = None, source: str = "in memory"):
        kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
        if kind not in MODELS or type(model).__name__ != MODELS[kind][0]:
            raise _wrong_kind(type(model).__name__, source)
        self.kind, self.model = kind, model
        self.processor = processor or _processor(kind)()
        self.source = source

    @torch.no_grad()
    def segments(self, image: Tensor) -> Tensor:
        """The segments of a picture (3, H, W) in [0, 1]: integers (H, W), 0 for none.

        Pre- and post-processing are transformers' own (`post_process_panoptic_segmentation`, with
        its default thresholds); instances are not fused, and labels are not used.
        """
        picture = (image.permute(1, 2, 0).cpu() * 255).round().numpy().astype(np.uint8)
        size = picture.shape[0], picture.shape[1]
        given = self.processor(images=picture, return_tensors="pt")
        weight = next(self.model.parameters())
        pixels = given["pixel_values"].to(weight.device, weight.dtype)
        more = {"pixel_mask": given["pixel_mask"]} if "pixel_mask" in given else {}
        more = {name: x.to(weight.device) for name, x in more.items()}
        out = self.model(pixel_values=pixels, **more)
        out.masks_queries_logits = out.masks_queries_logits.float()
        out.class_queries_logits = out.class_queries_logits.float()
        # Mask2Former's default is the same, with a warning
        fused: dict[str, Any] = {"label_ids_to_fuse": set()} if self.kind == "mask2former" else {}
        post_process = self.processor.post_process_panoptic_segmentation
        (found,) = post_process(out, target_sizes=[size], **fused)
        regions = torch.zeros(size, dtype=torch.int32)
        for number, one in enumerate(found["segments_info"], start=1):
            regions[found["segmentation"].cpu() == one["id"]] = number
        return regions


def load_panoptic(
    source: str | os.PathLike[str] | nn.Module,
    *,
    device: torch.device,
    dtype: torch.dtype,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    revision: str | None = None,
) -> PanopticTower:
    """Load Mask2Former or EoMT in transformers format; a model in memory is used as it is.

    Other arguments as for `load_clip`.

    Raises:
        WordmaskError: no such folder or files, the hub cannot be reached, another kind of model.
    """
    source = read_source(at_revision(source, revision), device, dtype)
    if isinstance(source, nn.Module):
        return PanopticTower(source)
    name = os.fspath(source)

    def check(folder: Path) -> None:
        kind = model_type(folder, name)
        if kind not in MODELS:
            raise _wrong_kind(kind, name)

    def load(folder: Path) -> PanopticTower:
        kind = model_type(folder, name)
        what = "the segmentation network"
        model = read_model(MODELS[kind][0], folder, name, what, device=device, dtype=dtype)
        return PanopticTower(model, _processor(kind).from_pretrained(folder), name)

    return load_from(
        name,
        load,
        FILES,
        kind="the segmentation network",
        check=check,
        half=dtype.itemsize == 2,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
    )


def _processor(kind: str) -> Any:
    """The class of the image processor that needs no torchvision."""
    import transformers

    name = MODELS[kind][1]
    return getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)


def _wrong_kind(kind: str, source: str) -> WordmaskError:
    """The error for a model that is none of `MODELS`."""
    return WordmaskError(
        f"got a {kind!r} model from {source} for regions; give a Mask2Former or an EoMT for "
        "universal segmentation"
    )
