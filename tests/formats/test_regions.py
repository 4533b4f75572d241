"""Outlines and components against masks that hypothesis makes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wordmask.errors import WordmaskError
from wordmask.extras import need
from wordmask.regions import polygons, regions, run_lengths

sizes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)
masks = hnp.arrays(bool, sizes, elements=st.booleans(), fill=st.nothing())
NESTED = np.array(  # a ring in a ring with a pixel inside, and pixels that touch at corners
    [
        [1, 1, 1, 1, 1, 1, 1, 0, 1],
        [1, 0, 0, 0, 0, 0, 1, 1, 0],
        [1, 0, 1, 1, 1, 0, 1, 0, 0],
        [1, 0, 1, 0, 1, 0, 1, 1, 1],
        [1, 0, 1, 1, 1, 0, 1, 0, 1],
        [1, 0, 0, 0, 0, 0, 0, 1, 1],
        [1, 1, 1, 1, 1, 1, 1, 1, 1],
    ],
    bool,
)


def by_pycocotools(parts, size, inset):
    coco = pytest.importorskip("pycocotools.mask")
    lines = [part.ring(inset).ravel().tolist() for part in parts]
    if not lines:
        return np.zeros(size, bool)
    return coco.decode(coco.merge(coco.frPyObjects(lines, *size))).astype(bool)


def by_opencv(parts, size):
    cv2 = pytest.importorskip("cv2")
    drawn = np.zeros(size, np.uint8)
    for part in parts:  # as Ultralytics does it: truncated to whole pixels
        one = np.zeros(size, np.uint8)
        cv2.fillPoly(one, [(part.ring(0.5) - 0.05).astype(np.int32)], 1)
        drawn |= one
    return drawn.astype(bool)


def check_outlines(mask):
    parts = polygons(mask)
    np.testing.assert_array_equal(by_pycocotools(parts, mask.shape, 0), mask)
    np.testing.assert_array_equal(by_opencv(parts, mask.shape), mask)


@settings(max_examples=200, deadline=None)
@given(masks)
def test_outlines_are_the_mask_again(mask):
    check_outlines(mask)


@pytest.mark.parametrize("density", [0.3, 0.6, 0.9, 0.97])
def test_outlines_of_large_masks_with_many_holes(density):
    check_outlines(np.random.default_rng(3).random((120, 163)) < density)


def test_outlines_of_nested_rings_are_valid_polygons():
    shapely = pytest.importorskip("shapely")
    check_outlines(NESTED)
    shapes = [shapely.Polygon(one.exterior, one.holes) for one in polygons(NESTED)]
    assert [len(shape.interiors) for shape in shapes] == [1, 0, 1]
    assert sum(shape.area for shape in shapes) == NESTED.sum()
    assert all(shapely.Polygon(one.exterior).exterior.is_ccw for one in polygons(NESTED))  # y down
    np.testing.assert_array_equal(
        polygons(np.ones((1, 1), bool))[0].exterior, [[0, 0], [1, 0], [1, 1], [0, 1]]
    )


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.uint8, sizes, elements=st.integers(0, 3), fill=st.nothing()))
def test_components_are_the_labels_again(labels):
    pytest.importorskip("scipy")
    names = ("a", "b", "c")
    scores = np.stack([np.full((2, 2), value, np.float32) for value in (0.25, 0.5, 1.0)])
    found = regions(labels, names, scores, components=True)
    again = np.zeros_like(labels)
    for one in found:
        mask = one.mask(labels.shape)
        assert not again[mask].any()
        again[mask] = one.label
        assert one.area == mask.sum()
        assert one.score == scores[one.label - 1].max()
        assert len(polygons(one.pixels)) == 1  # connected
        x0, y0, x1, y1 = one.box
        assert one.xywh == (x0, y0, x1 - x0, y1 - y0)
        assert one.pixels.any(1)[[0, -1]].all()
        assert one.pixels.any(0)[[0, -1]].all()
    np.testing.assert_array_equal(again, labels)
    assert sum(len(polygons(labels == label)) for label in (1, 2, 3)) == len(found)
    whole = regions(labels, names)
    assert [one.label for one in whole] == sorted({*labels.ravel().tolist()} - {0})
    assert all(one.score is None and one.area == (labels == one.label).sum() for one in whole)


def test_the_score_of_a_component_is_its_mean_on_the_stretched_grid():
    labels = np.array([[1, 1, 0, 1]])
    scores = np.array([[[0.0, 1.0]]], np.float32)  # stretched: 0, 1/4, 3/4, 1
    pytest.importorskip("scipy")
    found = regions(labels, ["a"], scores, components=True)
    assert [one.score for one in found] == [0.125, 1.0]
    assert [one.area for one in regions(labels, ["a"], components=True, min_area=2)] == [2]


@settings(max_examples=50, deadline=None)
@given(masks)
def test_run_lengths_are_the_mask_again(mask):
    coco = pytest.importorskip("pycocotools.mask")
    np.testing.assert_array_equal(coco.decode(run_lengths(mask)), mask)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    with pytest.raises(WordmaskError) as error:
        need("no_such_package.part", "formats", "this")
    assert str(error.value) == (
        'this needs no_such_package; install it with pip install "wordmask[formats]"'
    )
