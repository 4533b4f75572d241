"""Corrupted pictures: noise, blur, JPEG, fog and contrast at three severities.

The kinds follow Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations" (ICLR 2019); its severities 1, 3 and 5 are 1, 2 and 3 here for noise,
JPEG and contrast. Its pictures have 224 pixels; blur and fog are scaled with the short side, so
that the effect is the same at any size; noise and JPEG act on single pixels. The code and the fog
are our own, so numbers are comparable with each other and not with ImageNet-C.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from wordmask.errors import WordmaskError, unknown

SEVERITIES = (1, 2, 3)


def corrupt(
    image: np.ndarray, kind: str, severity: int, *, seed: int = 0, picture: str = ""
) -> np.ndarray:
    """A corrupted copy of a picture.

    Args:
        image: uint8 (H, W, 3), RGB.
        kind: one of `CORRUPTIONS`.
        severity: 1, 2 or 3.
        seed: of the draws.
        picture: the id of the picture. Draws depend on seed, kind and id alone, so that all workers
            agree, and severities share their draws.

    Returns:
        uint8 (H, W, 3).

    Raises:
        WordmaskError: an unknown kind or severity, anything but a uint8 picture.
    """
    if kind not in CORRUPTIONS:
        raise unknown("corruption", kind, CORRUPTIONS)
    if severity not in SEVERITIES:
        raise WordmaskError(f"got severity {severity}; give one of 1, 2 and 3")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise WordmaskError(
            f"got a {image.dtype} picture of shape {image.shape}; give uint8 (H, W, 3)"
        )
    key = hashlib.blake2b(f"{seed} {kind} {picture}".encode(), digest_size=16).digest()
    random = np.random.default_rng(int.from_bytes(key, "little"))
    return CORRUPTIONS[kind](image, severity - 1, random)


def noise(image: np.ndarray, level: int, random: np.random.Generator) -> np.ndarray:
    """Gaussian noise of standard deviation 0.08, 0.18 or 0.38 of the full range, per channel."""
    deviation = (0.08, 0.18, 0.38)[level]
    drawn = random.standard_normal(image.shape, np.float32)
    return _to_uint8(image + (255 * deviation) * drawn)


def blur(image: np.ndarray, level: int, random: np.random.Generator) -> np.ndarray:
    """Gaussian blur of radius 1, 2.5 or 5 pixels for each 224 pixels of the short side."""
    radius = (1, 2.5, 5)[level] * min(image.shape[:2]) / 224
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def jpeg(image: np.ndarray, level: int, random: np.random.Generator) -> np.ndarray:
    """JPEG of quality 25, 15 or 7, colours at half resolution."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=(25, 15, 7)[level], subsampling="4:2:0")
    return np.asarray(Image.open(file).convert("RGB"))


def fog(image: np.ndarray, level: int, random: np.random.Generator) -> np.ndarray:
    """Light grey clouds of fog with a mean transmission of 0.6, 0.4 or 0.25.

    A picture in fog is the picture times t plus the colour of the fog times 1 - t; t is
    exp(-depth) with a depth between half and one and a half times its mean.
    """
    depth = -np.log((0.6, 0.4, 0.25)[level])
    cloud = 0.5 + clouds(image.shape[0], image.shape[1], random)
    through = np.exp(-depth * cloud)[..., None].astype(np.float32)
    return _to_uint8(image * through + 225 * (1 - through))


def contrast(image: np.ndarray, level: int, random: np.random.Generator) -> np.ndarray:
    """Contrast of 0.4, 0.2 or 0.05 around the mean colour of the picture."""
    mean = image.mean((0, 1), dtype=np.float64, keepdims=True).astype(np.float32)
    return _to_uint8(mean + (0.4, 0.2, 0.05)[level] * (image - mean))


CORRUPTIONS: dict[str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]] = {
    "noise": noise,
    "blur": blur,
    "jpeg": jpeg,
    "fog": fog,
    "contrast": contrast,
}
"""All corruptions by name."""


def clouds(height: int, width: int, random: np.random.Generator) -> np.ndarray:
    """Smooth noise (H, W) float32 from 0 to 1: grids of 2, 4, 8 ... cells, each half as strong."""
    total = np.zeros((height, width), np.float32)
    for octave in range(1, 7):
        cells = 2**octave
        shape = (cells * height // min(height, width) + 1, cells * width // min(height, width) + 1)
        grid = Image.fromarray(random.random(shape, np.float32))
        total += np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC)) / cells
    low, high = total.min(), total.max()
    return (total - low) / max(high - low, np.float32(1e-6))


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.rint(values).clip(0, 255).astype(np.uint8)
