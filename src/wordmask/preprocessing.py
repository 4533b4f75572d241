"""How a picture is resized, normalised, padded and cut into windows for CLIP, with its options."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.errors import WordmaskError
from wordmask.images import prepare, target_size
from wordmask.options import Options
from wordmask.towers.clip import ClipTower, PositionMode
from wordmask.towers.memory import check_memory
from wordmask.windows import Window, place_windows


@dataclass(frozen=True)
class Preprocessing(Options):
    """The options of a pass of CLIP over a picture. Methods that agree in them can share a pass.

    Args:
        short_side: the picture's short side in pixels; None keeps its size.
        long_side: limit of the long side in pixels.
        resample: "pil-bicubic", "pil-bilinear" (both antialiased) or "cv2-bilinear".
        whole_patches: round both sides to whole patches when resizing.
        remainder: what happens to pixels beyond whole patches: "drop" them and stretch the map, or
            "pad" with zeros around the picture and cut the pad off the map.
        position: how the position embedding is resized, see `towers.clip.position_embedding`.
        activation: "checkpoint", or "gelu" / "quick_gelu" to replace that of the checkpoint.
        norm_eps: epsilon of the blocks' layer norms; None leaves them as they are.
        mean, std: normalisation; None takes that of the checkpoint if stated, else CLIP's.
        window, stride: sliding windows in pixels; window 0 takes the whole picture.
        stitch: join the windows before the last block, which then sees the whole picture, so that
            no seams show; see `towers.stitched`. Off, windows are labelled apart and averaged.
    """

    own_windows: ClassVar[bool] = False  # the method's `encode` slides windows itself
    joint_windows: ClassVar[bool] = False  # `encode` takes all windows of a picture at once

    short_side: int | None = 336
    long_side: int = 2048
    resample: Literal["pil-bicubic", "pil-bilinear", "cv2-bilinear"] = "cv2-bilinear"
    whole_patches: bool = False
    remainder: Literal["drop", "pad"] = "drop"
    position: PositionMode = "bicubic_offset"
    activation: Literal["checkpoint", "gelu", "quick_gelu"] = "checkpoint"
    norm_eps: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    window: int = 0
    stride: int = 112
    stitch: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        sides = [self.stride, self.long_side]
        sides += [] if self.short_side is None else [self.short_side]
        if self.window < 0 or min(sides) < 1:
            raise WordmaskError(
                f"got window={self.window}, stride={self.stride}, short_side={self.short_side}, "
                f"long_side={self.long_side}; sizes are pixels above 0 (window 0: whole picture)"
            )
        if self.stitch and (self.own_windows or self.joint_windows):
            raise WordmaskError(
                f"got stitch=True for {self.name}, which joins windows in a way of its own; leave "
                "stitch out"
            )
        if self.stitch and not self.window:
            raise WordmaskError(
                "got stitch=True without windows; give their size too, as window=224"
            )

    def pass_key(self) -> Hashable:
        """All options of this class: everything that a pass depends on but the outputs it keeps."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(Preprocessing)}
        if not self.window:
            return tuple((values | {"stride": 0}).items())
        return (*values.items(), self.own_windows, self.joint_windows)

    def prepare(self, picture: np.ndarray, tower: ClipTower) -> Tensor:
        """Resize and normalise an upright uint8 picture (H, W, 3), if it fits into memory.

        Returns (3, H', W') float32, at least one patch on each side, not yet padded.
        """
        mean, std = self.normalisation(tower)
        self.check_size(picture.shape[0], picture.shape[1], tower)
        pixels = prepare(
            picture,
            short_side=self.short_side,
            long_side=self.long_side,
            resample=self.resample,
            multiple=tower.patch if self.whole_patches else 1,
            mean=mean,
            std=std,
            minimum_side=tower.patch,
        )
        return torch.from_numpy(pixels)

    def resized(self, height: int, width: int, tower: ClipTower) -> tuple[int, int]:
        """Height and width to which `prepare` resizes a picture."""
        return target_size(
            height,
            width,
            short_side=self.short_side,
            long_side=self.long_side,
            multiple=tower.patch if self.whole_patches else 1,
            minimum_side=tower.patch,
        )

    def check_size(self, height: int, width: int, tower: ClipTower, more_maps: int = 0) -> None:
        """Refuse a picture of (height, width) pixels that would not fit into memory once resized.

        Counted are the pixels as float32, and for L patches in one pass (of a window, if there are
        windows apart) the (L, L) maps that are held at once, `more_maps` of them by what is no part
        of the method, and two (L, E) of every block.

        Raises:
            TooLargeError: more than the free memory of the device.
        """
        size = self.resized(height, width, tower)
        apart = self.window and not self.stitch
        sides = [min(side, self.window) if apart else side for side in size]
        patches = math.prod(-(-side // tower.patch) for side in sides)
        needed = 2 * 12 * math.prod(size)
        maps = self.maps_held(tower) + more_maps
        needed += 4 * (maps * patches**2 + 2 * tower.depth * patches * tower.width)
        check_memory(
            f"a picture of {width} x {height}, resized to {size[1]} x {size[0]} ({patches} patches"
            " at a time),",
            needed,
            tower.device,
            "make short_side or long_side smaller",
        )

    def maps_held(self, tower: ClipTower) -> int:
        """How many maps from patches to patches a pass holds at once: two, if it mixes patches."""
        return 2

    def check(self, pixels: Tensor, tower: ClipTower) -> None:
        """Check a tensor that takes the place of prepared pictures.

        Raises:
            WordmaskError: not float (B, 3, H, W), NaN, or smaller than a patch.
        """
        shape = tuple(pixels.shape)
        if pixels.ndim != 4 or shape[1] != 3 or not pixels.is_floating_point() or not len(pixels):
            raise WordmaskError(
                f"got a {str(pixels.dtype).removeprefix('torch.')} tensor of shape {shape}; give "
                "float (B, 3, H, W), normalised"
            )
        if not torch.isfinite(pixels).all():
            raise WordmaskError("got pixels that are NaN or infinite; the tensor must be finite")
        if min(shape[2:]) < tower.patch and self.remainder == "drop":
            raise WordmaskError(
                f"got a tensor of shape {shape}; both sides need at least one patch, {tower.patch} "
                "pixels"
            )

    def normalisation(self, tower: ClipTower) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the three channels."""
        return self.mean or tower.mean, self.std or tower.std

    def unnormalise(self, pixels: Tensor, tower: ClipTower) -> Tensor:
        """Undo the normalisation of (..., 3, H, W); about 0 to 1."""
        shift, scale = pixels.new_tensor(self.normalisation(tower))[..., None, None]
        return pixels * scale + shift

    @property
    def windows_apart(self) -> bool:
        """Whether the pipeline cuts pictures into windows."""
        return bool(self.window) and not (self.own_windows or self.stitch)

    def place_windows(self, height: int, width: int, patch: int) -> tuple[Window, ...]:
        """The windows over a picture of (H', W') pixels; none if it is taken whole.

        Those that do not lie apart are of whole patches, and may begin outside, on padding.
        """
        if not self.window:
            return ()
        if self.windows_apart:
            windows = place_windows(height, width, self.window, self.stride)
        else:
            top, left, bottom, right = self.padding(height, width, patch)
            grid = (height + top + bottom) // patch, (width + left + right) // patch
            sizes = (max(side // patch, 1) for side in (self.window, self.stride))
            windows = tuple(
                Window(patch * y - top, patch * x - left, patch * h, patch * w)
                for y, x, h, w in place_windows(*grid, *sizes)
            )
        return windows if len(windows) > 1 else ()

    def padding(self, height: int, width: int, patch: int) -> tuple[int, int, int, int]:
        """What `pad` adds to a picture of (height, width) at (top, left, bottom, right)."""
        if self.remainder == "drop":
            return 0, 0, 0, 0
        tall, wide = (-height) % patch, (-width) % patch
        top, left = tall // 2, wide // 2
        return top, left, tall - top, wide - left

    def pad(self, pixels: Tensor, patch: int) -> tuple[Tensor, tuple[int, int, int, int]]:
        """Pad (B, 3, H, W) to whole patches if `remainder` is "pad".

        Returns the pixels, and the padding at (top, left, bottom, right).
        """
        pad = self.padding(pixels.shape[2], pixels.shape[3], patch)
        if not any(pad):
            return pixels, pad
        return F.pad(pixels, (pad[1], pad[3], pad[0], pad[2])), pad
