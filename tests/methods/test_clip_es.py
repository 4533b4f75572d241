"""CLIP-ES: what known labels change; its maps are tested with CaR, which uses them too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tiny import class_scores, tiny_clip
from wordmask import Background, Segmenter, WordmaskError
from wordmask.methods import create_method
from wordmask.methods.clip_es.maps import cosine_maps, gradcam, spread_in_boxes


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter.from_pretrained(tiny_clip(), "clip_es")


def picture(seed: int = 7) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (4, 6, 3), np.uint8).repeat(16, 0).repeat(16, 1)


def unit_rows(count: int, seed: int = 1) -> torch.Tensor:
    return F.normalize(torch.randn(count, 48, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_the_maps_are_those_of_the_paper(segmenter):
    """GradCAM among words and background words, then the affinity inside boxes above 0.4."""
    encoding, words, background = segmenter.encode(picture()), unit_rows(3), unit_rows(2, seed=5)
    rows = torch.cat([words, background])
    state = encoding.state
    cosines, signed = cosine_maps(segmenter.tower, state.states[0], rows, 96)
    maps = gradcam(100 * cosines, signed)[:3].unflatten(1, (8, 12))
    expected = spread_in_boxes(maps, state.spread[0], 0.4)
    (scored,) = class_scores(segmenter, encoding, words, background)
    assert torch.allclose(scored, expected, atol=1e-6)
    assert torch.allclose(scored.amax((1, 2)), torch.ones(3))
    assert scored.min() >= 0


def test_words_that_are_known_compare_alone(segmenter):
    """With labels, the maps and masks are those of a vocabulary of these words alone."""
    image, words, background = picture(), unit_rows(5), unit_rows(2, seed=5)
    known = segmenter(image, words, background, image_labels=[1, 3])
    alone = segmenter(image, words[[1, 3]], background)
    assert np.array_equal(np.array([0, 2, 4])[alone.labels], known.labels)
    assert np.allclose(known.scores[[1, 3]], alone.scores, atol=1e-6)
    assert not known.scores[[0, 2, 4]].any()
    everything = segmenter(image, words, background)
    assert np.abs(everything.scores[[1, 3]] - alone.scores).max() > 0.01
    nothing = segmenter(image, words, background, image_labels=[])
    assert not nothing.labels.any()


def test_each_picture_has_its_own_words(segmenter):
    images, words = [picture(1), picture(2), picture(3)], unit_rows(4)
    given = [[0, 2], None, [3]]
    together = segmenter(images, words, "none", image_labels=given)
    for image, known, one in zip(images, given, together, strict=True):
        alone = segmenter(image, words, "none", image_labels=known)
        assert np.array_equal(one.labels, alone.labels)
        assert np.allclose(one.scores, alone.scores, atol=1e-6)
    assert set(np.unique(together[2].labels)) == {4}


def test_the_background_is_a_complement(segmenter):
    """Pixels whose map m, divided by its maximum, is above (1 - m)^power."""
    encoding, rows = segmenter.encode(picture()), unit_rows(2)
    one = segmenter.score(encoding, rows[:1]).maps.rows(0, 64, (64, 96))[0].numpy()
    high = one / (one.max() + 1e-5)
    middle = float(np.median(high))
    power = np.log(middle) / np.log(1 - middle)
    result = segmenter(encoding, rows, Background.complement(power), image_labels=[0])
    assert set(np.unique(result.labels)) == {0, 1}
    assert ((result.labels == 1) == (high > middle)).mean() > 0.999


@pytest.mark.parametrize("options", [{"box_threshold": 1.0}, {"attention_blocks": 0}])
def test_wrong_options(options):
    with pytest.raises(WordmaskError, match=next(iter(options))):
        create_method("clip_es", None, options)
