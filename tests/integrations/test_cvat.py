"""CVAT's function, run by cvat-sdk's own driver and loaded as cvat-cli loads it."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
from PIL import Image

from wordmask.errors import WordmaskError
from wordmask.regions import polygons

pytest.importorskip("cvat_sdk")

from cvat_sdk import models
from cvat_sdk.auto_annotation import driver
from cvat_sdk.masks import decode_mask

from wordmask.integrations.cvat import Function, create

WORDS = "red ball, crimson ball; blue cube; grass"
SIZE = 60, 80  # H, W


@pytest.fixture(scope="module")
def function() -> Function:
    return create(words=WORDS, model="wordmask/tiny-clip", method="clearclip", background="none")


def scene() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)
    return Image.fromarray(pixels).resize(SIZE[::-1])


def annotate(function: Function, monkeypatch, **options) -> list:
    """The shapes that cvat-sdk's driver sends for a task of one frame, number 7."""
    labels = [
        models.Label(name=name, id=100 + i, type="any", attributes=[], sublabels=[])
        for i, name in enumerate(["grass", "red ball", "blue cube"])
    ]
    media = SimpleNamespace(load_image=scene)
    sample = SimpleNamespace(frame_name="a.png", frame_index=7, media=media)
    data = SimpleNamespace(labels=labels, samples=[sample])
    monkeypatch.setattr(driver, "TaskDataset", lambda *_, **__: data)
    client = MagicMock(logger=logging.getLogger("cvat"))
    driver.annotate_task(client, 1, function, **options)
    (call,) = client.tasks.api.partial_update_annotations.call_args_list
    return call.kwargs["patched_labeled_data_request"].shapes


def ids(function: Function) -> dict[int, int]:
    """The task's label of each of the function's."""
    task = {"grass": 100, "red ball": 101, "blue cube": 102}
    return {i: task[name] for i, name in enumerate(function.label.names, start=1)}


def test_masks_are_those_of_the_segmenter(function, monkeypatch):
    shapes = annotate(function, monkeypatch)
    result, found = function.label(scene())
    assert len(shapes) == len(found) > 1
    drawn = np.zeros(SIZE, int)
    for shape in shapes:
        mask = decode_mask(shape.points, image_width=SIZE[1], image_height=SIZE[0])
        assert not drawn[mask].any()
        drawn[mask] = shape.label_id
        assert shape.frame == 7
        assert shape.type.value == "mask"
    assert (drawn == np.vectorize(ids(function).get)(result.labels)).all()


def test_polygons_cover_the_masks(monkeypatch, function):
    exact = Function(function.label, tolerance=0)
    shapes = annotate(exact, monkeypatch, conv_mask_to_poly=True)
    assert {shape.type.value for shape in shapes} == {"polygon"}
    drawn = Image.new("I", SIZE[::-1])
    from PIL import ImageDraw

    for shape in shapes:
        points = np.reshape(shape.points, (-1, 2))
        assert (points >= 0).all()
        assert (points <= SIZE[::-1]).all()
        ImageDraw.Draw(drawn).polygon([tuple(p) for p in points], fill=shape.label_id)
    result, _ = function.label(scene())
    target = np.vectorize(ids(function).get)(result.labels)
    assert (np.asarray(drawn) == target).mean() > 0.9  # PIL also fills the pixels of the line
    few = annotate(Function(function.label, tolerance=2), monkeypatch, conv_mask_to_poly=True)
    assert sum(len(s.points) for s in few) < sum(len(s.points) for s in shapes)


def test_only_sure_parts_are_given(function, monkeypatch):
    sure = sorted(one.confidence for one in function.label(scene())[1])
    assert all(0 <= one <= 1 for one in sure)
    limit = (sure[0] + sure[-1]) / 2
    shapes = annotate(function, monkeypatch, conf_threshold=limit)
    assert len(shapes) == sum(one >= limit for one in sure) < len(sure)


def test_class_maps_have_scores_for_confidence():
    cliper = create(words=WORDS, model="wordmask/tiny-clip", method="cliper")
    result, found = cliper.label(scene())
    share = result.scores / result.scores.sum(0)
    for region, confidence in found:
        assert share[region.label - 1].min() <= confidence <= share[region.label - 1].max()


def test_cvat_cli_loads_it(tmp_path):
    common = pytest.importorskip("cvat_cli._internal.common")
    words = tmp_path / "words.txt"
    words.write_text("grass\nred ball\tcrimson ball\n")
    parameters = {"words": str(words), "model": "wordmask/tiny-clip", "method": "clearclip"}
    loaded = common.FunctionLoader("wordmask.integrations.cvat", None, parameters).load()
    assert [label.name for label in loaded.spec.labels] == ["grass", "red ball"]


def test_a_word_that_the_task_lacks(function, monkeypatch):
    other = create(words="grass; a thing of no task", model="wordmask/tiny-clip")
    with pytest.raises(driver.BadFunctionError, match="is not in dataset"):
        annotate(other, monkeypatch)
    shapes = annotate(other, monkeypatch, allow_unmatched_labels=True)
    assert {shape.label_id for shape in shapes} <= {100}


def test_words_that_cannot_be_read():
    with pytest.raises(WordmaskError, match="empty"):
        create(words=" ; ", model="wordmask/tiny-clip")


def test_outlines_of_a_ring_keep_its_hole():
    from wordmask.objects import outlines, simplify
    from wordmask.regions import Region

    mask = np.zeros((20, 20), bool)
    mask[2:18, 2:18] = True
    mask[6:14, 6:14] = False
    region = Region(1, "a", (2, 2, 18, 18), int(mask.sum()), None, mask[2:18, 2:18])
    (outline,) = outlines(region)
    x, y = simplify(outline, 0.5, "cvat").T
    area = abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2
    assert area == mask.sum()
    assert len(polygons(mask)[0].holes) == 1
