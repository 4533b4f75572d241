"""Colours of classes and of heat maps, chosen in OKLab. Numpy only.

The matrices of OKLab are those of B. Ottosson, "A perceptual color space for image processing"
(2020).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

# The first classes get colours that were searched for: as far apart in OKLab as they go under
# normal vision, protanopia, deuteranopia and tritanopia (Machado et al. 2009, severity 1) at once,
# the first ten first of all. `tests/test_colours.py` says how far.
FIRST_COLOURS = (
    "2d54ff ff9100 1abea5 d70016 c0fb16 510a9e 9775a0 791c00 52ffff 0c6469 d371ff a9bdff "
    "55e587 fe526f 9144c2 fe97d0 bc0f7b 0c98d0 e5ca36 5f2d5d 5a6a0a c87100 0c0acc 68935d"
)
GOLDEN_ANGLE = 180 * (3 - math.sqrt(5))

# Lightness, chroma and hue of the heat map from low to high: dark violet to pale yellow, with
# lightness rising evenly, so that it also reads in grey.
HEAT_ANCHORS = (
    (0.16, 0.05, 285.0),
    (0.32, 0.17, 292.0),
    (0.48, 0.20, 345.0),
    (0.64, 0.21, 390.0),
    (0.80, 0.17, 430.0),
    (0.96, 0.09, 465.0),
)
DIMMED = 0.8  # of the lightness of pixels that have no class


def palette(n: int) -> np.ndarray:
    """Colours for ``n`` classes: (n + 1, 3) uint8, row 0 black for "none of the words".

    Row i does not depend on ``n``: a class keeps its colour when classes are added. From the 25th
    class on the hue advances by the golden angle while lightness and chroma alternate.
    """
    colours = np.zeros((n + 1, 3), dtype=np.uint8)
    first = np.array([list(bytes.fromhex(colour)) for colour in FIRST_COLOURS.split()], np.uint8)
    colours[1 : len(first) + 1] = first[:n]
    if n > len(first):
        index = np.arange(len(first) + 1, n + 1)
        lightness = np.array([0.72, 0.52, 0.83, 0.62, 0.42])[index % 5]
        chroma = np.array([0.19, 0.11, 0.15])[index // 5 % 3]
        colours[len(first) + 1 :] = oklch_to_rgb(lightness, chroma, GOLDEN_ANGLE * index)
    return colours


def tones(colours: np.ndarray, counts: np.ndarray, contrast: float) -> np.ndarray:
    """The colour of each class in the tones of a photo in grey, (C, 256, 3) uint8.

    Only the lightness follows the photo, and it is that of the class where the photo has the mean
    lightness of the class: the mean colour of a region is the colour in the legend, whatever the
    photo shows there.

    Args:
        colours: (C, 3) uint8; black takes the tones of the photo, dimmed.
        counts: (C, 256) pixels of each class and grey.
        contrast: share of the photo's differences in lightness that is kept, 0 to 1.
    """
    grey = rgb_to_oklab(np.arange(256)[:, None].repeat(3, axis=1))[:, 0]
    mean = counts @ grey / counts.sum(axis=1).clip(1)
    lab = rgb_to_oklab(colours)
    lightness = lab[:, :1] + contrast * (grey - mean[:, None])
    low, high = np.minimum(lab[:, :1] - 0.03, 0.2), np.maximum(lab[:, :1] + 0.03, 0.92)
    lightness = lightness.clip(low, high)  # beyond there is hardly any colour
    chroma, hue = np.hypot(lab[:, 1], lab[:, 2]), np.rad2deg(np.arctan2(lab[:, 2], lab[:, 1]))
    every = np.broadcast_arrays(lightness, chroma[:, None], hue[:, None])
    tinted = oklch_to_rgb(*(one.ravel() for one in every)).reshape(*lightness.shape, 3)
    plain = np.rint(DIMMED * np.arange(256)).astype(np.uint8)[:, None].repeat(3, axis=1)
    return np.where(colours.max(axis=1)[:, None, None] > 0, tinted, plain)


def rgb_to_oklab(rgb: np.ndarray) -> np.ndarray:
    """SRGB bytes (..., 3) to OKLab: lightness 0 to 1, and two axes of colour."""
    linear = rgb / 255
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    to_cone = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    to_lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    lab: np.ndarray = np.cbrt(linear @ to_cone.T) @ to_lab.T
    return lab


def oklch_to_rgb(lightness: np.ndarray, chroma: np.ndarray, hue: np.ndarray) -> np.ndarray:
    """OKLCH (hue in degrees) to uint8 sRGB; chroma is reduced for colours outside sRGB."""
    to_cone = np.array(
        [
            [1.0, 0.3963377774, 0.2158037573],
            [1.0, -0.1055613458, -0.0638541728],
            [1.0, -0.0894841775, -1.2914855480],
        ]
    )
    to_linear = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    angle = np.deg2rad(hue)

    def linear(chroma: np.ndarray) -> np.ndarray:
        lab = np.stack([lightness, chroma * np.cos(angle), chroma * np.sin(angle)], axis=-1)
        return (lab @ to_cone.T) ** 3 @ to_linear.T

    low, high = np.zeros_like(chroma), chroma.astype(float)
    low = np.where(_in_gamut(linear(high)), high, low)
    for _ in range(12):
        middle = (low + high) / 2
        fits = _in_gamut(linear(middle))
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    rgb = linear(low).clip(0, 1)
    rgb = np.where(rgb <= 0.0031308, 12.92 * rgb, 1.055 * rgb ** (1 / 2.4) - 0.055)
    return np.rint(255 * rgb).astype(np.uint8)


def _in_gamut(linear: np.ndarray) -> np.ndarray:
    return np.all((linear > -1e-4) & (linear < 1 + 1e-4), axis=-1)


@lru_cache(maxsize=1)
def heat_colours() -> np.ndarray:
    """The 256 colours of a heat map, low to high, (256, 3) uint8."""
    anchors = np.array(HEAT_ANCHORS)
    at = np.linspace(0, len(anchors) - 1, 256)
    lightness, chroma, hue = (
        np.interp(at, np.arange(len(anchors)), column) for column in anchors.T
    )
    return oklch_to_rgb(lightness, chroma, hue)
