"""FiftyOne's model; skipped where FiftyOne is not installed."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

fo = pytest.importorskip("fiftyone")

from wordmask import Segmenter
from wordmask.integrations.fiftyone import WordmaskModel

GIVEN = {"model": "wordmask/tiny-clip", "method": "clearclip", "background": "none"}


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)


def test_predictions_are_the_results(pixels):
    model = WordmaskModel("red ball; grass", **GIVEN)
    expected = Segmenter.from_pretrained("wordmask/tiny-clip", "clearclip")(
        pixels, ["red ball", "grass"], "none"
    )
    assert (model.predict(pixels).mask == expected.labels).all()
    assert model.mask_targets == {1: "red ball", 2: "grass"}
    drawn = np.zeros(expected.labels.shape, int)
    for one in (
        WordmaskModel("red ball; grass", detections=True, **GIVEN).predict(pixels).detections
    ):
        x, y, width, height = one.bounding_box
        left, top = round(x * 64), round(y * 48)
        assert one.mask.shape == (round(height * 48), round(width * 64))
        assert 0 <= one.confidence <= 1
        drawn[top : top + one.mask.shape[0], left : left + one.mask.shape[1]][one.mask] = (
            1 if one.label == "red ball" else 2
        )
    assert (drawn == expected.labels).all()


def test_apply_model(pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    try:
        dataset = fo.Dataset.from_images([str(tmp_path / "a.png")])
    except Exception as error:  # FiftyOne's own database, a program beside it, did not start
        pytest.skip(f"FiftyOne's database does not run here: {error}")
    model = WordmaskModel("red ball; grass", **GIVEN)
    dataset.apply_model(model, label_field="words")
    assert (dataset.first().words.mask == model.predict(pixels).mask).all()
    dataset.delete()
