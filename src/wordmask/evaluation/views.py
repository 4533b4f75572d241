"""The part of a picture that is evaluated, see `Protocol.view`."""

from __future__ import annotations

import numpy as np
from PIL import Image

from wordmask.evaluation.protocols import crop_size


def view_picture(image: np.ndarray, view: str) -> list[np.ndarray]:
    """The pieces of a picture (H, W, 3) that are encoded separately."""
    if view == "halves":
        middle = image.shape[1] // 2
        return [np.ascontiguousarray(half) for half in (image[:, :middle], image[:, middle:])]
    side = crop_size(view)
    if not side:
        return [image]
    height, width = _crop_size(image.shape[0], image.shape[1], side)
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    return [np.ascontiguousarray(_centre(np.asarray(resized), side))]


def view_regions(target: np.ndarray, view: str) -> list[np.ndarray]:
    """The target (H, W) of each piece of `view_picture`."""
    if view == "halves":
        middle = target.shape[1] // 2
        return [target[:, :middle], target[:, middle:]]
    return [view_target(target, view)]


def view_target(target: np.ndarray, view: str) -> np.ndarray:
    """The target (H, W) of the pieces of `view_picture`, side by side."""
    side = crop_size(view)
    if not side:
        return target
    height, width = _crop_size(target.shape[0], target.shape[1], side)
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) * (size / n)).astype(int), size - 1)
        for n, size in ((height, target.shape[0]), (width, target.shape[1]))
    )
    return _centre(target[rows[:, None], columns], side)


def _crop_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width with the short side `side`, the long one rounded down."""
    short = min(height, width)
    return side * height // short, side * width // short


def _centre(array: np.ndarray, side: int) -> np.ndarray:
    top, left = (round((length - side) / 2) for length in array.shape[:2])
    return array[top : top + side, left : left + side]
