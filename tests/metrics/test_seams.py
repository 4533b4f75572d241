"""Changes of labels across lines against everywhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wordmask.metrics import Seams


def test_rates_by_hand():
    labels = np.array([[1, 1, 2, 2], [1, 1, 2, 9], [3, 3, 3, 9]], np.uint8)
    seams = Seams(rows=[2], columns=[2], ignore=9)
    seams.update(labels)
    # beside each other: 3 pairs at the line (two differ); 4 elsewhere are valid (none differs);
    # one above the other: 3 valid pairs at the line (all differ), 3 elsewhere (none differs)
    assert seams.counts.tolist() == [[7, 0], [6, 5]]
    assert seams.summary() == {
        "at_seams": 5 / 6,
        "elsewhere": 0.0,
        "ratio": None,
        "pairs_at_seams": 6,
    }


def test_strips_count_as_the_whole():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (37, 23)).astype(np.uint8)
    whole, parts = (Seams([5, 16, 17, 30], [7, 22], ignore=0) for _ in range(2))
    whole.update(labels)
    for top in range(0, 37, 8):
        start = max(top - 1, 0)
        parts.update(labels[start : top + 8], start, top - start)
    assert np.array_equal(whole.counts, parts.counts)
    assert whole.counts.sum() > 0


def test_nothing_at_the_lines():
    seams = Seams()
    seams.update(np.zeros((2, 2), np.uint8))
    assert seams.summary()["at_seams"] is None
    assert seams.summary()["elsewhere"] == 0


@pytest.mark.parametrize(("scale", "lines"), [(1, [4]), (2, [7, 8, 9]), (0.5, [2])])
def test_borders_of_windows_on_a_picture_of_another_size(scale, lines):
    """Columns between which a map that jumps at a border is mixed of both sides: found by hand."""
    windows = [(0, 0, 8, 4), (0, 4, 8, 4)]
    side = int(8 * scale)
    maps = torch.zeros(1, 1, 8, 8)
    maps[..., 4:] = 1.0  # each window its own value
    seen = torch.nn.functional.interpolate(maps, size=(side, side), mode="bilinear")[0, 0, 0]
    changes = [i + 1 for i in range(side - 1) if seen[i] != seen[i + 1]]
    seams = Seams.of_windows(windows, (8, 8), np.zeros((side, side), np.uint8))
    assert seams.columns.tolist() == lines
    assert set(changes) <= set(lines)
    assert seams.rows.tolist() == []
    labels = (seen.numpy() > 0.4).astype(np.uint8)[None].repeat(side, 0)
    counts = Seams.of_windows(windows, (8, 8), labels).counts
    assert counts[1].tolist() == [side * len(lines), side]  # the only change of a row is there
    assert counts[0, 1] == 0
