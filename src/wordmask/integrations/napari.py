"""A widget of napari: an image layer and words become a layer of labels."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from wordmask.colours import palette
from wordmask.errors import WordmaskError
from wordmask.extras import need
from wordmask.methods import list_methods
from wordmask.refiners import list_refiners
from wordmask.towers.built_in import CLIP as BUILT_IN

if TYPE_CHECKING:
    import napari.layers

    from wordmask.objects import Labeller

HINT = "Words with ; between classes and , between synonyms: cat; sofa, couch"


def picture_of(layer: napari.layers.Image) -> np.ndarray:
    """The plane that a layer shows, as a uint8 picture (H, W, 3).

    Other types than uint8 are stretched over the layer's contrast limits, and grey becomes RGB.

    Raises:
        WordmaskError: a layer that shows no single plane.
    """
    data = np.asarray(layer.data[0] if layer.multiscale else layer.data)
    axes = 3 if layer.rgb else 2
    if data.ndim != axes:
        shape = data.shape
        raise WordmaskError(
            f"got a layer of shape {shape}; give one of a single picture, (H, W) or (H, W, 3)"
        )
    if data.dtype != np.uint8:
        low, high = layer.contrast_limits
        data = np.clip((data.astype(np.float64) - low) / max(high - low, 1e-12), 0, 1) * 255
        data = data.round().astype(np.uint8)
    return np.repeat(data[..., None], 3, axis=2) if axes == 2 else data[..., :3].copy()


@lru_cache(maxsize=1)
def _labeller(words: str, model: str, method: str, background: str, refine: str) -> Labeller:
    from wordmask.objects import Labeller

    return Labeller(words, model, method, background=background, refine=refine or None)


def segment(
    image: napari.layers.Image, words: str, background: str, method: str, refine: str, model: str
) -> tuple[np.ndarray, dict[str, Any], str]:
    """A layer of labels over the image: its data, settings and type.

    Args:
        image: the layer.
        words: `"cat; sofa, couch"`.
        background, method, refine, model: as for `wordmask.objects.Labeller`.

    Raises:
        WordmaskError: no image, words that cannot be read, a network that cannot be loaded.
    """
    if image is None:
        raise WordmaskError("there is no image; open one first")
    labeller = _labeller(words, model, method, background, refine)
    result, _ = labeller(picture_of(image))
    colours = palette(len(result.names)) / 255
    names = ["none of the words", *result.names]
    settings = {
        "name": f"{image.name}: words",
        "scale": image.scale[-2:],
        "translate": image.translate[-2:],
        "features": {"index": list(range(len(names))), "class": names},
        "colormap": {None: "transparent", 0: "transparent"}
        | {i: tuple(colours[i]) for i in range(1, len(names))},
        "metadata": {"wordmask": result.provenance},
    }
    return result.labels.astype(np.int32), settings, "labels"


def widget() -> Any:
    """Make the widget, which works in the background (Plugins > wordmask: words to labels).

    Raises:
        WordmaskError: magicgui or napari is not installed.
    """
    magicgui = need("magicgui", "napari", "napari's widget")
    threading = need("napari.qt.threading", "napari", "napari's widget")
    layers = need("napari.layers", "napari", "napari's widget")
    types = need("napari.types", "napari", "napari's widget")
    worker = threading.thread_worker(segment, start_thread=True)

    def run(image, words, background, method, refine, model):  # type: ignore[no-untyped-def]
        return worker(image, words, background, method, refine, model)

    run.__annotations__ = {
        "image": layers.Image,
        "words": str,
        "background": str,
        "method": str,
        "refine": str,
        "model": str,
        "return": threading.FunctionWorker[types.LayerDataTuple],
    }
    return magicgui.magicgui(
        run,
        call_button="Segment",
        words={"value": "cat; sofa, couch", "tooltip": HINT},
        background={"value": "auto", "tooltip": "auto, none, names:sky;wall, threshold:0.5"},
        method={"choices": list_methods(), "value": "cliper"},
        refine={"choices": ["", *list_refiners()], "value": ""},
        model={"value": BUILT_IN, "tooltip": "A CLIP: a hub id or a folder"},
    )
