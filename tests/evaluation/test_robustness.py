"""Corrupted pictures: what they do, and that they follow from seed and id alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordmask.errors import WordmaskError
from wordmask.evaluation.robustness import CORRUPTIONS, SEVERITIES, clouds, corrupt


@pytest.fixture(scope="module")
def picture():
    """Smooth colours, a sharp edge and fine stripes, not square."""
    y, x = np.mgrid[:90, :140].astype(np.float32)
    image = np.stack([x * 1.5, y * 2, 120 + 60 * np.sin(x)], axis=2)
    image[30:60, 40:80] = (220, 30, 60)
    return image.clip(0, 255).astype(np.uint8)


def difference(a, b):
    return np.abs(a.astype(float) - b).mean()


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_each_severity_takes_more_away(kind, picture):
    before = picture.copy()
    found = [corrupt(picture, kind, severity) for severity in SEVERITIES]
    assert np.array_equal(picture, before)
    for image in found:
        assert (image.dtype, image.shape) == (np.uint8, picture.shape)
    first, second, third = (difference(image, picture) for image in found)
    assert 0.5 < first < second < third


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_it_follows_from_seed_and_id_alone(kind, picture):
    one = corrupt(picture, kind, 2, seed=1, picture="a")
    corrupt(picture, kind, 1, seed=9, picture="z")  # what was drawn between does not matter
    np.random.default_rng(0).random(5)
    assert np.array_equal(one, corrupt(picture, kind, 2, seed=1, picture="a"))
    drawn = kind in ("noise", "fog")
    for other in ({"seed": 2, "picture": "a"}, {"seed": 1, "picture": "b"}):
        assert np.array_equal(one, corrupt(picture, kind, 2, **other)) != drawn


def test_a_severity_is_the_same_noise_and_fog_made_stronger(picture):
    grey = np.full((60, 80, 3), 128, np.uint8)
    for kind in ("noise", "fog"):
        found = [corrupt(grey, kind, s, picture="x").astype(float) for s in (1, 2)]
        assert np.corrcoef(found[0].ravel(), found[1].ravel())[0, 1] > 0.9


def test_noise_has_its_deviation():
    grey = np.full((200, 200, 3), 128, np.uint8)
    found = corrupt(grey, "noise", 1).astype(float)
    assert found.std() == pytest.approx(0.08 * 255, rel=0.02)
    assert found.mean() == pytest.approx(128, abs=0.5)


def test_contrast_keeps_the_mean_colour(picture):
    for severity, factor in zip(SEVERITIES, (0.4, 0.2, 0.05), strict=True):
        found = corrupt(picture, "contrast", severity)
        np.testing.assert_allclose(found.mean((0, 1)), picture.mean((0, 1)), atol=0.5)
        np.testing.assert_allclose(found.std((0, 1)), factor * picture.std((0, 1)), rtol=0.1)


def test_blur_grows_with_the_picture():
    step = np.zeros((64, 64, 3), np.uint8)
    step[:, 32:] = 200

    def width(image):
        row = image[len(image) // 2, :, 0].astype(int)
        return ((row > 20) & (row < 180)).sum()

    small = width(corrupt(step, "blur", 3))
    large = width(corrupt(step.repeat(4, 0).repeat(4, 1), "blur", 3))
    assert small > 1
    assert large == pytest.approx(4 * small, rel=0.3)


def test_fog_is_bright_and_soft():
    black = np.zeros((80, 120, 3), np.uint8)
    found = [corrupt(black, "fog", s).astype(float) for s in SEVERITIES]
    means = [image.mean() / 225 for image in found]
    for mean, through in zip(means, (0.6, 0.4, 0.25), strict=True):
        assert mean == pytest.approx(1 - through, abs=0.12)
    cloud = clouds(80, 120, np.random.default_rng(0))
    assert (cloud.shape, cloud.min(), cloud.max()) == ((80, 120), 0, 1)
    neighbours = np.abs(np.diff(cloud, axis=1)).mean()
    assert neighbours < 0.2 * cloud.std()


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 40), st.sampled_from(list(CORRUPTIONS)), st.integers(1, 3)
)
def test_any_size(height, width, kind, severity):
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    found = corrupt(image, kind, severity)
    assert (found.shape, found.dtype) == (image.shape, np.uint8)


@pytest.mark.parametrize(
    ("image", "kind", "severity", "match"),
    [
        (np.zeros((4, 4, 3), np.uint8), "snow", 1, "unknown corruption 'snow'"),
        (np.zeros((4, 4, 3), np.uint8), "nois", 1, "did you mean noise"),
        (np.zeros((4, 4, 3), np.uint8), "fog", 4, "severity 4"),
        (np.zeros((4, 4, 3), np.float32), "fog", 1, "float32 picture"),
        (np.zeros((4, 4), np.uint8), "fog", 1, r"shape \(4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), "fog", 1, r"\(0, 4, 3\)"),
    ],
)
def test_bad_input_is_named(image, kind, severity, match):
    with pytest.raises(WordmaskError, match=match):
        corrupt(image, kind, severity)
