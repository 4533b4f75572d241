"""Windows, score maps and labels: worked by hand, and blocks equal to the whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tiny import score_map, scored_of
from wordmask import Background
from wordmask.errors import WordmaskError
from wordmask.methods import create_method
from wordmask.scoring import Rule, Scored
from wordmask.text_queries import TextQueries
from wordmask.windows import ScoreMap, Tile, Window, place_windows


def texts_of(*names: int, background: int = 0) -> TextQueries:
    """Texts of classes with that many names each; the embeddings play no part here."""
    rows = torch.eye(sum(names) + background)
    parts = list(rows[: sum(names)].split(list(names)))
    return TextQueries.of(parts, rows[sum(names) :] if background else None)


def scored(scores, size, texts, background, method="sclip", block_bytes=2**25, **options) -> Scored:
    """Scores (R, h, w) of a picture, to be labelled by the rule of a method."""
    chosen, _ = create_method(method, None, options)
    texts, provenance = replace(texts, strategy=background), {"method": method}
    return scored_of(chosen, scores, texts, size, provenance=provenance, block_bytes=block_bytes)


def decide(*given, **options):
    return scored(*given, **options).labels()


def test_windows_by_hand():
    tops = [w.top for w in place_windows(10, 4, 4, 3)]
    assert tops == [0, 3, 6]  # 0..4, 3..7, 6..10
    assert place_windows(9, 4, 4, 3)[-1] == Window(5, 0, 4, 4)  # 6..10 shifted back to the edge
    assert place_windows(3, 9, 4, 4) == tuple(Window(0, x, 3, 4) for x in (0, 4, 5))
    assert place_windows(3, 3, 4, 2) == (Window(0, 0, 3, 3),)


@pytest.mark.parametrize("size", [(150, 182), (336, 448), (64, 65), (500, 100)])
def test_windows_cover_every_pixel(size):
    hit = np.zeros(size, bool)
    for top, left, height, width in place_windows(*size, 112, 56):
        hit[top : top + height, left : left + width] = True
    assert hit.all()


@pytest.mark.parametrize("size", [(37, 53), (14, 90), (5, 4), (200, 3)])
def test_rows_equal_interpolation(size):
    scores = torch.randn(3, 9, 14, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(scores[None], size=size, mode="bilinear")[0]
    rows = torch.cat([score_map(scores, size).rows(y, y + 1, size) for y in range(size[0])], dim=1)
    assert torch.allclose(rows, expected, atol=5e-6)


def test_overlapping_windows_are_averaged():
    """Two windows of constants 0 and 1 that share their middle column."""
    tiles = [
        Tile(torch.zeros(1, 2, 2), Window(0, 0, 4, 4), (4, 4), (0, 0)),
        Tile(torch.ones(1, 2, 2), Window(0, 3, 4, 4), (4, 4), (0, 0)),
    ]
    rows = ScoreMap(tiles, (4, 7)).rows(0, 4, (4, 7))
    assert rows[0, 0].tolist() == [0, 0, 0, 0.5, 1, 1, 1]


def test_a_pad_is_cut_off():
    """A map over 8 x 8 pixels of which the middle 4 x 6 are the picture."""
    scores = torch.arange(64.0).view(1, 8, 8)
    tile = Tile(scores, Window(0, 0, 4, 6), (8, 8), (2, 1))
    assert torch.equal(ScoreMap([tile], (4, 6)).rows(0, 4, (4, 6)), scores[:, 2:6, 1:7])


def test_softmax_over_all_names_then_the_best_name():
    """Class 1 has two middling names, class 2 one good one: names are not added up."""
    scores = torch.tensor([0.5, 0.5, 0.6]).view(3, 1, 1)
    assert decide(scores, (2, 2), texts_of(2, 1), Background.none(), logit_scale=1.0)[0, 0] == 2


def test_background_names_win_ties():
    scores = torch.tensor([0.3, 0.5, 0.5]).view(3, 1, 1)
    texts = texts_of(1, 1, background=1)
    assert decide(scores, (1, 1), texts, Background.names("x"))[0, 0] == 0


@pytest.mark.parametrize(("threshold", "label"), [(0.72, 1), (0.74, 0)])
def test_threshold(threshold, label):
    scores = torch.tensor([1.0, 0.0]).view(2, 1, 1)  # softmax: 0.731, 0.269
    found = decide(scores, (1, 1), texts_of(1, 1), Background.threshold(threshold), logit_scale=1.0)
    assert found[0, 0] == label


@pytest.mark.parametrize(("power", "label"), [(0.2, 0), (1.0, 1)])
def test_complement(power, label):
    scores = torch.tensor([1.0, 0.0]).view(2, 1, 1)  # 0.269^0.2 = 0.77 > 0.731 > 0.269
    found = decide(scores, (1, 1), texts_of(1, 1), Background.complement(power), logit_scale=1.0)
    assert found[0, 0] == label


def test_area_threshold_drops_small_classes():
    scores = torch.zeros(2, 1, 20)
    scores[0], scores[1, 0, :1] = 0.5, 1.0  # class 2 wins one of twenty
    size = (1, 20)
    assert 2 in decide(scores, size, texts_of(1, 1), Background.none())
    assert 2 not in decide(scores, size, texts_of(1, 1), Background.none(), area_threshold=0.1)


def test_area_threshold_that_drops_all_drops_none():
    """Without a background four classes with a quarter each stay as they are."""
    scores = torch.eye(4).view(4, 1, 4).repeat_interleave(2, 2)
    labels = decide(scores, (1, 8), texts_of(1, 1, 1, 1), Background.none(), area_threshold=0.3)
    assert labels.tolist() == [[1, 1, 2, 2, 3, 3, 4, 4]]
    threshold = Background.threshold(0.01)
    assert not decide(scores, (1, 8), texts_of(1, 1, 1, 1), threshold, area_threshold=0.3).any()


def test_min_max_compares_shapes():
    """A class that is lower everywhere still wins where its own map peaks."""
    scores = torch.tensor([[[0.8, 0.9]], [[0.2, 0.1]]])
    plain = decide(scores, (1, 2), texts_of(1, 1), Background.none())
    stretched = decide(scores, (1, 2), texts_of(1, 1), Background.none(), min_max=True)
    assert plain.tolist() == [[1, 1]]
    assert stretched.tolist() == [[2, 1]]


def test_class_maps_by_hand():
    """Maps are divided by their maximum and weighted by it: here what they were; 2 is absent."""
    scores = torch.tensor([[[0.9, 0.2, 0.05]], [[0.25, 0.28, 0.02]], [[0.1, 0.6, 0.01]]])
    texts = texts_of(1, 1, 1)
    size = (1, 3)
    found = decide(scores, size, texts, Background.none(), "cliper", score_threshold=0.3)
    assert found.tolist() == [[1, 3, 1]]
    found = decide(scores, size, texts, Background.threshold(0.5), "cliper", score_threshold=0.3)
    assert found.tolist() == [[1, 3, 0]]
    found = decide(scores, size, texts, Background.complement(2), "cliper", score_threshold=0.3)
    assert found.tolist() == [[1, 3, 0]]  # 0.9 > 0.1^2, 0.6 > 0.4^2, 0.05 < 0.95^2
    every = decide(scores, size, texts, Background.none(), "cliper", score_threshold=5.0)
    assert every.tolist() == [[1, 3, 1]]  # all stand where all are dropped
    none = decide(scores, size, texts, Background.threshold(0.1), "cliper", score_threshold=5.0)
    assert not none.any()


def sure(*given, **options):
    found = scored(*given, **options)
    labels = found.labels()
    return labels, found.confidence(labels)


@pytest.mark.parametrize(
    ("background", "labels", "confidence"),
    [
        (Background.none(), [1, 2], [0.7311, 0.5250]),  # 1 / (1 + e^-1), 1 / (1 + e^-0.1)
        (Background.threshold(0.6), [1, 0], [0.7311, 0.4750]),
        (Background.complement(0.2), [0, 0], [0.7690, 0.8617]),  # 0.2689^0.2, 0.4750^0.2
        (Background.complement(1), [1, 2], [0.7311, 0.5250]),
    ],
)
def test_confidence_by_hand(background, labels, confidence):
    scores = torch.tensor([[[1.0, 0.0]], [[0.0, 0.1]]])
    found = sure(scores, (1, 2), texts_of(1, 1), background, logit_scale=1.0)
    assert found[0].tolist() == [labels]
    np.testing.assert_allclose(found[1], [confidence], atol=5e-5)


def test_confidence_is_of_the_best_name():
    """Names of a class and of the background are not added up; a threshold adds no name."""
    scores = torch.tensor([[3.0, 0.0], [2.0, 0.0], [0.0, 0.0], [0.0, 1.0], [1.0, 0.0]])[:, None]
    texts = texts_of(2, 1, background=2)
    first = np.exp(3) / (np.exp(3) + np.exp(2) + 2 + np.exp(1))
    labels, found = sure(scores, (1, 2), texts, Background.names("x", "y"), logit_scale=1.0)
    assert labels.tolist() == [[1, 0]]
    np.testing.assert_allclose(found, [[first, np.e / (4 + np.e)]], rtol=1e-5)
    strict = Background.threshold(0.9, "x")
    labels, found = sure(scores, (1, 2), texts, strict, logit_scale=1.0)
    assert labels.tolist() == [[0, 0]]
    np.testing.assert_allclose(found, [[1 - first, 1 - 1 / (4 + np.e)]], rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"area_threshold": 0.2}, {"min_max": True}])
def test_confidence_equals_a_direct_computation(options):
    scores = torch.rand(6, 7, 9, generator=torch.Generator().manual_seed(0)) / 10
    size, texts = (61, 83), texts_of(2, 1, 1, background=2)
    labels, found = sure(scores, size, texts, Background.names("x"), **options)
    stretched = F.interpolate(scores[None].double(), size=size, mode="bilinear")[0]
    names = torch.softmax(create_method("sclip")[0].logit_scale * stretched, 0).numpy()
    pooled = np.stack([names[4:].max(0), names[:2].max(0), names[2], names[3]])
    expected = np.take_along_axis(pooled, labels[None].astype(int), 0)[0]
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert found.dtype == np.float32
    rows = sure(scores, size, texts, Background.names("x"), block_bytes=1, **options)[1]
    np.testing.assert_allclose(rows, found, atol=2e-6)


@pytest.mark.parametrize("method", ["cliper", "car"])
def test_class_maps_have_no_confidence(method):
    with pytest.raises(WordmaskError, match=f"{method} gives class maps and no probabilities"):
        sure(torch.rand(2, 3, 3), (3, 3), texts_of(1, 1), Background.none(), method)


@pytest.mark.parametrize("method", ["sclip", "gem", "cliper"])
@pytest.mark.parametrize("background", [Background.none(), Background.threshold(0.4)])
def test_blocks_equal_the_score_map(method, background):
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(6, 7, 9, generator=generator)
    texts = texts_of(*[1] * 6) if method == "cliper" else texts_of(2, 1, 1, background=2)
    size = (61, 83)
    options = {"min_max": True} if method == "gem" else {}
    once = decide(scores, size, texts, background, method, 2**30, **options)
    rows = decide(scores, size, texts, background, method, 1, **options)
    assert (once == rows).all()


@pytest.mark.parametrize(("classes", "dtype"), [(255, np.uint8), (256, np.uint16)])
def test_labels_of_many_classes(classes, dtype):
    scores = torch.zeros(classes, 1, 1)
    scores[-1] = 1.0
    labels = decide(scores, (3, 3), texts_of(*[1] * classes), Background.none())
    assert labels.dtype == dtype
    assert (labels == classes).all()


def test_pooling_is_the_maximum_over_names():
    texts = texts_of(2, 1, background=2)
    scores = torch.tensor([1.0, 3.0, 2.0, 5.0, 4.0]).view(5, 1)
    assert texts.pool(scores, 0).flatten().tolist() == [3.0, 2.0, 5.0]
    assert texts.pool_foreground(scores[:3], 0).flatten().tolist() == [3.0, 2.0]


@pytest.mark.parametrize("tiling", ["whole", "padded", "windows"])
@pytest.mark.parametrize("background", [0, 5])
@pytest.mark.parametrize("size", [(150, 182), (97, 40), (3, 400), (500, 1), (2, 3)])
@pytest.mark.parametrize("known", [None, [0, 3], []])
def test_ruling_names_out_gives_the_same_labels(size, background, tiling, known):
    """The shortcut on a CPU, against all names at every pixel."""
    generator = torch.Generator().manual_seed(size[0])
    texts = texts_of(2, 1, 1, 3, 1, background=background)
    strategy = Background.names("x") if background else Background.none()
    grid = torch.randn(8 + background, 5, 6, generator=generator) * 0.1
    one = scored(grid, size, texts, strategy)
    if tiling == "padded":
        one = replace(
            one, maps=ScoreMap([Tile(grid, Window(0, 0, 61, 70), (80, 96), (9, 3))], (61, 70))
        )
    if tiling == "windows":
        tiles = [
            Tile(torch.randn(8 + background, 4, 4, generator=generator) * 0.1, w, w[2:], (0, 0))
            for w in place_windows(60, 80, 40, 30)
        ]
        one = replace(one, maps=ScoreMap(tiles, (60, 80)))
    allowed = one.texts.among(known).known
    short = one.rule.labels(one, allowed)
    np.testing.assert_array_equal(short, Rule.labels(one.rule, one, allowed))
    assert short.dtype == np.uint8
    assert known is None or set(np.unique(short)) <= {0, *(i + 1 for i in known)}


@pytest.mark.parametrize("grid", [(1, 1), (1, 7), (2, 2), (4, 3)])
def test_grids_of_few_patches_and_blocks_of_few_rows(grid):
    maps = torch.randn(40, *grid, generator=torch.Generator().manual_seed(3))
    one = replace(scored(maps, (37, 53), texts_of(*[1] * 40), Background.none()), block_bytes=1)
    np.testing.assert_array_equal(one.labels(), Rule.labels(one.rule, one, None))


def test_equal_scores_go_to_the_background_and_then_to_the_first_class():
    maps = torch.zeros(3, 4, 4)
    assert (
        scored(maps, (32, 32), texts_of(1, 1, background=1), Background.names("x")).labels() == 0
    ).all()
    assert (scored(maps, (32, 32), texts_of(1, 1, 1), Background.none()).labels() == 1).all()
