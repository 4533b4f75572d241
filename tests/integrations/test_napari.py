"""napari's widget, in a viewer without a screen."""

from __future__ import annotations

import os
import pkgutil
from importlib import resources

import numpy as np
import pytest

from waiting import soon
from wordmask import Segmenter, list_methods
from wordmask.errors import WordmaskError

pytest.importorskip("napari")
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
pytest.importorskip("qtpy.QtWidgets", exc_type=ImportError)

from napari.layers import Image, Labels

from wordmask.integrations import napari as ours

PIXELS = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
GIVEN = {
    "words": "red ball; grass",
    "background": "none",
    "method": "clearclip",
    "refine": "",
    "model": "wordmask/tiny-clip",
}


def test_the_layer_is_the_result():
    layer = Image(PIXELS, rgb=True, scale=(2, 3), name="scene")
    data, settings, kind = ours.segment(layer, **GIVEN)
    segmenter = Segmenter.from_pretrained("wordmask/tiny-clip", "clearclip")
    assert (data == segmenter(PIXELS, ["red ball", "grass"], "none").labels).all()
    labels = Labels(data, **settings)
    assert kind == "labels"
    assert labels.scale.tolist() == [2, 3]
    assert labels.features["class"].tolist() == ["none of the words", "red ball", "grass"]
    assert not np.allclose(labels.get_color(1), labels.get_color(2))


def test_pictures_of_any_type():
    assert (ours.picture_of(Image(PIXELS, rgb=True)) == PIXELS).all()
    grey = ours.picture_of(Image(PIXELS[..., 0].astype(np.uint16) * 10, contrast_limits=(0, 2550)))
    assert (grey == np.repeat(PIXELS[..., :1], 3, axis=2)).all()
    alpha = np.concatenate([PIXELS, PIXELS[..., :1]], axis=2)
    assert (ours.picture_of(Image(alpha, rgb=True)) == PIXELS).all()
    with pytest.raises(WordmaskError, match="single picture"):
        ours.picture_of(Image(np.zeros((3, 8, 8))))
    with pytest.raises(WordmaskError, match="open one"):
        ours.segment(None, **GIVEN)


def test_the_widget_works_in_the_background():
    """Without a viewer: its canvas needs OpenGL, which a machine without a screen may lack."""
    from qtpy.QtWidgets import QApplication

    form = ours.widget()
    assert form.method.choices == tuple(list_methods())
    layer = Image(PIXELS, rgb=True, name="scene")
    worker = form(image=layer, **GIVEN)
    ended, given = [], []
    worker.returned.connect(given.append)
    worker.finished.connect(lambda: ended.append(True))
    worker.errored.connect(ended.append)

    def over() -> bool:
        QApplication.processEvents()
        return bool(ended and given) or ended not in ([], [True])

    soon(over)
    assert ended == [True]
    ((data, settings, kind),) = given
    assert (kind, settings["name"]) == ("labels", "scene: words")
    assert data.shape == PIXELS.shape[:2]


def test_napari_finds_it():
    npe2 = pytest.importorskip("npe2")
    manifest = npe2.PluginManifest.from_file(
        str(resources.files("wordmask.integrations") / "napari.yaml")
    )
    (command,) = manifest.contributions.commands
    assert pkgutil.resolve_name(command.python_name) is ours.widget
