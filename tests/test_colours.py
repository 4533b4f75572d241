from __future__ import annotations

import numpy as np
import pytest

from wordmask.colours import heat_colours, oklch_to_rgb, palette, rgb_to_oklab, tones

# G. Machado, M. Oliveira, L. Fernandes, "A Physiologically-based Model for Simulation of Color
# Vision Deficiency" (2009), severity 1.0, for linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}


def lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB bytes to CIE L*a*b* (D65): another measure than the one the colours are made in."""
    linear = rgb / 255
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = linear @ to_xyz.T / (to_xyz.sum(axis=1))
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack(
        [116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1
    )


def least_distance(rgb: np.ndarray) -> float:
    values = lab(rgb)
    distances = np.linalg.norm(values[:, None] - values[None], axis=-1)
    return float(distances[np.triu_indices(len(values), 1)].min())


def seen(rgb: np.ndarray, vision: str) -> np.ndarray:
    """Colours as they look under a colour vision deficiency, in sRGB bytes, not rounded."""
    linear = rgb / 255
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    linear = (linear @ VISION[vision].T).clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def nearest(rgb: np.ndarray) -> float:
    """The least distance of two colours in OKLab."""
    values = rgb_to_oklab(rgb)
    distances = np.linalg.norm(values[:, None] - values[None], axis=-1)
    return float(distances[np.triu_indices(len(values), 1)].min())


@pytest.mark.parametrize("n", [0, 1, 24, 25, 300, 65_535])
def test_palette_has_a_row_for_each_class_after_black(n: int) -> None:
    colours = palette(n)
    assert colours.shape == (n + 1, 3)
    assert colours.dtype == np.uint8
    assert (colours[0] == 0).all()
    assert (colours[1:].max(axis=1) > 40).all()


def test_a_class_keeps_its_colour_when_classes_are_added() -> None:
    everything = palette(65_535)
    for n in (1, 5, 23, 24, 25, 26, 171, 847):
        np.testing.assert_array_equal(palette(n), everything[: n + 1])


def test_first_colours_are_far_apart_and_far_from_black_white_and_grey() -> None:
    colours = palette(24)
    assert least_distance(np.vstack([colours, [[255] * 3], [[128] * 3]])) > 12
    assert least_distance(colours[1:11]) > 25


def test_no_two_of_255_colours_are_equal() -> None:
    assert len(np.unique(palette(255), axis=0)) == 256


def test_oklch_of_known_colours() -> None:
    # OKLCH of sRGB red, green, blue and white as given in CSS Color 4.
    rgb = oklch_to_rgb(
        np.array([0.62796, 0.86644, 0.45201, 1.0]),
        np.array([0.25768, 0.29483, 0.31321, 0.0]),
        np.array([29.2339, 142.4953, 264.0520, 0.0]),
    )
    expected = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]])
    assert np.abs(rgb.astype(int) - expected).max() <= 2


@pytest.mark.parametrize(
    ("vision", "ten", "all_of_them"),
    [
        ("normal", 0.19, 0.125),
        ("protanopia", 0.11, 0.07),
        ("deuteranopia", 0.11, 0.07),
        ("tritanopia", 0.11, 0.07),
    ],
)
def test_all_pairs_of_the_first_24_under_each_colour_vision(
    vision: str, ten: float, all_of_them: float
) -> None:
    """Two colours side by side differ from about 0.02 in OKLab on."""
    colours = seen(palette(24)[1:], vision)
    assert nearest(colours[:10]) > ten
    assert nearest(colours) > all_of_them


def test_oklab_there_and_back() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (500, 3))
    lab = rgb_to_oklab(colours)
    hue = np.rad2deg(np.arctan2(lab[:, 2], lab[:, 1]))
    back = oklch_to_rgb(lab[:, 0], np.hypot(lab[:, 1], lab[:, 2]), hue)
    assert np.abs(back.astype(int) - colours).max() <= 1


def test_tones_change_lightness_alone_around_the_colour_of_the_class() -> None:
    colours = np.array([[0, 0, 0], [200, 60, 60], [60, 60, 200]], np.uint8)
    counts = np.zeros((3, 256), int)
    counts[:, 90] = counts[:, 110] = 5  # a photo of two tones
    table = tones(colours, counts, 0.5)
    assert table.shape == (3, 256, 3)
    np.testing.assert_array_equal(table[0], np.rint(0.8 * np.arange(256))[:, None].repeat(3, 1))
    for colour, row in zip(colours[1:], table[1:], strict=True):
        assert np.abs(row[100].astype(int) - colour).max() <= 3
        lab = rgb_to_oklab(row[[90, 110]])
        assert lab[1, 0] - lab[0, 0] > 0.02
        hue = np.arctan2(lab[:, 2], lab[:, 1])
        assert abs(hue[0] - hue[1]) < 0.02
    assert (tones(colours, counts, 0.0)[1] == tones(colours, counts, 0.0)[1, 0]).all()


def test_heat_colours_get_brighter_from_low_to_high() -> None:
    lightness = lab(heat_colours())[:, 0]
    assert (np.diff(lightness) > -0.3).all()
    assert lightness[0] < 15
    assert lightness[-1] > 90
    assert np.abs(np.diff(lightness[::32])).min() > 5
