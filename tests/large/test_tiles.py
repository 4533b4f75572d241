"""Who decides which pixel."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from wordmask import WordmaskError
from wordmask.large.job import _inside
from wordmask.large.tiles import Plan, spans

LENGTHS = (1, 31, 32, 33, 63, 64, 65, 66, 97, 127, 128, 211, 997, 1000)


@pytest.mark.parametrize("ramp", [False, True])
def test_every_pixel_is_decided_once_and_weights_add_up(ramp):
    for length, tile, overlap in itertools.product(LENGTHS, (32, 33, 64, 100), (0, 1, 7, 10)):
        row = spans(length, tile, overlap, ramp)
        assert len({span.stop - span.start for span in row}) == 1  # all are resized alike
        owners, weights = np.zeros(length, int), np.zeros(length)
        for span in row:
            assert 0 <= span.start <= span.enter <= span.full <= span.fade
            assert span.fade <= span.leave <= span.stop <= length
            owners[span.enter : span.fade] += 1
            weights[span.start : span.stop] += _inside(span)[1].numpy()
        assert (owners == 1).all()
        if ramp and overlap:
            np.testing.assert_allclose(weights, 1, atol=1e-6)
        for before, after in itertools.pairwise(row):
            assert before.stop - after.start >= overlap
            assert (before.fade, before.leave) == (after.enter, after.full)


def test_no_more_tiles_than_needed():
    assert len(spans(1000, 100, 0, True)) == 10
    assert len(spans(1001, 100, 0, True)) == 11
    assert len(Plan(100, 1000, 100, 20, True)) == 13


def test_refused():
    with pytest.raises(WordmaskError, match=r"tile of 8 pixels; give at least 32"):
        Plan(100, 100, 8, 0, True)
    with pytest.raises(WordmaskError, match=r"overlap of 40 pixels for tiles of 100; .* \(33\)"):
        Plan(100, 100, 100, 40, True)
