"""PEARL's two steps by themselves: the rotation of keys, and the propagation of score maps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tiny import tiny_clip
from wordmask import Segmenter
from wordmask.methods.pearl import propagation
from wordmask.methods.pearl.method import Pearl
from wordmask.methods.pearl.propagation import pooled, propagate, text_matrix
from wordmask.text_queries import TextQueries
from wordmask.windows import ScoreMap


@pytest.fixture(scope="module")
def clip():
    return tiny_clip(layers=2)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def texts(count: int, width: int = 48) -> TextQueries:
    return TextQueries.of(random(count, 1, width))


def score(segmenter, encoding, words):
    """The score map of each picture."""
    scored = segmenter.score(encoding, words)
    return [one.maps for one in (scored if isinstance(scored, list) else [scored])]


def maps_of(clip, image, words, options=None, variant=None):
    segmenter = Segmenter.from_pretrained(clip, "pearl", variant, options)
    return score(segmenter, segmenter.encode(image), words)


# -- the rotation ------------------------------------------------------------------------------


def test_the_rotation_is_the_orthogonal_factor():
    """Of m = R s with s symmetric, R, whose lengths and angles are those of what it turns."""
    turn = torch.linalg.qr(random(1, 2, 8, 8))[0]
    stretch = torch.diag(torch.tensor([9.0, 5, 3, 2, 1, 0.3, 0.1, 0.02]))
    given = turn @ stretch
    exact = Pearl()._rotation(given)
    assert torch.allclose(exact, turn, atol=1e-5)
    released = Pearl(rotation="newton-schulz")._rotation(given)
    assert (released - turn).abs().max() > 0.1  # five iterations do not get there
    even = Pearl(rotation="newton-schulz")._rotation(3 * turn)
    assert torch.allclose(even, turn, atol=1e-3)


@pytest.mark.parametrize("variant", ["repaired", "official"])
def test_nothing_to_turn(variant):
    method = Pearl(**Pearl.variants[variant])
    assert torch.isfinite(method._rotation(torch.zeros(1, 2, 8, 8))).all()


# -- cells -------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [0, 32])
@pytest.mark.parametrize("size", [(48, 64), (113, 87), (400, 31), (11, 13)])
def test_cells_are_those_of_the_stretched_maps(clip, window, size, monkeypatch):
    """Average pooling at the picture's size, which is never made."""
    monkeypatch.setattr(propagation, "BLOCK_BYTES", 10_000)  # several blocks
    options = {"window": window, "stride": 16, "short_side": None, "grid": 0}
    (maps,) = maps_of(clip, random(1, 3, 48, 64), texts(3), options)
    at_network = maps.rows(0, 48, (48, 64))
    full = F.interpolate(at_network[None], size=size, mode="bilinear")
    kernel = tuple(max(round(side / 20), 1) for side in size)
    expected = F.avg_pool2d(full, kernel)[0]
    assert torch.allclose(pooled(maps, size, 20), expected, atol=1e-5)


def test_a_large_picture_has_no_more_cells(clip):
    """Of 24 megapixels; only rows at the size of the network are read."""
    segmenter = Segmenter.from_pretrained(clip, "pearl", options={"short_side": None})
    encoding = segmenter.encode(random(1, 3, 48, 64))
    large = replace(encoding, sizes=((4000, 6000),))
    maps = score(segmenter, large, texts(2))[0]
    assert maps.tiles[0].scores.shape == (2, 80, 80)
    small = replace(encoding, sizes=((119, 120),))
    maps = score(segmenter, small, texts(2))[0]
    assert maps.tiles[0].scores.shape == (2, 119, 60)  # round(119 / 80) = 1, round(1.5) = 2


def test_pictures_of_one_shape_and_several_sizes(clip):
    """Cells are counted at each picture's own size."""
    segmenter = Segmenter.from_pretrained(clip, "pearl", options={"short_side": None, "grid": 16})
    encoding = replace(segmenter.encode(random(2, 3, 48, 64)), sizes=((48, 64), (96, 128)))
    words = texts(3)
    both = score(segmenter, encoding, words)
    for maps, part in zip(both, encoding.split(), strict=True):
        (alone,) = score(segmenter, part, words)
        assert torch.allclose(maps.tiles[0].scores, alone.tiles[0].scores, atol=1e-6)
    assert both[0].tiles[0].scores.shape == both[1].tiles[0].scores.shape == (3, 16, 16)


def test_windows_are_joined_before_scores_are_spread(clip):
    options = {"window": 32, "stride": 16, "short_side": None, "grid": 24}
    image, words = random(1, 3, 48, 64), texts(3)
    (plain,) = maps_of(clip, image, words, options | {"grid": 0})
    (spread,) = maps_of(clip, image, words, options)
    assert len(plain.tiles) > 1
    given = pooled(plain, (48, 64), 24)
    picture = pooled(ScoreMap.whole(image[0], (48, 64)), (48, 64), 24)
    expected = propagate(given, picture, text_matrix(words.embeddings), 25)
    assert torch.allclose(spread.tiles[0].scores, expected, atol=1e-6)


# -- propagation -------------------------------------------------------------------------------


def system(scores, image, matrix):
    """c and the Laplacian, (hw,) and (hw, hw), cell by cell, as the card has them."""
    h, w = scores.shape[1:]
    p = torch.softmax(scores.double(), 0)
    q = torch.einsum("cd,dij->cij", matrix.double(), p)
    c = p.amax(0).clamp_min(0.05) ** 2 * (1 + (p * q).sum(0).clamp(0, 1))
    grey = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
    steps = {(0, 1): [], (1, 0): []}
    for down, across in steps:
        for i in range(h - down):
            for j in range(w - across):
                change = abs(float(grey[i, j] - grey[i + down, j + across]))
                agree = float((p[:, i + down, j + across] * q[:, i, j]).sum())
                steps[down, across].append((i, j, change, min(max(agree, 0), 1)))
    laplacian = torch.zeros(h * w, h * w, dtype=torch.float64)
    for (down, across), found in steps.items():
        mean = sum(one[2] for one in found) / max(len(found), 1)
        for i, j, change, agree in found:
            alike = torch.exp(torch.tensor(-5 * change / (mean + 1e-6), dtype=torch.float64))
            weight = min(float(alike) * (1 + agree), 1.0)
            a, b = i * w + j, (i + down) * w + j + across
            laplacian[a, a] += weight
            laplacian[b, b] += weight
            laplacian[a, b] -= weight
            laplacian[b, a] -= weight
    return c.flatten(), laplacian


@pytest.mark.parametrize("grid", [(5, 7), (1, 6), (6, 1), (1, 1)])
@pytest.mark.parametrize("count", [1, 4])
def test_the_system_that_is_solved(grid, count):
    scores, image = 3 * random(count, *grid), random(3, *grid, seed=1)
    matrix = text_matrix(F.normalize(random(count, 8), dim=1))
    c, laplacian = system(scores, image, matrix)
    expected = torch.linalg.solve(torch.diag(c) + laplacian, (c * scores.flatten(1)).T).T
    found = propagate(scores, image, matrix, 500).double().flatten(1)
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.isfinite(propagate(scores, image, matrix, 25)).all()


def test_scores_stop_at_edges_of_the_picture():
    """Two halves of other colours: the one sure cell spreads over its own half."""
    image = torch.zeros(3, 8, 8)
    image[:, :, 4:] = 3.0
    scores = torch.zeros(2, 8, 8)
    scores[0, 4, 1], scores[1, 4, 6] = 8.0, 8.0
    out = propagate(scores, image, text_matrix(torch.eye(2)), 200)
    assert (out[0, :, :4] > out[1, :, :4]).all()
    assert (out[0, :, 4:] < out[1, :, 4:]).all()


def test_the_matrix_of_texts_and_its_diagonal(clip):
    rows = F.normalize(random(4, 8), dim=1)
    matrix = text_matrix(rows)
    assert torch.allclose(matrix.sum(1), torch.ones(4))
    assert (matrix.diagonal() > 0.9).all()
    image, words = random(1, 3, 48, 64), texts(4)
    options = {"short_side": None, "grid": 24}
    full, diagonal = (
        maps_of(clip, image, words, options | {"coupling": c})[0].tiles[0].scores
        for c in ("full", "diagonal")
    )
    assert 0 < (full - diagonal).abs().max() < 1e-2


@pytest.mark.parametrize("variant", ["repaired", "official"])
@pytest.mark.parametrize("size", [(8, 8), (8, 40), (40, 8)])
@pytest.mark.parametrize("count", [1, 3])
def test_one_patch_one_row_one_word(clip, variant, size, count):
    for image in (torch.zeros(1, 3, *size), random(1, 3, *size)):
        segmenter = Segmenter.from_pretrained(clip, "pearl", variant, {"short_side": None})
        (scored,) = segmenter.score(image, texts(count))
        assert torch.isfinite(scored.maps.tiles[0].scores).all()
        assert scored.class_maps().shape == (count, size[0] // 8, size[1] // 8)
        assert scored.labels().shape == size
